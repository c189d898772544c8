//! Effects of time: heartbeats, expiring messages and queues, and dead-lettering.

#![cfg(test)]

mod client;

use client::{Client, Message, World, all_capabilities, consume, declare, publish, s, table};
use puka::protocol::method::{basic, queue};
use puka::protocol::{FrameKind, Table, Value};
use puka_test_broker::Config;
use std::time::Duration;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn publish_expiring(client: &mut Client, queue: &str, expiration: &str, body: &str) {
    let properties = client::properties(|properties| properties.expiration = Some(s(expiration)));
    client.publish_with(1, &publish("", queue), &properties, body.as_bytes());
}

/// Returns the entries of x-death: queue, reason, count, exchange, routing keys.
fn deaths(message: &Message) -> Vec<(String, String, i64, String, Vec<String>)> {
    let text = |value: Option<Value<'_>>| value.and_then(Value::as_str).unwrap().to_string();
    let Some(Value::Array(array)) = message.headers().get("x-death") else {
        panic!("the message has no x-death")
    };
    let entry = |value: Value<'_>| {
        let Value::Table(entry) = value else {
            panic!("{value:?}")
        };
        let Some(Value::Array(keys)) = entry.get("routing-keys") else {
            panic!("{entry:?}")
        };
        assert!(matches!(entry.get("time"), Some(Value::Timestamp(_))));
        let keys = keys
            .iter()
            .map(|key| key.as_str().unwrap().to_string())
            .collect();
        let count = entry.get("count").and_then(Value::as_i64).unwrap();
        (
            text(entry.get("queue")),
            text(entry.get("reason")),
            count,
            text(entry.get("exchange")),
            keys,
        )
    };
    array.iter().map(entry).collect()
}

fn death(
    queue: &str,
    reason: &str,
    count: i64,
    key: &str,
) -> (String, String, i64, String, Vec<String>) {
    (
        queue.into(),
        reason.into(),
        count,
        String::new(),
        vec![key.into()],
    )
}

/// Returns arguments that dead-letter to a queue by its name.
fn dead_letter_to(queue: &str) -> Table {
    let mut arguments = table([("x-dead-letter-exchange", "")]);
    arguments
        .insert("x-dead-letter-routing-key", queue)
        .unwrap();
    arguments
}

#[test]
fn heartbeats_are_sent_when_nothing_else_is() {
    let world = World::new(Config::default());
    let mut client = world.connect_with(&all_capabilities(), 10);
    world.pass(ms(4_999));
    client.quiet();
    world.pass(ms(1));
    assert_eq!(client.next().kind, FrameKind::Heartbeat);
    client.open(1);
    world.pass(ms(4_999));
    client.quiet();
    world.pass(ms(5_001));
    assert_eq!(client.next().kind, FrameKind::Heartbeat);
    assert_eq!(client.next().kind, FrameKind::Heartbeat);
    client.quiet();
}

#[test]
fn silent_client_is_dropped_after_two_timeouts() {
    let world = World::new(Config::default());
    let mut client = world.connect_with(&all_capabilities(), 10);
    world.pass(ms(15_000));
    client.write(&[8, 0, 0, 0, 0, 0, 0, 0xCE]);
    world.pass(ms(19_999));
    assert!(!client.is_closed());
    world.pass(ms(1));
    assert!(client.is_closed());
}

#[test]
fn silence_without_heartbeats_is_allowed() {
    let world = World::new(Config::default());
    let mut client = world.connect_with(&all_capabilities(), 0);
    world.pass(Duration::from_secs(100_000));
    client.quiet();
    assert!(!client.is_closed());
}

#[test]
fn messages_expire() {
    let world = World::default();
    let mut client = world.client();
    client.queue(1, "facts-ttl");
    publish_expiring(&mut client, "facts-ttl", "400", "short");
    publish_expiring(&mut client, "facts-ttl", "60000", "long");
    client.publish(1, "", "facts-ttl", "for ever");
    world.pass(ms(300));
    assert_eq!(client.counts(1, "facts-ttl").0, 3);
    world.pass(ms(200));
    assert_eq!(client.drain(1, "facts-ttl"), ["long", "for ever"]);
}

