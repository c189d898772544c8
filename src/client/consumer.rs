//! Consumers, as streams of deliveries.

use super::delivery::{Delivery, Origin};
use super::handle::Handle;
use super::promise::Promise;
use crate::error::Error;
use crate::machine::{BATCH, ConsumerId, Delivered, Ended};
use futures_lite::Stream;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A consumer of one queue: a [`Stream`] of deliveries.
///
/// The stream ends after [`cancel`](Self::cancel). If the consumer is ended by the broker, or by
/// the end of the connection, the last item of the stream is the error. In both cases
/// [`ended`](Self::ended) returns the reason.
///
/// A broker without the capability `consumer_cancel_notify` does not report that it has ended a
/// consumer, for example because the queue was deleted. The consumer then waits for deliveries
/// until the connection is lost. RabbitMQ and LavinMQ have the capability;
/// [`ServerProperties::has_capability`](crate::ServerProperties::has_capability) returns whether
/// the broker lists it.
///
/// When the connection is lost and [recovered](crate::recovery), or the broker ends the consumer
/// ([`Resubscribe`](crate::Resubscribe)), the consumer continues, with its prefetch count.
/// Deliveries that were buffered when the connection was lost, or the broker closed the consumer's
/// channel, are dropped, because they cannot be settled; the broker delivers them again.
///
/// Dropping a consumer cancels it. Deliveries that it has not returned go back to the queue. That
/// happens once the broker has confirmed the cancel, because the broker could otherwise deliver
/// them to the same consumer again.
#[derive(Debug)]
#[must_use = "a consumer that is dropped is cancelled"]
pub struct Consumer {
    id: ConsumerId,
    origin: Arc<Origin>,
    /// Deliveries that were taken from the state machine and not read. Taking many at a time saves
    /// locking for each.
    batch: VecDeque<Delivered>,
    /// The counter of removed channels when the batch was last known to have no stale deliveries.
    removed_channels: u32,
    ended: Option<Ended>,
}

impl Consumer {
    pub(super) fn new(id: ConsumerId, handle: Handle) -> Self {
        let queues = handle.link().with(|machine| {
            let queues = machine
                .consumer(id)
                .into_iter()
                .flat_map(|consumer| consumer.queues());
            queues
                .map(|(queue, tag)| (queue.to_str_lossy().into_owned(), tag.to_owned()))
                .collect()
        });
        Self {
            id,
            origin: Origin {
                handle,
                queues,
                message_count: None,
            }
            .into(),
            batch: VecDeque::new(),
            removed_channels: 0,
            ended: None,
        }
    }

    fn handle(&self) -> &Handle {
        &self.origin.handle
    }

    /// Drops the stale deliveries of the batch, and counts them as lost.
    #[cold]
    fn drop_stale(&mut self) {
        let (batch, id) = (&mut self.batch, self.id);
        self.origin.handle.link().with(|machine| {
            let before = batch.len();
            batch.retain(|delivered| !machine.is_stale(delivered));
            machine.lose_taken(id, (before - batch.len()) as u64);
        });
    }

    pub(super) fn id(&self) -> ConsumerId {
        self.id
    }

    /// Returns the next delivery, or `None` when the consumer has ended. Yields to the executor
    /// after a few hundred deliveries, even if more are buffered, so that the driver can run.
    ///
    /// # Errors
    /// The last item is an error if the consumer was not ended by this client:
    /// [`Error::ConsumerCancelled`], an error that closed its channel, or the error that ended the
    /// connection.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Returns the consumer tag, which the broker's tools show. A consumer of several queues has a
    /// tag for each; this is the tag of the first queue.
    #[must_use]
    pub fn tag(&self) -> &str {
        self.origin.queues.first().map_or("", |(_, tag)| tag)
    }

    /// Returns the number of deliveries that were dropped because their connection was lost, or
    /// their channel closed, before they were read. They could not be settled, and the broker
    /// delivers them again.
    #[must_use]
    pub fn lost_deliveries(&self) -> u64 {
        self.handle().link().with(|machine| {
            machine
                .consumer(self.id)
                .map_or(0, |consumer| consumer.lost_deliveries())
        })
    }

