//! The state of a channel: its mode, its consumers, its unsettled deliveries, and a content that is
//! arriving.

use crate::confirms::Confirms;
use crate::ids::QueueId;
use crate::message::Message;
use crate::queue::Entry;
use crate::reply_to::ReplyConsumer;
use bytes::Bytes;
use puka::protocol::FrameKind;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A channel that is open, or that the broker has closed and the client has not confirmed.
#[derive(Debug, Default)]
pub(crate) struct Channel {
    /// The broker has sent `channel.close`. Everything before `close-ok` is ignored.
    pub(crate) closing: bool,
    pub(crate) content: Option<Content>,
    pub(crate) mode: Mode,
    pub(crate) consumers: BTreeMap<Arc<str>, Consumer>,
    pub(crate) reply_consumer: Option<ReplyConsumer>,
    pub(crate) unacked: BTreeMap<u64, Unacked>,
    last_tag: u64,
    /// The limit of each later consumer; 0 for no limit.
    pub(crate) prefetch: u16,
    /// The limit of the channel as a whole; 0 for no limit.
    pub(crate) global_prefetch: u16,
    /// The number of unsettled deliveries to consumers.
    pub(crate) outstanding: usize,
    /// The queue that an empty queue name refers to.
    pub(crate) last_queue: Option<Arc<str>>,
    /// The stuck queue that the first frame of the backlog needs.
    pub(crate) waits_for: Option<QueueId>,
    /// The frames that are processed when the stuck queue is released.
    pub(crate) backlog: Vec<(FrameKind, Bytes)>,
}

/// The mode of a channel: publishes are confirmed, or wait for a commit, or neither.
#[derive(Debug, Default)]
pub(crate) enum Mode {
    #[default]
    Plain,
    Confirm(Confirms),
    Transaction(Transaction),
}

/// The pending work of a transaction.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) publishes: Vec<Publish>,
    pub(crate) settlements: Vec<(BTreeMap<u64, Unacked>, Settlement)>,
}

/// A message and its destinations.
#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) message: Arc<Message>,
    pub(crate) queues: BTreeSet<QueueId>,
    pub(crate) mandatory: bool,
}

/// The kind of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    Ack,
    Requeue,
    Reject,
}

/// The channel's view of a consumer.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) queue: QueueId,
    pub(crate) no_ack: bool,
    pub(crate) prefetch: u16,
    pub(crate) outstanding: usize,
    /// The consumer was cancelled because it did not acknowledge in time. It stays until the client
    /// confirms.
    pub(crate) timed_out: bool,
}

/// An unsettled delivery.
#[derive(Debug)]
pub(crate) struct Unacked {
    pub(crate) queue: QueueId,
    pub(crate) entry: Entry,
    /// The consumer's tag; `None` after `basic.get`.
    pub(crate) consumer: Option<Arc<str>>,
}

/// A `basic.publish` whose header and body are arriving.
#[derive(Debug)]
pub(crate) struct Content {
    /// The payload of the method frame.
    pub(crate) method: Bytes,
    pub(crate) header: Option<Bytes>,
    pub(crate) body_size: u64,
    pub(crate) received: u64,
    /// The received bytes, if the body is within the limit.
    pub(crate) body: Vec<u8>,
}

impl Content {
    pub(crate) fn new(method: Bytes) -> Self {
        Self {
            method,
            header: None,
            body_size: 0,
            received: 0,
            body: Vec::new(),
        }
    }
}

impl Channel {
    /// Returns the next delivery tag. Each channel counts its deliveries and the messages of its
    /// `basic.get` together, from 1.
    pub(crate) fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    /// Returns `true` if prefetch allows another message for a consumer. Both limits apply, and
    /// neither concerns a consumer without acknowledgements.
    pub(crate) fn has_credit(&self, tag: &str) -> bool {
        let within =
            |limit: u16, outstanding: usize| limit == 0 || outstanding < usize::from(limit);
        !self.closing
            && self.consumers.get(tag).is_some_and(|consumer| {
                consumer.no_ack
                    || within(consumer.prefetch, consumer.outstanding)
                        && within(self.global_prefetch, self.outstanding)
            })
    }

    /// Records an unsettled delivery, which takes credit of its consumer.
    pub(crate) fn add_unacked(&mut self, tag: u64, unacked: Unacked) {
        if let Some(name) = &unacked.consumer {
            self.outstanding += 1;
            if let Some(consumer) = self.consumers.get_mut(name) {
                consumer.outstanding += 1;
            }
        }
        self.unacked.insert(tag, unacked);
    }

    /// Returns the credit of a settled delivery to its consumer.
    pub(crate) fn return_credit(&mut self, unacked: &Unacked) {
        if let Some(name) = &unacked.consumer {
            self.outstanding = self.outstanding.saturating_sub(1);
            // A new consumer with the same tag may have started since. It has not taken this
            // credit, so its count may be 0.
            if let Some(consumer) = self.consumers.get_mut(name) {
                consumer.outstanding = consumer.outstanding.saturating_sub(1);
            }
        }
    }

    /// Returns the queues of the channel's consumers, which may have credit again.
    pub(crate) fn queues(&self) -> impl Iterator<Item = QueueId> {
        self.consumers.values().map(|consumer| consumer.queue)
    }
}
