//! The timing of the restarts of a consumer.

use crate::error::Error;
use crate::machine::consume::ended::Ended;
use crate::machine::deadline::later;
use crate::machine::recovery::replay::RETRY_DELAY;
use crate::options::Resubscribe;
use std::time::{Duration, Instant};

/// The longest delay before a refused consumer is restarted. Each delay is twice the one before.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// The longest delay before a quarantined consumer is restarted. Each failure costs a connection,
/// so it is the longest delay between two connections.
const MAX_QUARANTINE_DELAY: Duration = Duration::from_secs(30);

/// How long a consumer must have been live for the delays to start over. Otherwise a consumer that
/// the broker accepts and soon ends would be restarted without a delay each time.
const STABLE: Duration = Duration::from_secs(60);

/// The delays between the restarts of one consumer, and their limit.
#[derive(Debug)]
pub(crate) struct RestartPace {
    policy: Resubscribe,
    /// Why the broker ended the consumer, until it has started again.
    interruption: Option<Ended>,
    /// Until when an interrupted consumer is restarted; `None` if the limit of the recovery
    /// applies.
    limit: Option<Instant>,
    /// The connection was lost since the consumer was live.
    was_lost: bool,
    /// The last refusal was that the queue does not exist, and the consumer waits for it.
    is_queue_missing: bool,
    /// The next delay; zero for the first restart of an interrupted consumer.
    delay: Duration,
    /// When it has last started again.
    restarted_at: Option<Instant>,
    quarantine: Option<Quarantine>,
}

/// A consumer over whose restart the broker has closed the connection. It is restarted only once
/// the next connection is open, so that everything else is restored before.
#[derive(Debug)]
struct Quarantine {
    error: Error,
    delay: Duration,
    /// When the next such close ends the consumer.
    limit: Instant,
}

impl RestartPace {
    pub(crate) fn new(policy: Resubscribe) -> Self {
        Self {
            policy,
            interruption: None,
            limit: None,
            was_lost: false,
            is_queue_missing: false,
            delay: Duration::ZERO,
            restarted_at: None,
            quarantine: None,
        }
    }

    /// Returns the user's policy.
    pub(crate) fn policy(&self) -> Resubscribe {
        self.policy
    }

    /// Records why the broker ended the consumer, unless an earlier reason is recorded. Returns the
    /// delay before the restart, which is zero unless the consumer was restarted recently. Returns
    /// `None` if it is not restarted.
    pub(crate) fn interrupt(&mut self, why: Ended, now: Instant) -> Option<Duration> {
        let time = self.policy.time?;
        if self.interruption.is_none() {
            self.interruption = Some(why);
            self.limit = Some(later(now, time));
        }
        let is_stable = |at: Instant| now.saturating_duration_since(at) >= STABLE;
        if self.restarted_at.is_none_or(is_stable) {
            self.delay = Duration::ZERO;
            return Some(Duration::ZERO);
        }
        Some(self.next_delay())
    }

    /// Returns why the broker ended the consumer, if it has not started again since.
    pub(crate) fn interruption(&self) -> Option<&Ended> {
        self.interruption.as_ref()
    }

    /// Returns `true` if the server has cancelled the consumer, and it has not started again.
    pub(crate) fn is_cancelled(&self) -> bool {
        matches!(self.interruption, Some(Ended::CancelledByServer))
    }

    /// Returns the delay before the next restart, and doubles it.
    fn next_delay(&mut self) -> Duration {
        let delay = self.delay.max(RETRY_DELAY);
        self.delay = MAX_DELAY.min(2 * delay);
        delay
    }

    /// Returns when to restart the consumer after a refusal, or `None` if the refusal is final. The
    /// last restart is at the limit. `recovery_limit` is that of the recovery.
    pub(crate) fn plan_retry(
        &mut self,
        recovery_limit: Option<Instant>,
        now: Instant,
    ) -> Option<Instant> {
        let limit = if std::mem::take(&mut self.is_queue_missing) {
            // Only the user's policy says how long to wait for a queue.
            self.limit
        } else if self.was_lost {
            self.limit.max(recovery_limit)
        } else {
            self.limit.or(recovery_limit)
        };
        let limit = limit.filter(|limit| *limit > now)?;
        Some(later(now, self.next_delay()).min(limit))
    }

    /// Records that the queue of the consumer does not exist. Returns `false` if the consumer does
    /// not wait for it.
    pub(crate) fn wait_for_queue(&mut self, now: Instant) -> bool {
        let Some(time) = self.policy.time.filter(|_| self.policy.waits_for_queue) else {
            return false;
        };
        self.is_queue_missing = true;
        self.limit.get_or_insert_with(|| later(now, time));
        true
    }

    /// Starts the delays over, because the connection was lost. From now on, the limit of the
    /// recovery applies as well, and the later one counts.
    pub(crate) fn handle_loss(&mut self) {
        self.was_lost = true;
        self.delay = Duration::ZERO;
    }

    /// Records that the broker closed the connection over the restart of the consumer. Returns
    /// `false` if this has happened for the time of the limit, so that the consumer ends.
    pub(crate) fn quarantine(&mut self, error: &Error, limit: Duration, now: Instant) -> bool {
        let (delay, limit) = match &self.quarantine {
            Some(before) if before.limit <= now => return false,
            Some(before) => (MAX_QUARANTINE_DELAY.min(2 * before.delay), before.limit),
            None => (MAX_DELAY, later(now, limit)),
        };
        self.quarantine = Some(Quarantine {
            error: error.clone(),
            delay,
            limit,
        });
        true
    }

    /// Returns `true` if the broker has closed the connection over the last restart.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.quarantine.is_some()
    }

    /// Returns the delay of a quarantined consumer on a new connection, and the reason.
    pub(crate) fn quarantine_delay(&self) -> Option<(Duration, &Error)> {
        let quarantine = self.quarantine.as_ref()?;
        Some((quarantine.delay, &quarantine.error))
    }

    /// Records that the consumer has started again. Returns why it was interrupted.
    pub(crate) fn record_start(&mut self, now: Instant) -> Option<Ended> {
        self.limit = None;
        self.was_lost = false;
        self.quarantine = None;
        self.restarted_at = Some(now);
        self.interruption.take()
    }
}
