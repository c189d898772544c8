//! Recovery after a loss of the connection: replaying the topology, then restarting the consumers.

pub(crate) mod backoff;
pub(crate) mod bindings;
pub(crate) mod close_cause;
pub(crate) mod filter;
pub(crate) mod late_replay;
mod late_steps;
pub(crate) mod name_hasher;
pub(crate) mod names;
pub(crate) mod quarantine;
pub(crate) mod refusal;
pub(crate) mod refused_consumers;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod round;
pub(crate) mod step;
pub(crate) mod topology;

use crate::error::{Broken, Error};
use crate::machine::channel::learned_limit::is_channel_limit;
use crate::machine::channel::{Awaited, Role};
use crate::machine::consume::Consuming;
use crate::machine::context::{Context, Stage};
use crate::machine::deadline::Deadline;
use crate::machine::publish::Publishing;
use crate::machine::recovery::backoff::{Backoff, Failure};
use crate::machine::recovery::filter::{FilterOutcome, FilterStep};
use crate::machine::recovery::late_replay::LateReplay;
use crate::machine::recovery::quarantine::Quarantine;
use crate::machine::recovery::replay::{NextStep, Replay, names_step};
use crate::machine::recovery::round::Round;
use crate::machine::recovery::step::ReplayStep;
use crate::machine::request::check::check_supported;
use crate::machine::{ConnectionState, Dialling, Notice, Recovered};
use crate::protocol::method::{MethodInfo, queue};
use crate::protocol::{Method, MethodId};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The retry limit of consumers and quarantined entities, in heartbeat timeouts. In a strict
/// recovery, it also applies to locked queues.
///
/// A client may notice a loss at once, and RabbitMQ after two to three timeouts: with one of 2 s,
/// it took 3.10.8 and 4.3.6 5.3 s.
const RETRY_LIMIT_IN_TIMEOUTS: u32 = 3;

/// The shortest retry limit, also without heartbeats. With short ones, a limit of some seconds
/// would end a consumer over a mistake that an operator corrects at once.
const MIN_RETRY_LIMIT: Duration = Duration::from_secs(30);

/// The retry limit of locked queues before the connection becomes open without them. A broker that
/// sees the end of the previous connection unlocks its queues within milliseconds. Otherwise it
/// needs heartbeat timeouts, and waiting so long would delay everything else.
const LOCK_LIMIT: Duration = Duration::from_secs(2);

/// Returns the retry limit on the current connection, or on the last one.
pub(crate) fn retry_limit(cx: &Context) -> Duration {
    let timeout = cx.transmit.heartbeat.timeout();
    let limit = timeout.map_or(Duration::ZERO, |it| RETRY_LIMIT_IN_TIMEOUTS * it);
    limit.max(MIN_RETRY_LIMIT)
}

/// The recovery of a connection: when to dial again, and what to restore.
#[derive(Debug, Default)]
pub(crate) struct Recovering {
    /// The decision whether and when to dial again; `None` without recovery.
    pub(crate) backoff: Option<Backoff>,
    /// The cause of the loss, until the connection is open again.
    pub(crate) loss_cause: Option<Error>,
    /// The endpoint in use, and the failed attempts of this round over the endpoints.
    pub(crate) round: Round,
    /// The replay, from the handshake until the connection is open.
    pub(crate) replay: Option<Replay>,
    pub(crate) quarantine: Quarantine,
    /// The steps that are retried once the connection is open.
    pub(crate) late: LateReplay,
    /// The steps that the last replay could not restore for now, until the connection is open.
    refused: BTreeSet<ReplayStep>,
    /// Entities to pass to the user's filter, until they are fetched.
    pub(crate) filtering: Option<FilterStep>,
    /// When the recovery fails, because the broker has not replied in time.
    pub(crate) restore_deadline: Deadline,
}

