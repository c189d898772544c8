//! The publish channels: one per exchange and [`PublishKind`].
//!
//! If there are more exchanges than channels, the channels are shared in turns. A channel whose
//! turn is over is retiring: it takes no new publishes, and is closed for another exchange once it
//! is idle.

pub(crate) mod publisher;

use crate::machine::ids::{ChannelNumber, PromiseId};
use crate::machine::promises::Promises;
use crate::machine::publish::confirms::Confirms;
use crate::machine::publish::pending::{PendingPublish, PublishKind, StoredPublishes};
use crate::machine::publish::publishers::publisher::Publisher;
use crate::machine::publish::sizes::Sizes;
use crate::machine::recovery::name_hasher::NameHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::time::{Duration, Instant};

/// The header with the number of a mandatory publish. It matches a return to its publish.
pub(crate) const NUMBER_HEADER: &str = "x-puka-publish";

/// A header with the number of times that a message was published before with an unknown outcome.
pub(crate) const REPUBLISHED_HEADER: &str = "x-puka-republished";

/// How long an exchange keeps its channel when all channels are busy and others wait for one.
/// Without a minimum, busy exchanges would take channels from each other after each publish.
const TURN: Duration = Duration::from_millis(100);

/// The numbers of an exchange's channels, one for each [`PublishKind`].
type ExchangeChannels = [Option<ChannelNumber>; 3];

/// The publishers of a connection.
#[derive(Debug, Default)]
pub(crate) struct Publishers {
    /// The publishers by channel number.
    publishers: Vec<Option<Box<Publisher>>>,
    /// The channels of the default exchange, which needs no lookup. (Where glibc implements
    /// `memcmp` with masked loads, comparing two empty names costs as much as the rest of a
    /// publish.)
    default: ExchangeChannels,
    /// The channels of the other exchanges.
    named: HashMap<Box<[u8]>, ExchangeChannels, BuildHasherDefault<NameHasher>>,
    /// The number of publishers.
    len: usize,
    /// A counter of lookups and of turns. Its values order publishers by their last use, and turns
    /// by their beginning.
    uses: u64,
    /// The number of unconfirmed publishes, without those whose deadline has passed.
    in_flight: usize,
    /// The size of all stored copies of publishes, in bytes.
    pub(crate) stored_bytes: usize,
    /// The number of calls whose reply is pending.
    calls: usize,
    /// The channels that are not retiring, in the order in which their turns began.
    turns: BTreeMap<u64, ChannelNumber>,
    /// The number of channels that are retiring.
    retiring: usize,
    /// When the last channel began to retire.
    retired: Option<Instant>,
    /// A channel may have become idle since the last search found none.
    may_have_idle: bool,
    /// Channels that are being closed and may have publishes that the broker has not seen, with
    /// their exchanges.
    closing: BTreeMap<ChannelNumber, (PublishKind, Box<[u8]>)>,
    /// Channels that were published to since the last [`stamp`](Self::stamp).
    unstamped: Vec<ChannelNumber>,
    /// An entry for each channel with deadlines. It may be earlier than the channel's earliest
    /// deadline, because confirms do not update it.
    deadlines: BTreeSet<(Instant, ChannelNumber)>,
}

impl Publishers {
    /// Returns the publisher of an exchange, and counts it as used.
    #[inline]
    pub(crate) fn find(&mut self, exchange: &[u8], kind: PublishKind) -> Option<&mut Publisher> {
        let channels = if exchange.is_empty() {
            &self.default
        } else {
            self.named.get(exchange)?
        };
        let channel = (*channels.get(kind as usize)?)?;
        self.uses += 1;
        let uses = self.uses;
        let publisher = self.on(channel)?;
        publisher.last_used = uses;
        Some(publisher)
    }

