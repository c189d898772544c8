//! Everything that happens on the channels of a connection.

use crate::error::Error;
use crate::machine::channel::content::Purpose;
use crate::machine::channel::{Awaited, Channel};
use crate::machine::consume::Consuming;
use crate::machine::context::Context;
use crate::machine::publish::Publishing;
use crate::machine::recovery::Recovering;
use crate::machine::recovery::blame::{Blame, pending_requests};
use crate::machine::request::Requests;
use crate::machine::request::pending::PendingRequest;
use crate::machine::transaction::transactions::Transactions;
use crate::machine::{PromiseId, Reply};
use crate::protocol::MethodId;
use std::collections::BTreeSet;

/// Everything that happens on the channels of a connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) cx: Context,
    pub(crate) requests: Requests,
    pub(crate) publishing: Publishing,
    pub(crate) consuming: Consuming,
    pub(crate) transactions: Transactions,
    pub(crate) recovery: Recovering,
}

impl Session {
    pub(crate) fn new(cx: Context) -> Self {
        Self {
            requests: Requests::default(),
            publishing: Publishing::default(),
            consuming: Consuming::new(&cx.options),
            transactions: Transactions::default(),
            recovery: Recovering::default(),
            cx,
        }
    }
}

impl Session {
    /// Starts the queued work that can start.
    pub(crate) fn start_queued(&mut self) {
        if !self.cx.stage.may_write() {
            return;
        }
        self.cx.may_start = false;
        self.requests
            .start_requests(&mut self.cx, &mut self.publishing);
        self.consuming
            .start_consumes(&mut self.cx, &mut self.publishing);
        self.transactions
            .start_transactions(&mut self.cx, &mut self.publishing);
        self.publishing.release_queued(&mut self.cx);
    }

    /// Disposes of the reply of an abandoned promise: settles its delivery, ends its consumer or
    /// transaction.
    pub(crate) fn dispose(&mut self, reply: Reply) {
        match reply {
            Reply::Delivery(Some(got)) => self.consuming.return_got(&mut self.cx, &got.delivered),
            Reply::Consumer(consumer) => self.consuming.let_go_of_consumer(&mut self.cx, consumer),
            Reply::Transaction(transaction) => self
                .transactions
                .drop_transaction(&mut self.cx, transaction),
            _ => {}
        }
    }

    /// Forgets what has waited for too long.
    pub(crate) fn drop_expired(&mut self) {
        let (promises, octets) = (&self.cx.promises, &mut self.cx.request_octets);
        self.requests.queue.retain(|request| {
            let is_waiting = promises.is_pending(request.promise);
            *octets -= if is_waiting { 0 } else { request.payload.len() };
            is_waiting
        });
        self.consuming.waiting.retain(|consume| {
            let is_waiting = promises.is_pending(consume.promise);
            *octets -= if is_waiting { 0 } else { consume.octets() };
            is_waiting
        });
        self.transactions
            .waiting
            .retain(|waiting| promises.is_pending(waiting.promise));
        self.publishing
            .queued
            .retain(|pending| promises.is_pending(pending.promise));
    }

    /// Ends what belongs to the transport that went, and keeps what another can go on with.
    pub(crate) fn suspend(&mut self, error: &Error) {
        self.publishing.blocked = None;
        self.cx.acking.clear();
        self.recovery.suspend_replay(&mut self.cx, error);
        let blame = self.blame(error);
        let is_narrowed = self.recovery.quarantine.one_at_a_time;
        let mut again = Vec::new();
        for (number, mut channel) in self.cx.channels.start_over() {
            self.suspend_channel(&mut channel, error, &blame, &mut again);
            if let Some(publisher) = self.publishing.publishers.remove(number) {
                self.publishing
                    .suspend_publisher(&mut self.cx, *publisher, error);
            }
        }
        self.publishing.queued.retry_all();
        for request in again.into_iter().rev() {
            self.cx.request_octets += request.payload.len();
            self.requests.queue.push_front(request);
        }
        for id in self.consuming.consumers.ids().into_iter().rev() {
            self.consuming
                .suspend_consumer(&mut self.cx, id, error, &blame, is_narrowed);
        }
        self.transactions
            .suspend_transactions(&mut self.cx, error, &blame);
    }

