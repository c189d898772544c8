//! Quorum queues and streams: what they forbid, which error that is, and what it ends.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

use futures_lite::FutureExt;
use puka::protocol::Value;
use puka::{
    Client, Consumer, DeadLetterStrategy, Delivery, Ended, Error, Overflow, QueueType, StreamOffset,
};
use puka_test_rabbitmq::{major_and_minor, shared_url, unique};
use std::time::{Duration, SystemTime};

type Failure = Box<dyn std::error::Error>;
type Outcome = Result<(), Failure>;

const DEADLINE: Duration = Duration::from_secs(60);

async fn connect() -> Result<Client, Failure> {
    Ok(puka_smol::connect(&shared_url()?).await?)
}

/// Runs a case with a queue of that type, which is deleted in the end.
fn with(kind: QueueType, case: impl AsyncFnOnce(&Client, &str) -> Outcome) -> Outcome {
    smol::block_on(async {
        let client = connect().await?;
        let queue = unique("typed");
        client
            .queue_declare(&queue)
            .durable(true)
            .queue_type(kind)
            .await?;
        let timeout = async {
            smol::Timer::after(DEADLINE).await;
            Err(format!("it takes longer than {DEADLINE:?}").into())
        };
        let outcome = case(&client, &queue).or(timeout).await;
        // The case may have lost its connection.
        drop(client.close().await);
        let client = connect().await?;
        client.queue_delete(&queue).await?;
        client.close().await?;
        outcome
    })
}

async fn next(consumer: &mut Consumer) -> Result<Delivery, Failure> {
    Ok(consumer.next().await.ok_or("the consumer has ended")??)
}

#[track_caller]
fn code<T: std::fmt::Debug>(outcome: Result<T, Error>) -> (u16, String) {
    let error = outcome.expect_err("it is forbidden");
    let fault = error.fault().unwrap_or_else(|| panic!("{error:?}"));
    (fault.code.value(), fault.method.to_string())
}

/// Sends a request over which the broker closes the connection. The error answers that request
/// only, and the client recovers.
async fn costs_the_connection<T: std::fmt::Debug>(
    expected: (u16, &str),
    request: impl AsyncFnOnce(&Client) -> Result<T, Error>,
) -> Outcome {
    let client = connect().await?;
    let (number, method) = code(request(&client).await);
    assert_eq!((number, method.as_str()), expected);
    client.queue_declare("").exclusive(true).await?;
    assert_eq!((client.counters().lost, client.counters().opened), (1, 2));
    Ok(client.close().await?)
}

#[test]
fn neither_may_be_transient_exclusive_auto_delete_or_named_by_the_broker() -> Outcome {
    smol::block_on(async {
        let client = connect().await?;
        for kind in [QueueType::Quorum, QueueType::Stream] {
            let name = unique("typed");
            let declare = || client.queue_declare(&name).queue_type(kind);
            let refused = (406, "queue.declare".to_owned());
            assert_eq!(code(declare().await), refused, "{kind:?}: transient");
            assert_eq!(
                code(declare().durable(true).exclusive(true).await),
                refused,
                "{kind:?}: exclusive"
            );
            assert_eq!(
                code(declare().durable(true).auto_delete(true).await),
                refused,
                "{kind:?}: auto-delete"
            );
            let unnamed = client
                .queue_declare("")
                .durable(true)
                .queue_type(kind)
                .await;
            assert_eq!(code(unnamed), refused, "{kind:?}: without a name");
            let missing = client.queue_declare(&name).passive(true).await;
            assert_eq!(code(missing).0, 404, "{kind:?}: nothing was declared");
        }
        Ok(client.close().await?)
    })
}

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

/// Declares a queue by the typed methods, then by name; with another value it is another queue.
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

