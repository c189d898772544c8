//! What closes connections that are being recovered: it is left out, so that the rest comes back.

use super::topology::Step;
use crate::error::Error;
use std::collections::BTreeSet;

/// Steps of the replay that are left out until the connection is open, and what is reported then.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    steps: BTreeSet<Step>,
    /// What is not back, and why.
    pub(super) failed: Vec<(Box<str>, Error)>,
    /// A recovery was ended by something that the broker did not name. Steps are sent one at a time, so that the next time it
    /// is known.
    pub(super) one_at_a_time: bool,
}

impl Quarantine {
    /// Leaves a step out.
    pub(super) fn add(&mut self, step: Step, failed: (Box<str>, Error)) {
        self.steps.insert(step);
        self.failed.push(failed);
    }

    /// Returns `true` if a step is left out.
    pub(super) fn contains(&self, step: &Step) -> bool {
        self.steps.contains(step)
    }

    /// Ends it, as the connection is open. Returns what is not back.
    pub(super) fn end(&mut self) -> Vec<(Box<str>, Error)> {
        std::mem::take(self).failed
    }
}
