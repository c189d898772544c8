//! The clock of a driver.

use std::future::Future;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A coalesced deadline is late by at most this fraction of the time left until the deadline.
const SLACK: u32 = 64;

/// A source of time and of timers. Each runtime has one. A test can have its own, so that hours
/// pass at once.
pub trait Clock {
    /// A future that resolves at the deadline or a little later.
    type Sleep: Future<Output = ()>;

    /// Returns the current time.
    fn now(&self) -> Instant;

    /// Returns a future that sleeps until the deadline.
    fn sleep_until(&self, deadline: Instant) -> Self::Sleep;

    /// Returns an instant to sleep until instead of the deadline. It is never before the deadline,
    /// and later by at most a 64th of the time left (half a second for the heartbeats of RabbitMQ's
    /// default of 60 seconds).
    ///
    /// All calls in the process choose from a small set of instants. So thousands of idle
    /// connections wake the processor together, a few times a second, instead of one by one. It is
    /// meant for clocks that sleep in real time.
    fn coalesced(&self, deadline: Instant) -> Instant {
        static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
        let left = deadline.saturating_duration_since(self.now());
        let Some(grain) = (left / SLACK)
            .as_nanos()
            .checked_ilog2()
            .map(|power| 1_u128 << power)
        else {
            return deadline;
        };
        let since = deadline.saturating_duration_since(*EPOCH).as_nanos();
        let later = u64::try_from(since.next_multiple_of(grain) - since).ok();
        later
            .and_then(|later| deadline.checked_add(Duration::from_nanos(later)))
            .unwrap_or(deadline)
    }
}

impl<C: Clock + ?Sized> Clock for &C {
    type Sleep = C::Sleep;

    fn now(&self) -> Instant {
        (**self).now()
    }

    fn sleep_until(&self, deadline: Instant) -> C::Sleep {
        (**self).sleep_until(deadline)
    }

    fn coalesced(&self, deadline: Instant) -> Instant {
        (**self).coalesced(deadline)
    }
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    type Sleep = C::Sleep;

    fn now(&self) -> Instant {
        (**self).now()
    }

    fn sleep_until(&self, deadline: Instant) -> C::Sleep {
        (**self).sleep_until(deadline)
    }

    fn coalesced(&self, deadline: Instant) -> Instant {
        (**self).coalesced(deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::future::{Pending, pending};

    struct Still(Instant);

    impl Clock for Still {
        type Sleep = Pending<()>;

        fn now(&self) -> Instant {
            self.0
        }

        fn sleep_until(&self, _deadline: Instant) -> Pending<()> {
            pending()
        }
    }

    #[test]
    fn coalesced_deadline_is_at_most_a_64th_late() {
        let clock = Still(Instant::now());
        for nanoseconds in [
            0,
            1,
            63,
            64,
            999,
            1_000_000,
            123_456_789,
            30_000_000_000,
            86_400_000_000_000,
        ] {
            let left = Duration::from_nanos(nanoseconds);
            let late = clock
                .coalesced(clock.0 + left)
                .checked_duration_since(clock.0 + left);
            assert!(
                late.is_some_and(|late| late <= left / SLACK),
                "{left:?}: {late:?}"
            );
        }
        let past = clock.0.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(clock.coalesced(past), past);
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes Miri minutes")]
    fn ten_thousand_heartbeats_share_a_few_deadlines() {
        let start = Instant::now();
        let instants: BTreeSet<_> = (0..10_000)
            .map(|number| {
                let clock = Still(start + Duration::from_millis(3 * number));
                clock.coalesced(clock.0 + Duration::from_secs(30))
            })
            .collect();
        assert!(instants.len() <= 30 * 4, "{}", instants.len());
    }
}
