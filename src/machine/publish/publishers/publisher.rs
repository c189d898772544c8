//! One publish channel.

use crate::machine::ids::{ChannelNumber, PromiseId};
use crate::machine::publish::confirms::Confirms;
use crate::machine::publish::pending::{PublishKind, StoredPublishes};
use crate::machine::publish::sizes::Sizes;
use std::collections::BTreeMap;
use std::time::Instant;

/// The publish channel of an exchange. The fields that each publish touches come first and begin a
/// cache line: with many exchanges, cache misses dominate the cost of a publish.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Publisher {
    pub(super) last_used: u64,
    pub(crate) channel: ChannelNumber,
    pub(super) kind: PublishKind,
    /// `false` while the broker has stopped content with `channel.flow`.
    pub(super) flows: bool,
    /// It takes no more publishes, so that it becomes idle and can be closed for another exchange.
    pub(super) is_retiring: bool,
    /// It was published to since the last [`stamp`](super::Publishers::stamp).
    pub(super) is_unstamped: bool,
    pub(crate) confirms: Confirms,
    /// The reply to the probe has arrived, so the broker has accepted the first publish. Until
    /// then, an error is about the first publish, and the broker has ignored all behind it. Without
    /// a probe, it is `true` from the first publish on.
    pub(crate) is_first_accepted: bool,
    /// The promises of calls without a reply, by the number of the publish.
    pub(crate) calls: BTreeMap<u64, PromiseId>,
    /// Copies of the publishes to republish after a loss, and of those with the flag `immediate`.
    pub(crate) stored: StoredPublishes,
    /// The sizes of large publishes.
    pub(crate) sizes: Sizes,
    pub(super) exchange: Box<[u8]>,
    /// Its position in the order of turns.
    pub(super) turn: u64,
    /// When its turn began.
    pub(super) since: Instant,
    /// Its entry in `deadlines`, which is no later than its earliest deadline.
    pub(super) due: Option<Instant>,
}

impl Publisher {
    /// Returns `true` if more may be published on it now.
    #[inline]
    pub(crate) fn takes_more(&self) -> bool {
        self.flows && !self.is_retiring
    }

    /// Returns `true` if the broker has stopped content: "If 0, the peer stops sending content
    /// frames" (1.5.2.3, `active`).
    pub(crate) fn is_stopped(&self) -> bool {
        !self.flows
    }

    /// Returns the name of the exchange.
    pub(crate) fn exchange(&self) -> &[u8] {
        &self.exchange
    }

    /// Returns the kind of its publishes.
    pub(crate) fn kind(&self) -> PublishKind {
        self.kind
    }

    /// Returns `true` if it may be closed. A channel with stopped content may not: the queued
    /// publishes wait for its `channel.flow`.
    pub(super) fn is_idle(&self) -> bool {
        self.flows && self.confirms.open() == 0 && self.calls.is_empty()
    }
}