#[test]
fn message_expires_only_at_the_head() {
    let world = World::default();
    let mut client = world.client();
    client.queue(1, "facts-head");
    client.publish(1, "", "facts-head", "for ever");
    publish_expiring(&mut client, "facts-head", "10", "short");
    world.pass(ms(100));
    assert_eq!(client.counts(1, "facts-head").0, 2);
    assert_eq!(client.drain(1, "facts-head"), ["for ever"]);
}

#[test]
fn lower_of_queue_and_message_ttl_counts() {
    let world = World::default();
    let mut client = world.client();
    client.queue_with(1, "facts-lower", &table([("x-message-ttl", 300)]));
    publish_expiring(&mut client, "facts-lower", "10", "message");
    publish_expiring(&mut client, "facts-lower", "60000", "queue");
    world.pass(ms(150));
    assert_eq!(client.counts(1, "facts-lower").0, 1);
    world.pass(ms(300));
    assert!(client.drain(1, "facts-lower").is_empty());
}

#[test]
fn zero_ttl_message_needs_a_ready_consumer() {
    let mut client = World::default().client();
    client.queue_with(1, "facts-zero", &table([("x-message-ttl", 0)]));
    client.publish(1, "", "facts-zero", "lost");
    assert!(client.get(1, "facts-zero").is_none());
    client.consume(1, "facts-zero", "tag");
    client.publish(1, "", "facts-zero", "delivered");
    assert_eq!(client.message().text(), "delivered");
}

#[test]
fn unused_queue_expires() {
    let world = World::default();
    let mut client = world.client();
    client.queue_with(1, "facts-expires", &table([("x-expires", 500)]));
    world.pass(ms(300));
    assert!(client.get(1, "facts-expires").is_none());
    world.pass(ms(300));
    client.consume(1, "facts-expires", "tag");
    world.pass(ms(700));
    client.call(
        1,
        &basic::Cancel {
            consumer_tag: s("tag"),
            nowait: false,
        },
        basic::CancelOk {
            consumer_tag: s("tag"),
        },
    );
    world.pass(ms(300));
    assert_eq!(client.counts(1, "facts-expires"), (0, 0));
    world.pass(ms(900));
    client.refused(
        1,
        &queue::Declare {
            passive: true,
            ..declare("facts-expires")
        },
        404,
    );
}

#[test]
fn rejected_expired_and_superfluous_messages_are_dead_lettered() {
    let world = World::default();
    let mut client = world.client();
    client.queue(1, "facts-dead");
    let mut arguments = dead_letter_to("facts-dead");
    arguments.insert("x-max-length", 1).unwrap();
    client.queue_with(1, "facts-dying", &arguments);
    client.publish(1, "", "facts-dying", "rejected");
    client.get(1, "facts-dying").unwrap();
    client.nack(1, 1, false, false);
    client.publish(1, "", "facts-dying", "superfluous");
    publish_expiring(&mut client, "facts-dying", "100", "expired");
    world.pass(ms(300));
    for (body, reason) in [
        ("rejected", "rejected"),
        ("superfluous", "maxlen"),
        ("expired", "expired"),
    ] {
        let message = client.get(1, "facts-dead").unwrap();
        assert_eq!(message.text(), body);
        assert_eq!(
            deaths(&message),
            [death("facts-dying", reason, 1, "facts-dying")]
        );
        assert_eq!(
            message.headers().get("x-first-death-reason"),
            Some(reason.into())
        );
        assert_eq!(
            message.headers().get("x-first-death-queue"),
            Some("facts-dying".into())
        );
        assert_eq!(
            message.headers().get("x-first-death-exchange"),
            Some("".into())
        );
        assert_eq!(message.properties().expiration, None);
        assert_eq!(message.get_ok().routing_key, s("facts-dead"));
        if reason == "expired" {
            let Some(Value::Array(array)) = message.headers().get("x-death") else {
                panic!()
            };
            let Some(Value::Table(entry)) = array.iter().next() else {
                panic!()
            };
            assert_eq!(entry.get("original-expiration"), Some("100".into()));
        }
    }
}

