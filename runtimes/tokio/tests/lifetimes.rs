//! Runtimes that end: pending requests end with their own runtime, and others are not affected.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use futures_lite::future::block_on;
use puka::{Broken, Client, Error, Notice, Options};
use puka_test_rabbitmq::Proxy;
use puka_test_suite::Listening;
use std::fmt::Debug;
use std::future::Future;
use std::rc::Rc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

fn multi_thread() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Waits for an error on a thread outside of any runtime.
fn failing<T: Debug + Send + 'static>(
    promise: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> JoinHandle<Error> {
    thread::spawn(move || block_on(promise).unwrap_err())
}

/// Makes a round trip to the broker.
async fn hello(client: &Client) -> Result<(), Error> {
    let queue = client.queue_declare("").exclusive(true).await?.name;
    client
        .basic_publish("", &queue, "hello")
        .mandatory(true)
        .await
}

#[test]
fn promises_on_other_threads_end_with_their_runtime() {
    ends_with(multi_thread(), drop);
    ends_with(current_thread(), drop);
    ends_with(multi_thread(), Runtime::shutdown_background);
    ends_with(multi_thread(), |runtime| {
        runtime.shutdown_timeout(Duration::from_secs(5))
    });
}

fn ends_with(runtime: Runtime, end: impl FnOnce(Runtime)) {
    let broker = Listening::start().unwrap();
    let (client, mut consumer) = runtime
        .block_on(async {
            let client = puka_tokio::connect(&broker.url()).await?;
            client.queue_declare("q").await?;
            let consumer = client.basic_consume("q").await?;
            Ok::<_, Error>((client, consumer))
        })
        .unwrap();
    // The broker does not reply while it is locked here.
    broker.server.with(|_| {
        let threads = [
            failing(client.queue_declare("a").send()),
            failing(client.basic_get("q").send()),
            failing(client.basic_publish("", "q", "x").send()),
            failing(async move { consumer.next().await.unwrap() }),
        ];
        end(runtime);
        for thread in threads {
            let error = thread.join().unwrap();
            assert!(
                error.is_connection_broken() && format!("{error:?}").contains("DriverDropped"),
                "{error:?}"
            );
        }
        let late = block_on(client.queue_declare("late").send()).unwrap_err();
        assert!(
            matches!(late, Error::ConnectionBroken(Broken::DriverDropped)),
            "{late:?}"
        );
    });
}

#[test]
fn dropping_the_runtime_during_recovery_ends_pending_requests() {
    for runtime in [multi_thread(), current_thread()] {
        let broker = Listening::start().unwrap();
        let proxy = Proxy::start(broker.address().port()).unwrap();
        let (client, mut consumer) = runtime
            .block_on(async {
                let client = puka_tokio::connect(&proxy.url()).await?;
                client.queue_declare("q").await?;
                let consumer = client.basic_consume("q").await?;
                let mut notices = client.notices();
                proxy.off();
                while !matches!(notices.next().await, Some(Notice::Retrying { .. })) {}
                Ok::<_, Error>((client, consumer))
            })
            .unwrap();
        let threads = [
            failing(client.queue_declare("a").send()),
            failing(client.basic_publish("", "q", "x").send()),
            failing(async move { consumer.next().await.unwrap() }),
        ];
        drop(runtime);
        for thread in threads {
            let error = thread.join().unwrap();
            assert!(
                matches!(error, Error::ConnectionBroken(Broken::DriverDropped)),
                "{error:?}"
            );
        }
    }
}

#[test]
fn runtimes_in_one_process_are_independent() {
    let broker = Listening::start().unwrap();
    let url = broker.url();
    let (first, second) = (multi_thread(), current_thread());
    let of_first = first.block_on(puka_tokio::connect(&url)).unwrap();
    let of_second = second.block_on(puka_tokio::connect(&url)).unwrap();
    let of_smol = block_on(puka_smol::connect(&url)).unwrap();
    let of_async_std = block_on(puka_async_std::connect(&url)).unwrap();
    // A client can be used anywhere, as long as its own runtime runs.
    second.block_on(hello(&of_first)).unwrap();
    drop(first);
    assert!(block_on(hello(&of_first)).is_err());
    second.block_on(hello(&of_second)).unwrap();
    for client in [of_smol, of_async_std] {
        block_on(hello(&client)).unwrap();
        second.block_on(hello(&client)).unwrap();
        block_on(client.close()).unwrap();
    }
    second.block_on(of_second.close()).unwrap();
}

#[test]
fn driver_runs_in_a_local_set() {
    let broker = Listening::start().unwrap();
    let options = Options::from_uri(&broker.url()).unwrap();
    let local = tokio::task::LocalSet::new();
    let outcome = local.block_on(&current_thread(), async {
        let (client, driver) = puka::connect(puka_tokio::Dialer, puka_tokio::Clock, options);
        let here = Rc::new(client);
        let driven = tokio::task::spawn_local(driver);
        hello(&here).await?;
        here.close().await?;
        driven.await.unwrap()
    });
    outcome.unwrap();
}

#[tokio::test(start_paused = true)]
async fn paused_clock_also_pauses_deadlines() {
    let (here, _there) = tokio::io::duplex(1 << 16);
    let limit = Duration::from_secs(3600);
    let options = Options::default().handshake_timeout(limit);
    let (client, driver) = puka::open(puka_tokio::Stream::new(here), puka_tokio::Clock, options);
    tokio::spawn(driver);
    let start = tokio::time::Instant::now();
    let error = client.connect().await.unwrap_err();
    assert!(
        matches!(error, Error::Timeout { after, .. } if after == limit),
        "{error:?}"
    );
    assert!(start.elapsed() >= limit);
}