impl Recovering {
    /// Returns the cause of the loss if requests fail while there is no connection.
    #[inline]
    pub(crate) fn fails_fast(&self) -> Option<&Error> {
        let backoff = self.backoff.as_ref();
        let fails = backoff.is_some_and(|backoff| backoff.policy.fails_fast);
        self.loss_cause.as_ref().filter(|_| fails)
    }

    /// Returns `true` if what cannot be restored fails the recovery.
    fn is_strict(&self) -> bool {
        let backoff = self.backoff.as_ref();
        backoff.is_some_and(|backoff| backoff.policy.strict)
    }

    /// Returns the number of attempts since the connection was last open.
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

    /// Begins an attempt at the endpoint in use, and returns what to dial.
    pub(crate) fn begin_dialling(&mut self) -> Dialling {
        let attempt = self.attempt();
        self.round.begin_dialling(attempt)
    }

    /// Plans the next attempt after a loss or a failed attempt, and notifies the program of it.
    /// Returns the delay before the attempt, or `None` without recovery or at a limit of its
    /// policy.
    pub(crate) fn plan_attempt(
        &mut self,
        cx: &mut Context,
        error: &Error,
        in_handshake: bool,
    ) -> Option<Duration> {
        let backoff = self.backoff.as_mut()?;
        let endpoints = cx.options.get_endpoints().len();
        let continues = in_handshake && self.round.may_continue(endpoints);
        let failure = Failure {
            error,
            in_handshake,
            continues,
            endpoints,
        };
        let delay = backoff.delay_after(&failure, cx.now)?;
        let was_open = cx.stage == Stage::Open;
        cx.epoch += u32::from(was_open || cx.stage == Stage::Restoring);
        if was_open {
            cx.notices.notify(&Notice::Disconnected(error.clone()));
        }
        cx.notices.notify(&Notice::Retrying {
            attempt: backoff.attempt,
            cause: error.clone(),
            failed: self.round.failed().into(),
            delay,
        });
        if !continues {
            self.round.end();
        }
        if in_handshake || !was_open {
            // This broker has failed to open the connection, and another may succeed.
            self.round.advance(endpoints);
        }
        if backoff.has_been_open() {
            self.loss_cause.get_or_insert_with(|| error.clone());
        }
        Some(delay)
    }

    /// Plans what to restore: the whole topology and all consumers. Returns `false` without
    /// recovery.
    pub(crate) fn plan_restoration(&mut self, cx: &Context, consuming: &mut Consuming) -> bool {
        let Some(backoff) = &self.backoff else {
            return false;
        };
        let retry_limit = retry_limit(cx);
        let report = Recovered {
            epoch: cx.epoch,
            attempts: backoff.attempt,
            ..Recovered::default()
        };
        let is_strict = backoff.policy.strict;
        let lock_limit = if is_strict {
            retry_limit
        } else {
            retry_limit.min(LOCK_LIMIT)
        };
        self.replay = Some(Replay::new(lock_limit, report));
        consuming.restarts.start_over(retry_limit, is_strict);
        consuming.drops.clear();
        for id in consuming.consumers.ids() {
            let consumer = consuming.consumers.restarting(id);
            consuming.restarts.plan(id, consumer, cx.now);
        }
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
        replay.continue_with(wanted);
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
        self.round.record_open();
        if let Some(backoff) = &mut self.backoff {
            backoff.record_open(cx.now);
        }
        report.lost_deliveries = std::mem::take(&mut consuming.consumers.lost);
        cx.counters.lost_deliveries += report.lost_deliveries;
        let (steps, failed) = self.quarantine.end();
        report.failed.extend(failed);
        let refused = std::mem::take(&mut self.refused);
        self.late.begin(refused, steps, retry_limit(cx), cx.now);
        report
            .failed
            .append(&mut consuming.restarts.take_failed(&consuming.consumers));
        if self.loss_cause.take().is_some() {
            cx.notices.notify(&Notice::Recovered(report.into()));
        }
    }

