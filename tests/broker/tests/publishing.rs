//! Publishing: confirms, returns, refused messages, transactions.

#![cfg(test)]

mod client;

use client::{World, publish, s, table};
use puka::protocol::method::{Encode, basic, confirm, tx};
use puka::protocol::{Properties, Value};
use puka_test_broker::Config;
use std::time::Duration;

fn ack(delivery_tag: u64, multiple: bool) -> basic::Ack {
    basic::Ack {
        delivery_tag,
        multiple,
    }
}

fn mandatory<'a>(exchange: &'a str, key: &'a str) -> basic::Publish<'a> {
    basic::Publish {
        mandatory: true,
        ..publish(exchange, key)
    }
}

#[test]
fn publishes_are_numbered_from_the_first_select() {
    let mut client = World::default().client();
    client.queue(1, "facts-numbered");
    client.publish(1, "", "facts-numbered", "before");
    client.confirm_select(1);
    client.publish(1, "", "facts-numbered", "one");
    client.expect(1, ack(1, false));
    client.confirm_select(1);
    client.publish(1, "", "facts-nowhere", "unroutable");
    client.expect(1, ack(2, false));
}

#[test]
fn confirms_that_are_due_together_leave_as_one() {
    let world = World::new(Config::default());
    let mut client = world.client();
    client.queue(1, "q");
    client.confirm_select(1);
    let mut bytes = Vec::new();
    for body in ["a", "b", "c"] {
        puka::protocol::frame::method(&mut bytes, 1, u32::MAX, &publish("", "q")).unwrap();
        let header = puka::protocol::ContentHeader {
            body_size: 1,
            properties: Properties::default(),
        };
        puka::protocol::frame::content_header(&mut bytes, 1, u32::MAX, &header).unwrap();
        puka::protocol::frame::body(&mut bytes, 1, 4096, body.as_bytes());
    }
    client.write(&bytes);
    client.expect(1, ack(3, true));
    client.quiet();
}