    /// Returns the number of publishers.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds the publisher of an exchange on a new channel.
    pub(crate) fn add(
        &mut self,
        exchange: &[u8],
        kind: PublishKind,
        channel: ChannelNumber,
        now: Instant,
    ) {
        let index = usize::from(channel);
        if self.publishers.len() <= index {
            self.publishers.resize_with(index + 1, || None);
        }
        self.uses += 1;
        self.len += 1;
        let publisher = Publisher {
            channel,
            confirms: Confirms::default(),
            is_first_accepted: false,
            flows: true,
            is_retiring: false,
            is_unstamped: false,
            calls: BTreeMap::new(),
            stored: StoredPublishes::default(),
            sizes: Sizes::default(),
            kind,
            exchange: exchange.into(),
            last_used: self.uses,
            turn: self.uses,
            since: now,
            due: None,
        };
        self.turns.insert(self.uses, channel);
        self.may_have_idle = true;
        if let Some(slot) = self.publishers.get_mut(index) {
            *slot = Some(publisher.into());
        }
        let channels = if exchange.is_empty() {
            &mut self.default
        } else {
            self.named.entry(exchange.into()).or_default()
        };
        if let Some(slot) = channels.get_mut(kind as usize) {
            *slot = Some(channel);
        }
    }

    /// Removes the publisher that has been idle longest, and returns its channel, which the caller
    /// closes. A publisher is idle if no confirm and no reply is pending. Confirms whose deadline
    /// has passed do not count as pending.
    pub(crate) fn remove_idle(&mut self) -> Option<ChannelNumber> {
        if !self.may_have_idle {
            return None;
        }
        let idle = self.all().filter(|publisher| publisher.is_idle());
        let Some(idle) = idle.min_by_key(|publisher| publisher.last_used) else {
            self.may_have_idle = false;
            return None;
        };
        let publisher = self.take(idle.channel)?;
        // Without confirms it is unknown whether the broker has seen the publishes.
        if publisher.kind == PublishKind::Unconfirmed || publisher.confirms.has_overdue() {
            self.closing
                .insert(publisher.channel, (publisher.kind, publisher.exchange));
        }
        Some(publisher.channel)
    }

    /// Returns `true` if the exchange's last channel is being closed and may have publishes that
    /// the broker has not seen. The next publishes must not overtake them on another channel.
    pub(crate) fn is_closing(&self, exchange: &[u8], kind: PublishKind) -> bool {
        self.closing
            .values()
            .any(|(of_kind, of_exchange)| *of_kind == kind && **of_exchange == *exchange)
    }

    /// Returns the number of channels that are being closed and may have publishes that the broker
    /// has not seen.
    pub(crate) fn closing_count(&self) -> usize {
        self.closing.len()
    }

    /// Records that the broker has closed a channel, so it has seen its publishes.
    pub(crate) fn record_closed(&mut self, channel: ChannelNumber) {
        self.closing.remove(&channel);
    }

    /// Stops content or resumes it. Returns the exchange of the channel.
    pub(crate) fn set_flow(
        &mut self,
        channel: ChannelNumber,
        active: bool,
    ) -> Option<(&[u8], PublishKind)> {
        self.may_have_idle = true;
        let publisher = self.on(channel)?;
        publisher.flows = active;
        Some((&publisher.exchange, publisher.kind))
    }

    /// Makes the channels with the oldest turns retire. At most `max` retire at once, but one more
    /// may begin after each [`TURN`] without a new one. A retiring channel may take long to become
    /// idle, because a queue without a majority confirms nothing, and a channel with stopped
    /// content is not closed.
    pub(crate) fn retire(&mut self, max: usize, now: Instant) {
        while let Some((turn, channel)) = self
            .turns
            .first_key_value()
            .map(|(turn, channel)| (*turn, *channel))
        {
            let is_late = self
                .retired
                .is_some_and(|at| now.saturating_duration_since(at) >= TURN);
            if self.retiring >= max && !is_late {
                return;
            }
            // Unreachable: `take` removes the turn of a removed publisher.
            let Some(publisher) = self.on(channel) else {
                return;
            };
            if now.saturating_duration_since(publisher.since) < TURN {
                return;
            }
            publisher.is_retiring = true;
            self.turns.remove(&turn);
            self.retiring += 1;
            self.retired = Some(now);
        }
    }

    /// Begins another turn of a channel if it is retiring. Returns the channel unless its content
    /// is stopped.
    pub(crate) fn resume(&mut self, channel: ChannelNumber, now: Instant) -> Option<ChannelNumber> {
        self.uses += 1;
        let turn = self.uses;
        let publisher = self.on(channel)?;
        let flows = publisher.flows;
        if std::mem::replace(&mut publisher.is_retiring, false) {
            (publisher.turn, publisher.since) = (turn, now);
            self.turns.insert(turn, channel);
            self.retiring -= 1;
        }
        flows.then_some(channel)
    }

