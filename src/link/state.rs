//! What the lock protects.

use crate::error::Error;
use crate::fairness::LEAST_QUEUED_BYTES;
use crate::link::disposal::{Causes, Dropped};
use crate::link::wakers::{UsersCode, Woken};
use crate::machine::{Connection, Event, ListenerId, PromiseId, Ticket};
use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::task::Waker;

/// The limit that a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capacity {
    Request,
    Publish,
    /// A publish within a transaction.
    Transact,
}

impl Capacity {
    /// Returns the description of the wait for the timeout error.
    pub(super) fn wait(self) -> &'static str {
        match self {
            Self::Request => "waiting for capacity to send a request",
            Self::Publish => "waiting for capacity to publish",
            Self::Transact => "waiting for capacity to publish in a transaction",
        }
    }
}

/// What the lock protects: the state machine, and the wakers of pending futures.
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
    /// The number of bytes queued since a sender yielded.
    pub(super) sent: usize,
    /// The number of deliveries taken since a consumer yielded.
    pub(super) taken: usize,
    pub(super) causes: Causes,
    /// The receiving side of the drop queue. It is declared after the machine, so it is dropped
    /// after it.
    pub(super) dropped: Receiver<Dropped>,
}

impl State {
    /// Returns `true` if there is nothing to wake, which is the usual case.
    pub(super) fn is_quiet(&self) -> bool {
        !self.machine.has_event()
            && self.requesting.is_empty()
            && self.publishing.is_empty()
            && self.transacting.is_empty()
            && (self.driver.is_none() || !self.machine.wants_attention())
    }

    /// Calls `send`, and counts the bytes that it queues towards [`QUEUED_BYTES`].
    #[inline]
    pub(super) fn send(
        &mut self,
        send: &mut (impl FnMut(&mut Connection) -> Result<PromiseId, Error> + ?Sized),
    ) -> Result<PromiseId, Error> {
        let before = self.machine.stats().outgoing_bytes;
        let sent = send(&mut self.machine);
        self.sent += self
            .machine
            .stats()
            .outgoing_bytes
            .saturating_sub(before)
            .max(LEAST_QUEUED_BYTES);
        sent
    }

    #[cold]
    pub(super) fn woken(&mut self) -> Woken {
        let mut woken = Woken::default();
        while let Some(event) = self.machine.poll_event() {
            woken.add(match event {
                Event::Completed(promise) => self
                    .promises
                    .get_mut(promise.index())
                    .and_then(Option::take),
                Event::Deliveries(consumer) => self
                    .consumers
                    .get_mut(consumer.index())
                    .and_then(Option::take),
                Event::Notices(listener) => self.listeners.remove(&listener),
            });
        }
        while let Some(ticket) = self.machine.poll_expired_wait() {
            for waiting in [
                &mut self.requesting,
                &mut self.publishing,
                &mut self.transacting,
            ] {
                woken.add(waiting.remove(&ticket));
            }
        }
        // One at a time: the woken future sends, and that call looks for capacity for the next.
        let closed = self.machine.why_closed().is_some();
        if !self.requesting.is_empty() && (closed || self.machine.has_capacity_to_request()) {
            woken.add(self.requesting.pop_first().map(|(_, waker)| waker));
        }
        if !self.publishing.is_empty() && (closed || self.machine.has_capacity_to_publish()) {
            woken.add(self.publishing.pop_first().map(|(_, waker)| waker));
        }
        if !self.transacting.is_empty() && (closed || self.machine.has_capacity_to_transact()) {
            woken.add(self.transacting.pop_first().map(|(_, waker)| waker));
        }
        if self.machine.wants_attention() {
            woken.driver = self.driver.take();
        }
        let login = self.machine.poll_login().map(UsersCode::Login);
        let users = login.or_else(|| self.machine.poll_filter().map(UsersCode::Filter));
        woken.users = users.map(Box::new);
        woken
    }

    /// Ends a wait for capacity. Returns the waker, which the caller drops after releasing the
    /// lock.
    pub(super) fn leave(&mut self, capacity: Capacity, ticket: Ticket) -> Option<Waker> {
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
