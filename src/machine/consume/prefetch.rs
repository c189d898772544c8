//! Pauses of reading while too many deliveries are buffered.
//!
//! Replies and confirms use the same stream as deliveries. If a pause lasts too long and a reply is
//! pending, greedy consumers are throttled: on the same channel, a second tag with a prefetch count
//! of 1 replaces the first, as for `basic.qos`. The program does not notice: it takes the buffered
//! deliveries, and those in flight are buffered as well. When it has taken most of them, a tag with
//! the consumer's own prefetch count replaces the throttled one.
//!
//! Two alternatives were rejected. A `basic.cancel` alone would stop the deliveries, too, but it
//! deletes an auto-delete queue with all its messages. RabbitMQ does not implement `channel.flow`
//! from a client. A second tag also serves a program that waits for one more message before it
//! settles any.

use crate::error::Error;
use crate::machine::channel::Resize;
use crate::machine::channel::content::Delivered;
use crate::machine::consume::Consuming;
use crate::machine::consume::consumer::{Consumer, Phase, Throttle};
use crate::machine::consume::reading::Buffered;
use crate::machine::context::{Context, Stage};
use crate::machine::{ConsumerId, Notice, PromiseId, Reply, Settle};
use std::time::{Duration, Instant};

impl Consuming {
    /// Completes the promises of a changed prefetch count once no tag has the count before.
    pub(crate) fn complete_resizes(&mut self, cx: &mut Context, id: ConsumerId) {
        // `cancel-ok` may just have ended the consumer, and a dropped one is removed then.
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        if consumer.tags.iter().any(|tag| tag.leaving || !tag.started) {
            return;
        }
        for promise in std::mem::take(&mut consumer.resizing) {
            cx.complete(promise, Ok(Reply::Done));
        }
    }

    /// Changes the number of deliveries of a live consumer that may be unsettled; 0 for no limit.
    pub(crate) fn qos(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        prefetch_count: u16,
    ) -> Result<PromiseId, Error> {
        let consumer = self
            .consumers
            .get(id)
            .filter(|it| matches!(it.phase, Phase::Live | Phase::Restoring));
        let consumer = consumer.ok_or(Error::Stale)?;
        if matches!(consumer.phase, Phase::Restoring) {
            return Ok(self.qos_when_restored(cx, id, prefetch_count));
        }
        consumer.check_resize(prefetch_count)?;
        let promise = cx.counted_promise();
        self.resize(cx, id, prefetch_count, promise);
        Ok(promise)
    }

    /// Changes the prefetch count of a live consumer. The caller has checked that it can be
    /// changed.
    pub(crate) fn resize(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        prefetch_count: u16,
        promise: PromiseId,
    ) {
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        let (number, current) = (consumer.channel, consumer.prefetch_count());
        let is_shared = consumer.shared_prefetch_count.is_some();
        let resize = Resize {
            promise,
            before: current,
        };
        if current == prefetch_count || consumer.no_ack {
            // An earlier change to the same count may be pending.
            consumer.resizing.push(promise);
            self.complete_resizes(cx, id);
        } else if consumer.throttle.is_some() {
            self.resize_throttled(cx, id, prefetch_count, promise);
        } else if is_shared {
            consumer.shared_prefetch_count = Some(prefetch_count);
            self.consumers
                .write_qos(cx, number, prefetch_count, true, Some((id, resize)));
        } else if current != 0 && prefetch_count > current {
            self.consumers
                .write_consume(cx, number, id, 0, prefetch_count - current, Some(resize));
        } else {
            consumer.tags.iter_mut().for_each(|tag| tag.leaving = true);
            self.consumers
                .write_consume(cx, number, id, 0, prefetch_count, Some(resize));
        }
    }

    /// Records the prefetch count of a consumer that is being restored. It starts with this count,
    /// or the count is changed as soon as it has started.
    pub(crate) fn qos_when_restored(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        prefetch_count: u16,
    ) -> PromiseId {
        let promise = cx.counted_promise();
        if let Some(consumer) = self.consumers.get_mut(id) {
            consumer.wanted_prefetch = Some(prefetch_count);
            consumer.resizing.push(promise);
        }
        promise
    }

    /// Returns the number of all buffered deliveries and their size.
    pub(crate) fn buffered(&self) -> Buffered {
        let (deliveries, bytes) = self.consumers.buffered();
        Buffered { deliveries, bytes }
    }

    /// Pauses or resumes reading, depending on the buffered deliveries. Returns `true` if it
    /// resumes.
    pub(crate) fn update_reading(&mut self, cx: &mut Context) -> bool {
        let buffered = self.buffered();
        let resumes = self.reading.update(buffered);
        if self.reading.wants_search(buffered) {
            self.throttle_greedy(cx);
        }
        resumes
    }

    /// Returns `true` if a reply or a confirm may be unread.
    pub(crate) fn waits_for_input(&self, cx: &Context) -> bool {
        cx.promises.pending() > 0
            || cx.stage == Stage::Restoring
            || self.resubscription.is_starting()
    }

    /// Returns when the current pause becomes too long.
    pub(crate) fn pause_deadline(&self, cx: &Context) -> Option<Instant> {
        let reads = matches!(cx.stage, Stage::Open | Stage::Restoring);
        self.reading
            .deadline(self.waits_for_input(cx))
            .filter(|_| reads)
    }

