//! `connection.blocked`: publishes wait, everything else goes on.

use crate::peer::{Peer, ack, consume, declare, publish, raw, short};
use puka::machine::{Outgoing, Settle};
use puka::protocol::method::connection;
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
fn e36_m12_v07_a_blocked_connection_holds_back_publishes_only() {
    let mut peer = Peer::open(Options::default());
    let (consumer, channel, tag) = peer.consumer(&consume("q"));
    peer.deliver(channel, &tag, 1, b"x");
    let delivered = peer.taken(consumer).remove(0);
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
    // Its deadline has passed, and nothing of it was written.
    assert!(matches!(peer.error(sent), Error::Timeout { .. }));
    assert!(!peer.names().iter().any(|name| name.contains("publish")));
}

#[test]
fn e36_what_was_held_back_follows_in_order_when_the_broker_takes_it_again() {
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
    promises.into_iter().for_each(|promise| peer.done(promise));
}

#[test]
fn e36_publishes_that_wait_are_bounded_and_what_timed_out_makes_room() {
    let mut peer = Peer::open(Options::default().max_outgoing_octets(1000).heartbeat(0));
    block(&mut peer);
    let mut held = Vec::new();
    loop {
        match peer.machine.publish(&publish("", &[7; 100])) {
            Ok(promise) => held.push(promise),
            Err(Error::Full) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!((9..=11).contains(&held.len()), "{}", held.len());
    for _ in 0..6 {
        peer.feed(&raw(8, 0, b""));
        peer.pass(6 * SECOND);
    }
    for promise in held {
        assert!(matches!(peer.error(promise), Error::Timeout { .. }));
    }
    assert!(
        peer.machine.has_room_to_publish(),
        "what nobody waits for any more is not kept"
    );
}

#[test]
fn e36_a_broker_that_has_blocked_us_may_take_no_octet_for_as_long_as_it_likes() {
    let mut peer = Peer::tuned(Options::default(), crate::peer::tune(0, 0, 2));
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
        "but afterwards it has to"
    );
}
