//! Back-pressure on input: the limits at which reading pauses and resumes.

use crate::error::{Error, ReadingPaused};
use crate::machine::deadline::{Deadline, earlier};
use std::time::{Duration, Instant};

/// The longest time for which a pause may delay replies and confirms.
///
/// It is below a second, so that a publish in a consumer's loop takes less than a second. A
/// consumer that takes its deliveries empties half of the buffer in a fraction of this time.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// The hard limit, as a multiple of the limit.
///
/// The deliveries in flight when a consumer is throttled are buffered between the two limits.
/// During two round trips, RabbitMQ's classic queues have at most 200 messages each in flight, in
/// addition to the socket buffers. For messages of 64 KiB that is about 30 MiB of 192 MiB by
/// default.
const HARD_LIMIT_FACTOR: usize = 4;

/// A number of deliveries and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Buffered {
    pub(crate) deliveries: usize,
    pub(crate) bytes: usize,
}

impl Buffered {
    /// Returns `true` if the number or the size is at least that of `limit`.
    pub(crate) fn reaches(self, limit: Self) -> bool {
        self.deliveries >= limit.deliveries || self.bytes >= limit.bytes
    }

    /// Returns `true` if the number or the size is above that of `limit`.
    pub(crate) fn exceeds(self, limit: Self) -> bool {
        self.deliveries > limit.deliveries || self.bytes > limit.bytes
    }

    /// Returns both figures multiplied by a factor.
    pub(crate) fn times(self, factor: usize) -> Self {
        Self {
            deliveries: self.deliveries.saturating_mul(factor),
            bytes: self.bytes.saturating_mul(factor),
        }
    }

