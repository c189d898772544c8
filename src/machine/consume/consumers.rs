//! The consumers of the connection by their ids, and their events.

use crate::machine::channel::content::{Delivered, Recipient};
use crate::machine::consume::buffer::Spares;
use crate::machine::consume::consumer::{Consumer, Phase, QueuedConsume, Subscription};
use crate::machine::consume::ended::Ended;
use crate::machine::consume::reading::Buffered;
use crate::machine::consume::tags::{Tag, TagNumber};
use crate::machine::ids::ConsumerId;
use crate::protocol::ShortString;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Returns a consumer, unless it has been removed. This borrows only the slots, so that the caller
/// can use other fields.
#[inline]
fn find_mut(slots: &mut [Option<Consumer>], id: ConsumerId) -> Option<&mut Consumer> {
    slots
        .get_mut(id.index())?
        .as_mut()
        .filter(|consumer| consumer.turn == id.turn)
}

/// The number of consumers of each queue, by the first name of the queue. A consumer that is being
/// cancelled or has ended is not counted.
#[derive(Debug, Default)]
struct ConsumedQueues(BTreeMap<ShortString, usize>);

impl ConsumedQueues {
    fn add(&mut self, subscription: &Subscription) {
        if subscription.ended.is_none() {
            *self.0.entry(subscription.queue.clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, subscription: &Subscription) {
        if subscription.ended.is_none()
            && let Some(count) = self.0.get_mut(&subscription.queue)
        {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&subscription.queue);
            }
        }
    }

    /// Removes the queues of a consumer that is about to stop consuming.
    fn remove_all(&mut self, consumer: &Consumer) {
        if consumer.is_consuming() {
            for subscription in &consumer.subscriptions {
                self.remove(subscription);
            }
        }
    }
}

/// The consumers of the connection.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    /// By the index of the id, so that a look-up takes constant time.
    slots: Vec<Option<Consumer>>,
    /// The indices of empty slots.
    free: Vec<u32>,
    consumed: ConsumedQueues,
    /// The number of consumers that were ever added.
    added: u64,
    /// The number of the last tag.
    last_tag: u64,
    spares: Spares,
    /// The buffered deliveries of all consumers.
    buffered: Buffered,
    /// The number of deliveries that were dropped since the connection last became open, including
    /// those of removed consumers.
    pub(crate) lost: u64,
    /// The consumers with an event for the program: it can take deliveries, or they have ended.
    announcements: VecDeque<ConsumerId>,
}

/// Queues an event for a consumer, unless one is queued already, or the program has dropped it.
#[inline]
fn announce(announcements: &mut VecDeque<ConsumerId>, consumer: &mut Consumer, id: ConsumerId) {
    if !consumer.is_announced && !consumer.dropped {
        consumer.is_announced = true;
        announcements.push_back(id);
    }
}

impl Consumers {
    /// Adds a consumer that starts on a channel. It has no tag yet.
    pub(crate) fn add(&mut self, channel: u16, queued: QueuedConsume) -> ConsumerId {
        self.added += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        let id = ConsumerId {
            turn: self.added,
            index,
        };
        for subscription in &queued.subscriptions {
            self.consumed.add(subscription);
        }
        if let Some(slot) = self.slots.get_mut(id.index()) {
            *slot = Some(Consumer::new(id.turn, channel, queued));
        }
        id
    }

    /// Adds a tag for a subscription. Returns its number, which no other tag of the connection has
    /// had, and the subscription. Returns `None` if there is no such subscription.
    pub(crate) fn add_tag(
        &mut self,
        id: ConsumerId,
        index: u32,
        prefetch_count: u16,
    ) -> Option<(TagNumber, &Subscription)> {
        let consumer = find_mut(&mut self.slots, id)?;
        let subscription = consumer.subscriptions.get_mut(index as usize)?;
        // After a reconnect the consumer has the tag again that the program knows. A second tag
        // beside it, which replaces it, has another number.
        let is_free = consumer.tags.iter().all(|tag| tag.subscription != index);
        let number = subscription.number.filter(|_| is_free).unwrap_or_else(|| {
            self.last_tag += 1;
            TagNumber(self.last_tag)
        });
        if subscription.number.is_none() {
            subscription.number = Some(number);
            subscription.tag = number.to_tag(&subscription.users_tag).into();
        }
        consumer.tags.push(Tag {
            number,
            prefetch_count,
            subscription: index,
            by_offset: subscription.by_offset,
            started: false,
            is_replaced: false,
            cancelled: false,
        });
        Some((number, subscription))
    }

