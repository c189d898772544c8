//! Quorum queues: what counts as a delivery, the delivery limit, and what happens to returned and
//! discarded messages.

use crate::{next, operator, publish, version, with_client};
use futures_lite::FutureExt;
use puka::protocol::Value;
use puka::{
    Client, Consumer, DeadLetterStrategy, DelayedRetry, Delivery, Options, Overflow, QueueDeclare,
    QueueType,
};
use puka_test_rabbitmq::{Proxy, shared_node, unique};
use puka_test_soak::{Failure, Outcome};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Declares a quorum queue. Returns its name.
async fn quorum_queue(
    client: &Client,
    set: impl FnOnce(QueueDeclare<'_>) -> QueueDeclare<'_>,
) -> Result<String, Failure> {
    let declare = client.queue_declare(unique("quorum")).durable(true);
    Ok(set(declare.queue_type(QueueType::Quorum)).await?.name)
}

/// Returns the headers `x-delivery-count` and `x-acquired-count`.
fn counts(delivery: &Delivery) -> Result<[Option<i64>; 2], Failure> {
    let headers = delivery.headers()?;
    let count = |name| headers.get(name).and_then(Value::as_i64);
    Ok(["x-delivery-count", "x-acquired-count"].map(count))
}

/// How a delivery ends without an ack.
#[derive(Clone, Copy, Debug)]
enum End {
    Reject,
    Nack,
    Drop,
    ConnectionLost,
}

/// Ends a delivery. Returns the counts of the next delivery of the message.
async fn counts_after(client: &Client, end: End) -> Result<[Option<i64>; 2], Failure> {
    let queue = quorum_queue(client, |declare| declare).await?;
    publish(client, &queue, "x").await?;
    let proxy = Proxy::start(shared_node()?.port())?;
    let options = Options::from_uri(&proxy.url())?.recovery(None);
    let other = puka_smol::connect_with(options).await?;
    let mut consumer = other.basic_consume(&queue).prefetch_count(1).await?;
    let delivery = next(&mut consumer).await?;
    assert_eq!(counts(&delivery)?, [None; 2]);
    match end {
        End::Reject => delivery.reject(true)?,
        End::Nack => delivery.nack(false, true)?,
        End::Drop => drop(delivery),
        End::ConnectionLost => proxy.reset(),
    }
    let mut again = match end {
        End::ConnectionLost => client.basic_consume(&queue).prefetch_count(1).await?,
        _ => consumer,
    };
    let delivery = next(&mut again).await?;
    assert!(delivery.redelivered());
    let counts = counts(&delivery)?;
    delivery.ack()?;
    again.cancel().await?;
    client.queue_delete(&queue).await?;
    Ok(counts)
}

#[test]
fn returned_message_counts_as_delivered_or_acquired() -> Outcome {
    with_client(async |client| {
        let separates = version(client)? >= (4, 3);
        for (end, is_failure) in [
            (End::Reject, true),
            (End::Drop, true),
            (End::ConnectionLost, true),
            (End::Nack, false),
        ] {
            let expected = match (separates, is_failure) {
                (false, _) => [Some(1), None],
                (true, true) => [Some(1), Some(1)],
                (true, false) => [None, Some(1)],
            };
            assert_eq!(counts_after(client, end).await?, expected, "{end:?}");
        }
        Ok(())
    })
}

#[test]
fn delivery_limit_of_three_allows_four_deliveries() -> Outcome {
    with_client(async |client| {
        let queue = quorum_queue(client, |declare| declare.delivery_limit(3)).await?;
        publish(client, &queue, "poison").await?;
        publish(client, &queue, "next").await?;
        let mut consumer = client.basic_consume(&queue).prefetch_count(1).await?;
        for count in 0..=3 {
            let delivery = next(&mut consumer).await?;
            assert_eq!(delivery.body(), b"poison");
            assert_eq!(counts(&delivery)?[0].unwrap_or(0), count);
            delivery.reject(true)?;
        }
        // It is dropped without a report.
        let delivery = next(&mut consumer).await?;
        assert_eq!(
            (delivery.body(), counts(&delivery)?),
            (&b"next"[..], [None; 2])
        );
        delivery.ack()?;
        drop(consumer);
        assert_eq!(client.queue_delete(&queue).await?, 0);
        Ok(())
    })
}

#[test]
fn default_delivery_limit_is_twenty_or_none() -> Outcome {
    with_client(async |client| {
        let is_limited = version(client)? >= (4, 0);
        let dead_letters = client.queue_declare("").exclusive(true).await?.name;
        let dropping = quorum_queue(client, |declare| declare).await?;
        let keeping = quorum_queue(client, |it| it.dead_letter("", &dead_letters)).await?;
        for queue in [&dropping, &keeping] {
            publish(client, queue, "poison").await?;
            let mut consumer = client.basic_consume(queue).prefetch_count(1).await?;
            // Without a limit, it is delivered for ever.
            let deliveries = if is_limited { 21 } else { 30 };
            for count in 0..deliveries {
                let delivery = next(&mut consumer).await?;
                assert_eq!(counts(&delivery)?[0].unwrap_or(0), count);
                if count + 1 == 30 {
                    delivery.ack()?;
                } else {
                    delivery.reject(true)?;
                }
            }
            publish(client, queue, "next").await?;
            let delivery = next(&mut consumer).await?;
            assert_eq!(delivery.body(), b"next");
            delivery.ack()?;
        }
        if is_limited {
            let mut consumer = client.basic_consume(&dead_letters).await?;
            let delivery = next(&mut consumer).await?;
            let reason = delivery
                .headers()?
                .get("x-first-death-reason")
                .and_then(Value::as_str);
            assert_eq!(reason, Some("delivery_limit"));
            delivery.ack()?;
        }
        assert_eq!(client.queue_delete(&dead_letters).await?, 0);
        client.queue_delete(&dropping).await?;
        client.queue_delete(&keeping).await?;
        Ok(())
    })
}

/// Discards three messages while their dead letters have no route, and a later one when they have
/// one. Returns that many dead letters.
async fn dead_letters(
    client: &Client,
    strategy: DeadLetterStrategy,
    overflow: Overflow,
    count: usize,
) -> Result<BTreeSet<Vec<u8>>, Failure> {
    let exchange = unique("dead");
    client
        .exchange_declare(&exchange)
        .exchange_type("fanout")
        .await?;
    let queue = quorum_queue(client, |declare| {
        let declare = declare.dead_letter(&exchange, None).overflow(overflow);
        declare.dead_letter_strategy(strategy)
    });
    let queue = queue.await?;
    for body in ["1", "2", "3", "4"] {
        publish(client, &queue, body).await?;
    }
    let mut consumer = client.basic_consume(&queue).prefetch_count(3).await?;
    let discarded = [
        next(&mut consumer).await?,
        next(&mut consumer).await?,
        next(&mut consumer).await?,
    ];
    let [.., third] = discarded;
    third.nack(true, false)?;
    // The prefetch count allows it only after the broker has discarded the others.
    let fourth = next(&mut consumer).await?;
    let dead = client.queue_declare("").exclusive(true).await?.name;
    client.queue_bind(&dead, &exchange).await?;
    fourth.discard()?;
    drop(consumer);
    let mut dead_letters = client.basic_consume(&dead).prefetch_count(10).await?;
    let mut received = BTreeSet::new();
    for _ in 0..count {
        let delivery = next(&mut dead_letters).await?;
        received.insert(delivery.body().to_vec());
        delivery.ack()?;
    }
    drop(dead_letters);
    assert_eq!(client.queue_delete(&dead).await?, 0);
    client.queue_delete(&queue).await?;
    client.exchange_delete(&exchange).await?;
    Ok(received)
}

#[test]
fn dead_letter_waits_for_a_route_at_least_once() -> Outcome {
    with_client(async |client| {
        // The broker tries again after this time, which is 3 minutes by default.
        let retry =
            "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 500).";
        operator(move |node| node.ctl(&["eval", retry])).await?;
        // The strategy needs the overflow, and is ignored without it.
        for (strategy, overflow, expected) in [
            (
                DeadLetterStrategy::AtLeastOnce,
                Overflow::RejectPublish,
                &["1", "2", "3", "4"][..],
            ),
            (DeadLetterStrategy::AtLeastOnce, Overflow::DropHead, &["4"]),
            (
                DeadLetterStrategy::AtMostOnce,
                Overflow::RejectPublish,
                &["4"],
            ),
        ] {
            let received = dead_letters(client, strategy, overflow, expected.len()).await?;
            let expected = expected.iter().map(|body| body.as_bytes().to_vec());
            assert_eq!(received, expected.collect(), "{strategy:?} {overflow:?}");
        }
        Ok(())
    })
}

/// The delay of the first retry.
const DELAY: Duration = Duration::from_millis(500);

/// Some milliseconds, by which a measured delay may be shorter.
const TOLERANCE: Duration = Duration::from_millis(5);

/// Returns a message to its queue. Returns how long it takes until the broker delivers it again, or
/// `None` if it does so at once, before another message.
async fn delay(
    client: &Client,
    is_failure: bool,
    set: impl FnOnce(QueueDeclare<'_>) -> QueueDeclare<'_>,
) -> Result<Option<Duration>, Failure> {
    // Without a delivery limit, 3.10 returns messages to the tail of the queue.
    let queue = quorum_queue(client, |declare| set(declare.delivery_limit(5))).await?;
    publish(client, &queue, "retried").await?;
    publish(client, &queue, "other").await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(1).await?;
    let delivery = next(&mut consumer).await?;
    let start = Instant::now();
    match is_failure {
        true => delivery.reject(true)?,
        false => delivery.nack(false, true)?,
    }
    let first = next(&mut consumer).await?;
    let is_delayed = first.body() == b"other";
    first.ack()?;
    let second = next(&mut consumer).await?;
    assert!((second.body() == b"retried") == is_delayed);
    let delay = start.elapsed();
    second.ack()?;
    drop(consumer);
    client.queue_delete(&queue).await?;
    Ok(is_delayed.then_some(delay))
}

#[test]
fn returned_message_is_retried_after_a_delay() -> Outcome {
    with_client(async |client| {
        // Earlier versions do not know the arguments, and ignore them.
        let delays = version(client)? >= (4, 3);
        for (which, delayed_failure, delayed_return) in [
            (DelayedRetry::Disabled, false, false),
            (DelayedRetry::All, true, true),
            (DelayedRetry::Failed, true, false),
            (DelayedRetry::Returned, false, true),
        ] {
            for (is_failure, is_delayed) in [(true, delayed_failure), (false, delayed_return)] {
                let delay = delay(client, is_failure, |it| {
                    it.delayed_retry(which).delayed_retry_min(DELAY)
                });
                let delay = delay.await?;
                let case = format!("{which:?}, failure {is_failure}, {delay:?}");
                assert_eq!(delay.is_some(), is_delayed && delays, "{case}");
                assert!(delay.is_none_or(|it| it + TOLERANCE >= DELAY), "{case}");
            }
        }
        // It needs both the type and the minimum.
        let type_only = delay(client, true, |it| it.delayed_retry(DelayedRetry::All));
        assert_eq!(type_only.await?, None);
        let minimum_only = delay(client, true, |it| it.delayed_retry_min(DELAY));
        assert_eq!(minimum_only.await?, None);
        Ok(())
    })
}

#[test]
fn retries_of_a_failing_message_are_delayed_longer() -> Outcome {
    with_client(async |client| {
        if version(client)? < (4, 3) {
            // The argument is ignored.
            return Ok(());
        }
        let queue = quorum_queue(client, |declare| {
            let declare = declare.delayed_retry(DelayedRetry::Failed);
            let declare = declare.delayed_retry_min(DELAY);
            declare.delayed_retry_max(DELAY * 2)
        });
        let queue = queue.await?;
        publish(client, &queue, "failing").await?;
        let mut consumer = client.basic_consume(&queue).prefetch_count(1).await?;
        let mut start = Instant::now();
        // The delay is multiplied by the number of failures, up to its maximum.
        for multiple in [0, 1, 2, 2, 2, 2] {
            let delivery = next(&mut consumer).await?;
            let elapsed = start.elapsed();
            assert!(elapsed + TOLERANCE >= DELAY * multiple, "{elapsed:?}");
            // Without the maximum, the last delay would be 5 times the first.
            assert!(elapsed < DELAY * 5 - TOLERANCE, "{elapsed:?}");
            start = Instant::now();
            delivery.reject(true)?;
        }
        drop(consumer);
        client.queue_delete(&queue).await?;
        Ok(())
    })
}

/// Returns the next delivery of two consumers, and whether it is the first one's.
async fn either(first: &mut Consumer, second: &mut Consumer) -> Result<(Delivery, bool), Failure> {
    let first = async { Ok((next(first).await?, true)) };
    first.or(async { Ok((next(second).await?, false)) }).await
}

#[test]
fn higher_priority_takes_over_a_single_active_consumer() -> Outcome {
    with_client(async |client| {
        let takes_over = version(client)? >= (4, 0);
        let queue = quorum_queue(client, |declare| declare.single_active_consumer(true)).await?;
        let consume = |priority| {
            let consume = client.basic_consume(&queue).prefetch_count(1);
            consume.priority(priority)
        };
        let mut low = consume(1).await?;
        publish(client, &queue, "one").await?;
        let one = next(&mut low).await?;
        let mut high = consume(2).await?;
        let lowest = consume(0).await?;
        publish(client, &queue, "two").await?;
        // The earlier consumer remains active until it has settled what it has.
        one.ack()?;
        let (two, is_low) = either(&mut low, &mut high).await?;
        assert_eq!((two.body(), is_low), (&b"two"[..], !takes_over));
        two.ack()?;
        // The consumer with the next highest priority follows.
        let (ended, mut following) = if is_low { (low, high) } else { (high, low) };
        drop(ended);
        publish(client, &queue, "three").await?;
        next(&mut following).await?.ack()?;
        drop((following, lowest));
        client.queue_delete(&queue).await?;
        Ok(())
    })
}
