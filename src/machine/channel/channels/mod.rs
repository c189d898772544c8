//! The channels of a connection and their numbers.

use crate::machine::channel::content::Assembly;
use crate::machine::channel::learned_limit::{InUse, LearnedLimit};
use crate::machine::channel::{Channel, Role};
use crate::machine::ids::{ChannelNumber, ConsumerId};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Instant;

/// The number of channels that consumers and transactions leave free for requests and publishes.
const RESERVED: usize = 2;

/// Unsettled messages of `basic.get` leave one in this many of the long-lived channels free. A
/// program that forgets to settle can then still publish to another exchange and consume.
const RESERVED_FROM_GETS: usize = 8;

/// The largest size of the pool with its overdue channels, as a multiple of the pool's limit. A
/// channel whose request timed out is replaced before the broker has closed it. Otherwise a queue
/// that does not reply would block every other request. The multiple is bounded, because a broker
/// that does not reply at all would use up all channel numbers.
const OVERDUE_POOLS: usize = 4;

/// The answer to whether there is a channel for the unsettled message of another `basic.get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GetCapacity {
    Yes,
    /// It depends on the replies to the pending gets.
    Later,
    No,
}

/// The channels of a connection.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    /// The channels by number. Channel 0 is that of the connection.
    slots: Vec<Option<Box<Channel>>>,
    /// Free numbers, the lowest first. Tables indexed by channel number stay small, and so does the
    /// work of iterating over them. Numbers are reused sooner this way; `closed_by_server` handles
    /// frames that are late.
    freed: BinaryHeap<Reverse<ChannelNumber>>,
    /// Numbers whose last channel the server closed. Frames that it sent before may follow its
    /// `close`.
    closed_by_server: BTreeSet<ChannelNumber>,
    /// The idle channels of the pool; the one used last is at the end.
    idle: Vec<ChannelNumber>,
    /// The number of channels by role.
    roles: [usize; Role::COUNT],
    /// The number of channels that are reserved for consumers which are started again.
    reserved: usize,
    /// The highest channel number.
    max: ChannelNumber,
    /// A limit by which the broker has refused a channel.
    learned: Option<LearnedLimit>,
    /// The number of channels that were ever added.
    incarnations: u64,
    /// A counter of removed channels. Unless it changes, no delivery becomes stale.
    removed: u32,
    /// The size in memory of all partly received contents.
    partial_bytes: usize,
    /// The number of partly received contents.
    partial_contents: usize,
}

impl Channels {
    /// Sets the highest channel number.
    pub(crate) fn set_max(&mut self, max: ChannelNumber) {
        self.max = max;
    }

    /// Returns the counter of removed channels.
    #[inline]
    pub(crate) fn removed(&self) -> u32 {
        self.removed
    }

    /// Returns the channel with this number, unless the number is free.
    #[inline]
    pub(crate) fn get(&self, number: ChannelNumber) -> Option<&Channel> {
        self.slots.get(usize::from(number))?.as_deref()
    }

    /// Returns the channel with this number, unless the number is free.
    #[inline]
    pub(crate) fn get_mut(&mut self, number: ChannelNumber) -> Option<&mut Channel> {
        self.slots.get_mut(usize::from(number))?.as_deref_mut()
    }

    /// Returns the number of channels, including those that are being closed.
    #[inline]
    pub(crate) fn open(&self) -> usize {
        self.roles.iter().sum()
    }

    /// Returns the number of channels that are used for requests or idle. A channel with an
    /// unsettled message does not count: such messages must not block requests.
    pub(crate) fn pooled(&self) -> usize {
        self.count(Role::Idle) + self.busy()
    }

    /// Returns the number of pooled channels that wait for the reply to a request.
    pub(crate) fn busy(&self) -> usize {
        self.count(Role::Request) + self.count(Role::Get)
    }

    /// Returns `true` if a pool with at most `max` channels may open another one. See
    /// [`OVERDUE_POOLS`].
    pub(crate) fn may_pool(&self, max: usize) -> bool {
        let pooled = self.pooled();
        let numbers = usize::from(self.max);
        let with_overdue = (max.saturating_mul(OVERDUE_POOLS))
            .min(numbers - numbers / 4)
            .max(max);
        pooled < max && pooled + self.count(Role::Overdue) < with_overdue
    }

