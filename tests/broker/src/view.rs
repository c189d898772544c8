//! The views of the broker's entities for tests.

use bytes::Bytes;
use puka::protocol::Properties;

/// A snapshot of a queue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueueView {
    /// Its virtual host.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// Whether the queue survives a restart.
    pub durable: bool,
    /// Whether the queue is exclusive to a connection.
    pub exclusive: bool,
    /// Whether the queue is deleted with its last consumer.
    pub auto_delete: bool,
    /// The ready messages in order.
    pub ready: Vec<QueuedMessage>,
    /// The number of unsettled deliveries.
    pub unacked: usize,
    /// The number of consumers.
    pub consumers: usize,
}

/// A message in a queue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueuedMessage {
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: Bytes,
    /// The body.
    pub body: Bytes,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// The number of deliveries so far.
    pub deliveries: u32,
    pub(crate) property_list: Bytes,
}

impl QueuedMessage {
    /// Returns the properties as a consumer would receive them.
    #[must_use]
    pub fn properties(&self) -> Properties<'_> {
        Properties::decode(&self.property_list).unwrap_or_default()
    }
}

/// A snapshot of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExchangeView {
    /// Its virtual host.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// Its type, such as `direct`.
    pub kind: String,
    /// Whether the exchange survives a restart.
    pub durable: bool,
    /// Whether the exchange is deleted with its last binding.
    pub auto_delete: bool,
    /// Whether clients cannot publish to the exchange.
    pub internal: bool,
    /// The number of bindings with this source.
    pub bindings: usize,
}

/// A message that the broker has accepted: it was, or will be, confirmed with an ack.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Published {
    /// The virtual host.
    pub vhost: String,
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: Bytes,
    /// The body.
    pub body: Bytes,
    /// The queues that the message was routed to; none if it was unroutable.
    pub queues: Vec<String>,
    pub(crate) property_list: Bytes,
}

impl Published {
    /// Returns the properties.
    #[must_use]
    pub fn properties(&self) -> Properties<'_> {
        Properties::decode(&self.property_list).unwrap_or_default()
    }

    /// Returns the size of the record, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.body.len() + self.property_list.len()
    }
}
