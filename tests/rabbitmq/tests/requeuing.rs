//! Quorum queues count deliveries, and drop a message at the delivery limit (20 by default since
//! 4.0). Messages that the program never receives must not approach that limit, however consumers
//! end.

use futures_lite::FutureExt;
use puka::protocol::Value;
use puka::{Client, Consumer, Delivery, Error, Notice, Notices, Options, QueueType, Resubscribe};
use puka_test_rabbitmq::{Node, major_and_minor, shared_url, unique};
use puka_test_soak::{Failure, Outcome, within};
use smol::Timer;
use std::collections::BTreeSet;
use std::time::Duration;

/// A timeout far longer than any test takes.
const DEADLINE: Duration = Duration::from_secs(60);

async fn connect(url: &str) -> Result<Client, Failure> {
    Ok(puka_smol::connect_with(Options::from_uri(url)?).await?)
}

/// Returns the major and minor version of the broker.
fn version(client: &Client) -> Result<(u32, u32), Failure> {
    let properties = client.server_properties();
    let version = properties.version();
    major_and_minor(&version).ok_or_else(|| format!("the version is {version:?}").into())
}

/// Publishes the numbers from 0, with confirms.
async fn fill(client: &Client, queue: &str, count: u32) -> Outcome {
    let publish = |n: u32| {
        client
            .basic_publish("", queue, n.to_string())
            .persistent(true)
            .mandatory(true)
    };
    let mut confirms = Vec::new();
    for n in 0..count {
        confirms.push(publish(n).submit().await?);
    }
    for confirm in confirms {
        confirm.await?;
    }
    Ok(())
}

async fn next(consumer: &mut Consumer) -> Result<Delivery, Failure> {
    let next = within(DEADLINE, "the next delivery", consumer.next()).await?;
    Ok(next.ok_or("the consumer has ended")??)
}

fn number(delivery: &Delivery) -> Result<u32, Failure> {
    Ok(std::str::from_utf8(delivery.body())?.parse()?)
}

/// Returns how many of the deliveries of a message the broker counts as failed.
fn failures(delivery: &Delivery) -> Result<i64, Failure> {
    Ok(delivery
        .headers()?
        .get("x-delivery-count")
        .and_then(Value::as_i64)
        .unwrap_or(0))
}

async fn end(mut consumer: Consumer, is_dropped: bool) -> Outcome {
    if is_dropped {
        drop(consumer);
    } else {
        drop(consumer.cancel().await?);
    }
    Ok(())
}

/// Waits until a queue has this many messages and no consumer. The broker's replies set the pace.
async fn rests(client: &Client, queue: &str, messages: u32) -> Outcome {
    let mut last = None;
    let requeueing = async {
        while last != Some((messages, 0)) {
            let declared = client.queue_declare(queue).passive(true).await?;
            last = Some((declared.message_count, declared.consumer_count));
        }
        Ok(())
    };
    let outcome = within(DEADLINE, "requeueing", requeueing).await;
    outcome.map_err(|error| format!("{error}: {last:?}, expected {messages}"))?
}

/// Waits until the broker has ended a consumer because of an old delivery: since 4.3 with a cancel,
/// earlier by closing the channel.
async fn times_out(notices: &mut Notices, is_cancelled: bool, tag: &str) -> Outcome {
    loop {
        match notices.next().await.ok_or("the connection has ended")? {
            Notice::ConsumerCancelled(ended) if is_cancelled && *ended == *tag => return Ok(()),
            Notice::ChannelClosed(Error::PreconditionFailed(_)) if !is_cancelled => return Ok(()),
            _ => {}
        }
    }
}

/// Publishes the number 0 once a second.
///
/// RabbitMQ 4.3.6 sets a timer for the oldest delivery of a quorum queue. If that delivery is
/// settled when the timer fires, a timer for the next one is due, but it is not set if all this
/// happens within the same millisecond. Old deliveries then remain until the next request to the
/// queue: three runs of nine waited for ever.
async fn keep_busy(client: &Client, queue: &str) -> Outcome {
    loop {
        Timer::after(Duration::from_secs(1)).await;
        fill(client, queue, 1).await?;
    }
}

