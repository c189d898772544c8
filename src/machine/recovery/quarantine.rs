//! Entities that close connections during recovery. They are skipped, so that the rest is restored.

use crate::error::Error;
use crate::machine::recovery::step::ReplayStep;
use std::collections::BTreeSet;

/// The steps of the replay that are skipped until the connection is open, and the failures to
/// report then.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    steps: BTreeSet<ReplayStep>,
    /// The entities that are not restored, each with the error.
    pub(crate) failed: Vec<(Box<str>, Error)>,
    /// The broker ended a recovery without naming the step. Steps are sent one at a time, so that
    /// the next close identifies it.
    pub(crate) one_at_a_time: bool,
}

impl Quarantine {
    /// Skips a step from now on.
    pub(crate) fn add(&mut self, step: ReplayStep, failed: (Box<str>, Error)) {
        self.steps.insert(step);
        self.failed.push(failed);
    }

    /// Returns `true` if a step is skipped.
    pub(crate) fn contains(&self, step: &ReplayStep) -> bool {
        self.steps.contains(step)
    }

    /// Ends the quarantine when the connection is open. Returns the failures.
    pub(crate) fn end(&mut self) -> Vec<(Box<str>, Error)> {
        std::mem::take(self).failed
    }
}
