//! What a test may see of the broker.

use bytes::Bytes;
use puka::protocol::Properties;

/// A queue, as it is at the moment of asking.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueueView {
    /// Its virtual host.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether a connection has it for itself.
    pub exclusive: bool,
    /// Whether it goes with its last consumer.
    pub auto_delete: bool,
    /// The messages that are ready, the next one first.
    pub ready: Vec<QueuedMessage>,
    /// How many messages are delivered and not settled.
    pub unacked: usize,
    /// How many consumers it has.
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
    /// The properties, as a consumer would get them.
    #[must_use]
    pub fn properties(&self) -> Properties<'_> {
        Properties::decode(&self.property_list).unwrap_or_default()
    }
}

/// An exchange, as it is at the moment of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExchangeView {
    /// Its virtual host.
    pub vhost: String,
    /// Its name.
    pub name: String,
    /// Its type, such as `direct`.
    pub kind: String,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it goes with its last binding.
    pub auto_delete: bool,
    /// Whether it takes no publishes.
    pub internal: bool,
    /// How many bindings lead from it.
    pub bindings: usize,
}

/// A message that the broker took: what was, or will be, confirmed by an ack.
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
    /// The queues it went to; none when it was unroutable.
    pub queues: Vec<String>,
    pub(crate) property_list: Bytes,
}

impl Published {
    /// The properties.
    #[must_use]
    pub fn properties(&self) -> Properties<'_> {
        Properties::decode(&self.property_list).unwrap_or_default()
    }

    /// What it costs to remember it.
    pub(crate) fn octets(&self) -> usize {
        self.body.len() + self.property_list.len()
    }
}
