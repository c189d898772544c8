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
use std::task::{Context, Poll};

/// A consumer of one queue: a [`Stream`] of deliveries.
///
/// After [`cancel`](Self::cancel) the stream ends. If the broker or the loss of the connection ends
/// it, the last item is the error. In both cases [`ended`](Self::ended) returns the reason.
/// Buffered deliveries are dropped when their channel or connection is lost, because they cannot be
/// settled; the broker delivers them again.
///
/// After a loss that is [recovered](crate::recovery) the consumer continues, with its prefetch
/// count.
///
/// Dropping a consumer cancels it. Deliveries that it has not returned go back to the queue once
/// the broker has confirmed the cancel, so that the broker does not deliver them to the same
/// consumer again.
#[derive(Debug)]
#[must_use = "a consumer that is dropped is cancelled"]
pub struct Consumer {
    id: ConsumerId,
    origin: Arc<Origin>,
    taken: VecDeque<Delivered>,
    ended: Option<Ended>,
}

impl Consumer {
    pub(super) fn new(id: ConsumerId, handle: Handle) -> Self {
        let queues = handle.link().with(|machine| {
            let queues = machine.consumer(id).into_iter().flat_map(|it| it.queues());
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
            taken: VecDeque::new(),
            ended: None,
        }
    }

    fn handle(&self) -> &Handle {
        &self.origin.handle
    }

    /// Counts a lost delivery that was taken. Removes and counts those that follow it, so that the
    /// link is locked once for all of them.
    #[cold]
    fn lose_taken(&mut self, epoch: u32) {
        let mut lost = 1;
        let is_lost = |delivered: &Delivered| !delivered.is_settled() && delivered.epoch != epoch;
        while self.taken.front().is_some_and(is_lost) {
            self.taken.pop_front();
            lost += 1;
        }
        self.handle()
            .link()
            .with(|machine| machine.lose_taken(self.id, lost));
    }

    pub(super) fn id(&self) -> ConsumerId {
        self.id
    }

    /// Returns the next delivery, or `None` when the consumer has ended. Yields to the executor
    /// after a few hundred deliveries, even if more are buffered, so that the driver can run.
    ///
    /// # Errors
    /// The last item is an error if the consumer was not ended by this client:
    /// [`Error::ConsumerCancelled`], an error that closed its channel, or the end of the
    /// connection.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Returns the consumer tag that the broker's tools show; that of the first queue if there are
    /// several.
    #[must_use]
    pub fn tag(&self) -> &str {
        self.origin.queues.first().map_or("", |(_, tag)| tag)
    }

    /// Returns the number of deliveries that were dropped because their connection was lost before
    /// they were read. They could not be settled, and the broker delivers them again.
    #[must_use]
    pub fn lost_deliveries(&self) -> u64 {
        self.handle().link().with(|machine| {
            machine
                .consumer(self.id)
                .map_or(0, |it| it.lost_deliveries())
        })
    }

    /// Returns the queues that a consumer of several queues has lost while it continues with the
    /// others, each with the reason.
    ///
    /// The reason is [`Ended::CancelledByServer`] if the broker ended that part of the consumer,
    /// for example because the queue was deleted. It is [`Ended::ChannelClosed`] with the error if
    /// the queue was missing when the connection was recovered.
    ///
    /// Deliveries received from such a queue can still be taken.
    /// [`Notice::QueueEnded`](crate::Notice::QueueEnded) reports each queue when it is lost.
    ///
    /// ```
    /// # puka_test_suite::example(async |client| {
    /// client.queue_declare("orders").await?;
    /// client.queue_declare("refunds").await?;
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
            let queues = consumer.into_iter().flat_map(|it| it.ended_queues());
            queues
                .map(|(queue, why)| (queue.to_str_lossy().into_owned(), why.clone()))
                .collect()
        })
    }

    /// Returns the reason why the consumer has ended, or `None` until all earlier deliveries are
    /// read.
    #[must_use]
    pub fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }

    /// Ends the consumer, and resolves to its tag. Deliveries that were not read go back to the
    /// queue, except those that need no ack, which can still be read. Deliveries that were read can
    /// be settled afterwards.
    ///
    /// # Errors
    /// [`Error::Stale`] if the consumer has already ended.
    ///
    /// # Cancel safety
    /// Dropping the promise does not stop the cancellation.
    pub fn cancel(&mut self) -> Promise<String> {
        let promise = self.handle().link().with(|machine| {
            let promise = machine.cancel(self.id)?;
            self.taken
                .iter()
                .for_each(|delivered| machine.return_later(delivered));
            Ok(promise)
        });
        if promise.is_ok() {
            self.taken.retain(Delivered::is_settled);
        }
        promise.map_or_else(Promise::failed, |id| {
            Promise::new(self.handle().clone(), id)
        })
    }

    /// Asks the broker to deliver all unsettled messages of this consumer again, marked as
    /// redelivered, to this consumer or another. Deliveries that were read before become stale.
    ///
    /// # Errors
    /// [`Error::Stale`] if the consumer has ended.
    ///
    /// # Cancel safety
    /// Dropping the promise does not cancel the request.
    ///
    /// # Spec
    /// `basic.recover`, 1.8.3.16
    #[doc(alias = "basic_recover")]
    pub fn recover(&mut self) -> Promise<()> {
        self.taken.retain(|delivered| delivered.is_settled());
        let promise = self
            .handle()
            .link()
            .with(|machine| machine.recover(self.id));
        promise.map_or_else(Promise::failed, |id| {
            Promise::new(self.handle().clone(), id)
        })
    }
}

impl Stream for Consumer {
    type Item = Result<Delivery, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let epoch = this.handle().link().epoch();
        while let Some(delivered) = this.taken.pop_front() {
            if delivered.is_settled() || delivered.epoch == epoch {
                return Poll::Ready(Some(Ok(Delivery::new(delivered, this.origin.clone()))));
            }
            this.lose_taken(epoch);
        }
        if this.ended.is_some() {
            return Poll::Ready(None);
        }
        let ended =
            match this
                .origin
                .handle
                .link()
                .poll_deliveries(this.id, BATCH, &mut this.taken, cx)
            {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Pin::new(this).poll_next(cx),
                Poll::Ready(Some(ended)) => ended,
            };
        let error = match &ended {
            Ended::Cancelled | Ended::ConnectionBroken(Error::Closed) => None,
            Ended::CancelledByServer => Some(Error::ConsumerCancelled(this.tag().to_owned())),
            Ended::ChannelClosed(error) | Ended::ConnectionBroken(error) => Some(error.clone()),
        };
        this.ended = Some(ended);
        Poll::Ready(error.map(Err))
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        self.origin.handle.link().drop_consumer(self.id, &taken);
    }
}
