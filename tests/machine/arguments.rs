//! The well-known arguments on the wire: the name and the value type that each typed method writes,
//! after RabbitMQ's documentation; and arguments that cannot be encoded.

use crate::peer::{Sent, reply_to};
use crate::pipe::{ManualClock, Pipe};
use puka::protocol::method::{basic, exchange, queue};
use puka::protocol::{Array, ContentHeader, FrameKind, Method, Properties, ShortStr, Table, Value};
use puka::{
    Client, DeadLetterStrategy, DelayedRetry, Error, HeadersMatch, LeaderLocator, Options,
    Overflow, QueueType, StreamOffset,
};
use std::time::{Duration, SystemTime};

const HOUR: Duration = Duration::from_secs(3600);
const MS: i64 = 3_600_000;

/// Returns what a client writes on a fresh connection.
fn written(ask: impl FnOnce(&Client)) -> Vec<Sent> {
    let pipe = Pipe::default();
    let (client, mut driver) = puka::open(pipe.clone(), ManualClock::default(), Options::default());
    pipe.open(&mut driver);
    ask(&client);
    let mut all = Vec::new();
    loop {
        assert!(pipe.poll(&mut driver).is_none());
        let frames = pipe.frames();
        if frames.is_empty() {
            return all;
        }
        frames
            .iter()
            .filter_map(reply_to)
            .for_each(|bytes| pipe.feed(&bytes));
        all.extend(frames);
    }
}

/// Returns the arguments of the tested method, or the headers of the message.
fn table(ask: impl FnOnce(&Client)) -> Table {
    for sent in written(ask) {
        let found = match sent.kind {
            FrameKind::Method => match sent.method() {
                Method::Queue(queue::Method::Declare(it)) => Some(it.arguments),
                Method::Queue(queue::Method::Bind(it)) => Some(it.arguments),
                Method::Queue(queue::Method::Unbind(it)) => Some(it.arguments),
                Method::Exchange(exchange::Method::Declare(it)) => Some(it.arguments),
                Method::Exchange(exchange::Method::Bind(it)) => Some(it.arguments),
                Method::Exchange(exchange::Method::Unbind(it)) => Some(it.arguments),
                Method::Basic(basic::Method::Consume(it)) => Some(it.arguments),
                _ => None,
            }
            .map(|arguments| arguments.to_table()),
            FrameKind::Header => {
                let header = ContentHeader::decode(&sent.payload).unwrap();
                header
                    .properties
                    .headers
                    .map(|headers| headers.table().unwrap().to_table())
            }
            _ => None,
        };
        if let Some(found) = found {
            return found;
        }
    }
    panic!("nothing with arguments was written");
}

#[track_caller]
fn is(found: &Table, name: &str, value: Value<'_>) {
    let entries: Vec<_> = found.iter().collect();
    assert_eq!(entries, [(ShortStr::new(name).unwrap(), value)]);
}

/// Checks each typed method of a request against the one entry that it adds.
macro_rules! each_makes {
    (
        $request:ident $of:tt:
        $($method:ident($($argument:expr),*) => $name:literal = $value:expr;)*
    ) => {
        $(is(
            &table(|client| drop(client.$request $of.$method($($argument),*).send())),
            $name,
            $value,
        );)*
    };
}

fn text(text: &str) -> Value<'_> {
    Value::String(text.as_bytes())
}

