//! Recovery after a loss of the connection: replaying the topology, then restarting the consumers.

pub(crate) mod backoff;
pub(crate) mod bindings;
pub(crate) mod blame;
pub(crate) mod consumers;
pub(crate) mod filter;
pub(crate) mod name_hasher;
pub(crate) mod names;
pub(crate) mod quarantine;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod step;
pub(crate) mod topology;

use crate::error::{Broken, Error};
use crate::machine::channel::{Awaited, Role};
use crate::machine::consume::Consuming;
use crate::machine::consume::consumer::Consumer;
use crate::machine::context::Context;
use crate::machine::context::Stage;
use crate::machine::deadline::Deadline;
use crate::machine::recovery::backoff::{Backoff, Failure};
use crate::machine::recovery::filter::{FilterOutcome, FilterStep};
use crate::machine::recovery::quarantine::Quarantine;
use crate::machine::recovery::replay::{NextStep, Replay};
use crate::machine::recovery::step::ReplayStep;
use crate::machine::{ConnectionState, Dialling, Notice, Recovered};
use crate::protocol::method::{MethodInfo, queue};
use crate::protocol::{Method, ShortStr};
use std::time::{Duration, Instant};

/// How long exclusive queues and refused consumers are retried, in heartbeat timeouts.
///
/// A client may notice a loss at once, and RabbitMQ after two to three timeouts: with one of 2 s,
/// it took 3.10.8 and 4.3.6 5.3 s.
pub(crate) const TIMEOUTS: u32 = 3;

/// The same without heartbeats, by which the broker would notice the loss.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the entry of the report for a consumer that could not be restarted.
pub(crate) fn failed_consumer(tag: &str, error: &Error) -> (Box<str>, Error) {
    (format!("consumer {tag:?}").into(), error.clone())
}

/// The recovery of a connection: when to dial again, and what to restore.
#[derive(Debug, Default)]
pub(crate) struct Recovering {
    /// Decides when and whether to dial again; `None` if there is only one transport.
    pub(crate) backoff: Option<Backoff>,
    /// The cause of the loss, until the connection is open again.
    pub(crate) loss_cause: Option<Error>,
    /// The endpoint in use, or the first one to dial.
    pub(crate) endpoint: usize,
    /// The endpoint at which dialling began.
    pub(crate) first_endpoint: usize,
    /// The replay, from the handshake until the connection is open.
    pub(crate) replay: Option<Replay>,
    pub(crate) quarantine: Quarantine,
    /// Entities to pass to the user's filter.
    pub(crate) filtering: Option<FilterStep>,
    /// When the replay fails, because the broker has not replied in time.
    pub(crate) restore_deadline: Deadline,
}

impl Recovering {
    /// Returns the reason of the loss if requests fail while there is no connection.
    #[inline]
    pub(crate) fn fails_fast(&self) -> Option<&Error> {
        let backoff = self.backoff.as_ref();
        let fails = backoff.is_some_and(|backoff| backoff.policy.fails_fast);
        self.loss_cause.as_ref().filter(|_| fails)
    }

    fn attempt(&self) -> u32 {
        self.backoff.as_ref().map_or(0, |backoff| backoff.attempt)
    }

    /// Returns the state of a connection that is not open, for the program.
    pub(crate) fn report(&self, next_at: Option<Instant>) -> ConnectionState {
        match &self.loss_cause {
            Some(cause) => ConnectionState::Recovering {
                attempt: self.attempt(),
                cause: cause.clone(),
                next_at,
            },
            None => ConnectionState::Connecting,
        }
    }

    /// Returns what to dial.
    pub(crate) fn begin_dialling(&mut self) -> Dialling {
        self.first_endpoint = self.endpoint;
        Dialling {
            attempt: self.attempt(),
            first: self.endpoint,
        }
    }

    /// Returns the delay before dialling again after a loss or a failed attempt, and reports it.
    /// Returns `None` without recovery, or at a limit of its policy.
    pub(crate) fn retry(
        &mut self,
        cx: &mut Context,
        error: &Error,
        in_handshake: bool,
    ) -> Option<Duration> {
        let backoff = self.backoff.as_mut()?;
        let endpoints = cx.options.get_endpoints().len();
        let failure = Failure {
            error,
            handshake: in_handshake.then_some((self.first_endpoint, self.endpoint)),
            endpoints,
        };
        let delay = backoff.after(&failure, cx.now)?;
        let was_open = cx.stage == Stage::Open;
        cx.epoch += u32::from(was_open || cx.stage == Stage::Restoring);
        if was_open {
            cx.notices.notify(&Notice::Disconnected(error.clone()));
        }
        cx.notices.notify(&Notice::Retrying {
            attempt: backoff.attempt,
            cause: error.clone(),
            delay,
        });
        if in_handshake || !was_open {
            // What this broker does not do, another may.
            self.endpoint = (self.endpoint + 1) % endpoints.max(1);
        }
        if backoff.has_been_open() {
            self.loss_cause.get_or_insert_with(|| error.clone());
        }
        Some(delay)
    }

