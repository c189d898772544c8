//! The end of consumers: cancelled by the program or by the server, or with their channel (spec
//! 1.8.3.5).

use crate::error::Error;
use crate::machine::channel::Channel;
use crate::machine::consume::Consuming;
use crate::machine::consume::consumer::Phase;
use crate::machine::consume::consumers::Consumers;
use crate::machine::consume::interruption::{end_cancelled, interrupt};
use crate::machine::consume::tags::TagNumber;
use crate::machine::context::{Context, Stage};
use crate::machine::{ConsumerId, Ended, Notice, PromiseId, Reply};
use crate::protocol::ShortString;
use crate::protocol::method::basic;

impl Consuming {
    /// Cancels a consumer. Its buffered deliveries are returned to their queues once the broker has
    /// confirmed the cancel. Deliveries that need no ack stay buffered. They would be lost
    /// otherwise.
    pub(crate) fn cancel(&mut self, cx: &mut Context, id: ConsumerId) -> Result<PromiseId, Error> {
        let consumer = self.consumers.get_mut(id);
        let consumer = consumer.filter(|it| !it.has_ended()).ok_or(Error::Stale)?;
        let promise = cx.counted_promise();
        consumer.cancel_promises.push(promise);
        self.begin_cancel(cx, id);
        Ok(promise)
    }

    /// Begins to cancel a consumer, as far as its phase allows. One that is starting or restarting
    /// is cancelled when all its `consume-ok` have arrived.
    pub(crate) fn begin_cancel(&mut self, cx: &mut Context, id: ConsumerId) {
        // Unreachable: the caller has found the consumer.
        let Some(consumer) = self.consumers.get(id) else {
            return;
        };
        let is_live = matches!(consumer.phase, Phase::Live);
        let waits_for_channel = consumer.is_restarting() && consumer.channel.is_none();
        // One that waits for a channel may have deliveries of an earlier channel.
        let is_over = is_live || waits_for_channel;
        if consumer.dropped || is_over && !consumer.no_ack {
            self.consumers.return_buffered(cx, id);
        }
        if is_live {
            self.consumers.cancel_all(cx, id);
        } else if waits_for_channel {
            // The broker does not know it, so no `cancel-ok` follows.
            self.end_consumer(cx, id, Ended::Cancelled);
        }
    }

    /// Handles `cancel-ok`.
    pub(crate) fn handle_cancel_ok(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        tag: TagNumber,
    ) {
        // The server may have cancelled the consumer first. Then the program may have dropped it,
        // or it was restarted on another channel, where its tag is the same.
        let consumer = self.consumers.get_mut(id);
        let Some(consumer) = consumer.filter(|it| it.channel == Some(number)) else {
            return;
        };
        if consumer.tags.remove(tag) && !consumer.has_ended() {
            self.end_consumer(cx, id, Ended::Cancelled);
        }
        self.consumers.complete_resizes(cx, id);
        self.unthrottle(cx, id);
    }

    /// Handles a cancel by the server. Earlier deliveries can still be taken.
    pub(crate) fn handle_server_cancel(
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
        let id = cx.channels.get(number).and_then(Channel::consumer);
        // The cancel may be for a consumer that this side has cancelled before.
        let (Some(id), Some(tag)) = (id, TagNumber::of(cancel.consumer_tag)) else {
            return;
        };
        // Unreachable: a consumer leaves its channel when it ends, and is removed only afterwards.
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        // `cancel-ok` may have ended the tag before.
        let Some(index) = consumer.tags.find(tag).map(|tag| tag.subscription) else {
            return;
        };
        // The prefetch count of the restart is that of all tags, before the broker removed any.
        consumer.restart_prefetch_count = Some(consumer.wanted_prefetch_count());
        let has_ended = consumer.tags.remove(tag);
        let is_last_of_queue = consumer.tags.iter().all(|tag| tag.subscription != index);
        let subscription = consumer.subscriptions.get(index as usize);
        let ended = subscription.filter(|_| is_last_of_queue);
        let queue = ended.map(|subscription| subscription.queue.clone());
        if queue.is_some() && !has_ended {
            self.end_subscription(cx, id, index as usize, Ended::CancelledByServer);
        }
        if has_ended {
            // RabbitMQ 4.3 has a timeout for each delivery. If one passes after the consumer was
            // cancelled, the broker closes the channel (406), and a request on it would fail.
            if let Some(channel) = cx.channels.get_mut(number) {
                channel.may_be_closed_by_broker |= channel.unsettled.count() > 0;
            }
            if interrupt(cx, self, id, &Ended::CancelledByServer) {
                // The queue stays in the record until the restart shows whether it exists.
                return cx.release(number);
            }
            end_cancelled(cx, self, id);
            cx.release(number);
        }
        // The queue is removed from the record: it was deleted, or it is durable and exists without
        // a replay. The broker cancels all consumers of a deleted queue, so while another one is
        // left, the queue exists. The broker cancels a single consumer after an acknowledgement
        // timeout, for example (RabbitMQ 4.3).
        if let Some(queue) = queue.filter(|queue| !self.consumers.is_consumed(queue)) {
            cx.topology.forget_queue(queue.as_short_str());
        }
    }

