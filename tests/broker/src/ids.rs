//! What names a connection, a queue, a consumer.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// A connection of a [`Broker`](crate::Broker). It is never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub(crate) u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// One incarnation of a queue: deleting and declaring it anew makes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueueId(pub(crate) u64);

/// A consumer: its tag on a channel of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConsumerKey {
    pub(crate) connection: ConnectionId,
    pub(crate) channel: u16,
    pub(crate) tag: Arc<str>,
}

/// Where and when a frame arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) now: Instant,
    pub(crate) connection: ConnectionId,
    pub(crate) channel: u16,
}