    /// Reports a pause that has become too long, and ends it if a reply is pending. Returns `true`
    /// if reading resumes.
    pub(crate) fn expire_pause(&mut self, cx: &mut Context, now: Instant) -> bool {
        if self
            .pause_deadline(cx)
            .is_none_or(|deadline| deadline > now)
        {
            return false;
        }
        let buffered = self.buffered();
        if self.reading.take_notice(now) {
            let Buffered { deliveries, bytes } = buffered;
            cx.notices
                .notify(&Notice::ReadingPaused { deliveries, bytes });
        }
        let resumes = self.waits_for_input(cx) && self.reading.relieve(now, buffered);
        if resumes {
            self.throttle_greedy(cx);
        }
        resumes
    }

    /// Returns the error of a timeout: [`Error::ReadingPaused`] if reading is paused.
    pub(crate) fn timed_out(&self, what: &'static str, after: Duration) -> Error {
        if self.reading.is_on() {
            return Error::Timeout { what, after };
        }
        let Buffered { deliveries, bytes } = self.buffered();
        Error::reading_paused(what, after, deliveries, bytes)
    }

    /// Throttles the consumers that have more than their share buffered. At the limit, there is at
    /// least one such consumer.
    pub(crate) fn throttle_greedy(&mut self, cx: &mut Context) {
        let limit = self.reading.limit();
        let share = limit.divided(self.consumers.len());
        for id in self.consumers.ids() {
            if self
                .consumers
                .get(id)
                .is_some_and(|consumer| self.is_greedy(consumer, share))
            {
                self.consumers.throttle(cx, id);
            }
        }
    }

    /// Returns `true` if a consumer has more than its share buffered and can be throttled.
    pub(crate) fn is_greedy(&self, consumer: &Consumer, share: Buffered) -> bool {
        if !consumer.can_be_throttled() || !consumer.buffered.reaches(share) {
            return false;
        }
        // A second consumer of a stream would not continue where the first ends. Deliveries of a
        // stream have an offset, even if the consumer asked for none.
        if consumer
            .last_buffered()
            .is_none_or(|delivered| delivered.has_stream_offset())
        {
            return false;
        }
        // The broker counts for each tag. A second tag would allow more unsettled deliveries than
        // the prefetch count, which programs rely on. The count limits the deliveries in flight to
        // such a consumer, and reading continues for them up to the hard limit.
        consumer.prefetch_count() == 0 || consumer.shared_prefetch_count.is_some()
    }

    /// Changes the prefetch count of a throttled consumer.
    pub(crate) fn resize_throttled(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        prefetch_count: u16,
        promise: PromiseId,
    ) {
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        // The new count applies once the consumer is no longer throttled; until then it is lower.
        match &mut consumer.shared_prefetch_count {
            Some(shared) => *shared = prefetch_count,
            None => consumer.throttle = Some(Throttle::Tags { prefetch_count }),
        }
        cx.complete(promise, Ok(Reply::Done));
        self.unthrottle(cx, id);
    }

    /// Restores the prefetch count of a channel's consumer, if it is throttled and may continue.
    pub(crate) fn unthrottle_on(&mut self, cx: &mut Context, number: u16) {
        if self.reading.has_been_relieved()
            && let Some(id) = cx.channels.get(number).and_then(|channel| channel.consumer)
        {
            self.unthrottle(cx, id);
        }
    }

    /// Restores the prefetch count of a consumer, if it is throttled and may continue.
    pub(crate) fn unthrottle(&mut self, cx: &mut Context, id: ConsumerId) {
        // `cancel-ok` may just have ended the consumer, and a dropped one is removed then.
        let Some(consumer) = self.consumers.get(id) else {
            return;
        };
        // Most consumers are not throttled. Those with a pending change are handled after it.
        let Some(throttle) = consumer.throttle.filter(|_| consumer.can_be_resized()) else {
            return;
        };
        let half = self.reading.limit().divided(2);
        let is_drained = !consumer
            .buffered
            .exceeds(half.divided(self.consumers.len()));
        if !is_drained && self.buffered().exceeds(half) {
            return;
        }
        // The broker counts for each tag, so unsettled deliveries would not count for the new tag.
        // A consumer whose deliveries are all unsettled waits until some are settled.
        let (number, shared) = (consumer.channel, consumer.shared_prefetch_count);
        let most = usize::from(consumer.prefetch_count());
        let unsettled = cx
            .channels
            .get(number)
            .map_or(0, |channel| channel.unsettled.count());
        if most != 0 && unsettled >= most {
            return;
        }
        if let Some(consumer) = self.consumers.get_mut(id) {
            consumer.throttle = None;
        }
        if let Throttle::Tags { prefetch_count } = throttle {
            self.consumers.replace_tags(cx, id, prefetch_count);
        }
        if let Some(count) = shared.filter(|count| *count != 0 || throttle == Throttle::Channel) {
            self.consumers.write_qos(cx, number, count, true, None);
        }
    }

    /// Settles a delivery. A refusal may let a throttled consumer continue; an ack does so when it
    /// is written.
    #[inline]
    pub(crate) fn settle(
        &mut self,
        cx: &mut Context,
        delivered: &Delivered,
        how: Settle,
    ) -> Result<(), Error> {
        let settled = cx.settle(delivered, how);
        if !matches!(how, Settle::Ack { .. }) && settled.is_ok() {
            self.unthrottle_on(cx, delivered.channel);
        }
        settled
    }

    /// Writes the collected acks.
    pub(crate) fn flush_acks(&mut self, cx: &mut Context) {
        let mut acking = std::mem::take(&mut cx.acking);
        for number in acking.drain(..) {
            cx.flush_channel_acks(number);
            self.unthrottle_on(cx, number);
        }
        cx.acking = acking;
    }
}
