//! Consumers that the broker ends, and messages that always fail, on a real node.

use puka::{Client, Consumer, Delivery, Ended, Error, Notice, Notices, Options, QueueType};
use puka::{OnDrop, Resubscribe};
use puka_test_rabbitmq::{Node, shared_url, unique};
use puka_test_soak::{Failure, Outcome, within};
use smol::Timer;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A timeout far longer than any test takes.
const DEADLINE: Duration = Duration::from_secs(60);

async fn connect(url: &str) -> Result<Client, Failure> {
    Ok(puka_smol::connect_with(Options::from_uri(url)?).await?)
}

async fn next(consumer: &mut Consumer) -> Result<Delivery, Failure> {
    let next = within(DEADLINE, "the next delivery", consumer.next()).await?;
    Ok(next.ok_or("the consumer has ended")??)
}

/// Waits for a notice.
async fn notice(notices: &mut Notices, is_it: impl Fn(&Notice) -> bool) -> Outcome {
    let wait = async {
        loop {
            let next = notices.next().await.ok_or("the connection has ended")?;
            if is_it(&next) {
                return Ok::<(), Failure>(());
            }
        }
    };
    within(DEADLINE, "a notice", wait).await?
}

fn is_restored(notice: &Notice) -> bool {
    matches!(notice, Notice::ConsumerRestored(_))
}

async fn fill(client: &Client, queue: &str, count: u32) -> Outcome {
    for n in 0..count {
        client
            .basic_publish("", queue, n.to_string())
            .persistent(true)
            .mandatory(true)
            .await?;
    }
    Ok(())
}

#[test]
fn consumer_survives_the_acknowledgement_timeout() -> Outcome {
    const MESSAGES: usize = 50;
    let node = Node::start_with_short_consumer_timeout()?;
    smol::block_on(async {
        let client = connect(&node.url()).await?;
        let mut notices = client.notices();
        client
            .queue_declare("orders")
            .durable(true)
            .queue_type(QueueType::Quorum)
            .await?;
        fill(&client, "orders", MESSAGES as u32).await?;
        let mut orders = client.basic_consume("orders").prefetch_count(5).await?;
        let slow = next(&mut orders).await?;
        notice(&mut notices, |it| {
            matches!(it, Notice::ConsumerInterrupted { .. })
        })
        .await?;
        notice(&mut notices, is_restored).await?;
        // It is stale, unless the broker has cancelled the consumer and left its channel open.
        drop(slow.ack());
        let mut received = BTreeSet::new();
        while received.len() < MESSAGES - 1 {
            let order = next(&mut orders).await?;
            received.insert(order.body().to_vec());
            drop(order.ack());
        }
        assert!(orders.ended().is_none());
        assert!(client.counters().restarted_consumers >= 1);
        Ok(client.close().await?)
    })
}

#[test]
fn deleted_queue_ends_its_consumer() -> Outcome {
    smol::block_on(async {
        let client = connect(&shared_url()?).await?;
        let queue = unique("deleted");
        client.queue_declare(&queue).await?;
        let mut consumer = client.basic_consume(&queue).await?;
        client.queue_delete(&queue).await?;
        let end = within(DEADLINE, "the end", consumer.next()).await?;
        assert!(
            matches!(&end, Some(Err(Error::ConsumerCancelled(_)))),
            "{end:?}"
        );
        assert!(matches!(consumer.ended(), Some(Ended::CancelledByServer)));
        Ok(client.close().await?)
    })
}

#[test]
fn consumer_waits_for_its_queue_to_be_declared() -> Outcome {
    smol::block_on(async {
        let url = shared_url()?;
        let (client, other) = (connect(&url).await?, connect(&url).await?);
        let mut notices = client.notices();
        let queue = unique("redeclared");
        other.queue_declare(&queue).await?;
        let policy = Resubscribe::for_time(DEADLINE).wait_for_queue(true);
        let mut consumer = client.basic_consume(&queue).resubscribe(policy).await?;
        other.queue_delete(&queue).await?;
        Timer::after(Duration::from_secs(1)).await;
        other.queue_declare(&queue).await?;
        fill(&other, &queue, 1).await?;
        notice(&mut notices, is_restored).await?;
        next(&mut consumer).await?.ack()?;
        other.queue_delete(&queue).await?;
        client.close().await?;
        Ok(other.close().await?)
    })
}

#[test]
fn failing_message_is_redelivered_rarely() -> Outcome {
    smol::block_on(async {
        let client = connect(&shared_url()?).await?;
        let queue = unique("failing");
        let declare = client
            .queue_declare(&queue)
            .durable(true)
            .queue_type(QueueType::Quorum);
        declare.delivery_limit(20).await?;
        fill(&client, &queue, 1).await?;
        let mut consumer = client.basic_consume(&queue).prefetch_count(10).await?;
        let end = Instant::now() + Duration::from_secs(3);
        let mut deliveries = 0;
        while Instant::now() < end {
            drop(next(&mut consumer).await?);
            deliveries += 1;
        }
        // The delays are 0, 100, 200, 400, 800, 1600 and 3200 ms.
        assert!((4..=7).contains(&deliveries), "{deliveries}");
        next(&mut consumer).await?.ack()?;
        client.queue_delete(&queue).await?;
        Ok(client.close().await?)
    })
}

#[test]
fn dropped_delivery_is_dead_lettered_or_kept() -> Outcome {
    smol::block_on(async {
        let client = connect(&shared_url()?).await?;
        let (queue, dead) = (unique("dropped"), unique("dead"));
        client.queue_declare(&dead).await?;
        let declare = client.queue_declare(&queue);
        declare.dead_letter("", &*dead).await?;
        fill(&client, &queue, 1).await?;
        let mut discarding = client
            .basic_consume(&queue)
            .on_drop(OnDrop::Discard)
            .await?;
        drop(next(&mut discarding).await?);
        let mut dead_letters = client.basic_consume(&dead).on_drop(OnDrop::Keep).await?;
        let dead_letter = next(&mut dead_letters).await?;
        assert_eq!(dead_letter.body(), b"0");
        drop(dead_letter);
        let redelivered = within(Duration::from_millis(500), "", dead_letters.next()).await;
        assert!(redelivered.is_err(), "it is kept: {redelivered:?}");
        drop(dead_letters);
        let mut again = client.basic_consume(&dead).await?;
        assert!(next(&mut again).await?.redelivered());
        client.queue_delete(&queue).await?;
        client.queue_delete(&dead).await?;
        Ok(client.close().await?)
    })
}
