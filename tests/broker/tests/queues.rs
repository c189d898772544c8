//! Queues: declaring them, their arguments, deleting them.

#![cfg(test)]

mod client;

use client::{World, declare, publish, s, table};
use puka::protocol::method::{Encode, basic, queue};
use puka::protocol::{Method, Table, TableRef, Value};
use puka_test_broker::Config;

fn delete(name: &str) -> queue::Delete<'_> {
    queue::Delete {
        queue: s(name),
        if_unused: false,
        if_empty: false,
        nowait: false,
    }
}

fn passive(name: &str) -> queue::Declare<'_> {
    queue::Declare {
        passive: true,
        ..declare(name)
    }
}

#[test]
fn declare_returns_message_and_consumer_counts() {
    let mut client = World::default().client();
    client.queue(1, "facts-counts");
    client.confirm_select(1);
    client.publish_confirmed(1, "", "facts-counts", "x");
    client.publish_confirmed(1, "", "facts-counts", "y");
    assert_eq!(client.counts(1, "facts-counts"), (2, 0));
    client.get(1, "facts-counts").unwrap();
    assert_eq!(client.counts(1, "facts-counts"), (1, 0));
}

#[test]
fn broker_names_a_queue_without_name() {
    let mut client = World::default().client();
    client.send(
        1,
        &queue::Declare {
            exclusive: true,
            ..declare("")
        },
    );
    let received = client.next();
    let Method::Queue(queue::Method::DeclareOk(ok)) = received.method() else {
        panic!("{received:?}")
    };
    let name = ok.queue.to_str_lossy().into_owned();
    assert!(name.starts_with("amq.gen-"), "{name}");
    client.publish(1, "", &name, "x");
    // From now on the empty name refers to this queue.
    assert_eq!(client.drain(1, ""), ["x"]);
    client.call(1, &delete(""), queue::DeleteOk { message_count: 0 });
}

#[test]
fn empty_name_without_a_declared_queue_is_404() {
    let mut client = World::default().client();
    let text = client.refused(
        1,
        &basic::Get {
            queue: s(""),
            no_ack: true,
        },
        404,
    );
    assert_eq!(text, "NOT_FOUND - no previously declared queue");
    client.queue(1, "facts-last");
    client.refused(1, &passive(""), 404);
}

#[test]
fn empty_routing_key_becomes_the_queue_name() {
    let mut client = World::default().client();
    client.queue(1, "facts-last-bound");
    client.bind(1, "", "amq.direct", "", &Table::new());
    client.publish(1, "amq.direct", "facts-last-bound", "x");
    client.publish(1, "amq.direct", "", "y");
    assert_eq!(client.drain(1, "facts-last-bound"), ["x"]);
}

#[test]
fn declare_that_differs_is_406() {
    let mut client = World::default().client();
    client.queue(1, "facts-same");
    for other in [
        queue::Declare {
            durable: true,
            ..declare("facts-same")
        },
        queue::Declare {
            auto_delete: true,
            ..declare("facts-same")
        },
    ] {
        client.refused(1, &other, 406);
    }
    let text = client.refused(
        1,
        &queue::Declare {
            durable: true,
            ..declare("facts-same")
        },
        406,
    );
    let expected = "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'facts-same' in \
        vhost '/': received 'true' but current is 'false'";
    assert_eq!(text, expected);
    for arguments in [
        table([("x-max-length", 1)]),
        table([("x-message-ttl", 1)]),
        table([("x-expires", 1000)]),
    ] {
        let other = queue::Declare {
            arguments: arguments.as_ref(),
            ..declare("facts-same")
        };
        client.refused(1, &other, 406);
    }
    let unknown = table([("x-nobody-knows", 1)]);
    client.send(
        1,
        &queue::Declare {
            arguments: unknown.as_ref(),
            ..declare("facts-same")
        },
    );
    client.expect_kind(1, queue::DeclareOk::ID);
}

