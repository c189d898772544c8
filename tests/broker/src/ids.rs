//! The identifiers of connections, queues and consumers, and the context of a frame.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// Identifies a connection of a [`Broker`](crate::Broker). Identifiers are not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub(crate) u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Identifies a queue. A queue that is deleted and declared again has a new identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueueId(pub(crate) u64);

/// Identifies a consumer: its tag on a channel of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConsumerKey {
    pub(crate) connection: ConnectionId,
    pub(crate) channel: u16,
    pub(crate) tag: Arc<str>,
}

/// The instant, the connection and the channel at which a frame arrived.
///
/// The connection exists while the frame is handled, because only `Broker::handle_eof` removes it.
/// A function that looks it up and does not find it returns without an effect, which is
/// unreachable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameContext {
    pub(crate) now: Instant,
    pub(crate) connection: ConnectionId,
    pub(crate) channel: u16,
}