#[test]
fn delayed_confirms_arrive_in_any_order() {
    let delay = Duration::from_millis(10)..Duration::from_millis(500);
    let config = Config {
        confirm_delay: delay,
        coalesce_confirms: false,
        seed: 3,
        ..Config::default()
    };
    let tags = || {
        let world = World::new(config.clone());
        let mut client = world.client();
        client.confirm_select(1);
        for _ in 0..20 {
            client.publish(1, "", "nowhere", "x");
        }
        client.quiet();
        let mut tags = Vec::new();
        for _ in 0..50 {
            world.pass(Duration::from_millis(10));
            while let Some(received) = client.poll() {
                match received.method() {
                    puka::protocol::Method::Basic(basic::Method::Ack(ack)) if !ack.multiple => {
                        tags.push(ack.delivery_tag);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        tags
    };
    let first = tags();
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (1..=20).collect::<Vec<_>>());
    assert_ne!(first, sorted, "the confirms should not be in order");
    assert_eq!(first, tags(), "the same seed must result in the same order");
}

#[test]
fn unroutable_mandatory_message_is_returned_before_its_ack() {
    let mut client = World::default().client();
    client.confirm_select(1);
    let properties = client::properties(|properties| properties.message_id = Some(s("m1")));
    client.publish_with(
        1,
        &mandatory("amq.direct", "facts-nowhere"),
        &properties,
        b"back",
    );
    let returned = client.message();
    let expected = basic::Return {
        reply_code: 312,
        reply_text: s("NO_ROUTE"),
        exchange: s("amq.direct"),
        routing_key: s("facts-nowhere"),
    };
    assert_eq!(returned.method.method(), expected.into());
    assert_eq!(returned.text(), "back");
    assert_eq!(returned.properties(), properties);
    client.expect(1, ack(1, false));
    client.publish(1, "amq.direct", "facts-nowhere", "not mandatory");
    client.expect(1, ack(2, false));
}

/// RabbitMQ 4.2 and later only deliver it.
#[test]
fn mandatory_reply_is_delivered_and_returned() {
    let mut client = World::default().client();
    client.queue(1, "facts-calls");
    let replies = basic::Consume {
        no_ack: true,
        ..client::consume("amq.rabbitmq.reply-to", "replies")
    };
    client.call(
        1,
        &replies,
        basic::ConsumeOk {
            consumer_tag: s("replies"),
        },
    );
    let properties =
        client::properties(|properties| properties.reply_to = Some(s("amq.rabbitmq.reply-to")));
    client.publish_with(1, &publish("", "facts-calls"), &properties, b"call");
    client.open(2);
    let call = client.get(2, "facts-calls").unwrap();
    let address = call.properties().reply_to.unwrap().to_string();
    client.publish_with(
        2,
        &mandatory("", &address),
        &Properties::default(),
        b"reply",
    );
    // They are on different channels, so they come in any order.
    let mut kinds = [client.message(), client.message()].map(|message| {
        assert_eq!(message.text(), "reply");
        (message.method.channel, message.method.method().id())
    });
    kinds.sort_by_key(|(channel, _)| *channel);
    assert_eq!(kinds, [(1, basic::Deliver::ID), (2, basic::Return::ID)]);
}

#[test]
fn immediate_is_540() {
    let mut client = World::default().client();
    let immediate = basic::Publish {
        immediate: true,
        ..publish("", "x")
    };
    client.publish_with(1, &immediate, &Properties::default(), b"");
    assert_eq!(client.expect_close(540), "NOT_IMPLEMENTED - immediate=true");
}

#[test]
fn missing_exchange_is_404() {
    let mut client = World::default().client();
    client.publish(1, "facts-missing", "x", "x");
    let text = client.expect_channel_close(1, 404);
    assert_eq!(text, "NOT_FOUND - no exchange 'facts-missing' in vhost '/'");
}

#[test]
fn bad_properties_are_406() {
    let mut client = World::default().client();
    client.queue(1, "facts-properties");
    let bad = [
        client::properties(|properties| properties.expiration = Some(s("soon"))),
        client::properties(|properties| properties.expiration = Some(s(""))),
        client::properties(|properties| properties.expiration = Some(s("-1"))),
        client::properties(|properties| properties.expiration = Some(s("315360000001"))),
        client::properties(|properties| properties.user_id = Some(s("somebody"))),
        client::properties(|properties| properties.delivery_mode = Some(3)),
    ];
    for properties in bad {
        client.publish_with(1, &publish("", "facts-properties"), &properties, b"x");
        client.expect_channel_close(1, 406);
    }
    let good = client::properties(|properties| {
        properties.expiration = Some(s("315360000000"));
        properties.user_id = Some(s("guest"));
        properties.delivery_mode = Some(2);
    });
    client.publish_with(1, &publish("", "facts-properties"), &good, b"x");
    assert_eq!(
        client.get(1, "facts-properties").unwrap().properties(),
        good
    );
}

#[test]
fn properties_are_delivered_unchanged() {
    let mut client = World::default().client();
    client.queue(1, "facts-roundtrip");
    let mut headers = table([("z", "last first")]);
    headers.insert("a", 1_u8).unwrap();
    headers.insert("a", Value::Void).unwrap();
    let properties = client::properties(|properties| {
        properties.content_type = Some(s("text/plain"));
        properties.content_encoding = Some(s(""));
        properties.headers = Some(headers.as_ref().into());
        properties.delivery_mode = Some(1);
        properties.priority = Some(7);
        properties.correlation_id = Some(s("c"));
        properties.reply_to = Some(s("r"));
        properties.message_id = Some(s("m"));
        properties.timestamp = Some(u64::MAX);
        properties.r#type = Some(s("t"));
        properties.app_id = Some(s("a"));
        properties.cluster_id = Some(s("x"));
    });
    client.publish_with(
        1,
        &publish("", "facts-roundtrip"),
        &properties,
        &[0, 0xCE, 0xFF],
    );
    let message = client.get(1, "facts-roundtrip").unwrap();
    assert_eq!(message.properties(), properties);
    assert_eq!(message.body, [0, 0xCE, 0xFF]);
}

#[test]
fn log_contains_exactly_the_accepted_messages() {
    let world = World::new(Config {
        published_log: 2,
        ..Config::default()
    });
    let mut client = world.client();
    let mut arguments = table([("x-max-length", 0)]);
    arguments.insert("x-overflow", "reject-publish").unwrap();
    client.queue_with(1, "full", &arguments);
    client.queue(1, "q");
    for (key, body) in [
        ("q", "one"),
        ("full", "refused"),
        ("q", "two"),
        ("nowhere", "three"),
    ] {
        client.publish(1, "", key, body);
    }
    let broker = world.broker.borrow();
    let log: Vec<_> = broker
        .published()
        .map(|message| (&message.body[..], message.queues.clone()))
        .collect();
    assert_eq!(
        log,
        [(&b"two"[..], vec!["q".to_string()]), (b"three", vec![])]
    );
}

#[test]
fn confirms_and_transactions_exclude_each_other() {
    let mut client = World::default().client();
    client.confirm_select(1);
    client.refused(1, &tx::Select {}, 406);
    client.call(1, &tx::Select {}, tx::SelectOk {});
    client.refused(1, &confirm::Select { nowait: false }, 406);
    let text = client.refused(1, &tx::Commit {}, 406);
    assert_eq!(text, "PRECONDITION_FAILED - channel is not transactional");
    client.refused(1, &tx::Rollback {}, 406);
}

#[test]
fn transaction_takes_effect_with_its_commit() {
    let mut client = World::default().client();
    client.open(2);
    client.queue(1, "facts-tx");
    client.call(1, &tx::Select {}, tx::SelectOk {});
    client.publish(1, "", "facts-tx", "one");
    client.publish_with(
        1,
        &mandatory("", "facts-nowhere"),
        &Properties::default(),
        b"back",
    );
    client.quiet();
    assert_eq!(client.counts(2, "facts-tx"), (0, 0));
    client.send(1, &tx::Commit {});
    assert_eq!(client.message().text(), "back");
    client.expect(1, tx::CommitOk {});
    assert_eq!(client.counts(2, "facts-tx"), (1, 0));
    client.publish(1, "", "facts-tx", "two");
    client.call(1, &tx::Rollback {}, tx::RollbackOk {});
    client.call(1, &tx::Commit {}, tx::CommitOk {});
    assert_eq!(client.counts(2, "facts-tx"), (1, 0));
}

#[test]
fn transaction_covers_acks() {
    let mut client = World::default().client();
    client.queue(1, "facts-tx-acks");
    client.publish(1, "", "facts-tx-acks", "one");
    client.call(1, &tx::Select {}, tx::SelectOk {});
    client.get(1, "facts-tx-acks").unwrap();
    client.ack(1, 1, false);
    client.call(1, &tx::Rollback {}, tx::RollbackOk {});
    client.ack(1, 1, false);
    client.call(1, &tx::Commit {}, tx::CommitOk {});
    client.refused(1, &ack(1, false), 406);
    assert!(client.drain(1, "facts-tx-acks").is_empty());
}

#[test]
fn uncommitted_settlement_is_undone_by_channel_end() {
    let mut client = World::default().client();
    client.queue(1, "facts-tx-lost");
    client.publish(1, "", "facts-tx-lost", "one");
    client.call(1, &tx::Select {}, tx::SelectOk {});
    client.get(1, "facts-tx-lost").unwrap();
    client.ack(1, 1, false);
    client.refused(1, &ack(9, false), 406);
    assert_eq!(client.drain(1, "facts-tx-lost"), ["one"]);
}

#[test]
fn commit_that_a_queue_refuses_is_406() {
    let mut client = World::default().client();
    let mut arguments = table([("x-max-length", 0)]);
    arguments.insert("x-overflow", "reject-publish").unwrap();
    client.queue_with(1, "facts-tx-full", &arguments);
    client.call(1, &tx::Select {}, tx::SelectOk {});
    client.publish(1, "", "facts-tx-full", "one");
    let text = client.refused(1, &tx::Commit {}, 406);
    assert_eq!(text, "PRECONDITION_FAILED - partial tx completion");
}

#[test]
fn no_confirms_without_confirm_mode() {
    let mut client = World::default().client();
    client.publish(1, "", "facts-nowhere", "x");
    client.quiet();
}
