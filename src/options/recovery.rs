//! Recovery options: how to reconnect after a loss, and what to restore.

use super::{Options, Resubscribe};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The settings for recovering a lost connection. They apply to connections that can be dialled
/// again: those of the adapters' `connect`, [`connect`](crate::connect) and `evented`, but not
/// [`open`](crate::open), which has only one stream.
///
/// See [the manual](crate::recovery) for what is recovered and what is not.
#[derive(Clone)]
pub struct Recovery {
    pub(crate) retry_first_connect: bool,
    pub(crate) base_delay: Duration,
    pub(crate) longest_delay: Duration,
    pub(crate) attempts: Option<u32>,
    pub(crate) time: Option<Duration>,
    pub(crate) topology: RecoverTopology,
    pub(crate) filter: Option<Filter>,
    pub(crate) strict: bool,
    pub(crate) fails_fast: bool,
    pub(crate) republish: Option<u32>,
    pub(crate) records: usize,
    pub(crate) resubscribe: Resubscribe,
    pub(crate) seed: Option<u64>,
}

pub(crate) type Filter = Arc<dyn Fn(&Entity<'_>) -> bool + Send + Sync>;

/// The recorded entities that are declared again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoverTopology {
    /// All entities. Declaring a durable one that still exists checks its settings.
    #[default]
    All,
    /// Entities that do not survive a restart of the broker or the end of the connection: exchanges
    /// that are not durable, queues that are not durable or are exclusive, and every binding with
    /// one of them.
    Transient,
    /// No entities: only consumers are started again.
    Nothing,
}

/// An exchange, queue or binding that this connection has declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entity<'a> {
    /// An exchange, by its name.
    Exchange(&'a str),
    /// A queue, by its name.
    Queue(&'a str),
    /// A binding of a queue to an exchange.
    QueueBinding {
        /// The queue.
        queue: &'a str,
        /// The exchange.
        exchange: &'a str,
        /// The routing key.
        routing_key: &'a str,
    },
    /// A binding of an exchange to an exchange.
    ExchangeBinding {
        /// The exchange that receives messages.
        destination: &'a str,
        /// The exchange that messages come from.
        source: &'a str,
        /// The routing key.
        routing_key: &'a str,
    },
}

impl Default for Recovery {
    /// Returns the defaults: unlimited attempts, up to 30 seconds apart; all entities are declared
    /// again; requests wait; unconfirmed publishes are not sent again.
    fn default() -> Self {
        Self {
            retry_first_connect: false,
            base_delay: Duration::from_millis(100),
            longest_delay: Duration::from_secs(30),
            attempts: None,
            time: None,
            topology: RecoverTopology::All,
            filter: None,
            strict: false,
            fails_fast: false,
            republish: None,
            records: 65_536,
            resubscribe: Resubscribe::default(),
            seed: None,
        }
    }
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recovery")
            .field("first_connect", &self.retry_first_connect)
            .field("delays", &(self.base_delay..=self.longest_delay))
            .field("attempts", &self.attempts)
            .field("time", &self.time)
            .field("topology", &self.topology)
            .field("strict", &self.strict)
            .field("fails_fast", &self.fails_fast)
            .field("republish", &self.republish)
            .field("resubscribe", &self.resubscribe)
            .finish_non_exhaustive()
    }
}

impl Recovery {
    /// Sets whether a failed first connection is retried. Off by default, because a wrong address
    /// would otherwise not be noticed. The first connection is then one attempt, which tries all
    /// endpoints.
    #[must_use]
    pub fn retry_first_connect(mut self, tries: bool) -> Self {
        self.retry_first_connect = tries;
        self
    }

    /// Sets the delays between attempts: 100 ms and 30 s by default. A delay is random, so that the
    /// clients of a restarted broker do not all reconnect at once. It is at most `base` at first.
    /// This maximum doubles with each attempt, up to `longest`. It starts over at `base` once a
    /// connection has been open for a minute.
    ///
    /// A delay is at least zero. After a refused login, it is at least half of its maximum.
    #[must_use]
    pub fn backoff(mut self, base: Duration, longest: Duration) -> Self {
        (self.base_delay, self.longest_delay) = (base, longest.max(base));
        self
    }

