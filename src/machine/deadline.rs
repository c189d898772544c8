//! A deadline that starts when the time is next known, because what starts it has no clock.

use std::time::{Duration, Instant};

/// The longest timeout. Timers of runtimes overflow at instants that [`Instant`] can represent, and
/// nobody waits for a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Returns the instant `time` after `now`, but not later than a hundred years after it.
///
/// `Instant + Duration` panics at what can't be represented, and both may be the user's: timeouts, and
/// the clock. If even a hundred years are too much for the clock, it is the latest instant it can tell,
/// give or take a factor of two.
pub(crate) fn later(now: Instant, time: Duration) -> Instant {
    let mut time = time.min(LONGEST);
    loop {
        match now.checked_add(time) {
            Some(later) => return later,
            None => time /= 2,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Deadline {
    #[default]
    None,
    /// It starts at the next [`stamp`](Self::stamp).
    In(Duration),
    At(Instant),
}

impl Deadline {
    pub(super) fn stamp(&mut self, now: Instant) {
        if let Self::In(time) = *self {
            *self = Self::At(later(now, time));
        }
    }

    pub(super) fn instant(self) -> Option<Instant> {
        if let Self::At(instant) = self { Some(instant) } else { None }
    }

    pub(super) fn has_passed(self, now: Instant) -> bool {
        self.instant().is_some_and(|instant| instant <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_saturates_for_any_clock() {
        let now = Instant::now();
        assert_eq!(later(now, Duration::from_secs(1)), now + Duration::from_secs(1));
        assert_eq!(later(now, Duration::MAX), now + LONGEST);
        let end = (0..128).fold(now, |end, halvings| {
            end.checked_add(Duration::MAX / 2_u32.saturating_pow(halvings)).unwrap_or(end)
        });
        assert!(later(end, Duration::MAX) >= end);
    }
}
