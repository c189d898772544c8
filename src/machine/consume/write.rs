//! Writing `basic.consume`, `basic.qos` and `basic.cancel`.

use crate::machine::ConsumerId;
use crate::machine::channel::{Awaited, PendingReply, Resize};
use crate::machine::consume::consumer::{Consumer, Phase};
use crate::machine::consume::consumers::Consumers;
use crate::machine::consume::tags::{Tag, TagNumber};
use crate::machine::context::Context;
use crate::protocol::ShortStr;
use crate::protocol::method::basic;
use std::collections::BTreeMap;

/// Writes `qos`, for each later consumer of the channel.
fn write_qos(cx: &mut Context, number: u16, prefetch_count: u16) {
    if let Some(channel) = cx.channels.get_mut(number) {
        channel.prefetch_count = prefetch_count;
    }
    cx.write(
        number,
        &basic::Qos {
            prefetch_size: 0,
            prefetch_count,
            global: false,
        },
    );
    cx.await_reply(number, &basic::Qos::INFO, Awaited::Nothing);
}

/// Writes `cancel` for one tag.
pub(crate) fn write_cancel(
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

/// Returns the indices of a consumer's queues that have not ended.
fn live_indices(consumer: &Consumer) -> Vec<u32> {
    let live = consumer.live_subscriptions();
    live.map(|(index, _)| index).collect()
}

impl Consumers {
    /// Writes `consume` for all queues of a consumer.
    pub(crate) fn write_consumes(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        prefetch_count: u16,
    ) {
        // Unreachable: the caller has found or added the consumer.
        let Some(consumer) = self.get(id) else {
            return;
        };
        let live = live_indices(consumer);
        if let Some(channel) = cx.channels.get_mut(number) {
            channel.no_ack = consumer.no_ack;
        }
        for index in live {
            self.write_consume(cx, number, id, index, prefetch_count, None);
        }
    }

    /// Writes `qos` if the prefetch count changes, and `consume` with a new tag. The client chooses
    /// the tag, so that it is known before the first delivery arrives.
    pub(crate) fn write_consume(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        index: u32,
        prefetch_count: u16,
        resize: Option<Resize>,
    ) {
        let channel = cx.channels.get(number);
        if channel.is_some_and(|channel| channel.prefetch_count != prefetch_count) {
            write_qos(cx, number, prefetch_count);
        }
        // Unreachable: the caller has found the consumer, and `index` is of one of its queues.
        let Some(no_ack) = self.get(id).map(|consumer| consumer.no_ack) else {
            return;
        };
        let Some((tag, subscription)) = self.add_tag(id, index, prefetch_count) else {
            return;
        };
        let name = tag.to_tag(&subscription.users_tag);
        let queue = cx.topology.current(subscription.queue.as_short_str());
        let arguments = subscription.current_arguments();
        let consume = basic::Consume {
            queue,
            consumer_tag: ShortStr::cut(&name),
            no_local: subscription.no_local,
            no_ack,
            exclusive: subscription.exclusive,
            nowait: false,
            arguments: (*arguments).as_ref(),
        };
        let written = cx.transmit.append_method(number, &consume);
        cx.attention = true;
        debug_assert!(written.is_ok(), "{written:?}");
        cx.await_reply(
            number,
            &basic::Consume::INFO,
            Awaited::Consume {
                consumer: id,
                tag,
                resized: resize,
            },
        );
    }

    /// Replaces the tags of a consumer: starts a tag with this prefetch count for each queue, and
    /// marks the tags before, which are cancelled when the new ones have started. `resize` is the
    /// change for which they are replaced.
    pub(crate) fn replace_tags(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        prefetch_count: u16,
        resize: Option<Resize>,
    ) {
        // Unreachable: the caller has found the consumer.
        let Some(consumer) = self.get_mut(id) else {
            return;
        };
        consumer
            .tags
            .iter_mut()
            .for_each(|tag| tag.is_replaced = true);
        let live = live_indices(consumer);
        for index in &live {
            let resize = resize.filter(|_| Some(index) == live.last());
            self.write_consume(cx, number, id, *index, prefetch_count, resize);
        }
    }

    /// Throttles a live consumer to a prefetch count of 1.
    pub(crate) fn throttle(&mut self, cx: &mut Context, number: u16, id: ConsumerId) {
        // Unreachable: the caller has found the consumer.
        let Some(consumer) = self.get_mut(id) else {
            return;
        };
        consumer.throttled_from = Some(consumer.prefetch_count());
        self.replace_tags(cx, number, id, 1, None);
    }

    /// Cancels the tags of a consumer that are to end and have started: all of them if the consumer
    /// is being cancelled, else those that are replaced.
    ///
    /// A tag that has not started is cancelled at its `consume-ok`, because RabbitMQ 3.10 closes
    /// the connection over a cancel immediately after its consume. A replaced tag stays until its
    /// replacement has started, so that the consumer always has one.
    pub(crate) fn write_cancels(&mut self, cx: &mut Context, id: ConsumerId) {
        let consumer = self.get_mut(id);
        // Unreachable: the caller has found the consumer, and it is not being restarted.
        let Some((number, consumer)) = consumer.and_then(|it| Some((it.channel?, it))) else {
            return;
        };
        let is_cancelling = matches!(consumer.phase, Phase::Cancelling);
        // The tags of a consumer of several queues are cancelled together, once all their
        // replacements have started.
        let has_many = consumer.subscriptions.len() > 1;
        if has_many && !is_cancelling && consumer.tags.iter().any(|tag| !tag.started) {
            return;
        }
        let stays = |(_, tag): &(usize, &Tag)| tag.started && !tag.is_replaced;
        let staying = consumer.tags.iter().enumerate().filter(stays);
        // For each queue, the place of the newest tag that stays.
        let newest: BTreeMap<u32, usize> = staying
            .map(|(place, tag)| (tag.subscription, place))
            .collect();
        let mut cancelled = Vec::new();
        for (place, tag) in consumer.tags.iter_mut().enumerate() {
            let has_successor = newest
                .get(&tag.subscription)
                .is_some_and(|newest| place < *newest);
            let ends = is_cancelling || tag.is_replaced && has_successor;
            if ends && tag.started && !tag.cancelled {
                tag.cancelled = true;
                let users_tag = consumer
                    .subscriptions
                    .get(tag.subscription as usize)
                    .map_or("", |subscription| &subscription.users_tag);
                cancelled.push((tag.number, tag.number.to_tag(users_tag)));
            }
        }
        for (tag, name) in cancelled {
            write_cancel(cx, number, id, tag, ShortStr::cut(&name));
        }
    }

    /// Cancels a live consumer: cancels the tags that have started, and the others as soon as they
    /// have.
    pub(crate) fn cancel_all(&mut self, cx: &mut Context, id: ConsumerId) {
        if let Some(number) = self.get(id).and_then(Consumer::live_channel) {
            self.begin_cancelling(id);
            cx.channels.end_consumer(number);
            self.write_cancels(cx, id);
        }
    }

    /// Replies to the broker's cancel of a tag with a cancel, unless that is already written or
    /// cannot be written yet.
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
        // Unreachable: the broker's cancel arrived on this channel.
        let Some(channel) = cx.channels.get(number) else {
            return;
        };
        let tag = TagNumber::of(name);
        let is_of_tag = |pending: &PendingReply| match &pending.purpose {
            // The cancel follows `consume-ok`: RabbitMQ 3.10 closes the connection over an earlier
            // one.
            Awaited::Consume { tag: of, .. } | Awaited::Cancel { tag: of, .. } => Some(*of) == tag,
            _ => false,
        };
        if channel.pending_replies.iter().any(is_of_tag) {
            return;
        }
        let id = channel.consumer();
        let consumer = id.and_then(|id| self.get(id));
        let known_tag =
            tag.filter(|tag| consumer.is_some_and(|consumer| consumer.tags.find(*tag).is_some()));
        match (id, known_tag) {
            (Some(id), Some(tag)) => write_cancel(cx, number, id, tag, name),
            // No consumer needs the reply, and a faulty peer could add pending replies without
            // limit.
            _ => cx.write(
                number,
                &basic::Cancel {
                    consumer_tag: name,
                    nowait: true,
                },
            ),
        }
    }
}
