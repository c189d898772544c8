//! Everything that happens on the channels of a connection.

use super::blaming::Blame;
use super::consuming::Consuming;
use super::context::Context;
use super::publishing::Publishing;
use super::requesting::Requests;
use super::restoring::Recovering;
use crate::error::Error;
use crate::machine::channel::{Awaited, Channel};
use crate::machine::content::Purpose;
use crate::machine::requested::WaitingRequest;
use crate::machine::transactions::Transactions;
use crate::machine::{PromiseId, Reply};

/// Everything that happens on the channels of a connection.
#[derive(Debug)]
pub(in crate::machine) struct Session {
    pub(in crate::machine) cx: Context,
    pub(in crate::machine) requests: Requests,
    pub(in crate::machine) publishing: Publishing,
    pub(in crate::machine) consuming: Consuming,
    pub(in crate::machine) transactions: Transactions,
    pub(in crate::machine) recovery: Recovering,
}

impl Session {
    pub(in crate::machine) fn new(cx: Context) -> Self {
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
    /// Disposes of the reply of an abandoned promise: settles its delivery, ends its consumer or
    /// transaction.
    pub(in crate::machine) fn dispose(&mut self, reply: Reply) {
        match reply {
            Reply::Delivery(Some(got)) => self.consuming.return_got(&mut self.cx, &got.delivered),
            Reply::Consumer(consumer) => self.consuming.let_go_of_consumer(&mut self.cx, consumer),
            Reply::Transaction(transaction) => self.transactions.drop_transaction(&mut self.cx, transaction),
            _ => {}
        }
    }

    /// Forgets what has waited for too long.
    pub(in crate::machine) fn drop_expired(&mut self) {
        let (promises, octets) = (&self.cx.promises, &mut self.cx.request_octets);
        self.requests.queue.retain(|request| {
            let is_waiting = promises.is_waiting(request.promise);
            *octets -= if is_waiting { 0 } else { request.payload.len() };
            is_waiting
        });
        self.consuming.waiting.retain(|consume| {
            let is_waiting = promises.is_waiting(consume.promise);
            *octets -= if is_waiting { 0 } else { consume.octets() };
            is_waiting
        });
        self.transactions.waiting.retain(|waiting| promises.is_waiting(waiting.promise));
        self.publishing.held.retain(|held| promises.is_waiting(held.promise));
    }

    /// Ends what belongs to the transport that went, and keeps what another can go on with.
    pub(in crate::machine) fn suspend(&mut self, error: &Error) {
        self.publishing.blocked = None;
        self.cx.acking.clear();
        self.recovery.suspend_restoration(&mut self.cx, error);
        let blame = self.blame(error);
        let is_narrowed = self.recovery.quarantine.one_at_a_time;
        let mut again = Vec::new();
        for (number, mut channel) in self.cx.channels.start_over() {
            self.suspend_channel(&mut channel, error, &blame, &mut again);
            if let Some(publisher) = self.publishing.publishers.remove(number) {
                self.publishing.suspend_publisher(&mut self.cx, *publisher, error);
            }
        }
        self.publishing.held.retry_all();
        for request in again.into_iter().rev() {
            self.cx.request_octets += request.payload.len();
            self.requests.queue.push_front(request);
        }
        for id in self.consuming.consumers.ids().into_iter().rev() {
            self.consuming.suspend_consumer(&mut self.cx, id, error, &blame, is_narrowed);
        }
        self.transactions.suspend_transactions(&mut self.cx, error, &blame);
    }

    pub(in crate::machine) fn suspend_channel(
        &mut self,
        channel: &mut Channel,
        error: &Error,
        blame: &Blame,
        again: &mut Vec<WaitingRequest>,
    ) {
        if let Some(assembly) = channel.assembly.take()
            && let Purpose::Got { request, .. } = assembly.purpose
        {
            self.requests.ask_again(&mut self.cx, request, error, blame, again);
        }
        for awaited in channel.awaited.drain(..) {
            match awaited {
                Awaited::Request(request) | Awaited::Get { request, .. } => {
                    self.requests.ask_again(&mut self.cx, request, error, blame, again);
                }
                Awaited::Qos { consumer, resize, .. }
                | Awaited::Consume { consumer, resized: Some(resize), .. } => {
                    self.consuming.suspend_resize(&mut self.cx, consumer, resize, error, blame);
                }
                // The connection that went took back everything itself.
                Awaited::Recover { promise, .. } => self.cx.answer(promise, Ok(Reply::Done)),
                Awaited::Consume { .. }
                | Awaited::Cancel { .. }
                | Awaited::Transaction { .. }
                | Awaited::Restored(_)
                | Awaited::Nothing(_)
                | Awaited::Proof(_) => {}
            }
        }
    }

    /// Answers everything that waits to be sent.
    pub(in crate::machine) fn fail_waiting(&mut self, error: &Error) {
        let requests = self.requests.queue.drain(..).map(|request| request.promise);
        let consumes = self.consuming.waiting.drain(..).map(|consume| consume.promise);
        let begun = self.transactions.waiting.drain(..).map(|waiting| waiting.promise);
        let promises: Vec<PromiseId> = requests.chain(consumes).chain(begun).collect();
        self.cx.request_octets = 0;
        for promise in promises {
            self.cx.answer(promise, Err(error.clone()));
        }
        self.publishing.fail_held(&mut self.cx, error);
    }
    /// Whether another request would be accepted.
    #[must_use]
    pub(in crate::machine) fn has_room_to_request(&self) -> bool {
        let limits = &self.cx.options.limits;
        let pending =
            self.requests.queue.len() + self.consuming.waiting.len() + self.transactions.waiting.len();
        pending + self.cx.promises.requests() < limits.requests
            && self.cx.request_octets + self.cx.out.len() + self.cx.in_hand < limits.outgoing_octets
    }
}
