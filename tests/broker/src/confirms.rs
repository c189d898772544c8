//! The confirms of a channel: the open publishes, and when each is confirmed.

use crate::ids::QueueId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// A confirm to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Confirm {
    pub(crate) tag: u64,
    pub(crate) multiple: bool,
    pub(crate) accepted: bool,
}

/// The publishes on a channel after `confirm.select`, numbered from 1.
#[derive(Debug, Default)]
pub(crate) struct Confirms {
    published: u64,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    due: Instant,
    accepted: bool,
    /// The stuck queues that the message was routed to.
    stuck: BTreeSet<QueueId>,
}

impl Confirms {
    /// Numbers a publish that is confirmed at `due`, but not before its `stuck` queues are
    /// released.
    pub(crate) fn add(&mut self, due: Instant, accepted: bool, stuck: BTreeSet<QueueId>) {
        self.published += 1;
        self.open.insert(
            self.published,
            Open {
                due,
                accepted,
                stuck,
            },
        );
    }

    /// Returns when the next confirm is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.open
            .values()
            .filter(|open| open.stuck.is_empty())
            .map(|open| open.due)
            .min()
    }

    /// Removes a queue that is no longer stuck. Returns `true` if publishes have waited for it.
    pub(crate) fn release(&mut self, queue: QueueId) -> bool {
        let mut waited = false;
        for open in self.open.values_mut() {
            waited |= open.stuck.remove(&queue);
        }
        waited
    }

    /// Takes the confirms that are due. With `multiple`, a confirm covers all open numbers up to
    /// its own, so confirms are joined only if no earlier publish stays open.
    pub(crate) fn take_due(&mut self, now: Instant, coalesce: bool) -> Vec<Confirm> {
        let mut due: Vec<(Instant, Confirm)> = Vec::new();
        let mut joining = coalesce;
        let mut left = BTreeMap::new();
        for (tag, open) in std::mem::take(&mut self.open) {
            let accepted = open.accepted;
            if open.due > now || !open.stuck.is_empty() {
                left.insert(tag, open);
                joining = false;
                continue;
            }
            match due.last_mut() {
                Some((_, last)) if joining && last.accepted == accepted => {
                    last.tag = tag;
                    last.multiple = true;
                }
                // RabbitMQ sends nacks with `multiple` if possible, and single acks never.
                _ => due.push((
                    open.due,
                    Confirm {
                        tag,
                        multiple: joining && !accepted,
                        accepted,
                    },
                )),
            }
        }
        self.open = left;
        if !coalesce {
            // Each one separately, in the order in which they were due.
            due.sort_by_key(|(at, confirm)| (*at, confirm.tag));
        }
        due.into_iter().map(|(_, confirm)| confirm).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Confirm, Confirms};
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    const fn confirm(tag: u64, multiple: bool, accepted: bool) -> Confirm {
        Confirm {
            tag,
            multiple,
            accepted,
        }
    }

    #[test]
    fn confirms_are_joined_only_without_earlier_open_publishes() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut confirms = Confirms::default();
        for (due, accepted) in [
            (now, true),
            (now, true),
            (now, false),
            (later, true),
            (now, true),
            (now, true),
        ] {
            confirms.add(due, accepted, BTreeSet::new());
        }
        let taken = confirms.take_due(now, true);
        let expected = [
            confirm(2, true, true),
            confirm(3, true, false),
            confirm(5, false, true),
            confirm(6, false, true),
        ];
        assert_eq!(taken, expected);
        assert_eq!(confirms.next_due(), Some(later));
        assert_eq!(confirms.take_due(later, true), [confirm(4, false, true)]);
        assert_eq!(confirms.next_due(), None);
    }

    #[test]
    fn confirms_are_sent_in_order_of_their_deadlines() {
        let now = Instant::now();
        let mut confirms = Confirms::default();
        confirms.add(now + Duration::from_millis(5), true, BTreeSet::new());
        confirms.add(now, true, BTreeSet::new());
        let taken = confirms.take_due(now + Duration::from_secs(1), false);
        assert_eq!(taken, [confirm(2, false, true), confirm(1, false, true)]);
    }
}
