//! The link between client handles and driver: one lock around the state machine and the wakers of
//! pending futures.
//!
//! Nothing is awaited, woken or called back while the lock is held. No value of the user is cloned
//! or dropped under it either, not even a waker: its vtable may be the user's.
//!
//! Every method for other modules takes the lock, except `removed_channels`, `guard` and
//! [`Link::new`]. A method that may cause work ends with [`Link::release`], which wakes tasks,
//! drops the user's values and calls the user's credential source, SASL mechanism or recovery
//! filter. A method that takes a result, stores a waker or removes a listener drops the lock guard
//! instead, which is cheaper.
//!
//! | method | ends with | also runs code of the user |
//! | --- | --- | --- |
//! | `with`, `handle_loss`, `handle_dialled`, `handle_dial_failure` | `release` | |
//! | `poll_send`, `poll_deliveries` | `release` | clones and drops the waker |
//! | `abandon`, `end_wait`, `drop_consumer` | `release` | drops the waker |
//! | `poll_promise`, `poll_notice`, `prepare_to_sleep` | `drop` | clones and drops the waker |
//! | `stop_listening` | `drop` | drops the waker |

mod deferred;
mod drop_queue;
mod lazy_waker;
mod state;

use crate::error::{Broken, Error};
use crate::fairness::{QUEUED_BYTES, TAKEN_DELIVERIES};
use crate::machine::{
    Completion, Connection, ConsumerId, Delivered, Dialled, Ended, ListenerId, Notice, PromiseId,
    Ticket,
};
use bytes::Bytes;
use deferred::{DeferredWork, UserCall};
use drop_queue::{DropQueue, ErrorCauses};
use lazy_waker::LazyWaker;
#[cfg(shuttle)]
use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, Ordering},
};
pub(crate) use state::Capacity;
use state::{State, take_waker};
use std::collections::{BTreeMap, VecDeque};
use std::panic::resume_unwind;
use std::sync::{Arc, PoisonError};
#[cfg(not(shuttle))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, Ordering},
};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// The state machine, shared by the driver and the handles.
#[derive(Debug)]
pub(crate) struct Link {
    state: Mutex<State>,
    /// A copy of the state machine's counter of removed channels, to compare without the lock. It
    /// is stored while the lock is held, so a task that has taken deliveries sees every change
    /// that came before. Relaxed is enough, because the lock orders the two.
    removed_channels: AtomicU32,
    drop_queue: Arc<DropQueue>,
}

impl Link {
    pub(crate) fn new(machine: Connection) -> Arc<Self> {
        let removed_channels = machine.removed_channels().into();
        let (drop_queue, dropped) = DropQueue::new();
        let state = Mutex::new(State {
            machine,
            driver: None,
            promises: Vec::new(),
            consumers: Vec::new(),
            listeners: BTreeMap::new(),
            requesting: BTreeMap::new(),
            publishing: BTreeMap::new(),
            transacting: BTreeMap::new(),
            bytes_since_yield: 0,
            deliveries_since_yield: 0,
            causes: ErrorCauses::default(),
            dropped,
        });
        Arc::new(Self {
            state,
            removed_channels,
            drop_queue,
        })
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Releases the lock after a change of the state machine, then does the work that the change
    /// has caused.
    #[inline]
    fn release(&self, state: MutexGuard<'_, State>) {
        self.removed_channels
            .store(state.machine.removed_channels(), Ordering::Relaxed);
        if state.may_wake() || !self.drop_queue.is_empty() {
            self.release_and_work(state);
        }
    }

    #[cold]
    fn release_and_work(&self, state: MutexGuard<'_, State>) {
        let (mut user_call, mut panic) = self.release_and_take_work(state).run();
        while let Some(call) = user_call {
            let state = self.run_user_call(*call);
            let (next, caught) = self.release_and_take_work(state).run();
            user_call = next;
            panic = panic.or(caught);
        }
        // Handles are dropped while a panic unwinds, and a second panic would abort the process.
        if let Some(panic) = panic.filter(|_| !std::thread::panicking()) {
            resume_unwind(panic);
        }
    }

    /// Takes the work that the last changes have caused, and releases the lock.
    fn release_and_take_work(&self, mut state: MutexGuard<'_, State>) -> DeferredWork {
        state.take_deferred(&self.drop_queue)
    }

    /// Calls the user's code without the lock, then takes the lock and passes the outcome to the
    /// state machine.
    fn run_user_call(&self, call: UserCall) -> MutexGuard<'_, State> {
        match call {
            UserCall::Login(step) => {
                let is_first = step.is_first();
                let mut outcome = step.run();
                if is_first {
                    outcome = outcome
                        .map_mechanism(|mechanism| self.drop_queue.guard_mechanism(mechanism));
                }
                let mut state = self.lock();
                if let Some(error) = outcome.error() {
                    state.causes.store(error, &self.drop_queue);
                }
                state.machine.handle_login(outcome);
                state
            }
            UserCall::Filter(step) => {
                let outcome = step.run();
                let mut state = self.lock();
                state.machine.handle_filter(outcome);
                state
            }
        }
    }

