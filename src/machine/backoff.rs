//! When to try again, and when to give up (RabbitMQ's guides on reconnecting; "full jitter").

use crate::error::{Broken, Error, Peer};
use crate::options::Recovery;
use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

/// How long a connection has to stand before its loss is a new one.
const STEADY: Duration = Duration::from_secs(60);

/// How often a login may be refused in a row. Credentials are asked for anew each time, and may have been on their way.
const REFUSALS: u32 = 3;

/// How often in a minute a side may find the other to break the protocol. More than that is a fault that comes again.
const BREACHES: usize = 3;

/// What an error says about trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Retry,
    /// The login, or the virtual host, is refused.
    Refused,
    /// The protocol was broken, by whichever side.
    Breach,
    Stop,
}

fn verdict(error: &Error, in_handshake: bool) -> Verdict {
    match error {
        Error::ConnectionBroken(Broken::DriverDropped) => Verdict::Stop,
        Error::ConnectionBroken(_) | Error::Timeout { .. } => Verdict::Retry,
        Error::ConnectionForced(_) | Error::InternalError(_) | Error::ResourceError(_) => Verdict::Retry,
        Error::AccessRefused(_) | Error::NotAllowed(_) | Error::InvalidPath(_) if in_handshake => {
            Verdict::Refused
        }
        // Where the credentials come from may be down for a moment.
        Error::LoginRefused | Error::CannotLogIn(_) => Verdict::Refused,
        Error::FrameError(_) | Error::ChannelError(_) | Error::UnexpectedFrame(_) => Verdict::Breach,
        error if error.fault().is_some_and(|fault| fault.found_by == Peer::Client) => Verdict::Breach,
        _ => Verdict::Stop,
    }
}

/// The tries of a connection that is lost, and what came of those before.
#[derive(Debug)]
pub(super) struct Backoff {
    pub(super) policy: Recovery,
    /// Tries in a row that have failed, or that are under way.
    pub(super) attempt: u32,
    refusals: u32,
    breaches: VecDeque<Instant>,
    /// Since when it is tried.
    since: Option<Instant>,
    /// Since when the connection stands.
    standing: Option<Instant>,
    random: u64,
    has_stood: bool,
}

impl Backoff {
    pub(super) fn new(policy: Recovery) -> Self {
        // The keys of a hasher are the standard library's only source of chance.
        let random = policy.seed.unwrap_or_else(|| RandomState::new().hash_one(0)) | 1;
        Self {
            policy,
            attempt: 0,
            refusals: 0,
            breaches: VecDeque::new(),
            since: None,
            standing: None,
            random,
            has_stood: false,
        }
    }

    /// Whether the connection has stood once.
    pub(super) fn has_stood(&self) -> bool {
        self.has_stood
    }

    /// The connection stands.
    pub(super) fn stands(&mut self, now: Instant) {
        self.has_stood = true;
        self.standing = Some(now);
        self.refusals = 0;
        self.since = None;
    }

    /// How long to wait before the next try; `None` when there is to be none.
    pub(super) fn after(
        &mut self,
        error: &Error,
        in_handshake: bool,
        now: Instant,
        endpoints: usize,
    ) -> Option<Duration> {
        if !self.has_stood && !self.policy.first_connect {
            return None;
        }
        match verdict(error, in_handshake) {
            Verdict::Stop => return None,
            Verdict::Retry => {}
            Verdict::Refused => {
                self.refusals += 1;
                if self.refusals >= REFUSALS {
                    return None;
                }
            }
            Verdict::Breach => {
                self.breaches.retain(|at| now.saturating_duration_since(*at) < STEADY);
                self.breaches.push_back(now);
                if self.breaches.len() >= BREACHES {
                    return None;
                }
            }
        }
        let is_fresh =
            self.standing.take().is_some_and(|since| now.saturating_duration_since(since) >= STEADY);
        if is_fresh {
            self.attempt = 0;
        }
        let since = *self.since.get_or_insert(now);
        let attempts = self.policy.attempts.is_none_or(|most| self.attempt < most);
        let time = self.policy.time.is_none_or(|most| now.saturating_duration_since(since) < most);
        if !attempts || !time {
            return None;
        }
        self.attempt += 1;
        // Another broker may well be there at once.
        if self.attempt == 1 && endpoints > 1 {
            return Some(Duration::ZERO);
        }
        let doubled = self.policy.base_delay.saturating_mul(1 << (self.attempt - 1).min(30));
        Some(self.part_of(doubled.min(self.policy.longest_delay)))
    }

    /// A part of a time, at random.
    fn part_of(&mut self, time: Duration) -> Duration {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        time.mul_f64((self.random >> 11) as f64 / (1_u64 << 53) as f64)
    }
}
