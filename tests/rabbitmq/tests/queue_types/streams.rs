//! Streams.

use crate::{DEADLINE, Failure, Outcome, code, connect, costs_the_connection, next, with};
use puka::protocol::Value;
use puka::{Delivery, Endpoint, Error, Notice, QueueType, StreamOffset, Uri};
use puka_test_rabbitmq::{Proxy, shared_url};
use std::time::{Duration, SystemTime};

#[test]
fn stream_refuses_get_purge_and_consume_without_acks() -> Outcome {
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
        let unlimited = client.basic_consume(queue).await.map(drop);
        assert_eq!(
            code(unlimited),
            (406, "basic.consume".to_owned()),
            "a stream needs a prefetch count"
        );
        // A stream ignores the conditions of a delete.
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

/// Returns the offset of a message in its stream.
fn offset(delivery: &Delivery) -> Result<u64, Failure> {
    let offset = delivery
        .headers()?
        .get("x-stream-offset")
        .and_then(Value::as_i64);
    Ok(offset.ok_or("no offset")?.try_into()?)
}

#[test]
fn stream_is_read_from_any_offset() -> Outcome {
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
        // Each consumer reads all messages again.
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
        // Deliveries may begin earlier, because a stream is read in whole chunks, but not later.
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
        // Only new messages are delivered.
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
fn stream_honours_prefetch_count_and_requeues_nothing() -> Outcome {
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
fn invalid_stream_offset_is_refused() -> Outcome {
    with(QueueType::Stream, async |_, queue| {
        // RabbitMQ 3.10 crashes, which ends the connection. Later versions refuse it.
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

#[test]
fn stream_continues_behind_the_last_delivery_after_a_loss() -> Outcome {
    with(QueueType::Stream, async |client, queue| {
        let uri: Uri = shared_url()?.parse()?;
        let [Endpoint::Tcp { port, .. }] = uri.endpoints() else {
            return Err("the broker has one port".into());
        };
        let proxy = Proxy::start(*port)?;
        for begin in [StreamOffset::First, StreamOffset::Next] {
            let reader = puka_smol::connect(&proxy.url()).await?;
            let mut notices = reader.notices();
            let mut consumer = reader
                .basic_consume(queue)
                .prefetch_count(10)
                .stream_offset(begin.clone())
                .await?;
            // Published together, so that they are in one chunk.
            let publishes = (0..20).map(|_| client.basic_publish("", queue, "x").send());
            for publish in publishes.collect::<Vec<_>>() {
                publish.await?;
            }
            let first = next(&mut consumer).await?;
            let mut last = first.stream_offset().ok_or("no offset")?;
            first.ack()?;
            for _ in 0..6 {
                let delivery = next(&mut consumer).await?;
                last += 1;
                assert_eq!(delivery.stream_offset(), Some(last), "{begin:?}");
                delivery.ack()?;
            }
            proxy.reset();
            // These are published while there is no consumer.
            for _ in 0..5 {
                client.basic_publish("", queue, "y").await?;
            }
            while !matches!(notices.next().await, Some(Notice::Recovered(_))) {}
            let end = client.basic_consume(queue).prefetch_count(1);
            let mut end = end.stream_offset(StreamOffset::Last).await?;
            let mut newest = next(&mut end).await?;
            let found = newest.stream_offset().ok_or("no offset")?;
            assert!(found > last, "{begin:?}");
            newest.ack()?;
            for expected in last + 1..=found {
                newest = next(&mut consumer).await?;
                assert_eq!(newest.stream_offset(), Some(expected), "{begin:?}");
                newest.ack()?;
            }
            reader.close().await?;
        }
        Ok(())
    })
}
