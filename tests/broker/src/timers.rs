//! Deadlines. A timer may fire too early, but never too late: the handler compares the time itself.

use crate::ids::{ConnectionId, QueueId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// A timer and its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Handshake, heartbeats and closing.
    Connection(ConnectionId),
    /// Delayed confirms.
    Channel(ConnectionId, u16),
    /// Expiring messages, or an expiring queue.
    Queue(QueueId),
}

/// The armed timers, with at most one deadline each.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    by_time: BTreeSet<(Instant, Timer)>,
    by_timer: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// Arms a timer, unless it has an earlier deadline.
    pub(crate) fn arm(&mut self, timer: Timer, at: Instant) {
        let armed = self.by_timer.entry(timer).or_insert(at);
        if *armed > at {
            self.by_time.remove(&(*armed, timer));
            *armed = at;
        }
        self.by_time.insert((*armed, timer));
    }

    /// Returns the earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes a timer that is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.by_time.pop_first();
        self.by_timer.remove(&timer);
        Some(timer)
    }

    /// Removes a timer.
    pub(crate) fn disarm(&mut self, timer: Timer) {
        if let Some(at) = self.by_timer.remove(&timer) {
            self.by_time.remove(&(at, timer));
        }
    }
}
