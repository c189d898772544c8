//! The channels that a consumer had before the server cancelled it.
//!
//! The program may still have deliveries of them. To the program they are deliveries of the same
//! consumer, so settling several at once includes them.

use crate::machine::channel::content::Delivered;
use crate::machine::consume::consumers::Consumers;
use crate::machine::context::Context;
use crate::machine::ids::{ChannelIncarnation, ChannelNumber};
use crate::machine::{ConsumerId, Settle};

/// Records that a consumer has left a channel, if deliveries on it are unsettled. Forgets those on
/// which none is any more.
pub(crate) fn record_earlier_channel(
    cx: &Context,
    consumers: &mut Consumers,
    id: ConsumerId,
    number: ChannelNumber,
) {
    // Unreachable: the caller has found the consumer.
    let Some(consumer) = consumers.get_mut(id) else {
        return;
    };
    let incarnation = cx.channels.get(number).map_or(0, |it| it.incarnation);
    consumer.earlier_channels.push(ChannelIncarnation {
        number,
        incarnation,
    });
    consumer.earlier_channels.retain(|it| {
        let channel = cx.channels.get(it.number);
        channel.is_some_and(|channel| {
            channel.incarnation == it.incarnation && channel.unsettled.count() > 0
        })
    });
}

/// Settles the deliveries of the channels that a consumer had before that of a delivery, because
/// the delivery is settled with all earlier ones.
#[cold]
pub(crate) fn settle_earlier(
    cx: &mut Context,
    consumers: &mut Consumers,
    id: ConsumerId,
    delivered: &Delivered,
    how: Settle,
) {
    let Some(consumer) = consumers.get_mut(id) else {
        return;
    };
    let is_its = |it: &ChannelIncarnation| it.incarnation == delivered.incarnation;
    let before = consumer.earlier_channels.iter().position(is_its);
    let before = before.unwrap_or(consumer.earlier_channels.len());
    for earlier in consumer.earlier_channels.drain(..before) {
        let channel = cx.channels.get(earlier.number);
        let channel = channel.filter(|channel| channel.is_left_by(id, earlier));
        if let Some(tag) = channel.and_then(|channel| channel.unsettled.last_wanted()) {
            let last = Delivered {
                tag,
                channel: earlier.number,
                incarnation: earlier.incarnation,
                ..delivered.clone()
            };
            // The delivery is unsettled, so this cannot fail.
            let _ = cx.settle(&last, how);
        }
    }
}

/// Requeues the unsettled deliveries on the earlier channels of a consumer.
pub(crate) fn requeue_earlier(cx: &mut Context, consumers: &mut Consumers, id: ConsumerId) {
    // Unreachable: the caller has found the consumer.
    let Some(consumer) = consumers.get_mut(id) else {
        return;
    };
    for earlier in consumer.earlier_channels.drain(..) {
        let channel = cx.channels.get_mut(earlier.number);
        let channel = channel.filter(|channel| channel.is_left_by(id, earlier));
        if let Some(channel) = channel {
            channel.unsettled.mark_all_unwanted();
            cx.release(earlier.number);
        }
    }
}
