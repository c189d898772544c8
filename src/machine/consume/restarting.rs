//! Suspending consumers when the connection is lost, and restarting them on the next one.

use crate::error::Error;
use crate::machine::channel::Resize;
use crate::machine::consume::Consuming;
use crate::machine::consume::consumer::{Consumer, Phase, QueuedConsume, Subscription};
use crate::machine::consume::consumers::Consumers;
use crate::machine::consume::interruption::end_refused;
use crate::machine::consume::opening::{may_get_channel, open_consumer_channel};
use crate::machine::context::{Context, Stage};
use crate::machine::deadline::later;
use crate::machine::publish::Publishing;
use crate::machine::recovery::close_cause::CloseCause;
use crate::machine::recovery::retry_limit;
use crate::machine::{ConsumerId, Ended, Notice, PromiseId};
use crate::protocol::MethodId;
use crate::protocol::method::basic;

impl Consuming {
    /// Suspends a pending change of a prefetch count. The consumer restarts with the changed count.
    /// If the broker closed the connection because of the change, the change fails, and the
    /// consumer restarts with the count before.
    pub(crate) fn suspend_resize(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        resize: Resize,
        error: &Error,
        close_cause: &CloseCause,
    ) {
        let is_cause = close_cause.is(resize.promise);
        if let Some(consumer) = self.consumers.get_mut(id) {
            // Changes are suspended in the order in which they were sent, so the last one applies.
            consumer.restart_prefetch_count = is_cause.then_some(resize.before);
            if !is_cause {
                consumer.resize_promises.push(resize.promise);
                return;
            }
        }
        // The change is the cause, or its consumer is removed.
        let error = if is_cause {
            error.clone()
        } else {
            Error::Stale
        };
        cx.complete(resize.promise, Err(error));
    }

    /// Suspends a consumer because the connection is lost. A live consumer is restarted on the next
    /// connection, and one that is starting is queued again. The consumer over which the broker
    /// closed the connection ends, or is quarantined if the error may pass.
    ///
    /// `one_at_a_time` means that consumers were restarted one at a time. Then a close identifies
    /// the one that caused it, even if the close names no method.
    pub(crate) fn suspend_consumer(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        error: &Error,
        close_cause: &CloseCause,
        one_at_a_time: bool,
    ) {
        // If several consumers were restarting, or a request may be the cause as well, the close
        // does not identify the consumer.
        let is_over_a_restart = error.is_caused_by_request()
            && matches!(close_cause, CloseCause::NoRequest)
            && self.restarts.is_starting_one()
            && !self.restarts.is_strict();
        let limit = retry_limit(cx);
        // Unreachable: the caller has the id from the list of consumers.
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        match consumer.phase {
            // Its buffered deliveries can no longer be settled, either.
            Phase::Ended(_) => self.consumers.lose_unsettled(id),
            Phase::Starting(promise) if close_cause.is(promise) => {
                let error = close_cause.error(error);
                self.end_consumer(cx, id, Ended::ConnectionBroken(error));
            }
            Phase::Restarting
                if is_over_a_restart
                    && consumer.caused_close(error, one_at_a_time)
                    && !(is_temporary_close(error)
                        && consumer.restarts.quarantine(error, limit, cx.now)) =>
            {
                self.end_consumer(cx, id, Ended::ConnectionBroken(error.clone()));
            }
            Phase::Starting(promise) => {
                self.queue_again(cx, id, promise, close_cause.may_be(promise));
            }
            // The broker cancelled it when the connection was lost.
            Phase::Cancelling => self.end_consumer(cx, id, Ended::Cancelled),
            Phase::Live | Phase::Restarting => {
                consumer.restarts.handle_loss();
                consumer.suspend();
                forget_cancelled_queues(&self.consumers, cx, id);
                self.consumers.lose_unsettled(id);
            }
        }
    }

    /// Queues the start of a consumer again, because a loss interrupted it. The program does not
    /// have the consumer yet, so it gets another id.
    fn queue_again(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        promise: PromiseId,
        is_possible_cause: bool,
    ) {
        // Unreachable: the caller has found the consumer.
        let Some(consumer) = self.consumers.remove(id) else {
            return;
        };
        let queued = consumer.into_queued(promise, is_possible_cause);
        cx.queued_request_bytes += queued.size();
        self.queued.push_front(queued);
    }

