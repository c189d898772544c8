//! Publishes whose deadline passed before their confirm arrived.

use std::collections::BTreeMap;

/// The delivery tags of one channel's publishes that may still be confirmed after their deadline.
///
/// A queue without a majority may confirm nothing for hours, so the memory is bounded: consecutive
/// tags share a range, and above [`MAX_RANGES`] the two lowest ranges are merged. Then a second
/// confirm of a publish between the two is not reported as an error. It is harmless, because the
/// promise of that publish is completed.
#[derive(Debug, Default)]
pub(crate) struct Overdue {
    /// The last tag of each range by its first.
    ranges: BTreeMap<u64, u64>,
}

/// The largest number of ranges of one channel. They use about 32 KiB.
const MAX_RANGES: usize = 1024;

impl Overdue {
    /// Returns `true` if there are no tags.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Adds a tag, which must be higher than all tags added before.
    pub(crate) fn add(&mut self, tag: u64) {
        match self.ranges.last_entry() {
            Some(mut range) if range.get().checked_add(1) == Some(tag) => *range.get_mut() = tag,
            _ => self.insert(tag, tag),
        }
    }

    /// Removes a tag. Returns `false` if it is not there.
    pub(crate) fn remove(&mut self, tag: u64) -> bool {
        let below = self.ranges.range(..=tag).next_back();
        let Some((&first, &last)) = below.filter(|(_, last)| tag <= **last) else {
            return false;
        };
        self.ranges.remove(&first);
        if let Some(before) = tag.checked_sub(1).filter(|before| first <= *before) {
            self.insert(first, before);
        }
        if let Some(after) = tag.checked_add(1).filter(|after| *after <= last) {
            self.insert(after, last);
        }
        true
    }

    /// Removes all tags up to `tag`.
    pub(crate) fn remove_up_to(&mut self, tag: u64) {
        while let Some(range) = self
            .ranges
            .first_entry()
            .filter(|range| *range.key() <= tag)
        {
            let last = range.remove();
            if let Some(after) = tag.checked_add(1).filter(|after| *after <= last) {
                self.ranges.insert(after, last);
            }
        }
    }

    fn insert(&mut self, first: u64, last: u64) {
        self.ranges.insert(first, last);
        if self.ranges.len() > MAX_RANGES
            && let Some((first, _)) = self.ranges.pop_first()
            && let Some((_, last)) = self.ranges.pop_first()
        {
            self.ranges.insert(first, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_tag_splits_its_range() {
        let mut overdue = Overdue::default();
        (3..=9).for_each(|tag| overdue.add(tag));
        assert_eq!(overdue.ranges.len(), 1);
        assert!(overdue.remove(6) && overdue.remove(3) && overdue.remove(9));
        assert!(
            !overdue.remove(6) && !overdue.remove(2) && !overdue.remove(10) && !overdue.remove(0)
        );
        assert_eq!(overdue.ranges, BTreeMap::from([(4, 5), (7, 8)]));
        overdue.remove_up_to(7);
        assert_eq!(overdue.ranges, BTreeMap::from([(8, 8)]));
        overdue.remove_up_to(u64::MAX);
        assert!(overdue.is_empty());
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes Miri minutes")]
    fn million_scattered_tags_take_bounded_memory() {
        let mut overdue = Overdue::default();
        (0..1_000_000).for_each(|tag| overdue.add(2 * tag));
        assert_eq!(overdue.ranges.len(), MAX_RANGES);
        assert!(
            (0..1_000_000).all(|tag| overdue.remove(2 * tag)),
            "each is still absorbed once"
        );
        (0..1_000_000).for_each(|tag| overdue.add(10_000_000 + tag));
        assert!((0..500_000).all(|tag| overdue.remove(10_000_000 + 2 * tag)));
        assert!(overdue.ranges.len() <= MAX_RANGES);
    }

    #[test]
    fn ranges_merge_only_above_their_limit() {
        let mut overdue = Overdue::default();
        let scattered = |number: usize| 2 * number as u64;
        (0..MAX_RANGES).for_each(|number| overdue.add(scattered(number)));
        assert_eq!(overdue.ranges.len(), MAX_RANGES);
        assert!(!overdue.remove(1), "no range includes it");
        overdue.add(scattered(MAX_RANGES));
        assert_eq!(overdue.ranges.len(), MAX_RANGES);
        assert!(overdue.remove(1), "the lowest ranges are one");
    }
}
