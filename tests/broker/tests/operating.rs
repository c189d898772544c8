//! Operations and failures: forced closes, alarms, restarts, full memory.

#![cfg(test)]

mod client;

use client::{World, all_capabilities, consume, declare, declare_exchange, publish, s};
use puka::protocol::method::{basic, channel, connection, exchange, queue};
use puka::protocol::{Method, Properties, Table};
use puka_test_broker::Config;
use std::time::Duration;

fn world() -> World {
    World::new(Config::default())
}

#[test]
fn operator_closes_a_connection() {
    let world = world();
    let mut client = world.client();
    client.queue(1, "q");
    client.consume(1, "q", "tag");
    let id = client.id();
    world.broker_mut(|broker, now| {
        broker.close_connection(now, id, 320.into(), "CONNECTION_FORCED - maintenance");
    });
    assert_eq!(world.broker.borrow().queue("/", "q").unwrap().consumers, 0);
    assert_eq!(client.expect_close(320), "CONNECTION_FORCED - maintenance");
}

#[test]
fn dropped_connection_sends_nothing() {
    let world = world();
    let mut client = world.client();
    let id = client.id();
    world.broker_mut(|broker, now| broker.drop_connection(now, id));
    client.quiet();
    assert!(client.is_closed());
}

#[test]
fn operator_deletes_a_queue() {
    let world = world();
    let mut client = world.client();
    client.queue(1, "q");
    client.consume(1, "q", "tag");
    assert!(world.broker_mut(|broker, now| broker.delete_queue(now, "/", "q")));
    client.expect(
        1,
        basic::Cancel {
            consumer_tag: s("tag"),
            nowait: true,
        },
    );
    assert!(!world.broker_mut(|broker, now| broker.delete_queue(now, "/", "q")));
}

#[test]
fn cancelled_consumers_leave_their_queue() {
    let world = world();
    let mut client = world.client();
    client.queue(1, "q");
    client.consume(1, "q", "tag");
    assert_eq!(
        world.broker_mut(|broker, now| broker.cancel_consumers(now, "/", "q")),
        1
    );
    client.expect(
        1,
        basic::Cancel {
            consumer_tag: s("tag"),
            nowait: true,
        },
    );
    client.publish(1, "", "q", "x");
    client.quiet();
    client.consume(1, "q", "tag");
    assert_eq!(client.message().text(), "x");
}

#[test]
fn crash_closes_the_connection() {
    for names_method in [false, true] {
        let world = world();
        world.client().queue(1, "q");
        world
            .broker
            .borrow_mut()
            .crash_over_queue("q", 1, names_method);
        let mut client = world.client();
        client.send(1, &consume("q", "tag"));
        let received = client.expect_kind(0, connection::Close::ID);
        let Method::Connection(connection::Method::Close(close)) = received.method() else {
            panic!("{received:?}");
        };
        let named = if names_method { (60, 20) } else { (0, 0) };
        assert_eq!(close.reply_code, 541);
        assert_eq!((close.class_id, close.method_id), named);
        // Only one request crashes.
        world.client().consume(1, "q", "tag");
    }
}

#[test]
fn limit_of_a_user_closes_the_connection() {
    let world = world();
    let mut client = world.client();
    client.queue(1, "q");
    assert_eq!(world.broker.borrow().open_channels(), 1);
    world.broker.borrow_mut().limit_user_channels(Some(1));
    client.send(2, &channel::Open {});
    let text = client.expect_close(530);
    assert!(
        text.contains("has reached the maximum allowed user limit"),
        "{text}"
    );
}

#[test]
fn timed_out_consumer_stays_until_the_client_agrees() {
    for with_cancel_ok in [false, true] {
        let world = world();
        let mut client = world.client();
        client.queue(1, "q");
        client.consume(1, "q", "tag");
        assert_eq!(
            world.broker_mut(|broker, now| broker.time_out_consumers(now, "/", "q")),
            1
        );
        client.expect(
            1,
            basic::Cancel {
                consumer_tag: s("tag"),
                nowait: true,
            },
        );
        client.publish(1, "", "q", "x");
        assert_eq!(client.message().text(), "x");
        if with_cancel_ok {
            client.send(
                1,
                &basic::CancelOk {
                    consumer_tag: s("tag"),
                },
            );
        } else {
            let cancel = basic::Cancel {
                consumer_tag: s("tag"),
                nowait: false,
            };
            client.call(
                1,
                &cancel,
                basic::CancelOk {
                    consumer_tag: s("tag"),
                },
            );
        }
        client.publish(1, "", "q", "y");
        client.quiet();
        let queue = world.broker.borrow().queue("/", "q").unwrap();
        assert_eq!(
            (queue.consumers, queue.unacked, queue.ready.len()),
            (0, 1, 1)
        );
    }
}

