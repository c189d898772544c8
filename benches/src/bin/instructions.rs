//! Does one thing a number of times, for a tool that counts instructions:
//! `instructions publish 20000`.
//!
//! The broker is in memory and everything in one task, so runs are repeatable.
//! `benches/instructions.sh` compares them.
#![expect(clippy::print_stdout, reason = "the program prints its count")]

use bytes::Bytes;
use futures_lite::future::{self, FutureExt};
use puka::{Client, Error, Options};
use puka_benches::InMemory;
use std::collections::VecDeque;

/// The maximum number of unconfirmed publishes.
const WINDOW: usize = 1000;

const SIZE: usize = 16;

async fn publish(client: &Client, count: usize) -> Result<(), Error> {
    let body = Bytes::from(vec![b'x'; SIZE]);
    for number in 0..count {
        client
            .basic_publish("", "test", &body)
            .confirm(false)
            .await?;
        if number % WINDOW == 0 {
            future::yield_now().await;
        }
    }
    Ok(())
}

async fn confirm(client: &Client, count: usize) -> Result<(), Error> {
    let body = Bytes::from(vec![b'x'; SIZE]);
    let mut promises = VecDeque::with_capacity(WINDOW);
    for _ in 0..count {
        if promises.len() == WINDOW
            && let Some(promise) = promises.pop_front()
        {
            promise.await?;
        }
        promises.push_back(client.basic_publish("", "test", &body).submit().await?);
    }
    for promise in promises {
        promise.await?;
    }
    Ok(())
}

async fn deliver(client: &Client, count: usize, acks: bool) -> Result<(), Error> {
    let prefetch_count = if acks { WINDOW as u16 } else { 0 };
    let request = client
        .basic_consume(SIZE.to_string())
        .no_ack(!acks)
        .prefetch_count(prefetch_count);
    let mut consumer = request.await?;
    for _ in 0..count {
        let Some(delivery) = consumer.next().await else {
            break;
        };
        delivery?.ack()?;
    }
    Ok(())
}

async fn work(client: Client, what: &str, count: usize) -> Result<(), Error> {
    client.connect().await?;
    match what {
        "publish" => publish(&client, count).await,
        "confirm" => confirm(&client, count).await,
        "deliver" => deliver(&client, count, false).await,
        "ack" => deliver(&client, count, true).await,
        "request" => {
            for _ in 0..count {
                client.queue_declare("test").await?;
            }
            Ok(())
        }
        _ => Err(Error::InvalidArgument {
            what: "work",
            why: what.to_owned(),
        }),
    }
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_else(|| "publish".to_owned());
    let count = arguments
        .next()
        .and_then(|count| count.parse().ok())
        .unwrap_or(20_000);
    let (client, driver) = puka::open(InMemory::default(), puka_smol::Clock, Options::default());
    let driver = async {
        driver.await?;
        Err(Error::Closed)
    };
    future::block_on(work(client, &what, count).or(driver))?;
    println!("{what}: {count}");
    Ok(())
}