    /// Plans what to restore. Returns `false` without recovery.
    pub(crate) fn plan_restoration(&mut self, cx: &Context, consuming: &mut Consuming) -> bool {
        let Some(backoff) = &self.backoff else {
            return false;
        };
        let timeout = cx.transmit.heartbeat.timeout();
        let patience = timeout.map_or(PATIENCE, |timeout| TIMEOUTS * timeout);
        let report = Recovered {
            epoch: cx.epoch,
            attempts: backoff.attempt,
            ..Recovered::default()
        };
        self.replay = Some(Replay::new(patience, report));
        let ids = consuming.consumers.ids();
        consuming.resubscription.begin(ids, patience);
        self.restore_deadline = Deadline::In(cx.options.timeouts.request);
        true
    }

    /// Handles the outcome of the user's filter. Returns `false` if the connection was lost
    /// meanwhile. The filter then runs again for the next one.
    pub(crate) fn handle_filter(&mut self, cx: &mut Context, outcome: FilterOutcome) -> bool {
        let FilterOutcome {
            wanted,
            panicked,
            epoch,
        } = outcome;
        let replay = self.replay.as_mut();
        let Some(replay) = replay.filter(|_| epoch == cx.epoch) else {
            return false;
        };
        replay.filtered(wanted);
        if let Some(entity) = panicked {
            let text = format!("panicked for {entity}, which is declared again");
            let error = Error::invalid("filter", text);
            self.quarantine.failed.push(("filter".into(), error));
        }
        self.restore_deadline = Deadline::In(cx.options.timeouts.request);
        cx.attention = true;
        self.continue_replay(cx);
        true
    }

    /// Completes the report of a recovery, and sends it unless this is the first connection.
    pub(crate) fn finish(
        &mut self,
        cx: &mut Context,
        consuming: &mut Consuming,
        mut report: Recovered,
    ) {
        cx.counters.opened += 1;
        self.restore_deadline = Deadline::None;
        if let Some(backoff) = &mut self.backoff {
            backoff.opened(cx.now);
        }
        report.lost_deliveries = std::mem::take(&mut consuming.consumers.lost);
        cx.counters.lost_deliveries += report.lost_deliveries;
        report.failed.extend(self.quarantine.end());
        report.failed.append(&mut consuming.resubscription.failed);
        for (id, error) in consuming.resubscription.refused() {
            let consumer = consuming.consumers.get(id);
            let tag = consumer.map_or("", Consumer::tag);
            report.failed.push(failed_consumer(tag, error));
        }
        if self.loss_cause.take().is_some() {
            cx.notices.notify(&Notice::Recovered(report.into()));
        }
    }

    /// Quarantines the step over which the broker closed the connection, or makes the next replay
    /// identify it.
    pub(crate) fn suspend_replay(&mut self, cx: &mut Context, error: &Error) {
        self.filtering = None;
        let Some(mut replay) = self.replay.take() else {
            return;
        };
        let is_alone = self.quarantine.one_at_a_time;
        if let Some((step, failed)) = replay.blamed(error, &cx.topology, is_alone) {
            self.quarantine.add(step, failed);
        } else if error.is_caused_by_request() {
            self.quarantine.one_at_a_time = true;
        }
    }

    /// Sends the steps of the replay that can be sent. Consumers start when all are done.
    pub(crate) fn continue_replay(&mut self, cx: &mut Context) {
        if cx.stage != Stage::Restoring {
            return;
        }
        loop {
            let (Some(replay), Some(backoff)) = (&mut self.replay, &self.backoff) else {
                return;
            };
            match replay.next(&cx.topology, &backoff.policy, &self.quarantine) {
                NextStep::Declare(step) => self.declare(cx, step),
                NextStep::Filter(steps) => {
                    let filter = backoff.policy.filter.clone();
                    self.filtering = filter.map(|filter| FilterStep {
                        filter,
                        steps,
                        epoch: cx.epoch,
                    });
                    return;
                }
                NextStep::Wait => return,
                NextStep::Done => break,
            }
        }
        if let Some(number) = self
            .replay
            .as_mut()
            .and_then(|replay| replay.channel.take())
        {
            cx.channels.put_idle(number);
        }
    }

