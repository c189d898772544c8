//! Declares a queue, publishes with confirmation, consumes, acknowledges, and prints each step.
//!
//! `cargo run --example quickstart` uses a broker in the same process. Set `AMQP_URL` to use a real
//! one: `AMQP_URL=amqp://localhost/ cargo run --example quickstart`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use puka::Error;

fn main() -> Result<(), Error> {
    smol::block_on(async {
        let client = common::connect().await?;
        let server = client.server_properties();
        println!("connected to {} {}", server.product(), server.version());

        let queue = client.queue_declare("").exclusive(true).await?.name;
        println!("declared the queue {queue}");

        for number in 1..=3 {
            client
                .basic_publish("", &queue, format!("order {number}"))
                .persistent(true)
                .await?;
            println!("published order {number}, and the broker has confirmed it");
        }

        let mut orders = client.basic_consume(&queue).prefetch_count(10).await?;
        for _ in 1..=3 {
            let Some(order) = orders.next().await else {
                break;
            };
            let order = order?;
            println!("received {:?}", String::from_utf8_lossy(order.body()));
            order.ack()?;
        }

        client.close().await?;
        println!("closed");
        Ok(())
    })
}
