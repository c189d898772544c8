//! Delivered messages, and the methods that settle them.

use super::handle::Handle;
use crate::error::Error;
use crate::machine::{Delivered, Settle};
use crate::message::Message;
use crate::protocol::{DecodeError, Properties, TableRef};
use std::borrow::Cow;
use std::sync::Arc;

/// A message received from a queue, to be settled.
///
/// Settling is queued at once, and there is no reply to wait for. A delivery that is dropped
/// unsettled goes back to its queue, for example after an early return, a panic or a cancelled
/// task. The broker then delivers the message again, marked as redelivered. If deliveries of a
/// consumer are dropped in a row, they go back after a delay; see [`OnDrop`](crate::OnDrop).
#[derive(Debug)]
#[must_use = "a delivery that is dropped unsettled goes back to its queue"]
pub struct Delivery {
    delivered: Delivered,
    origin: Arc<Origin>,
}

/// The data that all deliveries of one consumer share.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) handle: Handle,
    /// The queues as named in the request, each with its consumer tag; empty for a `basic_get`.
    pub(super) queues: Vec<(String, String)>,
    /// The number of messages left in the queue, for a `basic_get`.
    pub(super) message_count: Option<u32>,
}

impl Delivery {
    pub(super) fn new(delivered: Delivered, origin: Arc<Origin>) -> Self {
        Self { delivered, origin }
    }

