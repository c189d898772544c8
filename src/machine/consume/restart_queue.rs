//! The consumers to restart: the queued ones, those whose `consume-ok` is pending, and those that
//! are restarted after a delay.
//!
//! After a silent loss, the broker may not have noticed yet that the earlier connection is gone.
//! While a node starts, its queues do not exist yet. Such a refusal is temporary. The connection
//! becomes open without the refused consumers, each of which is restarted after a delay, until the
//! retry limit.

use crate::error::{Broken, Error};
use crate::machine::consume::consumer::Consumer;
use crate::machine::consume::consumers::Consumers;
use crate::machine::deadline::{Deadline, earlier, later};
use crate::machine::ids::ConsumerId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Returns the entry of the report for a consumer that could not be restarted.
fn failed_consumer(tag: &str, error: &Error) -> (Box<str>, Error) {
    (format!("consumer {tag:?}").into(), error.clone())
}

/// A consumer that is restarted after a delay.
#[derive(Debug)]
struct Delayed {
    /// The last refusal, or why the consumer was interrupted.
    error: Error,
    /// When it is restarted.
    at: Instant,
}

/// The consumers that are being restarted. Each is queued, starting or delayed.
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
    /// When those are overdue. Each start of a consumer postpones it.
    overdue: Option<Instant>,
    /// The consumers that are restarted after a delay.
    delayed: BTreeMap<ConsumerId, Delayed>,
    /// The earliest restart of the delayed consumers. It may be of one that was removed since.
    next: Option<Instant>,
    /// When a refusal becomes final after a recovery.
    retry_limit: Deadline,
    /// A consumer that cannot be restarted fails the recovery and does not end.
    is_strict: bool,
    /// Why the recovery has failed.
    failure: Option<Error>,
}

impl Default for RestartQueue {
    fn default() -> Self {
        Self::new(Duration::ZERO, false)
    }
}

impl RestartQueue {
    /// Starts over without consumers. The retry limit begins at the next [`stamp`](Self::stamp),
    /// and failed consumers stay in the report.
    pub(crate) fn start_over(&mut self, retry_limit: Duration, is_strict: bool) {
        let failed = std::mem::take(&mut self.failed);
        *self = Self {
            failed,
            ..Self::new(retry_limit, is_strict)
        };
    }

    fn new(retry_limit: Duration, is_strict: bool) -> Self {
        Self {
            restarted: 0,
            failed: Vec::new(),
            queued: BTreeSet::new(),
            order: VecDeque::new(),
            starting: BTreeSet::new(),
            overdue: None,
            delayed: BTreeMap::new(),
            next: None,
            retry_limit: Deadline::In(retry_limit),
            is_strict,
            failure: None,
        }
    }

    /// Queues a consumer to restart it as soon as there is a channel.
    pub(crate) fn queue(&mut self, consumer: ConsumerId) {
        if self.queued.insert(consumer) {
            self.order.push_back(consumer);
        }
    }

    /// Plans the restart of a consumer on a new connection: at once, or after a delay if it was the
    /// cause of a close.
    pub(crate) fn plan(&mut self, id: ConsumerId, consumer: Option<&Consumer>, now: Instant) {
        match consumer.and_then(|it| it.restarts.quarantine_delay()) {
            Some((delay, error)) => self.delay(id, error.clone(), later(now, delay)),
            None => self.queue(id),
        }
    }

    /// Restarts a consumer at a later time. The error is the reason for the delay.
    pub(crate) fn delay(&mut self, consumer: ConsumerId, error: Error, at: Instant) {
        self.remove_starting(consumer);
        self.next = earlier(self.next, Some(at));
        self.delayed.insert(consumer, Delayed { error, at });
    }

    /// Records that a consumer ended because it could not be restarted, for the next report.
    pub(crate) fn record_failure(&mut self, tag: &str, error: &Error) {
        self.failed.push(failed_consumer(tag, error));
    }

    /// Returns `true` if a consumer that cannot be restarted fails the recovery.
    pub(crate) fn is_strict(&self) -> bool {
        self.is_strict
    }

    /// Records that a consumer cannot be restarted, if that fails the recovery. Returns `false` if
    /// the consumer ends instead.
    pub(crate) fn fail_strictly(&mut self, consumer: ConsumerId, error: &Error) -> bool {
        if self.is_strict {
            self.remove(consumer);
            self.fail(error.clone());
        }
        self.is_strict
    }

