//! Bringing back what the connection had before it was lost: what it declared, then its consumers.

use super::{Connection, State};
use crate::error::Error;
use crate::machine::channel::{Awaited, Role};
use crate::machine::consumers::{Consumer, Phase};
use crate::machine::deadline::Deadline;
use crate::machine::filtering::{FilterOutcome, FilterStep};
use crate::machine::requested::WaitingRequest;
use crate::machine::restoration::{Next, Restoration};
use crate::machine::resubscription::{Resubscription, is_not_now};
use crate::machine::topology::Step;
use crate::machine::{ConsumerId, Ended, Notice, Recovered, Reply};
use crate::protocol::method::{Encode, MethodInfo, queue};
use crate::protocol::{Method, ShortStr};
use std::borrow::Cow;
use std::time::Duration;

/// For how long exclusive queues and refused consumers are tried when there are no heartbeats by
/// which the broker would notice a loss.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the report says of a consumer that is not back.
fn failed_consumer(tag: &str, error: &Error) -> (Box<str>, Error) {
    (format!("consumer {tag:?}").into(), error.clone())
}

impl Connection {
    /// The handshake is done. The connection is open as soon as everything is back.
    pub(super) fn restore(&mut self) {
        let Some(backoff) = &self.backoff else {
            self.become_open(Recovered { epoch: self.epoch, ..Recovered::default() });
            return;
        };
        let attempts = backoff.attempt;
        let patience = self.heartbeat.timeout().map_or(PATIENCE, |timeout| 2 * timeout);
        let report = Recovered { epoch: self.epoch, attempts, ..Recovered::default() };
        self.restoration = Some(Restoration::new(patience, report));
        self.resubscription = Resubscription::new(self.consumers.ids(), patience);
        self.restore_deadline = Deadline::In(self.options.deadlines.request);
        self.state = State::Restoring;
        self.go_on_restoring();
    }

    /// Declares what can be declared, and when everything is, starts the consumers.
    pub(super) fn go_on_restoring(&mut self) {
        if !matches!(self.state, State::Restoring) {
            return;
        }
        loop {
            let (Some(restoration), Some(backoff)) = (&mut self.restoration, &self.backoff) else { return };
            match restoration.next(&self.topology, &backoff.policy, &self.quarantine) {
                Next::Declare(step) => self.declare(step),
                Next::Filter(steps) => {
                    let filter = backoff.policy.filter.clone();
                    self.filtering = filter.map(|filter| FilterStep { filter, steps, epoch: self.epoch });
                    return;
                }
                Next::Wait => return,
                Next::Done => break,
            }
            if !matches!(self.state, State::Restoring) {
                return;
            }
        }
        if let Some(number) = self.restoration.as_mut().and_then(|restoration| restoration.channel.take()) {
            self.channels.put_idle(number);
        }
        self.restore_consumers();
    }

    /// Returns the entities to pass to the user's filter, to be run with no lock held. Pass the
    /// outcome to [`handle_filter`](Self::handle_filter). Returns `None` unless
    /// [`Recovery::filter`](crate::Recovery::filter) is set. Call it after any call that takes a
    /// `now`.
    pub fn poll_filter(&mut self) -> Option<FilterStep> {
        self.filtering.take()
    }

    /// Handles the outcome of a [`FilterStep`].
    pub fn handle_filter(&mut self, outcome: FilterOutcome) {
        let FilterOutcome { wanted, panicked, epoch } = outcome;
        // The connection may be lost meanwhile. The filter then runs again for the next one.
        let Some(restoration) = self.restoration.as_mut().filter(|_| epoch == self.epoch) else { return };
        restoration.filtered(wanted);
        if let Some(entity) = panicked {
            let error = Error::invalid("filter", format!("panicked for {entity}, which is declared again"));
            self.quarantine.failed.push(("filter".into(), error));
        }
        self.restore_deadline = Deadline::In(self.options.deadlines.request);
        self.attention = true;
        self.go_on_restoring();
        self.proceed();
    }

    fn declare(&mut self, step: Step) {
        let outcome = self.send_step(&step);
        let Some(restoration) = &mut self.restoration else { return };
        match outcome {
            Ok(()) => restoration.sent(step),
            Err(error) => restoration.skip(&step, error),
        }
        self.attention = true;
    }

