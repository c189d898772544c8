//! A classic queue: messages in order, and its consumers.

use crate::arguments::{Overflow, QueueArguments};
use crate::ids::{ConnectionId, ConsumerKey, QueueId};
use crate::message::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// The position of a message in its queue. It is the same after a delivery and requeue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// 0 for the highest priority.
    rank: u8,
    sequence: u64,
}

/// A message in a queue, or delivered from it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) message: Arc<Message>,
    pub(crate) position: Position,
    pub(crate) redelivered: bool,
    /// The number of deliveries so far.
    pub(crate) deliveries: u32,
    pub(crate) expires_at: Option<Instant>,
}

/// The queue's view of a consumer.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) key: ConsumerKey,
    pub(crate) priority: i64,
    pub(crate) exclusive: bool,
}

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) id: QueueId,
    pub(crate) vhost: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    /// The connection of an exclusive queue.
    pub(crate) owner: Option<ConnectionId>,
    pub(crate) arguments: QueueArguments,
    ready: BTreeMap<Position, Entry>,
    ready_bytes: u64,
    sequence: u64,
    pub(crate) unacked: usize,
    /// The consumers in the order of their turns: by priority, then by the time since the last
    /// delivery.
    pub(crate) consumers: Vec<Subscription>,
    /// The consumer that receives all messages, if `x-single-active-consumer` is set.
    pub(crate) active: Option<ConsumerKey>,
    pub(crate) last_used: Instant,
    /// Whether messages were requeued since the queue was last idle.
    pub(crate) requeued: bool,
}

impl Queue {
    pub(crate) fn new(
        id: QueueId,
        vhost: Arc<str>,
        name: Arc<str>,
        arguments: QueueArguments,
        now: Instant,
    ) -> Self {
        Self {
            id,
            vhost,
            name,
            durable: false,
            auto_delete: false,
            owner: None,
            arguments,
            ready: BTreeMap::new(),
            ready_bytes: 0,
            sequence: 0,
            unacked: 0,
            consumers: Vec::new(),
            active: None,
            last_used: now,
            requeued: false,
        }
    }

    /// Returns the ready messages in their order.
    pub(crate) fn ready(&self) -> impl Iterator<Item = &Entry> {
        self.ready.values()
    }

    /// Returns the number of ready messages.
    pub(crate) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// Returns the number of ready messages for a reply.
    pub(crate) fn message_count(&self) -> u32 {
        u32::try_from(self.ready.len()).unwrap_or(u32::MAX)
    }

    /// Returns the number of consumers for a reply.
    pub(crate) fn consumer_count(&self) -> u32 {
        u32::try_from(self.consumers.len()).unwrap_or(u32::MAX)
    }

    /// Adds a message behind the others of its priority.
    pub(crate) fn push(&mut self, message: Arc<Message>, now: Instant) {
        let rank = self
            .arguments
            .max_priority
            .map_or(0, |max| max - message.priority.min(max));
        let position = Position {
            rank,
            sequence: self.sequence,
        };
        self.sequence += 1;
        // The lower one of the queue's and the message's time to live applies.
        let ttl = self
            .arguments
            .message_ttl
            .into_iter()
            .chain(message.expiration)
            .min();
        let expires_at = ttl.and_then(|ttl| now.checked_add(ttl));
        self.put_back(Entry {
            message,
            position,
            redelivered: false,
            deliveries: 0,
            expires_at,
        });
    }

    /// Puts a message back at its position.
    pub(crate) fn put_back(&mut self, entry: Entry) {
        self.ready_bytes += bytes(&entry);
        self.ready.insert(entry.position, entry);
    }

    /// Returns the next message.
    pub(crate) fn head(&self) -> Option<&Entry> {
        self.ready.values().next()
    }

    /// Takes the next message.
    pub(crate) fn pop(&mut self) -> Option<Entry> {
        let (_, entry) = self.ready.pop_first()?;
        self.ready_bytes -= bytes(&entry);
        Some(entry)
    }

    /// Removes all ready messages. Returns their number.
    pub(crate) fn purge(&mut self) -> u32 {
        let count = self.message_count();
        self.ready.clear();
        self.ready_bytes = 0;
        count
    }

    /// Removes the messages that do not survive a restart.
    pub(crate) fn retain_persistent(&mut self) {
        self.ready.retain(|_, entry| entry.message.persistent);
        self.ready_bytes = self.ready.values().map(bytes).sum();
    }

    /// Returns `true` if another message of this many bytes would exceed a limit.
    pub(crate) fn would_overflow(&self, body: usize) -> bool {
        let bytes = self.ready_bytes + u64::try_from(body).unwrap_or(u64::MAX);
        self.overflows(self.ready.len() + 1, bytes)
    }

    /// Returns `true` if the queue exceeds a limit and drops messages from its head. A queue that
    /// refuses publishes instead keeps all requeued messages.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.arguments.overflow == Overflow::DropHead
            && self.overflows(self.ready.len(), self.ready_bytes)
    }

    /// Returns `true` if this many messages, or this many bytes, exceed a limit.
    fn overflows(&self, count: usize, bytes: u64) -> bool {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.arguments.max_length.is_some_and(|max| count > max)
            || self
                .arguments
                .max_length_bytes
                .is_some_and(|max| bytes > max)
    }

    /// Adds a consumer behind the others of its priority.
    pub(crate) fn subscribe(&mut self, subscription: Subscription) {
        if self.arguments.single_active_consumer && self.active.is_none() {
            self.active = Some(subscription.key.clone());
        }
        let index = self
            .consumers
            .partition_point(|other| other.priority >= subscription.priority);
        self.consumers.insert(index, subscription);
    }

    /// Removes a consumer. If it was the active one, the next one becomes active.
    pub(crate) fn unsubscribe(&mut self, key: &ConsumerKey) -> bool {
        let before = self.consumers.len();
        self.consumers
            .retain(|subscription| subscription.key != *key);
        if self.active.as_ref() == Some(key) {
            self.active = self
                .consumers
                .first()
                .map(|subscription| subscription.key.clone());
        }
        self.consumers.len() < before
    }

    /// Moves a consumer that has received a message behind the others of its priority.
    pub(crate) fn rotate(&mut self, index: usize) {
        if index < self.consumers.len() {
            let subscription = self.consumers.remove(index);
            let index = self
                .consumers
                .partition_point(|other| other.priority >= subscription.priority);
            self.consumers.insert(index, subscription);
        }
    }
}

/// Returns the size of the body of a message.
fn bytes(entry: &Entry) -> u64 {
    u64::try_from(entry.message.body.len()).unwrap_or(u64::MAX)
}
