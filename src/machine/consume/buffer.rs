//! Deliveries that wait to be taken, in batches that change hands whole: a delivery is large, and
//! is moved as seldom as can be.

use crate::machine::channel::content::Delivered;
use std::collections::VecDeque;

/// Deliveries in a batch, at most.
pub(crate) const BATCH: usize = 64;

/// The maximum capacity of the unused shared buffers, in deliveries.
const SPARE: usize = 8 << 10;

/// A buffer for at most this many deliveries stays with its consumer, because many consumers have
/// few deliveries at a time.
const SMALL: usize = 4;

/// Places for batches that are empty. The one that became empty last is used next, while it is in
/// the processor's cache.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    places: Vec<VecDeque<Delivered>>,
    /// For how many deliveries they have room.
    room: usize,
}

impl Spares {
    fn take(&mut self) -> VecDeque<Delivered> {
        let place = self.places.pop().unwrap_or_default();
        self.room -= place.capacity();
        place
    }

    fn keep(&mut self, mut place: VecDeque<Delivered>) {
        let room = self.room + place.capacity();
        // One that is larger is somebody else's.
        if (1..=BATCH).contains(&place.capacity()) && room <= SPARE {
            // From its beginning on again.
            place.clear();
            self.room = room;
            self.places.push(place);
        }
    }
}

#[derive(Debug, Default)]
struct Batch {
    deliveries: VecDeque<Delivered>,
    bytes: usize,
}

/// What one consumer was delivered and has not taken.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    /// Those in front of the last.
    full: VecDeque<Batch>,
    last: Batch,
}

impl Batches {
    #[inline]
    pub(crate) fn push(&mut self, delivered: Delivered, spares: &mut Spares) {
        let place = &mut self.last.deliveries;
        if place.capacity() == 0 {
            *place = spares.take();
        } else if place.len() == BATCH {
            let next = Batch {
                deliveries: spares.take(),
                bytes: 0,
            };
            self.full.push_back(std::mem::replace(&mut self.last, next));
        }
        self.last.bytes += delivered.message.bytes();
        self.last.deliveries.push_back(delivered);
    }

    /// Returns the last delivery.
    pub(crate) fn last(&self) -> Option<&Delivered> {
        // The place behind the full batches is never empty while there are some.
        self.last.deliveries.back()
    }

