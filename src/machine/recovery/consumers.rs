//! Starting the consumers again.

use crate::error::Error;
use crate::machine::consume::Consuming;
use crate::machine::consume::consumer::{Consumer, Phase, Subscription};
use crate::machine::consume::resubscription::is_not_now;
use crate::machine::context::{Context, Stage};
use crate::machine::publish::Publishing;
use crate::machine::recovery::Recovering;
use crate::machine::recovery::step::ReplayStep;
use crate::machine::{ConsumerId, Ended, Recovered};

impl Recovering {
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
            let frame_max = cx.transmit.frame_max();
            if let Err(error) = Subscription::check_size(&consumer.sources, frame_max) {
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
            forget_missing_queue(cx, consuming, id, error);
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
        let is_exclusive = consumer
            .sources
            .iter()
            .any(|subscription| subscription.exclusive);
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
        let Some((source, subscription)) =
            source.and_then(|source| Some((source, consumer.sources.get(source)?)))
        else {
            return false;
        };
        let missing = [ReplayStep::Queue(
            cx.topology
                .current(subscription.queue.as_short_str())
                .into(),
        )];
        if !self
            .replay
            .as_mut()
            .is_some_and(|replay| replay.miss(&missing))
        {
            if consumer.live_sources() < 2 {
                return false;
            }
            if let Some(replay) = &mut self.replay {
                let queue = String::from_utf8_lossy(&subscription.queue);
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

/// Forgets the queue that a new consumer was to consume, if the broker does not know it.
fn forget_missing_queue(cx: &mut Context, consuming: &Consuming, id: ConsumerId, error: &Error) {
    let consumer = consuming.consumers.get(id);
    let is_new = |consumer: &&Consumer| matches!(consumer.phase, Phase::Starting(_));
    if let (Error::NotFound(fault), Some(consumer)) = (error, consumer.filter(is_new))
        && !is_not_now(error, false)
        && let Some(source) =
            consumer.missing_source(&fault.text, |queue| cx.topology.current(queue))
        && let Some(queue) = consumer
            .sources
            .get(source)
            .map(|subscription| subscription.queue.clone())
    {
        cx.topology.forget_queue(queue.as_short_str());
    }
}
