//! `connection.blocked`: publishes are delayed, everything else continues.

use crate::peer::{Peer, ack, consume, declare, publish, raw, short};
use puka::machine::{Notice, Outgoing, Publish, Settle};
use puka::protocol::method::connection;
use puka::protocol::{Properties, Table};
use puka::{Error, Options};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn block(peer: &mut Peer) {
    peer.method(
        0,
        &connection::Blocked {
            reason: short("low on memory"),
        },
    );
    assert_eq!(peer.machine.blocked(), Some("low on memory"));
}

#[test]
fn e36_m12_v07_blocked_connection_delays_publishes_only() {
    let mut peer = Peer::open(Options::default());
    let (consumer, channel, tag) = peer.consumer(&consume("q"));
    peer.deliver(channel, &tag, 1, b"x");
    let delivered = peer.take_deliveries(consumer).remove(0);
    block(&mut peer);
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    let _request = peer.machine.request(declare("q")).unwrap();
    peer.machine
        .settle(&delivered, Settle::Ack { multiple: false })
        .unwrap();
    let names: Vec<_> = peer.serve().iter().map(|sent| sent.name()).collect();
    assert_eq!(
        names,
        [
            "2 channel.open",
            "2 queue.declare",
            &format!("{channel} basic.ack")
        ]
    );
    peer.pass(30 * SECOND);
    assert!(peer.names().contains(&"heartbeat".to_owned()));
    peer.method(0, &connection::Unblocked {});
    assert_eq!(peer.machine.blocked(), None);
    // Its deadline has passed, and none of it was written.
    assert!(matches!(peer.error(sent), Error::Timeout { .. }));
    assert!(!peer.names().iter().any(|name| name.contains("publish")));
}

#[test]
fn e36_delayed_publishes_leave_in_order_after_unblocked() {
    let mut peer = Peer::open(Options::default());
    block(&mut peer);
    let promises: Vec<_> = [("a", "1"), ("b", "22"), ("a", "333")]
        .iter()
        .map(|(exchange, body)| peer.machine.publish(&publish(exchange, *body)).unwrap())
        .collect();
    assert!(peer.names().is_empty());
    peer.method(0, &connection::Unblocked {});
    let names: Vec<_> = peer.serve().iter().map(|sent| sent.name()).collect();
    // The order is kept for each exchange; channels are independent of each other.
    let bodies: Vec<_> = names.iter().filter(|name| name.contains("body")).collect();
    assert_eq!(bodies, ["1 body 1", "1 body 3", "2 body 2"]);
    peer.method(1, &ack(2, true));
    peer.method(2, &ack(1, false));
    promises
        .into_iter()
        .for_each(|promise| peer.expect_done(promise));
}

#[test]
fn e36_delayed_publishes_are_bounded_and_timeouts_free_capacity() {
    let mut peer = Peer::open(Options::default().max_outgoing_bytes(1000).heartbeat(0));
    block(&mut peer);
    let mut delayed = Vec::new();
    loop {
        match peer.machine.publish(&publish("", &[7; 100])) {
            Ok(promise) => delayed.push(promise),
            Err(Error::Full) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!((9..=11).contains(&delayed.len()), "{}", delayed.len());
    for _ in 0..6 {
        peer.feed(&raw(8, 0, b""));
        peer.pass(6 * SECOND);
    }
    for promise in delayed {
        assert!(matches!(peer.error(promise), Error::Timeout { .. }));
    }
    assert!(
        peer.machine.has_capacity_to_publish(),
        "an overdue publish is not stored"
    );
}

#[test]
fn e36_blocking_broker_may_read_nothing_indefinitely() {
    let mut peer = Peer::open_with(Options::default(), crate::peer::tune(0, 0, 2));
    block(&mut peer);
    let mut out = Outgoing::default();
    let _request = peer.machine.request(declare("q")).unwrap();
    for _ in 0..100 {
        peer.machine.poll_transmit(peer.now, &mut out);
        peer.now += SECOND;
        peer.feed(&raw(8, 0, b""));
        peer.machine.handle_timeout(peer.now);
    }
    assert!(
        peer.machine.why_closed().is_none(),
        "{:?}",
        peer.machine.why_closed()
    );
    peer.method(0, &connection::Unblocked {});
    for _ in 0..6 {
        peer.machine.poll_transmit(peer.now, &mut out);
        peer.now += SECOND;
        peer.feed(&raw(8, 0, b""));
        peer.machine.handle_timeout(peer.now);
    }
    assert!(
        peer.machine.why_closed().is_some(),
        "after unblocking the transport has to accept bytes"
    );
}

#[test]
fn removed_listener_receives_no_notice() {
    let mut peer = Peer::open(Options::default());
    let (removed, kept) = (peer.machine.listen(), peer.machine.listen());
    block(&mut peer);
    peer.machine.stop_listening(removed);
    peer.method(0, &connection::Unblocked {});
    assert!(peer.machine.take_notice(removed).is_none());
    assert!(matches!(
        peer.machine.take_notice(kept),
        Some(Notice::Blocked(_))
    ));
}

#[test]
fn blocked_after_our_close_is_not_reported() {
    let mut peer = Peer::open(Options::default());
    let listener = peer.machine.listen();
    let _closing = peer.machine.close();
    peer.pump();
    peer.method(0, &connection::Blocked { reason: short("?") });
    assert_eq!(peer.machine.blocked(), None);
    let mut notices = std::iter::from_fn(|| peer.machine.take_notice(listener));
    assert!(!notices.any(|notice| matches!(notice, Notice::Blocked(_))));
}

#[test]
fn each_part_of_a_delayed_publish_counts() {
    let mut peer = Peer::open(Options::default());
    block(&mut peer);
    peer.pump();
    let mut bytes_of = |exchange, routing_key, content_type, header: &str, body: &'static str| {
        let mut properties = Properties::NONE;
        properties.content_type = Some(short(content_type));
        let mut headers = Table::new();
        headers.insert("x", header).unwrap();
        let before = peer.machine.stats().outgoing_bytes;
        let it = Publish {
            routing_key: short(routing_key),
            properties: &properties,
            headers: Some(headers.as_ref()),
            ..publish(exchange, body)
        };
        peer.machine.publish(&it).unwrap();
        peer.machine.stats().outgoing_bytes - before
    };
    let (short, long) = ("four", "ten-letter");
    let bytes = bytes_of(short, short, short, short, short);
    assert_eq!(bytes_of(long, short, short, short, short), bytes + 6);
    assert_eq!(bytes_of(short, long, short, short, short), bytes + 6);
    assert_eq!(bytes_of(short, short, long, short, short), bytes + 6);
    assert_eq!(bytes_of(short, short, short, long, short), bytes + 6);
    assert_eq!(bytes_of(short, short, short, short, long), bytes + 6);
}
