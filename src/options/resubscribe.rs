//! The policy for consumers that the broker ends.

use std::time::Duration;

/// The policy for restarting a consumer that the broker ends.
///
/// The broker ends a consumer by a cancel, for example when the leader of its queue moves or the
/// queue is deleted, or by closing its channel, for example because a delivery was not acknowledged
/// in time. The consumer is then restarted on another channel of the same connection, and its
/// stream goes on. [`Notice::ConsumerInterrupted`](crate::Notice::ConsumerInterrupted) reports
/// that, and [`Notice::ConsumerRestored`](crate::Notice::ConsumerRestored) that the consumer has
/// started again.
///
/// The first restart is immediate. If the broker refuses it [temporarily](crate::recovery), the
/// next ones follow after 0.5, 1, 2, 4, and then 5 seconds each, within the time of
/// [`for_time`](Self::for_time). The delays start over once the consumer has been live for a
/// minute. If the queue no longer exists, or the time has passed, the consumer ends with the reason
/// for which the broker ended it first.
///
/// Deliveries of a closed channel are dropped, because they cannot be settled, and the broker
/// delivers them again. Deliveries of a consumer that was cancelled can still be settled.
///
/// A queue of a [consumer of several queues](crate::Client::basic_consume_multi) that the broker
/// cancels ends, while the consumer continues with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resubscribe {
    /// How long it is restarted; `None` for never.
    pub(crate) time: Option<Duration>,
    pub(crate) waits_for_queue: bool,
}

impl Default for Resubscribe {
    /// Returns the default: up to a minute, in which a node restarts or a queue gets another
    /// leader. A deleted queue ends its consumer at once.
    fn default() -> Self {
        Self::for_time(Duration::from_secs(60))
    }
}

impl Resubscribe {
    /// Returns a policy that tries to restart a consumer for this time, counted from when the
    /// broker ended it. If the connection is lost meanwhile, the limit of the
    /// [recovery](crate::recovery) counts if it is later.
    #[must_use]
    pub const fn for_time(time: Duration) -> Self {
        Self {
            time: Some(time),
            waits_for_queue: false,
        }
    }

    /// Returns a policy that never restarts a consumer.
    #[must_use]
    pub const fn never() -> Self {
        Self {
            time: None,
            waits_for_queue: false,
        }
    }

    /// Sets whether the consumer of a queue that does not exist waits until another program has
    /// declared the queue. By default it ends at once. It waits for the time of the policy, also
    /// over losses of the connection. This applies to consumers of one queue.
    ///
    /// ```
    /// # puka_test_suite::example(async |client| {
    /// use puka::Resubscribe;
    /// use std::time::Duration;
    ///
    /// client.queue_declare("orders").await?;
    /// let policy = Resubscribe::for_time(Duration::from_secs(300)).wait_for_queue(true);
    /// let mut orders = client.basic_consume("orders").resubscribe(policy).await?;
    ///
    /// client.queue_delete("orders").await?;
    /// client.queue_declare("orders").await?;
    /// client.basic_publish("", "orders", "Hello world!").await?;
    /// let order = orders.next().await.expect("the consumer has survived")?;
    /// assert_eq!(order.body(), b"Hello world!");
    /// # Ok(())
    /// # });
    /// ```
    #[must_use]
    pub const fn wait_for_queue(mut self, wait: bool) -> Self {
        self.waits_for_queue = wait;
        self
    }
}
