//! Closing while messages still arrive, or while reading is paused.

use crate::peer::{Peer, consume, declare};
use puka::protocol::method::{basic, connection};
use puka::{Error, Options};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn v10_close_does_not_requeue_messages_in_a_loop() {
    // A message rejected with requeue is delivered again at once. Each round counts towards the
    // delivery limit of a quorum queue, 20 by default, beyond which the broker drops the message.
    // The broker requeues deliveries by itself when the connection closes.
    let mut peer = Peer::open(Options::default());
    let (_, channel, tag) = peer.consumer(&consume("q"));
    let _under_way = peer.machine.request(declare("slow")).unwrap();
    peer.names();
    let _closing = peer.machine.close();
    let mut refused = 0;
    for delivery in 1..=100 {
        let sent = peer.take();
        if sent.iter().any(|sent| sent.is(basic::Cancel::ID)) {
            return;
        }
        refused += sent
            .iter()
            .filter(|sent| sent.is(basic::Reject::ID) || sent.is(basic::Nack::ID))
            .count();
        peer.deliver(channel, &tag, delivery, b"again");
    }
    assert!(refused <= 1, "refused {refused} times, and no cancel sent");
}

#[test]
fn v10_close_does_not_reject_no_ack_deliveries() {
    // There is nothing to reject: the broker would answer with 406 and close the channel.
    let mut peer = Peer::open(Options::default());
    let mut terms = consume("q");
    terms.no_ack = true;
    let (_consumer, channel, tag) = peer.consumer(&terms);
    let _under_way = peer.machine.request(declare("slow")).unwrap();
    peer.names();
    let _closing = peer.machine.close();
    peer.deliver(channel, &tag, 1, b"late");
    let sent = peer.names();
    assert!(
        !sent.iter().any(|name| name.ends_with("basic.reject")),
        "{sent:?}"
    );
}

#[test]
fn e46_close_keeps_reading_despite_untaken_deliveries() {
    // Otherwise `close-ok` would never be read.
    let mut peer = Peer::open(Options::default().max_buffered_deliveries(10));
    let (_consumer, channel, tag) = peer.consumer(&consume("q"));
    for delivery in 1..=10 {
        peer.deliver(channel, &tag, delivery, b"x");
    }
    assert!(!peer.machine.wants_input());
    let closing = peer.machine.close();
    assert_eq!(peer.names(), ["0 connection.close"]);
    assert!(peer.machine.wants_input(), "close-ok has not arrived");
    peer.method(0, &connection::CloseOk {});
    peer.expect_done(closing);
}

#[test]
fn s46_close_of_blocked_connection_ends_at_its_deadline() {
    let mut peer = Peer::open(Options::default());
    peer.method(
        0,
        &connection::Blocked {
            reason: crate::peer::short("low on memory"),
        },
    );
    let unsettled = peer
        .machine
        .publish(&crate::peer::publish("", "x"))
        .unwrap();
    let closing = peer.machine.close();
    peer.pass(5 * SECOND);
    assert_eq!(peer.names(), ["0 connection.close"]);
    assert!(
        matches!(peer.error(unsettled), Error::Closed),
        "it was never sent"
    );
    peer.pass(5 * SECOND);
    assert!(matches!(peer.error(closing), Error::Timeout { .. }));
    assert!(peer.machine.is_over());
}

#[test]
fn s44_close_during_handshake_ends_it_at_once() {
    let mut peer = Peer::new(Options::default());
    let connecting = peer.machine.connect();
    let closing = peer.machine.close();
    peer.expect_done(closing);
    assert!(matches!(peer.error(connecting), Error::Closed));
    assert!(peer.machine.is_over());
}
