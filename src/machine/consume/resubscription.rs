//! The consumers to restart after a loss: the queued ones, those whose `consume-ok` is pending, and
//! those that the broker has refused for now.
//!
//! After a half-open loss, the broker may not have noticed yet that the earlier connection is gone.
//! While a node starts, its queues do not exist yet. Such a refusal is temporary. The connection
//! becomes open without the refused consumers, which are restarted together after each delay until
//! the patience deadline.

use crate::error::Error;
use crate::machine::deadline::{Deadline, later};
use crate::machine::ids::ConsumerId;
use crate::machine::recovery::replay::CLEARING;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// The longest delay before refused consumers are started again.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Returns `true` if an error means that a consumer which existed before cannot be started now, and
/// may be started later.
///
/// These are RabbitMQ's texts, from 3.10 to 4.3, with `Q` for `queue 'NAME' in vhost 'VHOST'`:
///
/// | code | text | not now |
/// | --- | --- | --- |
/// | 403 | `Q in exclusive use` | yes |
/// | 403 | `access to Q refused for user 'USER'`, since 4.0 `read access to ..` | no |
/// | 404 | `no Q` | no |
/// | 404 | `home node 'NODE' of durable Q is down or inaccessible` | yes |
/// | 404 | `Q process is stopped by supervisor` | yes |
/// | 404 | `Q has crashed and failed to restart` | yes |
/// | 404 | `failed to perform operation on Q due to timeout` | yes |
/// | 404 | `failed to perform operation on Q: its leader PID may be stopping or being demoted` | yes |
/// | 405 | `cannot obtain exclusive access to locked Q. ..` | yes |
/// | 506 | `Stream coordinator unavailable for Q` | yes |
/// | 541 | any | yes |
///
/// Other brokers use other texts for 403. For an exclusive consumer, each but a missing permission
/// is treated as "in exclusive use".
///
/// The name of the code comes first (`NOT_FOUND - `). Users choose the names in a text, so only its
/// beginning and its end are compared.
pub(crate) fn is_not_now(error: &Error, is_exclusive: bool) -> bool {
    match error {
        Error::AccessRefused(fault) => {
            let text = fault
                .text
                .strip_prefix("ACCESS_REFUSED - ")
                .unwrap_or(&fault.text);
            let lacks_permission = ["access to ", "read access to "]
                .iter()
                .any(|it| text.starts_with(it));
            text.ends_with(" in exclusive use") || is_exclusive && !lacks_permission
        }
        Error::NotFound(fault) => {
            let text = fault
                .text
                .strip_prefix("NOT_FOUND - ")
                .unwrap_or(&fault.text);
            let starts = ["home node '", "failed to perform operation on queue '"];
            let ends = [
                " process is stopped by supervisor",
                " has crashed and failed to restart",
            ];
            starts.iter().any(|it| text.starts_with(it)) || ends.iter().any(|it| text.ends_with(it))
        }
        Error::ResourceLocked(_) | Error::ResourceError(_) | Error::InternalError(_) => true,
        _ => false,
    }
}

/// The consumers of a lost connection that are being restored.
#[derive(Debug)]
pub(crate) struct Resubscription {
    /// The number of consumers that have started again before the connection became open.
    pub(crate) restored: usize,
    /// The consumers that could not be started again, each with the error, for the next report.
    pub(crate) failed: Vec<(Box<str>, Error)>,
    /// The consumers to start, in order, and some that have ended.
    order: VecDeque<ConsumerId>,
    /// The consumers of `order` that are still to be started.
    waiting: BTreeSet<ConsumerId>,
    /// The consumers whose `consume-ok` is pending.
    starting: BTreeSet<ConsumerId>,
    /// The consumers that were refused for now, each with the last error.
    refused: BTreeMap<ConsumerId, Error>,
    /// The next delay of the refused consumers.
    delay: Duration,
    /// When the refused consumers are restarted.
    retry: Deadline,
    /// When a refusal becomes final.
    patience: Deadline,
}

impl Default for Resubscription {
    fn default() -> Self {
        Self::new(Vec::new(), Duration::ZERO)
    }
}

