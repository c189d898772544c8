//! Reading pauses while too many deliveries are buffered, and what waits behind them.
//!
//! Replies and confirms come in the same stream as deliveries. When a pause lasts too long and
//! something is waited for, greedy consumers are throttled: a second tag with a prefetch count of 1
//! takes the place of the first, on the same channel, as for `basic.qos`. The consumer does not notice:
//! what is buffered can be taken, and the rest of what is in flight is buffered too. When most of it is
//! taken, a tag with the consumer's own prefetch count takes the place of the throttled one.
//!
//! A plain `basic.cancel` would do as well to stop the deliveries, but it would delete an auto-delete
//! queue with everything in it, and `channel.flow` from a client is not implemented by RabbitMQ. The
//! second tag also keeps a consumer alive whose holder waits for one more message before it settles.

use super::{Connection, State};
use crate::error::Error;
use crate::machine::consumers::{Consumer, Phase, Throttle};
use crate::machine::deadline::Deadline;
use crate::machine::reading::Buffered;
use crate::machine::{ConsumerId, Notice, PromiseId, Reply};
use std::time::{Duration, Instant};

impl Connection {
    fn buffered(&self) -> Buffered {
        let (deliveries, bytes) = self.consumers.buffered();
        Buffered { deliveries, bytes }
    }

    /// Pauses reading, or goes on, as what is buffered says.
    pub(super) fn update_reading(&mut self) {
        let buffered = self.buffered();
        if self.reading.update(buffered) {
            self.resume_reading();
        }
        if self.reading.wants_search(buffered) {
            self.throttle_greedy();
        }
    }

    /// Goes on reading if what was taken allows it.
    pub(super) fn proceed_reading(&mut self) {
        if self.reading.depends_on_taking() {
            self.proceed();
        }
    }

    fn resume_reading(&mut self) {
        self.attention = true;
        if matches!(self.state, State::Restoring) {
            self.restore_deadline = Deadline::In(self.options.deadlines.request);
        }
        self.heartbeat.resume();
    }

    /// Returns `true` if a reply or a confirm may lie behind what is not read.
    fn waits_for_input(&self) -> bool {
        self.promises.waiting() > 0 || matches!(self.state, State::Restoring)
    }

    /// Returns when the pause has lasted too long.
    pub(super) fn pause_deadline(&self) -> Option<Instant> {
        let reads = matches!(self.state, State::Open | State::Restoring);
        self.reading.deadline(self.waits_for_input()).filter(|_| reads)
    }

    /// Tells of a pause that has lasted too long, and ends it if something is waited for.
    pub(super) fn expire_pause(&mut self, now: Instant) {
        if self.pause_deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        let buffered = self.buffered();
        if self.reading.tell(now) {
            let Buffered { deliveries, bytes } = buffered;
            self.notices.tell(&Notice::ReadingPaused { deliveries, bytes });
        }
        if self.waits_for_input() && self.reading.relieve(now, buffered) {
            self.throttle_greedy();
            self.resume_reading();
        }
    }

    /// Returns the error for something that took too long, which says so if reading is paused.
    pub(crate) fn timed_out(&self, what: &'static str, after: Duration) -> Error {
        if self.reading.is_on() {
            return Error::Timeout { what, after };
        }
        let Buffered { deliveries, bytes } = self.buffered();
        Error::reading_paused(what, after, deliveries, bytes)
    }

    /// Throttles the consumers that have more than their share buffered. As the limit is reached, there
    /// is at least one of them.
    fn throttle_greedy(&mut self) {
        let limit = self.reading.limit();
        let share = limit.divided(self.consumers.len());
        for id in self.consumers.ids() {
            if self.consumers.get(id).is_some_and(|consumer| self.is_greedy(consumer, share)) {
                self.throttle(id);
            }
        }
    }

    fn is_greedy(&self, consumer: &Consumer, share: Buffered) -> bool {
        if !consumer.can_be_throttled() || !consumer.buffered.reaches(share) {
            return false;
        }
        // A second consumer of a stream does not begin where the first ends. Its deliveries say what
        // they are from, whether an offset was asked for or not.
        if consumer.last_buffered().is_none_or(|delivered| delivered.has_stream_offset()) {
            return false;
        }
        // A broker counts for each tag by itself. Another tag beside the first would let more be
        // unsettled than a prefetch count allows, which programs rely on. What is still to come of such
        // a consumer is bounded by that count, and reading goes on for it up to the hard bound.
        consumer.prefetch_count() == 0 || consumer.shared_prefetch_count.is_some()
    }

