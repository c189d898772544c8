//! The deliveries of one channel that are not settled, and the acknowledgements on their way out.
//!
//! Acknowledgements wait until the next write. Those that cover everything up to a tag leave as one
//! frame.

use std::collections::VecDeque;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its holder has not said.
    Held,
    /// Unsettled, and the program does not receive it: it goes back to its queue.
    Unwanted,
    /// Acknowledged, and the frame not written.
    Acked,
    /// Settled, and the frame written.
    Settled,
}

impl State {
    fn is_held(self) -> bool {
        matches!(self, Self::Held | Self::Unwanted)
    }
}

/// Settled ones that may stand between those that are not.
const SPARSE: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    /// By ascending tag. The first is held.
    deliveries: VecDeque<(u64, State)>,
    /// The number of unsettled deliveries including unwanted ones, and of unwanted ones alone.
    held: usize,
    unwanted: usize,
    /// Everything up to this tag is settled.
    covered: u64,
    /// The number of those that are acknowledged while the frame is not written.
    covering: usize,
    /// Tags acknowledged since the last flush when one before them was held, or with all before
    /// them.
    acked: Vec<u64>,
    /// The last tag of the channel.
    last: u64,
}

impl Unsettled {
    /// Takes up a delivery. False when the server reused a tag, or went back.
    #[inline]
    pub(crate) fn deliver(&mut self, tag: u64, no_ack: bool) -> bool {
        if tag <= self.last {
            return false;
        }
        self.last = tag;
        if !no_ack {
            self.deliveries.push_back((tag, State::Held));
            self.held += 1;
        }
        true
    }

    /// How many are held.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Returns `true` if there is an unsettled delivery that is wanted.
    pub(crate) fn has_wanted(&self) -> bool {
        self.held > self.unwanted
    }

    /// Returns the number of deliveries that are to go back to their queues.
    pub(crate) fn unwanted(&self) -> usize {
        self.unwanted
    }

    /// Marks an unsettled delivery as unwanted.
    pub(crate) fn set_unwanted(&mut self, tag: u64) {
        if let Some(place) = self.position(tag)
            && let Some((_, state @ State::Held)) = self.deliveries.get_mut(place)
        {
            *state = State::Unwanted;
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
        let is_done =
            |(_, state): &&(u64, State)| matches!(state, State::Unwanted | State::Settled);
        let in_front = self.deliveries.iter().take_while(is_done);
        let unwanted = in_front.filter(|(_, state)| *state == State::Unwanted);
        let covered = unwanted.fold(None, |before, (tag, _)| Some((*tag, before.is_some())));
        if let Some((tag, multiple)) = covered {
            refuse(tag, multiple);
        }
        let up_to = covered.map_or(0, |(tag, _)| tag);
        for (tag, state) in &mut self.deliveries {
            if *state == State::Unwanted {
                *state = State::Settled;
                if *tag > up_to {
                    refuse(*tag, false);
                }
            }
        }
        self.held -= self.unwanted;
        self.unwanted = 0;
        self.cover();
        self.trim();
    }

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
    fn is_held(&self, tag: u64) -> bool {
        self.position(tag)
            .is_some_and(|place| self.deliveries[place].1.is_held())
    }

    /// Holds nothing of what was delivered any more: the broker has taken it back, or will.
    pub(crate) fn forget(&mut self) {
        self.deliveries.clear();
        self.acked.clear();
        self.covering = 0;
        self.held = 0;
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
            && *state == State::Held
        {
            *state = State::Acked;
            self.held -= 1;
            self.cover();
            return true;
        }
        self.settle(tag, multiple, State::Acked)
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
        let is_mixed =
            multiple && self.unwanted > 0 && before().any(|(_, state)| *state == State::Unwanted);
        let held = before().filter(|(_, state)| is_mixed && *state == State::Held);
        let held: Vec<u64> = held.map(|(tag, _)| *tag).collect();
        let was_held = self.settle(tag, multiple, State::Settled);
        if was_held {
            held.into_iter().for_each(|tag| refuse(tag, false));
            refuse(tag, multiple && !is_mixed);
        }
        self.trim();
        was_held
    }

    fn settle(&mut self, tag: u64, multiple: bool, state: State) -> bool {
        let Some(last) = self.position(tag) else {
            return false;
        };
        if !self.settle_at(last, state) {
            return false;
        }
        if multiple {
            for place in 0..last {
                if matches!(self.deliveries.get(place), Some((_, State::Held))) {
                    self.settle_at(place, state);
                }
            }
        }
        self.cover();
        true
    }

    fn settle_at(&mut self, place: usize, state: State) -> bool {
        let Some((tag, found @ (State::Held | State::Unwanted))) = self.deliveries.get_mut(place)
        else {
            return false;
        };
        self.unwanted -= usize::from(*found == State::Unwanted);
        *found = state;
        self.held -= 1;
        if state == State::Acked {
            self.acked.push(*tag);
        }
        true
    }

    /// Takes off what is settled in front of the first that is held.
    #[inline]
    fn cover(&mut self) {
        while let Some((tag, state)) = self
            .deliveries
            .front()
            .copied()
            .filter(|(_, state)| !state.is_held())
        {
            if state == State::Acked {
                self.covered = tag;
                self.covering += 1;
            }
            self.deliveries.pop_front();
        }
    }

    /// What is settled behind one that is held for long does not add up.
    fn trim(&mut self) {
        if self.deliveries.len() > 2 * (self.held + self.acked.len()) + SPARSE {
            self.deliveries
                .retain(|(_, state)| *state != State::Settled);
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
                self.deliveries[place].1 = State::Settled;
            }
        }
        self.acked = acked;
        self.trim();
    }
}

#[cfg(test)]
mod tests;
