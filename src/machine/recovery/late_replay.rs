//! The entities that a recovery could not restore for now. They are declared again once the
//! connection is open, one at a time and at a slow pace.
//!
//! These are the steps that the broker refused temporarily, for example because the previous
//! connection still locks an exclusive queue, and those over which it closed the connection.

use crate::machine::deadline::{earlier, later};
use crate::machine::recovery::step::ReplayStep;
use crate::protocol::ShortStr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// The first delay of a step that the broker refused. Each further delay is twice as long.
const REFUSED_DELAY: Duration = Duration::from_secs(1);

/// The first delay of a step over which the broker closed the connection.
const CLOSED_DELAY: Duration = Duration::from_secs(5);

/// The longest delay, as between two connections.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// The retry timing of a step.
#[derive(Clone, Copy, Debug)]
struct Pace {
    at: Instant,
    delay: Duration,
    /// When a step over which connections close is given up; `None` for other steps.
    limit: Option<Instant>,
}

impl Pace {
    /// Plans the next attempt, with a longer delay after it.
    fn plan(&mut self, now: Instant) {
        self.at = later(now, self.delay);
        self.delay = MAX_DELAY.min(2 * self.delay);
    }
}

/// The steps of a replay that are retried once the connection is open.
#[derive(Debug, Default)]
pub(crate) struct LateReplay {
    /// In the order of the dependencies.
    waiting: BTreeMap<ReplayStep, Pace>,
    /// The earliest of those instants. It may be of a step that was removed since.
    next: Option<Instant>,
    /// The steps that were due when `next` had passed, in the order of the dependencies.
    due: VecDeque<ReplayStep>,
    /// The step without a reply, and when its reply is overdue.
    pending: Option<(ReplayStep, Instant)>,
    /// The channel of the pending step.
    pub(crate) channel: Option<u16>,
    /// The steps over which connections have closed, until they succeed. They survive a loss, so
    /// that their delays keep growing and their limit applies.
    closed: BTreeMap<ReplayStep, Pace>,
}

impl LateReplay {
    /// Plans the retries after a replay: of the steps that were refused temporarily, and of the
    /// quarantined ones, which are given up after the time of `limit`.
    pub(crate) fn begin(
        &mut self,
        refused: BTreeSet<ReplayStep>,
        quarantined: Vec<ReplayStep>,
        limit: Duration,
        now: Instant,
    ) {
        for step in refused {
            let mut pace = Pace {
                at: now,
                delay: REFUSED_DELAY,
                limit: None,
            };
            pace.plan(now);
            self.waiting.insert(step, pace);
        }
        for step in quarantined {
            let new = Pace {
                at: now,
                delay: CLOSED_DELAY,
                limit: Some(later(now, limit)),
            };
            let pace = self.closed.entry(step.clone()).or_insert(new);
            if pace.limit.is_some_and(|limit| limit > now) {
                pace.plan(now);
                self.waiting.insert(step, *pace);
            }
        }
        self.next = self.waiting.values().map(|pace| pace.at).min();
    }

    /// Returns `true` if a step waits for its next attempt, or for the reply.
    pub(crate) fn contains(&self, step: &ReplayStep) -> bool {
        self.waiting.contains_key(step)
    }

    /// Returns when to send the next step, or when the reply to the pending one is overdue.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.pending {
            Some((_, overdue)) => Some(*overdue),
            None => self.next,
        }
    }

    /// Returns `true` if a step has no reply yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Returns the next step that is due. It stays planned.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<ReplayStep> {
        if self.due.is_empty() && self.next.is_some_and(|next| next <= now) {
            // All due steps are listed at once, because there may be thousands.
            let (due, later) = self
                .waiting
                .iter()
                .partition::<Vec<_>, _>(|it| it.1.at <= now);
            self.next = later.iter().map(|(_, pace)| pace.at).min();
            self.due = due.into_iter().map(|(step, _)| step.clone()).collect();
        }
        loop {
            let step = self.due.pop_front()?;
            if self.waiting.get(&step).is_some_and(|pace| pace.at <= now) {
                return Some(step);
            }
        }
    }

    /// Records that a step is sent.
    pub(crate) fn record_sent(&mut self, step: ReplayStep, overdue: Instant) {
        self.pending = Some((step, overdue));
    }

    /// Returns `true` if the reply to the pending step is overdue.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.pending
            .as_ref()
            .is_some_and(|(_, overdue)| *overdue <= now)
    }

    /// Removes the pending step, and returns it. It stays planned.
    pub(crate) fn take_pending(&mut self) -> Option<ReplayStep> {
        self.pending.take().map(|(step, _)| step)
    }

    /// Plans another attempt of a step.
    pub(crate) fn retry(&mut self, step: &ReplayStep, now: Instant) {
        if let Some(pace) = self.waiting.get_mut(step) {
            pace.plan(now);
            self.next = earlier(self.next, Some(pace.at));
        }
    }

    /// Removes a step, because its entity is restored, is no longer recorded, or cannot be
    /// restored.
    pub(crate) fn remove(&mut self, step: &ReplayStep) {
        self.waiting.remove(step);
        self.closed.remove(step);
    }

    /// Renames a queue in the bindings that are to be declared.
    pub(crate) fn rename_queue(&mut self, from: ShortStr<'_>, to: ShortStr<'_>) {
        let is_to_queue = |step: &ReplayStep| match step {
            ReplayStep::Binding(it) => !it.is_to_exchange() && it.destination() == from,
            ReplayStep::Exchange(_) | ReplayStep::Queue(_) => false,
        };
        let steps: Vec<_> = self
            .waiting
            .keys()
            .filter(|it| is_to_queue(it))
            .cloned()
            .collect();
        for step in steps {
            if let (Some(pace), ReplayStep::Binding(binding)) = (self.waiting.remove(&step), step) {
                self.waiting
                    .insert(ReplayStep::Binding(binding.with_queue(to)), pace);
            }
        }
    }

    /// Returns `true` if a step may fail because an entity that it needs is not restored yet.
    pub(crate) fn lacks_needs(&self, step: &ReplayStep) -> bool {
        step.needs().iter().any(|need| self.contains(need))
    }

    /// Ends the retries, because the connection is lost. Returns the pending step if it may be the
    /// cause, according to `is_cause`. The next replay includes all others.
    pub(crate) fn suspend(
        &mut self,
        is_cause: impl FnOnce(&ReplayStep) -> bool,
    ) -> Option<ReplayStep> {
        self.waiting.clear();
        self.next = None;
        self.due.clear();
        self.channel = None;
        let (step, _) = self.pending.take()?;
        Some(step).filter(is_cause)
    }
}
