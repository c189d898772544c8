//! What is done when the lock is released.

use super::graveyard::Remains;
use crate::machine::{FilterStep, LoginStep};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// Code of the user's, to be run when the lock is released.
#[derive(Debug)]
pub(super) enum UsersCode {
    Login(LoginStep),
    Filter(FilterStep),
}

/// A panic of the user's code.
pub(super) type Panic = Box<dyn Any + Send>;

/// Who is to be woken when the lock is released, and what of the user's is to be run then.
#[derive(Default)]
pub(super) struct Woken {
    pub(super) driver: Option<Waker>,
    /// Most often there is one, which needs no allocation.
    first: Option<Waker>,
    others: Vec<Waker>,
    pub(super) users: Option<UsersCode>,
    /// What is to be dropped.
    pub(super) remains: Vec<Remains>,
}

impl Woken {
    pub(super) fn add(&mut self, waker: Option<Waker>) {
        if self.first.is_none() {
            self.first = waker;
        } else {
            self.others.extend(waker);
        }
    }

    /// Wakes the tasks and drops what is to be dropped. Returns the user's code that is run next, and the first panic, which is
    /// resumed at the end: a waker that panics must not keep other tasks asleep.
    pub(super) fn wake(self) -> (Option<UsersCode>, Option<Panic>) {
        let mut panic = None;
        for waker in self.first.into_iter().chain(self.others).chain(self.driver) {
            if let Err(caught) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                panic.get_or_insert(caught);
            }
        }
        for remains in self.remains {
            if let Err(caught) = catch_unwind(AssertUnwindSafe(|| remains.drop_now())) {
                panic.get_or_insert(caught);
            }
        }
        (self.users, panic)
    }
}
