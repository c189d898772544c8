//! A session: one connection of a client, its driver, and what its application knows.
//!
//! `driver.rs` moves bytes between the connection and the virtual network, over the transports of
//! `transports.rs`. The other files of the simulation make requests on [`Session::machine`], and
//! record in the session what the application has: consumers, unsettled deliveries, open
//! transactions, declared entities. The checks compare that with the broker.

mod driver;
mod hash;
mod notices;
mod transports;

use crate::checker::Settlement;
use crate::declared::DeclaredEntities;
use crate::incomplete::IncompleteClose;
use crate::injector::RefusalKind;
use crate::observer::Observer;
use crate::paces::Attempts;
use crate::pending::{Consumer, OpenTransaction, Pending, SentSettlement, Unsettled};
use crate::plan::{Feature, Plan, PlantedFault};
use crate::publish_observer::id_of_copy;
use crate::restarts::Restarts;
use crate::start_observer::StartObserver;
use crate::transport::Transport;
use crate::violation::{Checked, Violation, ensure};
use hash::BytesHash;
use puka::machine::{Connection, ConnectionState, ConsumerId, Outgoing, PromiseId, Reply, Settle};
use puka::protocol::Decoder;
use puka::{Broken, Error};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection of a client, with its driver and its application.
#[derive(Debug)]
pub(crate) struct Session {
    /// The number of this session among those of all clients.
    pub(crate) number: usize,
    pub(crate) machine: Connection,
    planted_fault: PlantedFault,
    /// The client dials again after a loss.
    recovers: bool,

    // The driver.
    decoder: Decoder,
    output: Outgoing,
    /// The current transport. `None` before the first dial and after a loss.
    transport: Option<Transport>,
    /// The number of transports so far.
    transports_so_far: usize,
    /// Abandoned transports whose end the broker may not have detected yet.
    old_transports: Vec<Transport>,
    /// When the current dial ends.
    dial_ends_at: Option<Instant>,
    pub(crate) attempts: Attempts,
    /// The index of the endpoint that was dialled last.
    dialled_endpoint: usize,
    /// The refusals of the next logins, and their kind.
    pub(crate) next_refusals: (usize, RefusalKind),
    /// When the broker first closed the connection over a crashed channel.
    pub(crate) first_crash: Option<Instant>,
    /// The application has dropped the driver.
    driver_dropped: bool,
    /// The client has closed its transport for good.
    finished: bool,
    /// A write has failed, so the driver writes nothing more.
    write_error: bool,
    /// The number of written bytes that were not reported to the machine yet.
    transmitted: usize,
    /// The driver's timer.
    timer: Option<Instant>,
    /// The client's process is suspended until this instant.
    asleep_until: Instant,
    /// The sum of all suspensions.
    slept: Duration,
    /// The machine wants input.
    reading: bool,
    /// The bound of the machine's output in bytes.
    max_queued_bytes: usize,
    /// The bound of partly received contents in bytes.
    max_partial_bytes: Option<usize>,
    /// A hash of all bytes in both directions.
    bytes_hash: BytesHash,
    /// Decodes the bytes that the client receives.
    input_observer: Observer,
    /// The latest copy of each returned message, by the id of the message.
    returned: BTreeMap<u64, u64>,
    /// When the last handshake ended.
    opened_at: Option<Instant>,
    /// What the last transport had started, until there is another.
    last_starts: StartObserver,
    /// The consumers that are to be restarted.
    pub(crate) restarts: Restarts,
    /// The reason why the connection may break, or may have broken.
    break_reason: Option<&'static str>,
    /// The application has begun to close the connection.
    closing: bool,
    /// The promises that ended without the broker's reply since the close began.
    incomplete: IncompleteClose,

    // The application.
    pending: BTreeMap<PromiseId, Pending>,
    /// Pending promises in which the application has no interest.
    abandoned: BTreeSet<PromiseId>,
    pub(crate) consumers: BTreeMap<ConsumerId, Consumer>,
    /// Consumers whose channel may have been closed, so that it is unknown whether the broker
    /// received their acks.
    pub(crate) broken_consumers: BTreeSet<ConsumerId>,
    /// Deliveries without a settlement.
    pub(crate) unsettled: Vec<Unsettled>,
    /// Settlements after which the broker must not deliver the message again.
    pub(crate) sent_settlements: Vec<SentSettlement>,
    /// The ids of publishes without confirms on this transport.
    unconfirmed: Vec<u64>,
    pub(crate) transactions: Vec<OpenTransaction>,
    pub(crate) declared: DeclaredEntities,
    /// The first names of server-named queues. Recovery changes the names.
    pub(crate) server_named: Vec<String>,
}

/// What an application has sent on a transport whose effect only the broker knows.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// The ids of publishes without confirms.
    pub(crate) unconfirmed: Vec<u64>,
    pub(crate) settlements: Vec<Settlement>,
}

