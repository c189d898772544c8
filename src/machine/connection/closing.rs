//! The `close` of the program: its promises, its drain deadline and its outcome.

use crate::error::Error;
use crate::machine::context::Context;
use crate::machine::deadline::{Deadline, later};
use crate::machine::{Notice, PromiseId, Reply};
use std::time::{Duration, Instant};

/// The close that the program has requested, if it has.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// Promises that complete when the connection is closed.
    promises: Vec<PromiseId>,
    /// The number of other promises that completed without a reply because of the close.
    incomplete: usize,
    /// When the connection stops waiting for pending requests.
    drain_deadline: Deadline,
    /// The last notice was sent.
    is_notified: bool,
}

impl Closing {
    /// Adds a promise that completes when the connection is closed.
    pub(crate) fn add(&mut self, promise: PromiseId) {
        self.promises.push(promise);
    }

    /// Returns `true` if the program has asked to close the connection.
    #[inline]
    pub(crate) fn has_begun(&self) -> bool {
        !self.promises.is_empty()
    }

    /// Returns the promises that complete when the connection is closed.
    pub(crate) fn promises(&self) -> &[PromiseId] {
        &self.promises
    }

    /// Starts the deadline for pending promises, half of the close timeout.
    pub(crate) fn begin(&mut self, timeout: Duration) {
        self.drain_deadline = Deadline::In(timeout / 2);
    }

    /// Removes the deadline for pending promises.
    pub(crate) fn end_draining(&mut self) {
        self.drain_deadline = Deadline::None;
    }

    /// Returns the deadline for draining and `close-ok` together. If the close has begun before the
    /// connection was open, half of the timeout is left for `close-ok` after draining.
    pub(crate) fn time_left(&self, timeout: Duration) -> Deadline {
        match self.drain_deadline {
            Deadline::At(drained) => Deadline::At(later(drained, timeout / 2)),
            _ => Deadline::In(timeout),
        }
    }

    /// Returns `true` if a promise is pending that closing waits for.
    #[inline]
    pub(crate) fn has_pending(&self, cx: &Context) -> bool {
        cx.promises.pending() > self.promises.len()
    }

    /// Returns the number of pending promises that closing waits for.
    pub(crate) fn pending(&self, cx: &Context) -> usize {
        cx.promises.pending().saturating_sub(self.promises.len())
    }

    /// Adds to the number of promises that completed without a reply during the close: because the
    /// connection ended, or because their timeout passed.
    pub(crate) fn count_incomplete(&mut self, promises: usize) {
        if self.has_begun() {
            self.incomplete += promises;
        }
    }

    /// Returns the outcome of `close` for a connection that has ended with this error.
    pub(crate) fn outcome(&self, error: Error) -> Result<Reply, Error> {
        match (error, self.incomplete) {
            (Error::Closed, 0) => Ok(Reply::Done),
            (Error::Closed, pending) => Err(Error::CloseIncomplete { pending }),
            (error, _) => Err(error),
        }
    }

    /// Completes the promises, because the connection has ended with this error.
    pub(crate) fn complete(&mut self, cx: &mut Context, error: &Error) {
        for promise in std::mem::take(&mut self.promises) {
            let outcome = self.outcome(error.clone());
            cx.complete(promise, outcome);
        }
    }

    /// Sends the last notice, once.
    pub(crate) fn notify(&mut self, cx: &mut Context, close_reason: Option<&Error>) {
        if !std::mem::replace(&mut self.is_notified, true)
            && let Some(error) = close_reason
        {
            cx.notices.notify(&Notice::Closed(error.clone()));
        }
    }

    /// Returns `true` if the deadline for pending promises has passed.
    #[inline]
    pub(crate) fn is_drain_overdue(&self, now: Instant) -> bool {
        self.drain_deadline.has_passed(now)
    }

    /// Returns when the connection stops waiting for pending promises.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.drain_deadline.instant()
    }

    /// Starts the deadline if it was set without a clock.
    #[inline]
    pub(crate) fn stamp(&mut self, now: Instant) {
        self.drain_deadline.stamp(now);
    }
}
