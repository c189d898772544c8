//! The arguments of typed queues, on the wire and at the broker.

use crate::{DEADLINE, Outcome, code, connect};
use puka::protocol::Value;
use puka::{Client, DeadLetterStrategy, Error, Overflow, QueueType};
use puka_test_rabbitmq::unique;

#[test]
fn arguments_of_another_type_of_queue_are_refused() -> Outcome {
    smol::block_on(async {
        let client = connect().await?;
        let name = unique("typed");
        let declare = |kind| client.queue_declare(&name).durable(true).queue_type(kind);
        let refused = (406, "queue.declare".to_owned());
        assert_eq!(
            code(declare(QueueType::Quorum).max_priority(5).await),
            refused
        );
        assert_eq!(
            code(declare(QueueType::Stream).message_ttl(DEADLINE).await),
            refused
        );
        assert_eq!(
            code(declare(QueueType::Stream).max_length(5).await),
            refused
        );
        assert_eq!(
            code(declare(QueueType::Classic).delivery_limit(5).await),
            refused
        );
        assert_eq!(
            code(declare(QueueType::Classic).max_age(DEADLINE).await),
            refused
        );
        Ok(client.close().await?)
    })
}

/// Declares a queue with the typed methods, then by name. Another value makes the declare fail.
async fn are_the_brokers_own(
    client: &Client,
    typed: impl AsyncFnOnce(&Client, &str) -> Result<(), Error>,
    named: &[(&str, Value<'_>, Value<'_>)],
) -> Outcome {
    let queue = unique("typed");
    typed(client, &queue).await?;
    let declare = |other: Option<&str>| {
        let declare = client.queue_declare(&queue).durable(true);
        let value = |name, value, another| if other == Some(name) { another } else { value };
        named.iter().fold(declare, |declare, (name, right, wrong)| {
            declare.argument(name, value(*name, *right, *wrong))
        })
    };
    declare(None).await?;
    for (name, ..) in named {
        match declare(Some(name)).await {
            Err(Error::PreconditionFailed(fault)) if fault.text.contains(name) => {}
            other => return Err(format!("{name}: {other:?}").into()),
        }
    }
    client.queue_delete(&queue).await?;
    Ok(())
}

#[test]
fn typed_arguments_are_the_brokers_own() -> Outcome {
    let text = |text: &'static str| Value::from(text);
    smol::block_on(async {
        let client = connect().await?;
        let classic = async |client: &Client, queue: &str| {
            let declare = client
                .queue_declare(queue)
                .durable(true)
                .queue_type(QueueType::Classic);
            let declare = declare
                .expires(DEADLINE)
                .message_ttl(DEADLINE)
                .max_length(5)
                .max_length_bytes(6);
            let declare = declare
                .overflow(Overflow::RejectPublishDlx)
                .dead_letter("amq.fanout", "dead");
            declare
                .max_priority(3)
                .single_active_consumer(true)
                .await
                .map(drop)
        };
        let named = [
            ("x-queue-type", text("classic"), text("quorum")),
            ("x-expires", Value::I32(60_000), Value::I32(60_001)),
            ("x-message-ttl", Value::U16(60_000), Value::I32(60_001)),
            ("x-max-length", Value::I8(5), Value::I8(6)),
            ("x-max-length-bytes", Value::I64(6), Value::I64(7)),
            ("x-overflow", text("reject-publish-dlx"), text("drop-head")),
            (
                "x-dead-letter-exchange",
                text("amq.fanout"),
                text("amq.direct"),
            ),
            ("x-dead-letter-routing-key", text("dead"), text("alive")),
            ("x-max-priority", Value::U8(3), Value::U8(4)),
            (
                "x-single-active-consumer",
                Value::Bool(true),
                Value::Bool(false),
            ),
        ];
        are_the_brokers_own(&client, classic, &named).await?;
        let quorum = async |client: &Client, queue: &str| {
            let declare = client
                .queue_declare(queue)
                .durable(true)
                .queue_type(QueueType::Quorum);
            let declare = declare
                .expires(DEADLINE)
                .message_ttl(DEADLINE)
                .max_length(5)
                .max_length_bytes(6);
            let declare = declare
                .overflow(Overflow::RejectPublish)
                .dead_letter("amq.fanout", "dead");
            let declare = declare
                .dead_letter_strategy(DeadLetterStrategy::AtLeastOnce)
                .delivery_limit(7);
            declare
                .single_active_consumer(true)
                .quorum_initial_group_size(1)
                .await
                .map(drop)
        };
        let named = [
            ("x-queue-type", text("quorum"), text("classic")),
            ("x-expires", Value::I32(60_000), Value::I32(60_001)),
            ("x-message-ttl", Value::I32(60_000), Value::I32(60_001)),
            ("x-max-length", Value::I32(5), Value::I32(6)),
            ("x-max-length-bytes", Value::I32(6), Value::I32(7)),
            ("x-overflow", text("reject-publish"), text("drop-head")),
            (
                "x-dead-letter-exchange",
                text("amq.fanout"),
                text("amq.direct"),
            ),
            ("x-dead-letter-routing-key", text("dead"), text("alive")),
            (
                "x-dead-letter-strategy",
                text("at-least-once"),
                text("at-most-once"),
            ),
            ("x-quorum-initial-group-size", Value::I32(1), Value::I32(3)),
            ("x-delivery-limit", Value::I32(7), Value::I32(8)),
            (
                "x-single-active-consumer",
                Value::Bool(true),
                Value::Bool(false),
            ),
        ];
        are_the_brokers_own(&client, quorum, &named).await?;
        let stream = async |client: &Client, queue: &str| {
            let declare = client
                .queue_declare(queue)
                .durable(true)
                .queue_type(QueueType::Stream);
            let declare = declare
                .max_age(DEADLINE)
                .max_length_bytes(1_000_000)
                .initial_cluster_size(1);
            declare
                .stream_max_segment_size_bytes(500_000)
                .await
                .map(drop)
        };
        let named = [
            ("x-queue-type", text("stream"), text("quorum")),
            ("x-max-age", text("60s"), text("61s")),
            ("x-initial-cluster-size", Value::I32(1), Value::I32(3)),
            (
                "x-max-length-bytes",
                Value::I32(1_000_000),
                Value::I32(1_000_001),
            ),
            (
                "x-stream-max-segment-size-bytes",
                Value::I32(500_000),
                Value::I32(500_001),
            ),
        ];
        are_the_brokers_own(&client, stream, &named).await?;
        Ok(client.close().await?)
    })
}
