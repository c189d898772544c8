//! The publishes and requests that a close may leave pending.

use crate::pending::Request;
use puka::Error;
use std::time::Instant;

/// The counts of promises that a close left without the broker's answer.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// The start of the close.
    pub(crate) since: Option<Instant>,
    /// There was no transport at that time.
    pub(crate) without_transport: bool,
    pub(crate) timed_out: bool,
    pub(crate) least: usize,
    /// Requests of consumers, which a close may end deliberately.
    pub(crate) unknown: usize,
}

impl Left {
    /// Counts the outcome of a promise.
    pub(crate) fn count<T>(&mut self, request: &Request, outcome: &Result<T, Error>) {
        let Err(error) = outcome else { return };
        let error = if let Error::Unconfirmed(cause) = error {
            cause
        } else {
            error
        };
        self.timed_out |= matches!(error, Error::Timeout { .. } | Error::ReadingPaused(_));
        match (request, error) {
            (Request::Connect | Request::Close | Request::Consume { .. }, _) => {}
            (Request::Cancel(_) | Request::Qos(_), _) => self.unknown += 1,
            (_, Error::Closed | Error::Timeout { .. } | Error::ReadingPaused(_)) => self.least += 1,
            _ => {}
        }
    }
}
