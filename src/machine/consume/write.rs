//! Writing `basic.consume`, `basic.qos` and `basic.cancel`.

use crate::machine::ConsumerId;
use crate::machine::channel::{Awaited, PendingReply, Resize};
use crate::machine::consume::consumer::{Phase, Throttle};
use crate::machine::consume::consumers::Consumers;
use crate::machine::consume::tags::{Tag, TagNumber};
use crate::machine::context::Context;
use crate::protocol::ShortStr;
use crate::protocol::method::basic;
use std::collections::BTreeMap;

impl Consumers {
    /// Starts all queues of a consumer on its channel.
    pub(crate) fn write_consumes(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        prefetch_count: u16,
    ) {
        let Some(consumer) = self.get(id) else {
            return;
        };
        let is_shared = consumer.shared_prefetch_count.is_some();
        let live = (0..)
            .zip(&consumer.sources)
            .filter(|(_, subscription)| subscription.ended.is_none());
        let live: Vec<u32> = live.map(|(source, _)| source).collect();
        if let Some(channel) = cx.channels.get_mut(number) {
            channel.no_ack = consumer.no_ack;
        }
        if is_shared && prefetch_count != 0 {
            self.write_qos(cx, number, prefetch_count, true, None);
        }
        for source in live {
            let own = if is_shared { 0 } else { prefetch_count };
            self.write_consume(cx, number, id, source, own, None);
        }
    }

    /// Writes `qos`, for each later consumer of the channel, or with `global` for all of them
    /// together.
    pub(crate) fn write_qos(
        &mut self,
        cx: &mut Context,
        number: u16,
        prefetch_count: u16,
        global: bool,
        resized: Option<(ConsumerId, Resize)>,
    ) {
        if let Some(channel) = cx.channels.get_mut(number) {
            if global {
                channel.shares_prefetch_count = true;
            } else {
                channel.prefetch_count = prefetch_count;
            }
        }
        cx.write(
            number,
            &basic::Qos {
                prefetch_size: 0,
                prefetch_count,
                global,
            },
        );
        let awaited = match resized {
            Some((consumer, resize)) => Awaited::Qos { consumer, resize },
            None => Awaited::Nothing,
        };
        cx.await_reply(number, &basic::Qos::INFO, awaited);
    }

    /// Writes `qos` if the prefetch count changes, and `consume` with a new tag. The client chooses
    /// the tag, so that it is known before the first delivery arrives.
    pub(crate) fn write_consume(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        source: u32,
        prefetch_count: u16,
        resized: Option<Resize>,
    ) {
        if cx
            .channels
            .get(number)
            .is_some_and(|channel| channel.prefetch_count != prefetch_count)
        {
            self.write_qos(cx, number, prefetch_count, false, None);
        }
        let Some(no_ack) = self.get(id).map(|consumer| consumer.no_ack) else {
            return;
        };
        let Some((tag, subscription)) = self.add_tag(id, source, prefetch_count) else {
            return;
        };
        let name = tag.to_tag(&subscription.users_tag);
        let queue = cx.topology.current(subscription.queue.as_short_str());
        let consume = basic::Consume {
            queue,
            consumer_tag: ShortStr::cut(&name),
            no_local: subscription.no_local,
            no_ack,
            exclusive: subscription.exclusive,
            nowait: false,
            arguments: subscription.arguments.as_ref(),
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
                resized,
            },
        );
    }

    /// Replaces the tags of a consumer: starts a tag with this prefetch count for each queue.
    pub(crate) fn replace_tags(&mut self, cx: &mut Context, id: ConsumerId, prefetch_count: u16) {
        let Some(consumer) = self.get_mut(id) else {
            return;
        };
        consumer.tags.iter_mut().for_each(|tag| tag.leaving = true);
        let number = consumer.channel;
        let live = (0..)
            .zip(&consumer.sources)
            .filter(|(_, subscription)| subscription.ended.is_none());
        let live: Vec<u32> = live.map(|(source, _)| source).collect();
        for source in live {
            self.write_consume(cx, number, id, source, prefetch_count, None);
        }
    }

    /// Throttles a consumer to a prefetch count of 1.
    pub(crate) fn throttle(&mut self, cx: &mut Context, id: ConsumerId) {
        let Some(consumer) = self.get_mut(id) else {
            return;
        };
        let number = consumer.channel;
        if consumer
            .shared_prefetch_count
            .is_some_and(|count| count != 0)
        {
            consumer.throttle = Some(Throttle::Channel);
            self.write_qos(cx, number, 1, true, None);
        } else {
            consumer.throttle = Some(Throttle::Tags {
                prefetch_count: consumer.prefetch_count(),
            });
            self.replace_tags(cx, id, 1);
        }
    }

    /// Cancels the tags of a consumer that are to end and have started. RabbitMQ 3.10 closes the
    /// connection over a cancel immediately after its consume. A replaced tag stays until its
    /// replacement has started.
    pub(crate) fn write_cancels(&mut self, cx: &mut Context, id: ConsumerId) {
        let Some(consumer) = self.get_mut(id) else {
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
                    .map_or("", |subscription| &subscription.users_tag);
                ended.push((tag.number, tag.number.to_tag(users_tag)));
            }
        }
        for (tag, name) in ended {
            self.write_cancel(cx, number, id, tag, ShortStr::cut(&name));
        }
    }

    /// Writes `cancel` for one tag.
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

    /// Begins to cancel a consumer, and cancels the tags that have started.
    pub(crate) fn cancel_all(&mut self, cx: &mut Context, id: ConsumerId) {
        self.begin_cancelling(id);
        if let Some(consumer) = self.get(id) {
            cx.channels.end_consumer(consumer.channel);
        }
        self.write_cancels(cx, id);
    }

    /// Confirms the broker's cancel by a cancel, unless that is already written or cannot be
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
        let is_of_tag = |pending: &PendingReply| match &pending.purpose {
            // The cancel follows `consume-ok`: RabbitMQ 3.10 closes the connection over an earlier
            // one.
            Awaited::Consume { tag: of, .. } | Awaited::Cancel { tag: of, .. } => Some(*of) == tag,
            _ => false,
        };
        if channel.pending_replies.iter().any(is_of_tag) {
            return;
        }
        let id = channel.consumer;
        let consumer = id.and_then(|id| self.get(id));
        let found =
            tag.filter(|tag| consumer.is_some_and(|consumer| consumer.tags.find(*tag).is_some()));
        match (id, found) {
            (Some(id), Some(tag)) => self.write_cancel(cx, number, id, tag, name),
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
