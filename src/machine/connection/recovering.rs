//! Losing the connection and dialling again: what is kept for the next one, and what ends with this one.

use super::blaming::Blame;
use super::{Connection, LAST_OCTETS, State};
use crate::error::{Broken, Error};
use crate::machine::backoff::{Backoff, Failure};
use crate::machine::channel::{Awaited, Channel, Resize};
use crate::machine::consumers::Phase;
use crate::machine::content::Purpose;
use crate::machine::deadline::{Deadline, later};
use crate::machine::down::Down;
use crate::machine::handshake::Handshake;
use crate::machine::heartbeat::Heartbeat;
use crate::machine::outbox::Outbox;
use crate::machine::publishers::Publisher;
use crate::machine::requested::WaitingRequest;
use crate::machine::topology::Topology;
use crate::machine::transactions::{Phase as TransactionPhase, WaitingTransaction};
use crate::machine::waiting::WaitingConsume;
use crate::machine::{ConnectionState, ConsumerId, Counters, Dialling, Ended, Notice, PromiseId, Reply};
use crate::options::Options;
use crate::protocol::Method;
use crate::protocol::method::{basic, exchange, queue};
use std::time::Instant;

impl Connection {
    /// A connection that has no transport yet: [`poll_dial`](Self::poll_dial) says when to dial. When it is lost it is dialled
    /// again, as the options' [`Recovery`](crate::Recovery) says.
    #[must_use]
    pub fn dialled(now: Instant, options: Options) -> Self {
        let backoff = options.recovery.clone().map(Backoff::new);
        let records = options.recovery.as_ref().map_or(0, |recovery| recovery.records);
        let says_encrypted = options.login.encrypted_transport;
        // Whether the transport is, nobody knows yet.
        let mut connection = Self::new(now, options.encrypted_transport(true));
        connection.says_encrypted = says_encrypted;
        connection.backoff = backoff;
        connection.topology = Topology::new(records);
        if connection.why.is_none() {
            connection.out = Outbox::default();
            connection.state = State::Down(Down { retry: Deadline::At(now), over: true });
        }
        connection
    }

    /// Whether the time has come to dial. Asked again, it says no until
    /// [`handle_dialled`](Self::handle_dialled) or [`handle_dial_failure`](Self::handle_dial_failure) has told what came of
    /// it.
    pub fn poll_dial(&mut self, now: Instant) -> Option<Dialling> {
        self.stamp(now);
        let State::Down(down) = &mut self.state else { return None };
        if !down.retry.has_passed(now) {
            return None;
        }
        down.retry = Deadline::None;
        self.first_endpoint = self.endpoint;
        Some(Dialling {
            attempt: self.backoff.as_ref().map_or(0, |backoff| backoff.attempt),
            first: self.endpoint,
        })
    }

    /// There is a transport to that endpoint, which nobody else reads or somebody may, and the handshake begins.
    pub fn handle_dialled(&mut self, now: Instant, endpoint: usize, is_private: bool) {
        if !matches!(self.state, State::Down(_)) {
            return;
        }
        self.options.login.encrypted_transport = is_private || self.says_encrypted;
        self.now = now;
        self.endpoint = endpoint;
        self.out = Outbox::default();
        self.in_hand = 0;
        self.last_progress = now;
        self.deaf = false;
        self.heartbeat = Heartbeat::none(now);
        self.reading.start_over();
        self.close_deadline = Deadline::None;
        self.handshake_deadline = later(now, self.options.deadlines.handshake);
        self.state = State::Handshake(Handshake::begin(&mut self.out));
        self.attention = true;
    }

    /// No transport could be had.
    pub fn handle_dial_failure(&mut self, now: Instant, error: Error) {
        if !matches!(self.state, State::Down(_)) {
            return;
        }
        self.now = now;
        if !self.go_down(&error, false) {
            self.finish(error);
        }
        self.proceed();
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called at the latest, for a connection that has no transport and
    /// so nothing to transmit.
    pub fn tend(&mut self, now: Instant) -> Option<Instant> {
        self.attention = false;
        self.stamp(now);
        let timeout = self.poll_timeout();
        let State::Down(down) = &self.state else { return timeout };
        down.retry.instant().into_iter().chain(timeout).min()
    }

    /// Whether there is no transport, and another is to be dialled. The last one can be closed when what there is to write
    /// is written.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(self.state, State::Down(_))
    }

