//! Deliveries that the program drops without settling them.
//!
//! Returning such a message at once would deliver it again at once. A message whose handler always
//! fails was redelivered 2 099 times in two seconds, and reached the delivery limit of a quorum
//! queue (20) in 0.03 s. So it stays unsettled for a delay, which also keeps the broker from
//! sending another one in its place.

use crate::machine::Settle;
use crate::machine::channel::content::Delivered;
use crate::machine::consume::Consuming;
use crate::machine::consume::drops::{Dropped, live_consumer};
use crate::machine::context::Context;
use crate::options::OnDrop;
use crate::protocol::method::basic;
use std::time::{Duration, Instant};

/// Handles a dropped delivery by the policy of its consumer. A stale delivery needs no action,
/// because the broker has requeued it.
pub(crate) fn handle_dropped(cx: &mut Context, consuming: &mut Consuming, delivered: &Delivered) {
    let requeue = |cx: &mut Context, consuming: &mut Consuming, requeue| {
        // It fails if the delivery is stale.
        let settled = cx.settle(delivered, Settle::Reject { requeue });
        if settled.is_ok() {
            consuming.continue_on(cx, delivered.channel);
        }
    };
    let consumer = live_consumer(cx, delivered).filter(|_| !delivered.is_of_stream());
    let policy = consumer.and_then(|id| {
        let consumer = consuming.consumers.get(id)?;
        (!consumer.has_ended()).then_some((id, consumer.on_drop))
    });
    let Some((id, policy)) = policy else {
        // A message of `basic_get`, of an ended consumer, or of a stream, which repeats nothing.
        return requeue(cx, consuming, true);
    };
    let delay = match policy {
        OnDrop::RequeuePaced => consuming.drops.next_delay(id, delivered.redelivered),
        OnDrop::Requeue => Duration::ZERO,
        OnDrop::RequeueAfter(delay) => delay,
        OnDrop::Discard => return requeue(cx, consuming, false),
        OnDrop::Keep => return cx.mark_dropped(delivered),
    };
    if delay.is_zero() {
        return requeue(cx, consuming, true);
    }
    // It is excluded from acks with `multiple`, and returned with the end of its consumer.
    cx.mark_dropped(delivered);
    let dropped = Dropped {
        channel: delivered.channel,
        incarnation: delivered.incarnation,
        tag: delivered.tag,
    };
    consuming.drops.add(delay, dropped);
    cx.attention = true;
}

/// Requeues the dropped deliveries whose delay has passed.
pub(crate) fn requeue_due(cx: &mut Context, consuming: &mut Consuming, now: Instant) {
    while let Some(dropped) = consuming.drops.pop_due(now) {
        let channel = cx.channels.get_mut(dropped.channel);
        let Some(channel) = channel.filter(|it| it.incarnation == dropped.incarnation) else {
            // The channel is closed, so the broker has requeued the message.
            continue;
        };
        let transmit = &mut cx.transmit;
        // The consumer may have been cancelled meanwhile, and the delivery returned.
        channel
            .unsettled
            .settle_at_once(dropped.tag, false, |delivery_tag, _| {
                let reject = basic::Reject {
                    delivery_tag,
                    requeue: true,
                };
                // A reject fits into any frame.
                let _ = transmit.append_method(dropped.channel, &reject);
            });
        cx.attention = true;
        cx.release(dropped.channel);
        consuming.continue_on(cx, dropped.channel);
    }
}
