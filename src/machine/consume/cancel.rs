//! The end of consumers: cancelled by the program or by the server, or with their channel (spec
//! 1.8.3.5).

use crate::error::Error;
use crate::machine::consume::Consuming;
use crate::machine::consume::consumer::{Consumer, Phase};
use crate::machine::consume::tags::TagNumber;
use crate::machine::context::{Context, Stage};
use crate::machine::recovery::failed_consumer;
use crate::machine::{ConsumerId, Ended, Notice, PromiseId, Reply};
use crate::protocol::ShortString;
use crate::protocol::method::basic;

impl Consuming {
    /// Cancels a consumer. Its buffered deliveries are returned to the queue once the broker has
    /// confirmed the cancel. Deliveries that need no ack stay buffered, because they would be lost.
    pub(crate) fn cancel(&mut self, cx: &mut Context, id: ConsumerId) -> Result<PromiseId, Error> {
        if self.consumers.get(id).is_none_or(Consumer::has_ended) {
            return Err(Error::Stale);
        }
        let promise = cx.counted_promise();
        if let Some(consumer) = self.consumers.get_mut(id) {
            consumer.cancelling.push(promise);
        }
        self.begin_cancel(cx, id);
        Ok(promise)
    }

    /// Begins to cancel a consumer, as far as its phase allows. A consumer that is starting is
    /// cancelled at `consume-ok`.
    pub(crate) fn begin_cancel(&mut self, cx: &mut Context, id: ConsumerId) {
        let Some(consumer) = self.consumers.get(id) else {
            return;
        };
        let (is_live, is_restoring) = (
            matches!(consumer.phase, Phase::Live),
            matches!(consumer.phase, Phase::Restoring),
        );
        if consumer.dropped || is_live && !consumer.no_ack {
            self.consumers.return_buffered(cx, id);
        }
        if is_restoring {
            self.end_restoring(cx, id);
        } else if is_live {
            self.consumers.cancel_all(cx, id);
        }
    }

    /// Ends a consumer that is being restored: at once, or at `consume-ok` if its `basic.consume`
    /// is written.
    pub(crate) fn end_restoring(&mut self, cx: &mut Context, id: ConsumerId) {
        if self
            .consumers
            .get(id)
            .is_some_and(|consumer| consumer.channel == 0)
        {
            self.end_consumer(cx, id, Ended::Cancelled);
        }
    }

    /// Handles `cancel-ok`.
    pub(crate) fn cancel_ok(&mut self, cx: &mut Context, id: ConsumerId, tag: TagNumber) {
        // The server may have cancelled the consumer first, and the program may have dropped it.
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        if consumer.tags.end(tag) && !consumer.has_ended() {
            self.end_consumer(cx, id, Ended::Cancelled);
        }
        self.complete_resizes(cx, id);
        self.unthrottle(cx, id);
    }

    /// Handles a cancel by the server. Earlier deliveries can still be taken.
    pub(crate) fn server_cancels(
        &mut self,
        cx: &mut Context,
        number: u16,
        cancel: basic::Cancel<'_>,
    ) {
        if !cancel.nowait {
            cx.write(
                number,
                &basic::CancelOk {
                    consumer_tag: cancel.consumer_tag,
                },
            );
        }
        self.consumers
            .confirm_server_cancel(cx, number, cancel.consumer_tag);
        let id = cx.channels.get(number).and_then(|channel| channel.consumer);
        // The cancel may be for a consumer that this side has cancelled before.
        let (Some(id), Some(tag)) = (id, TagNumber::of(cancel.consumer_tag)) else {
            return;
        };
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        // The tag may have ended by `cancel-ok` before.
        let Some(source) = consumer.tags.find(tag).map(|tag| tag.source) else {
            return;
        };
        let has_ended = consumer.tags.end(tag);
        let is_last_tag = consumer.tags.iter().all(|tag| tag.source != source);
        let subscription = consumer
            .sources
            .get(source as usize)
            .filter(|_| is_last_tag);
        let queue = subscription.map(|subscription| subscription.queue.clone());
        if queue.is_some() && !has_ended {
            self.end_source(cx, id, source as usize, Ended::CancelledByServer);
        }
        if has_ended {
            // RabbitMQ 4.3 has a timeout for each delivery. If one passes when the consumer is
            // already cancelled, the broker closes the channel (406), with the request on it.
            if let Some(channel) = cx.channels.get_mut(number) {
                channel.may_be_closed_by_broker |= channel.unsettled.count() > 0;
            }
            let tag = self.consumers.get(id).map_or("", Consumer::tag).into();
            self.end_consumer(cx, id, Ended::CancelledByServer);
            cx.notices.notify(&Notice::ConsumerCancelled(tag));
            cx.release(number);
        }
        // The queue was deleted, or it is durable and need not be replayed. The broker cancels all
        // consumers of a deleted queue, so while another one is left, the queue exists. A consumer
        // also ends alone, such as after an acknowledgement timeout (RabbitMQ 4.3).
        if let Some(queue) = queue.filter(|queue| !self.consumers.is_consumed(queue)) {
            cx.topology.forget_queue(queue.as_short_str());
        }
    }