    /// Returns `true` if the recovery has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Fails the recovery with an error.
    pub(crate) fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
    }

    /// Takes the error with which the recovery has failed.
    #[inline]
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        let error = self.failure.take()?;
        Some(Error::ConnectionBroken(Broken::NotRestored(error.into())))
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

    /// Records that the next consumer is being started, and when its reply is overdue.
    pub(crate) fn record_front_started(&mut self, overdue: Instant) {
        let consumer = self.remove_front();
        self.starting.extend(consumer);
        self.overdue = Some(overdue);
    }

    /// Waits longer for the replies to starting consumers.
    pub(crate) fn postpone_overdue(&mut self, overdue: Instant) {
        self.overdue = self.overdue.map(|_| overdue);
    }

    /// Removes the starting consumers if their replies are overdue, and returns them.
    pub(crate) fn take_overdue(&mut self, now: Instant) -> BTreeSet<ConsumerId> {
        if self.overdue.is_none_or(|overdue| overdue > now) {
            return BTreeSet::new();
        }
        self.overdue = None;
        std::mem::take(&mut self.starting)
    }

    /// Removes a consumer, because it has restarted or ended. Returns `true` if a channel was
    /// reserved for it.
    pub(crate) fn remove(&mut self, consumer: ConsumerId) -> bool {
        self.remove_starting(consumer);
        let was_delayed = self.delayed.remove(&consumer).is_some();
        if self.delayed.is_empty() {
            self.next = None;
        }
        self.queued.remove(&consumer) || was_delayed
    }

    fn remove_starting(&mut self, consumer: ConsumerId) {
        self.starting.remove(&consumer);
        if self.starting.is_empty() {
            self.overdue = None;
        }
    }

    /// Moves a starting consumer to the end of the queue.
    pub(crate) fn queue_again(&mut self, consumer: ConsumerId) {
        self.remove_starting(consumer);
        self.queue(consumer);
    }

    /// Returns when a refusal becomes final after a recovery.
    pub(crate) fn retry_limit(&self, now: Instant) -> Option<Instant> {
        match self.retry_limit {
            // It has not started.
            Deadline::In(time) => Some(later(now, time)),
            started => started.instant(),
        }
    }

    /// Takes the report's entries of ended consumers, and adds one for each delayed consumer.
    pub(crate) fn take_failed(&mut self, consumers: &Consumers) -> Vec<(Box<str>, Error)> {
        let mut failed = std::mem::take(&mut self.failed);
        for (id, delayed) in &self.delayed {
            let tag = consumers.get(*id).map_or("", Consumer::tag);
            failed.push(failed_consumer(tag, &delayed.error));
        }
        failed
    }

    /// Returns the number of consumers that are restarted after a delay.
    pub(crate) fn delayed(&self) -> usize {
        self.delayed.len()
    }

    /// Returns the number of channels to reserve: one for each consumer without a channel.
    pub(crate) fn reserved_channels(&self) -> usize {
        self.queued.len() + self.delayed.len()
    }

    /// Returns `true` if the `consume-ok` of exactly one consumer is pending.
    pub(crate) fn is_starting_one(&self) -> bool {
        self.starting.len() == 1
    }

    /// Returns `true` if a consumer is queued or starting. Delayed consumers do not count, because
    /// the recovery does not wait for them.
    pub(crate) fn has_pending(&self) -> bool {
        !self.queued.is_empty() || self.is_starting()
    }

    /// Returns `true` if a `consume-ok` is pending.
    pub(crate) fn is_starting(&self) -> bool {
        !self.starting.is_empty()
    }

    /// Starts the retry limit.
    #[inline]
    pub(crate) fn stamp(&mut self, now: Instant) {
        self.retry_limit.stamp(now);
    }

    /// Returns when to restart a delayed consumer, or when a starting one is overdue. The deadline
    /// applies only once the connection is open. Before, the recovery has its own.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        earlier(self.next, self.overdue)
    }

    /// Queues the delayed consumers whose delay has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.next.is_none_or(|next| next > now) {
            return;
        }
        let mut due = Vec::new();
        self.delayed.retain(|consumer, delayed| {
            let is_due = delayed.at <= now;
            if is_due {
                due.push(*consumer);
            }
            !is_due
        });
        self.next = self.delayed.values().map(|delayed| delayed.at).min();
        due.into_iter().for_each(|consumer| self.queue(consumer));
    }
}