    /// Starts the queued restarts while there are channels. Ends consumers that do not fit the
    /// negotiated channel or frame limit, which may be lower than before, or fails the recovery.
    pub(crate) fn start_restarts(
        &mut self,
        cx: &mut Context,
        publishing: &mut Publishing,
        one_at_a_time: bool,
    ) {
        while let Some(id) = self.restarts.front() {
            if one_at_a_time && self.restarts.is_starting() {
                return;
            }
            let consumer = self.consumers.restarting(id);
            // A recovery queues all consumers, ended ones included. Those are skipped here.
            let Some(consumer) = consumer.filter(|it| it.channel.is_none()) else {
                self.restarts.remove_front();
                continue;
            };
            let frame_max = cx.transmit.frame_max();
            if let Err(error) = Subscription::check_size(&consumer.subscriptions, frame_max) {
                self.restarts.remove_front();
                if !fail_recovery(cx, self, id, &error) {
                    end_refused(cx, self, id, &error);
                }
            } else if let Some(number) = open_consumer_channel(cx, publishing) {
                let overdue = later(cx.now, cx.options.timeouts.request);
                self.restarts.record_front_started(overdue);
                self.consumers.restart_on(cx, number, id);
            } else if may_get_channel(cx, &self.restarts) {
                return;
            } else {
                self.restarts.remove_front();
                let error = Error::ChannelLimit;
                if !delay_without_channel(cx, self, id) && !fail_recovery(cx, self, id, &error) {
                    end_refused(cx, self, id, &error);
                }
            }
        }
    }

    /// Reports that a consumer has restarted, and applies the calls that were made meanwhile.
    pub(crate) fn finish_restart(&mut self, cx: &mut Context, id: ConsumerId) {
        // The report of the recovery counts the consumers that restart before it.
        let was_interrupted = self.consumers.record_restart(id, cx.now);
        cx.counters.restarted_consumers += u64::from(was_interrupted);
        let is_in_report = cx.stage == Stage::Restoring;
        self.restarts.restarted += usize::from(is_in_report);
        if !is_in_report || was_interrupted {
            let tag = self.consumers.get(id).map_or("", Consumer::tag);
            cx.notices.notify(&Notice::ConsumerRestored(tag.into()));
        }
        self.restarts.remove(id);
        self.apply_suspended_calls(cx, id);
    }

    /// Applies the cancels and the changes of the prefetch count that are pending since the loss.
    fn apply_suspended_calls(&mut self, cx: &mut Context, id: ConsumerId) {
        // Unreachable: the consumer is live.
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        let Some(number) = consumer.live_channel() else {
            return;
        };
        let prefetch_count = consumer.restart_prefetch_count.take().unwrap_or_default();
        if consumer.dropped || !consumer.cancel_promises.is_empty() {
            self.begin_cancel(cx, id);
            return;
        }
        // Usually the prefetch count was not changed meanwhile.
        let Some(promise) = consumer.resize_promises.pop() else {
            return;
        };
        match consumer.check_resize(prefetch_count) {
            Ok(()) => self.resize(cx, number, id, prefetch_count, promise),
            Err(error) => {
                let earlier = std::mem::take(&mut consumer.resize_promises);
                for promise in earlier.into_iter().chain([promise]) {
                    cx.complete(promise, Err(error.clone()));
                }
            }
        }
    }
}

impl Consumer {
    /// Returns the request that starts the consumer again.
    fn into_queued(self, promise: PromiseId, is_possible_cause: bool) -> QueuedConsume {
        QueuedConsume {
            promise,
            prefetch_count: self.wanted_prefetch_count(),
            resubscribe: self.restarts.policy(),
            on_drop: self.on_drop,
            shares_prefetch_count: self.shared_prefetch_count.is_some(),
            subscriptions: self.subscriptions,
            no_ack: self.no_ack,
            is_possible_cause,
        }
    }