#[test]
fn handler_slower_than_the_timeout_loses_nothing() -> Outcome {
    const MESSAGES: u32 = 2000;
    const ROUNDS: i64 = 3;
    let node = Node::start_with_short_consumer_timeout()?;
    smol::block_on(async {
        let client = connect(&node.url()).await?;
        let is_cancelled = version(&client)? >= (4, 3);
        let mut notices = client.notices();
        client
            .queue_declare("orders")
            .durable(true)
            .queue_type(QueueType::Quorum)
            .await?;
        fill(&client, "orders", MESSAGES).await?;
        let mut received = BTreeSet::new();
        for _ in 0..ROUNDS {
            let consume = client.basic_consume("orders").prefetch_count(20);
            let mut orders = consume.resubscribe(Resubscribe::never()).await?;
            let tag = orders.tag().to_owned();
            let mut in_round = 0;
            while let Some(Ok(delivery)) = orders.next().await {
                in_round += 1;
                if in_round == 10 {
                    let timeout = times_out(&mut notices, is_cancelled, &tag);
                    let timeout = timeout.or(keep_busy(&client, "orders"));
                    within(DEADLINE, "a timeout", timeout).await??;
                }
                received.insert(number(&delivery)?);
                // The broker may have requeued it already. Then it delivers it again.
                drop(delivery.ack());
            }
            assert!(
                (10..=29).contains(&in_round),
                "{in_round} received, {:?}",
                orders.ended()
            );
        }
        let mut orders = client.basic_consume("orders").prefetch_count(20).await?;
        while received.len() < MESSAGES as usize {
            let delivery = next(&mut orders).await;
            let so_far =
                |error: Failure| format!("{error}, after {} of {MESSAGES}", received.len());
            let delivery = delivery.map_err(so_far)?;
            assert!(failures(&delivery)? <= ROUNDS, "{delivery:?}");
            received.insert(number(&delivery)?);
            delivery.ack()?;
        }
        Ok(client.close().await?)
    })
}

#[test]
fn dropped_consumers_deliver_every_message() -> Outcome {
    /// At most the default limit of 20, since each return counts before 4.3.
    const MESSAGES: u32 = 20;
    smol::block_on(async {
        let client = connect(&shared_url()?).await?;
        let counts_returns = version(&client)? < (4, 3);
        for is_dropped in [true, false] {
            let queue = unique("requeued");
            client
                .queue_declare(&queue)
                .durable(true)
                .queue_type(QueueType::Quorum)
                .await?;
            fill(&client, &queue, MESSAGES).await?;
            let mut received = BTreeSet::new();
            for round in 0..MESSAGES {
                let mut consumer = client.basic_consume(&queue).prefetch_count(50).await?;
                let delivery = next(&mut consumer).await?;
                let most = if counts_returns { round } else { 0 };
                assert!(
                    failures(&delivery)? <= most.into(),
                    "round {round}: {delivery:?}"
                );
                received.insert(number(&delivery)?);
                delivery.ack()?;
                end(consumer, is_dropped).await?;
                rests(&client, &queue, MESSAGES - 1 - round).await?;
            }
            assert_eq!(received.len(), MESSAGES as usize);
            client.queue_delete(&queue).await?;
        }
        Ok(client.close().await?)
    })
}

#[test]
fn delivery_limit_of_one_survives_a_drop() -> Outcome {
    const MESSAGES: u32 = 1000;
    smol::block_on(async {
        let client = connect(&shared_url()?).await?;
        // Before 4.3, the second requeue exceeds the limit, also for messages that the program
        // never received.
        let rounds = if version(&client)? < (4, 3) { 1 } else { 10 };
        let queue = unique("limited");
        let declare = client
            .queue_declare(&queue)
            .durable(true)
            .queue_type(QueueType::Quorum);
        declare.delivery_limit(1).await?;
        fill(&client, &queue, MESSAGES).await?;
        for round in 1..=rounds {
            let mut consumer = client.basic_consume(&queue).prefetch_count(20).await?;
            next(&mut consumer).await?.ack()?;
            end(consumer, round % 2 == 1).await?;
            rests(&client, &queue, MESSAGES - round).await?;
        }
        client.queue_delete(&queue).await?;
        Ok(client.close().await?)
    })
}
