//! Real threads that share a client: producers, consumers and requests, while other connections are
//! opened and closed.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

#[cfg(unix)]
#[path = "stress/owners.rs"]
mod owners;

use futures_lite::FutureExt;
use puka::{Client, Error, Options, Promise, Queue};
use puka_test_broker::Server;
use std::collections::BTreeSet;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

const THREADS: usize = 8;
const MESSAGES: usize = 500;

/// A timeout that is enough on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn open(broker: &Server, options: Options) -> Client {
    let (client, driver) = puka::open(broker.connect(), puka_smol::Clock, options);
    smol::spawn(driver).detach();
    client
}

/// Runs a scenario, and fails if it hangs.
fn in_time(scenario: impl FnOnce() + Send + 'static) {
    let (done, waits) = mpsc::channel::<()>();
    let run = thread::spawn(move || {
        scenario();
        drop(done);
    });
    assert_eq!(
        waits.recv_timeout(PATIENCE),
        Err(mpsc::RecvTimeoutError::Disconnected),
        "it hangs"
    );
    run.join().unwrap();
}

/// Publishes the messages of a thread, and checks that each publish has its own outcome.
async fn produce(client: Client, producer: usize) -> Result<(), Error> {
    for number in 0..MESSAGES {
        let published = client.basic_publish("", "work", format!("{producer} {number}"));
        if number % 16 == 0 {
            let returned = client
                .basic_publish("", "nobody's", "x")
                .mandatory(true)
                .await;
            assert!(matches!(returned, Err(Error::NoRoute(_))), "{returned:?}");
        }
        // Some promises are dropped.
        if number % 3 == 0 {
            drop(published.submit().await?)
        } else {
            published.await?
        }
    }
    Ok(())
}

/// Consumes until all consumers together have received every message. Returns the messages that it
/// has received.
async fn consume(client: Client, seen: Arc<AtomicUsize>) -> Result<Vec<String>, Error> {
    let mut bodies = Vec::new();
    let mut consumer = client.basic_consume("work").prefetch_count(10).await?;
    while seen.load(Ordering::SeqCst) < THREADS * MESSAGES {
        let next = async { Some(consumer.next().await) };
        let pause = async {
            smol::Timer::after(Duration::from_millis(20)).await;
            None
        };
        let Some(delivery) = smol::future::or(next, pause).await else {
            continue;
        };
        let Some(delivery) = delivery.transpose()? else {
            break;
        };
        bodies.push(String::from_utf8_lossy(delivery.body()).into_owned());
        delivery.ack()?;
        seen.fetch_add(1, Ordering::SeqCst);
    }
    consumer.cancel().await?;
    Ok(bodies)
}

#[test]
fn producers_and_consumers_sharing_a_client_lose_nothing() {
    in_time(|| {
        let broker = Server::new(Default::default());
        let client = open(&broker, Options::default().max_publishes_in_flight(64));
        smol::block_on(client.queue_declare("work").into_future()).unwrap();
        let seen = Arc::new(AtomicUsize::new(0));
        let producers: Vec<_> = (0..THREADS)
            .map(|number| {
                let client = client.clone();
                thread::spawn(move || smol::block_on(produce(client, number)))
            })
            .collect();
        let consumers: Vec<_> = (0..THREADS)
            .map(|_| {
                let (client, seen) = (client.clone(), seen.clone());
                thread::spawn(move || smol::block_on(consume(client, seen)))
            })
            .collect();
        // Meanwhile other connections are opened and closed, some of them during a request.
        for round in 0..50 {
            let other = open(&broker, Options::default());
            let declared = other.queue_declare("beside").send();
            if round % 2 == 0 {
                smol::block_on(declared).unwrap();
                smol::block_on(other.close()).unwrap();
            }
        }
        producers
            .into_iter()
            .for_each(|producer| producer.join().unwrap().unwrap());
        let all: Vec<String> = consumers
            .into_iter()
            .flat_map(|consumer| consumer.join().unwrap().unwrap())
            .collect();
        let distinct: BTreeSet<&String> = all.iter().collect();
        assert_eq!(
            (all.len(), distinct.len()),
            (THREADS * MESSAGES, THREADS * MESSAGES)
        );
        smol::block_on(client.close()).unwrap();
        let queue = broker.with(|broker| broker.queue("/", "work")).unwrap();
        assert_eq!(
            (queue.ready.len(), queue.unacked, queue.consumers),
            (0, 0, 0)
        );
    });
}

