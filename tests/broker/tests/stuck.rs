//! Queues that do not reply until they are released.

#![cfg(test)]

mod client;

use client::{World, consume, declare, s};
use puka::protocol::method::{basic, channel, queue};
use puka_test_broker::Config;

fn stuck(name: &str) -> World {
    let world = World::new(Config::default());
    world.client().queue(1, name);
    assert!(world.broker.borrow_mut().stop_queue("/", name));
    world
}

fn release(world: &World, name: &str) {
    assert!(world.broker_mut(|broker, now| broker.release_queue(now, "/", name)));
}

#[test]
fn stuck_queue_accepts_messages_without_confirming() {
    let world = stuck("q");
    let mut client = world.client();
    client.confirm_select(1);
    client.publish(1, "", "q", "stuck");
    client.quiet();
    assert_eq!(
        world.broker.borrow().queue("/", "q").unwrap().ready.len(),
        1
    );
    // A publish to another queue is confirmed meanwhile.
    client.open(2);
    client.queue(2, "other");
    client.publish(1, "", "other", "other");
    client.expect(
        1,
        basic::Ack {
            delivery_tag: 2,
            multiple: false,
        },
    );
    release(&world, "q");
    client.expect(
        1,
        basic::Ack {
            delivery_tag: 1,
            multiple: false,
        },
    );
}

#[test]
fn requests_to_stuck_queues_block_their_channel() {
    let world = stuck("q");
    let mut client = world.client();
    client.open(2);
    client.send(
        1,
        &basic::Get {
            queue: s("q"),
            no_ack: true,
        },
    );
    client.send(1, &declare("other"));
    client.send(
        1,
        &channel::Close {
            reply_code: 200,
            reply_text: s(""),
            class_id: 0,
            method_id: 0,
        },
    );
    client.send(2, &consume("q", "tag"));
    client.quiet();
    release(&world, "q");
    client.expect(1, basic::GetEmpty {});
    client.expect_kind(1, queue::DeclareOk::ID);
    client.expect(1, channel::CloseOk {});
    client.expect(
        2,
        basic::ConsumeOk {
            consumer_tag: s("tag"),
        },
    );
}

#[test]
fn deleted_stuck_queue_closes_waiting_channels() {
    let world = stuck("q");
    let mut client = world.client();
    client.send(
        1,
        &basic::Get {
            queue: s("q"),
            no_ack: true,
        },
    );
    client.quiet();
    assert!(world.broker_mut(|broker, now| broker.delete_queue(now, "/", "q")));
    client.expect_channel_close(1, 404);
    assert!(!world.broker_mut(|broker, now| broker.release_queue(now, "/", "q")));
}

#[test]
fn stuck_queue_delivers_nothing() {
    let world = stuck("q");
    let mut client = world.client();
    release(&world, "q");
    client.consume(1, "q", "tag");
    world.broker.borrow_mut().stop_queue("/", "q");
    client.publish(1, "", "q", "later");
    client.quiet();
    release(&world, "q");
    client.expect_kind(1, basic::Deliver::ID);
}