    /// Removes a publisher from all indices. The caller corrects the counts of its publishes.
    fn take(&mut self, channel: ChannelNumber) -> Option<Box<Publisher>> {
        let publisher = self.publishers.get_mut(usize::from(channel))?.take()?;
        self.len -= 1;
        self.retiring -= usize::from(publisher.is_retiring);
        self.turns.remove(&publisher.turn);
        if let Some(due) = publisher.due {
            self.deadlines.remove(&(due, channel));
        }
        let exchange = &publisher.exchange;
        let channels = if exchange.is_empty() {
            Some(&mut self.default)
        } else {
            self.named.get_mut(exchange)
        };
        if let Some(slot) = channels.and_then(|channels| channels.get_mut(publisher.kind as usize))
        {
            *slot = None;
        }
        if self
            .named
            .get(exchange)
            .is_some_and(|channels| channels.iter().all(Option::is_none))
        {
            self.named.remove(exchange);
        }
        Some(publisher)
    }

    fn all(&self) -> impl Iterator<Item = &Publisher> {
        self.publishers
            .iter()
            .flatten()
            .map(|publisher| &**publisher)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Publisher> {
        self.publishers
            .iter_mut()
            .flatten()
            .map(|publisher| &mut **publisher)
    }

    /// Returns the publisher on a channel.
    #[inline]
    pub(crate) fn on(&mut self, channel: ChannelNumber) -> Option<&mut Publisher> {
        self.publishers
            .get_mut(usize::from(channel))?
            .as_deref_mut()
    }

    /// Adds a written publish under the next delivery tag, with the size of its body and its copy.
    /// Returns `true` if it is the first of its channel.
    #[inline]
    pub(crate) fn add_in_flight(
        &mut self,
        channel: ChannelNumber,
        promise: PromiseId,
        size: usize,
        stored: Option<PendingPublish>,
    ) -> bool {
        // Unreachable: the publish was written on this channel in the same call.
        let Some(publisher) = self.on(channel) else {
            return false;
        };
        let is_first = publisher.confirms.next() == 1;
        let stored_bytes = stored.map_or(0, |publish| {
            publisher.stored.add(publisher.confirms.next(), publish)
        });
        let is_call = publisher.kind == PublishKind::Call;
        if is_call {
            publisher.calls.insert(publisher.confirms.next(), promise);
        }
        publisher.sizes.add(publisher.confirms.next(), size);
        publisher.confirms.push(promise);
        if !std::mem::replace(&mut publisher.is_unstamped, true) {
            self.unstamped.push(channel);
        }
        self.calls += usize::from(is_call);
        self.stored_bytes += stored_bytes;
        self.in_flight += 1;
        is_first
    }

    /// Returns the number of unconfirmed publishes and of calls without a reply. A call is counted
    /// once for its confirm and once for its reply, because each needs memory until it arrives.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight + self.calls
    }

    /// Returns `true` if a publish with the flag `immediate` is in flight.
    pub(crate) fn has_immediate(&self) -> bool {
        self.all().any(|publisher| publisher.stored.has_immediate())
    }

    /// Returns `true` if the publishes on a channel are calls.
    pub(crate) fn has_calls_on(&mut self, channel: ChannelNumber) -> bool {
        self.on(channel)
            .is_some_and(|publisher| publisher.kind == PublishKind::Call)
    }

    /// Takes the promise of a call by its number, if it has no reply yet.
    pub(crate) fn take_call(&mut self, channel: ChannelNumber, call: u64) -> Option<PromiseId> {
        let promise = self.on(channel)?.calls.remove(&call)?;
        self.calls -= 1;
        self.may_have_idle = true;
        Some(promise)
    }

    /// Removes the calls whose promise is completed without a reply.
    pub(crate) fn forget_completed_calls(&mut self, promises: &Promises) {
        let mut calls = 0;
        for publisher in self.all_mut() {
            publisher
                .calls
                .retain(|_, promise| promises.is_pending(*promise));
            calls += publisher.calls.len();
        }
        self.may_have_idle |= calls < self.calls;
        self.calls = calls;
    }

