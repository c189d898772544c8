//! RabbitMQ's first tutorial: sends a message and receives it.
//!
//! `cargo run --example hello` uses a broker in the same process; set `AMQP_URL` to use a real one.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use puka::Error;

fn main() -> Result<(), Error> {
    smol::block_on(async {
        send().await?;
        receive().await
    })
}

async fn send() -> Result<(), Error> {
    let client = common::connect().await?;
    client.queue_declare("hello").durable(true).await?;
    client.basic_publish("", "hello", "Hello World!").await?;
    println!("sent \"Hello World!\"");
    client.close().await
}

async fn receive() -> Result<(), Error> {
    let client = common::connect().await?;
    client.queue_declare("hello").durable(true).await?;
    let mut messages = client.basic_consume("hello").await?;
    if let Some(message) = messages.next().await {
        let message = message?;
        println!("received {:?}", String::from_utf8_lossy(message.body()));
        message.ack()?;
    }
    client.queue_delete("hello").await?;
    client.close().await
}
