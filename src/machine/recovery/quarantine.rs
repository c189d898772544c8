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
    /// The broker closed a connection during its recovery, and the step or consumer that caused the
    /// close is unknown. Steps are sent one at a time and consumers restarted one at a time until
    /// the connection is open, so that the next close identifies the cause.
    pub(crate) one_at_a_time: bool,
}

impl Quarantine {
    /// Skips a step over which the broker closed the connection, until the connection is open.
    pub(crate) fn add(&mut self, step: ReplayStep, error: &Error) {
        self.failed.push((step.describe().into(), error.clone()));
        self.steps.insert(step);
    }

    /// Returns `true` if a step is skipped.
    pub(crate) fn contains(&self, step: &ReplayStep) -> bool {
        self.steps.contains(step)
    }

    /// Ends the quarantine when the connection is open. Returns the steps and the failures.
    pub(crate) fn end(&mut self) -> (Vec<ReplayStep>, Vec<(Box<str>, Error)>) {
        let Self { steps, failed, .. } = std::mem::take(self);
        (steps.into_iter().collect(), failed)
    }
}
