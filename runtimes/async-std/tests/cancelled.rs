//! A cancelled driver.

use async_std::task::{block_on, spawn};
use puka::{Broken, Error, Options};
use puka_test_suite::Listening;
use std::thread;

#[test]
fn promise_on_another_thread_ends_with_its_driver() {
    let broker = Listening::start().unwrap();
    let options = Options::from_uri(&broker.url()).unwrap();
    let (client, driver) = block_on(async {
        let dialer = puka_async_std::Dialer;
        let (client, driver) = puka::connect(dialer, puka_async_std::Clock, options);
        let driver = spawn(driver);
        client.connect().await?;
        Ok::<_, Error>((client, driver))
    })
    .unwrap();
    // The broker does not reply while it is locked here.
    broker.server.with(|_| {
        let promise = client.queue_declare("a").send();
        let waiting = thread::spawn(|| block_on(promise).unwrap_err());
        assert!(block_on(driver.cancel()).is_none());
        let error = waiting.join().unwrap();
        assert!(
            matches!(error, Error::ConnectionBroken(Broken::DriverDropped)),
            "{error:?}"
        );
    });
}