    /// Returns whether another message may be got that uses its channel until it is settled.
    pub(crate) fn get_capacity(&self) -> GetCapacity {
        let numbers = self
            .long_lived_limit()
            .min(usize::from(self.max).saturating_sub(1));
        let max = (numbers - numbers / RESERVED_FROM_GETS)
            .saturating_sub(self.long_lived() + self.reserved)
            .max(1);
        let unsettled = self.count(Role::Settling);
        if unsettled >= max {
            GetCapacity::No
        } else if unsettled + self.count(Role::Get) >= max {
            GetCapacity::Later
        } else {
            GetCapacity::Yes
        }
    }

    /// Returns the number of idle channels in the pool.
    pub(crate) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Takes the channel that was used last out of the pool, and gives it a role.
    pub(crate) fn take_idle(&mut self, role: Role) -> Option<ChannelNumber> {
        let number = self.idle.pop()?;
        self.set_role(number, role);
        Some(number)
    }

    /// Puts a channel on which nothing is pending into the pool.
    pub(crate) fn put_idle(&mut self, number: ChannelNumber) {
        if self.set_role(number, Role::Idle) {
            self.idle.push(number);
            if let Some(channel) = self.get_mut(number) {
                channel.forget_consumer();
            }
        }
    }

    /// Removes a channel from the pool. The caller has to change its role.
    pub(crate) fn leave_pool(&mut self, number: ChannelNumber) {
        self.idle.retain(|idle| *idle != number);
    }

    /// Changes the role of a channel. Returns `false` if there is no such channel.
    pub(crate) fn set_role(&mut self, number: ChannelNumber, role: Role) -> bool {
        let Some(channel) = self.get_mut(number) else {
            return false;
        };
        let before = std::mem::replace(&mut channel.role, role);
        *self.count_mut(before) -= 1;
        *self.count_mut(role) += 1;
        true
    }

    /// Returns `true` if another channel may be opened for that role.
    pub(crate) fn has_room(&self, role: Role) -> bool {
        let negotiated = if role.is_long_lived() {
            self.negotiated_long_lived_limit()
        } else {
            self.max.into()
        };
        self.open() < negotiated && self.learned_allows(role) && !self.is_opening()
    }

    fn count(&self, role: Role) -> usize {
        self.roles[role as usize]
    }

    fn count_mut(&mut self, role: Role) -> &mut usize {
        &mut self.roles[role as usize]
    }

    /// Sets the number of channels reserved for consumers that are started again and have none.
    pub(crate) fn reserve(&mut self, channels: usize) {
        self.reserved = channels;
    }

    /// Returns `true` if another consumer or transaction may have a channel: requests, publishes
    /// and the consumers with a reserved channel still find one.
    pub(crate) fn may_open_long_lived(&self) -> bool {
        self.long_lived() + self.reserved < self.long_lived_limit()
    }

    /// Returns the number of channels that consumers and transactions use.
    fn long_lived(&self) -> usize {
        self.count(Role::Consume) + self.count(Role::Ending) + self.count(Role::Transaction)
    }

    /// Returns `true` if consumers that are not about to end use or reserve all long-lived
    /// channels. Then no channel can become free for another consumer or transaction.
    pub(crate) fn are_consumed(&self) -> bool {
        self.count(Role::Consume) + self.reserved >= self.long_lived_limit()
    }

    /// Marks the channel of a consumer that is ending as about to be free.
    pub(crate) fn end_consumer(&mut self, number: ChannelNumber) {
        if self
            .get(number)
            .is_some_and(|channel| channel.role == Role::Consume)
        {
            self.set_role(number, Role::Ending);
        }
    }

    /// Removes an ended consumer from its channel, if it is still there.
    pub(crate) fn remove_consumer(&mut self, number: ChannelNumber, id: ConsumerId) {
        if let Some(channel) = self.get_mut(number)
            && channel.consumer() == Some(id)
        {
            channel.end_consumer();
            self.end_consumer(number);
        }
    }

