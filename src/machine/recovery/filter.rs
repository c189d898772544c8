//! Running the user's filter, which selects the entities to replay.
//!
//! The filter is the user's code: it may call the connection, take long, and panic. So the state
//! machine only returns a [`FilterStep`] and receives its outcome.

use crate::machine::recovery::step::ReplayStep;
use crate::options::Filter;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Entities to pass to the filter of [`Recovery::filter`](crate::Recovery::filter).
#[must_use = "the recovery waits for it"]
pub struct FilterStep {
    pub(crate) filter: Filter,
    pub(crate) steps: Vec<ReplayStep>,
    /// The epoch of the connection that is being recovered.
    pub(crate) epoch: u32,
}

/// The outcome of a [`FilterStep`].
#[derive(Debug)]
#[must_use = "the recovery waits for it"]
pub struct FilterOutcome {
    pub(crate) wanted: Vec<ReplayStep>,
    /// The first entity for which the filter panicked.
    pub(crate) panicked: Option<Box<str>>,
    pub(crate) epoch: u32,
}

impl fmt::Debug for FilterStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilterStep")
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

impl FilterStep {
    /// Runs the filter. The caller must not hold a lock. An entity for which the filter panics is
    /// declared again: skipping it could lose messages, and declaring an existing entity changes
    /// nothing.
    pub fn run(self) -> FilterOutcome {
        let Self {
            filter,
            mut steps,
            epoch,
        } = self;
        let mut panicked = None;
        steps.retain(|step| {
            let wanted = catch_unwind(AssertUnwindSafe(|| {
                step.with_entity(|entity| filter(entity))
            }));
            wanted.unwrap_or_else(|_| {
                panicked.get_or_insert_with(|| step.describe().into());
                true
            })
        });
        FilterOutcome {
            wanted: steps,
            panicked,
            epoch,
        }
    }
}
