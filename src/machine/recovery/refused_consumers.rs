//! Consumers that the broker refuses to restart: whether and when they are restarted again.

use crate::error::Error;
use crate::machine::consume::Consuming;
use crate::machine::consume::consumer::{Consumer, Phase};
use crate::machine::consume::interruption::{end_refused, interrupt};
use crate::machine::consume::restarting::fail_recovery;
use crate::machine::context::Context;
use crate::machine::deadline::later;
use crate::machine::recovery::Recovering;
use crate::machine::recovery::refusal::is_temporary;
use crate::machine::recovery::step::ReplayStep;
use crate::machine::{ConsumerId, Ended};

impl Recovering {
    /// Handles the close of a consumer's channel by the broker. The consumer ends, unless it is
    /// being restarted, and can be restarted once more or is part of a strict recovery.
    pub(crate) fn handle_consumer_close(
        &mut self,
        cx: &mut Context,
        consuming: &mut Consuming,
        id: ConsumerId,
        error: &Error,
    ) {
        let why = Ended::by_close(error);
        if consuming.consumers.restarting(id).is_none() {
            if !interrupt(cx, consuming, id, &why) {
                forget_missing_queue(cx, consuming, id, error);
                consuming.end_consumer(cx, id, why);
            }
        } else if !(schedule_retry(cx, consuming, id, error)
            || self.wait_for_late_queue(cx, consuming, id, error)
            || self.handle_missing_queue(cx, consuming, id, error)
            || wait_for_queue(cx, consuming, id, error)
            || fail_recovery(cx, consuming, id, error))
        {
            end_refused(cx, consuming, id, error);
        }
    }

    /// Schedules another restart of a consumer whose queue is declared again later.
    fn wait_for_late_queue(
        &self,
        cx: &mut Context,
        consuming: &mut Consuming,
        id: ConsumerId,
        error: &Error,
    ) -> bool {
        let consumer = consuming.consumers.restarting(id);
        let mut subscriptions = consumer.into_iter().flat_map(Consumer::live_subscriptions);
        let is_declared_later = subscriptions.any(|(_, it)| {
            let queue = cx.topology.current(it.queue.as_short_str());
            self.is_restored_later(&ReplayStep::Queue(queue.into()))
        });
        drop(subscriptions);
        matches!(error, Error::NotFound(_))
            && is_declared_later
            && restart_later(cx, consuming, id, error)
    }

    /// Restarts a consumer whose queue is missing: after another replay if the queue was declared
    /// in this recovery, else without the queue if it has others. Returns `false` if it cannot be
    /// restarted, or no queue is missing.
    fn handle_missing_queue(
        &mut self,
        cx: &mut Context,
        consuming: &mut Consuming,
        id: ConsumerId,
        error: &Error,
    ) -> bool {
        let consumer = consuming.consumers.restarting(id);
        let (Error::NotFound(fault), Some(consumer)) = (error, consumer) else {
            return false;
        };
        let missing =
            consumer.missing_subscription(&fault.text, |queue| cx.topology.current(queue));
        let Some((index, subscription)) = missing else {
            return false;
        };
        let current = cx.topology.current(subscription.queue.as_short_str());
        let missing = [ReplayStep::Queue(current.into())];
        let replay = self.replay.as_mut();
        let is_replayed = replay.is_some_and(|replay| replay.note_missing(&missing));
        if !is_replayed {
            if consuming.restarts.is_strict() || consumer.live_subscriptions().count() < 2 {
                return false;
            }
            if let Some(replay) = &mut self.replay {
                let queue = String::from_utf8_lossy(&subscription.queue);
                let what = format!("queue {queue:?} of consumer {:?}", consumer.tag());
                replay.report.failed.push((what.into(), error.clone()));
            }
            consuming.end_subscription(cx, id, index, Ended::ChannelClosed(error.clone()));
        }
        consuming.consumers.leave_channel(cx, id);
        consuming.restarts.queue_again(id);
        true
    }
}

/// Schedules another restart of a consumer if the refusal is temporary and the retry limit has not
/// passed. Returns `false` if the refusal is final.
fn schedule_retry(
    cx: &mut Context,
    consuming: &mut Consuming,
    id: ConsumerId,
    error: &Error,
) -> bool {
    let consumer = consuming.consumers.restarting(id);
    consumer.is_some_and(|it| is_temporary(error, it.is_exclusive()))
        && restart_later(cx, consuming, id, error)
}

/// Schedules another restart of a consumer whose only queue does not exist, if the user wants to
/// wait for the queue.
fn wait_for_queue(
    cx: &mut Context,
    consuming: &mut Consuming,
    id: ConsumerId,
    error: &Error,
) -> bool {
    let consumer = consuming.consumers.get_mut(id);
    matches!(error, Error::NotFound(_))
        && consumer.is_some_and(|it| it.wait_for_queue(cx.now))
        && restart_later(cx, consuming, id, error)
}

/// Restarts the consumers whose restart got no reply in time, on other channels and after a delay.
/// Waits longer while reading is paused, because the replies may be unread.
pub(crate) fn restart_overdue(cx: &mut Context, consuming: &mut Consuming) {
    let after = cx.options.timeouts.request;
    if !consuming.reading.is_on() {
        return consuming.restarts.postpone_overdue(later(cx.now, after));
    }
    for id in consuming.restarts.take_overdue(cx.now) {
        let what = "restarting the consumer";
        let error = Error::Timeout { what, after };
        let consumer = consuming.consumers.restarting(id);
        if let Some(number) = consumer.and_then(|it| it.channel) {
            cx.channels.remove_consumer(number, id);
            cx.close_channel(number);
        }
        if !restart_later(cx, consuming, id, &error) {
            end_refused(cx, consuming, id, &error);
        }
    }
}

/// Schedules another restart of a refused consumer, unless the retry limit has passed. Ends the
/// consumer instead if the program does not use it any more. Returns `false` if the limit has
/// passed.
fn restart_later(
    cx: &mut Context,
    consuming: &mut Consuming,
    id: ConsumerId,
    error: &Error,
) -> bool {
    let limit = consuming.restarts.retry_limit(cx.now);
    // Unreachable: the caller has found the consumer.
    let Some(consumer) = consuming.consumers.get_mut(id) else {
        return false;
    };
    let is_used = !consumer.dropped && consumer.cancel_promises.is_empty();
    let Some(at) = consumer.restarts.plan_retry(limit, cx.now) else {
        return false;
    };
    consuming.restarts.delay(id, error.clone(), at);
    consuming.consumers.leave_channel(cx, id);
    if !is_used {
        consuming.end_consumer(cx, id, Ended::Cancelled);
    }
    true
}

/// Removes from the record a queue that a new consumer requested and that does not exist.
fn forget_missing_queue(cx: &mut Context, consuming: &Consuming, id: ConsumerId, error: &Error) {
    let consumer = consuming.consumers.get(id);
    let new = consumer.filter(|consumer| matches!(consumer.phase, Phase::Starting(_)));
    let (Error::NotFound(fault), Some(new)) = (error, new) else {
        return;
    };
    if is_temporary(error, false) {
        return;
    }
    let missing = new.missing_subscription(&fault.text, |queue| cx.topology.current(queue));
    if let Some(queue) = missing.map(|(_, subscription)| subscription.queue.clone()) {
        cx.topology.forget_queue(queue.as_short_str());
    }
}
