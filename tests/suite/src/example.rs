//! Runs the examples of the documentation.

use crate::{Bare, Runtime};
use puka::evented::{Evented, Stream};
use puka::{Client, Error, Options};
use puka_test_broker::{Listener, Server};
use std::thread;

/// Runs an example of the documentation with a client that is connected to a new broker in memory,
/// and closes the connection at the end.
///
/// ```
/// puka_test_suite::example(async |client: puka::Client| {
///     client.queue_declare("orders").await?;
///     client.basic_publish("", "orders", "one").mandatory(true).await
/// });
/// ```
///
/// # Panics
/// If the example returns an error.
pub fn example(example: impl AsyncFnOnce(Client) -> Result<(), Error>) {
    let outcome = Bare::block_on(async {
        let (client, driver) = puka::open(
            Server::default().connect(),
            Bare::clock(),
            Options::default(),
        );
        Bare::spawn(async { drop(driver.await) });
        client.connect().await?;
        example(client.clone()).await?;
        client.close().await
    });
    assert!(outcome.is_ok(), "the example returned {outcome:?}");
}

/// Runs an example of the documentation with a client without a runtime, which is connected to a
/// new broker on its own port, and closes the connection at the end.
///
/// ```
/// puka_test_suite::evented_example(|conn| {
///     conn.wait(&mut conn.client().queue_declare("orders").send(), None).map(drop)
/// });
/// ```
///
/// # Panics
/// If the example returns an error.
pub fn evented_example(example: impl FnOnce(&mut Evented<Stream>) -> Result<(), Error>) {
    let outcome = (|| {
        let listener = Listener::bind("127.0.0.1:0", Server::default())?;
        let address = listener.local_addr()?;
        thread::spawn(move || listener.run());
        let mut conn = puka::evented::connect(&format!("amqp://{address}/"))?;
        let client = conn.client();
        conn.wait(&mut client.connect(), None)?;
        example(&mut conn)?;
        conn.wait(&mut client.close(), None)
    })();
    assert!(outcome.is_ok(), "the example returned {outcome:?}");
}
