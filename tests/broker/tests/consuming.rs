//! Consumers, prefetch and settling.

#![cfg(test)]

mod client;

use client::{Client, World, consume, publish, s, table};
use puka::protocol::method::{basic, channel, queue};
use puka::protocol::{Method, Properties, Table};
use puka_test_broker::Config;

fn cancel(tag: &str) -> basic::Cancel<'_> {
    basic::Cancel {
        consumer_tag: s(tag),
        nowait: false,
    }
}

fn reject(delivery_tag: u64, requeue: bool) -> basic::Reject {
    basic::Reject {
        delivery_tag,
        requeue,
    }
}

/// Returns the bodies of the received deliveries, each with its tag and whether it is a redelivery.
fn deliveries(client: &mut Client) -> Vec<(String, u64, bool)> {
    let mut all = Vec::new();
    while let Some(received) = client.poll() {
        let message = client.content(received);
        let deliver = message.deliver();
        all.push((
            message.text().to_string(),
            deliver.delivery_tag,
            deliver.redelivered,
        ));
    }
    all
}

fn bodies(client: &mut Client) -> Vec<String> {
    deliveries(client)
        .into_iter()
        .map(|(body, ..)| body)
        .collect()
}

/// Returns a client with confirms on channel 2, whose queue has these messages.
fn filled(queue: &str, bodies: &[&str]) -> Client {
    let mut client = World::default().client();
    client.queue(1, queue);
    fill(&mut client, queue, bodies);
    client
}

fn fill(client: &mut Client, queue: &str, bodies: &[&str]) {
    client.open(2);
    client.confirm_select(2);
    for body in bodies {
        client.publish_confirmed(2, "", queue, body);
    }
}

#[test]
fn messages_are_delivered_in_order_behind_consume_ok() {
    let mut client = filled("facts-order", &["a", "b"]);
    client.consume(1, "facts-order", "tag");
    client.publish(2, "", "facts-order", "c");
    let message = client.message();
    let expected = basic::Deliver {
        consumer_tag: s("tag"),
        delivery_tag: 1,
        redelivered: false,
        exchange: s(""),
        routing_key: s("facts-order"),
    };
    assert_eq!(message.deliver(), expected);
    assert_eq!(message.text(), "a");
    assert_eq!(client.message().text(), "b");
}

#[test]
fn broker_names_a_consumer_without_tag() {
    let mut client = filled("facts-tagless", &[]);
    client.send(1, &consume("facts-tagless", ""));
    let received = client.next();
    let Method::Basic(basic::Method::ConsumeOk(ok)) = received.method() else {
        panic!("{received:?}")
    };
    assert!(ok.consumer_tag.to_str_lossy().starts_with("amq.ctag-"));
    let tag = ok.consumer_tag.to_str_lossy().into_owned();
    client.call(
        1,
        &cancel(&tag),
        basic::CancelOk {
            consumer_tag: s(&tag),
        },
    );
}

#[test]
fn prefetch_limits_each_later_consumer() {
    let mut client = filled("facts-prefetch", &["1", "2", "3", "4", "5", "6"]);
    client.qos(1, 2, false);
    client.consume(1, "facts-prefetch", "a");
    assert_eq!(bodies(&mut client), ["1", "2"]);
    client.qos(1, 1, false);
    client.consume(1, "facts-prefetch", "b");
    assert_eq!(bodies(&mut client), ["3"]);
    client.ack(1, 1, false);
    assert_eq!(bodies(&mut client), ["4"]);
    client.ack(1, 4, true);
    assert_eq!(bodies(&mut client).len(), 2);
}

#[test]
fn global_and_consumer_prefetch_both_apply() {
    let mut client = filled("facts-global", &["1", "2", "3", "4", "5"]);
    client.qos(1, 2, false);
    client.qos(1, 3, true);
    client.consume(1, "facts-global", "a");
    assert_eq!(bodies(&mut client), ["1", "2"]);
    client.consume(1, "facts-global", "b");
    assert_eq!(bodies(&mut client), ["3"]);
    client.ack(1, 3, true);
    assert_eq!(bodies(&mut client), ["4", "5"]);
}

#[test]
fn prefetch_concerns_neither_get_nor_consumers_without_acks() {
    let mut client = filled("facts-unlimited", &["1", "2", "3", "4"]);
    client.qos(1, 1, true);
    client.get(1, "facts-unlimited").unwrap();
    client.call(
        1,
        &basic::Consume {
            no_ack: true,
            ..consume("facts-unlimited", "t")
        },
        basic::ConsumeOk {
            consumer_tag: s("t"),
        },
    );
    let tags: Vec<_> = deliveries(&mut client)
        .into_iter()
        .map(|(_, tag, _)| tag)
        .collect();
    // "Counting deliveries and get-oks alike, also those that need no ack."
    assert_eq!(tags, [2, 3, 4]);
    client.refused(
        1,
        &basic::Ack {
            delivery_tag: 2,
            multiple: false,
        },
        406,
    );
}