    /// Sets how many attempts in a row may fail before the client gives up; unlimited by default.
    /// An attempt tries all endpoints. A successful attempt resets the count.
    #[must_use]
    pub fn max_attempts(mut self, attempts: impl Into<Option<u32>>) -> Self {
        self.attempts = attempts.into();
        self
    }

    /// Sets how long to retry before the client gives up; unlimited by default.
    #[must_use]
    pub fn max_time(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.time = time.into();
        self
    }

    /// Sets which entities are declared again; all by default.
    #[must_use]
    pub fn topology(mut self, which: RecoverTopology) -> Self {
        self.topology = which;
        self
    }

    /// Skips the entities for which the filter returns `false`, at each recovery. The driver calls
    /// the filter with no lock held. The filter may send requests over the connection, but must not
    /// wait for their replies. If it panics, the entity is declared again, and
    /// [`Recovered::failed`](crate::Recovered::failed) reports that.
    #[must_use]
    pub fn filter(mut self, wanted: impl Fn(&Entity<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Arc::new(wanted));
        self
    }

    /// Sets what happens if an entity cannot be declared or a consumer cannot be restarted. With
    /// `false`, the default, the entity is skipped, the consumer ends, and the report of the
    /// recovery lists both. With `true`, the attempt fails: the client reconnects, after the usual
    /// delay, and tries again, for ever unless [`max_attempts`](Self::max_attempts) or
    /// [`max_time`](Self::max_time) is set. So a client whose queue was deleted does not become
    /// open until someone declares the queue.
    ///
    /// With `true`, a locked queue is declared again for up to three heartbeat timeouts before the
    /// attempt fails (at least 30 s). Any other refusal of an entity fails the attempt at
    /// once, even a temporary one. A temporarily refused consumer does not delay the recovery: the
    /// connection becomes open, and the consumer is restarted later. If it is still refused after
    /// three heartbeat timeouts, the client reconnects.
    ///
    /// A consumer that the broker ends on an open connection fails no recovery. See
    /// [`resubscribe`](Self::resubscribe).
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Makes requests fail at once while there is no connection, instead of waiting within their
    /// deadline. Off by default.
    #[must_use]
    pub fn fail_fast(mut self, fails: bool) -> Self {
        self.fails_fast = fails;
        self
    }

    /// Stores each message that is published with a confirm until it is confirmed, and republishes
    /// the unconfirmed ones after a loss, up to this many times each: at least once instead of at
    /// most once. A republished message, which may be a duplicate, has a header
    /// `x-puka-republished` with the number of earlier publishes. The stored messages count towards
    /// [`max_outgoing_bytes`](crate::Options::max_outgoing_bytes): at that limit, a publish waits
    /// for confirms. Off by default, so such a publish fails with
    /// [`Unconfirmed`](crate::Error::Unconfirmed).
    #[must_use]
    pub fn republish_unconfirmed(mut self, times: impl Into<Option<u32>>) -> Self {
        self.republish = times.into();
        self
    }

    /// Sets how many entities are recorded; 65 536 by default. Entities beyond that are not
    /// declared again.
    #[must_use]
    pub fn max_records(mut self, records: usize) -> Self {
        self.records = records;
        self
    }

    /// Sets whether consumers are restarted when the broker ends them, for consumers without a
    /// setting of [their own](crate::BasicConsume::resubscribe). By default they are, for up to a
    /// minute.
    #[must_use]
    pub fn resubscribe(mut self, policy: Resubscribe) -> Self {
        self.resubscribe = policy;
        self
    }

    /// Sets the seed of the random delays, which makes tests repeatable. Random for each connection
    /// by default.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl Options {
    /// Sets how a lost connection is recovered, or `None` to disable recovery. Enabled by default
    /// for connections that can be dialled again; see [`Recovery`].
    #[must_use]
    pub fn recovery(mut self, recovery: impl Into<Option<Recovery>>) -> Self {
        self.recovery = recovery.into();
        self
    }
}
