//! Consumers: how they end, by us, by the server, or with their channel (spec 1.8.3.5).

use crate::error::Error;
use crate::machine::channel::{Awaited, PendingReply};
use crate::machine::consume::Consuming;
use crate::machine::consume::consumers::{Consumer, Phase};
use crate::machine::consume::tags::{Tag, TagNumber};
use crate::machine::context::{Context, Stage};
use crate::machine::{ConsumerId, Ended, Notice, PromiseId, Reply};
use crate::protocol::ShortStr;
use crate::protocol::method::basic;
use std::collections::BTreeMap;

impl Consuming {
    /// Ends a consumer. Its buffered deliveries go back to the queue once the broker has confirmed
    /// the cancel. Deliveries that need no ack stay buffered, because they would be lost.
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

    pub(crate) fn begin_cancel(&mut self, cx: &mut Context, id: ConsumerId) {
        let Some(consumer) = self.consumers.get(id) else {
            return;
        };
        let (is_live, is_restoring) = (
            matches!(consumer.phase, Phase::Live),
            matches!(consumer.phase, Phase::Restoring),
        );
        if consumer.dropped || is_live && !consumer.no_ack {
            self.return_buffered(cx, id);
        }
        if is_restoring {
            self.end_restoring(cx, id);
        } else if is_live {
            self.cancel_all(cx, id);
        }
    }

    /// A consumer is not wanted any more that is to be started again: it ends at once, or as soon
    /// as it has started.
    pub(crate) fn end_restoring(&mut self, cx: &mut Context, id: ConsumerId) {
        if self
            .consumers
            .get(id)
            .is_some_and(|consumer| consumer.channel == 0)
        {
            self.end_consumer(cx, id, Ended::Cancelled);
        }
    }

    /// Has the broker deliver no more, because the connection closes. What was delivered, it takes
    /// back itself.
    pub(crate) fn stop_consumer(&mut self, cx: &mut Context, id: ConsumerId) {
        if self
            .consumers
            .get(id)
            .is_some_and(|consumer| matches!(consumer.phase, Phase::Live))
        {
            self.cancel_all(cx, id);
        }
    }

    /// Cancels what is to end of a consumer and has started: RabbitMQ 3.10 closes the connection
    /// over a cancel right behind its consume. A tag that another replaces stays until that has
    /// started.
    pub(crate) fn write_cancels(&mut self, cx: &mut Context, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        let number = consumer.channel;
        let all = matches!(consumer.phase, Phase::Cancelling);
        // A consumer of several queues does this once for all of them.
        let are_many = consumer.sources.len() > 1;
        if are_many && !all && consumer.tags.iter().any(|tag| !tag.started) {
            return;
        }
        let stays = |(_, tag): &(usize, &Tag)| tag.started && !tag.leaving;
        let staying = consumer.tags.iter().enumerate().filter(stays);
        // For each queue, the place of the newest tag that stays.
        let newest: BTreeMap<u32, usize> =
            staying.map(|(place, tag)| (tag.source, place)).collect();
        let mut ended = Vec::new();
        for (place, tag) in consumer.tags.iter_mut().enumerate() {
            let is_replaced = newest
                .get(&tag.source)
                .is_some_and(|newest| place < *newest);
            let ends = all || tag.leaving && is_replaced;
            if ends && tag.started && !tag.cancelled {
                tag.cancelled = true;
                let users_tag = consumer
                    .sources
                    .get(tag.source as usize)
                    .map_or("", |terms| &terms.users_tag);
                ended.push((tag.number, tag.number.to_tag(users_tag)));
            }
        }
        for (tag, name) in ended {
            self.write_cancel(cx, number, id, tag, ShortStr::cut(&name));
        }
    }

    pub(crate) fn write_cancel(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        tag: TagNumber,
        name: ShortStr<'_>,
    ) {
        cx.write(
            number,
            &basic::Cancel {
                consumer_tag: name,
                nowait: false,
            },
        );
        cx.await_reply(
            number,
            &basic::Cancel::INFO,
            Awaited::Cancel { consumer: id, tag },
        );
    }