impl Resubscription {
    /// Starts over with these consumers. Patience begins now, and failed consumers stay in the
    /// report.
    pub(crate) fn begin(&mut self, consumers: Vec<ConsumerId>, patience: Duration) {
        let failed = std::mem::take(&mut self.failed);
        *self = Self {
            failed,
            ..Self::new(consumers, patience)
        };
    }

    fn new(consumers: Vec<ConsumerId>, patience: Duration) -> Self {
        Self {
            restored: 0,
            failed: Vec::new(),
            waiting: consumers.iter().copied().collect(),
            order: consumers.into(),
            starting: BTreeSet::new(),
            refused: BTreeMap::new(),
            delay: CLEARING,
            retry: Deadline::None,
            patience: Deadline::In(patience),
        }
    }

    /// Returns the next consumer to start.
    pub(crate) fn next(&mut self) -> Option<ConsumerId> {
        while let Some(consumer) = self.order.front().copied() {
            if self.waiting.contains(&consumer) {
                return Some(consumer);
            }
            self.order.pop_front();
        }
        None
    }

    /// Removes the next consumer, and returns it.
    fn take_next(&mut self) -> Option<ConsumerId> {
        let consumer = self.order.pop_front()?;
        self.waiting.remove(&consumer);
        Some(consumer)
    }

    /// Removes the next consumer, which no longer has to be started.
    pub(crate) fn skip(&mut self) {
        self.take_next();
    }

    /// Records that the next consumer's `basic.consume` was sent.
    pub(crate) fn started(&mut self) {
        let consumer = self.take_next();
        self.starting.extend(consumer);
    }

    /// Records that a consumer has started or ended. Returns `true` if a channel was reserved for
    /// it.
    pub(crate) fn done(&mut self, consumer: ConsumerId) -> bool {
        self.starting.remove(&consumer);
        let was_refused = self.refused.remove(&consumer).is_some();
        if was_refused && self.refused.is_empty() {
            self.retry = Deadline::None;
        }
        self.waiting.remove(&consumer) || was_refused
    }

    /// Queues a consumer once more.
    pub(crate) fn again(&mut self, consumer: ConsumerId) {
        self.starting.remove(&consumer);
        self.waiting.insert(consumer);
        self.order.push_back(consumer);
    }

    /// Records that a consumer was refused for now. Returns `false` if patience has ended, so that
    /// it is not started again.
    pub(crate) fn refuse(&mut self, consumer: ConsumerId, error: Error, now: Instant) -> bool {
        if self.patience.has_passed(now) {
            return false;
        }
        self.starting.remove(&consumer);
        self.refused.insert(consumer, error);
        if matches!(self.retry, Deadline::None) {
            self.retry = Deadline::In(self.delay);
        }
        true
    }

    /// Returns the consumers that were refused for now, each with the error.
    pub(crate) fn refused(&self) -> impl ExactSizeIterator<Item = (ConsumerId, &Error)> {
        self.refused
            .iter()
            .map(|(consumer, error)| (*consumer, error))
    }

    /// Returns the number of consumers for which a channel is reserved.
    pub(crate) fn reserved(&self) -> usize {
        self.waiting.len() + self.refused.len()
    }

    /// Returns `true` if the `consume-ok` of exactly one consumer is pending.
    pub(crate) fn is_starting_one(&self) -> bool {
        self.starting.len() == 1
    }

    /// Returns `true` if a consumer is still to be started, or its `consume-ok` is pending.
    pub(crate) fn has_pending(&self) -> bool {
        !self.waiting.is_empty() || self.is_starting()
    }

    /// Returns `true` if a `consume-ok` is pending.
    pub(crate) fn is_starting(&self) -> bool {
        !self.starting.is_empty()
    }

    /// Starts the deadlines. The last attempt is made at the patience deadline, and its refusal is
    /// final.
    #[inline]
    pub(crate) fn stamp(&mut self, now: Instant) {
        self.patience.stamp(now);
        if let Deadline::In(delay) = self.retry {
            let retry = later(now, delay);
            let last = self
                .patience
                .instant()
                .map_or(retry, |patience| patience.max(now));
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
            self.delay = LONGEST_DELAY.min(2 * self.delay);
            let refused = std::mem::take(&mut self.refused);
            self.waiting.extend(refused.keys().copied());
            self.order.extend(refused.into_keys());
        }
    }
}
