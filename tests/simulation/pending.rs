//! The pending requests of an application, its consumers, unsettled deliveries and open
//! transactions.

use crate::checker::Settlement;
use crate::restarts::Interruption;
use puka::machine::{ConsumerId, Delivered, TransactionId};
use puka::protocol::MethodId;
use std::time::{Duration, Instant};

/// A pending request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Connect,
    Close,
    /// Declares the queue of this name; an empty name asks the broker for one.
    DeclareQueue(String),
    /// Purges or deletes the queue of this name, and completes with a count of messages.
    PurgeOrDelete(String),
    /// Declares or deletes an exchange, or binds or unbinds a queue. A binding's name is
    /// `queue|exchange`.
    ChangeTopology(String),
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
    /// Changes the prefetch count of a consumer.
    Qos(ConsumerId),
    /// A publish with a confirm, with the id of its message.
    Publish(u64),
    /// A publish without a confirm. Its promise completes when it is written.
    Unconfirmed(u64),
    /// A call: a message, of which this is the id, and its reply.
    Call(u64),
    BeginTransaction,
    /// Commits a transaction, or rolls it back.
    EndTransaction {
        /// The ids of the messages published in it.
        ids: Vec<u64>,
        commits: bool,
    },
}

impl Request {
    /// Returns the name of the queue, exchange or binding that the request is about.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::DeclareQueue(name) | Self::PurgeOrDelete(name) | Self::ChangeTopology(name) => {
                Some(name)
            }
            Self::Get { queue, .. } | Self::Consume { queue, .. } => Some(queue),
            _ => None,
        }
    }
}

/// What a pending promise is for.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) request: Request,
    /// The method that an error of the broker must name.
    pub(crate) method: MethodId,
    /// When the request was made.
    pub(crate) since: Instant,
    /// The request must succeed, because nothing prevents it.
    pub(crate) must_succeed: bool,
}

/// A consumer, as the application sees it.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) queue: String,
    pub(crate) no_ack: bool,
    pub(crate) prefetch: u16,
    /// What was known when the consumer ended, if it has.
    pub(crate) end: Option<End>,
    /// The application has asked to cancel it.
    pub(crate) is_cancelled: bool,
    /// How many times the broker has interrupted it. Each time it gets another channel, and its
    /// deliveries do not show on which channel they arrived.
    pub(crate) interruptions: usize,
    /// The application must poll the consumer: it was notified of deliveries or of the end, or has
    /// not polled yet.
    pub(crate) notified: bool,
    /// The position of the last message that was not redelivered.
    pub(crate) last_position: Option<usize>,
}

/// What was known when a consumer ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) at: Instant,
    /// The time since the last handshake.
    pub(crate) after: Option<Duration>,
    /// The interruption of the consumer, if it had not started again.
    pub(crate) interruption: Option<Interruption>,
    /// When the restarts of the interrupted consumer were to end.
    pub(crate) limit: Option<Instant>,
    /// The text with which the broker refused the last restart.
    pub(crate) refusal: Option<String>,
    /// The application had begun to close the connection.
    pub(crate) closing: bool,
    /// The connection had ended for good.
    pub(crate) has_finished: bool,
    /// The time since the broker first closed the connection over a crashed channel.
    pub(crate) after_crash: Option<Duration>,
}

/// A delivery that the application has not settled.
#[derive(Debug)]
pub(crate) struct Unsettled {
    pub(crate) delivered: Delivered,
    pub(crate) queue: String,
    /// The copy of the message, as [`copy_of`](crate::publish_observer::copy_of) numbers it.
    pub(crate) copy: u64,
    /// `None` after a `basic.get`.
    pub(crate) consumer: Option<ConsumerId>,
    /// A settlement of a later delivery has settled this one, too.
    pub(crate) settled_with_later: bool,
    /// The number of the transport that delivered it; `None` if the transport was lost by then.
    pub(crate) transport: Option<usize>,
    /// A settlement of a later delivery has settled this one, too, if both arrived on the same
    /// channel.
    pub(crate) perhaps_settled: bool,
}

/// A settlement that the broker may not have received yet.
#[derive(Debug)]
pub(crate) struct SentSettlement {
    /// The consumer of the delivery; `None` after a `basic.get`.
    pub(crate) consumer: Option<ConsumerId>,
    pub(crate) settlement: Settlement,
}

/// An open transaction.
#[derive(Debug)]
pub(crate) struct OpenTransaction {
    pub(crate) id: TransactionId,
    /// The ids of the messages published in it.
    pub(crate) ids: Vec<u64>,
}
