//! Recovery after a loss of the connection: replaying the topology, then restarting the consumers.

pub(crate) mod backoff;
pub(crate) mod bindings;
pub(crate) mod blame;
pub(crate) mod filter;
pub(crate) mod name_hasher;
pub(crate) mod names;
pub(crate) mod quarantine;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod topology;

use crate::error::{Broken, Error};
use crate::machine::channel::{Awaited, Role};
use crate::machine::consume::Consuming;
use crate::machine::consume::consumers::{Consumer, Phase};
use crate::machine::consume::resubscription::is_not_now;
use crate::machine::context::Context;
use crate::machine::context::Stage;
use crate::machine::deadline::Deadline;
use crate::machine::publish::Publishing;
use crate::machine::recovery::backoff::Backoff;
use crate::machine::recovery::filter::FilterStep;
use crate::machine::recovery::quarantine::Quarantine;
use crate::machine::recovery::replay::{NextStep, Replay};
use crate::machine::recovery::topology::ReplayStep;
use crate::machine::{ConsumerId, Ended, Recovered};
use crate::protocol::method::{MethodInfo, queue};
use crate::protocol::{Method, ShortStr};
use std::time::Duration;

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
        } else if error.is_a_verdict() {
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
        cx.await_reply(number, info, Awaited::Restored);
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
            topology,
            out,
            frame_max,
            ..
        } = cx;
        // The program may have deleted the entity in the meantime.
        let request = topology.request(step).ok_or(Error::Stale)?;
        let info = request.info();
        let mut write = |request: &Method<'_>| out.method(number, *frame_max, request);
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
        self.restore_deadline = Deadline::In(cx.options.deadlines.request);
        let mut step = self.replay.as_mut().and_then(Replay::done);
        if let (Some(ReplayStep::Queue(name)), Method::Queue(queue::Method::DeclareOk(ok))) =
            (&mut step, reply)
            && **name != *ok.queue.as_octets()
        {
            self.rename_queue(cx, name, ok.queue);
            *name = ok.queue.as_octets().into();
        }
        if let (Some(step), Some(replay)) = (step, &mut self.replay) {
            replay.declared(step);
        }
        self.continue_replay(cx);
    }

    /// Records that the broker has given a server-named queue another name.
    pub(crate) fn rename_queue(&mut self, cx: &mut Context, old: &[u8], new: ShortStr<'_>) {
        cx.topology.rename(old, new.as_octets());
        let from: Box<str> = String::from_utf8_lossy(old).into();
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
        self.restore_deadline = Deadline::In(cx.options.deadlines.request);
        if let Some(replay) = &mut self.replay {
            replay.failed(error);
        }
        self.continue_replay(cx);
        Ok(())
    }

    /// Restarts the consumers for which there are channels. Returns the report of the recovery when
    /// all have started or failed, or were refused for now. Then the connection is open.
    pub(crate) fn restore_consumers(
        &mut self,
        cx: &mut Context,
        publishing: &mut Publishing,
        consuming: &mut Consuming,
    ) -> Option<Recovered> {
        cx.channels.reserve(0);
        let is_waiting = self.replay.as_ref().is_some_and(|replay| !replay.is_done());
        if !matches!(cx.stage, Stage::Open | Stage::Restoring) || is_waiting {
            return None;
        }
        cx.channels
            .reserve(consuming.resubscription.refused().len());
        self.start_consumers_again(cx, publishing, consuming, self.quarantine.one_at_a_time);
        cx.channels.reserve(consuming.resubscription.reserved());
        if consuming.resubscription.has_pending() {
            return None;
        }
        let mut report = self.replay.take()?.into_report();
        report.consumers = std::mem::take(&mut consuming.resubscription.restored);
        Some(report)
    }

    /// Restarts the consumers for which there are channels.
    pub(crate) fn start_consumers_again(
        &mut self,
        cx: &mut Context,
        publishing: &mut Publishing,
        consuming: &mut Consuming,
        one_at_a_time: bool,
    ) {
        let is_open = cx.stage == Stage::Open;
        while let Some(id) = consuming.resubscription.next() {
            if one_at_a_time && consuming.resubscription.is_starting() {
                return;
            }
            let is_waiting = |consumer: &&Consumer| {
                matches!(consumer.phase, Phase::Restoring) && consumer.channel == 0
            };
            let Some(consumer) = consuming.consumers.get(id).filter(is_waiting) else {
                consuming.resubscription.skip();
                continue;
            };
            if let Err(error) = consuming.check_size(cx, &consumer.sources) {
                // This broker allows smaller frames than the one before.
                consuming.resubscription.skip();
                consuming.end_consumer(cx, id, Ended::ChannelClosed(error));
            } else if consuming.restore_consumer(cx, publishing, id) {
                consuming.resubscription.started();
            } else if is_open
                || consuming.resubscription.is_starting()
                || cx.channels.is_closing_one()
            {
                // Once the connection is open, a channel is reserved for it.
                return;
            } else {
                // This broker allows fewer channels than the one before.
                consuming.resubscription.skip();
                consuming.end_consumer(cx, id, Ended::ChannelClosed(Error::ChannelLimit));
            }
        }
    }

    /// Ends a consumer whose channel the broker closed, unless it is restarted later.
    pub(crate) fn consumer_closed(
        &mut self,
        cx: &mut Context,
        consuming: &mut Consuming,
        id: ConsumerId,
        error: &Error,
    ) {
        if !self.is_refused_for_now(cx, consuming, id, error)
            && !self.misses_queues_of(cx, consuming, id, error)
        {
            consuming.end_consumer(cx, id, Ended::ChannelClosed(error.clone()));
        }
    }

    /// Returns `true` if a consumer that the broker refused is restarted later, or has ended
    /// because the program does not use it any more.
    pub(crate) fn is_refused_for_now(
        &mut self,
        cx: &mut Context,
        consuming: &mut Consuming,
        id: ConsumerId,
        error: &Error,
    ) -> bool {
        let consumer = consuming
            .consumers
            .get(id)
            .filter(|consumer| matches!(consumer.phase, Phase::Restoring));
        let Some(consumer) = consumer else {
            return false;
        };
        let is_wanted = !consumer.dropped && consumer.cancelling.is_empty();
        let is_exclusive = consumer.sources.iter().any(|terms| terms.exclusive);
        if !is_not_now(error, is_exclusive)
            || !consuming.resubscription.refuse(id, error.clone(), cx.now)
        {
            return false;
        }
        self.leave_channel(consuming, id);
        if !is_wanted {
            consuming.end_consumer(cx, id, Ended::Cancelled);
        }
        true
    }

    /// Records that a consumer that is being restarted has lost its channel.
    pub(crate) fn leave_channel(&mut self, consuming: &mut Consuming, id: ConsumerId) {
        if let Some(consumer) = consuming.consumers.get_mut(id) {
            consumer.tags.clear();
            consumer.channel = 0;
        }
        consuming.consumers.lose_unsettled(id);
    }

    /// Returns `true` if a consumer that the broker refused is restarted: because its queue was
    /// there before, or without its missing queue.
    pub(crate) fn misses_queues_of(
        &mut self,
        cx: &mut Context,
        consuming: &mut Consuming,
        id: ConsumerId,
        error: &Error,
    ) -> bool {
        let consumer = consuming
            .consumers
            .get(id)
            .filter(|consumer| matches!(consumer.phase, Phase::Restoring));
        let (Error::NotFound(fault), Some(consumer)) = (error, consumer) else {
            return false;
        };
        let source = consumer.missing_source(&fault.text, |queue| cx.topology.current(queue));
        let Some((source, terms)) =
            source.and_then(|source| Some((source, consumer.sources.get(source)?)))
        else {
            return false;
        };
        let missing = [ReplayStep::Queue(cx.topology.current(&terms.queue).into())];
        if !self
            .replay
            .as_mut()
            .is_some_and(|replay| replay.miss(&missing))
        {
            if consumer.live_sources() < 2 {
                return false;
            }
            if let Some(replay) = &mut self.replay {
                let queue = String::from_utf8_lossy(&terms.queue);
                let what = format!("queue {queue:?} of consumer {:?}", consumer.tag());
                replay.report.failed.push((what.into(), error.clone()));
            }
            consuming.end_source(cx, id, source, Ended::ChannelClosed(error.clone()));
        }
        self.leave_channel(consuming, id);
        consuming.resubscription.again(id);
        true
    }
}
