//! The work that is deferred until the lock is released.

use super::drop_queue::Dropped;
use crate::machine::{FilterStep, LoginStep};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// A call of the user's code. Its outcome is passed to the state machine.
#[derive(Debug)]
pub(super) enum UserCall {
    Login(LoginStep),
    Filter(FilterStep),
}

/// A panic of the user's code.
pub(super) type Panic = Box<dyn Any + Send>;

/// The tasks to wake, the values to drop and the user's code to call after the lock is released.
#[derive(Default)]
pub(super) struct DeferredWork {
    pub(super) driver: Option<Waker>,
    /// The first task, stored without an allocation.
    first_waker: Option<Waker>,
    other_wakers: Vec<Waker>,
    /// Boxed, because it is large and rare, and this struct is moved twice for each request.
    pub(super) user_call: Option<Box<UserCall>>,
    pub(super) dropped: Vec<Dropped>,
}

impl DeferredWork {
    pub(super) fn add_waker(&mut self, waker: Option<Waker>) {
        if self.first_waker.is_none() {
            self.first_waker = waker;
        } else {
            self.other_wakers.extend(waker);
        }
    }

    /// Wakes the tasks and drops the values. Returns the call of the user's code to make next, and
    /// the first panic. The caller resumes the panic at the end, so that a waker that panics does
    /// not keep other tasks from being woken.
    pub(super) fn run(self) -> (Option<Box<UserCall>>, Option<Panic>) {
        let mut panic = None;
        let wakers = self.first_waker.into_iter().chain(self.other_wakers);
        for waker in wakers.chain(self.driver) {
            if let Err(caught) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                panic.get_or_insert(caught);
            }
        }
        for value in self.dropped {
            if let Err(caught) = catch_unwind(AssertUnwindSafe(|| value.drop_now())) {
                panic.get_or_insert(caught);
            }
        }
        (self.user_call, panic)
    }
}
