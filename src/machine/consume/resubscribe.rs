//! Suspending consumers when the connection is lost, and restarting them on the next one.

use crate::error::Error;
use crate::machine::channel::Resize;
use crate::machine::consume::Consuming;
use crate::machine::consume::consumer::Phase;
use crate::machine::consume::pending::{QueuedConsume, open_consumer_channel};
use crate::machine::context::{Context, Stage};
use crate::machine::publish::Publishing;
use crate::machine::recovery::blame::Blame;
use crate::machine::{ConsumerId, Ended, Notice};
use crate::protocol::method::basic;

impl Consuming {
    /// Suspends a pending change of a prefetch count. The consumer restarts with the changed count.
    /// If the broker closed the connection because of the change, it restarts with the count
    /// before.
    pub(crate) fn suspend_resize(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        resize: Resize,
        error: &Error,
        blame: &Blame,
    ) {
        let is_refused = blame.is_on(resize.promise);
        if let Some(consumer) = self.consumers.get_mut(id) {
            // Changes are suspended in the order in which they were sent, so the last one applies.
            consumer.wanted_prefetch = is_refused.then_some(resize.before);
            if !is_refused {
                consumer.resizing.push(resize.promise);
                return;
            }
        }
        let refusal = if is_refused {
            error.clone()
        } else {
            Error::Stale
        };
        cx.complete(resize.promise, Err(refusal));
    }

    /// Suspends a consumer because the connection is lost. A live consumer is restored on the next
    /// connection, and one that is starting is queued again.
    pub(crate) fn suspend_consumer(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        error: &Error,
        blame: &Blame,
        is_narrowed: bool,
    ) {
        // On an open connection, a request of the program may be the cause as well.
        let is_alone = self.resubscription.is_starting_one() && matches!(blame, Blame::NoRequest);
        // Starting a consumer sends `basic.qos` and `basic.consume`.
        let is_named = error.names_method(basic::Consume::ID) || error.names_method(basic::Qos::ID);
        let is_known = is_named || is_narrowed;
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        match consumer.phase {
            // Its buffered deliveries can no longer be settled, either.
            Phase::Ended(_) => self.consumers.lose_unsettled(id),
            Phase::Starting(promise) if blame.is_on(promise) => {
                self.end_consumer(cx, id, Ended::ConnectionBroken(error.clone()));
            }
            Phase::Restoring
                if consumer.channel != 0
                    && error.is_caused_by_request()
                    && is_alone
                    && is_known =>
            {
                self.end_consumer(cx, id, Ended::ConnectionBroken(error.clone()));
            }
            Phase::Starting(promise) => {
                let prefetch_count = consumer.wanted_prefetch_count();
                let Some(consumer) = self.consumers.remove(id) else {
                    return;
                };
                let shares_prefetch_count = consumer.shared_prefetch_count.is_some();
                let queued = QueuedConsume {
                    promise,
                    sources: consumer.sources,
                    no_ack: consumer.no_ack,
                    prefetch_count,
                    shares_prefetch_count,
                    is_suspected: blame.suspects(promise),
                };
                cx.queued_request_bytes += queued.size();
                self.queued.push_front(queued);
            }
            // The loss of the connection has ended it on the broker.
            Phase::Cancelling => self.end_consumer(cx, id, Ended::Cancelled),
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

    /// Restarts a consumer. Returns `false` if there is no channel for it.
    pub(crate) fn restore_consumer(
        &mut self,
        cx: &mut Context,
        publishing: &mut Publishing,
        id: ConsumerId,
    ) -> bool {
        // Live consumers and publishers may use all channels for now.
        let Some(number) = open_consumer_channel(cx, publishing) else {
            return false;
        };
        if let Some(channel) = cx.channels.get_mut(number) {
            channel.consumer = Some(id);
        }
        let Some(consumer) = self.consumers.get_mut(id) else {
            return true;
        };
        consumer.channel = number;
        consumer.starting = consumer.live_sources();
        let prefetch_count = consumer.wanted_prefetch_count();
        if let Some(shared) = &mut consumer.shared_prefetch_count {
            *shared = prefetch_count;
        }
        self.consumers
            .write_consumes(cx, number, id, prefetch_count);
        true
    }

    /// Records that a consumer has restarted.
    pub(crate) fn consumer_restored(&mut self, cx: &mut Context, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        consumer.phase = Phase::Live;
        if cx.stage == Stage::Restoring {
            self.resubscription.restored += 1;
        } else {
            cx.notices
                .notify(&Notice::ConsumerRestored(consumer.tag().into()));
        }
        self.resubscription.done(id);
        self.apply_suspended_calls(cx, id);
    }

    /// Applies the calls to a consumer that were made while it was being restored.
    pub(crate) fn apply_suspended_calls(&mut self, cx: &mut Context, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        let wanted = consumer.wanted_prefetch.take();
        if consumer.dropped || !consumer.cancelling.is_empty() {
            self.begin_cancel(cx, id);
            return;
        }
        // Usually the prefetch count was not changed meanwhile.
        let Some(promise) = consumer.resizing.pop() else {
            return;
        };
        match consumer.check_resize(wanted.unwrap_or_default()) {
            Ok(()) => self.resize(cx, id, wanted.unwrap_or_default(), promise),
            Err(error) => {
                let all = std::mem::take(&mut consumer.resizing);
                for promise in all.into_iter().chain([promise]) {
                    cx.complete(promise, Err(error.clone()));
                }
            }
        }
    }
}
