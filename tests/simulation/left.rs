//! What a close may leave undone.

use crate::session::Asked;
use puka::Error;
use std::time::Instant;

/// What a close has left undone.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// When it began.
    pub(crate) since: Option<Instant>,
    /// There was no transport then.
    pub(crate) without_transport: bool,
    pub(crate) timed_out: bool,
    pub(crate) least: usize,
    /// Those of consumers, which a close may end on purpose.
    pub(crate) unknown: usize,
}

impl Left {
    /// Counts how a promise ended.
    pub(crate) fn count<T>(&mut self, asked: &Asked, outcome: &Result<T, Error>) {
        let Err(error) = outcome else { return };
        let error = if let Error::Unconfirmed(cause) = error {
            cause
        } else {
            error
        };
        self.timed_out |= matches!(error, Error::Timeout { .. } | Error::ReadingPaused(_));
        match (asked, error) {
            (Asked::Connect | Asked::Close | Asked::Consume { .. }, _) => {}
            (Asked::Cancel(_) | Asked::Qos(_), _) => self.unknown += 1,
            (_, Error::Closed | Error::Timeout { .. } | Error::ReadingPaused(_)) => self.least += 1,
            _ => {}
        }
    }
}