#[test]
fn dead_letters_keep_their_routing_key_by_default() {
    let mut client = World::default().client();
    client.exchange(1, "facts-dlx", "fanout");
    client.queue(1, "facts-dead-key");
    client.bind(1, "facts-dead-key", "facts-dlx", "", &Table::new());
    client.queue_with(
        1,
        "facts-dying-key",
        &table([("x-dead-letter-exchange", "facts-dlx")]),
    );
    client.publish(1, "", "facts-dying-key", "x");
    client.get(1, "facts-dying-key").unwrap();
    client.nack(1, 1, false, false);
    let message = client.get(1, "facts-dead-key").unwrap();
    assert_eq!(message.get_ok().routing_key, s("facts-dying-key"));
    assert_eq!(message.get_ok().exchange, s("facts-dlx"));
}

#[test]
fn repeated_dead_lettering_is_counted() {
    let mut client = World::default().client();
    client.queue_with(1, "facts-again-1", &dead_letter_to("facts-again-2"));
    client.queue_with(1, "facts-again-2", &dead_letter_to("facts-again-1"));
    client.publish(1, "", "facts-again-1", "x");
    for (tag, queue) in [
        (1, "facts-again-1"),
        (2, "facts-again-2"),
        (3, "facts-again-1"),
    ] {
        client.get(1, queue).unwrap();
        client.nack(1, tag, false, false);
    }
    let message = client.get(1, "facts-again-2").unwrap();
    let expected = [
        death("facts-again-1", "rejected", 2, "facts-again-1"),
        death("facts-again-2", "rejected", 1, "facts-again-2"),
    ];
    assert_eq!(deaths(&message), expected);
    assert_eq!(
        message.headers().get("x-first-death-queue"),
        Some("facts-again-1".into())
    );
}

#[test]
fn expiry_cycle_drops_the_message() {
    let world = World::default();
    let mut client = world.client();
    for (queue, next) in [
        ("facts-circle-1", "facts-circle-2"),
        ("facts-circle-2", "facts-circle-1"),
    ] {
        let mut arguments = dead_letter_to(next);
        arguments.insert("x-message-ttl", 50).unwrap();
        client.queue_with(1, queue, &arguments);
    }
    client.publish(1, "", "facts-circle-1", "x");
    world.pass(ms(400));
    assert_eq!(client.counts(1, "facts-circle-1").0, 0);
    assert_eq!(client.counts(1, "facts-circle-2").0, 0);
}

#[test]
fn missing_dead_letter_exchange_drops_the_message() {
    let mut client = World::default().client();
    client.queue_with(
        1,
        "facts-no-dlx",
        &table([("x-dead-letter-exchange", "facts-missing")]),
    );
    client.publish(1, "", "facts-no-dlx", "x");
    client.get(1, "facts-no-dlx").unwrap();
    client.nack(1, 1, false, false);
    assert!(client.drain(1, "facts-no-dlx").is_empty());
}

#[test]
fn reject_publish_dlx_dead_letters_refused_messages() {
    let mut client = World::default().client();
    client.queue(1, "facts-refused");
    let mut arguments = dead_letter_to("facts-refused");
    arguments.insert("x-max-length", 1).unwrap();
    arguments
        .insert("x-overflow", "reject-publish-dlx")
        .unwrap();
    client.queue_with(1, "facts-refuses", &arguments);
    client.confirm_select(1);
    client.publish_confirmed(1, "", "facts-refuses", "one");
    client.publish(1, "", "facts-refuses", "two");
    client.expect_kind(1, basic::Nack::ID);
    let message = client.get(1, "facts-refused").unwrap();
    assert_eq!(message.text(), "two");
    assert_eq!(
        deaths(&message),
        [death("facts-refuses", "maxlen", 1, "facts-refuses")]
    );
}

#[test]
fn later_consumer_receives_no_expired_message() {
    let world = World::default();
    let mut client = world.client();
    client.queue(1, "facts-late-consumer");
    publish_expiring(&mut client, "facts-late-consumer", "100", "gone");
    world.pass(ms(300));
    client.publish(1, "", "facts-late-consumer", "there");
    client.call(
        1,
        &consume("facts-late-consumer", "tag"),
        basic::ConsumeOk {
            consumer_tag: s("tag"),
        },
    );
    assert_eq!(client.message().text(), "there");
}