    #[inline]
    fn with_state<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state);
        self.release(state);
        result
    }

    /// Calls a function with the state machine, then wakes the tasks that the change concerns.
    #[inline]
    pub(crate) fn with<R>(&self, change: impl FnOnce(&mut Connection) -> R) -> R {
        self.with_state(|state| change(&mut state.machine))
    }

    /// Returns a share of a user's body that the state machine may drop under the lock.
    pub(crate) fn guard(&self, body: &Bytes) -> Bytes {
        self.drop_queue.guard_body(body)
    }

    /// Reports to the state machine that the transport is lost.
    pub(crate) fn handle_loss(&self, cause: Broken) {
        self.with_state(|state| {
            let error = Error::ConnectionBroken(cause.clone());
            state.causes.store(&error, &self.drop_queue);
            state.machine.handle_loss(cause);
        });
    }

    /// Reports to the state machine that a transport was dialled.
    pub(crate) fn handle_dialled(&self, now: Instant, dialled: Dialled) {
        self.with_state(|state| {
            for attempt in &dialled.failed {
                state.causes.store(&attempt.error, &self.drop_queue);
            }
            state.machine.handle_dialled(now, dialled);
        });
    }

    /// Reports to the state machine that dialling has failed.
    pub(crate) fn handle_dial_failure(&self, now: Instant, error: Error) {
        self.with_state(|state| {
            state.causes.store(&error, &self.drop_queue);
            state.machine.handle_dial_failure(now, error);
        });
    }

    /// Returns a counter that changes whenever deliveries may have become stale, without taking the
    /// lock. It may be out of date if another thread closes a channel at the same time.
    #[inline]
    pub(crate) fn removed_channels(&self) -> u32 {
        self.removed_channels.load(Ordering::Relaxed)
    }

    /// Stores the driver's waker. Returns `false` if the driver has work and must not
    /// sleep.
    pub(crate) fn prepare_to_sleep(&self, waker: &Waker) -> bool {
        let mut waker = LazyWaker::new(waker);
        loop {
            let mut state = self.lock();
            if state.machine.wants_attention() {
                drop(state);
                return false;
            }
            let is_stored = waker.store(&mut state.driver);
            drop(state);
            if is_stored {
                return true;
            }
            waker.clone_waker();
        }
    }

    /// Polls for the result of a promise, which is returned once.
    #[inline]
    pub(crate) fn poll_promise(
        &self,
        promise: PromiseId,
        cx: &mut Context<'_>,
    ) -> Poll<Completion> {
        let mut state = self.lock();
        match state.machine.fetch_completion(promise) {
            Some(completion) => Poll::Ready(completion),
            None => self.store_promise_waker(state, promise, cx),
        }
    }

    /// Stores the waker of a task that polled a pending promise, unless the promise is completed
    /// meanwhile. It is a separate function, because inlining it would cost 26 instructions
    /// if the promise is complete, as it often is for a publish.
    #[cold]
    fn store_promise_waker<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        promise: PromiseId,
        cx: &mut Context<'_>,
    ) -> Poll<Completion> {
        let mut waker = LazyWaker::new(cx.waker());
        loop {
            let is_stored = waker.store_at(&mut state.promises, promise.index());
            drop(state);
            if is_stored {
                return Poll::Pending;
            }
            waker.clone_waker();
            state = self.lock();
            if let Some(completion) = state.machine.fetch_completion(promise) {
                drop(state);
                return Poll::Ready(completion);
            }
        }
    }

    /// Drops interest in a promise.
    pub(crate) fn abandon(&self, promise: PromiseId) {
        let old_waker = self.with_state(|state| {
            state.machine.abandon(promise);
            take_waker(&mut state.promises, promise.index())
        });
        drop(old_waker);
    }

    /// Queues a request, or waits for capacity. The ticket is the place in the queue of waiters.
    ///
    /// A new sender may take capacity before a waiter that was woken for it. The waiter then finds
    /// none, and waits again at its old place. So it is still the next to be woken, and its timeout
    /// continues.
    pub(crate) fn poll_send(
        &self,
        capacity: Capacity,
        ticket: &mut Option<Ticket>,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&mut Connection) -> Result<PromiseId, Error>,
    ) -> Poll<Result<PromiseId, Error>> {
        let mut state = self.lock();
        // The driver has these bytes to write, so the sender yields without asking the machine.
        if state.bytes_since_yield >= QUEUED_BYTES {
            state.bytes_since_yield = 0;
            self.release(state);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match state.send(&mut send) {
            // Copying the identifier is cheaper than moving the result, because an error is large.
            Ok(promise) if ticket.is_none() => {
                self.release(state);
                Poll::Ready(Ok(promise))
            }
            sent => self.finish_send(state, sent, capacity, ticket, cx, &mut send),
        }
    }

    /// Stores the waker of a task if there is no capacity, and ends its wait otherwise. This is not
    /// part of [`poll_send`](Self::poll_send), which saves 28 instructions for a send that does not
    /// wait. Nearly all sends do not wait.
    #[cold]
    fn finish_send<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        mut sent: Result<PromiseId, Error>,
        capacity: Capacity,
        ticket: &mut Option<Ticket>,
        cx: &mut Context<'_>,
        send: &mut dyn FnMut(&mut Connection) -> Result<PromiseId, Error>,
    ) -> Poll<Result<PromiseId, Error>> {
        let mut waker = LazyWaker::new(cx.waker());
        let old_waker = loop {
            if !matches!(sent, Err(Error::Full)) {
                break ticket
                    .take()
                    .and_then(|ticket| state.end_wait(capacity, ticket));
            }
            let waiting = *ticket.get_or_insert_with(|| state.machine.begin_wait());
            if let Err(timeout) = state.machine.check_wait(waiting, capacity.wait_name()) {
                sent = Err(timeout);
                *ticket = None;
                break state.waiting_for(capacity).remove(&waiting);
            }
            if waker.insert(state.waiting_for(capacity), waiting) {
                break None;
            }
            self.release(state);
            waker.clone_waker();
            state = self.lock();
            sent = state.send(send);
        };
        self.release(state);
        drop(old_waker);
        if matches!(sent, Err(Error::Full)) {
            Poll::Pending
        } else {
            Poll::Ready(sent)
        }
    }

    /// Removes a future from the queue for capacity. If it was the first one, the next one is
    /// woken.
    pub(crate) fn end_wait(&self, capacity: Capacity, ticket: Ticket) {
        let old_waker = self.with_state(|state| state.end_wait(capacity, ticket));
        drop(old_waker);
    }

    /// Moves up to `most` deliveries to `into`, which must be empty, or waits for one. Resolves to
    /// `None` if there are deliveries, and to the reason if the consumer has ended.
    pub(crate) fn poll_deliveries(
        &self,
        consumer: ConsumerId,
        most: usize,
        into: &mut VecDeque<Delivered>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Ended>> {
        let mut waker = LazyWaker::new(cx.waker());
        loop {
            let mut state = self.lock();
            if state.deliveries_since_yield >= TAKEN_DELIVERIES {
                state.deliveries_since_yield = 0;
                // Without acks, the driver has nothing to send, so yielding would be useless.
                if state.machine.wants_attention() {
                    self.release(state);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            state.machine.take_deliveries(consumer, most, into);
            state.deliveries_since_yield += into.len();
            let polled = if !into.is_empty() {
                Some(Poll::Ready(None))
            } else {
                // The consumer exists, because only dropping its handle removes it.
                state
                    .machine
                    .consumer(consumer)
                    .and_then(|consumer| consumer.ended())
                    .map(|ended| Poll::Ready(Some(ended.clone())))
            };
            let is_finished =
                polled.is_some() || waker.store_at(&mut state.consumers, consumer.index());
            self.release(state);
            if is_finished {
                return polled.unwrap_or(Poll::Pending);
            }
            waker.clone_waker();
        }
    }

    /// Polls for the next notice for a listener.
    pub(crate) fn poll_notice(&self, listener: ListenerId, cx: &mut Context<'_>) -> Poll<Notice> {
        let mut waker = LazyWaker::new(cx.waker());
        loop {
            let mut state = self.lock();
            if let Some(notice) = state.machine.take_notice(listener) {
                drop(state);
                return Poll::Ready(notice);
            }
            let is_stored = waker.insert(&mut state.listeners, listener);
            drop(state);
            if is_stored {
                return Poll::Pending;
            }
            waker.clone_waker();
        }
    }

    /// Removes a listener.
    pub(crate) fn stop_listening(&self, listener: ListenerId) {
        let waker = {
            let mut state = self.lock();
            state.machine.stop_listening(listener);
            state.listeners.remove(&listener)
        };
        drop(waker);
    }

    /// Cancels a consumer whose last handle was dropped. The deliveries in `batch` are returned to
    /// the queue.
    pub(crate) fn drop_consumer(&self, consumer: ConsumerId, batch: &VecDeque<Delivered>) {
        let old_waker = self.with_state(|state| {
            batch
                .iter()
                .for_each(|delivered| state.machine.return_later(delivered));
            state.machine.drop_consumer(consumer);
            take_waker(&mut state.consumers, consumer.index())
        });
        drop(old_waker);
    }
}