#[test]
fn arguments_of_queues_have_rabbitmqs_names_and_types() {
    use Value::{Bool, I32, I64};
    each_makes! { queue_declare("q"):
        queue_type(QueueType::Classic) => "x-queue-type" = text("classic");
        queue_type(QueueType::Quorum) => "x-queue-type" = text("quorum");
        queue_type(QueueType::Stream) => "x-queue-type" = text("stream");
        expires(HOUR) => "x-expires" = I64(MS);
        message_ttl(HOUR) => "x-message-ttl" = I64(MS);
        message_ttl(Duration::from_micros(1999)) => "x-message-ttl" = I64(1);
        message_ttl(Duration::MAX) => "x-message-ttl" = I64(i64::MAX);
        max_length(7) => "x-max-length" = I64(7);
        max_length(u64::MAX) => "x-max-length" = I64(i64::MAX);
        max_length_bytes(1 << 40) => "x-max-length-bytes" = I64(1 << 40);
        overflow(Overflow::DropHead) => "x-overflow" = text("drop-head");
        overflow(Overflow::RejectPublish) => "x-overflow" = text("reject-publish");
        overflow(Overflow::RejectPublishDlx) => "x-overflow" = text("reject-publish-dlx");
        dead_letter("graves", None) => "x-dead-letter-exchange" = text("graves");
        dead_letter_strategy(DeadLetterStrategy::AtMostOnce) =>
            "x-dead-letter-strategy" = text("at-most-once");
        dead_letter_strategy(DeadLetterStrategy::AtLeastOnce) =>
            "x-dead-letter-strategy" = text("at-least-once");
        max_priority(10) => "x-max-priority" = I64(10);
        single_active_consumer(true) => "x-single-active-consumer" = Bool(true);
        queue_version(2) => "x-queue-version" = I64(2);
        queue_mode("lazy") => "x-queue-mode" = text("lazy");
        queue_leader_locator(LeaderLocator::Balanced) =>
            "x-queue-leader-locator" = text("balanced");
        queue_leader_locator(LeaderLocator::ClientLocal) =>
            "x-queue-leader-locator" = text("client-local");
        queue_master_locator("min-masters") => "x-queue-master-locator" = text("min-masters");
        quorum_initial_group_size(3) => "x-quorum-initial-group-size" = I64(3);
        initial_cluster_size(3) => "x-initial-cluster-size" = I64(3);
        delivery_limit(-1) => "x-delivery-limit" = I32(-1);
        consumer_timeout(HOUR) => "x-consumer-timeout" = I64(MS);
        consumer_disconnected_timeout(HOUR) => "x-consumer-disconnected-timeout" = I64(MS);
        delayed_retry(DelayedRetry::Disabled) => "x-delayed-retry-type" = text("disabled");
        delayed_retry(DelayedRetry::All) => "x-delayed-retry-type" = text("all");
        delayed_retry(DelayedRetry::Failed) => "x-delayed-retry-type" = text("failed");
        delayed_retry(DelayedRetry::Returned) => "x-delayed-retry-type" = text("returned");
        delayed_retry_min(HOUR) => "x-delayed-retry-min" = I64(MS);
        delayed_retry_max(HOUR) => "x-delayed-retry-max" = I64(MS);
        max_age(HOUR) => "x-max-age" = text("3600s");
        stream_max_segment_size_bytes(500_000_000) =>
            "x-stream-max-segment-size-bytes" = I64(500_000_000);
        stream_filter_size_bytes(32) => "x-stream-filter-size-bytes" = I64(32);
        name_prefix("mine") => "x-name-prefix" = text("mine");
        member_placement_tag("ssd") => "x-member-placement-tag" = text("ssd");
        argument("x-anything", ()) => "x-anything" = Value::Void;
    }
    let both = table(|client| drop(client.queue_declare("q").dead_letter("", "grave").send()));
    let name = String::from("grave");
    let owned = table(|client| drop(client.queue_declare("q").dead_letter("", &name).send()));
    assert_eq!(owned, both);
    assert_eq!(both.get("x-dead-letter-exchange"), Some(text("")));
    assert_eq!(both.get("x-dead-letter-routing-key"), Some(text("grave")));
}

#[test]
fn exchange_and_binding_arguments_match_rabbitmqs() {
    each_makes! { exchange_declare("x"):
        alternate_exchange("other") => "alternate-exchange" = text("other");
        delayed_type("topic") => "x-delayed-type" = text("topic");
        recent_history_length(20) => "x-recent-history-length" = Value::I64(20);
        hash_header("customer") => "hash-header" = text("customer");
        hash_property("message_id") => "hash-property" = text("message_id");
    }
    each_makes! { queue_bind("q", "x"):
        headers_match(HeadersMatch::All) => "x-match" = text("all");
        headers_match(HeadersMatch::Any) => "x-match" = text("any");
        headers_match(HeadersMatch::AllWithX) => "x-match" = text("all-with-x");
        headers_match(HeadersMatch::AnyWithX) => "x-match" = text("any-with-x");
        argument("colour", "red") => "colour" = text("red");
    }
    each_makes! { queue_unbind("q", "x"):
        headers_match(HeadersMatch::Any) => "x-match" = text("any");
    }
    each_makes! { exchange_bind("d", "s"):
        headers_match(HeadersMatch::Any) => "x-match" = text("any");
    }
    each_makes! { exchange_unbind("d", "s"):
        headers_match(HeadersMatch::Any) => "x-match" = text("any");
    }
}

#[test]
fn arguments_of_consumers_have_rabbitmqs_names_and_types() {
    let then = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_999);
    each_makes! { basic_consume("q"):
        priority(-5) => "x-priority" = Value::I32(-5);
        consumer_timeout(HOUR) => "x-consumer-timeout" = Value::I64(MS);
        stream_match_unfiltered(true) => "x-stream-match-unfiltered" = Value::Bool(true);
        stream_offset(StreamOffset::First) => "x-stream-offset" = text("first");
        stream_offset(StreamOffset::Last) => "x-stream-offset" = text("last");
        stream_offset(StreamOffset::Next) => "x-stream-offset" = text("next");
        stream_offset(StreamOffset::Offset(42)) => "x-stream-offset" = Value::I64(42);
        stream_offset(StreamOffset::Timestamp(then)) =>
            "x-stream-offset" = Value::Timestamp(1_700_000_000);
        stream_offset(StreamOffset::Ago(HOUR)) => "x-stream-offset" = text("3600s");
    }
    let mut filters = Array::new();
    filters.push("red").unwrap();
    filters.push("blue").unwrap();
    each_makes! { basic_consume("q"):
        stream_filter(&["red", "blue"]) => "x-stream-filter" = (&filters).into();
    }
}

