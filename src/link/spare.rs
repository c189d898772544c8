//! Wakers that are cloned without the lock.

use std::collections::BTreeMap;
use std::task::Waker;

/// A waker that may be kept while the lock is held, and was cloned before.
///
/// It is cloned only if one is needed, which is found out under the lock: most polls find their answer, or the same waker in its
/// place. Then the lock is released, the waker cloned, and all looked at again.
pub(super) struct Spare<'w> {
    waker: &'w Waker,
    clone: Option<Waker>,
    /// The waker that was in its place before. With it the task that it would have woken may go.
    unused: Option<Waker>,
}

impl<'w> Spare<'w> {
    #[inline]
    pub(super) fn new(waker: &'w Waker) -> Self {
        Self { waker, clone: None, unused: None }
    }

    /// Clones the waker. To be called without the lock, as the code that does it may be the user's.
    pub(super) fn clone_waker(&mut self) {
        self.clone = Some(self.waker.clone());
    }

    /// Returns `true` if the waker is kept, or need not be, and clones it otherwise. To be called without the lock.
    #[inline]
    pub(super) fn is_done(&mut self, is_kept: bool) -> bool {
        if !is_kept {
            self.clone_waker();
        }
        is_kept
    }

    /// Keeps the waker in a place, unless one that wakes the same task is there. Returns `false` if it has to be cloned first.
    /// (Comparing wakers compares pointers.)
    pub(super) fn replace(&mut self, place: &mut Option<Waker>) -> bool {
        if place.as_ref().is_some_and(|kept| kept.will_wake(self.waker)) {
            return true;
        }
        let Some(clone) = self.clone.take() else { return false };
        self.unused = place.replace(clone);
        true
    }

    /// Keeps the waker under a number.
    pub(super) fn keep(&mut self, wakers: &mut Vec<Option<Waker>>, number: usize) -> bool {
        if wakers.len() <= number {
            wakers.resize_with(number + 1, || None);
        }
        wakers.get_mut(number).is_none_or(|place| self.replace(place))
    }

    /// Keeps the waker under a key. Returns the one before, or `None` if it has to be cloned first.
    pub(super) fn insert<K: Ord>(
        &mut self,
        wakers: &mut BTreeMap<K, Waker>,
        key: K,
    ) -> Option<Option<Waker>> {
        let clone = self.clone.take()?;
        Some(wakers.insert(key, clone))
    }
}
