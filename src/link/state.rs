//! The state that the lock protects.

use crate::error::Error;
use crate::fairness::LEAST_QUEUED_BYTES;
use crate::link::deferred::{DeferredWork, UserCall};
use crate::link::drop_queue::{DropQueue, Dropped, ErrorCauses};
use crate::machine::{Connection, Event, ListenerId, PromiseId, Ticket};
use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::task::Waker;

/// The kind of capacity that a request needs. Each kind has its own limits and its own waiters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capacity {
    Request,
    Publish,
    /// A publish within a transaction.
    Transact,
}

impl Capacity {
    /// Returns the description of the wait for the timeout error.
    pub(super) fn wait_name(self) -> &'static str {
        match self {
            Self::Request => "waiting for capacity to send a request",
            Self::Publish => "waiting for capacity to publish",
            Self::Transact => "waiting for capacity to publish in a transaction",
        }
    }
}

/// The state that the lock protects: the state machine, and the wakers of pending futures.
#[derive(Debug)]
pub(super) struct State {
    pub(super) machine: Connection,
    pub(super) driver: Option<Waker>,
    /// The waker of each promise, indexed by the promise's number.
    pub(super) promises: Vec<Option<Waker>>,
    /// The waker of each consumer, indexed by the consumer's number.
    pub(super) consumers: Vec<Option<Waker>>,
    pub(super) listeners: BTreeMap<ListenerId, Waker>,
    /// The wakers of futures that wait for capacity, in the order in which they began to wait.
    pub(super) requesting: BTreeMap<Ticket, Waker>,
    pub(super) publishing: BTreeMap<Ticket, Waker>,
    pub(super) transacting: BTreeMap<Ticket, Waker>,
    /// The number of bytes that were queued since a sender last yielded.
    pub(super) bytes_since_yield: usize,
    /// The number of deliveries that were taken since a consumer last yielded.
    pub(super) deliveries_since_yield: usize,
    pub(super) causes: ErrorCauses,
    /// The receiving side of the drop queue. It is declared after the machine, because fields are
    /// dropped in this order, and the machine's drop fills the queue.
    pub(super) dropped: Receiver<Dropped>,
}

impl State {
    /// Returns `true` if there may be a task to wake, which is not the usual case.
    pub(super) fn may_wake(&self) -> bool {
        self.machine.has_event()
            || !self.requesting.is_empty()
            || !self.publishing.is_empty()
            || !self.transacting.is_empty()
            || self.driver.is_some() && self.machine.wants_attention()
    }

    /// Calls `send`, and counts the bytes that it queues towards [`QUEUED_BYTES`].
    #[inline]
    pub(super) fn send(
        &mut self,
        send: &mut (impl FnMut(&mut Connection) -> Result<PromiseId, Error> + ?Sized),
    ) -> Result<PromiseId, Error> {
        let before = self.machine.stats().outgoing_bytes;
        let sent = send(&mut self.machine);
        self.bytes_since_yield += self
            .machine
            .stats()
            .outgoing_bytes
            .saturating_sub(before)
            .max(LEAST_QUEUED_BYTES);
        sent
    }

    /// Takes the work that the last changes have caused, to do after the lock is released.
    #[cold]
    pub(super) fn take_deferred(&mut self, drop_queue: &DropQueue) -> DeferredWork {
        let mut work = DeferredWork::default();
        while let Some(event) = self.machine.poll_event() {
            work.add_waker(match event {
                Event::Completed(promise) => take_waker(&mut self.promises, promise.index()),
                Event::Deliveries(consumer) => take_waker(&mut self.consumers, consumer.index()),
                Event::Notices(listener) => self.listeners.remove(&listener),
            });
        }
        while let Some(ticket) = self.machine.poll_expired_wait() {
            for waiting in [
                &mut self.requesting,
                &mut self.publishing,
                &mut self.transacting,
            ] {
                work.add_waker(waiting.remove(&ticket));
            }
        }
        // One future of each kind is woken. Its send then wakes the next one, if there is still
        // capacity.
        let closed = self.machine.why_closed().is_some();
        if !self.requesting.is_empty() && (closed || self.machine.has_capacity_to_request()) {
            work.add_waker(self.requesting.pop_first().map(|(_, waker)| waker));
        }
        if !self.publishing.is_empty() && (closed || self.machine.has_capacity_to_publish()) {
            work.add_waker(self.publishing.pop_first().map(|(_, waker)| waker));
        }
        if !self.transacting.is_empty() && (closed || self.machine.has_capacity_to_transact()) {
            work.add_waker(self.transacting.pop_first().map(|(_, waker)| waker));
        }
        if self.machine.wants_attention() {
            work.driver = self.driver.take();
        }
        let login = self.machine.poll_login().map(UserCall::Login);
        let call = login.or_else(|| self.machine.poll_filter().map(UserCall::Filter));
        work.user_call = call.map(Box::new);
        if !drop_queue.is_empty() {
            drop_queue.take_all(&self.dropped, &mut work.dropped);
        }
        work
    }

    /// Ends a wait for capacity. Returns the waker, which the caller drops after releasing the
    /// lock.
    pub(super) fn end_wait(&mut self, capacity: Capacity, ticket: Ticket) -> Option<Waker> {
        self.machine.end_wait(ticket);
        self.waiting_for(capacity).remove(&ticket)
    }

    pub(super) fn waiting_for(&mut self, capacity: Capacity) -> &mut BTreeMap<Ticket, Waker> {
        match capacity {
            Capacity::Request => &mut self.requesting,
            Capacity::Publish => &mut self.publishing,
            Capacity::Transact => &mut self.transacting,
        }
    }
}

/// Takes the waker at an index, if there is one.
pub(super) fn take_waker(wakers: &mut [Option<Waker>], index: usize) -> Option<Waker> {
    wakers.get_mut(index).and_then(Option::take)
}