    /// Returns `true` if the only consumer that is being restarted is the cause of a close. One
    /// that has no channel yet is not. `one_at_a_time` means that consumers were restarted one at a
    /// time.
    fn caused_close(&self, error: &Error, one_at_a_time: bool) -> bool {
        // Restarting a consumer writes `basic.qos` and `basic.consume`.
        let names_restart =
            error.names_method(basic::Consume::ID) || error.names_method(basic::Qos::ID);
        self.channel.is_some() && (names_restart || one_at_a_time || self.restarts.is_quarantined())
    }
}

/// Returns `true` if the next restart of the consumer may succeed: the close is an internal error,
/// or it names no method. RabbitMQ reports a crashed channel in that way.
fn is_temporary_close(error: &Error) -> bool {
    let names_none = error.fault().is_some_and(|it| it.method == MethodId::NONE);
    names_none || matches!(error, Error::InternalError(_))
}

/// Fails the recovery if it is strict and needs the consumer, which cannot be restarted. Returns
/// `false` if the consumer ends instead. A consumer that the broker had ended, or that the program
/// no longer uses, is not needed.
pub(crate) fn fail_recovery(
    cx: &Context,
    consuming: &mut Consuming,
    id: ConsumerId,
    error: &Error,
) -> bool {
    let consumer = consuming.consumers.restarting(id);
    let is_needed = consumer.is_some_and(|it| {
        !it.dropped && it.cancel_promises.is_empty() && it.restarts.interruption().is_none()
    });
    if !is_needed || !consuming.restarts.fail_strictly(id, error) {
        return false;
    }
    consuming.consumers.leave_channel(cx, id);
    true
}

/// Restarts a consumer later for which there is no channel, if a limit of the broker is the reason:
/// the broker may count the channels of the lost connection. Returns `false` if the negotiated
/// limit is the reason, or the retry limit has passed.
fn delay_without_channel(cx: &Context, consuming: &mut Consuming, id: ConsumerId) -> bool {
    let retry_limit = consuming.restarts.retry_limit(cx.now);
    let consumer = consuming.consumers.get_mut(id);
    let Some(consumer) = consumer.filter(|_| cx.channels.is_limited_by_broker()) else {
        return false;
    };
    let Some(at) = consumer.restarts.plan_retry(retry_limit, cx.now) else {
        return false;
    };
    consuming.restarts.delay(id, Error::ChannelLimit, at);
    true
}

/// Removes from the record the queues of a consumer that the server cancelled and that was not
/// restarted. Otherwise, a deleted queue would be declared again. A durable queue exists without
/// being declared.
fn forget_cancelled_queues(consumers: &Consumers, cx: &mut Context, id: ConsumerId) {
    let consumer = consumers.get(id).filter(|it| it.restarts.is_cancelled());
    for (_, subscription) in consumer.into_iter().flat_map(Consumer::live_subscriptions) {
        if !consumers.is_consumed(&subscription.queue) {
            cx.topology.forget_queue(subscription.queue.as_short_str());
        }
    }
}

impl Consumers {
    /// Restarts a consumer on a channel.
    fn restart_on(&mut self, cx: &mut Context, number: u16, id: ConsumerId) {
        // Unreachable: the caller has found the consumer.
        let Some(consumer) = self.get_mut(id) else {
            return;
        };
        if let Some(channel) = cx.channels.get_mut(number) {
            channel.set_consumer(id);
        }
        consumer.channel = Some(number);
        consumer.pending_starts = consumer.live_subscriptions().count();
        let prefetch_count = consumer.wanted_prefetch_count();
        if let Some(shared) = &mut consumer.shared_prefetch_count {
            *shared = prefetch_count;
        }
        self.write_consumes(cx, number, id, prefetch_count);
    }

    /// Records that a consumer that is being restarted has lost its channel.
    pub(crate) fn leave_channel(&mut self, cx: &Context, id: ConsumerId) {
        if let Some(consumer) = self.get_mut(id) {
            consumer.tags.clear();
            consumer.channel = None;
        }
        self.lose_stale(cx, id);
    }
}
