//! The work to do after the lock is released.

use super::disposal::Dropped;
use crate::machine::{FilterStep, LoginStep};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// The user's code, to run after the lock is released.
#[derive(Debug)]
pub(super) enum UsersCode {
    Login(LoginStep),
    Filter(FilterStep),
}

/// A panic of the user's code.
pub(super) type Panic = Box<dyn Any + Send>;

/// The tasks to wake and the user's code to run after the lock is released.
#[derive(Default)]
pub(super) struct Woken {
    pub(super) driver: Option<Waker>,
    /// The first task, stored without an allocation.
    first: Option<Waker>,
    others: Vec<Waker>,
    /// Boxed, because it is large and rare, and a `Woken` is moved twice for each request.
    pub(super) users: Option<Box<UsersCode>>,
    /// The values to drop.
    pub(super) dropped: Vec<Dropped>,
}

impl Woken {
    pub(super) fn add(&mut self, waker: Option<Waker>) {
        if self.first.is_none() {
            self.first = waker;
        } else {
            self.others.extend(waker);
        }
    }

    /// Wakes the tasks and drops the values. Returns the user's code to run next, and the first
    /// panic. The caller resumes the panic at the end, so that a waker that panics does not keep
    /// other tasks from being woken.
    pub(super) fn wake(self) -> (Option<Box<UsersCode>>, Option<Panic>) {
        let mut panic = None;
        for waker in self.first.into_iter().chain(self.others).chain(self.driver) {
            if let Err(caught) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                panic.get_or_insert(caught);
            }
        }
        for value in self.dropped {
            if let Err(caught) = catch_unwind(AssertUnwindSafe(|| value.drop_now())) {
                panic.get_or_insert(caught);
            }
        }
        (self.users, panic)
    }
}
