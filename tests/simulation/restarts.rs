//! What the notices of a session report about consumers that are not consuming: refused by the
//! broker after a loss, or interrupted by the broker and to be restarted.

use crate::plan::Plan;
use crate::violation::{Checked, ensure};
use puka::machine::Ended;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// A consumer that the broker has ended and that has not started again.
#[derive(Clone, Debug)]
pub(crate) struct Interruption {
    pub(crate) why: Ended,
    pub(crate) at: Instant,
    /// The connection was lost since. Then the limit begins at the handshake of the next one.
    pub(crate) lost_since: bool,
}

/// The consumers that are to be restarted, by their tags.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    /// The consumers that the last report of a recovery lists.
    refused: BTreeSet<String>,
    interrupted: BTreeMap<String, Interruption>,
    /// The entities that the last report of a recovery lists, as it describes them.
    missing_entities: BTreeSet<String>,
    /// The consumers that the application dropped before they were restored. They may be restored
    /// once more, to be cancelled.
    dropped: BTreeSet<String>,
}

impl Restarts {
    /// Records the consumers and the other entities that a report lists.
    pub(crate) fn record_report(&mut self, consumers: BTreeSet<String>, others: BTreeSet<String>) {
        self.refused = consumers;
        self.missing_entities = others;
    }

    /// Records that an entity was restored.
    pub(crate) fn record_entity_restored(&mut self, entity: &str) -> Checked {
        ensure(self.missing_entities.remove(entity), || {
            format!("{entity} was reported as restored, but not as missing before")
        })
    }

    /// Returns `true` if a report has listed an entity or a consumer that is not restored.
    pub(crate) fn has_missing(&self) -> bool {
        !self.refused.is_empty()
            || !self.interrupted.is_empty()
            || !self.missing_entities.is_empty()
    }

    /// Records that a consumer was interrupted.
    pub(crate) fn record_interruption(&mut self, tag: &str, why: Ended, now: Instant) -> Checked {
        ensure(!self.refused.contains(tag), || {
            format!("the consumer {tag} was interrupted, and was not restored before")
        })?;
        let interruption = Interruption {
            why,
            at: now,
            lost_since: false,
        };
        let before = self.interrupted.insert(tag.to_owned(), interruption);
        ensure(before.is_none(), || {
            format!("the consumer {tag} was interrupted twice, and was not restored between")
        })
    }

    /// Records that a consumer was restored.
    pub(crate) fn record_restored(&mut self, tag: &str) -> Checked {
        let was_refused = self.refused.remove(tag);
        let was_interrupted = self.interrupted.remove(tag).is_some();
        let was_dropped = self.dropped.remove(tag);
        ensure(was_refused || was_interrupted || was_dropped, || {
            format!("the consumer {tag} was reported as restored, but not as missing before")
        })
    }

    /// Records that the connection was lost. Returns the tags of the consumers that the server has
    /// cancelled: the client does not declare their queues again.
    pub(crate) fn record_loss(&mut self) -> Vec<String> {
        self.refused.clear();
        self.missing_entities.clear();
        let mut cancelled = Vec::new();
        for (tag, interruption) in &mut self.interrupted {
            interruption.lost_since = true;
            if matches!(interruption.why, Ended::CancelledByServer) {
                cancelled.push(tag.clone());
            }
        }
        cancelled
    }

    /// Records that the application has dropped a consumer.
    pub(crate) fn record_drop(&mut self, tag: &str) {
        if self.contains(tag) {
            self.remove(tag);
            self.dropped.insert(tag.to_owned());
        }
    }

    /// Removes a consumer that has ended. Returns its interruption, if it had not
    /// started again.
    pub(crate) fn remove(&mut self, tag: &str) -> Option<Interruption> {
        self.refused.remove(tag);
        self.interrupted.remove(tag)
    }

    /// Returns `true` if a consumer is to be restarted.
    pub(crate) fn contains(&self, tag: &str) -> bool {
        self.refused.contains(tag) || self.interrupted.contains_key(tag)
    }

    /// Returns `true` if a consumer was interrupted and has not started again.
    pub(crate) fn is_interrupted(&self, tag: &str) -> bool {
        self.interrupted.contains_key(tag)
    }

    /// Returns the interrupted consumers.
    pub(crate) fn interrupted(&self) -> impl Iterator<Item = (&str, &Interruption)> {
        self.interrupted.iter().map(|(tag, it)| (&**tag, it))
    }
}

impl Interruption {
    /// Returns when the last restart is due. `opened_at` is the end of the last handshake.
    pub(crate) fn limit(&self, opened_at: Option<Instant>, plan: &Plan) -> Instant {
        match opened_at {
            Some(opened_at) if self.lost_since => opened_at + plan.consumer_retry_time(),
            _ => self.at + plan.resubscription().time.unwrap_or_default(),
        }
    }

    /// Returns `true` if a consumer has ended with the reason for which it was interrupted.
    pub(crate) fn is_reason(&self, ended: &Ended) -> bool {
        format!("{ended:?}") == format!("{:?}", self.why)
    }
}
