//! The session: the parts of the state machine that use channels, and the calls to all of them.

use crate::error::Error;
use crate::machine::channel::content::{Assembly, Purpose};
use crate::machine::channel::{Awaited, Channel};
use crate::machine::consume::Consuming;
use crate::machine::context::{Context, Stage};
use crate::machine::deadline::{Deadline, earlier};
use crate::machine::publish::Publishing;
use crate::machine::recovery::Recovering;
use crate::machine::recovery::blame::Blame;
use crate::machine::recovery::replay::Replay;
use crate::machine::request::Requests;
use crate::machine::request::pending::PendingRequest;
use crate::machine::transaction::transactions::Transactions;
use crate::machine::{Counters, Ended, PromiseId, Recovered, Reply};
use std::time::{Duration, Instant};

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
    /// Returns `true` if there is an event.
    #[inline]
    pub(crate) fn has_event(&self) -> bool {
        self.cx.promises.completed() > 0
            || self.consuming.consumers.has_announcement()
            || self.cx.notices.has_announcement()
            || self.recovery.filtering.is_some()
    }

    /// Returns `true` if nothing is pending or stored.
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
            && cx.acking.is_empty()
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

    /// Returns the current figures of the connection. It is inlined, so that figures that the
    /// caller does not use are not computed.
    #[inline]
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            epoch: self.cx.epoch,
            outgoing_bytes: self.publishing.outgoing_bytes(&self.cx),
            open_channels: self.cx.channels.open(),
            buffered_deliveries: self.consuming.consumers.buffered().0,
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

    /// Starts the queued work for which there are channels.
    #[inline]
    pub(crate) fn start_queued(&mut self) {
        let Self {
            cx,
            requests,
            publishing,
            consuming,
            transactions,
            ..
        } = self;
        cx.may_start = false;
        if cx.stage.may_write() {
            requests.start_requests(cx, publishing);
            consuming.start_consumes(cx, publishing);
            transactions.start_transactions(cx, publishing);
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

    /// Ends a pause of reading that has become too long.
    pub(crate) fn expire_pause(&mut self, now: Instant) {
        if self.consuming.expire_pause(&mut self.cx, now) {
            self.resume_reading();
        }
    }

    /// Restarts the deadlines that do not run while reading is paused.
    fn resume_reading(&mut self) {
        let cx = &mut self.cx;
        cx.attention = true;
        if cx.stage == Stage::Restoring {
            self.recovery.restore_deadline = Deadline::In(cx.options.deadlines.request);
        }
        cx.transmit.heartbeat.resume();
    }

    /// Returns `true` if the recovery has made no progress within its timeout although input is
    /// read.
    pub(crate) fn restores_for_too_long(&self, now: Instant) -> bool {
        self.consuming.reading.is_on() && self.recovery.restore_deadline.has_passed(now)
    }

    /// Continues the recovery after a delay.
    pub(crate) fn continue_restoring(&mut self, now: Instant) {
        if let Some(replay) = &mut self.recovery.replay
            && replay.handle_timeout(now)
        {
            self.recovery.continue_replay(&mut self.cx);
        }
    }

    /// Returns for how long the transport has accepted no bytes, if that is too long. A broker that
    /// has blocked the connection does not read, so the time is not counted then.
    pub(crate) fn stalled_for(&self, now: Instant) -> Option<Duration> {
        let stalled = self.cx.transmit.stalled_for(now);
        stalled.filter(|_| self.publishing.blocked.is_none())
    }

    /// Returns the earliest deadline while there is a transport.
    #[inline]
    pub(crate) fn deadline(&mut self, wants_input: bool) -> Option<Instant> {
        let Self {
            cx,
            publishing,
            consuming,
            recovery,
            ..
        } = self;
        // Iterating over an array of the deadlines took 110 instructions more, and each request
        // computes this twice.
        let mut earliest = match cx.stage {
            Stage::Restoring if consuming.reading.is_on() => recovery.restore_deadline.instant(),
            Stage::Open => consuming.resubscription.deadline(),
            _ => None,
        };
        earliest = earlier(earliest, cx.transmit.heartbeat.deadline(wants_input));
        if publishing.blocked.is_none() {
            earliest = earlier(earliest, cx.transmit.stall_deadline());
        }
        earliest = earlier(earliest, publishing.publishers.deadline());
        earliest = earlier(earliest, consuming.pause_deadline(cx));
        let replay = recovery.replay.as_ref();
        earlier(earliest, replay.and_then(Replay::deadline))
    }

    /// Starts the deadlines that were set by calls without a clock.
    #[inline]
    pub(crate) fn stamp(&mut self, now: Instant) {
        let cx = &mut self.cx;
        cx.now = now;
        cx.promises.stamp(now);
        let timeout = cx.options.deadlines.request;
        self.publishing.publishers.stamp(now, timeout);
        cx.transmit.heartbeat.stamp(now);
        self.recovery.restore_deadline.stamp(now);
        self.consuming.reading.stamp(now);
        if let Some(replay) = &mut self.recovery.replay {
            replay.stamp(now);
        }
        self.consuming.resubscription.stamp(now);
    }

    /// Completes the promises whose deadline has passed. Returns their number.
    pub(crate) fn expire(&mut self, now: Instant) -> usize {
        let mut count = 0;
        while let Some((promise, after)) = self.cx.promises.expired(now) {
            let timeout = self.consuming.timed_out("the request", after);
            let error = self.transactions.of_unknown_outcome(promise, timeout);
            self.cx.complete(promise, Err(error));
            count += 1;
        }
        if count > 0 {
            self.drop_expired();
            let Self {
                cx,
                requests,
                publishing,
                consuming,
                transactions,
                ..
            } = self;
            publishing.publishers.forget_completed_calls(&cx.promises);
            requests.close_overdue(cx);
            transactions.fail_overdue_transactions(cx, consuming);
        }
        let after = self.cx.options.deadlines.request;
        let mut late = Vec::new();
        let publishers = &mut self.publishing.publishers;
        publishers.expire(now, |promise| late.push(promise));
        count += late.len();
        for promise in late {
            let timeout = self.consuming.timed_out("the confirm", after);
            let error = Error::Unconfirmed(timeout.into());
            self.cx.complete(promise, Err(error));
        }
        count
    }
}

impl Session {
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

    /// Removes queued work whose promise has timed out.
    pub(crate) fn drop_expired(&mut self) {
        let (promises, bytes) = (&self.cx.promises, &mut self.cx.queued_request_bytes);
        self.requests.queue.retain(|request| {
            let is_waiting = promises.is_pending(request.promise);
            *bytes -= if is_waiting { 0 } else { request.payload.len() };
            is_waiting
        });
        self.consuming.queued.retain(|consume| {
            let is_waiting = promises.is_pending(consume.promise);
            *bytes -= if is_waiting { 0 } else { consume.size() };
            is_waiting
        });
        self.transactions
            .queued
            .retain(|queued| promises.is_pending(queued.promise));
        self.publishing
            .queued
            .retain(|pending| promises.is_pending(pending.promise));
    }

    /// Ends the work that belongs to the lost transport, and queues the work that the next one can
    /// continue.
    pub(crate) fn suspend(&mut self, error: &Error) {
        self.publishing.blocked = None;
        self.cx.acking.clear();
        self.recovery.suspend_replay(&mut self.cx, error);
        let blame = Blame::of(
            error,
            &mut self.cx,
            &mut self.publishing,
            &self.consuming,
            &self.transactions,
        );
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
            self.cx.queued_request_bytes += request.payload.len();
            self.requests.queue.push_front(request);
        }
        for id in self.consuming.consumers.ids().into_iter().rev() {
            self.consuming
                .suspend_consumer(&mut self.cx, id, error, &blame, is_narrowed);
        }
        self.transactions
            .suspend_transactions(&mut self.cx, error, &blame);
    }

    /// Ends or queues the pending requests of a channel of the lost transport.
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
            match pending.purpose {
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
                // The broker has requeued all deliveries of the lost connection.
                Awaited::Recover { promise, .. } => self.cx.complete(promise, Ok(Reply::Done)),
                Awaited::Consume { .. }
                | Awaited::Cancel { .. }
                | Awaited::Transaction { .. }
                | Awaited::ReplayStep
                | Awaited::Nothing
                | Awaited::Probe => {}
            }
        }
    }

    /// Completes every promise with the error, except those in `kept`, and ends all consumers,
    /// transactions and channels.
    pub(crate) fn give_up(&mut self, error: &Error, kept: &[PromiseId]) {
        let unconfirmed = || Err(Error::Unconfirmed(error.clone().into()));
        let Self {
            cx,
            requests,
            publishing,
            consuming,
            transactions,
            recovery,
        } = self;
        recovery.filtering = None;
        requests.queue.clear();
        consuming.queued.clear();
        cx.queued_request_bytes = 0;
        cx.acking.clear();
        publishing.fail_queued(cx, error);
        consuming.end_consumers(cx, &Ended::ConnectionBroken(error.clone()));
        let numbers: Vec<u16> = cx.channels.numbers().collect();
        for number in numbers {
            cx.channels.remove(number);
            // Most channels have no publisher.
            let Some(publisher) = publishing.publishers.remove(number) else {
                continue;
            };
            let confirms = publisher.confirms.drain().map(|(_, promise)| promise);
            for promise in confirms.chain(publisher.calls.into_values()) {
                cx.complete(promise, unconfirmed());
            }
        }
        for promise in transactions.drain() {
            cx.complete(promise, unconfirmed());
        }
        for promise in cx.promises.all_pending() {
            if !kept.contains(&promise) {
                cx.complete(promise, Err(error.clone()));
            }
        }
    }

    /// Completes all queued work with an error.
    pub(crate) fn fail_waiting(&mut self, error: &Error) {
        let requests = self.requests.queue.drain(..).map(|request| request.promise);
        let consumes = self
            .consuming
            .queued
            .drain(..)
            .map(|consume| consume.promise);
        let begun = self
            .transactions
            .queued
            .drain(..)
            .map(|queued| queued.promise);
        let promises: Vec<PromiseId> = requests.chain(consumes).chain(begun).collect();
        self.cx.queued_request_bytes = 0;
        for promise in promises {
            self.cx.complete(promise, Err(error.clone()));
        }
        self.publishing.fail_queued(&mut self.cx, error);
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
