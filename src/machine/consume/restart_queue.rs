//! The consumers to restart after a loss: the queued ones, those whose `consume-ok` is pending, and
//! those that the broker has refused temporarily.
//!
//! After a half-open loss, the broker may not have noticed yet that the earlier connection is gone.
//! While a node starts, its queues do not exist yet. Such a refusal is temporary. The connection
//! becomes open without the refused consumers, which are restarted together after each delay until
//! the retry limit.

use crate::error::Error;
use crate::machine::deadline::{Deadline, later};
use crate::machine::ids::ConsumerId;
use crate::machine::recovery::replay::RETRY_DELAY;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// The longest delay before refused consumers are restarted. Each delay is twice the one before.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Returns the entry of the report for a consumer that could not be restarted.
pub(crate) fn failed_consumer(tag: &str, error: &Error) -> (Box<str>, Error) {
    (format!("consumer {tag:?}").into(), error.clone())
}

/// The consumers of a lost connection that are being restarted. Each is queued, starting or
/// refused.
#[derive(Debug)]
pub(crate) struct RestartQueue {
    /// The number of consumers that have restarted before the connection became open.
    pub(crate) restarted: usize,
    /// The consumers that ended because they could not be restarted, each with the error, for the
    /// next report.
    pub(crate) failed: Vec<(Box<str>, Error)>,
    /// The order of the restarts. Consumers that are not in `queued` are skipped.
    order: VecDeque<ConsumerId>,
    /// The queued consumers: those of `order` that are still to be restarted.
    queued: BTreeSet<ConsumerId>,
    /// The consumers whose `consume-ok` is pending.
    starting: BTreeSet<ConsumerId>,
    /// The consumers that were refused temporarily, each with the last error.
    refused: BTreeMap<ConsumerId, Error>,
    /// The next delay of the refused consumers.
    delay: Duration,
    /// When the refused consumers are restarted.
    retry: Deadline,
    /// When a refusal becomes final.
    retry_limit: Deadline,
}

impl Default for RestartQueue {
    fn default() -> Self {
        Self::new(Vec::new(), Duration::ZERO)
    }
}

impl RestartQueue {
    /// Starts over with these consumers. The retry limit begins at the next [`stamp`](Self::stamp),
    /// and failed consumers stay in the report.
    pub(crate) fn start_over(&mut self, consumers: Vec<ConsumerId>, retry_limit: Duration) {
        let failed = std::mem::take(&mut self.failed);
        *self = Self {
            failed,
            ..Self::new(consumers, retry_limit)
        };
    }

    fn new(consumers: Vec<ConsumerId>, retry_limit: Duration) -> Self {
        Self {
            restarted: 0,
            failed: Vec::new(),
            queued: consumers.iter().copied().collect(),
            order: consumers.into(),
            starting: BTreeSet::new(),
            refused: BTreeMap::new(),
            delay: RETRY_DELAY,
            retry: Deadline::None,
            retry_limit: Deadline::In(retry_limit),
        }
    }

    /// Records that a consumer ended because it could not be restarted, for the next report.
    pub(crate) fn record_failure(&mut self, tag: &str, error: &Error) {
        self.failed.push(failed_consumer(tag, error));
    }

    /// Removes outdated entries, and returns the next consumer to restart.
    pub(crate) fn front(&mut self) -> Option<ConsumerId> {
        while let Some(consumer) = self.order.front().copied() {
            if self.queued.contains(&consumer) {
                return Some(consumer);
            }
            self.order.pop_front();
        }
        None
    }

    /// Removes the next consumer, and returns it.
    pub(crate) fn remove_front(&mut self) -> Option<ConsumerId> {
        let consumer = self.order.pop_front()?;
        self.queued.remove(&consumer);
        Some(consumer)
    }

    /// Records that the next consumer is being started.
    pub(crate) fn record_front_started(&mut self) {
        let consumer = self.remove_front();
        self.starting.extend(consumer);
    }

    /// Removes a consumer, because it has restarted or ended. Returns `true` if a channel was
    /// reserved for it.
    pub(crate) fn remove(&mut self, consumer: ConsumerId) -> bool {
        self.starting.remove(&consumer);
        let was_refused = self.refused.remove(&consumer).is_some();
        if was_refused && self.refused.is_empty() {
            self.retry = Deadline::None;
        }
        self.queued.remove(&consumer) || was_refused
    }

    /// Moves a starting consumer to the end of the queue.
    pub(crate) fn queue_again(&mut self, consumer: ConsumerId) {
        self.starting.remove(&consumer);
        self.queued.insert(consumer);
        self.order.push_back(consumer);
    }

    /// Schedules another restart of a consumer that the broker has refused temporarily. Returns
    /// `false` if the retry limit has passed, so that the refusal is final.
    pub(crate) fn schedule_retry(
        &mut self,
        consumer: ConsumerId,
        error: Error,
        now: Instant,
    ) -> bool {
        if self.retry_limit.has_passed(now) {
            return false;
        }
        self.starting.remove(&consumer);
        self.refused.insert(consumer, error);
        if matches!(self.retry, Deadline::None) {
            self.retry = Deadline::In(self.delay);
        }
        true
    }

    /// Returns the consumers that were refused temporarily, each with the error.
    pub(crate) fn refused(&self) -> impl ExactSizeIterator<Item = (ConsumerId, &Error)> {
        self.refused
            .iter()
            .map(|(consumer, error)| (*consumer, error))
    }

    /// Returns the number of channels to reserve: one for each consumer without a channel.
    pub(crate) fn reserved_channels(&self) -> usize {
        self.queued.len() + self.refused.len()
    }

    /// Returns `true` if the `consume-ok` of exactly one consumer is pending.
    pub(crate) fn is_starting_one(&self) -> bool {
        self.starting.len() == 1
    }

    /// Returns `true` if a consumer is queued or starting. Refused consumers do not count, because
    /// the recovery does not wait for them.
    pub(crate) fn has_pending(&self) -> bool {
        !self.queued.is_empty() || self.is_starting()
    }

    /// Returns `true` if a `consume-ok` is pending.
    pub(crate) fn is_starting(&self) -> bool {
        !self.starting.is_empty()
    }

    /// Starts the deadlines. A retry that would be later than the retry
    /// limit happens at the limit, and its refusal is final.
    #[inline]
    pub(crate) fn stamp(&mut self, now: Instant) {
        self.retry_limit.stamp(now);
        if let Deadline::In(delay) = self.retry {
            let retry = later(now, delay);
            let last = self
                .retry_limit
                .instant()
                .map_or(retry, |limit| limit.max(now));
            self.retry = Deadline::At(retry.min(last));
        }
    }

    /// Returns when to restart the refused consumers. The deadline applies only once the connection
    /// is open. Before, it would delay the opening.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.retry.instant()
    }

    /// Queues the refused consumers if their delay has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.retry.has_passed(now) {
            self.retry = Deadline::None;
            self.delay = MAX_DELAY.min(2 * self.delay);
            let refused = std::mem::take(&mut self.refused);
            self.queued.extend(refused.keys().copied());
            self.order.extend(refused.into_keys());
        }
    }
}
