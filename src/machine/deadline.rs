//! Deadlines, and arithmetic of instants that cannot overflow.

use std::time::{Duration, Instant};

/// The longest timeout, a hundred years. The timers of some runtimes overflow at later instants,
/// even if [`Instant`] can represent them.
const MAX_TIMEOUT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Returns the instant `time` after `now`, and at most a hundred years after it.
///
/// `Instant + Duration` panics on overflow, and both operands may come from the user: the timeout
/// and the clock. If the clock cannot represent a hundred years more, the result is near its latest
/// instant, within a factor of two of the remaining time.
#[inline]
pub(crate) fn later(now: Instant, time: Duration) -> Instant {
    let time = time.min(MAX_TIMEOUT);
    now.checked_add(time)
        .unwrap_or_else(|| near_the_latest(now, time))
}

#[cold]
fn near_the_latest(now: Instant, mut time: Duration) -> Instant {
    loop {
        match now.checked_add(time) {
            Some(later) => return later,
            None => time /= 2,
        }
    }
}

/// Returns the earlier of two instants.
#[inline]
pub(crate) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// A deadline, which may be set by a call without a clock.
///
/// Calls such as [`Connection::request`](crate::machine::Connection::request) have no `now`, so
/// they set [`Deadline::In`], a duration that is not running yet. The driver polls the connection
/// after each such call. `poll_transmit`, `poll_dial`, `tend` and `handle_timeout` begin with
/// `Connection::stamp`, which starts every deadline: it turns each `In` into an
/// [`At`](Deadline::At). So `poll_timeout` returns the deadlines of new work only after one of
/// these calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Deadline {
    /// Nothing is waited for.
    #[default]
    None,
    /// Set, and not started. It starts at the next [`stamp`](Self::stamp).
    In(Duration),
    /// Started.
    At(Instant),
}

impl Deadline {
    /// Starts the deadline, if it is set and not started.
    #[inline]
    pub(crate) fn stamp(&mut self, now: Instant) {
        if let Self::In(time) = *self {
            *self = Self::At(later(now, time));
        }
    }

    /// Returns the instant of the deadline if it has started.
    #[inline]
    pub(crate) fn instant(self) -> Option<Instant> {
        if let Self::At(instant) = self {
            Some(instant)
        } else {
            None
        }
    }

    /// Returns `true` if the deadline has passed.
    pub(crate) fn has_passed(self, now: Instant) -> bool {
        self.instant().is_some_and(|instant| instant <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_saturates_for_any_clock() {
        let now = Instant::now();
        assert_eq!(
            later(now, Duration::from_secs(1)),
            now + Duration::from_secs(1)
        );
        assert_eq!(later(now, Duration::MAX), now + MAX_TIMEOUT);
        // The latest second that the clock can represent.
        let end = (0..64).rev().fold(now, |end, bit| {
            end.checked_add(Duration::from_secs(1 << bit))
                .unwrap_or(end)
        });
        assert_eq!(end.checked_add(Duration::from_secs(1)), None);
        assert!(later(end, Duration::MAX) >= end);
    }
}
