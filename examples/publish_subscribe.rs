//! RabbitMQ's third tutorial: every subscriber receives every message.
//!
//! `cargo run --example publish_subscribe` uses a broker in the same process; set `AMQP_URL` to use
//! a real one.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use puka::{Consumer, Error};

const LOGS: &str = "logs";

fn main() -> Result<(), Error> {
    smol::block_on(async {
        let client = common::connect().await?;
        client
            .exchange_declare(LOGS)
            .exchange_type("fanout")
            .await?;
        let (screen, file) = (subscribe(&client).await?, subscribe(&client).await?);
        for line in ["info: started", "info: stopped"] {
            client.basic_publish(LOGS, "", line).await?;
        }
        print("screen", screen).await?;
        print("file", file).await?;
        client.exchange_delete(LOGS).await?;
        client.close().await
    })
}

/// Binds a queue of its own, which is deleted with the connection.
async fn subscribe(client: &puka::Client) -> Result<Consumer, Error> {
    let queue = client.queue_declare("").exclusive(true).await?.name;
    client.queue_bind(&queue, LOGS).await?;
    client.basic_consume(&queue).no_ack(true).await
}

async fn print(subscriber: &str, mut lines: Consumer) -> Result<(), Error> {
    for _ in 0..2 {
        let Some(line) = lines.next().await else {
            break;
        };
        println!("{subscriber}: {}", String::from_utf8_lossy(line?.body()));
    }
    Ok(())
}