impl Session {
    pub(crate) fn new(number: usize, plan: &Plan, now: Instant) -> Self {
        let recovers = plan.has(Feature::Recover);
        let options = plan.options(number);
        let mut machine = if recovers {
            Connection::dialled(now, options)
        } else {
            Connection::new(now, options)
        };
        machine.listen();
        Self {
            number,
            machine,
            planted_fault: plan.planted_fault,
            recovers,
            decoder: Decoder::new(),
            output: Outgoing::default(),
            transport: None,
            transports_so_far: 0,
            old_transports: Vec::new(),
            dial_ends_at: None,
            attempts: Attempts::default(),
            dialled_endpoint: 0,
            driver_dropped: false,
            next_refusals: (0, RefusalKind::Login),
            first_crash: None,
            finished: false,
            write_error: false,
            transmitted: 0,
            timer: None,
            asleep_until: now,
            slept: Duration::ZERO,
            reading: false,
            // The outgoing limit applies to the queue, and again to the bytes that the driver has
            // taken. One message may exceed each of them. Other frames fit into 64 KiB.
            max_queued_bytes: 2 * (plan.outgoing_bytes() + plan.max_body_bytes()) + (64 << 10),
            max_partial_bytes: plan.max_partial_bytes(),
            bytes_hash: BytesHash::default(),
            input_observer: Observer::default(),
            returned: BTreeMap::new(),
            opened_at: None,
            last_starts: StartObserver::default(),
            restarts: Restarts::default(),
            break_reason: None,
            closing: false,
            incomplete: IncompleteClose::default(),
            pending: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            consumers: BTreeMap::new(),
            broken_consumers: BTreeSet::new(),
            unsettled: Vec::new(),
            sent_settlements: Vec::new(),
            unconfirmed: Vec::new(),
            transactions: Vec::new(),
            declared: DeclaredEntities::default(),
            server_named: Vec::new(),
        }
    }

    /// Returns `true` if the client dials again after a loss.
    pub(crate) fn recovers(&self) -> bool {
        self.recovers
    }

    /// Returns `true` if the client has closed its transport for good.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Returns `true` if the application has begun to close the connection.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Returns `true` if there is a reason why the connection may have broken.
    pub(crate) fn may_have_broken(&self) -> bool {
        self.break_reason.is_some()
    }

    /// Returns the sum of all suspensions.
    pub(crate) fn slept(&self) -> Duration {
        self.slept
    }

    /// Returns the promises that ended without the broker's reply since the close began.
    pub(crate) fn incomplete(&self) -> &IncompleteClose {
        &self.incomplete
    }

    /// Returns `true` if nothing prevents requests from succeeding.
    pub(crate) fn is_sound(&self) -> bool {
        let is_open = !self.recovers || matches!(self.machine.state(), ConnectionState::Open);
        let is_whole = self
            .transport
            .as_ref()
            .is_some_and(|transport| !transport.may_break && !transport.broker_gone);
        !self.finished
            && !self.closing
            && is_open
            && is_whole
            && self.machine.why_closed().is_none()
    }

    /// Records the reason why the connection may break.
    pub(crate) fn expect_break(&mut self, why: &'static str) {
        self.break_reason = Some(why);
        if let Some(transport) = &mut self.transport {
            transport.may_break = true;
        }
    }

    /// Checks that the client does not republish a message that was returned.
    pub(crate) fn check_not_returned(&self, copy: u64) -> Checked {
        let id = id_of_copy(copy);
        let was_returned = self.returned.get(&id).is_some_and(|latest| copy > *latest);
        ensure(!was_returned, || {
            format!("message {id} was returned and published again")
        })
    }

    /// Checks that a recovering client has not ended by itself: only a close and the end of the
    /// driver end it, because its options set no limit.
    pub(crate) fn check_end(&self) -> Checked {
        let may_end = !self.recovers || self.closing || self.driver_dropped;
        ensure(may_end || !self.machine.is_closed(), || {
            format!(
                "I14: session {} gave up: {:?}",
                self.number,
                self.machine.why_closed()
            )
        })
    }

    /// Records a pending promise.
    pub(crate) fn record_pending(&mut self, promise: PromiseId, pending: Pending) {
        self.pending.insert(promise, pending);
    }

    /// Returns the pending requests.
    pub(crate) fn pending(&self) -> impl Iterator<Item = (&PromiseId, &Pending)> {
        self.pending.iter()
    }

    /// Marks the requests made at this instant as ones that must succeed.
    pub(crate) fn require_success(&mut self, now: Instant) {
        for pending in self.pending.values_mut() {
            pending.must_succeed |= pending.since == now;
        }
    }

    /// Drops the application's interest in a promise. Returns its request, if it is recorded.
    pub(crate) fn abandon(&mut self, promise: PromiseId) -> Option<Pending> {
        self.machine.abandon(promise);
        self.abandoned.insert(promise);
        self.pending.remove(&promise)
    }

