//! Wakers that are cloned without the lock.

use std::collections::BTreeMap;
use std::task::Waker;

/// A waker that is cloned only if it has to be stored, and only while the lock is not held.
///
/// Cloning may run the user's code, so it must not happen under the lock. But only under the lock
/// is it known whether the clone is needed: most polls find a result, or find the same waker
/// stored. So a poll first tries to store the waker. If that returns `false`, the poll releases the
/// lock, calls [`clone_waker`](Self::clone_waker), takes the lock, and checks the state again.
pub(super) struct LazyWaker<'w> {
    waker: &'w Waker,
    clone: Option<Waker>,
    /// The waker that was stored before. It is dropped with this value, after the lock is released:
    /// dropping a waker may drop the task that it would have woken.
    replaced: Option<Waker>,
}

impl<'w> LazyWaker<'w> {
    #[inline]
    pub(super) fn new(waker: &'w Waker) -> Self {
        Self {
            waker,
            clone: None,
            replaced: None,
        }
    }

    /// Clones the waker, for the next attempt to store it. The lock must not be held.
    pub(super) fn clone_waker(&mut self) {
        self.clone = Some(self.waker.clone());
    }

    /// Stores the waker in a slot, unless a waker of the same task is there. Returns `false` if it
    /// has to be cloned first. Comparing wakers compares pointers and runs no code of the user.
    pub(super) fn store(&mut self, slot: &mut Option<Waker>) -> bool {
        if slot
            .as_ref()
            .is_some_and(|stored| stored.will_wake(self.waker))
        {
            return true;
        }
        let Some(clone) = self.clone.take() else {
            return false;
        };
        self.replaced = slot.replace(clone);
        true
    }

    /// Stores the waker at an index. Returns `false` if it has to be cloned first.
    pub(super) fn store_at(&mut self, wakers: &mut Vec<Option<Waker>>, index: usize) -> bool {
        if wakers.len() <= index {
            wakers.resize_with(index + 1, || None);
        }
        wakers.get_mut(index).is_none_or(|slot| self.store(slot))
    }

    /// Stores the waker under a key. Returns `false` if it has to be cloned first.
    pub(super) fn insert<K: Ord>(&mut self, wakers: &mut BTreeMap<K, Waker>, key: K) -> bool {
        let Some(clone) = self.clone.take() else {
            return false;
        };
        self.replaced = wakers.insert(key, clone);
        true
    }
}
