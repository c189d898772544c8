//! Quorum queues and streams: which requests they refuse, with which error, and what the error
//! ends.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

mod arguments;
mod quorum;
mod shared_prefetch;
mod streams;

use futures_lite::FutureExt;
use puka::{Client, Consumer, Delivery, Ended, Error, QueueType};
use puka_test_rabbitmq::{shared_url, unique};
use std::time::Duration;

pub(crate) type Failure = Box<dyn std::error::Error>;
pub(crate) type Outcome = Result<(), Failure>;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) async fn connect() -> Result<Client, Failure> {
    Ok(puka_smol::connect(&shared_url()?).await?)
}

/// Runs a case with a queue of this type, which is deleted at the end.
pub(crate) fn with(kind: QueueType, case: impl AsyncFnOnce(&Client, &str) -> Outcome) -> Outcome {
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

pub(crate) async fn next(consumer: &mut Consumer) -> Result<Delivery, Failure> {
    Ok(consumer.next().await.ok_or("the consumer has ended")??)
}

#[track_caller]
pub(crate) fn code<T: std::fmt::Debug>(outcome: Result<T, Error>) -> (u16, String) {
    let error = outcome.expect_err("it is forbidden");
    let fault = error.fault().unwrap_or_else(|| panic!("{error:?}"));
    (fault.code.value(), fault.method.to_string())
}

/// Sends a request over which the broker closes the connection. Only that request fails with the
/// error, and the client recovers.
pub(crate) async fn costs_the_connection<T: std::fmt::Debug>(
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
fn quorum_queues_and_streams_refuse_classic_flags() -> Outcome {
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
fn deleting_stream_or_quorum_queue_ends_its_consumer() -> Outcome {
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
fn deleting_a_queue_of_an_ending_consumer_succeeds() -> Outcome {
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
