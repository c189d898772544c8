//! A pipeline without a prefetch count on the in-memory broker: its driver and its publishes.

use crate::pipe::{ManualClock, Wakes};
use puka::{Client, Clock, Driver, Error, Options};
use puka_test_broker::{Config, Server, Stream};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The step of the clock when nothing else changes.
const STEP: Duration = Duration::from_millis(50);

/// The number of steps that a publish may take: less than a second.
const STEPS: usize = 20;

struct World {
    client: Client,
    driver: Driver<Stream, ManualClock>,
    clock: ManualClock,
    /// The number of steps of the clock.
    steps: usize,
}

impl World {
    fn new(options: Options) -> Self {
        let clock = ManualClock::default();
        let brokers = clock.clone();
        let server = Server::with_clock(Config::default(), move || brokers.now());
        let (client, driver) = puka::open(server.connect(), clock.clone(), options);
        Self {
            client,
            driver,
            clock,
            steps: 0,
        }
    }

    /// Runs the driver until a future is ready. Advances the clock when nothing else changes.
    fn wait<T>(&mut self, future: impl Future<Output = Result<T, Error>>) -> T {
        let mut future = pin!(future);
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let cx = &mut Context::from_waker(&waker);
        loop {
            let before = wakes.count();
            if let Poll::Ready(outcome) = future.as_mut().poll(cx) {
                return outcome.unwrap();
            }
            assert!(
                Pin::new(&mut self.driver).poll(cx).is_pending(),
                "the connection is open"
            );
            if wakes.count() == before {
                self.steps += 1;
                self.clock.pass(STEP);
            }
        }
    }
}

/// Publishes each message that it consumes, and acknowledges it after the confirm.
fn pipeline(messages: u64, options: Options) -> usize {
    let mut world = World::new(options);
    let client = world.client.clone();
    for queue in ["in", "out"] {
        world.wait(client.queue_declare(queue).into_future());
    }
    for number in 0..messages {
        let mut body = vec![0; 64 << 10];
        body[..8].copy_from_slice(&number.to_be_bytes());
        world.wait(client.basic_publish("", "in", body).into_future());
    }
    let mut consumer = world.wait(client.basic_consume("in").into_future());
    let mut slow = 0;
    for number in 0..messages {
        let delivery = world.wait(async { consumer.next().await.expect("it is live") });
        assert_eq!(
            delivery.body()[..8],
            number.to_be_bytes(),
            "the order is kept"
        );
        assert!(!delivery.redelivered());
        let before = world.steps;
        world.wait(
            client
                .basic_publish("", "out", &delivery.body()[..8])
                .into_future(),
        );
        let steps = world.steps - before;
        assert!(steps < STEPS, "publish {number} takes {steps} steps");
        slow += usize::from(steps > 1);
        delivery.ack().unwrap();
    }
    let left = world.wait(client.queue_declare("in").into_future());
    assert_eq!(left.message_count, 0);
    let published = world.wait(client.queue_declare("out").into_future());
    assert_eq!(u64::from(published.message_count), messages);
    slow
}

#[test]
fn pipeline_without_prefetch_count_does_not_stall() {
    assert_eq!(
        pipeline(2000, Options::default()),
        1,
        "it is delayed by the first pause only"
    );
}

#[test]
fn pipeline_stalls_once_however_often_reading_pauses() {
    let options = Options::default().max_buffered_bytes(4 << 20);
    assert_eq!(pipeline(600, options), 1);
}