    /// Fetches the result of a promise that was reported as completed. Returns `None` if the
    /// application has abandoned the promise.
    pub(crate) fn fetch(
        &mut self,
        promise: PromiseId,
    ) -> Checked<Option<(Pending, Result<Reply, Error>)>> {
        if self.abandoned.remove(&promise) {
            ensure(self.machine.fetch(promise).is_none(), || {
                "an abandoned promise was stored".into()
            })?;
            return Ok(None);
        }
        if self.planted_fault == PlantedFault::LostOutcome
            && self.bytes_hash.value().is_multiple_of(7)
        {
            return Ok(None);
        }
        let Some(pending) = self.pending.remove(&promise) else {
            return Err(Violation(format!(
                "I2: {promise:?} was completed and is not pending"
            )));
        };
        let Some(mut outcome) = self.machine.fetch(promise) else {
            return Err(Violation(format!(
                "I2: {:?} is reported as completed and is pending",
                pending.request
            )));
        };
        ensure(self.machine.fetch(promise).is_none(), || {
            "I2: a result was fetched twice".into()
        })?;
        if self.planted_fault == PlantedFault::SilentClose
            && matches!(outcome, Err(Error::CloseIncomplete { .. }))
        {
            outcome = Ok(Reply::Done);
        }
        if self.closing {
            self.incomplete.count_outcome(&pending.request, &outcome);
        }
        Ok(Some((pending, outcome)))
    }

    /// Begins to close the connection.
    pub(crate) fn begin_close(&mut self, now: Instant) -> Checked<PromiseId> {
        let is_down = self.machine.is_down();
        if !self.closing {
            self.incomplete.begin(now, is_down);
        }
        let promise = self.machine.close();
        ensure(!is_down || self.machine.is_closed(), || {
            "a close without a transport waits".into()
        })?;
        self.closing = true;
        Ok(promise)
    }

    /// Returns `true` if the closing session may report this many promises as incomplete.
    pub(crate) fn may_leave(&self, incomplete: usize, now: Instant, timeout: Duration) -> bool {
        let abandoned = self.abandoned.len();
        self.incomplete
            .may_leave(incomplete, abandoned, now, timeout)
    }

    /// Records a publish without a confirm that the client has written.
    pub(crate) fn record_unconfirmed(&mut self, id: u64) {
        // The connection may have been lost after the write, at the same instant. Then the broker
        // need not receive the message.
        if self.transport.is_some() {
            self.unconfirmed.push(id);
        }
    }

    /// Takes what the broker has received for certain, because it has answered the close.
    pub(crate) fn take_sent(&mut self) -> Sent {
        let broken = std::mem::take(&mut self.broken_consumers);
        let settlements = std::mem::take(&mut self.sent_settlements)
            .into_iter()
            .filter(|sent| sent.consumer.is_none_or(|id| !broken.contains(&id)))
            .map(|sent| sent.settlement);
        Sent {
            unconfirmed: std::mem::take(&mut self.unconfirmed),
            settlements: settlements.collect(),
        }
    }

    /// Adds bytes that the broker sent to the hash.
    pub(crate) fn hash_broker_bytes(&mut self, bytes: &[u8]) {
        self.bytes_hash.add(bytes);
    }

    /// Returns the hash of all bytes in both directions.
    pub(crate) fn bytes_hash(&self) -> u64 {
        self.bytes_hash.value()
    }

    /// Drops everything of the application, and checks that the machine is empty then.
    pub(crate) fn drop_everything(mut self) -> Checked {
        let number = self.number;
        ensure(self.machine.is_closed(), || {
            format!("session {number} is finished and not closed")
        })?;
        if let Some((_, pending)) = self.pending.first_key_value() {
            return Err(Violation(format!(
                "session {number} has ended and {:?} was never completed",
                pending.request
            )));
        }
        for unsettled in &self.unsettled {
            let settle = Settle::Ack { multiple: false };
            let settled = self.machine.settle(&unsettled.delivered, settle);
            ensure(settled.is_err(), || {
                format!(
                    "message {} was acknowledged after the end",
                    id_of_copy(unsettled.copy)
                )
            })?;
        }
        for transaction in &self.transactions {
            self.machine.drop_transaction(transaction.id);
        }
        for (id, consumer) in &self.consumers {
            ensure(consumer.notified, || {
                format!(
                    "the consumer {id:?} of {} was not woken by its end",
                    consumer.queue
                )
            })?;
            let found = self.machine.consumer(*id);
            let has_ended = found.is_some_and(|found| found.ended().is_some());
            ensure(has_ended, || {
                format!("the consumer {id:?} of {} has not ended", consumer.queue)
            })?;
            self.machine.drop_consumer(*id);
        }
        ensure(self.machine.poll_event().is_none(), || {
            "an event after the end".into()
        })?;
        ensure(self.machine.is_idle(), || {
            format!(
                "session {number} has ended and its machine is not empty: {:?}",
                self.machine
            )
        })
    }
}

/// Returns the error of a transport that was reset.
pub(crate) fn connection_reset() -> Broken {
    Broken::Io(Arc::new(io::ErrorKind::ConnectionReset.into()))
}