#[test]
fn a_quorum_queue_keeps_gives_and_takes_back() -> Outcome {
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
        // It ignores `exclusive` of a consumer, and has nothing against `no_ack`.
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
fn a_quorum_queue_is_deleted_without_conditions_and_consumed_without_a_shared_prefetch() -> Outcome
{
    with(QueueType::Quorum, async |client, queue| {
        let refused = (540, "queue.delete");
        costs_the_connection(refused, async |client| {
            client.queue_delete(queue).if_unused(true).await
        })
        .await?;
        costs_the_connection(refused, async |client| {
            client.queue_delete(queue).if_empty(true).await
        })
        .await?;
        if ignores_shared_prefetch(client) {
            return Ok(());
        }
        costs_the_connection((540, "basic.consume"), async |client| {
            client
                .basic_consume_multi([queue])
                .prefetch_count(5)
                .await
                .map(drop)
        })
        .await
    })
}

/// Returns `true` for RabbitMQ 4.3 and later, which ignore the `global` flag of `basic.qos`: every
/// consumer gets the prefetch count for itself.
fn ignores_shared_prefetch(client: &Client) -> bool {
    major_and_minor(&client.server_properties().version()) >= Some((4, 3))
}

#[test]
fn a_quorum_queue_with_a_single_active_consumer_can_not_be_got_from() -> Outcome {
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
fn a_quorum_queue_dead_letters_what_is_delivered_too_often() -> Outcome {
    smol::block_on(async {
        let client = connect().await?;
        let (queue, graveyard) = (unique("limited"), unique("graveyard"));
        client.queue_declare(&graveyard).exclusive(true).await?;
        let declare = client
            .queue_declare(&queue)
            .durable(true)
            .queue_type(QueueType::Quorum);
        let declare = declare
            .delivery_limit(2)
            .dead_letter("", graveyard.as_str());
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
        let mut dead = client.basic_consume(&graveyard).prefetch_count(1).await?;
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

#[test]
fn a_stream_is_neither_got_from_nor_purged_nor_consumed_without_acks() -> Outcome {
    with(QueueType::Stream, async |client, queue| {
        costs_the_connection((540, "basic.get"), async |client| {
            client.basic_get(queue).await
        })
        .await?;
        costs_the_connection((540, "queue.purge"), async |client| {
            client.queue_purge(queue).await
        })
        .await?;
        costs_the_connection((540, "basic.consume"), async |client| {
            client
                .basic_consume(queue)
                .prefetch_count(5)
                .no_ack(true)
                .await
                .map(drop)
        })
        .await?;
        // Of several queues the prefetch count is shared, which leaves each consumer without one.
        let shared = client
            .basic_consume_multi([queue])
            .prefetch_count(5)
            .await
            .map(drop);
        if ignores_shared_prefetch(client) {
            shared?;
        } else {
            assert_eq!(code(shared).1, "basic.consume");
        }
        let unlimited = client.basic_consume(queue).await.map(drop);
        assert_eq!(
            code(unlimited),
            (406, "basic.consume".to_owned()),
            "a stream needs a prefetch count"
        );
        // The conditions of a delete are ignored.
        client.basic_publish("", queue, "x").await?;
        client
            .queue_delete(queue)
            .if_unused(true)
            .if_empty(true)
            .await?;
        assert!(matches!(
            client.queue_declare(queue).passive(true).await,
            Err(Error::NotFound(_))
        ));
        Ok(())
    })
}

/// The offset of a message in its stream.
fn offset(delivery: &Delivery) -> Result<u64, Failure> {
    let offset = delivery
        .headers()?
        .get("x-stream-offset")
        .and_then(Value::as_i64);
    Ok(offset.ok_or("no offset")?.try_into()?)
}

#[test]
fn a_stream_is_read_from_wherever_one_wants() -> Outcome {
    with(QueueType::Stream, async |client, queue| {
        const HOUR: Duration = Duration::from_secs(3600);
        for n in 0..10 {
            client
                .basic_publish("", queue, n.to_string())
                .persistent(true)
                .mandatory(true)
                .await?;
        }
        let from = async |offset| {
            let consume = client.basic_consume(queue).prefetch_count(100);
            consume.stream_offset(offset).await
        };
        // Everything, again and again.
        let past = SystemTime::now() - HOUR;
        for all in [
            StreamOffset::First,
            StreamOffset::Offset(0),
            StreamOffset::Timestamp(past),
            StreamOffset::Ago(HOUR),
        ] {
            let mut consumer = from(all.clone()).await?;
            for n in 0..10_u64 {
                let delivery = next(&mut consumer).await?;
                assert_eq!(
                    (offset(&delivery)?, delivery.body()),
                    (n, n.to_string().as_bytes()),
                    "{all:?}"
                );
                assert!(!delivery.redelivered());
                delivery.ack()?;
            }
            consumer.cancel().await?;
        }
        // Delivery may begin before, as chunks are read whole, but no later.
        for (begin, latest) in [(StreamOffset::Offset(7), 7), (StreamOffset::Last, 9)] {
            let mut consumer = from(begin.clone()).await?;
            let first = offset(&next(&mut consumer).await?)?;
            assert!(first <= latest, "{begin:?} begins with {first}");
            for expected in first + 1..10 {
                let delivery = next(&mut consumer).await?;
                assert_eq!(offset(&delivery)?, expected, "{begin:?}");
                delivery.ack()?;
            }
            consumer.cancel().await?;
        }
        // What comes from now on.
        for begin in [StreamOffset::Next, StreamOffset::Offset(1_000_000)] {
            let mut consumer = from(begin).await?;
            let started = client.queue_declare(queue).passive(true).await?;
            assert_eq!(started.name, queue);
            drop(consumer.cancel().await?);
        }
        let mut consumer = from(StreamOffset::Next).await?;
        client.basic_publish("", queue, "new").await?;
        let delivery = next(&mut consumer).await?;
        assert_eq!((offset(&delivery)?, delivery.body()), (10, &b"new"[..]));
        delivery.ack()?;
        Ok(())
    })
}

#[test]
fn a_stream_gives_as_much_as_the_prefetch_count_and_refusing_takes_nothing_back() -> Outcome {
    with(QueueType::Stream, async |client, queue| {
        let publishes: Vec<_> = (0..50)
            .map(|n| client.basic_publish("", queue, n.to_string()).send())
            .collect();
        for publish in publishes {
            publish.await?;
        }
        let consume = client
            .basic_consume(queue)
            .prefetch_count(3)
            .stream_offset(StreamOffset::First);
        let mut consumer = consume.await?;
        for n in 0..50 {
            let delivery = next(&mut consumer).await?;
            assert_eq!(offset(&delivery)?, n);
            // "Any ack only returns credit."
            match n % 3 {
                0 => delivery.ack()?,
                1 => delivery.reject(false)?,
                _ => delivery.reject(true)?,
            }
        }
        Ok(())
    })
}

#[test]
fn a_consumer_of_a_stream_or_quorum_queue_that_is_deleted_says_so() -> Outcome {
    for kind in [QueueType::Quorum, QueueType::Stream] {
        with(kind, async |client, queue| {
            let mut consumer = client.basic_consume(queue).prefetch_count(5).await?;
            client.queue_delete(queue).await?;
            let end = consumer.next().await.ok_or("it ended without an error")?;
            assert!(
                matches!(end, Err(Error::ConsumerCancelled(_))),
                "{kind:?}: {end:?}"
            );
            assert!(
                matches!(consumer.ended(), Some(Ended::CancelledByServer)),
                "{kind:?}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_queue_that_is_deleted_while_its_consumer_ends_harms_nobody() -> Outcome {
    smol::block_on(async {
        let client = connect().await?;
        for kind in [QueueType::Classic, QueueType::Quorum, QueueType::Stream] {
            for round in 0..10 {
                let queue = unique("deleted");
                client
                    .queue_declare(&queue)
                    .durable(true)
                    .queue_type(kind)
                    .await?;
                let mut consumer = client.basic_consume(&queue).prefetch_count(5).await?;
                let deleted = if round % 2 == 0 {
                    drop(consumer);
                    client.queue_delete(&queue).send()
                } else {
                    let cancelled = consumer.cancel();
                    let deleted = client.queue_delete(&queue).send();
                    drop(cancelled.await?);
                    deleted
                };
                deleted.await?;
            }
            assert!(
                client.why_closed().is_none(),
                "{kind:?}: {:?}",
                client.why_closed()
            );
        }
        Ok(client.close().await?)
    })
}

#[test]
fn a_stream_offset_that_makes_no_sense_is_refused() -> Outcome {
    with(QueueType::Stream, async |_, queue| {
        // RabbitMQ 3.10 trips over it, which ends the connection; later ones refuse it.
        let client = connect().await?;
        let consume = client
            .basic_consume(queue)
            .prefetch_count(5)
            .argument("x-stream-offset", "somewhere");
        let refused = consume.await.map(drop);
        assert!(
            matches!(
                refused,
                Err(Error::InternalError(_) | Error::PreconditionFailed(_))
            ),
            "{refused:?}"
        );
        drop(client.close().await);
        let client = connect().await?;
        let before = client.basic_consume(queue).prefetch_count(5);
        let before = before
            .stream_offset(StreamOffset::Timestamp(SystemTime::UNIX_EPOCH - DEADLINE))
            .await;
        assert!(
            matches!(
                before,
                Err(Error::InvalidArgument {
                    what: "stream_offset",
                    ..
                })
            ),
            "{before:?}"
        );
        Ok(client.close().await?)
    })
}
