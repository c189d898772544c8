//! Buffers of deliveries. They consist of batches, which the program takes as a whole. Moving a
//! batch does not copy its deliveries, which are large.

use crate::machine::channel::content::Delivered;
use std::collections::VecDeque;

/// The maximum number of deliveries in a batch.
pub(crate) const BATCH: usize = 64;

/// The maximum capacity of all unused shared buffers together, in deliveries.
const MAX_SPARE: usize = 8 << 10;

/// The largest capacity of a buffer that stays with its consumer when it is empty. Many consumers
/// have few deliveries at a time, and use such a buffer again.
const MAX_SMALL: usize = 4;

/// Unused buffers for batches, which all consumers share. The last one that became empty is used
/// next, while it is in the processor's cache.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    buffers: Vec<VecDeque<Delivered>>,
    /// The sum of their capacities, in deliveries.
    capacity: usize,
}

impl Spares {
    /// Returns an empty buffer.
    fn take(&mut self) -> VecDeque<Delivered> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.capacity -= buffer.capacity();
        buffer
    }

    /// Stores an unused buffer, unless it is too large or enough are stored.
    fn store(&mut self, mut buffer: VecDeque<Delivered>) {
        let capacity = self.capacity + buffer.capacity();
        // A larger buffer was allocated by the program, and would use too much memory here.
        if (1..=BATCH).contains(&buffer.capacity()) && capacity <= MAX_SPARE {
            // `clear` also moves the start of the ring back to the beginning of the allocation.
            buffer.clear();
            self.capacity = capacity;
            self.buffers.push(buffer);
        }
    }
}

/// Deliveries that are taken together, and their size in bytes.
#[derive(Debug, Default)]
struct Batch {
    deliveries: VecDeque<Delivered>,
    bytes: usize,
}

/// The buffered deliveries of one consumer.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    /// The batches before the last one.
    full: VecDeque<Batch>,
    last: Batch,
}

