//! The pending requests of an application, its consumers, unsettled deliveries and open
//! transactions.

use puka::machine::{ConsumerId, Delivered, TransactionId};
use puka::protocol::MethodId;
use std::time::{Duration, Instant};

/// A pending request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Connect,
    Close,
    Queue(String),
    Count(String),
    Done(String),
    Get {
        queue: String,
        no_ack: bool,
    },
    Consume {
        queue: String,
        no_ack: bool,
        prefetch: u16,
        exclusive: bool,
    },
    Cancel(ConsumerId),
    Qos(ConsumerId),
    Publish(u64),
    /// A publish without a promise.
    Unconfirmed(u64),
    /// A call: a message and its reply.
    Call(u64),
    Begin,
    /// The publishes of a transaction, and whether it commits.
    Finish {
        ids: Vec<u64>,
        commits: bool,
    },
}

impl Request {
    /// Returns the entity that it concerns: a name, or `queue|exchange`.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Queue(name) | Self::Count(name) | Self::Done(name) => Some(name),
            Self::Get { queue, .. } | Self::Consume { queue, .. } => Some(queue),
            _ => None,
        }
    }
}

/// A pending promise.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) request: Request,
    pub(crate) method: MethodId,
    pub(crate) since: Instant,
    /// It must succeed, because nothing prevents it.
    pub(crate) must_succeed: bool,
}

/// A consumer, as the application sees it.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) queue: String,
    pub(crate) no_ack: bool,
    pub(crate) prefetch: u16,
    pub(crate) exclusive: bool,
    /// The time from the last handshake to its end.
    pub(crate) ended_after: Option<Duration>,
    /// The application was notified of deliveries, or has not polled yet.
    pub(crate) awake: bool,
    /// The position of the last message that was not redelivered.
    pub(crate) last_place: Option<usize>,
}

/// A delivery that the application has not settled.
#[derive(Debug)]
pub(crate) struct Unsettled {
    pub(crate) delivered: Delivered,
    pub(crate) queue: String,
    pub(crate) copy: u64,
    pub(crate) consumer: Option<ConsumerId>,
    /// It was settled along with a later one.
    pub(crate) stale: bool,
    /// The number of transports so far when it arrived; `None` if the transport was lost by then.
    pub(crate) transport: Option<usize>,
}

/// An open transaction and its publishes.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) id: TransactionId,
    pub(crate) ids: Vec<u64>,
}
