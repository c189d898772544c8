//! Changes of prefetch counts: by the program, and to throttle consumers while too many deliveries
//! are buffered.
//!
//! The broker fixes a tag's prefetch count when the tag starts. So a second tag with the new count
//! replaces the first, or supplements it if the count grows.
//!
//! Replies and confirms use the same stream as deliveries, so reading cannot stay paused over
//! buffered deliveries while a reply is pending. If a pause lasts too long, greedy consumers are
//! throttled to a prefetch count of 1, and reading continues. The program does not notice: it takes
//! the buffered deliveries, and those in flight are buffered as well. When it has taken most of
//! them, the consumer's own prefetch count is restored.
//!
//! Two alternatives to throttling were rejected. A `basic.cancel` alone would stop the deliveries,
//! too, but it deletes an auto-delete queue with all its messages. RabbitMQ does not implement
//! `channel.flow` from a client. A prefetch count of 1 also serves a program that waits for one
//! more message before it settles any.

use crate::error::Error;
use crate::machine::channel::Channel;
use crate::machine::channel::Resize;
use crate::machine::consume::Consuming;
use crate::machine::consume::consumer::Consumer;
use crate::machine::consume::consumers::Consumers;
use crate::machine::consume::reading::Buffered;
use crate::machine::context::{Context, Stage};
use crate::machine::{ConsumerId, Notice, PromiseId, Reply};
use std::time::{Duration, Instant};

impl Consumers {
    /// Restores the prefetch count of a consumer whose channel the broker has closed, if a change
    /// is pending. The change fails, so a restarted consumer has the count before.
    pub(crate) fn undo_resize(&mut self, channel: &Channel) {
        if let Some(before) = channel.count_before_resize()
            && let Some(consumer) = channel.consumer().and_then(|id| self.get_mut(id))
        {
            consumer.restart_prefetch_count = Some(before);
        }
    }

    /// Completes the promises of changed prefetch counts, unless a tag still has an earlier count.
    pub(crate) fn complete_resizes(&mut self, cx: &mut Context, id: ConsumerId) {
        // `cancel-ok` may just have ended the consumer, and a dropped one is removed then.
        let Some(consumer) = self.get_mut(id) else {
            return;
        };
        if consumer
            .tags
            .iter()
            .any(|tag| tag.is_replaced || !tag.started)
        {
            return;
        }
        for promise in std::mem::take(&mut consumer.resize_promises) {
            cx.complete(promise, Ok(Reply::Done));
        }
    }
}

impl Consuming {
    /// Changes the number of deliveries of a consumer that may be unsettled; 0 for no limit.
    pub(crate) fn qos(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        prefetch_count: u16,
    ) -> Result<PromiseId, Error> {
        let consumer = self.consumers.get_mut(id).ok_or(Error::Stale)?;
        if consumer.is_restarting() {
            // It restarts with this count, or the count is changed as soon as it has restarted.
            let promise = cx.counted_promise();
            consumer.restart_prefetch_count = Some(prefetch_count);
            consumer.resize_promises.push(promise);
            return Ok(promise);
        }
        let number = consumer.live_channel().ok_or(Error::Stale)?;
        consumer.check_resize(prefetch_count)?;
        let promise = cx.counted_promise();
        self.resize(cx, number, id, prefetch_count, promise);
        Ok(promise)
    }

    /// Changes the prefetch count of a live consumer. The caller has checked that it can be
    /// changed.
    pub(crate) fn resize(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        prefetch_count: u16,
        promise: PromiseId,
    ) {
        // Unreachable: the caller has found the consumer.
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        // The server may have cancelled one of its tags. The new count replaces that before.
        consumer.restart_prefetch_count = None;
        let current = consumer.prefetch_count();
        let resize = Resize {
            promise,
            before: current,
        };
        if current == prefetch_count || consumer.no_ack {
            // An earlier change to the same count may be pending.
            consumer.resize_promises.push(promise);
            self.consumers.complete_resizes(cx, id);
        } else if consumer.throttled_from.is_some() {
            self.resize_throttled(cx, id, prefetch_count, promise);
        } else if let Some(shared) = &mut consumer.shared_prefetch_count {
            *shared = prefetch_count;
            self.consumers
                .replace_tags(cx, number, id, prefetch_count, Some(resize));
        } else {
            // A consumer without a shared count has one queue, of index 0. If the count grows, a
            // second tag with the difference supplements the first.
            let grows = current != 0 && prefetch_count > current;
            let count_of_tag = if grows {
                prefetch_count - current
            } else {
                consumer
                    .tags
                    .iter_mut()
                    .for_each(|tag| tag.is_replaced = true);
                prefetch_count
            };
            self.consumers
                .write_consume(cx, number, id, 0, count_of_tag, Some(resize));
        }
    }

