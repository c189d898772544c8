//! The well-known `x-` arguments of queues, exchanges, bindings, consumers and messages, as typed methods.
//!
//! Each is one entry of the arguments or headers. What a broker does not know it ignores; which queue type knows which is
//! said at each.

use super::consume::BasicConsume;
use super::exchange::{ExchangeBind, ExchangeDeclare, ExchangeUnbind};
use super::publish::BasicPublish;
use super::queue::{QueueBind, QueueDeclare, QueueUnbind};
use crate::error::Error;
use crate::protocol::{Array, Value};
use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

macro_rules! choices {
    ($($(#[$doc:meta])* $Choice:ident { $($(#[$variant_doc:meta])* $Variant:ident = $text:literal,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            #[non_exhaustive]
            pub enum $Choice { $($(#[$variant_doc])* $Variant,)* }

            impl $Choice {
                fn text(self) -> &'static str {
                    match self { $(Self::$Variant => $text,)* }
                }
            }
        )*
    };
}

choices! {
    /// How a queue keeps its messages: `x-queue-type`.
    QueueType {
        /// On one node.
        Classic = "classic",
        /// Replicated, for what must not be lost. Durable, neither exclusive nor named by the broker. RabbitMQ closes the
        /// connection over a delete with conditions and over a prefetch count shared with other queues.
        Quorum = "quorum",
        /// An append-only log that many can read again and again. Its consumers need a prefetch count, and should say a
        /// [`StreamOffset`]. RabbitMQ closes the connection over a `basic_get` or
        /// `queue_purge` of one, and over a consumer with `no_ack`.
        Stream = "stream",
    }
    /// What a full queue does: `x-overflow`.
    Overflow {
        /// Drops, or dead-letters, its oldest messages.
        DropHead = "drop-head",
        /// Refuses new ones: [`Error::Nacked`](crate::Error::Nacked).
        RejectPublish = "reject-publish",
        /// Refuses new ones and dead-letters them. Classic queues only.
        RejectPublishDlx = "reject-publish-dlx",
    }
    /// How surely a quorum queue dead-letters: `x-dead-letter-strategy`.
    DeadLetterStrategy {
        /// What is under way may be lost.
        AtMostOnce = "at-most-once",
        /// Nothing is lost. It needs [`Overflow::RejectPublish`].
        AtLeastOnce = "at-least-once",
    }
    /// On which node a queue's leader starts: `x-queue-leader-locator`.
    LeaderLocator {
        /// The one that the client is connected to.
        ClientLocal = "client-local",
        /// One with few leaders.
        Balanced = "balanced",
    }
    /// Which refused deliveries a quorum queue retries after a delay: `x-delayed-retry-type`.
    DelayedRetry {
        /// None.
        Disabled = "disabled",
        /// All that come back.
        All = "all",
        /// Those that count as failed.
        Failed = "failed",
        /// Those that were returned.
        Returned = "returned",
    }
    /// Which headers a binding of a headers exchange compares: `x-match`.
    HeadersMatch {
        /// All of its own, but for those that begin with `x-`.
        All = "all",
        /// One of them at least.
        Any = "any",
        /// All of its own.
        AllWithX = "all-with-x",
        /// One of its own at least.
        AnyWithX = "any-with-x",
    }
}

/// Where a consumer of a stream begins: `x-stream-offset`.
///
/// A stream is read by the chunk, so deliveries may begin before what was asked for.
///
/// Say it for every stream, [`Next`](Self::Next) included: it is how the client knows that it reads one. A stream takes
/// nothing back, so what is refused or dropped of it is acknowledged, which only makes room for more. Before 4.0 RabbitMQ closes
/// the connection when a delivery of a stream is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamOffset {
    /// With the first message there is.
    First,
    /// With the last chunk.
    Last,
    /// With what is published from now on, the broker's default.
    Next,
    /// With the message of that offset, which `x-stream-offset` in the headers of a delivery says.
    Offset(u64),
    /// With what was published then, to the second.
    Timestamp(SystemTime),
    /// With what was published so long ago, to the second.
    Ago(Duration),
}

/// The routing key of dead letters: a text, or `None` to keep the key of each message.
///
/// ```
/// # puka_test_suite::example(async |client| {
/// let errors = client.queue_declare("").exclusive(true).await?; // the broker names it
/// client.queue_declare("a").dead_letter("", &errors.name).await?;
/// client.queue_declare("b").dead_letter("", "errors").await?;
/// client.queue_declare("c").dead_letter("errors", None).await?;
/// # client.close().await
/// # });
/// ```
#[derive(Clone, Debug, Default)]
pub struct DeadLetterKey<'k>(Option<Cow<'k, str>>);

macro_rules! dead_letter_key_from {
    ($($ty:ty)*) => {
        $(impl<'k> From<$ty> for DeadLetterKey<'k> {
            fn from(key: $ty) -> Self {
                Self(Some(key.into()))
            }
        })*
    };
}

dead_letter_key_from! { &'k str &'k String String Cow<'k, str> }

impl<'k> From<Option<&'k str>> for DeadLetterKey<'k> {
    fn from(key: Option<&'k str>) -> Self {
        Self(key.map(Cow::Borrowed))
    }
}

/// Methods that add one entry each.
macro_rules! typed {
    ($Request:ident.$field:ident in $what:literal:
        $($(#[$doc:meta])* $method:ident($value:ident: $ty:ty) => $name:literal = $convert:expr;)*
    ) => {
        impl $Request<'_> {
            $(
                $(#[$doc])*
                pub fn $method(mut self, $value: $ty) -> Self {
                    self.$field.add($what, $name, $convert);
                    self
                }
            )*
        }
    };
}

/// Milliseconds, as the broker counts; more than there are numbers for is more than any broker takes.
fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

typed! { QueueDeclare.arguments in "arguments":
    /// How the queue keeps its messages. The virtual host decides by default, most often on classic.
    queue_type(queue_type: QueueType) => "x-queue-type" = queue_type.text();
    /// Deletes the queue when it is unused for so long, to the millisecond. Classic and quorum queues.
    expires(time: Duration) => "x-expires" = milliseconds(time);
    /// How long a message may wait in the queue, to the millisecond. Classic and quorum queues.
    message_ttl(time: Duration) => "x-message-ttl" = milliseconds(time);
    /// How many messages may be ready. Classic and quorum queues.
    max_length(messages: u64) => "x-max-length" = number(messages);
    /// How many octets of bodies may be ready; how many a stream keeps.
    max_length_bytes(octets: u64) => "x-max-length-bytes" = number(octets);
    /// What the queue does when it is full; [`Overflow::DropHead`] by default. Classic and quorum queues.
    overflow(overflow: Overflow) => "x-overflow" = overflow.text();
    /// How surely it dead-letters. Quorum queues.
    dead_letter_strategy(strategy: DeadLetterStrategy) => "x-dead-letter-strategy" = strategy.text();
    /// How many priorities there are. Each costs something, so use few. Classic queues.
    max_priority(priority: u8) => "x-max-priority" = i64::from(priority);
    /// Delivers to one consumer, and to another only when that has gone. Classic and quorum queues.
    single_active_consumer(single: bool) => "x-single-active-consumer" = single;
    /// The version of a classic queue's storage; the broker decides by default.
    queue_version(version: u8) => "x-queue-version" = i64::from(version);
    /// `lazy` or `default`, for classic queues of brokers before 3.12.
    queue_mode(mode: &str) => "x-queue-mode" = mode;
    /// On which node the leader starts.
    queue_leader_locator(locator: LeaderLocator) => "x-queue-leader-locator" = locator.text();
    /// On which node a classic queue starts: the older form, such as `min-masters`.
    queue_master_locator(locator: &str) => "x-queue-master-locator" = locator;
    /// How many members a quorum queue starts with.
    quorum_initial_group_size(members: u16) => "x-quorum-initial-group-size" = i64::from(members);
    /// How many members a stream starts with.
    initial_cluster_size(members: u16) => "x-initial-cluster-size" = i64::from(members);
    /// How often a message may be delivered; -1 for without end. Quorum queues.
    delivery_limit(times: i32) => "x-delivery-limit" = times;
    /// How long a consumer may take to acknowledge, to the millisecond. Quorum queues, since 4.3.
    consumer_timeout(time: Duration) => "x-consumer-timeout" = milliseconds(time);
    /// How long a consumer whose connection is gone may stay away, to the millisecond. Quorum queues, since 4.3.
    consumer_disconnected_timeout(time: Duration) => "x-consumer-disconnected-timeout" = milliseconds(time);
    /// Which deliveries that come back are retried after a delay. Quorum queues, since 4.3.
    delayed_retry(which: DelayedRetry) => "x-delayed-retry-type" = which.text();
    /// The shortest delay of a retry, to the millisecond. Quorum queues, since 4.3.
    delayed_retry_min(time: Duration) => "x-delayed-retry-min" = milliseconds(time);
    /// The longest delay of a retry, to the millisecond. Quorum queues, since 4.3.
    delayed_retry_max(time: Duration) => "x-delayed-retry-max" = milliseconds(time);
    /// How long a stream keeps messages, to the second.
    max_age(time: Duration) => "x-max-age" = format!("{}s", time.as_secs()).as_str();
    /// How large the files of a stream are, in octets.
    stream_max_segment_size_bytes(octets: u64) => "x-stream-max-segment-size-bytes" = number(octets);
    /// How large the filter of a stream's chunk is, in octets: 16 to 255. Since 3.13.
    stream_filter_size_bytes(octets: u8) => "x-stream-filter-size-bytes" = i64::from(octets);
    /// How a name that the broker makes begins; 64 octets at most. After 4.3.
    name_prefix(prefix: &str) => "x-name-prefix" = prefix;
    /// Which nodes the members are placed on. Quorum queues, after 4.3.
    member_placement_tag(tag: &str) => "x-member-placement-tag" = tag;
}

impl QueueDeclare<'_> {
    /// Sets where messages go that are rejected, expire, exceed a length limit or are delivered too
    /// often: the exchange, and the routing key, or `None` to keep the key of each message. For
    /// classic and quorum queues.
    pub fn dead_letter<'k>(mut self, exchange: &str, routing_key: impl Into<DeadLetterKey<'k>>) -> Self {
        self.arguments.add("arguments", "x-dead-letter-exchange", exchange);
        if let Some(key) = routing_key.into().0 {
            self.arguments.add("arguments", "x-dead-letter-routing-key", &*key);
        }
        self
    }
}

typed! { ExchangeDeclare.arguments in "arguments":
    /// Where messages go that it can't route.
    alternate_exchange(exchange: &str) => "alternate-exchange" = exchange;
    /// How an exchange of the plugin's type `x-delayed-message` routes in the end.
    delayed_type(exchange_type: &str) => "x-delayed-type" = exchange_type;
    /// How many messages an exchange of the plugin's type `x-recent-history` keeps.
    recent_history_length(messages: u32) => "x-recent-history-length" = i64::from(messages);
    /// The header that an exchange of the plugin's type `x-consistent-hash` hashes, in place of the routing key.
    hash_header(name: &str) => "hash-header" = name;
    /// The property that an exchange of the plugin's type `x-consistent-hash` hashes, in place of the routing key.
    hash_property(name: &str) => "hash-property" = name;
}

macro_rules! headers_match {
    ($($Request:ident)*) => {
        $(typed! { $Request.arguments in "arguments":
            /// Which headers the binding of a headers exchange compares; [`HeadersMatch::All`] by default. The others arguments
            /// are what they are compared with; [`Void`](crate::protocol::Value::Void) will do with any.
            headers_match(which: HeadersMatch) => "x-match" = which.text();
        })*
    };
}

headers_match!(QueueBind QueueUnbind ExchangeBind ExchangeUnbind);

typed! { BasicConsume.arguments in "arguments":
    /// Consumers of higher priority are delivered to first; 0 by default. Classic and quorum queues.
    priority(priority: i32) => "x-priority" = priority;
    /// How long it may take to acknowledge, to the millisecond. Quorum queues, since 4.3.
    consumer_timeout(time: Duration) => "x-consumer-timeout" = milliseconds(time);
    /// Whether messages without a filter value match a [`stream_filter`](Self::stream_filter), too. Since 3.13.
    stream_match_unfiltered(unfiltered: bool) => "x-stream-match-unfiltered" = unfiltered;
}

impl BasicConsume<'_> {
    /// Where a consumer of a stream begins; [`StreamOffset::Next`] by default.
    pub fn stream_offset(mut self, offset: StreamOffset) -> Self {
        let text;
        let value: Value<'_> = match offset {
            StreamOffset::First => "first".into(),
            StreamOffset::Last => "last".into(),
            StreamOffset::Next => "next".into(),
            StreamOffset::Offset(offset) => number(offset).into(),
            StreamOffset::Timestamp(time) => match time.duration_since(UNIX_EPOCH) {
                Ok(since) => Value::Timestamp(since.as_secs()),
                Err(_) => {
                    self.arguments.fail(Error::invalid("stream_offset", "the time is before 1970"));
                    return self;
                }
            },
            StreamOffset::Ago(time) => {
                text = format!("{}s", time.as_secs());
                text.as_str().into()
            }
        };
        self.arguments.add("arguments", "x-stream-offset", value);
        self
    }

    /// Takes only messages of these filter values. Others may come along, so look again. Since 3.13.
    pub fn stream_filter(mut self, values: &[&str]) -> Self {
        let values = strings(values);
        self.arguments.add("arguments", "x-stream-filter", &values);
        self
    }
}

typed! { BasicPublish.headers in "headers":
    /// Further routing keys, which receivers can see: "sender-selected distribution".
    cc(routing_keys: &[&str]) => "CC" = &strings(routing_keys);
    /// Further routing keys, which the broker takes out before it delivers.
    bcc(routing_keys: &[&str]) => "BCC" = &strings(routing_keys);
    /// The filter value of a message to a stream. Since 3.13.
    stream_filter_value(value: &str) => "x-stream-filter-value" = value;
    /// How long an exchange of the plugin's type `x-delayed-message` holds it back, to the millisecond.
    delay(time: Duration) => "x-delay" = milliseconds(time);
}

fn strings(texts: &[&str]) -> Array {
    let mut array = Array::new();
    for text in texts {
        // Nothing is nested, which is all that could be refused.
        let _ = array.push(*text);
    }
    array
}
