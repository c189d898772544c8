//! Wakers that are cloned without the lock.

use std::collections::BTreeMap;
use std::task::Waker;

/// A waker that may be stored while the lock is held, because its clone was made before.
///
/// The clone is made only if it is needed, which is known only under the lock: most polls find a
/// result, or the same waker already stored. Then the lock is released, the waker is cloned, and
/// the state is checked again.
pub(super) struct Spare<'w> {
    waker: &'w Waker,
    clone: Option<Waker>,
    /// The waker that was stored before. Dropping it may drop the task that it would have woken.
    unused: Option<Waker>,
}

impl<'w> Spare<'w> {
    #[inline]
    pub(super) fn new(waker: &'w Waker) -> Self {
        Self {
            waker,
            clone: None,
            unused: None,
        }
    }

    /// Clones the waker. The lock must not be held, because cloning may run the user's code.
    pub(super) fn clone_waker(&mut self) {
        self.clone = Some(self.waker.clone());
    }

    /// Returns `true` if the waker is stored or not needed, and clones it otherwise. The lock must
    /// not be held.
    #[inline]
    pub(super) fn is_done(&mut self, is_kept: bool) -> bool {
        if !is_kept {
            self.clone_waker();
        }
        is_kept
    }

    /// Stores the waker in a place, unless a waker of the same task is there. Returns `false` if it
    /// has to be cloned first. Comparing wakers compares pointers and runs no code of the user.
    pub(super) fn replace(&mut self, place: &mut Option<Waker>) -> bool {
        if place
            .as_ref()
            .is_some_and(|kept| kept.will_wake(self.waker))
        {
            return true;
        }
        let Some(clone) = self.clone.take() else {
            return false;
        };
        self.unused = place.replace(clone);
        true
    }

    /// Stores the waker under a number. Returns `false` if it has to be cloned first.
    pub(super) fn keep(&mut self, wakers: &mut Vec<Option<Waker>>, number: usize) -> bool {
        if wakers.len() <= number {
            wakers.resize_with(number + 1, || None);
        }
        wakers
            .get_mut(number)
            .is_none_or(|place| self.replace(place))
    }

    /// Stores the waker under a key. Returns the previous one, or `None` if it has to be cloned
    /// first.
    pub(super) fn insert<K: Ord>(
        &mut self,
        wakers: &mut BTreeMap<K, Waker>,
        key: K,
    ) -> Option<Option<Waker>> {
        let clone = self.clone.take()?;
        Some(wakers.insert(key, clone))
    }
}
