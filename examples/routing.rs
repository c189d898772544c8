//! RabbitMQ's fourth tutorial: each subscriber receives the severities that it has bound.
//!
//! `cargo run --example routing` uses a broker in the same process; set `AMQP_URL` to use a real
//! one.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use puka::{Client, Consumer, Error};

const LOGS: &str = "direct_logs";

fn main() -> Result<(), Error> {
    smol::block_on(async {
        let client = common::connect().await?;
        client
            .exchange_declare(LOGS)
            .exchange_type("direct")
            .await?;
        let everything = subscribe(&client, &["info", "warning", "error"]).await?;
        let errors = subscribe(&client, &["error"]).await?;
        for (severity, line) in [
            ("info", "started"),
            ("warning", "low on disk"),
            ("error", "out of disk"),
        ] {
            client
                .basic_publish(LOGS, severity, line)
                .mandatory(true)
                .await?;
        }
        // No queue is bound for these, so a mandatory message is returned.
        match client
            .basic_publish(LOGS, "debug", "x = 1")
            .mandatory(true)
            .await
        {
            Err(Error::NoRoute(returned)) => {
                println!("no queue is bound for {:?}", returned.message.routing_key())
            }
            outcome => outcome?,
        }
        print("everything", everything, 3).await?;
        print("errors", errors, 1).await?;
        client.exchange_delete(LOGS).await?;
        client.close().await
    })
}

async fn subscribe(client: &Client, severities: &[&str]) -> Result<Consumer, Error> {
    let queue = client.queue_declare("").exclusive(true).await?.name;
    for severity in severities {
        client
            .queue_bind(&queue, LOGS)
            .routing_key(*severity)
            .await?;
    }
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
