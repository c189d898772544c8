//! Typed methods for the well-known `x-` arguments of queues, exchanges, bindings, consumers and
//! messages.
//!
//! Each method adds one entry to the arguments or headers. Brokers ignore arguments that they do
//! not know; each method says which queue types support it.

use super::builder::Entries;
use super::consume::BasicConsume;
use super::consume_multi::ConsumeQueue;
use super::exchange::{ExchangeBind, ExchangeDeclare, ExchangeUnbind};
use super::publish::BasicPublish;
use super::queue::{QueueBind, QueueDeclare, QueueUnbind};
use crate::error::Error;
use crate::protocol::{Array, Value};
use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

macro_rules! choices {
    ($(
        $(#[$doc:meta])*
        $Choice:ident { $($(#[$variant_doc:meta])* $Variant:ident = $text:literal,)* }
    )*) => {
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
    /// The queue type: `x-queue-type`.
    QueueType {
        /// A queue on one node.
        Classic = "classic",
        /// A replicated queue for data that must not be lost. It is durable, and neither exclusive
        /// nor named by the broker. RabbitMQ closes the connection over a delete with conditions.
        ///
        /// Since 4.0, a message is dropped, or dead-lettered if the queue has a
        /// [`dead_letter`](QueueDeclare::dead_letter), when its delivery has failed more than 20
        /// times: see [`delivery_limit`](QueueDeclare::delivery_limit).
        Quorum = "quorum",
        /// An append-only log that many consumers can read repeatedly. Its consumers need a
        /// prefetch count and should set a [`StreamOffset`]. RabbitMQ closes the connection over a
        /// `basic_get` or `queue_purge` of a stream, and over a consumer of one with `no_ack`.
        Stream = "stream",
    }
    /// The behaviour of a full queue: `x-overflow`.
    Overflow {
        /// Drops or dead-letters the oldest messages.
        DropHead = "drop-head",
        /// Refuses new messages: [`Error::Nacked`](crate::Error::Nacked).
        RejectPublish = "reject-publish",
        /// Refuses new messages and dead-letters them. Classic queues only.
        RejectPublishDlx = "reject-publish-dlx",
    }
    /// The guarantee of a quorum queue's dead-lettering: `x-dead-letter-strategy`.
    DeadLetterStrategy {
        /// Dead letters in transit may be lost.
        AtMostOnce = "at-most-once",
        /// No dead letter is lost. Requires [`Overflow::RejectPublish`].
        AtLeastOnce = "at-least-once",
    }
    /// The node on which a queue's leader starts: `x-queue-leader-locator`.
    LeaderLocator {
        /// The node that the client is connected to.
        ClientLocal = "client-local",
        /// A node with few leaders.
        Balanced = "balanced",
    }
    /// The refused deliveries that a quorum queue retries after a delay: `x-delayed-retry-type`.
    DelayedRetry {
        /// No deliveries.
        Disabled = "disabled",
        /// All deliveries that come back.
        All = "all",
        /// Deliveries that count as failed.
        Failed = "failed",
        /// Deliveries that were returned.
        Returned = "returned",
    }
    /// The headers that a binding of a headers exchange compares: `x-match`.
    HeadersMatch {
        /// All headers of the binding except those that begin with `x-` must match.
        All = "all",
        /// At least one header of the binding must match, not counting those that begin with `x-`.
        Any = "any",
        /// All headers of the binding must match.
        AllWithX = "all-with-x",
        /// At least one header of the binding must match.
        AnyWithX = "any-with-x",
    }
}

/// The position at which a stream consumer begins: `x-stream-offset`.
///
/// A stream is read in chunks, so deliveries may begin before this position.
///
/// When the connection is lost and [recovered](crate::recovery), the consumer continues behind the
/// last delivery that it has returned. Only if it has returned none, it begins at this position
/// again.
///
/// Set it for every stream, [`Next`](Self::Next) included: it is how the client recognises a
/// stream. A stream cannot requeue, so refused or dropped deliveries of a stream are acknowledged,
/// which only grants the consumer more deliveries. RabbitMQ before 4.0 closes the connection when a
/// delivery of a stream is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamOffset {
    /// The first message that is available.
    First,
    /// The last chunk.
    Last,
    /// Messages published from now on. The broker's default.
    Next,
    /// The message with this offset, as in the header `x-stream-offset` of a delivery.
    Offset(u64),
    /// Messages published since this time, in whole seconds.
    Timestamp(SystemTime),
    /// Messages published since this long ago, in whole seconds.
    Ago(Duration),
}

/// The routing key of dead letters, or `None` to keep the key of each message.
///
/// ```
/// # puka_test_suite::example(async |client| {
/// let errors = client.queue_declare("").exclusive(true).await?; // the broker names it
/// client.queue_declare("a").durable(true).dead_letter("", &errors.name).await?;
/// client.queue_declare("b").durable(true).dead_letter("", "errors").await?;
/// client.queue_declare("c").durable(true).dead_letter("errors", None).await?;
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

/// Defines builder methods that add one entry each.
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

/// Returns the time in milliseconds, the broker's unit, and at most `i64::MAX`. The broker refuses
/// such large values.
fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Returns the count as the broker's integer type, and at most `i64::MAX`.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

typed! { QueueDeclare.arguments in "arguments":
    /// Sets the queue type. Decided by the virtual host by default, usually classic.
    queue_type(queue_type: QueueType) => "x-queue-type" = queue_type.text();
    /// Deletes the queue after it has been unused for this time, in whole milliseconds. Classic and
    /// quorum queues.
    expires(time: Duration) => "x-expires" = milliseconds(time);
    /// Limits the time that a message may stay in the queue, in whole milliseconds. Classic and
    /// quorum queues.
    message_ttl(time: Duration) => "x-message-ttl" = milliseconds(time);
    /// Limits the number of ready messages. Classic and quorum queues.
    max_length(messages: u64) => "x-max-length" = number(messages);
    /// Limits the size of ready message bodies in bytes; for a stream, the size of its log.
    max_length_bytes(bytes: u64) => "x-max-length-bytes" = number(bytes);
    /// Sets the behaviour of the full queue; [`Overflow::DropHead`] by default. Classic and quorum
    /// queues.
    overflow(overflow: Overflow) => "x-overflow" = overflow.text();
    /// Sets the guarantee of dead-lettering. Quorum queues.
    dead_letter_strategy(strategy: DeadLetterStrategy) =>
        "x-dead-letter-strategy" = strategy.text();
    /// Sets the highest priority. Each priority has a cost, so use few. Classic queues.
    max_priority(priority: u8) => "x-max-priority" = i64::from(priority);
    /// Delivers to one consumer at a time, and to another one only after that has ended. Classic
    /// and quorum queues.
    single_active_consumer(single: bool) => "x-single-active-consumer" = single;
    /// Sets the storage version of a classic queue, 1 or 2; decided by the broker by default.
    /// RabbitMQ 4.3 refuses 1.
    queue_version(version: u8) => "x-queue-version" = i64::from(version);
    /// Sets the mode, `lazy` or `default`. Classic queues of brokers before 3.12.
    queue_mode(mode: &str) => "x-queue-mode" = mode;
    /// Sets the node on which the leader starts.
    queue_leader_locator(locator: LeaderLocator) => "x-queue-leader-locator" = locator.text();
    /// Sets the node on which a classic queue starts, in the older form, such as `min-masters`.
    /// RabbitMQ 4.3 closes the connection over it, unless its operator permits it; use
    /// [`queue_leader_locator`](Self::queue_leader_locator).
    queue_master_locator(locator: &str) => "x-queue-master-locator" = locator;
    /// Sets the initial number of members of a quorum queue.
    quorum_initial_group_size(members: u16) => "x-quorum-initial-group-size" = i64::from(members);
    /// Sets the initial number of members of a stream.
    initial_cluster_size(members: u16) => "x-initial-cluster-size" = i64::from(members);
    /// Limits how often a message can be returned to its queue. With 3, it is delivered up to four
    /// times, then dropped or dead-lettered. The default is 20 since RabbitMQ 4.0, and no limit
    /// before. Since 4.0, -1 means no limit; before, it drops a message at its first return. Quorum
    /// queues.
    ///
    /// Until 4.3, every return counts. Since then, a [`nack`](crate::Delivery::nack) with `requeue`
    /// does not.
    delivery_limit(times: i32) => "x-delivery-limit" = times;
    /// Limits the time until a consumer acknowledges, in whole milliseconds. Quorum queues, since
    /// 4.3.
    consumer_timeout(time: Duration) => "x-consumer-timeout" = milliseconds(time);
    /// Limits how long a consumer may be disconnected, in whole milliseconds. Quorum queues, since
    /// 4.3.
    consumer_disconnected_timeout(time: Duration) =>
        "x-consumer-disconnected-timeout" = milliseconds(time);
    /// Sets which returned deliveries are retried after a delay. Quorum queues, since 4.3.
    delayed_retry(which: DelayedRetry) => "x-delayed-retry-type" = which.text();
    /// Sets the minimum delay of a retry, in whole milliseconds. Quorum queues, since 4.3.
    delayed_retry_min(time: Duration) => "x-delayed-retry-min" = milliseconds(time);
    /// Sets the maximum delay of a retry, in whole milliseconds. Quorum queues, since 4.3.
    delayed_retry_max(time: Duration) => "x-delayed-retry-max" = milliseconds(time);
    /// Sets how long a stream keeps messages, in whole seconds.
    max_age(time: Duration) => "x-max-age" = format!("{}s", time.as_secs()).as_str();
    /// Sets the maximum size of a stream's segment files, in bytes.
    stream_max_segment_size_bytes(bytes: u64) => "x-stream-max-segment-size-bytes" = number(bytes);
    /// Sets the size of the filter of a stream's chunk, in bytes: 16 to 255. Since 3.13.
    stream_filter_size_bytes(bytes: u8) => "x-stream-filter-size-bytes" = i64::from(bytes);
    /// Sets the prefix of a name that the broker generates; at most 64 bytes. After 4.3.
    name_prefix(prefix: &str) => "x-name-prefix" = prefix;
    /// Selects the nodes on which members are placed. Quorum queues, after 4.3.
    member_placement_tag(tag: &str) => "x-member-placement-tag" = tag;
}

impl QueueDeclare<'_> {
    /// Sets the exchange for dead letters, and their routing key, or `None` to keep the key of each
    /// message. Messages are dead-lettered when they are rejected, expire, exceed a length limit or
    /// are delivered too often. For classic and quorum queues.
    pub fn dead_letter<'k>(
        mut self,
        exchange: &str,
        routing_key: impl Into<DeadLetterKey<'k>>,
    ) -> Self {
        self.arguments
            .add("arguments", "x-dead-letter-exchange", exchange);
        if let Some(key) = routing_key.into().0 {
            self.arguments
                .add("arguments", "x-dead-letter-routing-key", &*key);
        }
        self
    }
}

typed! { ExchangeDeclare.arguments in "arguments":
    /// Sets the exchange that receives messages that this one cannot route.
    alternate_exchange(exchange: &str) => "alternate-exchange" = exchange;
    /// Sets how an exchange of the plugin type `x-delayed-message` routes after the delay.
    delayed_type(exchange_type: &str) => "x-delayed-type" = exchange_type;
    /// Sets how many messages an exchange of the plugin type `x-recent-history` keeps.
    recent_history_length(messages: u32) => "x-recent-history-length" = i64::from(messages);
    /// Sets the header that an exchange of the plugin type `x-consistent-hash` hashes instead of
    /// the routing key.
    hash_header(name: &str) => "hash-header" = name;
    /// Sets the property that an exchange of the plugin type `x-consistent-hash` hashes instead of
    /// the routing key.
    hash_property(name: &str) => "hash-property" = name;
}

macro_rules! headers_match {
    ($($Request:ident)*) => {
        $(typed! { $Request.arguments in "arguments":
            /// Sets which headers the binding of a headers exchange compares; [`HeadersMatch::All`]
            /// by default. The other arguments are the expected headers;
            /// [`Void`](crate::protocol::Value::Void) matches any value.
            headers_match(which: HeadersMatch) => "x-match" = which.text();
        })*
    };
}

headers_match!(QueueBind QueueUnbind ExchangeBind ExchangeUnbind);

macro_rules! consume_arguments {
    ($($Request:ident)*) => {
        $(
            typed! { $Request.arguments in "arguments":
                /// Sets the priority; 0 by default. Consumers of higher priority receive messages
                /// first. Classic and quorum queues.
                priority(priority: i32) => "x-priority" = priority;
                /// Limits the time until the consumer acknowledges, in whole milliseconds. Quorum
                /// queues, since 4.3.
                consumer_timeout(time: Duration) => "x-consumer-timeout" = milliseconds(time);
                /// Consumes only messages with these filter values. The filter is probabilistic:
                /// other messages may be delivered, so check each one. Since 3.13.
                stream_filter(values: &[&str]) => "x-stream-filter" = &strings(values);
                /// Sets whether messages without a filter value match a
                /// [`stream_filter`](Self::stream_filter), too. Since 3.13.
                stream_match_unfiltered(unfiltered: bool) => "x-stream-match-unfiltered"
                    = unfiltered;
            }

            impl $Request<'_> {
                /// Sets the position at which a stream consumer begins; [`StreamOffset::Next`] by
                /// default.
                pub fn stream_offset(mut self, offset: StreamOffset) -> Self {
                    offset.add_to(&mut self.arguments);
                    self
                }
            }
        )*
    };
}

consume_arguments!(BasicConsume ConsumeQueue);

impl StreamOffset {
    fn add_to(self, arguments: &mut Entries) {
        let text;
        let value: Value<'_> = match self {
            Self::First => "first".into(),
            Self::Last => "last".into(),
            Self::Next => "next".into(),
            Self::Offset(offset) => number(offset).into(),
            Self::Timestamp(time) => match time.duration_since(UNIX_EPOCH) {
                Ok(since) => Value::Timestamp(since.as_secs()),
                Err(_) => {
                    let error = Error::invalid("stream_offset", "the time is before 1970");
                    return arguments.store_error(error);
                }
            },
            Self::Ago(time) => {
                text = format!("{}s", time.as_secs());
                text.as_str().into()
            }
        };
        arguments.add("arguments", "x-stream-offset", value);
    }
}

typed! { BasicPublish.headers in "headers":
    /// Adds routing keys that receivers can see: "sender-selected distribution".
    cc(routing_keys: &[&str]) => "CC" = &strings(routing_keys);
    /// Adds routing keys that the broker removes before delivery.
    bcc(routing_keys: &[&str]) => "BCC" = &strings(routing_keys);
    /// Sets the filter value of a message to a stream. Since 3.13.
    stream_filter_value(value: &str) => "x-stream-filter-value" = value;
    /// Sets how long an exchange of the plugin type `x-delayed-message` delays the message, in
    /// whole milliseconds.
    delay(time: Duration) => "x-delay" = milliseconds(time);
}

fn strings(texts: &[&str]) -> Array {
    let mut array = Array::new();
    for text in texts {
        // `push` fails only for nested values, and strings are not nested.
        let _ = array.push(*text);
    }
    array
}