    /// Ends the replay, because the connection is lost. Quarantines the step over which the broker
    /// closed the connection, or makes the next replay identify it.
    pub(crate) fn suspend_replay(&mut self, cx: &mut Context, error: &Error) {
        self.filtering = None;
        self.refused.clear();
        // Over a limit of channels, no step is the cause. A strict recovery skips no entity.
        let may_skip = !is_channel_limit(error) && !self.is_strict();
        // A close that names no method may be over another request, but the step has failed before.
        let names_none = error.is_caused_by_request() && error.names_method(MethodId::NONE);
        let is_cause = |step: &_| may_skip && (names_none || names_step(error, step, &cx.topology));
        if let Some(step) = self.late.suspend(is_cause) {
            self.quarantine.add(step, error);
        }
        let Some(replay) = self.replay.take().filter(|_| may_skip) else {
            return;
        };
        let one_at_a_time = self.quarantine.one_at_a_time;
        if let Some(step) = replay.into_close_cause(error, &cx.topology, one_at_a_time) {
            self.quarantine.add(step, error);
        } else if error.is_caused_by_request() || error.is_over_late_method() {
            // A refused step closes the channel. With no step behind it, no method is late.
            self.quarantine.one_at_a_time = true;
        }
    }

    /// Restores the consumers once the topology is replayed. Returns the report of the recovery
    /// when every consumer has restarted, has ended, or was refused temporarily. The connection
    /// then becomes open. Afterwards, this continues to restart the refused consumers.
    pub(crate) fn restore_consumers(
        &mut self,
        cx: &mut Context,
        publishing: &mut Publishing,
        consuming: &mut Consuming,
    ) -> Option<Recovered> {
        let is_replaying = self.replay.as_ref().is_some_and(|replay| !replay.is_done());
        if !matches!(cx.stage, Stage::Open | Stage::Restoring) || is_replaying {
            // No other work can take a channel before the connection is open.
            cx.channels.reserve(0);
            return None;
        }
        // The queued consumers take their channels now. A reservation would keep them from it, so
        // only those of the delayed consumers are reserved meanwhile.
        cx.channels.reserve(consuming.restarts.delayed());
        consuming.start_restarts(cx, publishing, self.quarantine.one_at_a_time);
        // Other work must leave channels for the consumers that still have none.
        cx.channels.reserve(consuming.restarts.reserved_channels());
        if consuming.restarts.has_pending() || consuming.restarts.has_failed() {
            return None;
        }
        let failure = self.replay.as_ref().and_then(Replay::failure);
        if let Some(error) = failure.filter(|_| self.is_strict()) {
            consuming.restarts.fail(error.clone());
            return None;
        }
        // Without a replay, the connection is open already.
        let (mut report, refused) = self.replay.take()?.into_report();
        self.refused = refused;
        report.consumers = std::mem::take(&mut consuming.restarts.restarted);
        Some(report)
    }