#[test]
fn message_requeued_too_often_is_dropped() {
    let world = World::new(Config {
        delivery_limit: Some(2),
        ..Config::default()
    });
    let mut client = world.client();
    client.queue(1, "q");
    client.publish(1, "", "q", "x");
    client.consume(1, "q", "tag");
    for delivery_tag in 1..=3 {
        assert_eq!(client.message().text(), "x");
        client.send(
            1,
            &basic::Reject {
                delivery_tag,
                requeue: true,
            },
        );
    }
    client.quiet();
    let queue = world.broker.borrow().queue("/", "q").unwrap();
    assert_eq!((queue.unacked, queue.ready.len()), (0, 0));
}

#[test]
fn publishing_during_an_alarm_blocks_the_connection() {
    let world = world();
    let (mut publisher, mut consumer) = (world.client(), world.client());
    publisher.queue(1, "q");
    publisher.confirm_select(1);
    consumer.consume(1, "q", "tag");
    world.broker.borrow_mut().block("low on memory");
    publisher.quiet();
    publisher.open(2);
    publisher.publish(1, "", "q", "x");
    publisher.expect(
        0,
        connection::Blocked {
            reason: s("low on memory"),
        },
    );
    // "Nothing the client sends is processed, connection.close included."
    publisher.send(2, &declare("later"));
    publisher.quiet();
    consumer.quiet();
    consumer.open(2);
    world.broker_mut(|broker, now| broker.unblock(now));
    publisher.expect(0, connection::Unblocked {});
    publisher.expect_kind(2, queue::DeclareOk::ID);
    publisher.expect(
        1,
        basic::Ack {
            delivery_tag: 1,
            multiple: false,
        },
    );
    assert_eq!(consumer.message().text(), "x");
}

#[test]
fn blocked_connection_is_not_monitored() {
    let world = world();
    let mut client = world.connect_with(&all_capabilities(), 10);
    client.open(1);
    world.broker.borrow_mut().block("low on disk");
    client.publish(1, "", "q", "x");
    client.expect(
        0,
        connection::Blocked {
            reason: s("low on disk"),
        },
    );
    world.pass(Duration::from_secs(60));
    assert!(!client.is_closed());
    for _ in 0..12 {
        assert_eq!(client.next().kind, puka::protocol::FrameKind::Heartbeat);
    }
    client.quiet();
    world.broker_mut(|broker, now| broker.unblock(now));
    world.pass(Duration::from_secs(19));
    assert!(!client.is_closed());
    world.pass(Duration::from_secs(1));
    assert!(client.is_closed());
}

#[test]
fn client_without_the_capability_is_blocked_silently() {
    let world = world();
    let mut client = world.connect_with(&Table::new(), 0);
    client.open(1);
    world.broker.borrow_mut().block("low on memory");
    client.publish(1, "", "q", "x");
    client.send(1, &declare("q"));
    client.quiet();
    world.broker_mut(|broker, now| broker.unblock(now));
    client.expect_kind(1, queue::DeclareOk::ID);
}

#[test]
fn blocked_connection_has_bounded_input() {
    let world = world();
    let mut client = world.client();
    world.broker.borrow_mut().block("low on memory");
    client.publish(1, "", "q", "x");
    assert!(world.broker.borrow().wants_input(client.id()));
    client.publish_with(1, &publish("", "q"), &Properties::default(), &[0; 70_000]);
    assert!(!world.broker.borrow().wants_input(client.id()));
    world.broker_mut(|broker, now| broker.unblock(now));
    assert!(world.broker.borrow().wants_input(client.id()));
}

#[test]
fn full_memory_blocks_publishers_until_there_is_room() {
    let world = World::new(Config {
        memory_limit: 10_000,
        ..Config::default()
    });
    let (mut publisher, mut consumer) = (world.client(), world.client());
    publisher.queue(1, "q");
    publisher.publish_with(1, &publish("", "q"), &Properties::default(), &[0; 10_000]);
    assert!(world.broker.borrow().memory_used() > 10_000);
    publisher.quiet();
    publisher.publish(1, "", "q", "x");
    publisher.expect(
        0,
        connection::Blocked {
            reason: s("low on memory"),
        },
    );
    assert_eq!(consumer.drain(1, "q").len(), 2);
    publisher.expect(0, connection::Unblocked {});
    assert_eq!(world.broker.borrow().memory_used(), 0);
}

