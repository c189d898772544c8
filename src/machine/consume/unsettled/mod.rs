//! The unsettled deliveries of one channel, and its queued acknowledgements.
//!
//! Acknowledgements are queued until the next write, because the broker pays for every frame. Those
//! that cover all deliveries up to a tag are written as one frame.

use std::collections::VecDeque;

/// The state of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeliveryState {
    /// Unsettled, and the program has received it or will receive it.
    Wanted,
    /// Unsettled, and the program does not receive it. It is returned to its queue.
    Unwanted,
    /// Acknowledged, and the frame is not written yet.
    Acked,
    /// Settled, and the frame is written.
    Settled,
}

impl DeliveryState {
    /// Returns `true` if the delivery is unsettled.
    fn is_unsettled(self) -> bool {
        matches!(self, Self::Wanted | Self::Unwanted)
    }
}

/// The number of settled deliveries that may be stored between unsettled ones before they are
/// removed.
const SPARSE: usize = 64;

/// The unsettled deliveries of one channel, and its queued acknowledgements.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    /// By ascending tag. The first one is unsettled.
    deliveries: VecDeque<(u64, DeliveryState)>,
    /// The number of unsettled deliveries including unwanted ones, and of unwanted ones alone.
    unsettled: usize,
    unwanted: usize,
    /// All deliveries up to this tag are settled.
    covered: u64,
    /// The number of acknowledged deliveries up to `covered` whose frame is not written yet.
    covering: usize,
    /// Tags acknowledged since the last flush while an earlier delivery was unsettled, or by an ack
    /// with `multiple`.
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
    pub(crate) fn set_unwanted(&mut self, tag: u64) {
        if let Some(place) = self.position(tag)
            && let Some((_, state @ DeliveryState::Wanted)) = self.deliveries.get_mut(place)
        {
            *state = DeliveryState::Unwanted;
            self.unwanted += 1;
        }
    }

    /// Settles all unwanted deliveries with as few refusals as possible. Each is a tag and whether
    /// it covers all tags before it. Queued acks must be flushed first, because a refusal would
    /// cover them.
    pub(crate) fn return_unwanted(&mut self, mut refuse: impl FnMut(u64, bool)) {
        if self.unwanted == 0 {
            return;
        }
        let is_done = |(_, state): &&(u64, DeliveryState)| {
            matches!(state, DeliveryState::Unwanted | DeliveryState::Settled)
        };
        let in_front = self.deliveries.iter().take_while(is_done);
        let unwanted = in_front.filter(|(_, state)| *state == DeliveryState::Unwanted);
        let covered = unwanted.fold(None, |before, (tag, _)| Some((*tag, before.is_some())));
        if let Some((tag, multiple)) = covered {
            refuse(tag, multiple);
        }
        let up_to = covered.map_or(0, |(tag, _)| tag);
        for (tag, state) in &mut self.deliveries {
            if *state == DeliveryState::Unwanted {
                *state = DeliveryState::Settled;
                if *tag > up_to {
                    refuse(*tag, false);
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
        // On a 32-bit target a gap may exceed `usize`, and no position is that large.
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
    }

    /// Acknowledges a delivery, and with `multiple` all earlier ones. Unwanted deliveries are
    /// excluded, because the program has not seen them. Returns `false` if the delivery is not
    /// unsettled.
    #[inline]
    pub(crate) fn ack(&mut self, tag: u64, multiple: bool) -> bool {
        // Deliveries are usually acknowledged in order.
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

    /// Settles a delivery, and with `multiple` all earlier ones except unwanted ones, with refusals
    /// that are written at once: each is a tag and whether it covers all tags before it. Returns
    /// `false` if the delivery is not unsettled. Queued acks must be flushed first, because a
    /// refusal of several would cover them.
    pub(crate) fn refuse(
        &mut self,
        tag: u64,
        multiple: bool,
        mut refuse: impl FnMut(u64, bool),
    ) -> bool {
        let place = self.position(tag).unwrap_or(0);
        let before = || self.deliveries.iter().take(place);
        let is_mixed = multiple
            && self.unwanted > 0
            && before().any(|(_, state)| *state == DeliveryState::Unwanted);
        let wanted = before().filter(|(_, state)| is_mixed && *state == DeliveryState::Wanted);
        let wanted: Vec<u64> = wanted.map(|(tag, _)| *tag).collect();
        let was_unsettled = self.settle(tag, multiple, DeliveryState::Settled);
        if was_unsettled {
            wanted.into_iter().for_each(|tag| refuse(tag, false));
            refuse(tag, multiple && !is_mixed);
        }
        self.trim();
        was_unsettled
    }

    /// Settles a delivery, and with `multiple` all earlier ones except unwanted ones.
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

    /// Settles the delivery at a position. Returns `false` if it is settled already.
    fn settle_at(&mut self, place: usize, state: DeliveryState) -> bool {
        // A settled delivery may still be stored behind an unsettled one.
        let Some((tag, found @ (DeliveryState::Wanted | DeliveryState::Unwanted))) =
            self.deliveries.get_mut(place)
        else {
            return false;
        };
        self.unwanted -= usize::from(*found == DeliveryState::Unwanted);
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

    /// Removes settled deliveries if there are many, so that they do not accumulate behind one that
    /// stays unsettled for long.
    fn trim(&mut self) {
        if self.deliveries.len() > 2 * (self.unsettled + self.acked.len()) + SPARSE {
            self.deliveries
                .retain(|(_, state)| *state != DeliveryState::Settled);
        }
    }

    /// Passes the queued acknowledgements to `ack`, as few as possible: each is a tag, and `true`
    /// if it covers all earlier ones.
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