    /// Returns a consumer, unless it has been removed.
    #[inline]
    pub(crate) fn get(&self, id: ConsumerId) -> Option<&Consumer> {
        self.slots
            .get(id.index())?
            .as_ref()
            .filter(|consumer| consumer.turn == id.turn)
    }

    /// Returns a consumer, unless it has been removed.
    #[inline]
    pub(crate) fn get_mut(&mut self, id: ConsumerId) -> Option<&mut Consumer> {
        find_mut(&mut self.slots, id)
    }

    /// Returns a consumer that is being restarted.
    pub(crate) fn restarting(&self, id: ConsumerId) -> Option<&Consumer> {
        self.get(id).filter(|consumer| consumer.is_restarting())
    }

    /// Returns the recipient of a delivery with this tag, if the tag is one of this consumer's.
    #[inline]
    pub(crate) fn recipient(&self, id: ConsumerId, tag: TagNumber) -> Option<Recipient> {
        let tag = self.get(id)?.tags.find(tag)?;
        Some(Recipient {
            consumer: id,
            source: tag.subscription,
            by_offset: tag.by_offset,
        })
    }

    /// Returns the ids of all consumers, in the order in which they were added.
    pub(crate) fn ids(&self) -> Vec<ConsumerId> {
        let slots = (0..).zip(&self.slots);
        let ids = slots.filter_map(|(index, slot)| {
            Some(ConsumerId {
                turn: slot.as_ref()?.turn,
                index,
            })
        });
        let mut ids: Vec<_> = ids.collect();
        ids.sort_unstable();
        ids
    }

    /// Removes a consumer if it has ended and the program has dropped it.
    pub(crate) fn remove_if_unused(&mut self, id: ConsumerId) {
        let consumer = self.get(id);
        if consumer.is_some_and(|consumer| consumer.dropped && consumer.has_ended()) {
            self.remove(id);
        }
    }

    /// Buffers a delivery until it is taken.
    #[inline]
    pub(crate) fn push(&mut self, id: ConsumerId, delivered: Delivered) {
        // Unreachable: the caller has found the consumer.
        let Some(consumer) = find_mut(&mut self.slots, id) else {
            return;
        };
        let bytes = delivered.message.bytes();
        self.buffered.deliveries += 1;
        self.buffered.bytes += bytes;
        consumer.buffered.deliveries += 1;
        consumer.buffered.bytes += bytes;
        consumer.deliveries.push(delivered, &mut self.spares);
        announce(&mut self.announcements, consumer, id);
    }

    /// Queues an event for a consumer, unless one is queued already.
    pub(crate) fn announce(&mut self, id: ConsumerId) {
        if let Some(consumer) = find_mut(&mut self.slots, id) {
            announce(&mut self.announcements, consumer, id);
        }
    }

    /// Returns `true` if an event is queued.
    pub(crate) fn has_announcement(&self) -> bool {
        !self.announcements.is_empty()
    }

    /// Removes the next event, and returns its consumer.
    pub(crate) fn poll_announcement(&mut self) -> Option<ConsumerId> {
        self.announcements.pop_front()
    }

    /// Takes up to `most` deliveries and appends them to `into`. Returns `true` if the consumer is
    /// throttled.
    pub(crate) fn take(
        &mut self,
        id: ConsumerId,
        most: usize,
        into: &mut VecDeque<Delivered>,
    ) -> bool {
        // The program may still have the id of a removed consumer.
        let Some(consumer) = find_mut(&mut self.slots, id) else {
            return false;
        };
        consumer.is_announced = false;
        let (count, bytes) = consumer.deliveries.take(most, into, &mut self.spares);
        self.buffered.deliveries -= count;
        self.buffered.bytes -= bytes;
        consumer.buffered.deliveries -= count;
        consumer.buffered.bytes -= bytes;
        consumer.throttled_from.is_some()
    }

