//! A deadline that starts when the time is next known, because what starts it has no clock.

use std::time::{Duration, Instant};

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
            *self = Self::At(now + time);
        }
    }

    pub(super) fn instant(self) -> Option<Instant> {
        if let Self::At(instant) = self { Some(instant) } else { None }
    }

    pub(super) fn has_passed(self, now: Instant) -> bool {
        self.instant().is_some_and(|instant| instant <= now)
    }
}