    /// Returns both figures divided by a number of parts.
    pub(crate) fn divided(self, parts: usize) -> Self {
        let parts = parts.max(1);
        Self {
            deliveries: self.deliveries / parts,
            bytes: self.bytes / parts,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            deliveries: self.deliveries.saturating_add(other.deliveries),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// The decision whether to read from the stream. It depends on the buffered deliveries.
///
/// Reading pauses at the limit and resumes at half of it. If a pause lasts longer than
/// [`MAX_PAUSE`] and a reply is pending, it is relieved: greedy consumers are throttled, and
/// reading continues up to the hard limit, until at most half of the limit is buffered.
#[derive(Debug)]
pub(crate) struct Reading {
    limit: Buffered,
    is_on: bool,
    /// The hard limit applies instead of the limit.
    is_relieved: bool,
    /// A pause was relieved on this connection, so later ones are relieved at once. Otherwise a
    /// loop that publishes and consumes would stall each time the buffer is full.
    was_relieved: bool,
    /// When to relieve the pause.
    relief: Deadline,
    /// When to report the pause.
    notice: Deadline,
    /// The deliveries that were buffered at the last search for greedy consumers, or the lowest
    /// figures since.
    buffered_at_search: Buffered,
}

impl Reading {
    pub(crate) fn new(deliveries: usize, bytes: usize) -> Self {
        Self {
            limit: Buffered { deliveries, bytes },
            is_on: true,
            is_relieved: false,
            was_relieved: false,
            relief: Deadline::None,
            notice: Deadline::None,
            buffered_at_search: Buffered::default(),
        }
    }

    /// Resets the state that belongs to a lost transport.
    pub(crate) fn start_over(&mut self) {
        self.is_relieved = false;
        self.was_relieved = false;
    }

    /// Returns `true` unless reading is paused.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Returns the error of a timeout: [`Error::ReadingPaused`] if reading is paused.
    pub(crate) fn timeout_error(
        &self,
        what: &'static str,
        after: Duration,
        buffered: Buffered,
    ) -> Error {
        if self.is_on {
            return Error::Timeout { what, after };
        }
        let Buffered { deliveries, bytes } = buffered;
        let paused = ReadingPaused {
            what,
            after,
            deliveries,
            bytes,
        };
        Error::ReadingPaused(paused.into())
    }

    /// Returns `true` if taking deliveries may change whether to read, or which limit applies.
    pub(crate) fn depends_on_taking(&self) -> bool {
        !self.is_on || self.is_relieved
    }

    /// Returns `true` if consumers of this connection may have been throttled.
    pub(crate) fn has_been_relieved(&self) -> bool {
        self.was_relieved
    }

    pub(crate) fn limit(&self) -> Buffered {
        self.limit
    }

    /// Updates the state for the buffered deliveries. Returns `true` if reading resumes.
    pub(crate) fn update(&mut self, buffered: Buffered) -> bool {
        self.is_relieved &= buffered.exceeds(self.limit.divided(2));
        self.buffered_at_search.deliveries =
            self.buffered_at_search.deliveries.min(buffered.deliveries);
        self.buffered_at_search.bytes = self.buffered_at_search.bytes.min(buffered.bytes);
        let bound = if self.is_relieved {
            self.limit.times(HARD_LIMIT_FACTOR)
        } else {
            self.limit
        };
        let was_on = self.is_on;
        self.is_on = if was_on {
            !buffered.reaches(bound)
        } else {
            !buffered.exceeds(bound.divided(2))
        };
        if was_on && !self.is_on {
            self.relief = Deadline::In(if self.was_relieved {
                Duration::ZERO
            } else {
                MAX_PAUSE
            });
            self.notice = Deadline::In(MAX_PAUSE);
        } else if self.is_on {
            (self.relief, self.notice) = (Deadline::None, Deadline::None);
        }
        self.is_on && !was_on
    }

    /// Begins a search for greedy consumers if it is due. Returns `true` if it is.
    ///
    /// It is due whenever another half of the limit is buffered. The search iterates over all
    /// consumers, so it does not run for every delivery.
    pub(crate) fn begin_search_if_due(&mut self, buffered: Buffered) -> bool {
        let is_due = self.is_relieved
            && buffered.exceeds(self.buffered_at_search.plus(self.limit.divided(2)));
        if is_due {
            self.buffered_at_search = buffered;
        }
        is_due
    }

    #[inline]
    pub(crate) fn stamp(&mut self, now: Instant) {
        self.relief.stamp(now);
        self.notice.stamp(now);
    }

    /// Returns when [`relieve`](Self::relieve) or [`take_notice`](Self::take_notice) is due.
    pub(crate) fn deadline(&self, is_reply_pending: bool) -> Option<Instant> {
        let relief = self
            .relief
            .instant()
            .filter(|_| is_reply_pending && !self.is_relieved);
        earlier(relief, self.notice.instant())
    }

    /// Relieves a pause that has lasted too long. Returns `true` if it did.
    pub(crate) fn relieve(&mut self, now: Instant, buffered: Buffered) -> bool {
        if self.is_relieved || !self.relief.has_passed(now) {
            return false;
        }
        self.is_relieved = true;
        self.was_relieved = true;
        self.buffered_at_search = buffered;
        self.is_on = !buffered.reaches(self.limit.times(HARD_LIMIT_FACTOR));
        if self.is_on {
            (self.relief, self.notice) = (Deadline::None, Deadline::None);
        }
        true
    }

    /// Clears the notice of a pause if it is due. Returns `true` if it was: once for each pause
    /// that has lasted too long.
    pub(crate) fn take_notice(&mut self, now: Instant) -> bool {
        let is_due = self.notice.has_passed(now);
        if is_due {
            self.notice = Deadline::None;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(deliveries: usize) -> Buffered {
        Buffered {
            deliveries,
            bytes: 0,
        }
    }

    /// Returns a reading that is paused at a limit of 10.
    fn paused(now: Instant) -> Reading {
        let mut reading = Reading::new(10, 1000);
        assert!(!reading.update(of(9)) && reading.is_on());
        assert!(!reading.update(of(10)) && !reading.is_on());
        reading.stamp(now);
        reading
    }

    #[test]
    fn pause_ends_at_half_of_the_limit() {
        let mut reading = paused(Instant::now());
        assert!(!reading.update(of(6)) && !reading.is_on());
        assert!(reading.update(of(5)) && reading.is_on());
        assert_eq!(reading.deadline(true), None);
    }

    #[test]
    fn pause_is_reported_once_and_relieved_for_replies() {
        let now = Instant::now();
        let mut reading = paused(now);
        assert_eq!(reading.deadline(false), Some(now + MAX_PAUSE));
        assert!(!reading.take_notice(now) && !reading.relieve(now, of(10)));
        let late = now + MAX_PAUSE;
        assert!(reading.take_notice(late) && !reading.take_notice(late));
        assert_eq!(reading.deadline(false), None, "no reply is pending");
        assert_eq!(reading.deadline(true), Some(late));
        assert!(reading.relieve(late, of(10)) && reading.is_on());
    }

    #[test]
    fn relieved_reading_stops_at_the_hard_limit() {
        let now = Instant::now();
        let mut reading = paused(now);
        assert!(reading.relieve(now + MAX_PAUSE, of(10)));
        assert!(!reading.begin_search_if_due(of(15)) && reading.begin_search_if_due(of(16)));
        assert!(!reading.begin_search_if_due(of(21)) && reading.begin_search_if_due(of(22)));
        assert!(!reading.update(of(39)) && reading.is_on());
        assert!(!reading.update(of(40)) && !reading.is_on());
        reading.stamp(now);
        assert_eq!(
            reading.deadline(true),
            Some(now + MAX_PAUSE),
            "the next pause is reported as well"
        );
        assert!(
            !reading.relieve(now + MAX_PAUSE, of(40)),
            "the pause at the hard limit is not relieved"
        );
        assert!(reading.update(of(20)));
    }

    #[test]
    fn second_pause_is_relieved_at_once() {
        let now = Instant::now();
        let mut reading = paused(now);
        assert!(reading.relieve(now + MAX_PAUSE, of(10)));
        reading.update(of(5));
        reading.update(of(10));
        reading.stamp(now);
        assert_eq!(reading.deadline(true), Some(now));
        assert_eq!(reading.deadline(false), Some(now + MAX_PAUSE));
        reading.start_over();
        reading.update(of(5));
        reading.update(of(10));
        reading.stamp(now);
        assert_eq!(reading.deadline(true), Some(now + MAX_PAUSE));
    }

    #[test]
    fn pause_ends_at_half_of_the_bytes() {
        let bytes = |bytes| Buffered {
            deliveries: 0,
            bytes,
        };
        let mut reading = Reading::new(10, 1000);
        assert!(!reading.update(bytes(999)) && reading.is_on());
        assert!(!reading.update(bytes(1000)) && !reading.is_on());
        assert!(!reading.update(bytes(501)) && !reading.is_on());
        assert!(reading.update(bytes(500)) && reading.is_on());
    }
}