    /// Returns the number of channels that consumers and transactions may use.
    fn long_lived_limit(&self) -> usize {
        let negotiated = self.negotiated_long_lived_limit();
        match &self.learned {
            Some(learned) => learned.long_lived(&self.in_use()).min(negotiated),
            None => negotiated,
        }
    }

    fn negotiated_long_lived_limit(&self) -> usize {
        let max = usize::from(self.max);
        if max > RESERVED { max - RESERVED } else { max }
    }

    /// Returns `true` if a number is about to become free.
    pub(crate) fn is_closing_one(&self) -> bool {
        self.count(Role::Closing) > 0
    }

    /// Adds a channel with the lowest free number, unless all numbers for its role are in use.
    pub(crate) fn add(&mut self, role: Role) -> Option<ChannelNumber> {
        if !self.has_room(role) {
            return None;
        }
        // The slot of channel 0 stays empty.
        self.slots.resize_with(self.slots.len().max(1), || None);
        let number = match self.freed.pop() {
            Some(Reverse(number)) => number,
            None => {
                // "Usable channel numbers are in the range 1..channel-max" (1.4.2.5).
                let new = u16::try_from(self.slots.len())
                    .ok()
                    .filter(|new| *new <= self.max)?;
                self.slots.push(None);
                new
            }
        };
        self.incarnations += 1;
        let mut channel = Channel::new(self.incarnations, role);
        channel.discards_until_open = self.closed_by_server.remove(&number);
        *self.slots.get_mut(usize::from(number))? = Some(Box::new(channel));
        *self.count_mut(role) += 1;
        if let Some(learned) = &mut self.learned {
            learned.opening = Some((number, self.incarnations));
        }
        Some(number)
    }

    /// Removes a closed channel and frees its number.
    pub(crate) fn remove(&mut self, number: ChannelNumber) -> Option<Box<Channel>> {
        let channel = self.slots.get_mut(usize::from(number))?.take()?;
        if channel.role == Role::Idle {
            self.leave_pool(number);
        }
        *self.count_mut(channel.role) -= 1;
        self.freed.push(Reverse(number));
        self.removed = self.removed.wrapping_add(1);
        self.resize_partial(channel.assembly.as_ref().map_or(0, Assembly::size), 0);
        Some(channel)
    }

    /// Takes the partly received content of a channel.
    pub(crate) fn take_assembly(&mut self, number: ChannelNumber) -> Option<Assembly> {
        let assembly = self.get_mut(number)?.assembly.take()?;
        self.resize_partial(assembly.size(), 0);
        Some(assembly)
    }

    /// Records the size in memory of a partly received content, before and after a change. A size
    /// of 0 means that there is no content.
    #[inline]
    pub(crate) fn resize_partial(&mut self, before: usize, after: usize) {
        self.partial_bytes = self
            .partial_bytes
            .saturating_sub(before)
            .saturating_add(after);
        self.partial_contents = self
            .partial_contents
            .saturating_sub(usize::from(before > 0))
            + usize::from(after > 0);
    }

    /// Drops the bodies of the largest partly received contents until all together use at most
    /// `max` bytes. A single one may use as much as the message size limit.
    #[inline]
    pub(crate) fn bound_partial(&mut self, max: usize) {
        if self.partial_bytes > max && self.partial_contents > 1 {
            self.drain_partial(max);
        }
    }

    #[cold]
    fn drain_partial(&mut self, max: usize) {
        while self.partial_bytes > max && self.partial_contents > 1 {
            let assemblies = self
                .slots
                .iter_mut()
                .flatten()
                .filter_map(|channel| channel.assembly.as_mut());
            // Unreachable: the two counters agree with the assemblies.
            let Some(largest) = assemblies.max_by_key(|assembly| assembly.size()) else {
                return;
            };
            let before = largest.size();
            largest.drain();
            let after = largest.size();
            // A content without a body and properties cannot become smaller.
            if after >= before {
                return;
            }
            self.resize_partial(before, after);
        }
    }

