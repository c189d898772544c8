//! RabbitMQ's second tutorial: workers share tasks, and each takes one at a time.
//!
//! `cargo run --example work_queues` uses a broker in the same process; set `AMQP_URL` to use a
//! real one.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use puka::Error;
use smol::channel::Sender;
use std::time::Duration;

const QUEUE: &str = "task_queue";
const TASKS: [&str; 5] = ["first.", "second..", "third...", "fourth.", "fifth.."];

fn main() -> Result<(), Error> {
    smol::block_on(async {
        let client = common::connect().await?;
        client.queue_declare(QUEUE).durable(true).await?;
        let (done, tasks_done) = smol::channel::unbounded();
        let workers = [1, 2].map(|number| smol::spawn(work(number, done.clone())));
        for task in TASKS {
            client
                .basic_publish("", QUEUE, task)
                .persistent(true)
                .await?;
            println!("sent {task:?}");
        }
        for _ in TASKS {
            tasks_done.recv().await.ok();
        }
        // Deleting the queue ends its consumers.
        client.queue_delete(QUEUE).await?;
        for worker in workers {
            worker.await?;
        }
        client.close().await
    })
}

/// Takes tasks until the queue is deleted. Each dot is a tenth of a second of work.
async fn work(number: u32, done: Sender<()>) -> Result<(), Error> {
    let client = common::connect().await?;
    client.queue_declare(QUEUE).durable(true).await?;
    // With a prefetch of one, an idle worker receives the next task.
    let mut tasks = client.basic_consume(QUEUE).prefetch_count(1).await?;
    loop {
        match tasks.next().await {
            Some(Ok(task)) => {
                let dots = task.body().iter().filter(|byte| **byte == b'.').count();
                smol::Timer::after(Duration::from_millis(100) * dots.try_into().unwrap_or(1)).await;
                println!(
                    "worker {number} has done {:?}",
                    String::from_utf8_lossy(task.body())
                );
                task.ack()?;
                done.send(()).await.ok();
            }
            Some(Err(Error::ConsumerCancelled(_))) | None => return client.close().await,
            Some(Err(error)) => return Err(error),
        }
    }
}