    /// Takes up to `most` deliveries and appends them. Returns their number and their size in
    /// bytes.
    pub(crate) fn take(
        &mut self,
        most: usize,
        into: &mut VecDeque<Delivered>,
        spares: &mut Spares,
    ) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        while count < most {
            let batch = self.full.front_mut().unwrap_or(&mut self.last);
            let is_a_place = into.is_empty() && into.capacity() <= BATCH;
            let (several, their_bytes) = if is_a_place && batch.deliveries.len() <= most - count {
                // All of it, in its place, for the one that is empty.
                std::mem::swap(into, &mut batch.deliveries);
                if batch.deliveries.capacity() > SMALL {
                    spares.keep(std::mem::take(&mut batch.deliveries));
                }
                (into.len(), batch.bytes)
            } else {
                let several = batch.deliveries.len().min(most - count);
                let before = into.len();
                into.extend(batch.deliveries.drain(..several));
                (
                    several,
                    into.iter()
                        .skip(before)
                        .map(|delivered| delivered.message.bytes())
                        .sum(),
                )
            };
            batch.bytes -= their_bytes;
            count += several;
            bytes += their_bytes;
            if !batch.deliveries.is_empty() || self.full.is_empty() {
                break;
            }
            if let Some(batch) = self.full.pop_front() {
                spares.keep(batch.deliveries);
            }
        }
        (count, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::channel::content::Settled;
    use crate::message::{Ends, Message};
    use crate::protocol::ShortStr;
    use proptest::prelude::*;

    fn delivered(tag: u64) -> Delivered {
        let body = vec![0; tag as usize % 7];
        Delivered {
            message: Message::inline(body, Ends::new(ShortStr::EMPTY, ShortStr::EMPTY)),
            tag,
            redelivered: false,
            settled: Settled::No,
            source: 0,
            channel: 1,
            incarnation: 1,
            epoch: 1,
            by_offset: false,
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u8),
        /// At most this many, behind what was taken before or in its place.
        Take {
            most: usize,
            behind: bool,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let most = prop_oneof![0..5_usize, Just(BATCH), 0..300_usize, Just(usize::MAX)];
        let step = prop_oneof![
            (0..200_u8).prop_map(Step::Push),
            (most, any::<bool>()).prop_map(|(most, behind)| Step::Take { most, behind }),
        ];
        prop::collection::vec(step, 1..40)
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "it takes Miri minutes")]
        fn what_is_taken_is_what_came_in_its_order(steps in steps()) {
            let (mut batches, mut spares) = (Batches::default(), Spares::default());
            let (mut came, mut gone, mut bytes) = (0_u64, 0_u64, 0);
            let mut taken = VecDeque::new();
            for step in steps {
                match step {
                    Step::Push(count) => for _ in 0..count {
                        came += 1;
                        let delivered = delivered(came);
                        bytes += delivered.message.bytes();
                        batches.push(delivered, &mut spares);
                    },
                    Step::Take { most, behind } => {
                        if !behind {
                            taken.clear();
                        }
                        let before = taken.len();
                        let (count, its_bytes) = batches.take(most, &mut taken, &mut spares);
                        prop_assert_eq!(count as u64, (came - gone).min(most as u64));
                        prop_assert_eq!(taken.len(), before + count);
                        for delivered in taken.iter().skip(before) {
                            gone += 1;
                            bytes -= delivered.message.bytes();
                            prop_assert_eq!(delivered.tag, gone);
                        }
                        prop_assert_eq!(bytes_of(&batches), bytes);
                        let new = taken.iter().skip(before);
                        prop_assert_eq!(
                            its_bytes,
                            new.map(|it| it.message.bytes()).sum::<usize>()
                        );
                    }
                }
                let capacity: usize = spares.places.iter().map(VecDeque::capacity).sum();
                prop_assert_eq!(spares.room, capacity);
                let is_small = |place: &VecDeque<_>| place.is_empty() && place.capacity() <= BATCH;
                prop_assert!(spares.places.iter().all(is_small));
            }
        }
    }

    fn bytes_of(batches: &Batches) -> usize {
        batches.full.iter().map(|batch| batch.bytes).sum::<usize>() + batches.last.bytes
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes Miri minutes")]
    fn places_that_nobody_uses_are_no_more_than_some_thousand_deliveries_need() {
        let (mut batches, mut spares) = (Batches::default(), Spares::default());
        for tag in 0..2 * SPARE as u64 {
            batches.push(delivered(tag), &mut spares);
        }
        let mut taken = VecDeque::new();
        while batches.take(BATCH, &mut taken, &mut spares).0 > 0 {
            taken.clear();
        }
        assert!(
            spares.room <= SPARE && spares.room > SPARE / 2,
            "{}",
            spares.room
        );
    }

    #[test]
    fn who_has_a_larger_place_keeps_it() {
        let (mut batches, mut spares) = (Batches::default(), Spares::default());
        let mut taken = VecDeque::with_capacity(1000);
        for tag in 0..200 {
            batches.push(delivered(tag), &mut spares);
        }
        let before = taken.as_slices().0.as_ptr();
        assert_eq!(batches.take(usize::MAX, &mut taken, &mut spares).0, 200);
        assert!(taken.capacity() >= 1000 && taken.as_slices().0.as_ptr() == before);
        assert!(spares.places.iter().all(|place| place.capacity() <= BATCH));
    }

    #[test]
    fn who_finds_nothing_to_take_gives_its_place_back_and_a_small_one_waits_for_the_next() {
        for (count, given_back) in [(SMALL as u64, 0), (SMALL as u64 + 1, 1)] {
            let (mut batches, mut spares) = (Batches::default(), Spares::default());
            let mut taken = VecDeque::new();
            for tag in 0..count {
                batches.push(delivered(tag), &mut spares);
            }
            batches.take(BATCH, &mut taken, &mut spares);
            taken.clear();
            assert_eq!(batches.take(BATCH, &mut taken, &mut spares), (0, 0));
            assert_eq!((taken.capacity(), spares.places.len()), (0, given_back));
            assert_eq!(batches.last.deliveries.capacity() > 0, given_back == 0);
        }
    }
}
