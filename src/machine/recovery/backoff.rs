//! The decision when to reconnect and when to give up.
//!
//! The delay doubles with each attempt, and a random part of it is used ("full jitter"), so that
//! many clients do not reconnect at the same time.

use crate::error::Error;
use crate::options::Recovery;
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
        error if error.is_from_this_side() => NextAttempt::Never,
        // One endpoint that may be available again soon determines the pace of all. Its error comes
        // from dialling or from the handshake, as each of the list does.
        Error::CannotConnect(failed) if failed.iter().all(|it| refuses(&it.error, true)) => {
            NextAttempt::Late
        }
        error if refuses(error, in_handshake) => NextAttempt::Late,
        _ => NextAttempt::Usual,
    }
}

/// Returns `true` if the broker, or an option of the user, has refused the login or the virtual
/// host.
pub(crate) fn refuses(error: &Error, in_handshake: bool) -> bool {
    match error {
        Error::AccessRefused(_) | Error::NotAllowed(_) | Error::InvalidPath(_) => in_handshake,
        Error::LoginRefused
        | Error::LargeLogin { .. }
        | Error::NoMechanism { .. }
        | Error::UnencryptedLogin => true,
        _ => false,
    }
}

/// A connection that was lost, or an attempt that failed.
#[derive(Debug)]
pub(crate) struct Failure<'e> {
    pub(crate) error: &'e Error,
    /// The handshake has failed.
    pub(crate) in_handshake: bool,
    /// The attempt continues at once with another address or endpoint.
    pub(crate) continues: bool,
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
        self.first_attempt_at = None;
    }

    /// Counts a failure. Returns the delay before dialling again, or `None` to give up.
    pub(crate) fn delay_after(&mut self, failure: &Failure<'_>, now: Instant) -> Option<Duration> {
        let &Failure {
            error,
            in_handshake,
            continues,
            endpoints,
        } = failure;
        let next_attempt = next_attempt(error, in_handshake);
        if next_attempt == NextAttempt::Never {
            return None;
        }
        if continues {
            return Some(Duration::ZERO);
        }
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
    use crate::error::{Broken, FailedAttempt, Fault};
    use crate::protocol::MethodId;
    use crate::uri::Endpoint;
    use std::collections::BTreeSet;

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
            in_handshake: false,
            continues: false,
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
            in_handshake,
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
    fn one_network_error_of_several_sets_the_pace() {
        let refused = Error::LoginRefused;
        let broken = Error::ConnectionBroken(Broken::Eof);
        let list = |errors: [&Error; 2]| {
            let attempt =
                |error: &Error| FailedAttempt::new(0, Endpoint::default(), None, error.clone());
            Error::of_attempts(errors.map(attempt).into())
        };
        let late = delays(&list([&refused, &refused]), true);
        assert!(late.iter().all(|delay| *delay >= 0.5));
        for errors in [[&refused, &broken], [&broken, &refused]] {
            assert!(delays(&list(errors), true).iter().any(|delay| *delay < 0.1));
        }
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
}