    /// How the connection is.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        match (&self.state, &self.why) {
            (_, Some(error)) => ConnectionState::Closed(error.clone()),
            (State::Closed, None) => ConnectionState::Closed(Error::Closed),
            (State::Open | State::Draining | State::Closing, None) => ConnectionState::Open,
            (State::Down(down), None) => self.recovering(down.retry.instant()),
            (State::Handshake(_) | State::Restoring, None) => self.recovering(None),
        }
    }

    /// What has happened to the connection since it was made.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let lost_deliveries = self.counters.lost_deliveries + self.consumers.lost;
        Counters { lost_deliveries, ..self.counters }
    }

    fn recovering(&self, next_at: Option<Instant>) -> ConnectionState {
        let attempt = self.backoff.as_ref().map_or(0, |backoff| backoff.attempt);
        match &self.cause {
            Some(cause) => ConnectionState::Recovering { attempt, cause: cause.clone(), next_at },
            None => ConnectionState::Connecting,
        }
    }

    /// When the last transport, if it is still there, has had its time. Not before it is closed another can be dialled.
    pub(super) fn down_deadline(&self) -> Option<Instant> {
        let State::Down(down) = &self.state else { return None };
        if down.over { None } else { self.close_deadline.instant() }
    }

    pub(super) fn stamp_down(&mut self, now: Instant) {
        if let State::Down(down) = &mut self.state {
            down.retry.stamp(now);
        }
    }

    /// The last transport had its time to take the last octets.
    pub(super) fn expire_down(&mut self, now: Instant) {
        if let State::Down(down) = &mut self.state {
            down.over |= self.close_deadline.has_passed(now);
        }
    }

    pub(super) fn is_down_and_over(&self) -> bool {
        matches!(&self.state, State::Down(down) if down.over)
    }

    /// Whether requests fail at once, as there is no connection and somebody wants it so: with why.
    pub(super) fn fails_fast(&self) -> Option<&Error> {
        let fails = self.backoff.as_ref().is_some_and(|backoff| backoff.policy.fails_fast);
        let is_away = matches!(self.state, State::Down(_) | State::Handshake(_) | State::Restoring);
        self.cause.as_ref().filter(|_| fails && is_away)
    }

    /// The connection is lost. True when it is to be dialled again: then everything that can wait does.
    pub(super) fn go_down(&mut self, error: &Error, in_handshake: bool) -> bool {
        match self.state {
            State::Open | State::Draining => self.counters.lost += 1,
            State::Down(_) | State::Handshake(_) | State::Restoring if !matches!(error, Error::Closed) => {
                self.counters.failed_attempts += 1;
            }
            _ => {}
        }
        let was_closing = self.is_closing() || matches!(self.state, State::Closing);
        let endpoints = self.options.endpoints().len();
        let Some(backoff) = self.backoff.as_mut().filter(|_| !was_closing && self.why.is_none()) else {
            return false;
        };
        let stood = matches!(self.state, State::Open);
        let was_usable = matches!(self.state, State::Open | State::Restoring);
        let handshake = in_handshake.then_some((self.first_endpoint, self.endpoint));
        let failure = Failure { error, handshake, endpoints };
        let Some(delay) = backoff.after(&failure, self.now) else { return false };
        let (attempt, has_stood) = (backoff.attempt, backoff.has_stood());
        self.epoch += u32::from(was_usable);
        if stood {
            self.notices.tell(&Notice::Disconnected(error.clone()));
        }
        self.notices.tell(&Notice::Retrying { attempt, cause: error.clone(), delay });
        if in_handshake || !stood {
            // What this broker does not do, another may.
            self.endpoint = (self.endpoint + 1) % endpoints.max(1);
        }
        self.state = State::Down(Down { retry: Deadline::In(delay), over: false });
        if has_stood {
            self.cause.get_or_insert_with(|| error.clone());
        }
        self.close_deadline = Deadline::In(LAST_OCTETS);
        self.attention = true;
        self.suspend(error);
        true
    }

    /// Ends what belongs to the transport that went, and keeps what another can go on with.
    fn suspend(&mut self, error: &Error) {
        self.blocked = None;
        self.acking.clear();
        self.suspend_restoration(error);
        let blame = self.blame(error);
        for promise in std::mem::take(&mut self.updating_secret) {
            self.answer(promise, Err(error.clone()));
        }
        let mut again = Vec::new();
        for (number, mut channel) in self.channels.start_over() {
            self.suspend_channel(&mut channel, error, &blame, &mut again);
            if let Some(publisher) = self.publishers.remove(number) {
                self.suspend_publisher(*publisher, error);
            }
        }
        self.held.retry_all();
        for request in again.into_iter().rev() {
            self.request_octets += request.payload.len();
            self.requests.push_front(request);
        }
        for id in self.consumers.ids().into_iter().rev() {
            self.suspend_consumer(id, error, &blame);
        }
        self.suspend_transactions(error, &blame);
        if let Some(error) = self.fails_fast().cloned() {
            self.fail_waiting(&error);
        }
    }

    /// Skips the step that ended this recovery in the next one, or makes the next one identify it.
    fn suspend_restoration(&mut self, error: &Error) {
        self.filtering = None;
        let Some(mut restoration) = self.restoration.take() else { return };
        let is_alone = self.quarantine.one_at_a_time;
        if let Some((step, failed)) = restoration.blamed(error, &self.topology, is_alone) {
            self.quarantine.add(step, failed);
        } else if error.is_a_verdict() {
            self.quarantine.one_at_a_time = true;
        }
    }

    fn suspend_channel(
        &mut self,
        channel: &mut Channel,
        error: &Error,
        blame: &Blame,
        again: &mut Vec<WaitingRequest>,
    ) {
        if let Some(assembly) = channel.assembly.take()
            && let Purpose::Got { request, .. } = assembly.purpose
        {
            self.ask_again(request, error, blame, again);
        }
        for awaited in channel.awaited.drain(..) {
            match awaited {
                Awaited::Request(request) | Awaited::Get { request, .. } => {
                    self.ask_again(request, error, blame, again);
                }
                Awaited::Qos { consumer, resize, .. }
                | Awaited::Consume { consumer, resized: Some(resize), .. } => {
                    self.suspend_resize(consumer, resize, error, blame);
                }
                // The connection that went took back everything itself.
                Awaited::Recover { promise, .. } => self.answer(promise, Ok(Reply::Done)),
                Awaited::Consume { .. }
                | Awaited::Cancel { .. }
                | Awaited::Transaction { .. }
                | Awaited::Restored(_)
                | Awaited::Nothing(_)
                | Awaited::Proof(_) => {}
            }
        }
    }

    /// Starts the consumer again with the prefetch count that was wanted last. A change that the broker
    /// closed the connection over is not repeated: the count before it holds.
    fn suspend_resize(&mut self, id: ConsumerId, resize: Resize, error: &Error, blame: &Blame) {
        let is_refused = blame.is_on(resize.promise);
        if let Some(consumer) = self.consumers.get_mut(id) {
            // Changes come in the order in which they were sent, so that a later one wins.
            consumer.wanted_prefetch = is_refused.then_some(resize.before);
            if !is_refused {
                consumer.resizing.push(resize.promise);
                return;
            }
        }
        let refusal = if is_refused { error.clone() } else { Error::Stale };
        self.answer(resize.promise, Err(refusal));
    }

    /// A request that was sent and not answered is asked again when that can't do anything twice.
    fn ask_again(
        &mut self,
        mut request: WaitingRequest,
        error: &Error,
        blame: &Blame,
        again: &mut Vec<WaitingRequest>,
    ) {
        if !blame.is_on(request.promise) {
            self.forget_what_may_be_gone(&request);
        }
        if request.in_transaction || blame.is_on(request.promise) {
            self.answer(request.promise, Err(error.clone()));
        } else if !self.promises.is_waiting(request.promise) {
        } else if request.is_repeatable() {
            request.is_suspected |= blame.suspects(request.promise);
            // The names that they have now are not those that they will have.
            again.push(self.with_original_names(request));
        } else {
            self.answer(
                request.promise,
                Err(Error::ConnectionBroken(Broken::OutcomeUnknown(error.clone().into()))),
            );
        }
    }

    /// Removes what a pending request was to delete or unbind from the record. The broker may have
    /// done so, and declaring it again would restore what the user wants to be gone.
    fn forget_what_may_be_gone(&mut self, request: &WaitingRequest) {
        if let Some(
            method @ (Method::Exchange(exchange::Method::Delete(_) | exchange::Method::Unbind(_))
            | Method::Queue(queue::Method::Delete(_) | queue::Method::Unbind(_))),
        ) = request.method()
        {
            // As if the broker had agreed. The reply says nothing more, so any method will do.
            self.topology.note(&method, &method);
        }
    }

    fn suspend_publisher(&mut self, publisher: Publisher, error: &Error) {
        let unconfirmed = || Err(Error::Unconfirmed(error.clone().into()));
        let mut kept = publisher.kept;
        let most = self.backoff.as_ref().and_then(|backoff| backoff.policy.republish).unwrap_or(0);
        let most = if error.blames(basic::Publish::ID) { 0 } else { most };
        let mut again = Vec::new();
        for (tag, promise) in publisher.confirms.drain() {
            match kept.take(tag).filter(|held| held.attempts < most) {
                Some(mut held) => {
                    held.attempts += 1;
                    again.push(held);
                }
                None => self.answer(promise, unconfirmed()),
            }
        }
        for promise in publisher.calls.into_values() {
            self.answer(promise, unconfirmed());
        }
        for held in again.into_iter().rev() {
            self.promises.retime(held.promise, self.options.deadlines.request);
            self.republished.insert(held.promise);
            self.held.push_front(held);
        }
    }

    /// A consumer that has started goes on with the next connection; one that has not starts with it.
    fn suspend_consumer(&mut self, id: ConsumerId, error: &Error, blame: &Blame) {
        // On an open connection, a request of the program may be the cause, too.
        let is_alone = self.resubscription.is_starting_one() && matches!(blame, Blame::Nobody);
        // A consumer is started by `consume`, and by `qos` in front of it.
        let is_named = error.blames(basic::Consume::ID) || error.blames(basic::Qos::ID);
        let is_known = is_named || self.quarantine.one_at_a_time;
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        match consumer.phase {
            // The broker ended it. What it had delivered can't be settled any more, either.
            Phase::Ended(_) => self.consumers.lose_unsettled(id),
            Phase::Starting(promise) if blame.is_on(promise) => {
                self.end_consumer(id, Ended::ConnectionBroken(error.clone()));
            }
            Phase::Restoring if consumer.channel != 0 && error.is_a_verdict() && is_alone && is_known => {
                self.end_consumer(id, Ended::ConnectionBroken(error.clone()));
            }
            Phase::Starting(promise) => {
                let prefetch_count = consumer.wanted_prefetch_count();
                let Some(consumer) = self.consumers.remove(id) else { return };
                let shares_prefetch_count = consumer.shared_prefetch_count.is_some();
                let waiting = WaitingConsume {
                    promise,
                    sources: consumer.sources,
                    no_ack: consumer.no_ack,
                    prefetch_count,
                    shares_prefetch_count,
                    is_suspected: blame.suspects(promise),
                };
                self.request_octets += waiting.octets();
                self.consumes.push_front(waiting);
            }
            // The connection that went has ended it.
            Phase::Cancelling => self.end_consumer(id, Ended::Cancelled),
            Phase::Live | Phase::Restoring => {
                consumer.wanted_prefetch = Some(consumer.wanted_prefetch_count());
                consumer.throttle = None;
                consumer.phase = Phase::Restoring;
                consumer.tags.clear();
                consumer.channel = 0;
                self.consumers.lose_unsettled(id);
            }
        }
    }

    fn suspend_transactions(&mut self, error: &Error, blame: &Blame) {
        for phase in self.transactions.suspend(error) {
            match phase {
                TransactionPhase::Starting(promise) if blame.is_on(promise) => {
                    self.answer(promise, Err(error.clone()));
                }
                TransactionPhase::Starting(promise) => {
                    let is_suspected = blame.suspects(promise);
                    self.transactions.waiting.push_back(WaitingTransaction { promise, is_suspected });
                }
                TransactionPhase::Committing(promise) => {
                    self.answer(promise, Err(Error::Unconfirmed(error.clone().into())));
                }
                TransactionPhase::RollingBack(promise) => self.answer(promise, Ok(Reply::Done)),
                TransactionPhase::Open | TransactionPhase::Failed(_) => {}
            }
        }
    }

    /// Answers every publish that waits to be sent. What became of one that was sent before, nobody knows.
    pub(super) fn fail_held(&mut self, error: &Error) {
        for held in self.held.drain() {
            self.answer(held.promise, Err(error.clone()));
        }
    }

    /// Answers everything that waits to be sent.
    fn fail_waiting(&mut self, error: &Error) {
        let requests = self.requests.drain(..).map(|request| request.promise);
        let consumes = self.consumes.drain(..).map(|consume| consume.promise);
        let begun = self.transactions.waiting.drain(..).map(|waiting| waiting.promise);
        let promises: Vec<PromiseId> = requests.chain(consumes).chain(begun).collect();
        self.request_octets = 0;
        for promise in promises {
            self.answer(promise, Err(error.clone()));
        }
        self.fail_held(error);
    }
}

impl WaitingRequest {
    /// Whether it may be carried out twice: the second time changes nothing, and the answer is the same.
    fn is_repeatable(&self) -> bool {
        match self.method() {
            Some(Method::Exchange(exchange::Method::Delete(_)) | Method::Queue(queue::Method::Delete(_))) => {
                false
            }
            Some(Method::Queue(queue::Method::Purge(_))) => false,
            // Another queue would be made, and the first be nobody's.
            Some(Method::Queue(queue::Method::Declare(it))) => !it.queue.is_empty() || it.exclusive,
            Some(Method::Basic(basic::Method::Get(it))) => !it.no_ack,
            Some(_) => true,
            None => false,
        }
    }
}
