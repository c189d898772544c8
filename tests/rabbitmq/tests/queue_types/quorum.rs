//! Quorum queues.

use crate::{Outcome, connect, costs_the_connection, next, with};
use puka::protocol::Value;
use puka::{DeadLetterStrategy, Error, Overflow, QueueType};
use puka_test_rabbitmq::unique;

#[test]
fn quorum_queue_stores_delivers_and_requeues() -> Outcome {
    with(QueueType::Quorum, async |client, queue| {
        for body in ["one", "two", "three"] {
            client
                .basic_publish("", queue, body)
                .persistent(true)
                .mandatory(true)
                .await?;
        }
        let got = client.basic_get(queue).await?.ok_or("empty")?;
        assert_eq!((got.body(), got.redelivered()), (&b"one"[..], false));
        got.reject(true)?;
        let mut consumer = client.basic_consume(queue).prefetch_count(10).await?;
        let mut bodies = Vec::new();
        for _ in 0..3 {
            let delivery = next(&mut consumer).await?;
            if delivery.body() == b"one" {
                let count = delivery
                    .headers()?
                    .get("x-delivery-count")
                    .and_then(Value::as_i64);
                assert_eq!((count, delivery.redelivered()), (Some(1), true));
            }
            bodies.push(delivery.body().to_vec());
            delivery.ack()?;
        }
        bodies.sort();
        assert_eq!(bodies, [&b"one"[..], b"three", b"two"]);
        // A quorum queue ignores `exclusive` of a consumer, and accepts `no_ack`.
        let also = client.basic_consume(queue).exclusive(true).await?;
        drop((also, consumer));
        client.basic_publish("", queue, "taken").await?;
        let mut consumer = client.basic_consume(queue).no_ack(true).await?;
        assert_eq!(next(&mut consumer).await?.body(), b"taken");
        consumer.cancel().await?;
        client.basic_publish("", queue, "purged").await?;
        assert_eq!(client.queue_purge(queue).await?, 1);
        Ok(())
    })
}

#[test]
fn quorum_queue_refuses_delete_conditions() -> Outcome {
    with(QueueType::Quorum, async |_, queue| {
        let refused = (540, "queue.delete");
        costs_the_connection(refused, async |client| {
            client.queue_delete(queue).if_unused(true).await
        })
        .await?;
        costs_the_connection(refused, async |client| {
            client.queue_delete(queue).if_empty(true).await
        })
        .await
    })
}

#[test]
fn quorum_queue_with_single_active_consumer_refuses_get() -> Outcome {
    smol::block_on(async {
        let client = connect().await?;
        let queue = unique("typed");
        let declare = client
            .queue_declare(&queue)
            .durable(true)
            .queue_type(QueueType::Quorum);
        declare.single_active_consumer(true).await?;
        let refused = client.basic_get(&queue).await;
        assert!(
            matches!(refused, Err(Error::ResourceLocked(_))),
            "{refused:?}"
        );
        client.queue_delete(&queue).await?;
        Ok(client.close().await?)
    })
}

#[test]
fn quorum_queue_dead_letters_at_the_delivery_limit() -> Outcome {
    smol::block_on(async {
        let client = connect().await?;
        let (queue, dead_letters) = (unique("limited"), unique("dead-letters"));
        client.queue_declare(&dead_letters).exclusive(true).await?;
        let declare = client
            .queue_declare(&queue)
            .durable(true)
            .queue_type(QueueType::Quorum);
        let declare = declare
            .delivery_limit(2)
            .dead_letter("", dead_letters.as_str());
        declare
            .overflow(Overflow::RejectPublish)
            .dead_letter_strategy(DeadLetterStrategy::AtMostOnce)
            .await?;
        client.basic_publish("", &queue, "poison").await?;
        let mut consumer = client.basic_consume(&queue).prefetch_count(1).await?;
        for count in 0..3 {
            let delivery = next(&mut consumer).await?;
            assert_eq!(delivery.redelivered(), count > 0);
            delivery.reject(true)?;
        }
        let mut dead = client
            .basic_consume(&dead_letters)
            .prefetch_count(1)
            .await?;
        let dead = next(&mut dead).await?;
        assert!(
            format!("{:?}", dead.headers()?).contains("x-death"),
            "{dead:?}"
        );
        dead.ack()?;
        drop(consumer);
        client.queue_delete(&queue).await?;
        Ok(client.close().await?)
    })
}
