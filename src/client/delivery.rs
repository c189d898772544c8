//! A message that was delivered, with the means to settle it.

use super::handle::Handle;
use crate::error::Error;
use crate::machine::{Delivered, Settle};
use crate::message::Message;
use crate::protocol::{DecodeError, Properties, TableRef};
use std::borrow::Cow;
use std::sync::Arc;

/// A message that the broker waits for to be settled.
///
/// Settling is queued at once, and there is nothing to wait for. A delivery that is dropped unsettled, by an early return, a
/// panic or a cancelled task, goes back to its queue; the broker marks it as redelivered the next time.
#[derive(Debug)]
#[must_use = "a delivery that is dropped unsettled goes back to its queue"]
pub struct Delivery {
    delivered: Delivered,
    origin: Arc<Origin>,
}

/// What the deliveries of one consumer have in common.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) handle: Handle,
    /// The queues as they were asked for, each with its consumer tag; none for a message that was got.
    pub(super) queues: Vec<(String, String)>,
    /// Messages left in the queue, when one was got.
    pub(super) message_count: Option<u32>,
}

impl Delivery {
    pub(super) fn new(delivered: Delivered, origin: Arc<Origin>) -> Self {
        Self { delivered, origin }
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.delivered.message
    }

    /// The body; empty when it was [too large](Message::too_large_body) to be kept.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.message().body()
    }

    /// The routing key it was published with. U+FFFD stands for what is not UTF-8.
    #[must_use]
    pub fn routing_key(&self) -> Cow<'_, str> {
        self.message().routing_key()
    }

    /// The exchange it was published to; empty for the default one.
    #[must_use]
    pub fn exchange(&self) -> Cow<'_, str> {
        self.message().exchange()
    }

    /// The properties.
    #[must_use]
    pub fn properties(&self) -> Properties<'_> {
        self.message().properties()
    }

    /// The headers; an empty table when there are none.
    ///
    /// # Errors
    /// What is wrong with them, which is the fault of who published the message.
    pub fn headers(&self) -> Result<TableRef<'_>, DecodeError> {
        self.message().headers()
    }

    /// Whether it was delivered before, to this consumer or another, and not acknowledged.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.delivered.redelivered
    }

    fn source(&self) -> Option<&(String, String)> {
        self.origin.queues.get(self.delivered.source as usize)
    }

    /// The queue it is from, as it was named when its consumer was started; `None` when it was got and not consumed.
    #[must_use]
    pub fn queue(&self) -> Option<&str> {
        self.source().map(|(queue, _)| queue.as_str())
    }

    /// The tag of its consumer for that queue; `None` when it was got and not consumed.
    #[must_use]
    pub fn consumer_tag(&self) -> Option<&str> {
        self.source().map(|(_, tag)| tag.as_str())
    }

    /// Which connection brought it, counted from 1. Once that is lost, the delivery can't be settled.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.delivered.epoch
    }

    /// Messages left in the queue, when it was got and not consumed.
    #[must_use]
    pub fn message_count(&self) -> Option<u32> {
        self.origin.message_count
    }

    fn settle(mut self, how: Settle) -> Result<(), Error> {
        // What needs no ack is settled from the start, and the machine has nothing to do.
        if self.delivered.is_settled() {
            return Ok(());
        }
        let Self { delivered, origin } = &mut self;
        origin.handle.link().with(|machine| {
            let settled = machine.settle(delivered, how);
            // Before anything of the user's is run, which may panic, and drop it once more.
            delivered.set_settled();
            settled
        })
    }

    /// Says that the message is dealt with. Acknowledgements that stand for everything before them leave as one.
    ///
    /// # Errors
    /// [`Error::Stale`] when its channel or connection has gone: nothing is sent, and the broker delivers the message again.
    ///
    /// # Spec
    /// `basic.ack`, 1.8.3.13
    pub fn ack(self) -> Result<(), Error> {
        self.settle(Settle::Ack { multiple: false })
    }

    /// Says that this message is dealt with and so are all that its consumer was delivered before it. Those deliveries are
    /// settled by that; settling one of them again is [`Error::Stale`].
    ///
    /// # Errors
    /// [`Error::Stale`], as for [`ack`](Self::ack).
    ///
    /// # Spec
    /// `basic.ack`, 1.8.3.13
    pub fn ack_multiple(self) -> Result<(), Error> {
        self.settle(Settle::Ack { multiple: true })
    }

    /// Refuses the message: back to its queue with `requeue`, else dropped or dead-lettered. A stream keeps it either way
    /// ([`StreamOffset`](crate::StreamOffset)).
    ///
    /// # Errors
    /// [`Error::Stale`], as for [`ack`](Self::ack).
    ///
    /// # Spec
    /// `basic.reject`, 1.8.3.14
    pub fn reject(self, requeue: bool) -> Result<(), Error> {
        self.settle(Settle::Reject { requeue })
    }

    /// Refuses the message, with `multiple` all that its consumer was delivered before it, too. With `requeue` it goes back
    /// to its queue, else it is dropped or dead-lettered.
    ///
    /// # Errors
    /// [`Error::Stale`], as for [`ack`](Self::ack).
    ///
    /// # Spec
    /// RabbitMQ's extension `basic.nack`.
    pub fn nack(self, multiple: bool, requeue: bool) -> Result<(), Error> {
        self.settle(Settle::Nack { multiple, requeue })
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.delivered.is_settled() {
            self.origin.handle.link().with(|machine| machine.give_back(&self.delivered));
        }
    }
}
