//! The session: the parts of the state machine that use channels.
//!
//! Its methods are those that need several parts: starting queued work here, [`deadlines`], the
//! [`loss`] of the connection, and [`replies`]. `dispatch.rs` routes other frames to the parts.

pub(crate) mod deadlines;
pub(crate) mod loss;
pub(crate) mod replies;

use crate::machine::channel::Channel;
use crate::machine::channel::content::Assembly;
use crate::machine::consume::Consuming;
use crate::machine::context::{Context, Stage};
use crate::machine::deadline::Deadline;
use crate::machine::publish::Publishing;
use crate::machine::recovery::Recovering;
use crate::machine::request::Requests;
use crate::machine::transaction::transactions::Transactions;
use crate::machine::{Counters, Recovered, Reply};

/// The current figures of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The connection epoch, the counter of transports from 1. Deliveries of another epoch cannot
    /// be settled.
    pub epoch: u32,
    /// The number of bytes that the transport has not accepted, including those of queued
    /// publishes.
    pub outgoing_bytes: usize,
    /// The number of open channels.
    pub open_channels: usize,
    /// The number of deliveries that the program has not taken.
    pub buffered_deliveries: usize,
}

/// The parts of the state machine that use channels, with the data that they share.
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
    /// Returns `true` if an event or a filter step can be polled.
    #[inline]
    pub(crate) fn has_event(&self) -> bool {
        self.cx.promises.completed() > 0
            || self.consuming.consumers.has_announcement()
            || self.cx.notices.has_announcement()
            || self.recovery.filtering.is_some()
    }

    /// Returns `true` if nothing is pending or stored: no promise, no consumer, no message.
    pub(crate) fn is_idle(&self) -> bool {
        let cx = &self.cx;
        let is_at_rest = |number| cx.channels.get(number).is_none_or(Channel::is_at_rest);
        cx.promises.is_empty()
            && self.consuming.consumers.is_empty()
            && self.requests.queue.is_empty()
            && self.consuming.queued.is_empty()
            && self.publishing.queued.is_empty()
            && self.transactions.is_empty()
            && self.publishing.publishers.in_flight() == 0
            && cx.channels_with_acks.is_empty()
            && cx.disposal.is_empty()
            && cx.channels.numbers().all(is_at_rest)
    }

    /// Returns the counters of the connection since it was created.
    pub(crate) fn counters(&self) -> Counters {
        let counters = self.cx.counters;
        Counters {
            lost_deliveries: counters.lost_deliveries + self.consuming.consumers.lost,
            ..counters
        }
    }

    /// Returns the current figures of the connection. Inlining it saves computing the figures that
    /// the caller does not use.
    #[inline]
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            epoch: self.cx.epoch,
            outgoing_bytes: self.publishing.outgoing_bytes(&self.cx),
            open_channels: self.cx.channels.open(),
            buffered_deliveries: self.consuming.consumers.buffered().deliveries,
        }
    }

    /// Returns the sizes in memory of the partly received contents.
    pub(crate) fn partly_received(&self) -> impl Iterator<Item = usize> + '_ {
        let channels = &self.cx.channels;
        let channels = channels.numbers().filter_map(|number| channels.get(number));
        let assemblies = channels.filter_map(|channel| channel.assembly.as_ref());
        assemblies.map(Assembly::size).filter(|size| *size > 0)
    }

    /// Disposes of the replies of abandoned promises.
    #[inline]
    pub(crate) fn dispose_unwanted(&mut self) {
        while let Some(reply) = self.cx.disposal.pop_front() {
            self.dispose(reply);
        }
    }

    /// Restarts the consumers for which there are channels. Returns the report of the recovery once
    /// it is complete.
    #[inline]
    pub(crate) fn restore_consumers(&mut self) -> Option<Recovered> {
        self.recovery
            .restore_consumers(&mut self.cx, &mut self.publishing, &mut self.consuming)
    }

    /// Starts the queued requests, consumers, transactions and publishes for which there are
    /// channels.
    #[inline]
    pub(crate) fn start_queued(&mut self) {
        let (cx, publishing) = (&mut self.cx, &mut self.publishing);
        cx.may_start = false;
        if cx.stage.may_write() {
            self.requests.start_requests(cx, publishing);
            self.consuming.start_consumes(cx, publishing);
            self.transactions.start_transactions(cx, publishing);
            publishing.write_queued(cx);
        }
    }

    /// Pauses or resumes reading, depending on the buffered deliveries.
    #[inline]
    pub(crate) fn update_reading(&mut self) {
        if self.consuming.update_reading(&mut self.cx) {
            self.resume_reading();
        }
    }

    /// Restarts the deadlines that do not run while reading is paused.
    fn resume_reading(&mut self) {
        let cx = &mut self.cx;
        cx.attention = true;
        if cx.stage == Stage::Restoring {
            self.recovery.restore_deadline = Deadline::In(cx.options.timeouts.request);
        }
        cx.transmit.heartbeat.record_resumed();
    }

    /// Disposes of the reply of an abandoned promise: settles its delivery, ends its consumer or
    /// transaction.
    pub(crate) fn dispose(&mut self, reply: Reply) {
        match reply {
            Reply::Delivery(Some(got)) => self.cx.return_got(&got.delivered),
            Reply::Consumer(consumer) => self.consuming.drop_consumer(&mut self.cx, consumer),
            Reply::Transaction(transaction) => self
                .transactions
                .drop_transaction(&mut self.cx, transaction),
            _ => {}
        }
    }

    /// Returns `true` if another request would be accepted.
    #[must_use]
    pub(crate) fn has_capacity_to_request(&self) -> bool {
        let limits = &self.cx.options.limits;
        let pending = self.requests.queue.len()
            + self.consuming.queued.len()
            + self.transactions.queued.len();
        pending + self.cx.promises.requests() < limits.requests
            && self.cx.queued_request_bytes + self.cx.transmit.len() < limits.outgoing_bytes
    }
}
