//! When to reconnect, and when to give up (RabbitMQ's guides on reconnecting; "full jitter").

use crate::error::{Broken, Error};
use crate::options::Recovery;
use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

/// How long a connection must stay open so that its loss resets the backoff.
const STABLE: Duration = Duration::from_secs(60);

/// What an error implies for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Retry,
    /// The login, or the virtual host, is refused.
    Refused,
    /// This side ended the connection.
    Stop,
}

/// Returns what an error implies for the next attempt. Only this side ends a connection that has
/// been open. Any reply of a peer may be different at the next attempt: a user is being imported, a
/// certificate is renewed, a load balancer has no node behind it.
fn verdict(error: &Error, in_handshake: bool) -> Verdict {
    match error {
        Error::Closed | Error::ConnectionBroken(Broken::DriverDropped) => Verdict::Stop,
        Error::AccessRefused(_) | Error::NotAllowed(_) | Error::InvalidPath(_) if in_handshake => {
            Verdict::Refused
        }
        Error::LoginRefused | Error::NoMechanism { .. } | Error::UnencryptedLogin => {
            Verdict::Refused
        }
        _ => Verdict::Retry,
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
    /// How often the delay has doubled. Only a connection that stays open for a while resets it.
    /// Otherwise a connection that is lost immediately after opening would cause a hot loop.
    growth: u32,
    /// The endpoints that have failed in this attempt. The attempt ends when all have failed.
    failed: BTreeSet<usize>,
    /// When the first attempt was decided.
    since: Option<Instant>,
    /// When the connection became open.
    open_since: Option<Instant>,
    random: u64,
    has_been_open: bool,
}

impl Backoff {
    pub(crate) fn new(policy: Recovery) -> Self {
        // The keys of a hasher are the standard library's only source of random numbers.
        let random = policy
            .seed
            .unwrap_or_else(|| RandomState::new().hash_one(0))
            | 1;
        Self {
            policy,
            attempt: 0,
            growth: 0,
            failed: BTreeSet::new(),
            since: None,
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
    pub(crate) fn opened(&mut self, now: Instant) {
        self.has_been_open = true;
        self.open_since = Some(now);
        self.attempt = 0;
        self.failed.clear();
        self.since = None;
    }

    /// Returns `true` if this attempt has endpoints left after a failed handshake.
    fn has_endpoints_left(&mut self, first: usize, reached: usize, endpoints: usize) -> bool {
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

    /// Returns how long to wait before dialling again, or `None` to give up.
    pub(crate) fn after(&mut self, failure: &Failure<'_>, now: Instant) -> Option<Duration> {
        let &Failure {
            error,
            handshake,
            endpoints,
        } = failure;
        let verdict = verdict(error, handshake.is_some());
        if verdict == Verdict::Stop {
            return None;
        }
        if let Some((first, reached)) = handshake
            && self.has_endpoints_left(first, reached, endpoints)
        {
            return Some(Duration::ZERO);
        }
        self.failed.clear();
        if !self.has_been_open && !self.policy.retry_first_connect {
            return None;
        }
        let is_fresh = self
            .open_since
            .take()
            .is_some_and(|since| now.saturating_duration_since(since) >= STABLE);
        if is_fresh {
            self.growth = 0;
        }
        let since = *self.since.get_or_insert(now);
        let attempts = self.policy.attempts.is_none_or(|most| self.attempt < most);
        let time = self
            .policy
            .time
            .is_none_or(|most| now.saturating_duration_since(since) < most);
        if !attempts || !time {
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
        Some(match verdict {
            // Repeating a login sooner does not make it succeed, and brokers count refusals.
            Verdict::Refused => (longest / 2).saturating_add(self.part_of(longest / 2)),
            Verdict::Retry | Verdict::Stop => self.part_of(longest),
        })
    }

    /// Returns a random part of a duration.
    fn part_of(&mut self, time: Duration) -> Duration {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        time.mul_f64((self.random >> 11) as f64 / (1_u64 << 53) as f64)
    }
}
