//! What happens to deliveries that are dropped without being settled.

use std::time::Duration;

/// The policy for deliveries of a consumer that are dropped without being settled, because their
/// handler has failed, has panicked or was cancelled.
///
/// It does not apply to a delivery that is settled explicitly, such as by
/// [`Delivery::requeue`](crate::Delivery::requeue), which takes effect at once. Deliveries that are
/// still buffered when a consumer is cancelled go back to their queue, and messages of
/// [`basic_get`](crate::Client::basic_get) are requeued at once. A stream does not redeliver
/// messages, so its dropped deliveries are acknowledged.
///
/// A requeued delivery is rejected. For a quorum queue it counts as a failed delivery, so that the
/// delivery limit of the queue stops a message that always fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDrop {
    /// Requeues it after a delay that grows while deliveries are dropped in a row. The delay of the
    /// first is zero, of the second 100 ms, and each further one is twice as long, up to 10 s.
    /// Settling a delivery of the consumer starts the delays over. Redelivered messages have delays
    /// of their own, which begin at 100 ms and start over when a redelivered message is settled.
    ///
    /// This is the default, because a message whose handler always fails would otherwise be
    /// redelivered a thousand times a second, even if other messages succeed in between.
    ///
    /// Meanwhile the delivery counts towards the prefetch count. It is returned at once when the
    /// consumer is cancelled or the connection closes.
    #[default]
    RequeuePaced,
    /// Requeues it at once.
    Requeue,
    /// Requeues it after this delay, at the latest when the consumer is cancelled or the connection
    /// closes. It counts towards the prefetch count until then.
    RequeueAfter(Duration),
    /// Rejects it without requeueing. The broker discards the message, or dead-letters it if the
    /// queue has a dead-letter exchange.
    Discard,
    /// Leaves it unsettled until the consumer ends, and then returns it to its queue. It counts
    /// towards the prefetch count, and the broker ends the consumer after its acknowledgement
    /// timeout, 30 minutes by default.
    Keep,
}
