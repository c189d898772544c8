//! The unsettled deliveries of one channel, and its queued acks.
//!
//! Acks are queued until the next write, because each frame costs the broker work. Acks that cover
//! all deliveries up to a tag are written as one frame. Nacks and rejects are written at once.

use std::collections::VecDeque;

/// The state of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeliveryState {
    /// Unsettled, and the program has received it or will receive it.
    Wanted,
    /// Unsettled, and the program does not receive it. It is returned to its queue.
    Unwanted,
    /// Unsettled, and the program has dropped it. It is returned after a delay, at the latest when
    /// its consumer has ended.
    Dropped,
    /// Acked, and the frame is not written yet.
    Acked,
    /// Settled, and the frame is written. It is removed once no unsettled delivery is before it, or
    /// when there are many like it.
    Settled,
}

impl DeliveryState {
    /// Returns `true` if the delivery is unsettled.
    fn is_unsettled(self) -> bool {
        matches!(self, Self::Wanted | Self::Unwanted | Self::Dropped)
    }
}

/// The number of settled deliveries that may be stored between unsettled ones before they are
/// removed. Removing them visits all deliveries, so it is not done for each.
const SPARSE: usize = 64;

/// The unsettled deliveries of one channel, and its queued acks.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    /// By ascending tag. The first one is unsettled.
    deliveries: VecDeque<(u64, DeliveryState)>,
    /// The number of unsettled deliveries including unwanted and dropped ones, and of unwanted
    /// ones.
    unsettled: usize,
    unwanted: usize,
    /// The number of dropped deliveries.
    dropped: usize,
    /// All deliveries up to this tag are settled.
    covered: u64,
    /// The number of acked deliveries up to `covered` whose frame is not written yet.
    covering: usize,
    /// Tags acked since the last flush while an earlier delivery was unsettled, or by an ack with
    /// `multiple`.
    acked: Vec<u64>,
    /// The last delivery tag of the channel.
    last: u64,
}

impl Unsettled {
    /// Adds a delivery. Returns `false` if its tag is not greater than the last one.
    #[inline]
    pub(crate) fn deliver(&mut self, tag: u64, no_ack: bool) -> bool {
        if tag <= self.last {
            return false;
        }
        self.last = tag;
        if !no_ack {
            self.deliveries.push_back((tag, DeliveryState::Wanted));
            self.unsettled += 1;
        }
        true
    }

    /// Returns the number of unsettled deliveries, including unwanted ones.
    pub(crate) fn count(&self) -> usize {
        self.unsettled
    }

    /// Returns `true` if there is an unsettled delivery that is wanted.
    pub(crate) fn has_wanted(&self) -> bool {
        self.unsettled > self.unwanted
    }

    /// Returns the number of deliveries that are to be returned to their queues.
    pub(crate) fn unwanted(&self) -> usize {
        self.unwanted
    }

    /// Marks an unsettled delivery as unwanted.
    pub(crate) fn mark_unwanted(&mut self, tag: u64) {
        if self.replace_wanted(tag, DeliveryState::Unwanted) {
            self.unwanted += 1;
        }
    }

    /// Marks an unsettled delivery as dropped by the program.
    pub(crate) fn mark_dropped(&mut self, tag: u64) {
        if self.replace_wanted(tag, DeliveryState::Dropped) {
            self.dropped += 1;
        }
    }

    /// Replaces the state of a wanted delivery. Returns `false` if it is not wanted.
    fn replace_wanted(&mut self, tag: u64, new: DeliveryState) -> bool {
        if let Some(place) = self.position(tag)
            && let Some((_, state @ DeliveryState::Wanted)) = self.deliveries.get_mut(place)
        {
            *state = new;
            return true;
        }
        false
    }

    /// Marks the dropped deliveries as unwanted, because their consumer has ended.
    pub(crate) fn mark_dropped_unwanted(&mut self) {
        if self.dropped > 0 {
            self.mark_unwanted_if(|state| state == DeliveryState::Dropped);
            self.dropped = 0;
        }
    }

    /// Marks all unsettled deliveries as unwanted.
    pub(crate) fn mark_all_unwanted(&mut self) {
        self.mark_unwanted_if(|state| {
            matches!(state, DeliveryState::Wanted | DeliveryState::Dropped)
        });
        self.dropped = 0;
    }