    pub(crate) fn cancel_all(&mut self, cx: &mut Context, id: ConsumerId) {
        if let Some(consumer) = self.consumers.get_mut(id) {
            consumer.phase = Phase::Cancelling;
            cx.channels.end_consumer(consumer.channel);
        }
        self.write_cancels(cx, id);
    }

    pub(crate) fn cancel_ok(&mut self, cx: &mut Context, id: ConsumerId, tag: TagNumber) {
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        if consumer.tags.end(tag) && !consumer.has_ended() {
            self.end_consumer(cx, id, Ended::Cancelled);
        }
        self.answer_resized(cx, id);
        self.unthrottle(cx, id);
    }

    /// Replies to the broker's cancel with a cancel, unless that is already written or can't be
    /// written yet.
    ///
    /// RabbitMQ 4.3 cancels a consumer of a quorum queue whose deliveries were not acknowledged in
    /// time, and continues to deliver to it until the client cancels it as well. No broker treats
    /// the cancel of an ended consumer as an error.
    pub(crate) fn confirm_server_cancel(
        &mut self,
        cx: &mut Context,
        number: u16,
        name: ShortStr<'_>,
    ) {
        let Some(channel) = cx.channels.get(number) else {
            return;
        };
        let tag = TagNumber::of(name);
        let is_of_tag = |pending: &PendingReply| match &pending.to {
            // The cancel follows `consume-ok`: RabbitMQ 3.10 closes the connection over an earlier
            // one.
            Awaited::Consume { tag: of, .. } | Awaited::Cancel { tag: of, .. } => Some(*of) == tag,
            _ => false,
        };
        if channel.pending_replies.iter().any(is_of_tag) {
            return;
        }
        let id = channel.consumer;
        let consumer = id.and_then(|id| self.consumers.get(id));
        let found =
            tag.filter(|tag| consumer.is_some_and(|consumer| consumer.tags.find(*tag).is_some()));
        match (id, found) {
            (Some(id), Some(tag)) => self.write_cancel(cx, number, id, tag, name),
            // No consumer waits for a reply, and a peer may cause any number of these.
            _ => cx.write(
                number,
                &basic::Cancel {
                    consumer_tag: name,
                    nowait: true,
                },
            ),
        }
    }

