//! What the broker keeps of a channel: its mode, its consumers, what is unsettled, a content that is arriving.

use crate::confirms::Confirms;
use crate::ids::QueueId;
use crate::message::Message;
use crate::queue::Entry;
use crate::reply_to::ReplyConsumer;
use bytes::Bytes;
use puka::protocol::FrameKind;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A channel that is open, or that the broker has closed and the client has not yet agreed.
#[derive(Debug, Default)]
pub(crate) struct Channel {
    /// After the broker's `channel.close` everything is ignored up to `close-ok`.
    pub(crate) closing: bool,
    pub(crate) content: Option<Content>,
    pub(crate) mode: Mode,
    pub(crate) consumers: BTreeMap<Arc<str>, Consumer>,
    pub(crate) reply_consumer: Option<ReplyConsumer>,
    pub(crate) unacked: BTreeMap<u64, Unacked>,
    last_tag: u64,
    /// For each consumer to come; 0 for no limit.
    pub(crate) prefetch: u16,
    /// For the channel as a whole; 0 for no limit.
    pub(crate) global_prefetch: u16,
    /// Deliveries to consumers that are not settled.
    pub(crate) outstanding: usize,
    /// What an empty queue name stands for.
    pub(crate) last_queue: Option<Arc<str>>,
    /// The stuck queue that the first frame of the backlog is for.
    pub(crate) waits_for: Option<QueueId>,
    pub(crate) backlog: Vec<(FrameKind, Bytes)>,
}

/// Whether publishes are confirmed, or wait for a commit, or neither.
#[derive(Debug, Default)]
pub(crate) enum Mode {
    #[default]
    Plain,
    Confirm(Confirms),
    Transaction(Transaction),
}

/// What a commit will do.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) publishes: Vec<Publish>,
    pub(crate) settlements: Vec<(BTreeMap<u64, Unacked>, Settlement)>,
}

/// A message and where it goes.
#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) message: Arc<Message>,
    pub(crate) queues: BTreeSet<QueueId>,
    pub(crate) mandatory: bool,
}

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    Ack,
    Requeue,
    Reject,
}

/// A consumer as its channel knows it.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) queue: QueueId,
    pub(crate) no_ack: bool,
    pub(crate) prefetch: u16,
    pub(crate) outstanding: usize,
    /// It was cancelled because it did not acknowledge in time. It stays until the client confirms.
    pub(crate) timed_out: bool,
}

/// A delivery that is not settled.
#[derive(Debug)]
pub(crate) struct Unacked {
    pub(crate) queue: QueueId,
    pub(crate) entry: Entry,
    /// Whose it is; none after `basic.get`.
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
    /// What was received, as far as it is within the limit.
    pub(crate) body: Vec<u8>,
}

impl Content {
    pub(crate) fn new(method: Bytes) -> Self {
        Self { method, header: None, body_size: 0, received: 0, body: Vec::new() }
    }
}

impl Channel {
    /// "Delivery tags: per channel, from 1, counting deliveries and get-oks alike."
    pub(crate) fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    /// Whether a consumer may be sent another message, as far as prefetch goes. Both limits hold, and neither concerns
    /// a consumer without acks.
    pub(crate) fn has_credit(&self, tag: &str) -> bool {
        let within = |limit: u16, outstanding: usize| limit == 0 || outstanding < usize::from(limit);
        !self.closing
            && self.consumers.get(tag).is_some_and(|consumer| {
                consumer.no_ack
                    || within(consumer.prefetch, consumer.outstanding)
                        && within(self.global_prefetch, self.outstanding)
            })
    }

    /// Remembers a delivery that is to be settled.
    pub(crate) fn hold(&mut self, tag: u64, unacked: Unacked) {
        if let Some(name) = &unacked.consumer {
            self.outstanding += 1;
            if let Some(consumer) = self.consumers.get_mut(name) {
                consumer.outstanding += 1;
            }
        }
        self.unacked.insert(tag, unacked);
    }

    /// Gives back the credit of a delivery that is settled.
    pub(crate) fn release(&mut self, unacked: &Unacked) {
        if let Some(name) = &unacked.consumer {
            self.outstanding = self.outstanding.saturating_sub(1);
            // A new consumer of the same tag may have begun since; it owes nothing for this one.
            if let Some(consumer) = self.consumers.get_mut(name) {
                consumer.outstanding = consumer.outstanding.saturating_sub(1);
            }
        }
    }

    /// The queues whose consumers may go on when there is credit again.
    pub(crate) fn queues(&self) -> impl Iterator<Item = QueueId> {
        self.consumers.values().map(|consumer| consumer.queue)
    }
}