    fn mark_unwanted_if(&mut self, is_it: impl Fn(DeliveryState) -> bool) {
        for (_, state) in self
            .deliveries
            .iter_mut()
            .filter(|(_, state)| is_it(*state))
        {
            *state = DeliveryState::Unwanted;
            self.unwanted += 1;
        }
    }

    /// Returns the tag of the last unsettled delivery that is wanted.
    pub(crate) fn last_wanted(&self) -> Option<u64> {
        let wanted = |(_, state): &&(u64, DeliveryState)| *state == DeliveryState::Wanted;
        self.deliveries
            .iter()
            .rev()
            .find(wanted)
            .map(|(tag, _)| *tag)
    }

    /// Settles all unwanted deliveries with as few nacks as possible. Calls `nack` for each, with a
    /// tag and `multiple`: whether it covers all tags before, which `may_cover` allows. The caller
    /// must have flushed queued acks, because a nack with `multiple` would cover their deliveries.
    pub(crate) fn return_unwanted(&mut self, may_cover: bool, mut nack: impl FnMut(u64, bool)) {
        if self.unwanted == 0 {
            return;
        }
        let is_covered = |(_, state): &&(u64, DeliveryState)| {
            matches!(state, DeliveryState::Unwanted | DeliveryState::Settled)
        };
        // One nack covers the unwanted deliveries before the first one that stays unsettled.
        let in_front = self.deliveries.iter().take_while(is_covered);
        let unwanted = in_front.filter(|(_, state)| may_cover && *state == DeliveryState::Unwanted);
        let covering = unwanted.fold(None, |before, (tag, _)| Some((*tag, before.is_some())));
        if let Some((tag, multiple)) = covering {
            nack(tag, multiple);
        }
        let up_to = covering.map_or(0, |(tag, _)| tag);
        for (tag, state) in &mut self.deliveries {
            if *state == DeliveryState::Unwanted {
                *state = DeliveryState::Settled;
                if *tag > up_to {
                    nack(*tag, false);
                }
            }
        }
        self.unsettled -= self.unwanted;
        self.unwanted = 0;
        self.cover();
        self.trim();
    }

    /// Returns the position of a delivery.
    fn position(&self, tag: u64) -> Option<usize> {
        // Usually no tag is missing, so the position can be computed.
        let first = self.deliveries.front()?.0;
        // On a 32-bit target, the difference of two tags may exceed `usize`. No position does.
        let guess = usize::try_from(tag.checked_sub(first)?).unwrap_or(usize::MAX);
        if self
            .deliveries
            .get(guess)
            .is_some_and(|(found, _)| *found == tag)
        {
            return Some(guess);
        }
        self.deliveries
            .binary_search_by_key(&tag, |(tag, _)| *tag)
            .ok()
    }

    #[cfg(test)]
    fn is_unsettled(&self, tag: u64) -> bool {
        self.position(tag)
            .is_some_and(|place| self.deliveries[place].1.is_unsettled())
    }

    /// Removes all deliveries, because the broker requeues them.
    pub(crate) fn forget(&mut self) {
        self.deliveries.clear();
        self.acked.clear();
        self.covering = 0;
        self.unsettled = 0;
        self.unwanted = 0;
        self.dropped = 0;
    }

    /// Queues the ack of a delivery, and with `multiple` of all earlier ones. Unwanted deliveries
    /// are excluded, because the program has not seen them, and so are dropped ones. Returns
    /// `false` if the delivery is not unsettled.
    #[inline]
    pub(crate) fn ack(&mut self, tag: u64, multiple: bool) -> bool {
        // Deliveries are usually acked in order.
        if let Some((first, state)) = self.deliveries.front_mut()
            && *first == tag
            && *state == DeliveryState::Wanted
        {
            *state = DeliveryState::Acked;
            self.unsettled -= 1;
            self.cover();
            return true;
        }
        self.settle(tag, multiple, DeliveryState::Acked)
    }

