//! Asking the user's filter what is to be declared again.
//!
//! The machine only hands a [`FilterStep`] out, and takes in what came of it, because the filter is the user's code: it may ask
//! the connection anything, take its time, and panic.

use super::topology::Step;
use crate::options::Filter;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Entities for which the filter of [`Recovery::filter`](crate::Recovery::filter) is to be asked.
#[must_use = "the recovery waits for it"]
pub struct FilterStep {
    pub(super) filter: Filter,
    pub(super) steps: Vec<Step>,
    /// The connection that is recovered.
    pub(super) epoch: u32,
}

/// What came of a [`FilterStep`].
#[derive(Debug)]
#[must_use = "the recovery waits for it"]
pub struct FilterOutcome {
    pub(super) wanted: Vec<Step>,
    /// The first entity over which the filter panicked.
    pub(super) panicked: Option<Box<str>>,
    pub(super) epoch: u32,
}

impl fmt::Debug for FilterStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterStep").field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl FilterStep {
    /// Asks the filter. Call it without holding a lock. An entity over which the filter panics is declared again: leaving it out
    /// could lose messages, and declaring it changes nothing for one that exists.
    pub fn run(self) -> FilterOutcome {
        let Self { filter, mut steps, epoch } = self;
        let mut panicked = None;
        steps.retain(|step| {
            let wanted = catch_unwind(AssertUnwindSafe(|| step.with_entity(|entity| filter(entity))));
            wanted.unwrap_or_else(|_| {
                panicked.get_or_insert_with(|| step.describe().into());
                true
            })
        });
        FilterOutcome { wanted: steps, panicked, epoch }
    }
}