    /// Sends the steps of the replay that can be sent. Consumers are restarted when all are done.
    pub(crate) fn continue_replay(&mut self, cx: &mut Context) {
        if cx.stage != Stage::Restoring {
            return;
        }
        loop {
            let (Some(replay), Some(backoff)) = (&mut self.replay, &self.backoff) else {
                return;
            };
            match replay.next_step(&cx.topology, &backoff.policy, &self.quarantine) {
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

    /// Sends a step of the replay, or records that it cannot be sent.
    fn declare(&mut self, cx: &mut Context, step: ReplayStep) {
        let outcome = self.send_step(cx, &step);
        // Unreachable: the step comes from the replay.
        let Some(replay) = &mut self.replay else {
            return;
        };
        match outcome {
            Ok(()) => replay.record_sent(step),
            Err(error) => replay.record_failure(step, error, &self.quarantine),
        }
        cx.attention = true;
    }

    /// Writes the request of a step.
    ///
    /// # Errors
    /// The step cannot be encoded, its entity is no longer recorded, or there is no channel.
    fn send_step(&mut self, cx: &mut Context, step: &ReplayStep) -> Result<(), Error> {
        let number = match self.replay.as_ref().and_then(|replay| replay.channel) {
            Some(number) => number,
            None => self.open_restore_channel(cx, step)?,
        };
        let info = Self::write_step(cx, number, step)?;
        cx.await_reply(number, info, Awaited::ReplayStep { is_late: false });
        Ok(())
    }

    /// Opens the channel of the replay.
    ///
    /// # Errors
    /// The entity of the step is no longer recorded, so the channel is not needed for it, or there
    /// is no channel.
    fn open_restore_channel(&mut self, cx: &mut Context, step: &ReplayStep) -> Result<u16, Error> {
        if cx.topology.request(step).is_none() {
            return Err(Error::Stale);
        }
        let number = cx.open_channel(Role::Restore).ok_or(Error::ChannelLimit)?;
        if let Some(replay) = &mut self.replay {
            replay.channel = Some(number);
        }
        Ok(number)
    }

    /// Writes a step's request, and returns the method. It is encoded from the record and not
    /// copied, because there may be 100 000 of them.
    fn write_step(
        cx: &mut Context,
        number: u16,
        step: &ReplayStep,
    ) -> Result<&'static MethodInfo, Error> {
        let Context {
            topology,
            transmit,
            server,
            ..
        } = cx;
        // The program may have deleted the entity in the meantime.
        let request = topology.request(step).ok_or(Error::Stale)?;
        let info = request.info();
        check_supported(server, info.id)?;
        let mut write = |request: &Method<'_>| transmit.append_method(number, request);
        // The name of a dead-letter queue may have changed. Bindings are recorded under the current
        // names, and searching all names for each took 7 % of a recovery with 100 000 bindings.
        let written = match step {
            ReplayStep::Queue(_) => topology.encode_renamed(request, &mut write),
            ReplayStep::Exchange(_) | ReplayStep::Binding(_) => None,
        };
        written.unwrap_or_else(|| write(&request))?;
        Ok(info)
    }

    /// Handles the reply to the oldest pending step.
    pub(crate) fn handle_step_reply(&mut self, cx: &mut Context, reply: &Method<'_>) {
        self.restore_deadline = Deadline::In(cx.options.timeouts.request);
        if let Some(mut step) = self.replay.as_mut().and_then(Replay::pop_pending) {
            self.record_name(cx, &mut step, reply);
            if let Some(replay) = &mut self.replay {
                replay.record_declared(step);
            }
        }
        self.continue_replay(cx);
    }

    /// Records the name in the reply to the declaration of a queue, if the broker has given a
    /// server-named queue another name than before.
    fn record_name(&mut self, cx: &mut Context, step: &mut ReplayStep, reply: &Method<'_>) {
        if let (ReplayStep::Queue(name), Method::Queue(queue::Method::DeclareOk(ok))) =
            (step, reply)
            && **name != *ok.queue.as_bytes()
        {
            let old = name.as_short_str();
            cx.topology.rename(old, ok.queue);
            self.late.rename_queue(old, ok.queue);
            if let Some(replay) = &mut self.replay {
                let renamed = (old.to_str_lossy().into(), ok.queue.to_str_lossy().into());
                replay.report.renamed.push(renamed);
            }
            *name = ok.queue.into();
        }
    }

    /// Handles the close of the channel of the replay.
    ///
    /// # Errors
    /// The error that ends the connection, if the policy is strict.
    pub(crate) fn handle_step_close(
        &mut self,
        cx: &mut Context,
        error: &Error,
    ) -> Result<(), Error> {
        if self.is_strict() && !matches!(error, Error::ResourceLocked(_)) {
            return Err(Error::ConnectionBroken(Broken::NotRestored(
                error.clone().into(),
            )));
        }
        self.restore_deadline = Deadline::In(cx.options.timeouts.request);
        if let Some(replay) = &mut self.replay {
            replay.handle_close(error, &self.quarantine);
        }
        self.continue_replay(cx);
        Ok(())
    }
}