    fn send_step(&mut self, step: &Step) -> Result<(), Error> {
        let number = match self.restoration.as_ref().and_then(|restoration| restoration.channel) {
            Some(number) => number,
            None => self.open_restore_channel(step)?,
        };
        let info = self.write_step(number, step)?;
        self.await_reply(number, Awaited::Restored(info));
        Ok(())
    }

    /// Opens the channel for declaring, unless the step was forgotten in the meantime.
    fn open_restore_channel(&mut self, step: &Step) -> Result<u16, Error> {
        if self.topology.request(step).is_none() {
            return Err(Error::Stale);
        }
        let number = self.open_channel(Role::Restore).ok_or(Error::ChannelLimit)?;
        if let Some(restoration) = &mut self.restoration {
            restoration.channel = Some(number);
        }
        Ok(number)
    }

    /// Writes a step's request, without a copy of it: there may be 100 000 of them.
    fn write_step(&mut self, number: u16, step: &Step) -> Result<&'static MethodInfo, Error> {
        let Self { topology, out, frame_max, .. } = self;
        // It may be forgotten in the meantime.
        let request = topology.request(step).ok_or(Error::Stale)?;
        let info = super::requesting::info(request.id())?;
        let mut write = |request: &Method<'_>| out.method(number, *frame_max, request);
        // The name of a dead-letter queue may have changed. Bindings are recorded under the current
        // names, and searching all names for each took 7 % of a recovery with 100 000 bindings.
        let written = match step {
            Step::Queue(_) => topology.renamed(request, &mut write),
            Step::Exchange(_) | Step::Binding(_) => None,
        };
        written.unwrap_or_else(|| write(&request))?;
        Ok(info)
    }

    /// Something is declared again.
    pub(super) fn step_done(&mut self, reply: &Method<'_>) {
        self.restore_deadline = Deadline::In(self.options.deadlines.request);
        let mut step = self.restoration.as_mut().and_then(Restoration::done);
        if let (Some(Step::Queue(name)), Method::Queue(queue::Method::DeclareOk(ok))) = (&mut step, reply)
            && **name != *ok.queue.as_octets()
        {
            self.rename_queue(name, ok.queue);
            *name = ok.queue.as_octets().into();
        }
        if let (Some(step), Some(restoration)) = (step, &mut self.restoration) {
            restoration.made(step);
        }
        self.go_on_restoring();
    }

    fn rename_queue(&mut self, old: &[u8], new: ShortStr<'_>) {
        self.topology.rename(old, new.as_octets());
        let from: Box<str> = String::from_utf8_lossy(old).into();
        if let Some(restoration) = &mut self.restoration {
            restoration.report.renamed.push((from, new.to_str_lossy().into()));
        }
    }

    /// The broker closed the channel on which everything is declared again.
    pub(super) fn step_failed(&mut self, error: &Error) {
        let is_strict = self.backoff.as_ref().is_some_and(|backoff| backoff.policy.strict);
        if is_strict && !matches!(error, Error::ResourceLocked(_)) {
            self.lose(Error::ConnectionBroken(crate::error::Broken::NotRestored(error.clone().into())));
            return;
        }
        self.restore_deadline = Deadline::In(self.options.deadlines.request);
        if let Some(restoration) = &mut self.restoration {
            restoration.failed(error);
        }
        self.go_on_restoring();
    }

    /// Starts the consumers for which there are channels. The connection is open when all have
    /// started or failed, or were refused for now.
    pub(super) fn restore_consumers(&mut self) {
        let is_open = matches!(self.state, State::Open);
        let is_waiting = self.restoration.as_ref().is_some_and(|restoration| !restoration.is_done());
        if !is_open && !matches!(self.state, State::Restoring) || is_waiting {
            return;
        }
        while let Some(id) = self.resubscription.next() {
            if self.quarantine.one_at_a_time && self.resubscription.is_starting() {
                return;
            }
            let is_waiting =
                |consumer: &Consumer| matches!(consumer.phase, Phase::Restoring) && consumer.channel == 0;
            if !self.consumers.get(id).is_some_and(is_waiting) {
                self.resubscription.skip();
            } else if self.restore_consumer(id) {
                self.resubscription.started();
            } else if self.channels.is_closing_one() || !is_open && self.resubscription.is_starting() {
                return;
            } else {
                // This broker allows fewer channels than the one before. Once it is open, other
                // consumers and transactions may have the channels, and end.
                self.resubscription.skip();
                let error = Error::ChannelLimit;
                if !(is_open && self.resubscription.refuse(id, error.clone(), self.now)) {
                    self.end_consumer(id, Ended::ChannelClosed(error));
                }
            }
        }
        if !self.resubscription.is_starting()
            && let Some(restoration) = self.restoration.take()
        {
            self.become_open(restoration.into_report());
        }
    }

    /// Ends a consumer whose channel the broker closed, unless it is started again after a loss.
    pub(super) fn consumer_closed(&mut self, id: ConsumerId, error: &Error) {
        if !self.is_refused_for_now(id, error) && !self.misses_queues_of(id, error) {
            self.end_consumer(id, Ended::ChannelClosed(error.clone()));
        }
    }

    /// Returns `true` if a consumer that could not be started now is started later, or has ended
    /// because it is not wanted any more.
    fn is_refused_for_now(&mut self, id: ConsumerId, error: &Error) -> bool {
        let consumer = self.consumers.get(id).filter(|consumer| matches!(consumer.phase, Phase::Restoring));
        let Some(consumer) = consumer else { return false };
        let is_wanted = !consumer.dropped && consumer.cancelling.is_empty();
        let is_exclusive = consumer.sources.iter().any(|terms| terms.exclusive);
        if !is_not_now(error, is_exclusive) || !self.resubscription.refuse(id, error.clone(), self.now) {
            return false;
        }
        self.leave_channel(id);
        if !is_wanted {
            self.end_consumer(id, Ended::Cancelled);
        }
        true
    }

    /// Records that a consumer on its way back has no channel any more.
    fn leave_channel(&mut self, id: ConsumerId) {
        if let Some(consumer) = self.consumers.get_mut(id) {
            consumer.tags.clear();
            consumer.channel = 0;
        }
        self.consumers.lose_unsettled(id);
    }

    /// Returns `true` if a consumer that could not be started is started once more: because its
    /// queue was there before, or without its missing queue.
    fn misses_queues_of(&mut self, id: ConsumerId, error: &Error) -> bool {
        let consumer = self.consumers.get(id).filter(|consumer| matches!(consumer.phase, Phase::Restoring));
        let (Error::NotFound(fault), Some(consumer)) = (error, consumer) else { return false };
        let source = consumer.missing_source(&fault.text, |queue| self.topology.current(queue));
        let Some((source, terms)) = source.and_then(|source| Some((source, consumer.sources.get(source)?)))
        else {
            return false;
        };
        let missing = [Step::Queue(self.topology.current(&terms.queue).into())];
        if !self.restoration.as_mut().is_some_and(|restoration| restoration.miss(&missing)) {
            if consumer.live_sources() < 2 {
                return false;
            }
            if let Some(restoration) = &mut self.restoration {
                let queue = String::from_utf8_lossy(&terms.queue);
                let what = format!("queue {queue:?} of consumer {:?}", consumer.tag());
                restoration.report.failed.push((what.into(), error.clone()));
            }
            self.end_source(id, source, Ended::ChannelClosed(error.clone()));
        }
        self.leave_channel(id);
        self.resubscription.again(id);
        true
    }

    /// Starts a consumer again. False when there is no channel for it.
    fn restore_consumer(&mut self, id: ConsumerId) -> bool {
        let Some(number) = self.consumer_channel() else { return false };
        if let Some(channel) = self.channels.get_mut(number) {
            channel.consumer = Some(id);
        }
        let Some(consumer) = self.consumers.get_mut(id) else { return true };
        consumer.channel = number;
        consumer.starting = consumer.live_sources();
        let prefetch_count = consumer.wanted_prefetch_count();
        if let Some(shared) = &mut consumer.shared_prefetch_count {
            *shared = prefetch_count;
        }
        self.write_consumes(number, id, prefetch_count);
        true
    }

    /// A consumer has started again.
    pub(super) fn consumer_restored(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        consumer.phase = Phase::Live;
        match &mut self.restoration {
            Some(restoration) => {
                restoration.report.consumers += 1;
                self.restore_deadline = Deadline::In(self.options.deadlines.request);
            }
            None => self.notices.tell(&Notice::ConsumerRestored(consumer.tag().into())),
        }
        self.resubscription.done(id);
        self.go_on_with(id);
        self.restore_consumers();
    }

    /// Does what was asked of a consumer while it was on its way back.
    fn go_on_with(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        let wanted = consumer.wanted_prefetch.take();
        if consumer.dropped || !consumer.cancelling.is_empty() {
            self.begin_cancel(id);
            return;
        }
        let Some(promise) = consumer.resizing.pop() else { return };
        match consumer.check_resize(wanted.unwrap_or_default()) {
            Ok(()) => self.resize(id, wanted.unwrap_or_default(), promise),
            Err(error) => {
                let all = std::mem::take(&mut consumer.resizing);
                for promise in all.into_iter().chain([promise]) {
                    self.answer(promise, Err(error.clone()));
                }
            }
        }
    }

    /// Records for the report that a consumer could not be started again. Once the connection is
    /// open, it is in the report already.
    pub(super) fn consumer_not_restored(&mut self, tag: &str, error: &Error) {
        if !matches!(self.state, State::Open) {
            self.quarantine.failed.push(failed_consumer(tag, error));
        }
    }

    /// Everything is back that can be had.
    fn become_open(&mut self, mut report: Recovered) {
        self.state = State::Open;
        if self.is_closing() {
            self.begin_draining();
        }
        self.counters.opened += 1;
        self.restore_deadline = Deadline::None;
        self.attention = true;
        if let Some(backoff) = &mut self.backoff {
            backoff.stands(self.now);
        }
        report.lost_deliveries = std::mem::take(&mut self.consumers.lost);
        self.counters.lost_deliveries += report.lost_deliveries;
        report.failed.extend(self.quarantine.end());
        for (id, error) in self.resubscription.refused() {
            let tag = self.consumers.get(id).map_or("", Consumer::tag);
            report.failed.push(failed_consumer(tag, error));
        }
        if self.cause.take().is_some() {
            self.notices.tell(&Notice::Recovered(report.into()));
        }
        for promise in std::mem::take(&mut self.connecting) {
            let server = Box::new(self.server.clone());
            self.answer(promise, Ok(Reply::Connected(server)));
        }
    }

    /// Takes note of what the broker has agreed to, so that it can be declared again.
    pub(super) fn note(&mut self, request: &WaitingRequest, reply: &Method<'_>) {
        if self.backoff.is_none() {
            return;
        }
        let Some(method) = request.method() else { return };
        if !self.topology.note(&method, reply) && !std::mem::replace(&mut self.is_full_told, true) {
            self.notices.tell(&Notice::NotRecorded);
        }
    }

    /// What a request was refused for may be gone.
    pub(super) fn note_refusal(&mut self, request: &WaitingRequest, error: &Error) {
        if !matches!(error, Error::NotFound(_)) {
            return;
        }
        let Some(method) = request.method() else { return };
        match method {
            Method::Queue(queue::Method::Declare(it)) => self.topology.forget_queue(it.queue.as_octets()),
            Method::Queue(queue::Method::Purge(it)) => self.topology.forget_queue(it.queue.as_octets()),
            Method::Basic(crate::protocol::method::basic::Method::Get(it)) => {
                self.topology.forget_queue(it.queue.as_octets());
            }
            _ => {}
        }
    }

    /// The same request under the names that queues have now, for one that was made under the names that they had.
    pub(super) fn with_current_names(&self, request: WaitingRequest) -> WaitingRequest {
        if !self.topology.has_renamed() {
            return request;
        }
        let Some(method) = request.method() else { return request };
        let encode = |method: &Method<'_>| WaitingRequest::new(request.promise, request.info, method).payload;
        let Some(payload) = self.topology.renamed(method, encode) else { return request };
        WaitingRequest { payload, ..request }
    }

    /// The same request under the first names of queues, under which it can be asked again on any connection.
    pub(super) fn with_original_names(&self, request: WaitingRequest) -> WaitingRequest {
        let Some(method) = request.method() else { return request };
        let Some(renamed) = self.topology.unrenamed(method) else { return request };
        WaitingRequest {
            payload: WaitingRequest::new(request.promise, request.info, &renamed).payload,
            ..request
        }
    }

    /// The name that a queue has now.
    #[must_use]
    pub fn current_name<'n>(&self, name: &'n [u8]) -> Cow<'n, [u8]> {
        let current = self.topology.current(name);
        if current == name { Cow::Borrowed(name) } else { Cow::Owned(current.to_vec()) }
    }
}
