//! Tasks that wait for outgoing capacity, and their deadlines.

use crate::machine::deadline::later;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Identifies one task that waits for capacity.
pub(crate) type Ticket = u64;

/// The deadlines of the tasks that wait for capacity.
#[derive(Debug, Default)]
pub(crate) struct CapacityWaits {
    /// The deadlines by ticket; `None` before the next [`stamp`](Self::stamp). All waits have the
    /// same timeout, so the order of the tickets is the order of the deadlines.
    deadlines: BTreeMap<Ticket, Option<Instant>>,
    /// The last ticket.
    issued: Ticket,
    /// The last ticket whose deadline has started.
    stamped: Ticket,
    /// Tasks to wake, because their deadline has passed.
    expired: VecDeque<Ticket>,
}

impl CapacityWaits {
    /// Begins a wait. Its deadline starts at the next [`stamp`](Self::stamp).
    pub(crate) fn begin(&mut self) -> Ticket {
        self.issued += 1;
        self.deadlines.insert(self.issued, None);
        self.issued
    }

    /// Ends a wait.
    pub(crate) fn end(&mut self, ticket: Ticket) {
        self.deadlines.remove(&ticket);
    }

    /// Returns `true` if the deadline of a wait that was not ended has passed.
    pub(crate) fn has_expired(&self, ticket: Ticket) -> bool {
        !self.deadlines.contains_key(&ticket)
    }

    /// Starts the deadlines of the waits that have begun since the last call.
    pub(crate) fn stamp(&mut self, now: Instant, timeout: Duration) {
        if self.stamped == self.issued {
            return;
        }
        for (_, deadline) in self.deadlines.range_mut(self.stamped + 1..) {
            *deadline = Some(later(now, timeout));
        }
        self.stamped = self.issued;
    }

    /// Returns the earliest deadline.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines
            .first_key_value()
            .and_then(|(_, deadline)| *deadline)
    }

    /// Ends the waits whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(wait) = self.deadlines.first_entry()
            && wait.get().is_some_and(|deadline| deadline <= now)
        {
            self.expired.push_back(wait.remove_entry().0);
        }
    }

    /// Returns the next task to wake.
    pub(crate) fn poll_expired(&mut self) -> Option<Ticket> {
        self.expired.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[test]
    fn waits_expire_in_order_unless_they_end() {
        let mut waits = CapacityWaits::default();
        let now = Instant::now();
        let [first, second] = [waits.begin(), waits.begin()];
        assert_eq!(waits.deadline(), None);
        waits.stamp(now, TIMEOUT);
        let late = waits.begin();
        waits.stamp(now + TIMEOUT / 2, TIMEOUT);
        waits.end(first);
        assert_eq!(waits.deadline(), Some(now + TIMEOUT));
        waits.expire(now + TIMEOUT);
        assert_eq!(
            (waits.poll_expired(), waits.poll_expired()),
            (Some(second), None)
        );
        assert!(waits.has_expired(second) && !waits.has_expired(late));
        assert_eq!(waits.deadline(), Some(now + TIMEOUT / 2 + TIMEOUT));
    }
}
