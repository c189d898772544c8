//! RabbitMQ's seventh tutorial: three ways to know that the broker has every message.
//!
//! `cargo run --example publisher_confirms` uses a broker in the same process; set `AMQP_URL` to
//! use a real one.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use puka::Error;
use std::time::Instant;

const MESSAGES: usize = 10_000;

fn main() -> Result<(), Error> {
    smol::block_on(async {
        let client = common::connect().await?;
        let queue = client.queue_declare("").exclusive(true).await?.name;

        // One at a time: simple, but each publish takes a round trip to the broker.
        let start = Instant::now();
        for number in 0..MESSAGES / 10 {
            client.basic_publish("", &queue, number.to_string()).await?;
        }
        println!("{} one by one in {:?}", MESSAGES / 10, start.elapsed());

        // In batches: wait for all of a batch, then send the next.
        let start = Instant::now();
        for _ in 0..MESSAGES / 100 {
            let batch: Vec<_> = (0..100)
                .map(|number| client.basic_publish("", &queue, number.to_string()).send())
                .collect();
            for confirm in batch {
                confirm.await?;
            }
        }
        println!("{MESSAGES} in batches of 100 in {:?}", start.elapsed());

        // As fast as capacity allows: `submit` waits for capacity, not for the confirm. Each
        // promise has the result of its own message.
        let start = Instant::now();
        let mut confirms = Vec::new();
        for number in 0..MESSAGES {
            confirms.push(
                client
                    .basic_publish("", &queue, number.to_string())
                    .submit()
                    .await?,
            );
        }
        for (number, confirm) in confirms.into_iter().enumerate() {
            if let Err(error) = confirm.await {
                println!("message {number}: {error}");
            }
        }
        println!(
            "{MESSAGES} as fast as capacity allows in {:?}",
            start.elapsed()
        );

        println!(
            "{} messages are in the queue",
            client.queue_purge(&queue).await?
        );
        client.close().await
    })
}