    /// Returns the message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.delivered.message
    }

    /// Returns the body; empty if it was [too large](Message::too_large_body) to be stored.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.message().body()
    }

    /// Returns the routing key of the publish, with U+FFFD in place of invalid UTF-8.
    #[must_use]
    pub fn routing_key(&self) -> Cow<'_, str> {
        self.message().routing_key()
    }

    /// Returns the exchange of the publish; empty for the default exchange.
    #[must_use]
    pub fn exchange(&self) -> Cow<'_, str> {
        self.message().exchange()
    }

    /// Returns the properties.
    #[must_use]
    pub fn properties(&self) -> Properties<'_> {
        self.message().properties()
    }

    /// Returns the headers; an empty table if there are none.
    ///
    /// # Errors
    /// A [`DecodeError`] if the headers are malformed. The publisher of the message is at fault.
    pub fn headers(&self) -> Result<TableRef<'_>, DecodeError> {
        self.message().headers()
    }

    /// Returns `true` if the message was delivered before, to this consumer or another, and not
    /// acknowledged.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.delivered.redelivered
    }

    /// Returns the queue and the consumer tag; `None` for a `basic_get`.
    fn queue_and_tag(&self) -> Option<&(String, String)> {
        self.origin.queues.get(self.delivered.source as usize)
    }

    /// Returns the queue, as named when its consumer was started; `None` for a `basic_get`.
    #[must_use]
    pub fn queue(&self) -> Option<&str> {
        self.queue_and_tag().map(|(queue, _)| queue.as_str())
    }

    /// Returns the consumer tag for the queue; `None` for a `basic_get`.
    #[must_use]
    pub fn consumer_tag(&self) -> Option<&str> {
        self.queue_and_tag().map(|(_, tag)| tag.as_str())
    }

    /// Returns the epoch of the connection that received the message, counted from 1. The delivery
    /// becomes stale when that connection is lost.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.delivered.epoch
    }

    /// Returns the offset of the message in its stream; `None` for a message of a queue. It is the
    /// header `x-stream-offset`, which messages that were copied from a stream have, too.
    ///
    /// # Spec
    /// RabbitMQ's guide on streams, "Consuming".
    #[must_use]
    pub fn stream_offset(&self) -> Option<u64> {
        u64::try_from(self.delivered.stream_offset()?).ok()
    }

    /// Returns the number of messages left in the queue; `None` for a message of a consumer.
    #[must_use]
    pub fn message_count(&self) -> Option<u32> {
        self.origin.message_count
    }

    /// Settles the delivery, unless it needs no ack.
    fn settle(mut self, how: Settle) -> Result<(), Error> {
        // A delivery that needs no ack counts as settled from the start.
        if self.delivered.is_settled() {
            return Ok(());
        }
        let Self { delivered, origin } = &mut self;
        origin.handle.link().with(|machine| {
            let settled = machine.settle(delivered, how);
            // Set before `with` releases the lock and wakes tasks. A waker is the user's code and
            // may panic, and `drop` must not settle the delivery again.
            delivered.set_settled();
            settled
        })
    }

    /// Acknowledges the message. Consecutive acknowledgements are sent as one `multiple` ack.
    ///
    /// # Errors
    /// [`Error::Stale`] if the channel or connection of the delivery is gone. Nothing is sent, and
    /// the broker delivers the message again.
    ///
    /// # Spec
    /// `basic.ack`, 1.8.3.13
    #[doc(alias = "basic_ack")]
    pub fn ack(self) -> Result<(), Error> {
        self.settle(Settle::Ack { multiple: false })
    }

    /// Acknowledges this message and all messages that its consumer received before it. Settling
    /// one of those deliveries afterwards returns [`Error::Stale`].
    ///
    /// # Errors
    /// [`Error::Stale`], as for [`ack`](Self::ack).
    ///
    /// # Spec
    /// `basic.ack`, 1.8.3.13
    pub fn ack_multiple(self) -> Result<(), Error> {
        self.settle(Settle::Ack { multiple: true })
    }

    /// Refuses the message. With `requeue` it goes back to its queue, otherwise it is dropped or
    /// dead-lettered. A stream keeps it in both cases ([`StreamOffset`](crate::StreamOffset)).
    ///
    /// # Errors
    /// [`Error::Stale`], as for [`ack`](Self::ack).
    ///
    /// # Spec
    /// `basic.reject`, 1.8.3.14
    #[doc(alias = "basic_reject")]
    pub fn reject(self, requeue: bool) -> Result<(), Error> {
        self.settle(Settle::Reject { requeue })
    }

    /// Returns the message to its queue, which delivers it again: [`reject`](Self::reject) with
    /// `requeue`.
    ///
    /// # Errors
    /// [`Error::Stale`], as for [`ack`](Self::ack).
    ///
    /// ```
    /// # puka_test_suite::example(async |client| {
    /// # client.queue_declare("orders").durable(true).await?;
    /// # client.basic_publish("", "orders", "one").await?;
    /// let order = client.basic_get("orders").await?.expect("one was published");
    /// order.requeue()?;
    /// let order = client.basic_get("orders").await?.expect("it is back");
    /// assert!(order.redelivered());
    /// order.discard()?;
    /// assert!(client.basic_get("orders").await?.is_none());
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Spec
    /// `basic.reject`, 1.8.3.14
    pub fn requeue(self) -> Result<(), Error> {
        self.reject(true)
    }

    /// Drops the message, or dead-letters it if its queue says so: [`reject`](Self::reject) without
    /// `requeue`.
    ///
    /// # Errors
    /// [`Error::Stale`], as for [`ack`](Self::ack).
    ///
    /// # Spec
    /// `basic.reject`, 1.8.3.14
    pub fn discard(self) -> Result<(), Error> {
        self.reject(false)
    }

    /// Refuses the message, and with `multiple` also all messages that its consumer received before
    /// it. With `requeue` they go back to the queue, otherwise they are dropped or dead-lettered.
    ///
    /// Since RabbitMQ 4.3, a message that is requeued by this method can be delivered without
    /// limit, because it does not count towards the delivery limit of a quorum queue. For a message
    /// that has failed, use [`reject`](Self::reject), which counts.
    ///
    /// # Errors
    /// [`Error::Stale`], as for [`ack`](Self::ack). [`Error::MissingCapability`] for several
    /// messages, if the broker does not support `basic.nack`; one message is then rejected instead.
    ///
    /// # Spec
    /// RabbitMQ's extension `basic.nack`.
    #[doc(alias = "basic_nack")]
    pub fn nack(self, multiple: bool, requeue: bool) -> Result<(), Error> {
        self.settle(Settle::Nack { multiple, requeue })
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.delivered.is_settled() {
            self.origin
                .handle
                .link()
                .with(|machine| machine.give_back(&self.delivered));
        }
    }
}