    /// Ends one queue of a consumer that continues with its other queues.
    pub(crate) fn end_subscription(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        index: usize,
        reason: Ended,
    ) {
        // Unreachable: the caller has found the consumer and the queue.
        let Some(consumer) = self.consumers.get(id) else {
            return;
        };
        let Some(subscription) = consumer.subscriptions.get(index) else {
            return;
        };
        let tag = consumer.tag().into();
        let queue = String::from_utf8_lossy(&subscription.queue).into();
        self.consumers.end_subscription(id, index, reason.clone());
        cx.notices.notify(&Notice::QueueEnded {
            tag,
            queue,
            why: reason,
        });
    }

    /// Ends a consumer and completes its promises. Its channel can be used again when everything on
    /// it is settled.
    pub(crate) fn end_consumer(&mut self, cx: &mut Context, id: ConsumerId, ended: Ended) {
        // Its end may have several causes, and only the first one counts.
        let consumer = self.consumers.get_mut(id);
        let Some(consumer) = consumer.filter(|it| !it.has_ended()) else {
            return;
        };
        let tag: Box<str> = consumer.tag().into();
        let number = consumer.channel;
        // A consumer that is cancelled while the connection is down had started before the loss.
        let was_lost = matches!(ended, Ended::Cancelled)
            && !matches!(cx.stage, Stage::Open | Stage::Restoring);
        let queues = consumer.started_queues(was_lost);
        let cancel_promises = std::mem::take(&mut consumer.cancel_promises);
        let resize_promises = std::mem::take(&mut consumer.resize_promises);
        let error = ended.error().cloned();
        let is_lost = matches!(ended, Ended::ConnectionBroken(_));
        self.drops.forget_delays(id);
        // Unreachable: the consumer has not ended yet.
        let Some(phase) = self.consumers.end(id, ended) else {
            return;
        };
        for promise in cancel_promises {
            let cancelled = || Ok(Reply::Cancelled(tag.clone()));
            cx.complete(promise, error.clone().map_or_else(cancelled, Err));
        }
        for promise in resize_promises {
            cx.complete(promise, Err(error.clone().unwrap_or(Error::Stale)));
        }
        if let Phase::Starting(promise) = phase {
            let error = error.clone();
            let error = error.unwrap_or_else(|| Error::ConsumerCancelled(tag.to_string()));
            cx.complete(promise, Err(error));
            // The program never receives the consumer, so it cannot drop it.
            if let Some(consumer) = self.consumers.get_mut(id) {
                consumer.dropped = true;
            }
        }
        // The channel is closed, so its deliveries can no longer be settled, and the broker
        // delivers them again. An interrupted consumer may have others, of an earlier channel.
        if is_lost {
            self.consumers.discard_unsettled(id);
        } else if error.is_some() {
            self.consumers.lose_stale(cx, id);
        }
        if let Some(number) = number {
            cx.channels.remove_consumer(number, id);
        }
        forget_unused_queues(&self.consumers, cx, queues);
        // Other work can use the channel that was reserved for it.
        cx.may_start |= self.restarts.remove(id);
        self.consumers.announce(id);
        self.consumers.remove_if_unused(id);
        cx.attention = true;
        // Once the connection is open, the report already contains the consumer.
        if let (Phase::Restarting, Some(error)) = (phase, error)
            && cx.stage != Stage::Open
        {
            self.restarts.record_failure(&tag, &error);
        }
    }

    /// Ends all consumers.
    pub(crate) fn end_consumers(&mut self, cx: &mut Context, ended: &Ended) {
        for id in self.consumers.ids() {
            self.end_consumer(cx, id, ended.clone());
        }
    }

    /// Cancels all live consumers, because the connection closes. The broker requeues what it has
    /// delivered.
    pub(crate) fn stop_consumers(&mut self, cx: &mut Context) {
        for id in self.consumers.ids() {
            self.consumers.cancel_all(cx, id);
        }
    }

    /// Drops interest in a consumer. It is cancelled, and its buffered deliveries are returned to
    /// their queues.
    pub(crate) fn drop_consumer(&mut self, cx: &mut Context, id: ConsumerId) {
        // A consumer that never started is removed when it ends.
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        consumer.dropped = true;
        if consumer.has_ended() {
            let number = consumer.channel;
            self.consumers.return_buffered(cx, id);
            self.consumers.remove_if_unused(id);
            if let Some(number) = number {
                cx.release(number);
            }
        } else {
            self.begin_cancel(cx, id);
        }
    }
}

/// Removes those of the queues from the record that the broker has deleted because their last
/// consumer has ended.
fn forget_unused_queues(consumers: &Consumers, cx: &mut Context, queues: Vec<ShortString>) {
    for queue in queues {
        // "If set, the queue is deleted when all consumers have finished using it. [..] If there
        // was no consumer ever on the queue, it won't be deleted" (1.7.2.1, auto-delete).
        if cx.topology.is_auto_delete(queue.as_short_str()) && !consumers.is_consumed(&queue) {
            cx.topology.forget_queue(queue.as_short_str());
        }
    }
}
