//! The publishes and requests that a close may leave incomplete.

use crate::pending::Request;
use puka::Error;
use std::time::{Duration, Instant};

/// The promises that ended without the broker's reply since a close began.
#[derive(Debug, Default)]
pub(crate) struct IncompleteClose {
    /// When the close began.
    began_at: Option<Instant>,
    /// There was no transport when the close began.
    without_transport: bool,
    /// A promise reached its deadline.
    timed_out: bool,
    /// The number of promises that the close must report as incomplete.
    certain: usize,
    /// The number of requests about consumers. The close may end them deliberately, or leave them
    /// incomplete.
    possible: usize,
}

impl IncompleteClose {
    /// Records the start of the close.
    pub(crate) fn begin(&mut self, now: Instant, without_transport: bool) {
        self.began_at.get_or_insert(now);
        self.without_transport |= without_transport;
    }

    /// Counts the outcome of a promise.
    pub(crate) fn count_outcome<T>(&mut self, request: &Request, outcome: &Result<T, Error>) {
        let Err(error) = outcome else { return };
        let error = if let Error::Unconfirmed(cause) = error {
            cause
        } else {
            error
        };
        self.timed_out |= matches!(error, Error::Timeout { .. } | Error::ReadingPaused(_));
        match (request, error) {
            (Request::Connect | Request::Close | Request::Consume { .. }, _) => {}
            (Request::Cancel(_) | Request::Qos(_), _) => self.possible += 1,
            (_, Error::Closed | Error::Timeout { .. } | Error::ReadingPaused(_)) => {
                self.certain += 1;
            }
            _ => {}
        }
    }

    /// Returns the number of promises that the close must report as incomplete.
    pub(crate) fn certain(&self) -> usize {
        self.certain
    }

    /// Returns `true` if the close may report this many promises as incomplete. It waits half of
    /// its timeout for pending work first, unless there is no transport or the work has timed out.
    /// The outcome of an abandoned promise is unknown.
    pub(crate) fn may_leave(
        &self,
        incomplete: usize,
        abandoned: usize,
        now: Instant,
        timeout: Duration,
    ) -> bool {
        let has_waited = (now - self.began_at.unwrap_or(now)) * 2 >= timeout;
        let may_be_early = self.without_transport || self.timed_out || abandoned > 0;
        let most = self.certain + self.possible + abandoned;
        (has_waited || may_be_early) && (self.certain..=most).contains(&incomplete)
    }
}
