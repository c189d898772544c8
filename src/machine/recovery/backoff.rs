//! The decision when to reconnect and when to give up.
//!
//! The delay doubles with each attempt, and a random part of it is used ("full jitter"), so that
//! many clients do not reconnect at the same time.

use crate::error::{Broken, Error};
use crate::options::Recovery;
use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

/// How long a connection must stay open so that its loss resets the backoff.
const STABLE: Duration = Duration::from_secs(60);

/// The consequence of an error for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextAttempt {
    /// It is made after the usual delay.
    Usual,
    /// It is made late, because the login or the virtual host was refused.
    Late,
    /// It is not made, because this side ended the connection.
    Never,
}

/// Returns the consequence of an error for the next attempt. Only this side ends a connection that
/// has been open. Any reply of a peer may be different at the next attempt: a user is being
/// imported, a certificate is renewed, a load balancer has no node behind it.
fn next_attempt(error: &Error, in_handshake: bool) -> NextAttempt {
    match error {
        Error::Closed | Error::ConnectionBroken(Broken::DriverDropped) => NextAttempt::Never,
        Error::AccessRefused(_) | Error::NotAllowed(_) | Error::InvalidPath(_) if in_handshake => {
            NextAttempt::Late
        }
        Error::LoginRefused | Error::NoMechanism { .. } | Error::UnencryptedLogin => {
            NextAttempt::Late
        }
        _ => NextAttempt::Usual,
    }
}

/// A connection that was lost, or an attempt that failed.
#[derive(Debug)]
pub(crate) struct Failure<'e> {
    pub(crate) error: &'e Error,
    /// For a failed handshake: the endpoint at which dialling began, and the endpoint that was
    /// reached.
    pub(crate) handshake: Option<(usize, usize)>,
    /// The number of endpoints.
    pub(crate) endpoints: usize,
}

/// The attempts of a lost connection, and the outcome of the earlier ones.
#[derive(Debug)]
pub(crate) struct Backoff {
    pub(crate) policy: Recovery,
    /// The number of attempts since the connection was last open, including a pending one.
    pub(crate) attempt: u32,
    /// The number of attempts with which the delay has grown. Only a connection that stays open for
    /// a while resets it. Otherwise a connection that is lost immediately after opening would cause
    /// a hot loop.
    growth: u32,
    /// The endpoints that have failed in this attempt. The attempt ends when all have failed.
    failed: BTreeSet<usize>,
    /// When the first attempt since the connection was last open was decided.
    first_attempt_at: Option<Instant>,
    /// When the connection became open.
    open_since: Option<Instant>,
    /// The state of the random number generator.
    random: u64,
    has_been_open: bool,
}

impl Backoff {
    pub(crate) fn new(policy: Recovery) -> Self {
        // The keys of a hasher are the standard library's only source of random numbers.
        let random = policy
            .seed
            .unwrap_or_else(|| RandomState::new().hash_one(0));
        Self {
            policy,
            attempt: 0,
            growth: 0,
            failed: BTreeSet::new(),
            first_attempt_at: None,
            open_since: None,
            random,
            has_been_open: false,
        }
    }

    /// Returns `true` if the connection has been open once.
    pub(crate) fn has_been_open(&self) -> bool {
        self.has_been_open
    }

    /// Records that the connection is open.
    pub(crate) fn record_open(&mut self, now: Instant) {
        self.has_been_open = true;
        self.open_since = Some(now);
        self.attempt = 0;
        self.failed.clear();
        self.first_attempt_at = None;
    }

    /// Records the endpoints that a failed handshake and the dialling before it have tried. Returns
    /// `true` if this attempt has endpoints left.
    fn record_failed_endpoints(&mut self, first: usize, reached: usize, endpoints: usize) -> bool {
        let is_repeated = self.failed.contains(&reached);
        // The endpoints between the two could not be dialled.
        let mut endpoint = first;
        while endpoint != reached && endpoint < endpoints {
            self.failed.insert(endpoint);
            endpoint = (endpoint + 1) % endpoints;
        }
        self.failed.insert(reached);
        !is_repeated && self.failed.len() < endpoints
    }

    /// Counts a failure. Returns the delay before dialling again, or `None` to give up.
    pub(crate) fn delay_after(&mut self, failure: &Failure<'_>, now: Instant) -> Option<Duration> {
        let &Failure {
            error,
            handshake,
            endpoints,
        } = failure;
        let next_attempt = next_attempt(error, handshake.is_some());
        if next_attempt == NextAttempt::Never {
            return None;
        }
        if let Some((first, reached)) = handshake
            && self.record_failed_endpoints(first, reached, endpoints)
        {
            return Some(Duration::ZERO);
        }
        self.failed.clear();
        if !self.has_been_open && !self.policy.retry_first_connect {
            return None;
        }
        let was_stable = self
            .open_since
            .take()
            .is_some_and(|since| now.saturating_duration_since(since) >= STABLE);
        if was_stable {
            self.growth = 0;
        }
        let first_attempt_at = *self.first_attempt_at.get_or_insert(now);
        let has_attempts_left = self.policy.attempts.is_none_or(|most| self.attempt < most);
        let elapsed = now.saturating_duration_since(first_attempt_at);
        let has_time_left = self.policy.time.is_none_or(|most| elapsed < most);
        if !has_attempts_left || !has_time_left {
            return None;
        }
        self.attempt = self.attempt.saturating_add(1);
        self.growth = self.growth.saturating_add(1);
        // Another endpoint may be available at once.
        if self.growth == 1 && endpoints > 1 {
            return Some(Duration::ZERO);
        }
        let doubled = self
            .policy
            .base_delay
            .saturating_mul(1 << (self.growth - 1).min(30));
        let longest = doubled.min(self.policy.longest_delay);
        Some(match next_attempt {
            // Repeating a login sooner does not make it succeed, and brokers count refusals.
            NextAttempt::Late => (longest / 2).saturating_add(self.random_part_of(longest / 2)),
            NextAttempt::Usual | NextAttempt::Never => self.random_part_of(longest),
        })
    }