    /// Removes all channels and returns them with their numbers, because the connection is lost.
    pub(crate) fn start_over(
        &mut self,
    ) -> impl Iterator<Item = (ChannelNumber, Box<Channel>)> + use<> {
        let next = Self {
            incarnations: self.incarnations,
            removed: self.removed.wrapping_add(1),
            learned: self.learned.take(),
            ..Self::default()
        };
        let slots = std::mem::replace(self, next).slots;
        (0..=u16::MAX)
            .zip(slots)
            .filter_map(|(number, slot)| Some((number, slot?)))
    }

    /// Removes a channel that the server has closed and frees its number.
    pub(crate) fn remove_closed_by_server(
        &mut self,
        number: ChannelNumber,
    ) -> Option<Box<Channel>> {
        let channel = self.remove(number)?;
        self.closed_by_server.insert(number);
        Some(channel)
    }

    /// Returns `true` if the number is free because the server closed its channel.
    pub(crate) fn was_closed_by_server(&self, number: ChannelNumber) -> bool {
        self.closed_by_server.contains(&number)
    }

    /// Returns how many channels are in use, as far as a learned limit depends on that.
    fn in_use(&self) -> InUse {
        InUse {
            open: self.open(),
            long_lived: self.long_lived(),
            consumed: self.count(Role::Consume),
            shared: self.pooled() + self.count(Role::Publish),
        }
    }

    /// Learns a limit from a close of the connection. Returns the channel that was refused, if only
    /// one was being opened. `is_restarting` means that consumers are being restarted: they have no
    /// claim to more channels than other work.
    pub(crate) fn learn_limit(
        &mut self,
        now: Instant,
        is_restarting: bool,
    ) -> Option<ChannelNumber> {
        let is_opening =
            |number: &ChannelNumber| self.get(*number).is_some_and(Channel::is_opening);
        let opening: Vec<ChannelNumber> = self.numbers().filter(is_opening).collect();
        let refused = match opening[..] {
            [refused] => Some(refused),
            _ => None,
        };
        let mut learned = LearnedLimit::after(self.learned.as_ref(), now);
        if let Some(refused) = refused {
            let role = self.get(refused).map(|channel| channel.role);
            let mut in_use = self.in_use();
            in_use.open -= 1;
            in_use.long_lived -= usize::from(role.is_some_and(Role::is_long_lived));
            learned.set(&in_use, is_restarting);
        }
        self.learned = Some(learned);
        refused
    }

    /// Updates whether a learned limit may be exceeded, or is forgotten.
    #[inline]
    pub(crate) fn stamp(&mut self, now: Instant) {
        if let Some(learned) = &mut self.learned
            && learned.stamp(now)
        {
            self.learned = None;
        }
    }

    /// Returns `true` if a channel is being opened, and the next one has to wait for it.
    pub(crate) fn is_opening(&self) -> bool {
        let opening = self.learned.as_ref().and_then(|learned| learned.opening);
        opening.is_some_and(|(number, incarnation)| {
            let channel = self.get(number);
            channel.is_some_and(|it| it.incarnation == incarnation && it.is_opening())
        })
    }

    /// Records that the broker has opened a channel.
    #[inline]
    pub(crate) fn record_opened(&mut self, number: ChannelNumber) {
        let open = self.open();
        if let Some(learned) = &mut self.learned {
            learned.record_opened(number, open);
        }
    }

    /// Returns `true` if there is no learned limit, or it allows another channel for this role.
    fn learned_allows(&self, role: Role) -> bool {
        let learned = self.learned.as_ref();
        learned.is_none_or(|learned| learned.allows(role, &self.in_use()))
    }

    /// Returns `true` if a learned limit restricts the consumers.
    pub(crate) fn is_limited_by_broker(&self) -> bool {
        let learned = self.learned.as_ref();
        learned.is_some_and(|learned| learned.most_for(Role::Consume, &self.in_use()).is_some())
    }

    /// Returns `true` if no channel can become free for requests and publishes: consumers that are
    /// not about to end use all that the broker allows.
    pub(crate) fn has_none_for_requests(&self) -> bool {
        let learned = self.learned.as_ref();
        learned.is_some_and(|learned| learned.leaves_none_for_requests(&self.in_use()))
    }

    /// Returns the numbers of all channels.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = ChannelNumber> + use<'_> {
        (0..=u16::MAX)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.is_some())
            .map(|(number, _)| number)
    }
}

#[cfg(test)]
mod tests;