    fn throttle(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        let number = consumer.channel;
        if consumer.shared_prefetch_count.is_some_and(|count| count != 0) {
            consumer.throttle = Some(Throttle::Channel);
            self.write_qos(number, 1, true, None);
        } else {
            consumer.throttle = Some(Throttle::Tags { prefetch_count: consumer.prefetch_count() });
            self.replace_tags(id, 1);
        }
    }

    /// Starts a tag with that prefetch count for each queue of a consumer, in the place of those it has.
    fn replace_tags(&mut self, id: ConsumerId, prefetch_count: u16) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        consumer.tags.iter_mut().for_each(|tag| tag.leaving = true);
        let number = consumer.channel;
        let live = (0..).zip(&consumer.sources).filter(|(_, terms)| terms.ended.is_none());
        let live: Vec<u32> = live.map(|(source, _)| source).collect();
        for source in live {
            self.write_consume(number, id, source, prefetch_count, None, false);
        }
    }

    pub(super) fn is_throttled(&self, id: ConsumerId) -> bool {
        self.consumers.get(id).is_some_and(|consumer| consumer.throttle.is_some())
    }

    /// Changes the prefetch count of a consumer that is throttled.
    pub(super) fn resize_throttled(&mut self, id: ConsumerId, prefetch_count: u16, promise: PromiseId) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        // It holds as soon as the consumer is not throttled any more, which is less until then.
        match &mut consumer.shared_prefetch_count {
            Some(shared) => *shared = prefetch_count,
            None => consumer.throttle = Some(Throttle::Tags { prefetch_count }),
        }
        self.answer(promise, Ok(Reply::Done));
        self.unthrottle(id);
    }

    /// Gives the consumer of a channel its own prefetch count again, if it has been throttled and may go on.
    pub(super) fn unthrottle_on(&mut self, number: u16) {
        if self.reading.has_been_relieved()
            && let Some(id) = self.channels.get(number).and_then(|channel| channel.consumer)
        {
            self.unthrottle(id);
        }
    }

    /// Gives a consumer its own prefetch count again, if it has been throttled and may go on.
    pub(super) fn unthrottle(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get(id) else { return };
        let Some(throttle) = consumer.throttle.filter(|_| consumer.can_be_resized()) else { return };
        let half = self.reading.limit().divided(2);
        let is_drained = !consumer.buffered.exceeds(half.divided(self.consumers.len()));
        if !is_drained && self.buffered().exceeds(half) {
            return;
        }
        // The broker counts for each tag, so what is unsettled does not count for the next one: a
        // holder that has all it may have waits until it settles some of it.
        let (number, shared) = (consumer.channel, consumer.shared_prefetch_count);
        let most = usize::from(consumer.prefetch_count());
        let unsettled = self.channels.get(number).map_or(0, |channel| channel.unsettled.held());
        if most != 0 && unsettled >= most {
            return;
        }
        if let Some(consumer) = self.consumers.get_mut(id) {
            consumer.throttle = None;
        }
        if let Throttle::Tags { prefetch_count } = throttle {
            self.replace_tags(id, prefetch_count);
        }
        if let Some(count) = shared.filter(|count| *count != 0 || throttle == Throttle::Channel) {
            self.write_qos(number, count, true, None);
        }
    }
}

impl Consumer {
    /// Returns `true` if its prefetch count can be changed now: it is live, and no other change is pending.
    fn can_be_resized(&self) -> bool {
        matches!(self.phase, Phase::Live) && self.tags.iter().all(|tag| tag.started && !tag.leaving)
    }

    /// Returns `true` if a second tag may take the place of those it has, and would slow it down.
    ///
    /// Brokers ignore the prefetch count of consumers without acknowledgements, let no second consumer
    /// start beside an exclusive one, and start one with an offset over again.
    fn can_be_throttled(&self) -> bool {
        let is_unsuitable = self.sources.iter().any(|terms| terms.exclusive || terms.by_offset);
        !self.no_ack
            && !self.dropped
            && !is_unsuitable
            && self.throttle.is_none()
            && self.prefetch_count() != 1
            && self.can_be_resized()
    }
}