impl Batches {
    /// Appends a delivery.
    #[inline]
    pub(crate) fn push(&mut self, delivered: Delivered, spares: &mut Spares) {
        let buffer = &mut self.last.deliveries;
        if buffer.capacity() == 0 {
            *buffer = spares.take();
        } else if buffer.len() == BATCH {
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
        // The last batch is never empty while there are full ones before it.
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
            let is_swappable = into.is_empty() && into.capacity() <= BATCH;
            let (taken, taken_bytes) = if is_swappable && batch.deliveries.len() <= most - count {
                // Swapping the buffers takes the whole batch without moving a delivery.
                std::mem::swap(into, &mut batch.deliveries);
                if batch.deliveries.capacity() > MAX_SMALL {
                    spares.store(std::mem::take(&mut batch.deliveries));
                }
                (into.len(), batch.bytes)
            } else {
                let taken = batch.deliveries.len().min(most - count);
                let before = into.len();
                into.extend(batch.deliveries.drain(..taken));
                (
                    taken,
                    into.iter()
                        .skip(before)
                        .map(|delivered| delivered.message.bytes())
                        .sum(),
                )
            };
            batch.bytes -= taken_bytes;
            count += taken;
            bytes += taken_bytes;
            if !batch.deliveries.is_empty() || self.full.is_empty() {
                break;
            }
            if let Some(batch) = self.full.pop_front() {
                spares.store(batch.deliveries);
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
            message: Message::with_inline_body(body, Ends::new(ShortStr::EMPTY, ShortStr::EMPTY)),
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
    enum Operation {
        Push(u8),
        /// Takes at most this many, behind the deliveries taken before or instead of them.
        Take {
            most: usize,
            behind: bool,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Operation>> {
        let most = prop_oneof![0..5_usize, Just(BATCH), 0..300_usize, Just(usize::MAX)];
        let step = prop_oneof![
            (0..200_u8).prop_map(Operation::Push),
            (most, any::<bool>()).prop_map(|(most, behind)| Operation::Take { most, behind }),
        ];
        prop::collection::vec(step, 1..40)
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "it takes Miri minutes")]
        fn deliveries_are_taken_in_their_order(steps in steps()) {
            let (mut batches, mut spares) = (Batches::default(), Spares::default());
            let (mut pushed, mut popped, mut bytes) = (0_u64, 0_u64, 0);
            let mut taken = VecDeque::new();
            for step in steps {
                match step {
                    Operation::Push(count) => for _ in 0..count {
                        pushed += 1;
                        let delivered = delivered(pushed);
                        bytes += delivered.message.bytes();
                        batches.push(delivered, &mut spares);
                    },
                    Operation::Take { most, behind } => {
                        if !behind {
                            taken.clear();
                        }
                        let before = taken.len();
                        let (count, its_bytes) = batches.take(most, &mut taken, &mut spares);
                        prop_assert_eq!(count as u64, (pushed - popped).min(most as u64));
                        prop_assert_eq!(taken.len(), before + count);
                        for delivered in taken.iter().skip(before) {
                            popped += 1;
                            bytes -= delivered.message.bytes();
                            prop_assert_eq!(delivered.tag, popped);
                        }
                        prop_assert_eq!(bytes_of(&batches), bytes);
                        let new = taken.iter().skip(before);
                        prop_assert_eq!(
                            its_bytes,
                            new.map(|it| it.message.bytes()).sum::<usize>()
                        );
                    }
                }
                let capacity: usize = spares.buffers.iter().map(VecDeque::capacity).sum();
                prop_assert_eq!(spares.capacity, capacity);
                let is_small = |it: &VecDeque<_>| it.is_empty() && it.capacity() <= BATCH;
                prop_assert!(spares.buffers.iter().all(is_small));
            }
        }
    }

    fn bytes_of(batches: &Batches) -> usize {
        batches.full.iter().map(|batch| batch.bytes).sum::<usize>() + batches.last.bytes
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes Miri minutes")]
    fn unused_buffers_have_a_bounded_capacity() {
        let (mut batches, mut spares) = (Batches::default(), Spares::default());
        for tag in 0..2 * MAX_SPARE as u64 {
            batches.push(delivered(tag), &mut spares);
        }
        let mut taken = VecDeque::new();
        while batches.take(BATCH, &mut taken, &mut spares).0 > 0 {
            taken.clear();
        }
        assert!(
            spares.capacity <= MAX_SPARE && spares.capacity > MAX_SPARE / 2,
            "{}",
            spares.capacity
        );
    }

    #[test]
    fn larger_buffer_of_the_program_keeps_its_allocation() {
        let (mut batches, mut spares) = (Batches::default(), Spares::default());
        let mut taken = VecDeque::with_capacity(1000);
        for tag in 0..200 {
            batches.push(delivered(tag), &mut spares);
        }
        let before = taken.as_slices().0.as_ptr();
        assert_eq!(batches.take(usize::MAX, &mut taken, &mut spares).0, 200);
        assert!(taken.capacity() >= 1000 && taken.as_slices().0.as_ptr() == before);
        assert!(
            spares
                .buffers
                .iter()
                .all(|buffer| buffer.capacity() <= BATCH)
        );
    }

    #[test]
    fn empty_take_returns_the_buffer_unless_it_is_small() {
        for (count, returned) in [(MAX_SMALL as u64, 0), (MAX_SMALL as u64 + 1, 1)] {
            let (mut batches, mut spares) = (Batches::default(), Spares::default());
            let mut taken = VecDeque::new();
            for tag in 0..count {
                batches.push(delivered(tag), &mut spares);
            }
            batches.take(BATCH, &mut taken, &mut spares);
            taken.clear();
            assert_eq!(batches.take(BATCH, &mut taken, &mut spares), (0, 0));
            assert_eq!((taken.capacity(), spares.buffers.len()), (0, returned));
            assert_eq!(batches.last.deliveries.capacity() > 0, returned == 0);
        }
    }

    #[test]
    fn spare_buffer_is_used_next() {
        let (mut batches, mut spares) = (Batches::default(), Spares::default());
        let mut taken = VecDeque::new();
        (0..BATCH as u64).for_each(|tag| batches.push(delivered(tag), &mut spares));
        batches.take(BATCH, &mut taken, &mut spares);
        taken.clear();
        batches.take(BATCH, &mut taken, &mut spares);
        assert_eq!((spares.buffers.len(), spares.capacity), (1, BATCH));
        batches.push(delivered(0), &mut spares);
        assert_eq!((spares.buffers.len(), spares.capacity), (0, 0));
        assert_eq!(batches.last.deliveries.capacity(), BATCH);
    }
}