    /// Returns a random part of a duration.
    fn random_part_of(&mut self, time: Duration) -> Duration {
        // splitmix64: unlike with xorshift64, the first numbers of small seeds are not small.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let mixed = mixed ^ (mixed >> 31);
        time.mul_f64((mixed >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;
    use crate::protocol::MethodId;

    const SECOND: Duration = Duration::from_secs(1);

    fn backoff(policy: Recovery) -> Backoff {
        Backoff::new(Recovery {
            retry_first_connect: true,
            seed: Some(u64::MAX / 3),
            ..policy
        })
    }

    #[test]
    fn first_delays_of_small_seeds_differ() {
        let first = |seed| {
            let seed = Some(seed);
            Backoff::new(Recovery {
                seed,
                ..Recovery::default()
            })
            .random_part_of(SECOND)
        };
        let delays: BTreeSet<Duration> = (0..100).map(first).collect();
        assert_eq!(delays.len(), 100);
        let sum: Duration = delays.iter().sum();
        assert!((40..60).contains(&sum.as_secs()), "{sum:?}");
    }

    fn failure(error: &Error, endpoints: usize) -> Failure<'_> {
        Failure {
            error,
            handshake: None,
            endpoints,
        }
    }

    /// Returns many delays of up to a second after this error, in seconds.
    fn delays(error: &Error, in_handshake: bool) -> Vec<f64> {
        let mut backoff = backoff(Recovery {
            base_delay: SECOND,
            longest_delay: SECOND,
            ..Recovery::default()
        });
        let now = Instant::now();
        let failure = Failure {
            handshake: in_handshake.then_some((0, 0)),
            ..failure(error, 1)
        };
        (0..1000)
            .map(|_| backoff.delay_after(&failure, now).unwrap().as_secs_f64())
            .collect()
    }

    #[test]
    fn delays_are_spread_over_their_whole_range() {
        let delays = delays(&Error::ConnectionBroken(Broken::Eof), false);
        for tenth in 0..10 {
            let is_in_it = |delay: &&f64| (**delay * 10.0) as usize == tenth;
            let count = delays.iter().filter(is_in_it).count();
            assert!((50..150).contains(&count), "{count} in tenth {tenth}");
        }
    }

    #[test]
    fn refused_login_waits_half_of_the_delay_at_least() {
        let fault = Fault::reported_by_broker(403, "ACCESS_REFUSED", MethodId::NONE);
        let refused = Error::from(fault);
        for error in [&refused, &Error::LoginRefused] {
            assert!(delays(error, true).iter().all(|delay| *delay >= 0.5));
        }
        let of_a_request = delays(&refused, false);
        assert!(of_a_request.iter().any(|delay| *delay < 0.1));
    }

    #[test]
    fn attempts_end_exactly_at_the_time_limit() {
        let mut backoff = backoff(Recovery {
            time: Some(10 * SECOND),
            ..Recovery::default()
        });
        let (error, now) = (Error::ConnectionBroken(Broken::Eof), Instant::now());
        let failure = failure(&error, 1);
        assert!(backoff.delay_after(&failure, now).is_some());
        assert!(backoff.delay_after(&failure, now + 9 * SECOND).is_some());
        assert_eq!(backoff.delay_after(&failure, now + 10 * SECOND), None);
    }

    #[test]
    fn only_another_endpoint_is_dialled_without_delay() {
        let (error, now) = (Error::ConnectionBroken(Broken::Eof), Instant::now());
        let mut several = backoff(Recovery::default());
        let first = several.delay_after(&failure(&error, 2), now);
        assert_eq!(first, Some(Duration::ZERO));
        assert!(several.delay_after(&failure(&error, 2), now) > first);
        let mut one = backoff(Recovery::default());
        assert!(one.delay_after(&failure(&error, 1), now) > Some(Duration::ZERO));
    }

    #[test]
    fn endpoints_that_were_passed_over_count_as_failed() {
        let mut backoff = backoff(Recovery::default());
        assert!(
            !backoff.record_failed_endpoints(2, 1, 3),
            "2 and 0 are passed over"
        );
        backoff.failed.clear();
        assert!(backoff.record_failed_endpoints(0, 1, 3));
        assert!(!backoff.record_failed_endpoints(2, 2, 3));
    }
}
