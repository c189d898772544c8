//! RabbitMQ streams: a log that any number of consumers read, each from its own offset.
//!
//! `cargo run --example streams` needs RabbitMQ 3.9 or later at `AMQP_URL`, by default
//! `amqp://localhost/`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use puka::{Client, Error, QueueType, StreamOffset};

const STREAM: &str = "puka-example-stream";

fn main() -> Result<(), Error> {
    smol::block_on(async {
        let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost/".to_owned());
        let client = puka_smol::connect(&url).await?;
        client
            .queue_declare(STREAM)
            .durable(true)
            .queue_type(QueueType::Stream)
            .await?;
        for number in 0..10 {
            client
                .basic_publish("", STREAM, format!("event {number}"))
                .await?;
        }
        println!(
            "from the first: {:?}",
            read(&client, StreamOffset::First, 3).await?
        );
        println!(
            "from the first again: {:?}",
            read(&client, StreamOffset::First, 3).await?
        );
        println!(
            "from the eighth on: {:?}",
            read(&client, StreamOffset::Offset(7), 3).await?
        );
        client.queue_delete(STREAM).await?;
        client.close().await
    })
}

/// Reads some events. An acknowledgement removes nothing from a stream: it lets the broker send the
/// next event.
async fn read(client: &Client, from: StreamOffset, count: usize) -> Result<Vec<String>, Error> {
    let mut events = client
        .basic_consume(STREAM)
        .prefetch_count(100)
        .stream_offset(from)
        .await?;
    let mut read = Vec::new();
    while read.len() < count {
        let Some(event) = events.next().await else {
            break;
        };
        let event = event?;
        read.push(String::from_utf8_lossy(event.body()).into_owned());
        event.ack()?;
    }
    Ok(read)
}
