//! Deliveries that the program drops without settling them.
//!
//! Returning such a message at once would deliver it again at once. A message whose handler always
//! fails was redelivered 2 099 times in two seconds, and reached the delivery limit of a quorum
//! queue (20) in 0.03 s. So it stays unsettled for a delay, which also keeps the broker from
//! sending another one in its place.

use crate::machine::channel::content::Delivered;
use crate::machine::consume::Consuming;
use crate::machine::context::Context;
use crate::machine::deadline::later;
use crate::machine::ids::ChannelNumber;
use crate::machine::{ConsumerId, Settle};
use crate::options::OnDrop;
use crate::protocol::method::basic;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The delay after the second dropped delivery in a row. Each further one doubles it.
const BASE_DELAY: Duration = Duration::from_millis(100);

/// The longest delay. A program with a lasting fault then costs the broker little, and continues
/// soon after the fault has passed.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// A dropped delivery that is to be returned to its queue.
#[derive(Debug)]
struct Dropped {
    channel: ChannelNumber,
    incarnation: u64,
    tag: u64,
}

/// The dropped deliveries of all consumers that are returned after a delay.
#[derive(Debug, Default)]
pub(crate) struct Drops {
    /// By the instant at which they are returned, and by a number that distinguishes them.
    waiting: BTreeMap<(Instant, u64), Dropped>,
    /// Those whose delay has not started. It starts at the next [`stamp`](Self::stamp).
    new: Vec<(Duration, Dropped)>,
    /// The number of deliveries that ever waited.
    added: u64,
    /// The next delay of each consumer whose last deliveries were dropped.
    next_delays: BTreeMap<ConsumerId, Duration>,
}

impl Drops {
    /// Starts the delays of new entries.
    #[inline]
    pub(crate) fn stamp(&mut self, now: Instant) {
        for (delay, dropped) in self.new.drain(..) {
            self.added += 1;
            self.waiting
                .insert((later(now, delay), self.added), dropped);
        }
    }

    /// Returns when to return the next delivery.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let (at, _) = self.waiting.first_key_value()?.0;
        Some(*at)
    }

    /// Starts the delays of the consumer of a settled delivery over.
    #[inline]
    pub(crate) fn record_settled(&mut self, cx: &Context, delivered: &Delivered) {
        if !self.next_delays.is_empty()
            && let Some(id) = live_consumer(cx, delivered)
        {
            self.forget_delay(id);
        }
    }

    /// Starts the delays of a consumer over, because it has ended, or the program has settled one of
    /// its deliveries.
    pub(crate) fn forget_delay(&mut self, consumer: ConsumerId) {
        self.next_delays.remove(&consumer);
    }

    /// Returns the delay of a dropped delivery, and doubles the next one. The first delay is zero.
    fn next_delay(&mut self, consumer: ConsumerId) -> Duration {
        let Some(next) = self.next_delays.get_mut(&consumer) else {
            self.next_delays.insert(consumer, BASE_DELAY);
            return Duration::ZERO;
        };
        let delay = *next;
        *next = MAX_DELAY.min(2 * delay);
        delay
    }

    /// Removes all entries, because the connection is lost.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.new.clear();
    }

    /// Removes and returns the next delivery whose delay has passed.
    fn pop_due(&mut self, now: Instant) -> Option<Dropped> {
        let next = self.waiting.first_entry()?;
        (next.key().0 <= now).then(|| next.remove())
    }
}

/// Handles a delivery that the program has dropped, as its consumer's policy says. A stale one
/// needs nothing, because the broker has requeued it.
pub(crate) fn give_back(cx: &mut Context, consuming: &mut Consuming, delivered: &Delivered) {
    let requeue = |cx: &mut Context, consuming: &mut Consuming, requeue| {
        // It fails if the delivery is stale.
        let settled = cx.settle(delivered, Settle::Reject { requeue });
        if settled.is_ok() {
            consuming.unthrottle_on(cx, delivered.channel);
        }
    };
    let consumer = live_consumer(cx, delivered).filter(|_| !delivered.is_of_stream());
    let policy = consumer.and_then(|id| Some((id, consuming.consumers.get(id)?.on_drop)));
    let Some((id, policy)) = policy else {
        // A message of `basic_get`, of an ended consumer, or of a stream, which repeats nothing.
        return requeue(cx, consuming, true);
    };
    let delay = match policy {
        OnDrop::RequeuePaced => consuming.drops.next_delay(id),
        OnDrop::Requeue => Duration::ZERO,
        OnDrop::RequeueAfter(delay) => delay,
        OnDrop::Discard => return requeue(cx, consuming, false),
        OnDrop::Keep => return,
    };
    if delay.is_zero() {
        return requeue(cx, consuming, true);
    }
    // It is excluded from acks with `multiple`, and returned with the end of its consumer.
    cx.mark_unwanted(delivered);
    let dropped = Dropped {
        channel: delivered.channel,
        incarnation: delivered.incarnation,
        tag: delivered.tag,
    };
    consuming.drops.new.push((delay, dropped));
    cx.attention = true;
}

/// Returns the consumer of a delivery, if the consumer has not ended and the delivery can be
/// settled.
fn live_consumer(cx: &Context, delivered: &Delivered) -> Option<ConsumerId> {
    let channel = cx.channels.get(delivered.channel)?;
    let can_be_settled = !delivered.is_settled() && channel.has_delivered(delivered);
    channel.consumer().filter(|_| can_be_settled)
}

/// Returns the deliveries to their queues whose delay has passed.
pub(crate) fn return_due(cx: &mut Context, consuming: &mut Consuming, now: Instant) {
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
        consuming.unthrottle_on(cx, dropped.channel);
    }
}
