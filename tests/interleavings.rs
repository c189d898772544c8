//! The link between handles and driver, under thousands of schedules of its threads. At each use of
//! the lock and at each wake-up, shuttle chooses which thread runs next. A lost wake-up is a
//! deadlock, which it reports.
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" cargo test --target-dir target/shuttle -p puka --test interleavings
//! ```
//!
//! `SHUTTLE_SCHEDULES=n` sets the number of schedules of each test. A schedule that fails is
//! printed, to be replayed with `shuttle::replay`.

#![cfg(shuttle)]
#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use puka::{Client, Clock, Error, Options};
use puka_test_broker::Server;
use shuttle::future::block_on;
use shuttle::thread;
use std::future::{Pending, pending};
use std::time::Instant;

/// A clock that does not advance, so that no deadline hides a lost wake-up.
struct Still(Instant);

impl Clock for Still {
    type Sleep = Pending<()>;

    fn now(&self) -> Instant {
        self.0
    }

    fn sleep_until(&self, _deadline: Instant) -> Self::Sleep {
        pending()
    }
}

fn schedules() -> usize {
    std::env::var("SHUTTLE_SCHEDULES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(10_000)
}

/// Runs a scenario with a client whose driver has its own thread, which ends with the connection.
fn under_all_schedules(options: fn() -> Options, scenario: fn(Client) -> Result<(), Error>) {
    shuttle::check_random(
        move || {
            let broker = Server::new(Default::default());
            let (client, driver) = puka::open(broker.connect(), Still(Instant::now()), options());
            let driver = thread::spawn(move || block_on(driver));
            scenario(client).unwrap();
            assert!(matches!(driver.join().unwrap(), Ok(())));
            assert!(broker.with(|broker| broker.connections().is_empty()));
        },
        schedules(),
    );
}

#[test]
fn two_threads_receive_their_own_results() {
    under_all_schedules(Options::default, |client| {
        let threads: Vec<_> = ["a", "b"]
            .map(|name| {
                let client = client.clone();
                thread::spawn(move || {
                    block_on(async {
                        let queue = client.queue_declare(name).await?;
                        assert_eq!(queue.name, name);
                        client.basic_publish("", name, name).await?;
                        let got = client.basic_get(name).await?;
                        got.map_or(Ok(()), |got| {
                            assert_eq!(got.body(), name.as_bytes());
                            got.ack()
                        })
                    })
                })
            })
            .into_iter()
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap())?;
        block_on(client.close())
    });
}

#[test]
fn waiting_publishers_are_woken_in_turn() {
    under_all_schedules(
        || Options::default().max_publishes_in_flight(1),
        |client| {
            let threads: Vec<_> = (0..3)
                .map(|number| {
                    let client = client.clone();
                    thread::spawn(move || {
                        let publish = client.basic_publish("", "nobody's", "x");
                        // The first one gives up its place in the queue at once.
                        if number == 0 {
                            Ok(drop(publish.send()))
                        } else {
                            block_on(publish.into_future())
                        }
                    })
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap())?;
            block_on(client.close())
        },
    );
}

#[test]
fn consumer_receives_publishes_of_another_thread() {
    under_all_schedules(Options::default, |client| {
        block_on(client.queue_declare("q").into_future())?;
        let mut consumer = block_on(client.basic_consume("q").into_future())?;
        let publisher = client.clone();
        let publishes = thread::spawn(move || {
            block_on(async {
                publisher.basic_publish("", "q", "one").await?;
                publisher.basic_publish("", "q", "two").await
            })
        });
        let first = block_on(consumer.next()).transpose()?;
        first.map_or(Ok(()), |delivery| delivery.ack())?;
        let closing = thread::spawn(move || drop(consumer));
        publishes.join().unwrap()?;
        let closed = block_on(client.close());
        closing.join().unwrap();
        closed
    });
}
