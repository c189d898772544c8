//! The dropped deliveries that are returned to their queues after a delay.

use crate::machine::channel::content::Delivered;
use crate::machine::context::Context;
use crate::machine::deadline::later;
use crate::machine::ids::{ChannelNumber, ConsumerId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The delay after the second dropped delivery in a row. Each further one doubles it.
const BASE_DELAY: Duration = Duration::from_millis(100);

/// The longest delay. A program with a lasting fault then costs the broker little, and continues
/// soon after the fault has passed.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// A dropped delivery that is to be returned to its queue.
#[derive(Debug)]
pub(crate) struct Dropped {
    pub(crate) channel: ChannelNumber,
    pub(crate) incarnation: u64,
    pub(crate) tag: u64,
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
    /// The next delay of each consumer whose last deliveries were dropped, for new messages
    /// (`false`) and for redelivered ones (`true`). They are separate, because a message that
    /// always fails would otherwise be redelivered at once after each message that succeeds.
    next_delays: BTreeMap<(ConsumerId, bool), Duration>,
}

impl Drops {
    /// Starts the delays of new entries.
    #[inline]
    pub(crate) fn stamp(&mut self, now: Instant) {
        if !self.new.is_empty() {
            self.stamp_new(now);
        }
    }

    #[cold]
    fn stamp_new(&mut self, now: Instant) {
        for (delay, dropped) in self.new.drain(..) {
            self.added += 1;
            self.waiting
                .insert((later(now, delay), self.added), dropped);
        }
    }

    /// Returns when to return the next delivery.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        // This is computed for each request, and a look into an empty map takes longer.
        if self.waiting.is_empty() {
            return None;
        }
        let (at, _) = self.waiting.first_key_value()?.0;
        Some(*at)
    }

    /// Starts the delays of the consumer of a settled delivery over.
    #[inline]
    pub(crate) fn record_settled(&mut self, cx: &Context, delivered: &Delivered) {
        if !self.next_delays.is_empty()
            && let Some(id) = live_consumer(cx, delivered)
        {
            self.next_delays.remove(&(id, delivered.redelivered));
        }
    }

    /// Removes the delays of a consumer that has ended.
    pub(crate) fn forget_delays(&mut self, consumer: ConsumerId) {
        for redelivered in [false, true] {
            self.next_delays.remove(&(consumer, redelivered));
        }
    }

    /// Stores a delivery to requeue it after a delay.
    pub(crate) fn add(&mut self, delay: Duration, dropped: Dropped) {
        self.new.push((delay, dropped));
    }

    /// Returns the delay of a dropped delivery, and doubles the next one. The first delay of new
    /// messages is zero.
    pub(crate) fn next_delay(&mut self, consumer: ConsumerId, redelivered: bool) -> Duration {
        let first = if redelivered {
            BASE_DELAY
        } else {
            Duration::ZERO
        };
        let key = (consumer, redelivered);
        let delay = self.next_delays.get(&key).copied().unwrap_or(first);
        self.next_delays
            .insert(key, (2 * delay).clamp(BASE_DELAY, MAX_DELAY));
        delay
    }

    /// Removes all entries, because the connection is lost.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.new.clear();
    }

    /// Removes and returns the next delivery whose delay has passed.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Dropped> {
        let next = self.waiting.first_entry()?;
        (next.key().0 <= now).then(|| next.remove())
    }
}

/// Returns the consumer of a delivery, or its last one, if the delivery can be settled.
pub(crate) fn live_consumer(cx: &Context, delivered: &Delivered) -> Option<ConsumerId> {
    let channel = cx.channels.get(delivered.channel)?;
    let can_be_settled = !delivered.is_settled() && channel.has_delivered(delivered);
    channel.last_consumer().filter(|_| can_be_settled)
}
