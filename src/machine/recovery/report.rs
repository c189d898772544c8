//! What is told of the connection's ups and downs.

use crate::error::Error;
use std::time::Instant;

/// How a connection is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectionState {
    /// It is being opened for the first time.
    Connecting,
    /// It is open, and everything that it had before it was lost is back, but for what
    /// [`Recovered::failed`] lists.
    Open,
    /// It was lost, and is on its way back.
    Recovering {
        /// How many tries there were, the one under way included.
        attempt: u32,
        /// Why it was lost.
        cause: Error,
        /// When the next try begins; none while one is under way.
        next_at: Option<Instant>,
    },
    /// It is closed; [`Error::Closed`] when it was from this side.
    Closed(Error),
}

/// A transport that is to be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dialling {
    /// The number of attempts since the connection was last open, including this one; 0 for the
    /// very first.
    pub attempt: u32,
    /// Which of the endpoints to begin with.
    pub first: usize,
}

/// What came back with a connection, and what did not.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Recovered {
    /// Which connection this is, counted from 1.
    pub epoch: u32,
    /// How many tries it took.
    pub attempts: u32,
    /// Exchanges, queues and bindings that were declared again.
    pub entities: usize,
    /// Consumers that were started again.
    pub consumers: usize,
    /// Deliveries that had not been handed out and were dropped. The broker delivers them again,
    /// unless they needed no ack.
    pub lost_deliveries: u64,
    /// Queues that have another name now, each with the one before: the broker made both.
    pub renamed: Vec<(Box<str>, Box<str>)>,
    /// What could not be declared or started again, and why. A consumer that the broker refused for
    /// now is among it; it is started again later, and
    /// [`Notice::ConsumerRestored`](crate::Notice::ConsumerRestored) reports when it has started.
    pub failed: Vec<(Box<str>, Error)>,
}

/// What has happened to a connection since it was made, in numbers that only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// How often it has become open: once at first, and once with each recovery.
    pub opened: u64,
    /// How often it was lost or closed when it was open.
    pub lost: u64,
    /// Tries to open it that failed, the handshake and what is declared again included.
    pub failed_attempts: u64,
    /// Publishes, calls and commits that ended as [`Unconfirmed`](Error::Unconfirmed): nobody knows
    /// whether the broker has them.
    pub unconfirmed: u64,
    /// Publishes that were sent once more, each time.
    pub republished: u64,
    /// Deliveries that had not been handed out and were dropped with the connection that they came
    /// over.
    pub lost_deliveries: u64,
    /// Deliveries that were settled too late, or twice: nothing was sent.
    pub stale: u64,
}