    /// Records the offset of a delivery that the program has taken from a stream.
    pub(crate) fn record_offset(&mut self, id: ConsumerId, taken: &Delivered) {
        if let Some(consumer) = self.get_mut(id) {
            consumer.record_offset(taken);
        }
    }

    /// Takes all buffered deliveries of a consumer.
    pub(crate) fn take_all(&mut self, id: ConsumerId) -> VecDeque<Delivered> {
        let mut all = VecDeque::new();
        self.take(id, usize::MAX, &mut all);
        all
    }

    /// Drops the buffered deliveries of a consumer, unless they need no ack.
    pub(crate) fn discard_unsettled(&mut self, id: ConsumerId) {
        if self.get(id).is_some_and(|consumer| !consumer.no_ack) {
            self.take_all(id);
        }
    }

    /// Drops the buffered deliveries of a consumer that can no longer be settled, and counts them
    /// as lost.
    pub(crate) fn lose_unsettled(&mut self, id: ConsumerId) {
        let before = self.buffered.deliveries;
        self.discard_unsettled(id);
        self.count_lost(id, (before - self.buffered.deliveries) as u64);
    }

    /// Counts deliveries of a consumer that were dropped because they can no longer be settled.
    pub(crate) fn count_lost(&mut self, id: ConsumerId, deliveries: u64) {
        self.lost += deliveries;
        if let Some(consumer) = self.get_mut(id) {
            consumer.lost += deliveries;
        }
    }

    /// Returns `true` if this queue is consumed, by a consumer that has not ended and is not being
    /// cancelled.
    pub(crate) fn is_consumed(&self, queue: &[u8]) -> bool {
        self.consumed.0.contains_key(queue)
    }

    /// Interrupts a consumer that the broker has ended. Returns the delay before its restart, or
    /// `None` if it is not restarted.
    pub(crate) fn interrupt(
        &mut self,
        id: ConsumerId,
        why: &Ended,
        now: Instant,
    ) -> Option<Duration> {
        let consumer = find_mut(&mut self.slots, id)?;
        // If the queue was deleted, it is no longer consumed.
        if matches!(why, Ended::CancelledByServer) && consumer.restarts.policy().time.is_some() {
            self.consumed.remove_all(consumer);
        }
        consumer.restarts.interrupt(why.clone(), now)
    }

    /// Records that a consumer has started again. Returns `true` if it was interrupted.
    pub(crate) fn record_restart(&mut self, id: ConsumerId, now: Instant) -> bool {
        // Unreachable: the caller has found the consumer.
        let Some(consumer) = find_mut(&mut self.slots, id) else {
            return false;
        };
        let was_consuming = consumer.is_consuming();
        let interruption = consumer.restarts.record_start(now);
        if !was_consuming && consumer.is_consuming() {
            for subscription in &consumer.subscriptions {
                self.consumed.add(subscription);
            }
        }
        interruption.is_some()
    }

    /// Records that a consumer is being cancelled.
    pub(crate) fn begin_cancelling(&mut self, id: ConsumerId) {
        if let Some(consumer) = find_mut(&mut self.slots, id)
            && consumer.is_consuming()
        {
            self.consumed.remove_all(consumer);
            consumer.phase = Phase::Cancelling;
        }
    }

    /// Ends one queue of a consumer.
    pub(crate) fn end_subscription(&mut self, id: ConsumerId, index: usize, reason: Ended) {
        if let Some(consumer) = find_mut(&mut self.slots, id) {
            let is_consuming = consumer.is_consuming();
            if let Some(subscription) = consumer.subscriptions.get_mut(index) {
                if is_consuming {
                    self.consumed.remove(subscription);
                }
                subscription.ended = Some(reason);
            }
        }
    }

    /// Ends a consumer. Returns its phase before, or `None` if it had ended already.
    pub(crate) fn end(&mut self, id: ConsumerId, reason: Ended) -> Option<Phase> {
        let consumer = find_mut(&mut self.slots, id).filter(|consumer| !consumer.has_ended())?;
        self.consumed.remove_all(consumer);
        Some(std::mem::replace(&mut consumer.phase, Phase::Ended(reason)))
    }