#[test]
fn prefetch_size_is_540() {
    let mut client = World::default().client();
    client.send(
        1,
        &basic::Qos {
            prefetch_size: 1,
            prefetch_count: 0,
            global: false,
        },
    );
    assert_eq!(
        client.expect_close(540),
        "NOT_IMPLEMENTED - prefetch_size!=0 (1)"
    );
}

#[test]
fn consumers_of_a_queue_take_turns() {
    let mut client = filled("facts-turns", &[]);
    for tag in ["a", "b", "c"] {
        client.consume(1, "facts-turns", tag);
    }
    let mut tags = Vec::new();
    for _ in 0..6 {
        client.publish_confirmed_and_delivered(2, "facts-turns", &mut tags);
    }
    assert_eq!(tags, ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn higher_priority_consumer_is_served_first() {
    let mut client = filled("facts-consumer-priority", &[]);
    client.qos(1, 1, false);
    client.consume(1, "facts-consumer-priority", "low");
    let arguments = table([("x-priority", 10)]);
    let high = basic::Consume {
        arguments: arguments.as_ref(),
        ..consume("facts-consumer-priority", "high")
    };
    client.call(
        1,
        &high,
        basic::ConsumeOk {
            consumer_tag: s("high"),
        },
    );
    let mut tags = Vec::new();
    for _ in 0..2 {
        client.publish_confirmed_and_delivered(2, "facts-consumer-priority", &mut tags);
    }
    assert_eq!(tags, ["high", "low"]);
    let arguments = table([("x-priority", "high")]);
    let bad = basic::Consume {
        arguments: arguments.as_ref(),
        ..consume("facts-consumer-priority", "bad")
    };
    client.refused(1, &bad, 406);
}

#[test]
fn single_active_consumer_receives_all_until_it_ends() {
    let mut client = World::default().client();
    client.queue_with(
        1,
        "facts-single",
        &table([("x-single-active-consumer", true)]),
    );
    fill(&mut client, "facts-single", &[]);
    client.refused(
        1,
        &basic::Consume {
            exclusive: true,
            ..consume("facts-single", "x")
        },
        403,
    );
    client.consume(1, "facts-single", "a");
    client.consume(1, "facts-single", "b");
    let mut tags = Vec::new();
    for _ in 0..2 {
        client.publish_confirmed_and_delivered(2, "facts-single", &mut tags);
    }
    client.call(
        1,
        &cancel("a"),
        basic::CancelOk {
            consumer_tag: s("a"),
        },
    );
    client.publish_confirmed_and_delivered(2, "facts-single", &mut tags);
    assert_eq!(tags, ["a", "a", "b"]);
}

#[test]
fn exclusive_consumer_is_the_only_one() {
    let mut client = filled("facts-only", &[]);
    client.open(3);
    client.consume(3, "facts-only", "first");
    let exclusive = basic::Consume {
        exclusive: true,
        ..consume("facts-only", "x")
    };
    let text = client.refused(1, &exclusive, 403);
    assert_eq!(
        text,
        "ACCESS_REFUSED - queue 'facts-only' in vhost '/' in exclusive use"
    );
    client.call(
        3,
        &cancel("first"),
        basic::CancelOk {
            consumer_tag: s("first"),
        },
    );
    client.call(
        3,
        &exclusive,
        basic::ConsumeOk {
            consumer_tag: s("x"),
        },
    );
    client.refused(1, &consume("facts-only", "second"), 403);
}

#[test]
fn consumer_tag_used_twice_is_530() {
    let mut client = filled("facts-tag-twice", &[]);
    client.consume(1, "facts-tag-twice", "tag");
    client.consume(2, "facts-tag-twice", "tag");
    client.send(1, &consume("facts-tag-twice", "tag"));
    assert_eq!(
        client.expect_close(530),
        "NOT_ALLOWED - attempt to reuse consumer tag 'tag'"
    );
}

#[test]
fn missing_queue_is_404() {
    let mut client = World::default().client();
    client.refused(1, &consume("facts-missing", ""), 404);
    client.refused(
        1,
        &basic::Get {
            queue: s("facts-missing"),
            no_ack: true,
        },
        404,
    );
}

#[test]
fn cancel_ends_deliveries_and_ignores_unknown_tags() {
    let mut client = filled("facts-cancelled", &["1"]);
    client.consume(1, "facts-cancelled", "tag");
    assert_eq!(bodies(&mut client), ["1"]);
    client.call(
        1,
        &cancel("tag"),
        basic::CancelOk {
            consumer_tag: s("tag"),
        },
    );
    client.publish_confirmed(2, "", "facts-cancelled", "2");
    client.call(
        1,
        &cancel("tag"),
        basic::CancelOk {
            consumer_tag: s("tag"),
        },
    );
    // Its delivery can still be settled.
    client.ack(1, 1, false);
    assert_eq!(client.drain(1, "facts-cancelled"), ["2"]);
}

#[test]
fn queue_deletion_notifies_consumers_with_the_capability() {
    let world = World::default();
    let mut told = world.client();
    let mut untold = world.connect_with(&Table::new(), 0);
    untold.open(1);
    told.queue(1, "facts-gone");
    told.consume(1, "facts-gone", "told");
    untold.consume(1, "facts-gone", "untold");
    let mut operator = world.client();
    let delete = queue::Delete {
        queue: s("facts-gone"),
        if_unused: false,
        if_empty: false,
        nowait: false,
    };
    operator.call(1, &delete, queue::DeleteOk { message_count: 0 });
    told.expect(
        1,
        basic::Cancel {
            consumer_tag: s("told"),
            nowait: true,
        },
    );
    untold.quiet();
    // The tag can be used again.
    told.queue(1, "facts-gone");
    told.consume(1, "facts-gone", "told");
}

#[test]
fn get_returns_a_message_and_the_remaining_count() {
    let mut client = filled("facts-get", &["1", "2", "3"]);
    let message = client.get(1, "facts-get").unwrap();
    let expected = basic::GetOk {
        delivery_tag: 1,
        redelivered: false,
        exchange: s(""),
        routing_key: s("facts-get"),
        message_count: 2,
    };
    assert_eq!(message.get_ok(), expected);
    assert_eq!(message.text(), "1");
    client.send(
        1,
        &basic::Get {
            queue: s("facts-get"),
            no_ack: true,
        },
    );
    assert_eq!(client.got(1).unwrap().get_ok().delivery_tag, 2);
    client.refused(
        1,
        &basic::Ack {
            delivery_tag: 2,
            multiple: false,
        },
        406,
    );
    assert_eq!(client.drain(1, "facts-get"), ["1", "3"]);
}

#[test]
fn unknown_delivery_tags_are_406() {
    let mut client = filled("facts-unknown", &["1", "2"]);
    let ack = |delivery_tag, multiple| basic::Ack {
        delivery_tag,
        multiple,
    };
    let text = client.refused(1, &ack(7, false), 406);
    assert_eq!(text, "PRECONDITION_FAILED - unknown delivery tag 7");
    client.refused(1, &ack(7, true), 406);
    client.refused(1, &ack(0, false), 406);
    client.refused(1, &reject(1, true), 406);
    client.refused(
        1,
        &basic::Nack {
            delivery_tag: 1,
            multiple: true,
            requeue: true,
        },
        406,
    );
    // "Ack of tag 0 with multiple when nothing is outstanding" is no error.
    client.ack(1, 0, true);
    client.get(1, "facts-unknown").unwrap();
    client.ack(1, 1, false);
    client.refused(1, &ack(1, false), 406);
    // A settled tag is unknown, even with `multiple` and lower outstanding tags.
    let mut client = filled("facts-unknown", &["1", "2"]);
    client.get(1, "facts-unknown").unwrap();
    client.get(1, "facts-unknown").unwrap();
    client.ack(1, 2, false);
    client.refused(1, &ack(2, true), 406);
    assert_eq!(client.drain(1, "facts-unknown"), ["1"]);
}

#[test]
fn multiple_settles_up_to_the_tag_or_all() {
    let mut client = filled("facts-multiple", &["1", "2", "3", "4"]);
    for _ in 0..4 {
        client.get(1, "facts-multiple").unwrap();
    }
    client.ack(1, 2, true);
    client.nack(1, 0, true, true);
    assert_eq!(client.drain(1, "facts-multiple"), ["3", "4"]);
}

#[test]
fn requeued_message_keeps_its_position() {
    let mut client = filled("facts-requeue", &["1", "2", "3"]);
    client.get(1, "facts-requeue").unwrap();
    client.get(1, "facts-requeue").unwrap();
    client.send(1, &reject(2, true));
    client.nack(1, 1, false, true);
    let first = client.get(1, "facts-requeue").unwrap();
    assert_eq!((first.text(), first.get_ok().redelivered), ("1", true));
    let second = client.get(1, "facts-requeue").unwrap();
    assert_eq!((second.text(), second.get_ok().redelivered), ("2", true));
    let third = client.get(1, "facts-requeue").unwrap();
    assert_eq!((third.text(), third.get_ok().redelivered), ("3", false));
    client.ack(1, 0, true);
}

#[test]
fn rejected_message_is_removed() {
    let mut client = filled("facts-reject", &["1", "2", "3"]);
    for _ in 0..3 {
        client.get(1, "facts-reject").unwrap();
    }
    client.send(1, &reject(2, false));
    client.nack(1, 3, true, false);
    assert!(client.drain(1, "facts-reject").is_empty());
}

#[test]
fn channel_end_requeues_unsettled_messages() {
    let mut client = filled("facts-channel-end", &["1", "2"]);
    client.consume(1, "facts-channel-end", "tag");
    assert_eq!(bodies(&mut client), ["1", "2"]);
    let close = channel::Close {
        reply_code: 200,
        reply_text: s(""),
        class_id: 0,
        method_id: 0,
    };
    client.call(1, &close, channel::CloseOk {});
    let message = client.get(2, "facts-channel-end").unwrap();
    assert_eq!((message.text(), message.get_ok().redelivered), ("1", true));
    assert_eq!(client.counts(2, "facts-channel-end"), (1, 0));
}

#[test]
fn connection_end_requeues_unsettled_messages() {
    let world = World::new(Config::default());
    let mut client = world.client();
    client.queue(1, "q");
    client.publish(1, "", "q", "1");
    client.consume(1, "q", "tag");
    assert_eq!(bodies(&mut client), ["1"]);
    assert_eq!(world.broker.borrow().queue("/", "q").unwrap().unacked, 1);
    client.close_transport();
    let queue = world.broker.borrow().queue("/", "q").unwrap();
    assert_eq!(
        (queue.ready.len(), queue.unacked, queue.consumers),
        (1, 0, 0)
    );
    assert!(queue.ready[0].redelivered);
}

#[test]
fn recover_requeues_everything() {
    let mut client = filled("facts-recover", &["1", "2"]);
    client.consume(1, "facts-recover", "tag");
    assert_eq!(bodies(&mut client), ["1", "2"]);
    client.call(1, &basic::Recover { requeue: true }, basic::RecoverOk {});
    let again = deliveries(&mut client);
    assert_eq!(again, [("1".into(), 3, true), ("2".into(), 4, true)]);
    client.send(1, &basic::RecoverAsync { requeue: true });
    assert_eq!(
        deliveries(&mut client),
        [("1".into(), 5, true), ("2".into(), 6, true)]
    );
    client.send(1, &basic::Recover { requeue: false });
    client.expect_close(540);
}

#[test]
fn settling_after_queue_deletion_is_ignored() {
    let mut client = filled("facts-late", &["1"]);
    client.get(1, "facts-late").unwrap();
    client.queue(1, "facts-late");
    client.send(1, &reject(1, true));
    assert_eq!(client.counts(1, "facts-late"), (0, 0));
}

#[test]
fn direct_reply_to_allows_one_consumer_without_acks() {
    let mut client = World::new(Config::default()).client();
    client.send(1, &consume("amq.rabbitmq.reply-to", "a"));
    client.expect_channel_close(1, 406);
    client.open(2);
    let replies = basic::Consume {
        no_ack: true,
        ..consume("amq.rabbitmq.reply-to", "a")
    };
    client.send(2, &replies);
    client.expect_kind(2, basic::ConsumeOk::ID);
    client.send(
        2,
        &basic::Consume {
            consumer_tag: s("b"),
            ..replies
        },
    );
    client.expect_channel_close(2, 406);
}

#[test]
fn consumers_wait_while_output_exceeds_the_limit() {
    let world = World::new(Config {
        output_limit: 10_000,
        ..Config::default()
    });
    let mut client = world.client();
    client.queue(1, "q");
    let body = [0; 1000];
    client.call(
        1,
        &basic::Consume {
            no_ack: true,
            ..consume("q", "tag")
        },
        basic::ConsumeOk {
            consumer_tag: s("tag"),
        },
    );
    for _ in 0..30 {
        client.publish_with(1, &publish("", "q"), &Properties::default(), &body);
    }
    let ready = world.broker.borrow().queue("/", "q").unwrap().ready.len();
    assert!((15..=25).contains(&ready), "{ready}");
    for _ in 0..30 {
        assert_eq!(client.message().body.len(), 1000);
    }
    client.quiet();
}
