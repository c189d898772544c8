//! The link between client handles and driver: one lock around the state machine and the wakers of
//! pending futures.
//!
//! Nothing is awaited, woken or called back while the lock is held. No value of the user is cloned
//! or dropped under it either, not even a waker: its vtable may be the user's.

mod buffers;
mod disposal;
mod state;
mod wakers;

use crate::error::{Broken, Error};
use crate::fairness::{QUEUED_BYTES, TAKEN_DELIVERIES};
use crate::machine::{
    Completion, Connection, ConsumerId, Delivered, Ended, ListenerId, Notice, PromiseId, Ticket,
};
use buffers::Spare;
use bytes::Bytes;
use disposal::{Causes, DropQueue};
#[cfg(shuttle)]
use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, Ordering},
};
pub(crate) use state::Capacity;
use state::State;
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
use wakers::{UsersCode, Woken};

/// The state machine, shared by the driver and the handles.
#[derive(Debug)]
pub(crate) struct Link {
    state: Mutex<State>,
    /// A copy of the state machine's connection epoch, to compare without the lock.
    epoch: AtomicU32,
    drop_queue: Arc<DropQueue>,
}

impl Link {
    pub(crate) fn new(machine: Connection) -> Arc<Self> {
        let epoch = machine.stats().epoch.into();
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
            sent: 0,
            taken: 0,
            causes: Causes::default(),
            dropped,
        });
        Arc::new(Self {
            state,
            epoch,
            drop_queue,
        })
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Releases the lock, then wakes the tasks that the change concerns.
    #[inline]
    fn release(&self, state: MutexGuard<'_, State>) {
        self.epoch
            .store(state.machine.stats().epoch, Ordering::Relaxed);
        if !state.is_quiet() || !self.drop_queue.is_empty() {
            self.release_and_wake(state);
        }
    }

    #[cold]
    fn release_and_wake(&self, mut state: MutexGuard<'_, State>) {
        let woken = self.woken(&mut state);
        drop(state);
        let (mut users, mut panic) = woken.wake();
        while let Some(code) = users {
            let mut state = match *code {
                UsersCode::Login(step) => {
                    let is_first = step.is_first();
                    let mut outcome = step.run();
                    if is_first {
                        outcome = outcome.map_mechanism(|own| self.drop_queue.guard_mechanism(own));
                    }
                    let mut state = self.lock();
                    if let Some(error) = outcome.error() {
                        state.causes.keep(error, &self.drop_queue);
                    }
                    state.machine.handle_login(outcome);
                    state
                }
                UsersCode::Filter(step) => {
                    let outcome = step.run();
                    let mut state = self.lock();
                    state.machine.handle_filter(outcome);
                    state
                }
            };
            let woken = self.woken(&mut state);
            drop(state);
            let (next, caught) = woken.wake();
            users = next;
            panic = panic.or(caught);
        }
        // Handles are dropped while a panic unwinds, and a second panic would abort the process.
        if let Some(panic) = panic.filter(|_| !std::thread::panicking()) {
            resume_unwind(panic);
        }
    }

    fn woken(&self, state: &mut State) -> Woken {
        let mut woken = state.woken();
        if !self.drop_queue.is_empty() {
            self.drop_queue.take(&state.dropped, &mut woken.dropped);
        }
        woken
    }

    #[inline]
    fn with_state<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = act(&mut state);
        self.release(state);
        result
    }

    /// Calls a function with the state machine, then wakes the tasks that the change concerns.
    #[inline]
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut Connection) -> R) -> R {
        self.with_state(|state| act(&mut state.machine))
    }

    /// Returns a share of a user's body that the state machine may drop.
    pub(crate) fn guard(&self, body: &Bytes) -> Bytes {
        self.drop_queue.guard_body(body)
    }

    /// Reports to the state machine that the transport is lost.
    pub(crate) fn handle_loss(&self, cause: Broken) {
        self.with_state(|state| {
            let error = Error::ConnectionBroken(cause.clone());
            state.causes.keep(&error, &self.drop_queue);
            state.machine.handle_loss(cause);
        });
    }

    /// Reports to the state machine that dialling has failed.
    pub(crate) fn handle_dial_failure(&self, now: Instant, error: Error) {
        self.with_state(|state| {
            state.causes.keep(&error, &self.drop_queue);
            state.machine.handle_dial_failure(now, error);
        });
    }

    /// Returns the connection epoch, which a delivery must have to be settled. May be out of date.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Prepares the driver to sleep. Returns `false` if there is work to do instead.
    pub(crate) fn sleep(&self, waker: &Waker) -> bool {
        let mut spare = Spare::new(waker);
        loop {
            let mut state = self.lock();
            if state.machine.wants_attention() {
                drop(state);
                return false;
            }
            let is_kept = spare.replace(&mut state.driver);
            drop(state);
            if spare.is_done(is_kept) {
                return true;
            }
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
            Some(answer) => Poll::Ready(answer),
            None => self.wait_for_answer(state, promise, cx),
        }
    }

    /// Stores the waker of a task that polled a pending promise. This is not part of
    /// [`poll_promise`](Self::poll_promise), which saves 26 instructions if the promise is
    /// complete, as it often is for a publish.
    #[cold]
    fn wait_for_answer<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        promise: PromiseId,
        cx: &mut Context<'_>,
    ) -> Poll<Completion> {
        let mut spare = Spare::new(cx.waker());
        loop {
            let is_kept = spare.keep(&mut state.promises, promise.index());
            drop(state);
            if spare.is_done(is_kept) {
                return Poll::Pending;
            }
            state = self.lock();
            if let Some(answer) = state.machine.fetch_completion(promise) {
                drop(state);
                return Poll::Ready(answer);
            }
        }
    }

    /// Drops interest in a promise.
    pub(crate) fn abandon(&self, promise: PromiseId) {
        let unused = self.with_state(|state| {
            state.machine.abandon(promise);
            state
                .promises
                .get_mut(promise.index())
                .and_then(Option::take)
        });
        drop(unused);
    }

    /// Queues a request, or waits for capacity. The ticket is the place in the queue of waiters.
    pub(crate) fn poll_send(
        &self,
        capacity: Capacity,
        ticket: &mut Option<Ticket>,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&mut Connection) -> Result<PromiseId, Error>,
    ) -> Poll<Result<PromiseId, Error>> {
        let mut state = self.lock();
        if state.sent > QUEUED_BYTES {
            state.sent = 0;
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
    /// wait, as nearly all.
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
        let mut spare = Spare::new(cx.waker());
        let unused = loop {
            if !matches!(sent, Err(Error::Full)) {
                break ticket
                    .take()
                    .and_then(|ticket| state.leave(capacity, ticket));
            }
            let place = *ticket.get_or_insert_with(|| state.machine.begin_wait());
            if let Err(timeout) = state.machine.check_wait(place, capacity.wait()) {
                sent = Err(timeout);
                *ticket = None;
                break state.waiting_for(capacity).remove(&place);
            }
            if let Some(unused) = spare.insert(state.waiting_for(capacity), place) {
                break unused;
            }
            self.release(state);
            spare.clone_waker();
            state = self.lock();
            sent = state.send(send);
        };
        self.release(state);
        drop(unused);
        if matches!(sent, Err(Error::Full)) {
            Poll::Pending
        } else {
            Poll::Ready(sent)
        }
    }

    /// Gives up a place in the queue for capacity. If it was first, the next one is woken.
    pub(crate) fn leave(&self, capacity: Capacity, ticket: Ticket) {
        let unused = self.with_state(|state| state.leave(capacity, ticket));
        drop(unused);
    }

    /// Takes up to `most` deliveries. Ready with none if the consumer has ended.
    pub(crate) fn poll_deliveries(
        &self,
        consumer: ConsumerId,
        most: usize,
        into: &mut VecDeque<Delivered>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Ended>> {
        let mut spare = Spare::new(cx.waker());
        loop {
            let mut state = self.lock();
            if state.taken >= TAKEN_DELIVERIES {
                state.taken = 0;
                if state.machine.wants_attention() {
                    self.release(state);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            state.machine.take_deliveries(consumer, most, into);
            state.taken += into.len();
            let polled = if !into.is_empty() {
                Some(Poll::Ready(None))
            } else {
                state
                    .machine
                    .consumer(consumer)
                    .and_then(|it| it.ended())
                    .map(|ended| Poll::Ready(Some(ended.clone())))
            };
            let is_kept = polled.is_some() || spare.keep(&mut state.consumers, consumer.index());
            self.release(state);
            if spare.is_done(is_kept) {
                return polled.unwrap_or(Poll::Pending);
            }
        }
    }

    /// Polls for the next notice for a listener.
    pub(crate) fn poll_notice(&self, listener: ListenerId, cx: &mut Context<'_>) -> Poll<Notice> {
        let mut spare = Spare::new(cx.waker());
        loop {
            let mut state = self.lock();
            if let Some(notice) = state.machine.take_notice(listener) {
                drop(state);
                return Poll::Ready(notice);
            }
            let unused = spare.insert(&mut state.listeners, listener);
            drop(state);
            if spare.is_done(unused.is_some()) {
                return Poll::Pending;
            }
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

    /// Cancels a consumer whose last handle was dropped. The deliveries in `taken` are returned to
    /// the queue.
    pub(crate) fn drop_consumer(&self, consumer: ConsumerId, taken: &VecDeque<Delivered>) {
        let unused = self.with_state(|state| {
            taken
                .iter()
                .for_each(|delivered| state.machine.return_later(delivered));
            state.machine.drop_consumer(consumer);
            state
                .consumers
                .get_mut(consumer.index())
                .and_then(Option::take)
        });
        drop(unused);
    }
}