#[test]
fn s44_closes_of_a_hundred_threads_all_complete() {
    in_time(|| {
        let broker = Server::new(Default::default());
        let client = open(&broker, Options::default());
        smol::block_on(client.queue_declare("q").into_future()).unwrap();
        let threads: Vec<_> = (0..100)
            .map(|number| {
                let client = client.clone();
                thread::spawn(move || {
                    let published = client.basic_publish("", "q", "x").send();
                    // Some threads drop everything instead.
                    if number % 10 == 0 {
                        drop(published);
                        Ok(())
                    } else {
                        smol::block_on(client.close())
                    }
                })
            })
            .collect();
        for thread in threads {
            let closed = thread.join().unwrap();
            assert!(matches!(closed, Ok(()) | Err(Error::Closed)), "{closed:?}");
        }
        while !broker.with(|broker| broker.connections().is_empty()) {
            thread::yield_now();
        }
    });
}

#[test]
fn s37_lost_transport_ends_publishers_waiting_for_capacity() {
    in_time(|| {
        let broker = Server::new(Default::default());
        let client = open(
            &broker,
            Options::default()
                .max_publishes_in_flight(2)
                .max_outgoing_bytes(10_000),
        );
        smol::block_on(client.connect()).unwrap();
        broker.with(|broker| broker.block("low on memory"));
        let waiting: Vec<_> = (0..THREADS)
            .map(|number| {
                let client = client.clone();
                let publish = async move {
                    client
                        .basic_publish("", "q", vec![7; 5_000])
                        .confirm(number % 2 == 0)
                        .await
                };
                thread::spawn(move || smol::block_on(publish))
            })
            .collect();
        let (server, now) = (broker.clone(), broker.now());
        while waiting.iter().any(|waiting| !waiting.is_finished()) {
            server.with(|broker| {
                let ids = broker.connections();
                ids.into_iter()
                    .for_each(|id| broker.drop_connection(now, id));
            });
            thread::yield_now();
        }
        for (number, waiting) in waiting.into_iter().enumerate() {
            // A publish without confirms that was written before `connection.blocked` arrived is
            // complete.
            let outcome = waiting.join().unwrap();
            assert!(number % 2 == 1 || outcome.is_err(), "{number}");
            assert!(
                number % 2 == 0 || !matches!(outcome, Err(Error::Unconfirmed(_))),
                "{number}"
            );
        }
    });
}

/// A waker that wakes nothing and owns a promise, like the waker of a dropped task.
struct Holds {
    _promise: Promise<Queue>,
}

impl Wake for Holds {
    fn wake(self: Arc<Self>) {}
}

/// Polls a future twice, each time with another waker that owns a promise, so that the second waker
/// replaces the first.
#[track_caller]
fn ask_twice<F: Future + Unpin>(client: &Client, asked: &mut F) {
    for _ in 0..2 {
        let waker = Waker::from(Arc::new(Holds {
            _promise: client.queue_declare("held").send(),
        }));
        let polled = Pin::new(&mut *asked).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
}

#[test]
fn waker_that_owns_handles_drops_without_the_lock() {
    in_time(|| {
        let broker = Server::new(Default::default());
        let options = Options::default().max_publishes_in_flight(1);
        let (client, mut driver) = puka::open(broker.connect(), puka_smol::Clock, options);
        let mut promise = client.queue_declare("q").send();
        ask_twice(&client, &mut promise);
        drop(promise);
        let mut notices = client.notices();
        ask_twice(&client, &mut pin!(notices.next()));
        drop(notices);
        drop(client.basic_publish("", "q", "in flight").send());
        let mut submit = Box::pin(client.basic_publish("", "q", "waits for room").submit());
        ask_twice(&client, &mut submit);
        drop(submit);
        smol::block_on(
            client
                .connect()
                .or(async { Err((&mut driver).await.unwrap_err()) }),
        )
        .unwrap();
        let begin = async {
            client.queue_declare("empty").await?;
            client.basic_consume("empty").await
        };
        let mut consumer =
            smol::block_on(begin.or(async { Err((&mut driver).await.unwrap_err()) })).unwrap();
        ask_twice(&client, &mut pin!(consumer.next()));
        drop(consumer);
        for _ in 0..2 {
            let waker = Waker::from(Arc::new(Holds {
                _promise: client.queue_declare("held").send(),
            }));
            let _ = Pin::new(&mut driver).poll(&mut Context::from_waker(&waker));
        }
    });
}

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    in_time(|| {
        let broker = Server::new(Default::default());
        for _ in 0..10_000 {
            let client = open(&broker, Options::default());
            smol::block_on(async {
                client.connect().await?;
                client.close().await
            })
            .unwrap();
        }
        // The last drivers may still be running.
        while !broker.with(|broker| broker.connections().is_empty()) {
            thread::yield_now();
        }
    });
}
