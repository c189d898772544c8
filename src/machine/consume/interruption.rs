//! Interruptions: the broker cancels a consumer or closes its channel, and the client restarts the
//! consumer on the same connection.
//!
//! RabbitMQ cancels a consumer when its queue is deleted, when the leader of its queue moves, and
//! since 4.3 when a delivery from a quorum queue was not acknowledged in time. It closes the
//! channel over a late acknowledgement of other queues. Only the reply to another `basic.consume`
//! shows whether the queue still exists.

use crate::error::Error;
use crate::machine::consume::Consuming;
use crate::machine::consume::consumer::{Consumer, Phase};
use crate::machine::consume::earlier_channels::record_earlier_channel;
use crate::machine::context::{Context, Stage};
use crate::machine::deadline::later;
use crate::machine::recovery::refusal::is_temporary;
use crate::machine::{ConsumerId, Ended, Notice};
use std::time::Instant;

/// Interrupts a live consumer that the broker has ended: the consumer leaves its channel, and is
/// queued to be restarted on another one. Returns `false` if it is not restarted, and the caller
/// ends it.
pub(crate) fn interrupt(
    cx: &mut Context,
    consuming: &mut Consuming,
    id: ConsumerId,
    why: &Ended,
) -> bool {
    // Unreachable: the caller has found the consumer.
    let Some(consumer) = consuming.consumers.get(id) else {
        return false;
    };
    let is_live = matches!(consumer.phase, Phase::Live) && !consumer.dropped;
    if !is_live || !matches!(cx.stage, Stage::Open | Stage::Restoring) {
        return false;
    }
    let Some(delay) = consuming.consumers.interrupt(id, why, cx.now) else {
        return false;
    };
    // Unreachable: it was found before.
    let Some(consumer) = consuming.consumers.get_mut(id) else {
        return false;
    };
    let tag: Box<str> = consumer.tag().into();
    let error = (why.error().cloned()).unwrap_or_else(|| Error::ConsumerCancelled(tag.to_string()));
    let reads_stream = consumer.reads_stream;
    if let Some(number) = consumer.suspend() {
        cx.channels.remove_consumer(number, id);
        record_earlier_channel(cx, &mut consuming.consumers, id, number);
    }
    consuming.consumers.lose_stale(cx, id);
    if reads_stream {
        // The restarted consumer continues behind the last delivery that was taken.
        consuming.consumers.return_buffered(cx, id);
    }
    if delay.is_zero() {
        consuming.restarts.queue(id);
    } else {
        let at = later(cx.now, delay);
        consuming.restarts.delay(id, error, at);
    }
    cx.notices.notify(&Notice::ConsumerInterrupted {
        tag,
        why: why.clone(),
    });
    cx.may_start = true;
    cx.attention = true;
    true
}

/// Ends a consumer that the server has cancelled, and notifies the program.
pub(crate) fn end_cancelled(cx: &mut Context, consuming: &mut Consuming, id: ConsumerId) {
    let tag = consuming.consumers.get(id).map_or("", Consumer::tag).into();
    consuming.end_consumer(cx, id, Ended::CancelledByServer);
    cx.notices.notify(&Notice::ConsumerCancelled(tag));
}

/// Ends a consumer whose restart was refused. An interrupted consumer ends with the reason of the
/// interruption, not with the refusal.
pub(crate) fn end_refused(
    cx: &mut Context,
    consuming: &mut Consuming,
    id: ConsumerId,
    error: &Error,
) {
    // Unreachable: the caller has found the consumer.
    let Some(consumer) = consuming.consumers.get(id) else {
        return;
    };
    let Some(why) = consumer.restarts.interruption().cloned() else {
        consuming.end_consumer(cx, id, Ended::ChannelClosed(error.clone()));
        return;
    };
    let missing = matches!(error, Error::NotFound(_)) && !is_temporary(error, false);
    let queues: Vec<_> = consumer
        .live_subscriptions()
        .map(|(_, it)| it.queue.clone())
        .collect();
    if matches!(why, Ended::CancelledByServer) {
        end_cancelled(cx, consuming, id);
    } else {
        consuming.end_consumer(cx, id, why);
    }
    // The queue was deleted, so it is not declared again.
    for queue in queues.iter().filter(|_| missing) {
        cx.topology.forget_queue(queue.as_short_str());
    }
}

impl Consumer {
    /// Records that its queue does not exist. Returns `false` if it does not wait for the queue. A
    /// stream with that name will be another one, which is read from its beginning.
    pub(crate) fn wait_for_queue(&mut self, now: Instant) -> bool {
        let offsets = self.subscriptions.iter_mut();
        offsets
            .filter_map(|it| it.next_offset.as_mut())
            .for_each(|next_offset| *next_offset = 0);
        self.restarts.wait_for_queue(now)
    }

    /// Records that the consumer is without a channel, and is to be restarted with the prefetch
    /// count that the program has asked for last. Returns its last channel.
    pub(crate) fn suspend(&mut self) -> Option<u16> {
        self.restart_prefetch_count = Some(self.wanted_prefetch_count());
        self.throttled_from = None;
        self.phase = Phase::Restarting;
        self.tags.clear();
        self.channel.take()
    }
}