    pub(crate) fn suspend_channel(
        &mut self,
        channel: &mut Channel,
        error: &Error,
        blame: &Blame,
        again: &mut Vec<PendingRequest>,
    ) {
        if let Some(assembly) = channel.assembly.take()
            && let Purpose::Got { request, .. } = assembly.purpose
        {
            self.requests
                .repeat_or_fail(&mut self.cx, request, error, blame, again);
        }
        for pending in channel.pending_replies.drain(..) {
            match pending.to {
                Awaited::Request(request) | Awaited::Get { request, .. } => {
                    self.requests
                        .repeat_or_fail(&mut self.cx, request, error, blame, again);
                }
                Awaited::Qos {
                    consumer, resize, ..
                }
                | Awaited::Consume {
                    consumer,
                    resized: Some(resize),
                    ..
                } => {
                    self.consuming
                        .suspend_resize(&mut self.cx, consumer, resize, error, blame);
                }
                // The connection that went took back everything itself.
                Awaited::Recover { promise, .. } => self.cx.complete(promise, Ok(Reply::Done)),
                Awaited::Consume { .. }
                | Awaited::Cancel { .. }
                | Awaited::Transaction { .. }
                | Awaited::Restored
                | Awaited::Nothing
                | Awaited::Proof => {}
            }
        }
    }

    /// Answers everything that waits to be sent.
    pub(crate) fn fail_waiting(&mut self, error: &Error) {
        let requests = self.requests.queue.drain(..).map(|request| request.promise);
        let consumes = self
            .consuming
            .waiting
            .drain(..)
            .map(|consume| consume.promise);
        let begun = self
            .transactions
            .waiting
            .drain(..)
            .map(|waiting| waiting.promise);
        let promises: Vec<PromiseId> = requests.chain(consumes).chain(begun).collect();
        self.cx.request_octets = 0;
        for promise in promises {
            self.cx.complete(promise, Err(error.clone()));
        }
        self.publishing.fail_queued(&mut self.cx, error);
    }
    /// Whether another request would be accepted.
    #[must_use]
    pub(crate) fn has_room_to_request(&self) -> bool {
        let limits = &self.cx.options.limits;
        let pending = self.requests.queue.len()
            + self.consuming.waiting.len()
            + self.transactions.waiting.len();
        pending + self.cx.promises.requests() < limits.requests
            && self.cx.request_octets + self.cx.out.len() + self.cx.in_flight_bytes
                < limits.outgoing_octets
    }
}

impl Session {
    /// Finds the requests over which the broker closed the connection.
    pub(crate) fn blame(&mut self, error: &Error) -> Blame {
        let suspect = self.cx.suspect.take();
        let Some(fault) = error.fault().filter(|_| error.is_a_verdict()) else {
            return Blame::NoRequest;
        };
        let mut all = Vec::new();
        for channel in self
            .cx
            .channels
            .numbers()
            .filter_map(|number| self.cx.channels.get(number))
        {
            pending_requests(
                channel,
                &self.consuming.consumers,
                &self.transactions,
                &mut all,
            );
        }
        let names_none = fault.method == MethodId::NONE;
        all.retain(|(_, method)| names_none || *method == fault.method);
        let suspects: BTreeSet<PromiseId> =
            all.iter().filter_map(|(promise, _)| *promise).collect();
        if let Some(suspect) = suspect.filter(|suspect| suspects.contains(suspect)) {
            return Blame::One(suspect);
        }
        // If the close names no method, a publish may be the cause, too, or a consumer that is
        // started again. If it names one, so may a method that belongs to no request, such as the
        // `channel.open` of a publish channel.
        let is_only_kind = if names_none {
            self.publishing.publishers.in_flight() == 0
                && !self.consuming.resubscription.is_starting()
        } else {
            all.iter().all(|(promise, _)| promise.is_some())
        };
        match (suspects.len(), suspects.first()) {
            (1, Some(only)) if is_only_kind => Blame::One(*only),
            (0, _) => Blame::NoRequest,
            _ => Blame::Several(suspects),
        }
    }
}
