//! Consumers to start again after a loss: the next one, and those whose `consume-ok` is pending.

use super::ids::ConsumerId;
use std::collections::{BTreeSet, VecDeque};

/// The consumers of a lost connection that are being restored.
#[derive(Debug, Default)]
pub(super) struct Resubscription {
    /// The consumers to start, in order.
    waiting: VecDeque<ConsumerId>,
    /// Those whose `consume-ok` is pending.
    starting: BTreeSet<ConsumerId>,
}

impl Resubscription {
    /// Starts over with these consumers.
    pub(super) fn begin(&mut self, consumers: Vec<ConsumerId>) {
        *self = Self { waiting: consumers.into(), ..Self::default() };
    }

    /// Returns the next consumer to start.
    pub(super) fn next(&self) -> Option<ConsumerId> {
        self.waiting.front().copied()
    }

    /// Removes the next consumer, which no longer has to be started.
    pub(super) fn skip(&mut self) {
        self.waiting.pop_front();
    }

    /// Records that the next consumer's `basic.consume` was sent.
    pub(super) fn started(&mut self) {
        self.starting.extend(self.waiting.pop_front());
    }

    /// Records that a consumer has started or ended.
    pub(super) fn done(&mut self, consumer: ConsumerId) {
        self.starting.remove(&consumer);
    }

    /// Queues a consumer once more.
    pub(super) fn again(&mut self, consumer: ConsumerId) {
        self.starting.remove(&consumer);
        self.waiting.push_back(consumer);
    }

    /// Returns `true` if the `consume-ok` of exactly one consumer is pending.
    pub(super) fn is_starting_one(&self) -> bool {
        self.starting.len() == 1
    }

    /// Returns `true` if a `consume-ok` is pending.
    pub(super) fn is_starting(&self) -> bool {
        !self.starting.is_empty()
    }
}
