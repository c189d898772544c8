//! Deliveries that are not settled in time.

use crate::{DEADLINE, connect, next, operator, publish, told, version, with_client};
use futures_lite::FutureExt;
use futures_lite::future::zip;
use puka::{Client, Ended, Error, Notice, QueueType, Resubscribe};
use puka_test_rabbitmq::{Node, shared_node, unique};
use puka_test_soak::{Failure, Outcome};
use smol::Timer;
use std::time::Duration;

/// What the broker does when a delivery is not settled in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaction {
    ClosesChannel,
    CancelsConsumer,
    Nothing,
}

const TIMEOUT: Duration = Duration::from_millis(1500);

impl Reaction {
    /// Waits as long as this reaction may take.
    async fn passes(self) {
        let time = match self {
            Self::Nothing => TIMEOUT * 3,
            _ => DEADLINE,
        };
        Timer::after(time).await;
    }
}

/// Publishes to a queue once a second, which is needed with 4.3.6.
///
/// It sets a timer for the oldest delivery of a quorum queue. If that delivery is settled when the
/// timer fires, it may fail to set one for the next delivery until the next request to the queue.
async fn keep_busy(client: &Client, queue: &str) -> Outcome {
    loop {
        Timer::after(Duration::from_secs(1)).await;
        publish(client, queue, "later").await?;
    }
}

/// Where the timeout is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Node,
    Queue,
    Consumer,
}

/// Declares a queue, and consumes from it without settling a delivery. Fails unless the broker
/// reacts as expected.
async fn consume(url: &str, kind: QueueType, of: Of, expected: Reaction) -> Outcome {
    let client = connect(url).await?;
    let queue = client.queue_declare(unique("slow")).durable(true);
    let queue = match of {
        Of::Queue => queue.consumer_timeout(TIMEOUT),
        _ => queue,
    };
    let queue = queue.queue_type(kind).await?.name;
    publish(&client, &queue, "held").await?;
    let request = client.basic_consume(&queue).prefetch_count(1);
    let request = match of {
        Of::Consumer => request.consumer_timeout(TIMEOUT),
        _ => request,
    };
    let mut consumer = request.resubscribe(Resubscribe::never()).await?;
    let held = next(&mut consumer).await?;
    let end = async { Ok(consumer.next().await) };
    let busy = async { keep_busy(&client, &queue).await.map(|()| None) };
    let passed = async {
        expected.passes().await;
        Ok(None)
    };
    let end: Result<_, Failure> = end.or(busy).or(passed).await;
    let reaction = match (end?, consumer.ended()) {
        (None, None) => Reaction::Nothing,
        (Some(Err(Error::PreconditionFailed(_))), Some(Ended::AckTimeout(_))) => {
            Reaction::ClosesChannel
        }
        (Some(Err(Error::ConsumerCancelled(_))), Some(Ended::CancelledByServer)) => {
            Reaction::CancelsConsumer
        }
        other => return Err(format!("{other:?}").into()),
    };
    assert_eq!(reaction, expected);
    // The channel of a cancelled consumer remains open. The broker ignores the late ack.
    let settled = held.ack();
    let is_stale = matches!(settled, Err(Error::Stale));
    assert_eq!(is_stale, reaction == Reaction::ClosesChannel, "{settled:?}");
    drop(consumer);
    if reaction != Reaction::Nothing {
        is_delivered_again(&client, &queue).await?;
    }
    client.queue_delete(&queue).await?;
    Ok(client.close().await?)
}

/// Waits until the message is delivered again.
async fn is_delivered_again(client: &Client, queue: &str) -> Outcome {
    let mut consumer = client.basic_consume(queue).prefetch_count(1).await?;
    loop {
        let delivery = next(&mut consumer).await?;
        let is_held = delivery.body() == b"held";
        assert_eq!(delivery.redelivered(), is_held);
        delivery.ack()?;
        if is_held {
            return Ok(());
        }
    }
}

/// Gets a message of a queue without settling it. Fails unless the broker reacts as expected.
async fn get(url: &str, kind: QueueType, expected: Reaction) -> Outcome {
    let client = connect(url).await?;
    let mut notices = client.notices();
    let queue = client.queue_declare(unique("slow")).durable(true);
    let queue = queue.queue_type(kind).await?.name;
    publish(&client, &queue, "held").await?;
    let held = client.basic_get(&queue).await?.ok_or("it is empty")?;
    let closed = told(&mut notices, |notice| {
        matches!(notice, Notice::ChannelClosed(Error::PreconditionFailed(_)))
    });
    let closed = async { closed.await.map(|_| Reaction::ClosesChannel) };
    let busy = async { keep_busy(&client, &queue).await.map(|()| Reaction::Nothing) };
    let passed = async {
        expected.passes().await;
        Ok(Reaction::Nothing)
    };
    assert_eq!(closed.or(busy).or(passed).await?, expected);
    let settled = held.ack();
    let is_stale = matches!(settled, Err(Error::Stale));
    assert_eq!(is_stale, expected == Reaction::ClosesChannel, "{settled:?}");
    client.queue_delete(&queue).await?;
    Ok(client.close().await?)
}

#[test]
fn unsettled_delivery_ends_its_consumer_or_channel() -> Outcome {
    let node = Node::start_with_short_consumer_timeout()?;
    let url = node.url();
    // Since 4.3, it is the queue that has a timeout. Classic queues have none.
    let [classic, quorum, classic_get, quorum_get] = if node.version()? < (4, 3) {
        [Reaction::ClosesChannel; 4]
    } else {
        [
            Reaction::Nothing,
            Reaction::CancelsConsumer,
            Reaction::Nothing,
            Reaction::ClosesChannel,
        ]
    };
    let consumed = zip(
        consume(&url, QueueType::Classic, Of::Node, classic),
        consume(&url, QueueType::Quorum, Of::Node, quorum),
    );
    let got = zip(
        get(&url, QueueType::Classic, classic_get),
        get(&url, QueueType::Quorum, quorum_get),
    );
    let ((classic, quorum), (classic_get, quorum_get)) = smol::block_on(zip(consumed, got));
    classic.and(quorum).and(classic_get).and(quorum_get)
}

#[test]
fn argument_sets_the_timeout_of_a_queue() -> Outcome {
    with_client(async |client| {
        // Channels look for late acks at this interval, which is a minute by default.
        let interval = "application:set_env(rabbit, channel_tick_interval, 500).";
        operator(move |node| node.ctl(&["eval", interval])).await?;
        let version = version(client)?;
        let expected = if version < (3, 12) {
            // The argument is ignored.
            Reaction::Nothing
        } else if version < (4, 3) {
            Reaction::ClosesChannel
        } else {
            Reaction::CancelsConsumer
        };
        let url = shared_node()?.url();
        let classic = consume(&url, QueueType::Classic, Of::Queue, expected);
        let quorum = consume(&url, QueueType::Quorum, Of::Queue, expected);
        let (classic, quorum) = zip(classic, quorum).await;
        if version < (4, 3) {
            classic?;
        } else {
            let refused = classic.map_err(|error| error.to_string());
            assert!(refused.is_err_and(|error| error.contains("x-consumer-timeout")));
        }
        quorum
    })
}

#[test]
fn argument_sets_the_timeout_of_a_consumer() -> Outcome {
    with_client(async |client| {
        let expected = if version(client)? < (4, 3) {
            // The argument is ignored.
            Reaction::Nothing
        } else {
            Reaction::CancelsConsumer
        };
        let url = shared_node()?.url();
        consume(&url, QueueType::Quorum, Of::Consumer, expected).await
    })
}