    /// Ends one queue of a consumer that continues with its other queues.
    pub(crate) fn end_source(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        source: usize,
        reason: Ended,
    ) {
        let Some(consumer) = self.consumers.get(id) else {
            return;
        };
        let tag = consumer.tag().into();
        let Some(subscription) = consumer.sources.get(source) else {
            return;
        };
        let queue = String::from_utf8_lossy(&subscription.queue).into();
        self.consumers.end_source(id, source, reason.clone());
        cx.notices.notify(&Notice::QueueEnded {
            tag,
            queue,
            why: reason,
        });
    }

    /// Ends a consumer. Its promises complete, and its channel can be used again when everything is
    /// settled.
    pub(crate) fn end_consumer(&mut self, cx: &mut Context, id: ConsumerId, ended: Ended) {
        // Its end may have several causes, and only the first one counts.
        let consumer = self.consumers.get_mut(id);
        let Some(consumer) = consumer.filter(|it| !it.has_ended()) else {
            return;
        };
        let tag: Box<str> = consumer.tag().into();
        let number = consumer.channel;
        let was_lost = matches!(ended, Ended::Cancelled)
            && !matches!(cx.stage, Stage::Open | Stage::Restoring);
        let queues = consumer.consumed_queues(was_lost);
        let (cancelling, resizing) = consumer.take_promises();
        let Some(phase) = self.consumers.end(id, ended.clone()) else {
            return;
        };
        let is_lost = matches!(ended, Ended::ChannelClosed(_) | Ended::ConnectionBroken(_));
        let error = match ended {
            Ended::ChannelClosed(error) | Ended::ConnectionBroken(error) => Some(error),
            Ended::Cancelled | Ended::CancelledByServer => None,
        };
        for promise in cancelling {
            let cancelled = || Ok(Reply::Cancelled(tag.clone()));
            cx.complete(promise, error.clone().map_or_else(cancelled, Err));
        }
        for promise in resizing {
            cx.complete(promise, Err(error.clone().unwrap_or(Error::Stale)));
        }
        if let Phase::Starting(promise) = phase {
            let error = error
                .clone()
                .unwrap_or_else(|| Error::ConsumerCancelled(tag.to_string()));
            cx.complete(promise, Err(error));
            if let Some(consumer) = self.consumers.get_mut(id) {
                consumer.dropped = true;
            }
        }
        if is_lost {
            // They can no longer be settled, and the broker delivers them again.
            self.consumers.discard_unsettled(id);
        }
        cx.channels.remove_consumer(number, id);
        self.forget_unused_queues(cx, queues);
        // Other work can use the channel that was reserved for it.
        cx.may_start |= self.resubscription.done(id);
        self.consumers.announce(id);
        self.consumers.remove_if_over(id);
        cx.attention = true;
        if let (Phase::Restoring, Some(error)) = (phase, error) {
            // Once the connection is open, the report already contains the consumer.
            if cx.stage != Stage::Open {
                let failed = failed_consumer(&tag, &error);
                self.resubscription.failed.push(failed);
            }
        }
    }

    /// Ends all consumers.
    pub(crate) fn end_consumers(&mut self, cx: &mut Context, ended: &Ended) {
        for id in self.consumers.ids() {
            self.end_consumer(cx, id, ended.clone());
        }
    }

    /// Stops the deliveries of all consumers, because the connection closes. The broker requeues
    /// what it has delivered.
    pub(crate) fn stop_consumers(&mut self, cx: &mut Context) {
        for id in self.consumers.ids() {
            let consumer = self.consumers.get(id);
            if consumer.is_some_and(|consumer| matches!(consumer.phase, Phase::Live)) {
                self.consumers.cancel_all(cx, id);
            }
        }
    }

    /// Removes the queues from the record that the broker has deleted because their last consumer
    /// has ended.
    fn forget_unused_queues(&self, cx: &mut Context, queues: Vec<ShortString>) {
        for queue in queues {
            // "If set, the queue is deleted when all consumers have finished using it. [..] If
            // there was no consumer ever on the queue, it won't be deleted" (1.7.2.1, auto-delete).
            if cx.topology.is_auto_delete(queue.as_short_str())
                && !self.consumers.is_consumed(&queue)
            {
                cx.topology.forget_queue(queue.as_short_str());
            }
        }
    }

    /// Drops interest in a consumer. It is cancelled, and its buffered deliveries are returned to
    /// the queue.
    pub(crate) fn drop_consumer(&mut self, cx: &mut Context, id: ConsumerId) {
        // A consumer that never started is removed when it ends.
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        consumer.dropped = true;
        if consumer.has_ended() {
            let number = consumer.channel;
            self.consumers.return_buffered(cx, id);
            self.consumers.remove_if_over(id);
            cx.release(number);
        } else {
            self.begin_cancel(cx, id);
        }
    }
}
