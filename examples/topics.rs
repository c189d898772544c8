//! RabbitMQ's fifth tutorial: subscribers receive what matches their patterns: `*` is one word, `#`
//! any number of words.
//!
//! `cargo run --example topics` uses a broker in the same process; set `AMQP_URL` to use a real
//! one.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use puka::{Client, Consumer, Error};

const LOGS: &str = "topic_logs";

fn main() -> Result<(), Error> {
    smol::block_on(async {
        let client = common::connect().await?;
        client.exchange_declare(LOGS).exchange_type("topic").await?;
        let kernel = subscribe(&client, "kern.*").await?;
        let critical = subscribe(&client, "*.critical").await?;
        let everything = subscribe(&client, "#").await?;
        for (key, line) in [
            ("kern.info", "booted"),
            ("auth.info", "root logged in"),
            ("kern.critical", "on fire"),
        ] {
            client.basic_publish(LOGS, key, line).await?;
        }
        print("kernel", kernel, 2).await?;
        print("critical", critical, 1).await?;
        print("everything", everything, 3).await?;
        client.exchange_delete(LOGS).await?;
        client.close().await
    })
}

async fn subscribe(client: &Client, pattern: &str) -> Result<Consumer, Error> {
    let queue = client.queue_declare("").exclusive(true).await?.name;
    client.queue_bind(&queue, LOGS).routing_key(pattern).await?;
    client.basic_consume(&queue).no_ack(true).await
}

async fn print(subscriber: &str, mut lines: Consumer, count: usize) -> Result<(), Error> {
    for _ in 0..count {
        let Some(line) = lines.next().await else {
            break;
        };
        let line = line?;
        println!(
            "{subscriber}: [{}] {}",
            line.routing_key(),
            String::from_utf8_lossy(line.body())
        );
    }
    Ok(())
}
