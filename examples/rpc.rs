//! RabbitMQ's sixth tutorial: a call and its reply, over direct reply-to.
//!
//! `cargo run --example rpc` uses a broker in the same process; set `AMQP_URL` to use a real one.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use puka::Error;

const QUEUE: &str = "rpc_queue";

fn main() -> Result<(), Error> {
    smol::block_on(async {
        let client = common::connect().await?;
        client.queue_declare(QUEUE).durable(true).await?;
        let server = smol::spawn(serve());

        // Several calls at once; each promise has the reply to its own call.
        let numbers = [10, 20, 30];
        let calls = numbers.map(|number: u64| client.rpc("", QUEUE, number.to_string()).send());
        for (number, call) in numbers.into_iter().zip(calls) {
            println!(
                "fib({number}) = {}",
                String::from_utf8_lossy(call.await?.body())
            );
        }
        // Deleting the queue ends the server.
        client.queue_delete(QUEUE).await?;
        server.await?;
        client.close().await
    })
}

async fn serve() -> Result<(), Error> {
    let client = common::connect().await?;
    client.queue_declare(QUEUE).durable(true).await?;
    let mut calls = client.basic_consume(QUEUE).prefetch_count(1).await?;
    loop {
        let call = match calls.next().await {
            Some(Ok(call)) => call,
            Some(Err(Error::ConsumerCancelled(_))) | None => return client.close().await,
            Some(Err(error)) => return Err(error),
        };
        let number = String::from_utf8_lossy(call.body()).parse().unwrap_or(0);
        let properties = call.properties();
        if let (Some(to), Some(id)) = (properties.reply_to, properties.correlation_id) {
            let reply = client.basic_publish("", to.to_string(), fibonacci(number).to_string());
            reply.correlation_id(&id.to_string()).await?;
        }
        call.ack()?;
    }
}

fn fibonacci(number: u64) -> u64 {
    (0..number).fold((0, 1), |(a, b), _| (b, a + b)).0
}
