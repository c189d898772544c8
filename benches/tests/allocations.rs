//! The number of allocations for each message, once all buffers have grown, as counted by dhat's
//! global allocator.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use bytes::Bytes;
use futures_lite::future::{self, FutureExt};
use puka::{Client, Error, Options};
use puka_benches::InMemory;
use std::collections::VecDeque;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// The maximum number of unconfirmed publishes.
const WINDOW: usize = 1000;

/// The number of messages before the count begins, and of those that are counted.
const MESSAGES: usize = 20_000;

/// The same for deliveries. As many as one read returns may have arrived before the count begins,
/// or arrive without being counted, so there are more of them.
const DELIVERIES: usize = 10 * MESSAGES;

fn allocations() -> u64 {
    dhat::HeapStats::get().total_blocks
}

/// Returns the allocations for each call of `step`, counted over this many calls after as many
/// before.
async fn each(
    messages: usize,
    mut step: impl AsyncFnMut() -> Result<(), Error>,
) -> Result<f64, Error> {
    for _ in 0..messages {
        step().await?;
    }
    let before = allocations();
    for _ in 0..messages {
        step().await?;
    }
    Ok((allocations() - before) as f64 / messages as f64)
}

fn with_client<T>(work: impl AsyncFnOnce(Client) -> Result<T, Error>) -> T {
    let (client, driver) = puka::open(InMemory::default(), puka_smol::Clock, Options::default());
    let driver = async {
        driver.await?;
        Err(Error::Closed)
    };
    let work = async {
        client.connect().await?;
        work(client.clone()).await
    };
    future::block_on(work.or(driver)).unwrap()
}

/// Returns the bytes on the heap of an open, idle connection, including the broker's end.
fn idle() -> usize {
    let before = dhat::HeapStats::get().curr_bytes;
    let (client, mut driver) =
        puka::open(InMemory::default(), puka_smol::Clock, Options::default());
    let mut connect = client.connect();
    assert!(future::block_on(future::poll_once(&mut driver)).is_none());
    future::block_on(&mut connect).unwrap();
    assert!(future::block_on(future::poll_once(&mut driver)).is_none());
    dhat::HeapStats::get().curr_bytes - before
}

/// The remaining allocations of a publish are those of each write, and the broker's. The count is
/// for the whole process, so there is one test.
#[test]
fn publishes_do_not_allocate_and_deliveries_allocate_once() {
    let _profiler = dhat::Profiler::builder().testing().build();
    idle();
    let idle = idle();
    println!("idle: {idle}");
    assert!(idle <= 16 << 10, "an idle connection takes {idle} bytes");

    let body = Bytes::from(vec![b'x'; 100]);

    for confirms in [true, false] {
        let publish = with_client(async |client: Client| {
            let mut count = 0;
            each(MESSAGES, async || {
                let publish = client
                    .basic_publish("", "test", &body)
                    .persistent(true)
                    .confirm(confirms);
                drop(publish.submit().await?);
                count += 1;
                if count % WINDOW == 0 {
                    future::yield_now().await;
                }
                Ok(())
            })
            .await
        });
        println!("publish: {publish}");
        assert!(
            publish < 0.02,
            "a publish allocates {publish} times, confirms: {confirms}"
        );
    }

    let confirm = with_client(async |client: Client| {
        let mut promises = VecDeque::with_capacity(WINDOW + 1);
        each(MESSAGES, async || {
            promises.push_back(client.basic_publish("", "test", &body).submit().await?);
            match promises.pop_front() {
                Some(promise) if promises.len() == WINDOW => promise.await,
                oldest => {
                    promises.extend(oldest);
                    promises.rotate_right(1);
                    Ok(())
                }
            }
        })
        .await
    });
    println!("confirm: {confirm}");
    assert!(
        confirm < 0.02,
        "a publish with an awaited confirm allocates {confirm} times"
    );

    for no_ack in [true, false] {
        let deliver = with_client(async |client: Client| {
            let mut consumer = client
                .basic_consume("100")
                .prefetch_count(1000)
                .no_ack(no_ack)
                .await?;
            each(DELIVERIES, async || {
                if let Some(delivery) = consumer.next().await {
                    delivery?.ack()?;
                }
                Ok(())
            })
            .await
        });
        println!("deliver: {deliver}");
        assert!(
            deliver < 1.01,
            "a delivery allocates {deliver} times, no_ack: {no_ack}"
        );
    }
}
