//! The measured work, done with the client.

use bytes::Bytes;
use futures_lite::FutureExt;
use puka::{Client, Error, Options};
use puka_benches::{Clock, Sample};
use std::collections::VecDeque;
use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::time::Duration;

/// The maximum number of unconfirmed publishes, and of unsettled deliveries.
pub(crate) const WINDOW: u64 = 1000;

/// The number of messages between two checks of the clock.
const STRIDE: u64 = 512;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// Publishes without confirms.
    Publish(usize),
    /// Publishes with confirms, and checks every outcome.
    Confirm(usize),
    Consume(usize),
    /// Acknowledges each delivery separately.
    Ack(usize),
    Request,
}

pub(crate) const WORKS: [Work; 13] = [
    Work::Publish(16),
    Work::Publish(1024),
    Work::Publish(65_536),
    Work::Confirm(16),
    Work::Confirm(1024),
    Work::Confirm(65_536),
    Work::Consume(16),
    Work::Consume(1024),
    Work::Consume(65_536),
    Work::Ack(16),
    Work::Ack(1024),
    Work::Ack(65_536),
    Work::Request,
];

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(size) => write!(f, "publish {size}"),
            Self::Confirm(size) => write!(f, "confirm {size}"),
            Self::Consume(size) => write!(f, "consume {size}"),
            Self::Ack(size) => write!(f, "ack {size}"),
            Self::Request => write!(f, "request"),
        }
    }
}

async fn publish(client: &Client, size: usize, time: Duration) -> Result<Sample, Error> {
    let body = Bytes::from(vec![b'x'; size]);
    client.queue_declare("test").await?;
    let clock = Clock::start();
    let mut messages = 0;
    while clock.is_before(time) {
        for _ in 0..STRIDE {
            client
                .basic_publish("", "test", &body)
                .confirm(false)
                .await?;
        }
        messages += STRIDE;
    }
    client.basic_publish("", "test", &body).await?;
    Ok(clock.stop(messages + 1))
}

async fn confirm(client: &Client, size: usize, time: Duration) -> Result<Sample, Error> {
    let body = Bytes::from(vec![b'x'; size]);
    client.queue_declare("test").await?;
    let clock = Clock::start();
    let mut messages = 0;
    let mut promises = VecDeque::with_capacity(WINDOW as usize);
    while clock.is_before(time) {
        for _ in 0..STRIDE {
            if promises.len() as u64 == WINDOW
                && let Some(promise) = promises.pop_front()
            {
                promise.await?;
            }
            promises.push_back(client.basic_publish("", "test", &body).submit().await?);
        }
        messages += STRIDE;
    }
    for promise in promises {
        promise.await?;
    }
    Ok(clock.stop(messages))
}

async fn consume(
    client: &Client,
    size: usize,
    acks: bool,
    time: Duration,
) -> Result<Sample, Error> {
    let prefetch_count = if acks { WINDOW as u16 } else { 0 };
    let request = client
        .basic_consume(size.to_string())
        .no_ack(!acks)
        .prefetch_count(prefetch_count);
    let mut consumer = request.await?;
    let clock = Clock::start();
    let mut messages = 0;
    while clock.is_before(time) {
        for _ in 0..STRIDE {
            let Some(delivery) = consumer.next().await else {
                return Ok(clock.stop(messages));
            };
            let delivery = delivery?;
            assert!(
                delivery.body().len() == size,
                "the delivery has a wrong size"
            );
            delivery.ack()?;
        }
        messages += STRIDE;
    }
    Ok(clock.stop(messages))
}

async fn request(client: &Client, time: Duration) -> Result<Sample, Error> {
    let clock = Clock::start();
    let mut messages = 0;
    while clock.is_before(time) {
        client.queue_declare("test").await?;
        messages += 1;
    }
    Ok(clock.stop(messages))
}

async fn work(client: Client, work: Work, time: Duration) -> Result<Sample, Error> {
    match work {
        Work::Publish(size) => publish(&client, size, time).await,
        Work::Confirm(size) => confirm(&client, size, time).await,
        Work::Consume(size) => consume(&client, size, false, time).await,
        Work::Ack(size) => consume(&client, size, true, time).await,
        Work::Request => request(&client, time).await,
    }
}

async fn with_smol(address: SocketAddr, what: Work, time: Duration) -> Result<Sample, Error> {
    let client = puka_smol::connect(&format!("amqp://{address}")).await?;
    work(client, what, time).await
}

/// Runs the driver on smol's own thread, as `puka-smol` spawns it, and the work on the calling
/// thread.
pub(crate) fn blocking_on_smol(address: SocketAddr, what: Work, time: Duration) -> Sample {
    smol::block_on(with_smol(address, what, time)).expect("the work succeeds")
}

/// Runs the driver and the work on smol's own thread.
pub(crate) fn spawned_on_smol(address: SocketAddr, what: Work, time: Duration) -> Sample {
    smol::block_on(smol::spawn(with_smol(address, what, time))).expect("the work succeeds")
}

/// Runs the driver in the task that does the work.
pub(crate) fn in_one_task(address: SocketAddr, what: Work, time: Duration) -> Sample {
    smol::block_on(async {
        let stream = smol::Async::<TcpStream>::connect(address).await?;
        stream.get_ref().set_nodelay(true)?;
        let (client, driver) = puka::open(stream, puka_smol::Clock, Options::default());
        let work = async {
            client.connect().await?;
            work(client, what, time).await
        };
        let driver = async {
            driver.await?;
            Err(Error::Closed)
        };
        work.or(driver).await
    })
    .expect("the work succeeds")
}

/// Runs without an executor: the evented client waits for the work.
pub(crate) fn with_evented(address: SocketAddr, what: Work, time: Duration) -> Sample {
    let mut conn =
        puka::evented::connect(&format!("amqp://{address}")).expect("the broker listens");
    let client = conn.client();
    let mut work = pin!(async {
        client.connect().await?;
        work(client.clone(), what, time).await
    });
    conn.wait(&mut work, None).expect("the work succeeds")
}