    /// Settles a delivery by nacks or rejects that are written at once, and with `multiple` all
    /// earlier deliveries except unwanted ones. Calls `write` for each nack or reject, with a tag
    /// and whether it covers all tags before. Returns `false` if the delivery is not unsettled. If
    /// `multiple` is set, the caller must have flushed queued acks, because a nack would cover
    /// their deliveries.
    pub(crate) fn settle_at_once(
        &mut self,
        tag: u64,
        multiple: bool,
        mut write: impl FnMut(u64, bool),
    ) -> bool {
        let place = self.position(tag).unwrap_or(0);
        let before = || self.deliveries.iter().take(place);
        // One nack with `multiple` would also cover the unwanted and the dropped deliveries.
        let is_excluded = |state| matches!(state, DeliveryState::Unwanted | DeliveryState::Dropped);
        let is_mixed = multiple
            && self.unwanted + self.dropped > 0
            && before().any(|(_, state)| is_excluded(*state));
        let wanted = before().filter(|(_, state)| is_mixed && *state == DeliveryState::Wanted);
        let wanted: Vec<u64> = wanted.map(|(tag, _)| *tag).collect();
        let was_unsettled = self.settle(tag, multiple, DeliveryState::Settled);
        if was_unsettled {
            wanted.into_iter().for_each(|tag| write(tag, false));
            write(tag, multiple && !is_mixed);
        }
        self.trim();
        was_unsettled
    }

    /// Sets the state of an unsettled delivery, and with `multiple` of all earlier ones except
    /// unwanted ones. Returns `false` if the delivery is not unsettled.
    fn settle(&mut self, tag: u64, multiple: bool, state: DeliveryState) -> bool {
        // The program may settle a delivery twice.
        let Some(last) = self.position(tag) else {
            return false;
        };
        if !self.settle_at(last, state) {
            return false;
        }
        if multiple {
            for place in 0..last {
                if matches!(self.deliveries.get(place), Some((_, DeliveryState::Wanted))) {
                    self.settle_at(place, state);
                }
            }
        }
        self.cover();
        true
    }

    /// Sets the state of the unsettled delivery at a position. Returns `false` if it is settled
    /// already.
    fn settle_at(&mut self, place: usize, state: DeliveryState) -> bool {
        // A settled delivery may still be stored behind an unsettled one.
        let delivery = self.deliveries.get_mut(place);
        let Some((tag, found)) = delivery.filter(|(_, state)| state.is_unsettled()) else {
            return false;
        };
        self.unwanted -= usize::from(*found == DeliveryState::Unwanted);
        self.dropped -= usize::from(*found == DeliveryState::Dropped);
        *found = state;
        self.unsettled -= 1;
        if state == DeliveryState::Acked {
            self.acked.push(*tag);
        }
        true
    }

    /// Removes the settled deliveries before the first unsettled one.
    #[inline]
    fn cover(&mut self) {
        while let Some((tag, state)) = self
            .deliveries
            .front()
            .copied()
            .filter(|(_, state)| !state.is_unsettled())
        {
            if state == DeliveryState::Acked {
                self.covered = tag;
                self.covering += 1;
            }
            self.deliveries.pop_front();
        }
    }

    /// Removes settled deliveries if there are many. Otherwise they would accumulate behind one
    /// that stays unsettled for long.
    fn trim(&mut self) {
        if self.deliveries.len() > 2 * (self.unsettled + self.acked.len()) + SPARSE {
            self.deliveries
                .retain(|(_, state)| *state != DeliveryState::Settled);
        }
    }

    /// Calls `ack` for each queued ack, with a tag and whether it covers all tags before. There are
    /// as few as possible.
    pub(crate) fn flush(&mut self, mut ack: impl FnMut(u64, bool)) {
        let covering = std::mem::take(&mut self.covering);
        if covering > 0 {
            ack(self.covered, covering > 1);
        }
        if self.acked.is_empty() {
            return;
        }
        let mut acked = std::mem::take(&mut self.acked);
        for tag in acked.drain(..).filter(|tag| *tag > self.covered) {
            ack(tag, false);
            if let Some(place) = self.position(tag) {
                self.deliveries[place].1 = DeliveryState::Settled;
            }
        }
        self.acked = acked;
        self.trim();
    }
}

#[cfg(test)]
mod tests;
