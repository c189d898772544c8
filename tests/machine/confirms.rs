//! Confirms: each completes its own publish, and an unmatched one is refused.

use crate::peer::{Peer, ack, channel_close, publish};
use puka::machine::PromiseId;
use puka::protocol::method::{basic, channel};
use puka::{Error, Options};
use std::time::Duration;

/// Returns a connection with this many publishes in flight on channel 1.
fn in_flight(count: usize) -> (Peer, Vec<PromiseId>) {
    let mut peer = Peer::open(Options::default());
    let promises = (0..count)
        .map(|_| peer.machine.publish(&publish("", "x")).unwrap())
        .collect();
    peer.serve();
    (peer, promises)
}

fn nack(delivery_tag: u64, multiple: bool) -> basic::Nack {
    basic::Nack {
        delivery_tag,
        multiple,
        requeue: true,
    }
}

#[test]
fn e31_numbering_restarts_at_1_on_a_reopened_channel() {
    let (mut peer, promises) = in_flight(2);
    peer.method(1, &ack(1, false));
    peer.expect_done(promises[0]);
    peer.method(1, &channel_close(500, "?"));
    assert!(peer.machine.fetch(promises[1]).is_some());
    let again = peer.machine.publish(&publish("", "x")).unwrap();
    let number = peer.serve().last().unwrap().channel;
    peer.method(number, &ack(1, false));
    peer.expect_done(again);
}

#[test]
fn e31_confirm_before_select_ok_is_answered_by_503() {
    let mut peer = Peer::open(Options::default());
    let promise = peer.machine.publish(&publish("", "x")).unwrap();
    peer.names();
    peer.method(1, &channel::OpenOk {});
    peer.method(1, &ack(1, false));
    assert!(
        matches!(peer.machine.why_closed(), Some(Error::CommandInvalid(_))),
        "{:?}",
        peer.machine.why_closed()
    );
    assert!(matches!(peer.error(promise), Error::Unconfirmed(_)));
}

#[test]
fn e32_multiple_covers_earlier_tags_and_0_covers_all() {
    let (mut peer, promises) = in_flight(10);
    peer.method(1, &ack(4, true));
    for promise in &promises[..4] {
        peer.expect_done(*promise);
    }
    assert!(peer.is_pending(promises[4]));
    peer.method(1, &nack(6, true));
    for promise in &promises[4..6] {
        assert!(matches!(peer.error(*promise), Error::Nacked));
    }
    peer.method(1, &ack(0, true));
    for promise in &promises[6..] {
        peer.expect_done(*promise);
    }
    assert!(peer.machine.why_closed().is_none() && peer.machine.is_idle());
}

#[test]
fn e32_confirm_of_an_unsent_tag_is_answered_503() {
    for wrong in [
        ack(2, false),
        ack(4, false),
        ack(u64::MAX, false),
        ack(0, false),
        ack(4, true),
        ack(u64::MAX, true),
    ] {
        let (mut peer, promises) = in_flight(3);
        peer.method(1, &ack(2, false));
        peer.method(1, &wrong);
        assert!(
            matches!(peer.close_reason(), Error::CommandInvalid(_)),
            "{wrong:?}: {:?}",
            peer.close_reason()
        );
        peer.expect_done(promises[1]);
        for place in [0, 2] {
            assert!(
                matches!(peer.error(promises[place]), Error::Unconfirmed(_)),
                "{wrong:?}"
            );
        }
        assert_eq!(peer.names(), ["0 connection.close"]);
    }
}

#[test]
fn e32_confirm_on_another_channel_is_answered_by_503() {
    let mut peer = Peer::open(Options::default());
    let _request = peer.machine.request(crate::peer::declare("q")).unwrap();
    peer.serve();
    peer.method(1, &ack(1, true));
    assert!(matches!(peer.close_reason(), Error::CommandInvalid(_)));
}

#[test]
fn e33_s55_confirms_in_any_order_find_their_own_publish() {
    let (mut peer, promises) = in_flight(5000);
    // Every odd one first, in reverse order, then the rest with one frame, as a broker with slow
    // and fast queues does.
    for tag in (1..=5000).rev().filter(|tag| tag % 2 == 1) {
        match tag % 3 {
            0 => peer.method(1, &nack(tag, false)),
            _ => peer.method(1, &ack(tag, false)),
        }
    }
    peer.method(1, &ack(5000, true));
    for (tag, promise) in (1..=5000).zip(promises) {
        match peer.machine.fetch(promise) {
            Some(Err(Error::Nacked)) if tag % 2 == 1 && tag % 3 == 0 => {}
            Some(Ok(_)) if tag % 2 == 0 || tag % 3 != 0 => {}
            other => panic!("{tag}: {other:?}"),
        }
    }
    assert!(peer.machine.is_idle());
}

#[test]
fn e35_loss_leaves_every_pending_publish_unconfirmed() {
    let (mut peer, promises) = in_flight(3);
    peer.method(1, &ack(2, false));
    peer.machine.handle_loss(puka::Broken::Eof);
    peer.expect_done(promises[1]);
    for place in [0, 2] {
        let error = peer.error(promises[place]);
        assert!(
            matches!(error, Error::Unconfirmed(_)) && error.is_connection_broken(),
            "{error}"
        );
    }
}

#[test]
fn e35_delayed_publish_without_confirm_is_unconfirmed() {
    // The broker has it, so "timeout" alone would be wrong: a program could assume that it was not
    // sent.
    let mut peer = Peer::new(Options::default().heartbeat(0));
    let promise = peer.machine.publish(&publish("", "x")).unwrap();
    peer.complete_handshake(crate::peer::tune(0, 0, 0));
    let sent: Vec<_> = peer.serve().iter().map(|sent| sent.name()).collect();
    assert!(sent.contains(&"1 basic.publish".to_owned()), "{sent:?}");
    peer.pass(Duration::from_secs(40));
    let error = peer.error(promise);
    assert!(matches!(error, Error::Unconfirmed(_)), "{error:?}");
}

#[test]
fn e35_late_confirm_is_discarded() {
    let mut peer = Peer::open_with(Options::default().heartbeat(0), crate::peer::tune(0, 0, 0));
    let promise = peer.machine.publish(&publish("", "x")).unwrap();
    peer.serve();
    peer.pass(Duration::from_secs(35));
    assert!(matches!(peer.error(promise), Error::Unconfirmed(_)));
    let next = peer.machine.publish(&publish("", "x")).unwrap();
    peer.serve();
    peer.method(1, &ack(1, false));
    assert!(peer.is_pending(next));
    peer.method(1, &ack(2, false));
    peer.expect_done(next);
    assert!(peer.machine.is_idle());
}
