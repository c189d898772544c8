//! The driver on executors of the application, and without one.

use puka::{Broken, Client, Error, Notice, Options};
use puka_test_rabbitmq::Proxy;
use puka_test_suite::Listening;
use smol::{Executor, LocalExecutor};
use std::rc::Rc;
use std::thread;

async fn hello(client: &Client) -> Result<(), Error> {
    let queue = client.queue_declare("").exclusive(true).await?.name;
    client
        .basic_publish("", &queue, "hello")
        .mandatory(true)
        .await
}

#[test]
fn driver_runs_on_a_local_executor() {
    let broker = Listening::start().unwrap();
    let options = Options::from_uri(&broker.url()).unwrap();
    let executor = LocalExecutor::new();
    let outcome = smol::block_on(executor.run(async {
        let (client, driver) = puka::connect(puka_smol::Dialer, puka_smol::Clock, options);
        let here = Rc::new(client);
        let driven = executor.spawn(driver);
        let theirs = here.clone();
        let task = executor.spawn(async move { hello(&theirs).await });
        hello(&here).await?;
        task.await?;
        here.close().await?;
        driven.await
    }));
    outcome.unwrap();
}

#[test]
fn promise_on_another_thread_ends_with_its_executor() {
    let broker = Listening::start().unwrap();
    let options = Options::from_uri(&broker.url()).unwrap();
    let executor = Executor::new();
    let client = smol::block_on(executor.run(async {
        let (client, driver) = puka::connect(puka_smol::Dialer, puka_smol::Clock, options);
        executor.spawn(driver).detach();
        client.connect().await?;
        Ok::<_, Error>(client)
    }))
    .unwrap();
    // The broker does not reply while it is locked here.
    broker.server.with(|_| {
        let promise = client.queue_declare("a").send();
        let waiting = thread::spawn(|| smol::block_on(promise).unwrap_err());
        drop(executor);
        let error = waiting.join().unwrap();
        assert!(
            matches!(error, Error::ConnectionBroken(Broken::DriverDropped)),
            "{error:?}"
        );
    });
    let late = smol::block_on(hello(&client)).unwrap_err();
    assert!(
        matches!(late, Error::ConnectionBroken(Broken::DriverDropped)),
        "{late:?}"
    );
}

#[test]
fn dropping_the_executor_during_recovery_ends_pending_requests() {
    let broker = Listening::start().unwrap();
    let proxy = Proxy::start(broker.address().port()).unwrap();
    let options = Options::from_uri(&proxy.url()).unwrap();
    let executor = Executor::new();
    let client = smol::block_on(executor.run(async {
        let (client, driver) = puka::connect(puka_smol::Dialer, puka_smol::Clock, options);
        executor.spawn(driver).detach();
        client.connect().await?;
        let mut notices = client.notices();
        proxy.off();
        while !matches!(notices.next().await, Some(Notice::Retrying { .. })) {}
        Ok::<_, Error>(client)
    }))
    .unwrap();
    let promise = client.queue_declare("a").send();
    let waiting = thread::spawn(|| smol::block_on(promise).unwrap_err());
    drop(executor);
    let error = waiting.join().unwrap();
    assert!(
        matches!(error, Error::ConnectionBroken(Broken::DriverDropped)),
        "{error:?}"
    );
}