    /// Returns the queues from which a consumer of several queues receives no more messages, each
    /// with the reason. The consumer continues with the other queues.
    ///
    /// The reason is [`Ended::CancelledByServer`] if the broker ended that part of the consumer,
    /// for example because the queue was deleted. It is [`Ended::ChannelClosed`] with the error if
    /// the queue was missing when the connection was recovered.
    ///
    /// Deliveries received from such a queue can still be taken.
    /// [`Notice::QueueEnded`](crate::Notice::QueueEnded) reports each queue at that time.
    ///
    /// ```
    /// # puka_test_suite::example(async |client| {
    /// client.queue_declare("orders").durable(true).await?;
    /// client.queue_declare("refunds").durable(true).await?;
    /// let mut both = client.basic_consume_multi(["orders", "refunds"]).await?;
    ///
    /// client.queue_delete("refunds").await?;
    /// client.basic_publish("", "orders", "Hello world!").await?;
    /// let delivery = both.next().await.expect("the consumer continues with the other queue")?;
    /// assert_eq!(delivery.queue(), Some("orders"));
    ///
    /// let [(queue, why)] = &both.ended_queues()[..] else { panic!("one queue has ended") };
    /// assert_eq!(queue, "refunds");
    /// assert!(matches!(why, puka::Ended::CancelledByServer));
    /// # client.close().await
    /// # });
    /// ```
    #[must_use]
    pub fn ended_queues(&self) -> Vec<(String, Ended)> {
        self.handle().link().with(|machine| {
            let consumer = machine.consumer(self.id);
            let queues = consumer
                .into_iter()
                .flat_map(|consumer| consumer.ended_queues());
            queues
                .map(|(queue, why)| (queue.to_str_lossy().into_owned(), why.clone()))
                .collect()
        })
    }

    /// Returns the reason why the consumer has ended. Returns `None` until the stream has returned
    /// all deliveries that were received before the end.
    #[must_use]
    pub fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }

    /// Cancels the consumer, and resolves to its tag. Deliveries that were not read go back to the
    /// queue. Those that need no ack do not, and can still be read. Deliveries that were read can
    /// be settled afterwards.
    ///
    /// # Errors
    /// [`Error::Stale`] if the consumer has already ended. [`Error::Full`] if the outgoing capacity
    /// is used up: the consumer then continues.
    ///
    /// # Cancel safety
    /// Dropping the promise does not stop the cancellation.
    pub fn cancel(&mut self) -> Promise<String> {
        let started = self.handle().link().with(|machine| {
            let promise = machine.cancel(self.id)?;
            self.batch
                .iter()
                .for_each(|delivered| machine.return_later(delivered));
            Ok(promise)
        });
        if started.is_ok() {
            self.batch.retain(needs_no_ack);
        }
        Promise::from_started(self.handle(), started)
    }

    /// Sends `basic.recover`, which requeues all unsettled messages of this consumer. The broker
    /// delivers them again, marked as redelivered, to this consumer or another. Deliveries that
    /// were read before become stale. This is not the [recovery](crate::recovery) of a connection.
    ///
    /// # Errors
    /// [`Error::Stale`] if the consumer has ended. [`Error::Full`] if the outgoing capacity is used
    /// up: all deliveries then stay as they were.
    ///
    /// # Cancel safety
    /// Dropping the promise does not cancel the request.
    ///
    /// # Spec
    /// `basic.recover`, 1.8.3.16
    #[doc(alias = "basic_recover")]
    pub fn recover(&mut self) -> Promise<()> {
        let started = self
            .handle()
            .link()
            .with(|machine| machine.recover(self.id));
        if started.is_ok() {
            self.batch.retain(needs_no_ack);
        }
        Promise::from_started(self.handle(), started)
    }
}

/// Returns `true` if a delivery of a batch needs no ack. Only deliveries without acks are settled
/// before they are read.
fn needs_no_ack(delivered: &Delivered) -> bool {
    delivered.is_settled()
}

impl Stream for Consumer {
    type Item = Result<Delivery, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let ended = loop {
            // The counter is read without the lock, so that a delivery of the batch costs no lock.
            // If a channel is closed at the same time, a stale delivery may be returned. That is
            // harmless: settling it returns `Stale`, as if it had been read before the close.
            let removed_channels = this.handle().link().removed_channels();
            if removed_channels != this.removed_channels {
                this.removed_channels = removed_channels;
                if !this.batch.is_empty() {
                    this.drop_stale();
                }
            }
            if let Some(delivered) = this.batch.pop_front() {
                return Poll::Ready(Some(Ok(Delivery::new(delivered, this.origin.clone()))));
            }
            if this.ended.is_some() {
                return Poll::Ready(None);
            }
            let link = this.origin.handle.link();
            if let Some(ended) = ready!(link.poll_deliveries(this.id, BATCH, &mut this.batch, cx)) {
                break ended;
            }
        };
        let error = match &ended {
            Ended::Cancelled | Ended::ConnectionBroken(Error::Closed) => None,
            Ended::CancelledByServer => Some(Error::ConsumerCancelled(this.tag().to_owned())),
            Ended::ChannelClosed(error)
            | Ended::AckTimeout(error)
            | Ended::ConnectionBroken(error) => Some(error.clone()),
        };
        this.ended = Some(ended);
        Poll::Ready(error.map(Err))
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.origin.handle.link().drop_consumer(self.id, &batch);
    }
}