#[test]
fn restart_keeps_durable_entities() {
    let world = world();
    let mut client = world.client();
    client.send(
        1,
        &queue::Declare {
            durable: true,
            ..declare("durable")
        },
    );
    client.expect_kind(1, queue::DeclareOk::ID);
    client.queue(1, "transient");
    for (name, durable) in [("durable", true), ("transient", false)] {
        client.call(
            1,
            &exchange::Declare {
                durable,
                ..declare_exchange(name, "fanout")
            },
            exchange::DeclareOk {},
        );
        client.bind(1, "durable", name, "", &Table::new());
    }
    for (mode, body) in [
        (None, b"a"),
        (Some(1), b"b"),
        (Some(2), b"c"),
        (Some(2), b"d"),
    ] {
        let properties = client::properties(|properties| properties.delivery_mode = mode);
        client.publish_with(1, &publish("", "durable"), &properties, body);
    }
    for _ in 0..3 {
        client.get(1, "durable").unwrap();
    }
    world.broker_mut(|broker, now| broker.restart(now));
    client.quiet();
    assert!(client.is_closed());
    client.close_transport();

    let mut client = world.client();
    assert!(world.broker.borrow().queue("/", "transient").is_none());
    assert_eq!(client.drain(1, "durable"), ["c", "d"]);
    client.publish(1, "durable", "", "still bound");
    assert_eq!(client.drain(1, "durable"), ["still bound"]);
    client.refused(
        1,
        &exchange::Declare {
            passive: true,
            ..declare_exchange("transient", "")
        },
        404,
    );
}

#[test]
fn same_seed_generates_the_same_names() {
    let name = |seed| {
        let world = World::new(Config {
            seed,
            ..Config::default()
        });
        let mut client = world.client();
        client.send(1, &declare(""));
        client.expect_kind(1, queue::DeclareOk::ID);
        world.broker.borrow().queues()[0].name.clone()
    };
    assert_eq!(name(1), name(1));
    assert_ne!(name(1), name(2));
}

#[test]
fn forgotten_connection_is_closed_and_accepts_anything() {
    let world = world();
    let client = world.client();
    let id = client.id();
    client.close_transport();
    world.broker_mut(|broker, now| {
        assert!(broker.is_closed(id));
        assert!(!broker.has_output(id) && !broker.wants_input(id));
        broker.handle_input(now, id, b"whatever");
        broker.handle_eof(now, id);
        broker.drop_connection(now, id);
        assert_eq!(broker.poll_transmit(id), None);
        assert!(broker.connections().is_empty());
    });
}

#[test]
fn overdue_deliveries_close_their_channel() {
    let world = world();
    let mut client = world.client();
    client.queue(1, "q");
    client.publish(1, "", "q", "late");
    client.open(2);
    client.consume(2, "q", "tag");
    client.expect_kind(2, basic::Deliver::ID);
    while client.poll().is_some() {}
    let bodies = world.broker_mut(|broker, now| broker.time_out_deliveries(now, "/", "q"));
    assert_eq!(bodies, ["late"]);
    let text = client.expect_channel_close(2, 406);
    assert!(
        text.starts_with("PRECONDITION_FAILED - delivery acknowledgement on channel 2 timed out"),
        "{text}"
    );
    assert!(client.get(1, "q").unwrap().get_ok().redelivered);
}

#[test]
fn changed_channel_max_applies_to_later_connections() {
    let world = world();
    let (mut earlier, mut later) = (world.dial(), world.dial());
    world.broker.borrow_mut().set_channel_max(7);
    let mut last = world.dial();
    for (client, channel_max) in [(&mut earlier, 2047), (&mut later, 2047), (&mut last, 7)] {
        client.start(&all_capabilities(), "PLAIN", b"\0guest\0guest");
        client.expect(
            0,
            connection::Tune {
                channel_max,
                frame_max: 131_072,
                heartbeat: 60,
            },
        );
        client.send(
            0,
            &connection::TuneOk {
                channel_max,
                frame_max: 131_072,
                heartbeat: 60,
            },
        );
        client.call(
            0,
            &connection::Open {
                virtual_host: s("/"),
            },
            connection::OpenOk {},
        );
    }
}

#[test]
fn arbitrary_bytes_do_not_panic() {
    let world = world();
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    };
    for _ in 0..300 {
        let mut client = world.client();
        client.send(1, &declare("q"));
        let mut bytes = Vec::new();
        for (channel, kind) in [(1, 0), (1, 1), (2, 0), (1, 2), (0, 3)] {
            let mut frame = Vec::new();
            let method: puka::protocol::Method<'_> = match (kind + random()) % 4 {
                0 => declare("q").into(),
                1 => publish("", "q").into(),
                2 => client::consume("q", "").into(),
                _ => declare_exchange("e", "topic").into(),
            };
            puka::protocol::frame::method(&mut frame, channel, u32::MAX, &method).unwrap();
            bytes.extend(frame);
        }
        for _ in 0..random() % 4 {
            let at = random() % bytes.len();
            bytes[at] = u8::try_from(random() % 256).unwrap();
        }
        client.write(&bytes);
        client.close_transport();
    }
}