#[test]
fn invalid_argument_values_are_406() {
    let mut client = World::default().client();
    let bad: &[(&str, Value<'_>)] = &[
        ("x-message-ttl", Value::String(b"1")),
        ("x-message-ttl", Value::I32(-1)),
        ("x-expires", Value::I32(0)),
        ("x-max-length", Value::I32(-1)),
        ("x-max-length-bytes", Value::Bool(true)),
        ("x-overflow", Value::String(b"never")),
        ("x-overflow", Value::I32(1)),
        ("x-max-priority", Value::I32(256)),
        ("x-max-priority", Value::I32(-1)),
        ("x-single-active-consumer", Value::I32(1)),
        ("x-dead-letter-exchange", Value::I32(1)),
        ("x-dead-letter-exchange", Value::Bytes(b"x")),
        ("x-dead-letter-routing-key", Value::String(b"key")),
        ("x-queue-type", Value::I32(1)),
        ("x-queue-type", Value::String(b"nonsense")),
        ("x-queue-mode", Value::I32(1)),
        ("x-max-age", Value::String(b"7D")),
        ("x-delivery-limit", Value::I32(1)),
    ];
    for (name, value) in bad {
        let arguments = table([(*name, *value)]);
        let declare = queue::Declare {
            arguments: arguments.as_ref(),
            ..declare("facts-bad")
        };
        client.send(1, &declare);
        let received = client.next();
        assert_eq!(
            received.method().id(),
            puka::protocol::method::channel::Close::ID,
            "{name} {value:?}"
        );
        client.send(1, &puka::protocol::method::channel::CloseOk {});
        client.open(1);
    }
}

#[test]
fn other_types_of_queues_are_540() {
    for kind in ["quorum", "stream"] {
        let mut client = World::new(Config::default()).client();
        let arguments = table([("x-queue-type", kind)]);
        let durable = queue::Declare {
            durable: true,
            ..declare("q")
        };
        client.send(
            1,
            &queue::Declare {
                arguments: arguments.as_ref(),
                ..durable
            },
        );
        assert!(client.expect_close(540).contains("classic queues only"));
    }
}

#[test]
fn reserved_name_is_403() {
    let mut client = World::default().client();
    let text = client.refused(1, &declare("amq.mine"), 403);
    assert_eq!(
        text,
        "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'"
    );
}

#[test]
fn exclusive_queue_is_405_for_other_connections() {
    let world = World::default();
    let (mut owner, mut other) = (world.client(), world.client());
    let exclusive = queue::Declare {
        exclusive: true,
        ..declare("facts-exclusive")
    };
    owner.send(1, &exclusive);
    owner.expect_kind(1, queue::DeclareOk::ID);
    owner.send(1, &exclusive);
    owner.expect_kind(1, queue::DeclareOk::ID);
    owner.refused(1, &declare("facts-exclusive"), 405);
    let text = other.refused(1, &exclusive, 405);
    assert!(
        text.starts_with(
            "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'facts-exclusive' in"
        ),
        "{text}"
    );
    other.refused(1, &declare("facts-exclusive"), 405);
    other.refused(1, &passive("facts-exclusive"), 405);
    other.refused(
        1,
        &basic::Get {
            queue: s("facts-exclusive"),
            no_ack: true,
        },
        405,
    );
    other.refused(1, &client::consume("facts-exclusive", ""), 405);
    other.refused(
        1,
        &queue::Purge {
            queue: s("facts-exclusive"),
            nowait: false,
        },
        405,
    );
    other.refused(1, &delete("facts-exclusive"), 405);
    let bind = queue::Bind {
        queue: s("facts-exclusive"),
        exchange: s("amq.fanout"),
        routing_key: s(""),
        nowait: false,
        arguments: TableRef::EMPTY,
    };
    other.refused(1, &bind, 405);
    // Publishing to it is allowed.
    other.publish(1, "", "facts-exclusive", "x");
    owner.close_transport();
}

#[test]
fn exclusive_queue_is_never_durable() {
    let world = World::default();
    let mut client = world.client();
    client.send(
        1,
        &queue::Declare {
            durable: true,
            exclusive: true,
            ..declare("facts-transient")
        },
    );
    client.expect_kind(1, queue::DeclareOk::ID);
    client.send(
        1,
        &queue::Declare {
            exclusive: true,
            ..declare("facts-transient")
        },
    );
    client.expect_kind(1, queue::DeclareOk::ID);
}

#[test]
fn exclusive_queues_are_deleted_with_their_connection() {
    let world = World::new(Config::default());
    let mut owner = world.client();
    owner.send(
        1,
        &queue::Declare {
            exclusive: true,
            ..declare("q")
        },
    );
    owner.expect_kind(1, queue::DeclareOk::ID);
    assert!(world.broker.borrow().queue("/", "q").is_some());
    owner.close_transport();
    assert!(world.broker.borrow().queue("/", "q").is_none());
}

#[test]
fn auto_delete_queue_ends_with_its_last_consumer() {
    let mut client = World::default().client();
    client.open(2);
    client.send(
        1,
        &queue::Delete {
            nowait: true,
            ..delete("facts-auto")
        },
    );
    client.send(
        1,
        &queue::Declare {
            auto_delete: true,
            ..declare("facts-auto")
        },
    );
    client.expect_kind(1, queue::DeclareOk::ID);
    assert!(client.get(1, "facts-auto").is_none());
    client.consume(1, "facts-auto", "one");
    client.consume(2, "facts-auto", "two");
    let cancel = |tag| basic::Cancel {
        consumer_tag: s(tag),
        nowait: false,
    };
    client.call(
        1,
        &cancel("one"),
        basic::CancelOk {
            consumer_tag: s("one"),
        },
    );
    assert_eq!(client.counts(1, "facts-auto"), (0, 1));
    client.call(
        2,
        &cancel("two"),
        basic::CancelOk {
            consumer_tag: s("two"),
        },
    );
    client.refused(1, &passive("facts-auto"), 404);
}

#[test]
fn purge_and_delete_return_message_counts() {
    let mut client = World::default().client();
    client.queue(1, "facts-purged");
    for _ in 0..3 {
        client.publish(1, "", "facts-purged", "x");
    }
    client.call(
        1,
        &queue::Purge {
            queue: s("facts-purged"),
            nowait: false,
        },
        queue::PurgeOk { message_count: 3 },
    );
    client.publish(1, "", "facts-purged", "x");
    client.call(
        1,
        &delete("facts-purged"),
        queue::DeleteOk { message_count: 1 },
    );
    client.call(
        1,
        &delete("facts-purged"),
        queue::DeleteOk { message_count: 0 },
    );
    client.refused(
        1,
        &queue::Purge {
            queue: s("facts-purged"),
            nowait: false,
        },
        404,
    );
}

#[test]
fn conditional_delete_keeps_used_or_filled_queues() {
    let mut client = World::default().client();
    client.queue(1, "facts-in-use");
    client.publish(1, "", "facts-in-use", "x");
    client.refused(
        1,
        &queue::Delete {
            if_empty: true,
            ..delete("facts-in-use")
        },
        406,
    );
    client.drain(1, "facts-in-use");
    client.open(2);
    client.consume(2, "facts-in-use", "tag");
    client.refused(
        1,
        &queue::Delete {
            if_unused: true,
            ..delete("facts-in-use")
        },
        406,
    );
    client.send(1, &delete("facts-in-use"));
    let mut ids = [client.next().method().id(), client.next().method().id()];
    ids.sort();
    assert_eq!(ids, [queue::DeleteOk::ID, basic::Cancel::ID]);
}

#[test]
fn unbinding_a_missing_binding_succeeds() {
    let mut client = World::default().client();
    client.queue(1, "facts-unbound");
    for exchange in ["amq.topic", "facts-missing"] {
        let unbind = queue::Unbind {
            queue: s("facts-unbound"),
            exchange: s(exchange),
            routing_key: s("a"),
            arguments: TableRef::EMPTY,
        };
        client.call(1, &unbind, queue::UnbindOk {});
    }
    let bind = |queue, exchange| queue::Bind {
        queue: s(queue),
        exchange: s(exchange),
        routing_key: s("a"),
        nowait: false,
        arguments: TableRef::EMPTY,
    };
    client.refused(1, &bind("facts-unbound", "facts-missing"), 404);
    client.refused(1, &bind("facts-missing", "amq.topic"), 404);
}

#[test]
fn full_queue_drops_its_head() {
    let mut client = World::default().client();
    client.queue_with(1, "facts-length", &table([("x-max-length", 2)]));
    client.queue_with(1, "facts-bytes", &table([("x-max-length-bytes", 5)]));
    for body in ["one", "two", "three"] {
        client.publish(1, "", "facts-length", body);
        client.publish(1, "", "facts-bytes", body);
    }
    assert_eq!(client.drain(1, "facts-length"), ["two", "three"]);
    assert_eq!(client.drain(1, "facts-bytes"), ["three"]);
}

#[test]
fn full_queue_with_reject_publish_refuses() {
    let mut client = World::default().client();
    client.confirm_select(1);
    let mut arguments = table([("x-max-length", 1)]);
    arguments.insert("x-overflow", "reject-publish").unwrap();
    client.queue_with(1, "facts-refusing", &arguments);
    client.publish(1, "", "facts-refusing", "one");
    client.expect(
        1,
        basic::Ack {
            delivery_tag: 1,
            multiple: false,
        },
    );
    client.publish(1, "", "facts-refusing", "two");
    client.expect(
        1,
        basic::Nack {
            delivery_tag: 2,
            multiple: true,
            requeue: true,
        },
    );
    assert_eq!(client.drain(1, "facts-refusing"), ["one"]);
    client.publish(1, "", "facts-refusing", "three");
    client.expect(
        1,
        basic::Ack {
            delivery_tag: 3,
            multiple: false,
        },
    );
}

#[test]
fn higher_priority_message_is_first() {
    let mut client = World::default().client();
    client.queue_with(1, "facts-priority", &table([("x-max-priority", 5)]));
    for (priority, body) in [
        (None, "none"),
        (Some(1), "one"),
        (Some(9), "nine"),
        (Some(5), "five"),
        (Some(0), "zero"),
    ] {
        let properties = client::properties(|properties| properties.priority = priority);
        client.publish_with(
            1,
            &publish("", "facts-priority"),
            &properties,
            body.as_bytes(),
        );
    }
    assert_eq!(
        client.drain(1, "facts-priority"),
        ["nine", "five", "one", "none", "zero"]
    );
    // Without the argument the priority is ignored.
    client.queue(1, "facts-no-priority");
    for priority in [1, 9] {
        let properties = client::properties(|properties| properties.priority = Some(priority));
        client.publish_with(
            1,
            &publish("", "facts-no-priority"),
            &properties,
            &[b'0' + priority],
        );
    }
    assert_eq!(client.drain(1, "facts-no-priority"), ["1", "9"]);
}

#[test]
fn line_ends_are_removed_from_names() {
    let mut client = World::default().client();
    client.send(1, &declare("facts-li\r\nne"));
    client.expect_kind(1, queue::DeclareOk::ID);
    client.send(1, &passive("facts-line"));
    client.expect_kind(1, queue::DeclareOk::ID);
}