    /// The broker ends a consumer by itself. What it delivered before is still to be taken.
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
        self.confirm_server_cancel(cx, number, cancel.consumer_tag);
        let id = cx.channels.get(number).and_then(|channel| channel.consumer);
        let (Some(id), Some(tag)) = (id, TagNumber::of(cancel.consumer_tag)) else {
            return;
        };
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        let Some(source) = consumer.tags.find(tag).map(|tag| tag.source) else {
            return;
        };
        let has_ended = consumer.tags.end(tag);
        let is_last_tag = consumer.tags.iter().all(|tag| tag.source != source);
        let terms = consumer
            .sources
            .get(source as usize)
            .filter(|_| is_last_tag);
        let queue = terms.map(|terms| terms.queue.clone());
        if queue.is_some() && !has_ended {
            self.end_source(cx, id, source as usize, Ended::CancelledByServer);
        }
        if has_ended {
            // RabbitMQ 4.3 times out each delivery by itself. If one does so when the consumer is
            // already cancelled, the broker closes the channel (406), with the request on it.
            if let Some(channel) = cx.channels.get_mut(number) {
                channel.is_suspect |= channel.unsettled.held() > 0;
            }
            let tag = self.consumers.get(id).map_or("", Consumer::tag).into();
            self.end_consumer(cx, id, Ended::CancelledByServer);
            cx.notices.notify(&Notice::ConsumerCancelled(tag));
            cx.release(number);
        }
        // The queue was deleted, or is durable and need not be declared again. The broker cancels
        // all consumers of a deleted queue, so while one is left, only the other one has ended,
        // such as for an acknowledgement timeout (RabbitMQ 4.3).
        if let Some(queue) = queue.filter(|queue| !self.consumers.is_consumed(queue)) {
            cx.topology.forget_queue(&queue);
        }
    }

    /// Ends one queue of a consumer that goes on with its other queues.
    pub(crate) fn end_source(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        source: usize,
        why: Ended,
    ) {
        let Some(consumer) = self.consumers.get(id) else {
            return;
        };
        let tag = consumer.tag().into();
        let Some(terms) = consumer.sources.get(source) else {
            return;
        };
        let queue = String::from_utf8_lossy(&terms.queue).into();
        self.consumers.end_source(id, source, why.clone());
        cx.notices.notify(&Notice::QueueEnded { tag, queue, why });
    }

    /// A consumer has ended: whoever waits for it knows, and its channel can be used again when all
    /// is settled.
    pub(crate) fn end_consumer(&mut self, cx: &mut Context, id: ConsumerId, ended: Ended) {
        let Some(consumer) = self
            .consumers
            .get_mut(id)
            .filter(|consumer| !consumer.has_ended())
        else {
            return;
        };
        let tag: Box<str> = consumer.tag().into();
        let number = consumer.channel;
        let was_lost = matches!(ended, Ended::Cancelled)
            && !matches!(cx.stage, Stage::Open | Stage::Restoring);
        let queues = consumer.consumed_queues(was_lost);
        let cancelling = std::mem::take(&mut consumer.cancelling);
        let resizing = std::mem::take(&mut consumer.resizing);
        let Some(phase) = self.consumers.end(id, ended.clone()) else {
            return;
        };
        let is_lost = matches!(ended, Ended::ChannelClosed(_) | Ended::ConnectionBroken(_));
        let error = match ended {
            Ended::ChannelClosed(error) | Ended::ConnectionBroken(error) => Some(error),
            Ended::Cancelled | Ended::CancelledByServer => None,
        };
        for promise in cancelling {
            cx.complete(
                promise,
                error
                    .clone()
                    .map_or_else(|| Ok(Reply::Cancelled(tag.clone())), Err),
            );
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
            // They can't be settled any more, and the broker delivers them again.
            self.consumers.discard_unsettled(id);
        }
        let channel = cx.channels.get_mut(number);
        if channel.is_some_and(|channel| {
            channel
                .consumer
                .take_if(|consumer| *consumer == id)
                .is_some()
        }) {
            cx.channels.end_consumer(number);
        }
        for queue in queues {
            // "If set, the queue is deleted when all consumers have finished using it. [..] If
            // there was no consumer ever on the queue, it won't be deleted" (1.7.2.1, auto-delete).
            if cx.topology.is_auto_delete(&queue) && !self.consumers.is_consumed(&queue) {
                cx.topology.forget_queue(&queue);
            }
        }
        self.resubscription.done(id);
        self.consumers.announce(id);
        self.consumers.forget_if_over(id);
        cx.attention = true;
        if let (Phase::Restoring, Some(error)) = (phase, error) {
            self.consumer_not_restored(cx, &tag, &error);
        }
    }

    /// Tells that nobody holds that consumer any more. It is cancelled, and what it has buffered
    /// goes back.
    pub(crate) fn drop_consumer(&mut self, cx: &mut Context, id: ConsumerId) {
        self.let_go_of_consumer(cx, id);
    }

    pub(crate) fn let_go_of_consumer(&mut self, cx: &mut Context, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        consumer.dropped = true;
        if consumer.has_ended() {
            let number = consumer.channel;
            self.return_buffered(cx, id);
            self.consumers.forget_if_over(id);
            cx.release(number);
        } else {
            self.begin_cancel(cx, id);
        }
    }

    pub(crate) fn end_consumers(&mut self, cx: &mut Context, ended: &Ended) {
        for id in self.consumers.ids() {
            self.end_consumer(cx, id, ended.clone());
        }
    }
}
