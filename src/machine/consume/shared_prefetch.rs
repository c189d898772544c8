//! The prefetch count that the queues of a consumer share.
//!
//! The client shares it: it returns no more deliveries to the program than the count, and withholds
//! the rest in the buffer until some are settled. Each queue has the whole count, so that one that
//! has messages can use it all while the others are empty.
//!
//! The broker could share it (`basic.qos` with `global`), but not on all versions: RabbitMQ closes
//! the connection over it for quorum queues and streams, may forbid it since 4.0, and since 4.3
//! applies the count to each queue. To divide the count among the queues was rejected: there may be
//! more queues than deliveries, and a queue with messages would wait beside idle ones.

use crate::machine::channel::channels::Channels;
use crate::machine::consume::consumer::Consumer;

impl Consumer {
    /// Returns how many deliveries the program may take, at most `most`.
    #[inline]
    pub(crate) fn capacity(&self, channels: &Channels, most: usize) -> usize {
        match self.shared_prefetch_count {
            None | Some(0) => most,
            Some(count) => most.min(self.shared_capacity(channels, count.into())),
        }
    }

    /// Returns how many deliveries may be taken beside those on the consumer's channel that are
    /// taken and unsettled. Those on its earlier channels do not count, as with other consumers.
    fn shared_capacity(&self, channels: &Channels, count: usize) -> usize {
        let channel = self.channel.and_then(|number| channels.get(number));
        // After the end, no deliveries follow, and the program may take all of them.
        let Some(channel) = channel.filter(|_| !self.no_ack && !self.has_ended()) else {
            return usize::MAX;
        };
        let taken = (channel.unsettled.count()).saturating_sub(self.buffered.deliveries);
        count.saturating_sub(taken)
    }

    /// Returns `true` if deliveries may be withheld because of a shared count.
    #[inline]
    pub(crate) fn withholds(&self) -> bool {
        self.shared_prefetch_count.is_some() && self.buffered.deliveries > 0
    }
}
