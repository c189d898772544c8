//! Publishes a message with confirmation, and fetches it:
//! `cargo run -p puka-smol --example hello_smol`.
//!
//! The same program exists for three runtimes: only the first line of `main` and the name of the
//! adapter differ. It connects to the broker at `AMQP_URL`, by default `amqp://localhost/`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

fn main() -> Result<(), puka::Error> {
    smol::block_on(hello())
}

async fn hello() -> Result<(), puka::Error> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost/".to_owned());
    let client = puka_smol::connect(&url).await?;

    let queue = client.queue_declare("").exclusive(true).await?.name;
    client.basic_publish("", &queue, "Hello world!").await?;
    println!("published, and the broker has confirmed it");

    let mut messages = client.basic_consume(&queue).prefetch_count(1).await?;
    if let Some(message) = messages.next().await {
        let message = message?;
        println!("received {:?}", String::from_utf8_lossy(message.body()));
        message.ack()?;
    }
    client.close().await
}