#[test]
fn headers_of_messages_have_rabbitmqs_names_and_types() {
    let mut keys = Array::new();
    keys.push("a").unwrap();
    keys.push("b").unwrap();
    each_makes! { basic_publish("", "q", "x"):
        cc(&["a", "b"]) => "CC" = (&keys).into();
        bcc(&["a", "b"]) => "BCC" = (&keys).into();
        stream_filter_value("red") => "x-stream-filter-value" = text("red");
        delay(HOUR) => "x-delay" = Value::I64(MS);
        header("anything", 1.5) => "anything" = Value::F64(1.5);
    }
}

#[test]
fn properties_that_are_times_are_rusts_times() {
    let second = Duration::from_secs(1_700_000_000);
    let sent = written(|client| {
        let publish = client
            .basic_publish("", "q", "x")
            .expiration(Duration::from_micros(1_500_900));
        drop(
            publish
                .timestamp(SystemTime::UNIX_EPOCH + second + Duration::from_millis(999))
                .send(),
        );
    });
    let header = sent
        .iter()
        .find(|sent| sent.kind == FrameKind::Header)
        .unwrap();
    let properties = ContentHeader::decode(&header.payload).unwrap().properties;
    assert_eq!(properties.expiration, ShortStr::new("1500").ok());
    assert_eq!(properties.timestamp, Some(second.as_secs()));
    assert_eq!(properties.time_to_live(), Some(Duration::from_millis(1500)));
    assert_eq!(properties.time(), Some(SystemTime::UNIX_EPOCH + second));
    let mut odd = Properties::default();
    assert_eq!((odd.time_to_live(), odd.time()), (None, None));
    (odd.expiration, odd.timestamp) = (ShortStr::new("soon").ok(), Some(u64::MAX));
    assert_eq!(
        (odd.time_to_live(), odd.time()),
        (None, None),
        "neither is a valid time"
    );
}

/// Checks that a request is refused before anything is written, and that the next one is sent.
#[track_caller]
fn is_refused<T>(what: &str, ask: impl FnOnce(&Client) -> Result<T, Error>) {
    let sent = written(|client| {
        match ask(client) {
            Err(Error::InvalidArgument { what: found, .. }) => assert_eq!(found, what),
            Err(other) => panic!("{what}: {other:?}"),
            Ok(_) => panic!("{what} was sent"),
        }
        drop(client.queue_declare("next").send());
    });
    let names: Vec<_> = sent.iter().map(Sent::name).collect();
    assert_eq!(names, ["1 channel.open", "1 queue.declare"], "{what}");
}

#[test]
fn unencodable_arguments_are_refused_before_anything_is_written() {
    let mut nested = Table::new();
    nested.insert("deep", f64::NAN).unwrap();
    let mut array = Array::new();
    array.push(&nested).unwrap();
    is_refused("headers", |client| {
        client
            .basic_publish("", "q", "x")
            .header("h", f32::NAN)
            .try_send()
    });
    is_refused("headers", |client| {
        client
            .basic_publish("", "q", "x")
            .header("h", f64::INFINITY)
            .try_send()
    });
    is_refused("headers", |client| {
        client
            .basic_publish("", "q", "x")
            .header("h", &array)
            .try_send()
    });
    is_refused("headers", |client| {
        client
            .basic_publish("", "q", "x")
            .headers(&nested)
            .try_send()
    });
    is_refused("arguments", |client| {
        client.queue_declare("q").argument("a", f64::NAN).try_send()
    });
    is_refused("arguments", |client| {
        client
            .queue_bind("q", "x")
            .argument("a", &nested)
            .try_send()
    });
    is_refused("arguments", |client| {
        client.basic_consume("q").argument("a", &array).try_send()
    });
    let early = SystemTime::UNIX_EPOCH - HOUR;
    is_refused("timestamp", |client| {
        client
            .basic_publish("", "q", "x")
            .timestamp(early)
            .try_send()
    });
    is_refused("stream_offset", |client| {
        client
            .basic_consume("q")
            .stream_offset(StreamOffset::Timestamp(early))
            .try_send()
    });
    let ten_years = Duration::from_millis(315_360_000_000);
    let longer = ten_years + Duration::from_millis(1);
    is_refused("expiration", |client| {
        client
            .basic_publish("", "q", "x")
            .expiration(longer)
            .try_send()
    });
    is_refused("body", |client| {
        client
            .basic_publish("", "q", vec![0; (64 << 20) + 1])
            .try_send()
    });
    is_refused("user_id", |client| {
        client
            .basic_publish("", "q", "x")
            .user_id("somebody")
            .try_send()
    });
}