    /// Removes a consumer, and returns it.
    pub(crate) fn remove(&mut self, id: ConsumerId) -> Option<Consumer> {
        self.take_all(id);
        let consumer = self
            .slots
            .get_mut(id.index())?
            .take_if(|consumer| consumer.turn == id.turn)?;
        self.free.push(id.index);
        self.consumed.remove_all(&consumer);
        Some(consumer)
    }

    /// Returns the number and the size of the buffered deliveries of all consumers.
    #[inline]
    pub(crate) fn buffered(&self) -> Buffered {
        self.buffered
    }

    /// Returns the number of consumers, including ended ones that are not yet removed.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::ids::PromiseId;
    use crate::machine::promises::Promises;
    use crate::options::{OnDrop, Resubscribe};
    use crate::protocol::{ShortStr, Table};

    fn subscription(queue: &str) -> Subscription {
        Subscription {
            queue: ShortStr::new(queue).unwrap_or_default().into(),
            users_tag: "".into(),
            tag: "".into(),
            number: None,
            no_local: false,
            exclusive: false,
            by_offset: false,
            next_offset: None,
            arguments: Table::new(),
            ended: None,
        }
    }

    fn queued(promise: PromiseId, queues: &[&str]) -> QueuedConsume {
        QueuedConsume {
            promise,
            subscriptions: queues.iter().map(|queue| subscription(queue)).collect(),
            no_ack: false,
            prefetch_count: 0,
            resubscribe: Resubscribe::never(),
            on_drop: OnDrop::default(),
            shares_prefetch_count: false,
            is_possible_cause: false,
        }
    }

    #[test]
    fn queue_is_consumed_until_its_last_consumer_ends() {
        let (promises, mut consumers) = (Promises::default(), Consumers::default());
        let ids = [["a", "b"], ["a", "c"], ["c", "c"]]
            .map(|queues| consumers.add(1, queued(promises.none(), &queues)));
        let consumed =
            |consumers: &Consumers| [b"a", b"b", b"c"].map(|queue| consumers.is_consumed(queue));
        consumers.end_subscription(ids[0], 1, Ended::CancelledByServer);
        assert_eq!(consumed(&consumers), [true, false, true]);
        assert!(consumers.end(ids[0], Ended::Cancelled).is_some());
        assert!(consumers.end(ids[0], Ended::Cancelled).is_none());
        assert_eq!(consumed(&consumers), [true, false, true]);
        assert!(consumers.remove(ids[1]).is_some());
        assert_eq!(consumed(&consumers), [false, false, true]);
        assert!(consumers.end(ids[2], Ended::Cancelled).is_some());
        assert!(consumers.consumed.0.is_empty());
    }

    #[test]
    fn taken_deliveries_no_longer_count_for_their_consumer() {
        let (promises, mut consumers) = (Promises::default(), Consumers::default());
        let id = consumers.add(1, queued(promises.none(), &["q"]));
        for tag in 1..=3 {
            consumers.push(id, delivered(tag));
        }
        let buffered = |consumers: &Consumers| {
            let buffered = consumers.get(id).unwrap().buffered;
            (buffered.deliveries, buffered.bytes)
        };
        let (three, bytes) = buffered(&consumers);
        assert!(three == 3 && bytes > 0);
        let mut taken = VecDeque::new();
        consumers.take(id, 1, &mut taken);
        assert_eq!(buffered(&consumers), (2, bytes / 3 * 2));
        consumers.take(id, usize::MAX, &mut taken);
        assert_eq!(buffered(&consumers), (0, 0));
    }

    fn delivered(tag: u64) -> Delivered {
        let ends = crate::message::Ends::new(ShortStr::EMPTY, ShortStr::EMPTY);
        Delivered {
            message: crate::message::Message::with_inline_body(b"body".to_vec(), ends),
            tag,
            redelivered: false,
            settled: crate::machine::channel::content::Settled::No,
            source: 0,
            channel: 1,
            incarnation: 1,
            epoch: 1,
            by_offset: false,
        }
    }
}