    /// Handles a confirm, and passes the promises that it completes to `each`. Returns `false` if
    /// the tag is not that of an unconfirmed publish.
    pub(crate) fn confirm(
        &mut self,
        channel: ChannelNumber,
        tag: u64,
        multiple: bool,
        each: impl FnMut(PromiseId),
    ) -> bool {
        // The broker may send a confirm on a channel of any role.
        let Some(publisher) = self.on(channel) else {
            return false;
        };
        let before = publisher.confirms.open();
        // An invalid tag must not remove the stored copies.
        if publisher.confirms.confirm(tag, multiple, each).is_err() {
            return false;
        }
        let forgotten = publisher.stored.forget(tag, multiple);
        let open = publisher.confirms.open();
        self.may_have_idle |= open == 0;
        self.in_flight -= before - open;
        self.stored_bytes -= forgotten;
        true
    }

    /// Takes the promise of a returned publish. Its confirm is pending.
    pub(crate) fn take_returned(&mut self, channel: ChannelNumber, tag: u64) -> Option<PromiseId> {
        let call = self.take_call(channel, tag);
        let publisher = self.on(channel)?;
        let Some(promise) = publisher.confirms.take_returned(tag) else {
            return call;
        };
        let forgotten = publisher.stored.forget(tag, false);
        self.stored_bytes -= forgotten;
        Some(promise)
    }

    /// Removes the publisher on a channel that is closed.
    pub(crate) fn remove(&mut self, channel: ChannelNumber) -> Option<Box<Publisher>> {
        self.closing.remove(&channel);
        let publisher = self.take(channel)?;
        self.in_flight -= publisher.confirms.open();
        self.calls -= publisher.calls.len();
        self.stored_bytes -= publisher.stored.bytes();
        Some(publisher)
    }

    /// Starts the deadlines of the publishes since the last call.
    pub(crate) fn stamp(&mut self, now: Instant, timeout: Duration) {
        while let Some(channel) = self.unstamped.pop() {
            // The channel may be closed.
            let Some(publisher) = self.on(channel) else {
                continue;
            };
            publisher.is_unstamped = false;
            publisher.confirms.stamp(now, timeout);
            if publisher.due.is_none() {
                self.set_due(channel);
            }
        }
    }

    /// Inserts the channel's entry in `deadlines`. The channel must not have one.
    fn set_due(&mut self, channel: ChannelNumber) {
        let Some(publisher) = self.on(channel) else {
            return;
        };
        publisher.due = publisher.confirms.deadline();
        if let Some(due) = publisher.due {
            self.deadlines.insert((due, channel));
        }
    }

    /// Returns the earliest deadline. Corrects only the entries before it, so the work does not
    /// depend on the number of channels.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        while let Some(&(due, channel)) = self.deadlines.first() {
            if self
                .on(channel)
                .and_then(|publisher| publisher.confirms.deadline())
                == Some(due)
            {
                return Some(due);
            }
            self.deadlines.pop_first();
            self.set_due(channel);
        }
        None
    }

    /// Passes the promises whose deadline has passed to `each`. Their publishes no longer count as
    /// in flight. Promises of calls are not passed: a call has its own deadline and needs no
    /// confirm.
    pub(crate) fn expire(&mut self, now: Instant, mut each: impl FnMut(PromiseId)) {
        while let Some(&(due, channel)) = self.deadlines.first()
            && due <= now
        {
            self.deadlines.pop_first();
            // Unreachable: `take` removes the entry of a removed publisher.
            let Some(publisher) = self.on(channel) else {
                continue;
            };
            let Publisher {
                confirms,
                stored,
                kind,
                ..
            } = publisher;
            let (before, mut forgotten) = (confirms.open(), 0);
            confirms.expire(now, |tag, promise| {
                forgotten += stored.forget(tag, false);
                if *kind != PublishKind::Call {
                    each(promise);
                }
            });
            let expired = before - confirms.open();
            self.may_have_idle |= expired > 0;
            self.in_flight -= expired;
            self.stored_bytes -= forgotten;
            self.set_due(channel);
        }
    }
}

#[cfg(test)]
mod tests;