    /// Sends a step of the replay, or skips it if it cannot be encoded.
    pub(crate) fn declare(&mut self, cx: &mut Context, step: ReplayStep) {
        let outcome = self.send_step(cx, &step);
        let Some(replay) = &mut self.replay else {
            return;
        };
        match outcome {
            Ok(()) => replay.sent(step),
            Err(error) => replay.skip(&step, error),
        }
        cx.attention = true;
    }

    /// Writes the request of a step.
    ///
    /// # Errors
    /// The step cannot be encoded, was forgotten, or has no channel.
    pub(crate) fn send_step(&mut self, cx: &mut Context, step: &ReplayStep) -> Result<(), Error> {
        let number = match self.replay.as_ref().and_then(|replay| replay.channel) {
            Some(number) => number,
            None => self.open_restore_channel(cx, step)?,
        };
        let info = Self::write_step(cx, number, step)?;
        cx.await_reply(number, info, Awaited::ReplayStep);
        Ok(())
    }

    /// Opens the channel of the replay, unless the step was forgotten in the meantime.
    pub(crate) fn open_restore_channel(
        &mut self,
        cx: &mut Context,
        step: &ReplayStep,
    ) -> Result<u16, Error> {
        if cx.topology.request(step).is_none() {
            return Err(Error::Stale);
        }
        let number = cx.open_channel(Role::Restore).ok_or(Error::ChannelLimit)?;
        if let Some(replay) = &mut self.replay {
            replay.channel = Some(number);
        }
        Ok(number)
    }

    /// Writes a step's request, without a copy of it: there may be 100 000 of them.
    fn write_step(
        cx: &mut Context,
        number: u16,
        step: &ReplayStep,
    ) -> Result<&'static MethodInfo, Error> {
        let Context {
            topology, transmit, ..
        } = cx;
        // The program may have deleted the entity in the meantime.
        let request = topology.request(step).ok_or(Error::Stale)?;
        let info = request.info();
        let mut write = |request: &Method<'_>| transmit.append_method(number, request);
        // The name of a dead-letter queue may have changed. Bindings are recorded under the current
        // names, and searching all names for each took 7 % of a recovery with 100 000 bindings.
        let written = match step {
            ReplayStep::Queue(_) => topology.renamed(request, &mut write),
            ReplayStep::Exchange(_) | ReplayStep::Binding(_) => None,
        };
        written.unwrap_or_else(|| write(&request))?;
        Ok(info)
    }

    /// Handles the reply to the oldest pending step.
    pub(crate) fn step_done(&mut self, cx: &mut Context, reply: &Method<'_>) {
        self.restore_deadline = Deadline::In(cx.options.timeouts.request);
        let mut step = self.replay.as_mut().and_then(Replay::done);
        if let (Some(ReplayStep::Queue(name)), Method::Queue(queue::Method::DeclareOk(ok))) =
            (&mut step, reply)
            && **name != *ok.queue.as_bytes()
        {
            self.rename_queue(cx, name.as_short_str(), ok.queue);
            *name = ok.queue.into();
        }
        if let (Some(step), Some(replay)) = (step, &mut self.replay) {
            replay.declared(step);
        }
        self.continue_replay(cx);
    }

    /// Records that the broker has given a server-named queue another name.
    pub(crate) fn rename_queue(&mut self, cx: &mut Context, old: ShortStr<'_>, new: ShortStr<'_>) {
        cx.topology.rename(old, new);
        let from: Box<str> = old.to_str_lossy().into();
        if let Some(replay) = &mut self.replay {
            replay
                .report
                .renamed
                .push((from, new.to_str_lossy().into()));
        }
    }

    /// Handles the close of the channel of the replay.
    ///
    /// # Errors
    /// The error that ends the connection, if the policy is strict.
    pub(crate) fn step_failed(&mut self, cx: &mut Context, error: &Error) -> Result<(), Error> {
        let is_strict = self
            .backoff
            .as_ref()
            .is_some_and(|backoff| backoff.policy.strict);
        if is_strict && !matches!(error, Error::ResourceLocked(_)) {
            return Err(Error::ConnectionBroken(Broken::NotRestored(
                error.clone().into(),
            )));
        }
        self.restore_deadline = Deadline::In(cx.options.timeouts.request);
        if let Some(replay) = &mut self.replay {
            replay.failed(error);
        }
        self.continue_replay(cx);
        Ok(())
    }
}
