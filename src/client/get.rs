//! Requests for a single message.

use super::builder::{flags, name};
use super::{Client, Delivery};
use crate::machine::TransactionId;
use crate::protocol::method::basic;
use std::borrow::Cow;

/// A request for one message of a queue. Returned by [`Client::basic_get`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct BasicGet<'a> {
    client: &'a Client,
    queue: Cow<'a, str>,
    no_ack: bool,
    transaction: Option<TransactionId>,
}

flags! { BasicGet:
    /// Makes the message count as settled when the broker sends it, so it is lost if it does not
    /// arrive. Off by default.
    no_ack,
}

request!(BasicGet, Request, Option<Delivery>, |request, machine| {
    let get = basic::Get {
        queue: name("queue", &request.queue)?,
        no_ack: request.no_ack,
    };
    match request.transaction {
        None => machine.request(get),
        Some(id) => machine.get_in(id, get),
    }
});

impl BasicGet<'_> {
    pub(super) fn within(mut self, transaction: TransactionId) -> Self {
        self.transaction = Some(transaction);
        self
    }
}

impl Client {
    /// Requests one message of a queue, and resolves to `None` if the queue is empty.
    ///
    /// Each unsettled message uses a channel of its own, and the broker limits their number
    /// ([`Options::channel_max`](crate::Options::channel_max)). So settle each message before the
    /// next get. To read many messages, use [`basic_consume`](Self::basic_consume).
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if the queue does not exist;
    /// [`InvalidArgument`](crate::Error::InvalidArgument) if the name is empty;
    /// [`ChannelLimit`](crate::Error::ChannelLimit) if too many messages are unsettled, because
    /// some channels are reserved for other requests, publishes and consumers.
    ///
    /// # Spec
    /// `basic.get`, 1.8.3.10
    pub fn basic_get<'a>(&'a self, queue: impl Into<Cow<'a, str>>) -> BasicGet<'a> {
        BasicGet {
            client: self,
            queue: queue.into(),
            no_ack: false,
            transaction: None,
        }
    }
}
