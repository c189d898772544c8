//! A limit of channels that the handshake does not announce: learning it, and respecting it.
//!
//! RabbitMQ limits the channels of a user (`max-channels`) and of a node (`channel_max_per_node`),
//! and closes the connection over the `channel.open` that exceeds a limit. All connections share
//! the limit, including a lost one whose loss the broker has not noticed yet. So the limit of this
//! connection is learned: it is the number of channels that were open.
//!
//! - A close while one channel was being opened shows the limit, and which work has exceeded it.
//!   If several were being opened, channels are opened one at a time from then on, so that the next
//!   close shows it.
//! - The limit may rise, so it is exceeded once in a while. Each such probe may cost a connection.
//!   Its delay doubles with each refusal, from a second to ten minutes.

use crate::error::{Error, Peer};
use crate::machine::channel::Role;
use crate::machine::ids::ChannelNumber;
use crate::protocol::ReplyCode;
use crate::protocol::method::channel;
use std::time::{Duration, Instant};

/// The delay before the first probe. In a silent loss, the broker may give up the earlier
/// connection, whose channels count, within seconds.
const FIRST_DELAY: Duration = Duration::from_secs(1);

/// The longest delay before a probe, so a limit that an operator has raised is noticed within ten
/// minutes. A program that wants more channels than it may have loses its connection that often.
const MAX_DELAY: Duration = Duration::from_secs(600);

/// How long after the last refusal the limit is forgotten. Until then, requests and publishes share
/// the channels that they have and do not probe: they would gain only speed.
const FORGET: Duration = Duration::from_secs(3600);

/// Returns `true` if the broker closed the connection because it allows no more channels.
///
/// RabbitMQ's code is 530, without a method. These are the beginnings of its texts, after the name
/// of the code:
///
/// | limit | text |
/// | --- | --- |
/// | of a user | `number of channels opened for user 'u' has reached the maximum allowed ..` |
/// | of a node | `number of channels opened on node 'n' has reached the maximum allowed ..` |
/// | `channel_max` | `number of channels opened (6) has reached the negotiated channel_max (6)` |
///
/// Other brokers may have other texts, and name the method.
pub(crate) fn is_channel_limit(error: &Error) -> bool {
    let Some(fault) = error.fault().filter(|fault| fault.found_by == Peer::Server) else {
        return false;
    };
    let text = fault
        .text
        .strip_prefix("NOT_ALLOWED - ")
        .unwrap_or(&fault.text);
    fault.code == ReplyCode::NOT_ALLOWED
        && (text.starts_with("number of channels opened") || fault.method == channel::Open::ID)
}

/// The channels in use, as far as a limit depends on them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InUse {
    pub(crate) open: usize,
    /// Those of consumers and transactions.
    pub(crate) long_lived: usize,
    /// Those of consumers that are not about to end.
    pub(crate) consumed: usize,
    /// Those that requests or publishes share.
    pub(crate) shared: usize,
}

/// A channel limit of the broker, as learned from its refusals.
#[derive(Debug)]
pub(crate) struct LearnedLimit {
    /// The number of channels that the broker allows; `None` if it is not known exactly.
    most: Option<usize>,
    /// The number of consumers and transactions that had a channel when the limit was learned. They
    /// keep theirs, so that only the work that exceeded the limit fails.
    claimed: usize,
    /// When the broker last refused a channel.
    refused_at: Instant,
    /// How long after the last refusal the limit may be exceeded again.
    delay: Duration,
    /// The delay has passed.
    is_due: bool,
    /// The channel that is being opened, with its incarnation. Meanwhile no other one is opened.
    pub(crate) opening: Option<(ChannelNumber, u64)>,
}

impl LearnedLimit {
    /// Returns the state after a refusal. `before` is the earlier state.
    pub(crate) fn after(before: Option<&Self>, now: Instant) -> Self {
        Self {
            most: None,
            claimed: 0,
            refused_at: now,
            delay: before.map_or(FIRST_DELAY, Self::next_delay),
            is_due: false,
            opening: None,
        }
    }

    /// Returns the delay after another refusal. It grows only if the refused channel was a probe. A
    /// recovery that gets no channel at all is refused at each attempt, which has its own delays.
    /// If the limit has risen since, this is another limit, and the delays start over.
    fn next_delay(&self) -> Duration {
        if self.most.is_none() {
            FIRST_DELAY
        } else if self.is_due {
            MAX_DELAY.min(2 * self.delay)
        } else {
            self.delay
        }
    }

    /// Sets the limit. `in_use` are the channels that the broker has opened.
    pub(crate) fn set(&mut self, in_use: &InUse, is_restarting: bool) {
        self.most = Some(in_use.open);
        self.claimed = if is_restarting { 0 } else { in_use.long_lived };
    }

    /// Updates whether the limit may be exceeded. Returns `true` if it is forgotten.
    pub(crate) fn stamp(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.refused_at);
        self.is_due = elapsed >= self.delay;
        elapsed >= FORGET
    }

    /// Records that the broker has opened a channel, the last of `open`. If it exceeds the limit,
    /// the limit has risen, and is not known exactly any more.
    pub(crate) fn record_opened(&mut self, number: ChannelNumber, open: usize) {
        if self.opening.is_some_and(|(opening, _)| opening == number) {
            self.opening = None;
            self.most = self.most.filter(|most| open <= *most);
        }
    }

    /// Returns the limit, if work of this role has to respect it now.
    pub(crate) fn most_for(&self, role: Role, in_use: &InUse) -> Option<usize> {
        let may_exceed = match role {
            Role::Consume | Role::Transaction => self.is_due,
            // Without a channel, there is no recovery. A refusal fails the attempt, which is
            // repeated with a growing delay.
            Role::Restore => in_use.open == 0 || self.is_due,
            _ => self.is_due && in_use.shared == 0,
        };
        self.most.filter(|_| !may_exceed)
    }

    /// Returns `true` if another channel may be opened for this role.
    pub(crate) fn allows(&self, role: Role, in_use: &InUse) -> bool {
        let most = self.most_for(role, in_use);
        most.is_none_or(|most| in_use.open < most)
    }

    /// Returns how many consumers and transactions may have a channel. One channel is left for
    /// requests and publishes, which then take turns.
    pub(crate) fn long_lived(&self, in_use: &InUse) -> usize {
        let most = self.most_for(Role::Consume, in_use);
        most.map_or(usize::MAX, |most| {
            most.saturating_sub(1).max(self.claimed.min(most))
        })
    }

    /// Returns `true` if consumers that are not about to end use all channels.
    pub(crate) fn leaves_none_for_requests(&self, in_use: &InUse) -> bool {
        let most = self.most_for(Role::Request, in_use);
        most.is_some_and(|most| in_use.consumed >= most)
    }
}