    /// Pauses or resumes reading, depending on the buffered deliveries. Returns `true` if reading
    /// resumes.
    pub(crate) fn update_reading(&mut self, cx: &mut Context) -> bool {
        let buffered = self.consumers.buffered();
        let resumes = self.reading.update(buffered);
        if self.reading.begin_search_if_due(buffered) {
            self.throttle_greedy(cx);
        }
        resumes
    }

    /// Returns `true` if a reply or a confirm may be unread.
    fn waits_for_input(&self, cx: &Context) -> bool {
        cx.promises.pending() > 0 || cx.stage == Stage::Restoring || self.restarts.is_starting()
    }

    /// Returns when the current pause becomes too long.
    pub(crate) fn pause_deadline(&self, cx: &Context) -> Option<Instant> {
        let may_receive_deliveries = matches!(cx.stage, Stage::Open | Stage::Restoring);
        self.reading
            .deadline(self.waits_for_input(cx))
            .filter(|_| may_receive_deliveries)
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
        let buffered = self.consumers.buffered();
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
    pub(crate) fn timeout_error(&self, what: &'static str, after: Duration) -> Error {
        let buffered = self.consumers.buffered();
        self.reading.timeout_error(what, after, buffered)
    }

    /// Throttles the consumers that have more than their share buffered. At the limit, there is at
    /// least one such consumer.
    fn throttle_greedy(&mut self, cx: &mut Context) {
        let limit = self.reading.limit();
        let share = limit.divided(self.consumers.len());
        for id in self.consumers.ids() {
            let consumer = self.consumers.get(id);
            let greedy = consumer.filter(|consumer| consumer.is_greedy(share));
            if let Some(number) = greedy.and_then(Consumer::live_channel) {
                self.consumers.throttle(cx, number, id);
            }
        }
    }

    /// Changes the prefetch count of a throttled consumer. The count applies when the consumer is
    /// no longer throttled.
    fn resize_throttled(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        prefetch_count: u16,
        promise: PromiseId,
    ) {
        // Unreachable: the caller has found the consumer.
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        consumer.throttled_from = Some(prefetch_count);
        if let Some(shared) = &mut consumer.shared_prefetch_count {
            *shared = prefetch_count;
        }
        cx.complete(promise, Ok(Reply::Done));
        self.unthrottle(cx, id);
    }

    /// Lets the consumer of a channel continue after deliveries on it were settled.
    pub(crate) fn continue_on(&mut self, cx: &mut Context, number: u16) {
        if let Some(id) = cx.channels.get(number).and_then(Channel::consumer) {
            if self.consumers.get(id).is_some_and(Consumer::withholds) {
                self.consumers.announce(id);
            }
            if self.reading.has_been_relieved() {
                self.unthrottle(cx, id);
            }
        }
    }

    /// Restores the prefetch count of a consumer, if it is throttled and may continue.
    pub(crate) fn unthrottle(&mut self, cx: &mut Context, id: ConsumerId) {
        // `cancel-ok` may just have ended the consumer, and a dropped one is removed then.
        let Some(consumer) = self.consumers.get(id) else {
            return;
        };
        // Most consumers are not throttled. A consumer with a pending change continues after it.
        let Some(own) = consumer
            .throttled_from
            .filter(|_| consumer.can_be_resized())
        else {
            return;
        };
        let half = self.reading.limit().divided(2);
        let is_drained = !consumer
            .buffered
            .exceeds(half.divided(self.consumers.len()));
        if !is_drained && self.consumers.buffered().exceeds(half) {
            return;
        }
        // Unreachable: a consumer that can be resized is live.
        let Some(number) = consumer.live_channel() else {
            return;
        };
        // The broker counts for each tag, so unsettled deliveries would not count for the new tag.
        // A consumer whose deliveries are all unsettled waits until some are settled.
        let max_unsettled = usize::from(own);
        let unsettled = cx
            .channels
            .get(number)
            .map_or(0, |channel| channel.unsettled.count());
        if max_unsettled != 0 && unsettled >= max_unsettled {
            return;
        }
        if let Some(consumer) = self.consumers.get_mut(id) {
            consumer.throttled_from = None;
        }
        self.consumers.replace_tags(cx, number, id, own, None);
    }
}
