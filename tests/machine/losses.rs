//! A connection that is lost and recovers: notices, numbers that start again, and restored queues.

use crate::peer::{Peer, Sent, ack, consume, declare, publish, short};
use puka::machine::{Notice, Reply, Settle};
use puka::protocol::method::{basic, connection, queue};
use puka::protocol::{Method, Table};
use puka::{Broken, Error, Options, Recovery};
use std::time::Duration;

/// The longest backoff before another attempt.
const LONGEST: Duration = Duration::from_secs(30);

fn dialled() -> Peer {
    Peer::dialled(Options::default().recovery(Recovery::default().seed(7)))
}

fn notices(peer: &mut Peer, listener: puka::machine::ListenerId) -> Vec<Notice> {
    std::iter::from_fn(|| peer.machine.take_notice(listener)).collect()
}

fn arguments(sent: &[Sent]) -> Vec<Vec<u8>> {
    let declared = sent.iter().filter(|sent| sent.is(queue::Declare::ID));
    declared
        .map(|sent| match sent.method() {
            Method::Queue(queue::Method::Declare(it)) => it.arguments.as_bytes().to_vec(),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn s5_s7_r11_listener_receives_loss_before_dialling_and_survives() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    peer.machine.handle_loss(Broken::Eof);
    let received = notices(&mut peer, listener);
    assert!(
        matches!(
            received[..],
            [
                Notice::Disconnected(Error::ConnectionBroken(Broken::Eof)),
                ..
            ]
        ),
        "{received:?}"
    );
    peer.dial();
    peer.complete_handshake(crate::peer::tune(2047, 131_072, 60));
    peer.serve();
    let received = notices(&mut peer, listener);
    assert!(
        matches!(received.last(), Some(Notice::Recovered(_))),
        "{received:?}"
    );
    peer.method(
        0,
        &connection::Blocked {
            reason: short("low on memory"),
        },
    );
    assert!(matches!(
        notices(&mut peer, listener)[..],
        [Notice::Blocked(_)]
    ));
}

#[test]
fn s7_blocked_state_ends_with_its_connection() {
    let mut peer = dialled();
    peer.method(
        0,
        &connection::Blocked {
            reason: short("low on memory"),
        },
    );
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    peer.reconnect();
    assert_eq!(peer.machine.blocked(), None);
    assert!(
        peer.serve().iter().any(|sent| sent.is(basic::Publish::ID)),
        "it was delayed, and is written now"
    );
    assert!(peer.is_pending(sent));
}

#[test]
fn r11_idle_listener_buffers_latest_notices_and_counts_missed() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    for _ in 0..1000 {
        peer.method(
            0,
            &connection::Blocked {
                reason: short("low on memory"),
            },
        );
        peer.method(0, &connection::Unblocked {});
    }
    let received = notices(&mut peer, listener);
    assert!(received.len() <= 257, "{}", received.len());
    assert!(
        matches!(received[0], Notice::Lost(lost) if lost as usize + received.len() == 2001),
        "{:?}",
        received[0]
    );
}

#[test]
fn s33_e31_publishes_are_numbered_from_1_again() {
    let mut peer = dialled();
    for tag in 1..=3 {
        let sent = peer.machine.publish(&publish("", "x")).unwrap();
        peer.serve();
        peer.method(1, &ack(tag, false));
        peer.expect_done(sent);
    }
    peer.reconnect();
    peer.serve();
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    let channel = peer.serve().last().unwrap().channel;
    peer.method(channel, &ack(1, false));
    peer.expect_done(sent);
}

#[test]
fn s18_s25_queue_is_restored_with_flags_and_arguments() {
    let mut peer = dialled();
    let mut table = Table::new();
    table.insert("x-dead-letter-exchange", "dlx").unwrap();
    table.insert("x-max-length", 1000).unwrap();
    let mut it = declare("q");
    it.durable = true;
    it.arguments = table.as_ref();
    let mut own = declare("own");
    own.exclusive = true;
    own.auto_delete = true;
    for it in [it, own] {
        let declared = peer.machine.request(it).unwrap();
        peer.serve();
        assert!(matches!(
            peer.machine.fetch(declared),
            Some(Ok(Reply::Queue(_)))
        ));
    }
    peer.reconnect();
    let sent = peer.serve();
    assert_eq!(arguments(&sent), [&[], table.as_ref().as_bytes()]);
    let kinds: Vec<_> = sent
        .iter()
        .filter(|sent| sent.is(queue::Declare::ID))
        .map(|sent| match sent.method() {
            Method::Queue(queue::Method::Declare(it)) => (it.durable, it.exclusive, it.auto_delete),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, [(false, true, true), (true, false, false)]);
}

#[test]
fn i6_unopened_channel_carries_nothing_after_a_loss() {
    let mut peer = dialled();
    let (id, channel, tag) = peer.consumer(&consume("q"));
    peer.deliver(channel, &tag, 1, b"x");
    let held = peer.take_deliveries(id).remove(0);
    for _ in 0..3 {
        let _sent = peer.machine.publish(&publish("x", "x")).unwrap();
    }
    peer.reconnect();
    let _ = peer
        .machine
        .settle(&held, puka::machine::Settle::Ack { multiple: false });
    let mut open = std::collections::BTreeSet::from([0]);
    for sent in peer.serve() {
        if sent.is(puka::protocol::method::channel::Open::ID) {
            open.insert(sent.channel);
        }
        assert!(open.contains(&sent.channel), "{}", sent.name());
        assert!(!sent.is(basic::Ack::ID));
    }
}

#[test]
fn s12_deadline_of_aborted_recovery_ends_with_it() {
    for closes in [false, true] {
        let mut peer = dialled();
        let declared = peer.machine.request(declare("q")).unwrap();
        peer.serve();
        assert!(matches!(peer.machine.fetch(declared), Some(Ok(_))));
        peer.reconnect();
        peer.pass(Duration::from_secs(25));
        if closes {
            let _closing = peer.machine.close();
        } else {
            peer.machine.handle_loss(Broken::Eof);
            peer.dial();
        }
        // No reply arrives, and the 30 s for a recovery have passed.
        peer.pass(Duration::from_secs(6));
        assert!(
            peer.machine.poll_timeout().is_none_or(|at| at > peer.now),
            "nothing is due yet"
        );
    }
}

#[test]
fn each_recovery_reports_deliveries_lost_since_the_previous() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    let (consumer, mut number, tag) = peer.consumer(&consume("q"));
    let mut lost = Vec::new();
    for deliveries in [2, 0, 1] {
        for delivery in 1..=deliveries {
            peer.deliver(number, &tag, delivery, b"");
        }
        peer.reconnect();
        number = peer.serve()[0].channel;
        let received = notices(&mut peer, listener);
        let Some(Notice::Recovered(report)) = received.last() else {
            panic!("{received:?}")
        };
        lost.push(report.lost_deliveries);
    }
    assert_eq!(lost, [2, 0, 1]);
    assert_eq!(
        peer.machine.consumer(consumer).unwrap().lost_deliveries(),
        3
    );
}

#[test]
fn r11_events_of_a_connection_are_counted() {
    let mut peer =
        Peer::dialled(Options::default().recovery(Recovery::default().republish_unconfirmed(1)));
    let (consumer, number, tag) = peer.consumer(&consume("q"));
    peer.deliver(number, &tag, 1, b"");
    let held = peer.take_deliveries(consumer);
    peer.deliver(number, &tag, 2, b"");
    peer.machine.publish(&publish("", "x")).unwrap();
    peer.serve();
    let mut expected = peer.machine.counters();
    assert_eq!(
        (expected.opened, expected.lost, expected.failed_attempts),
        (1, 0, 0)
    );
    peer.machine.handle_loss(Broken::Eof);
    expected.lost += 1;
    expected.lost_deliveries += 1;
    assert_eq!(peer.machine.counters(), expected);
    assert!(matches!(
        peer.machine
            .settle(&held[0], Settle::Ack { multiple: false }),
        Err(Error::Stale)
    ));
    expected.stale += 1;
    assert_eq!(peer.machine.counters(), expected);
    for _ in 0..2 {
        peer.pass(LONGEST);
        assert!(peer.machine.poll_dial(peer.now).is_some());
        peer.machine
            .handle_dial_failure(peer.now, Error::ConnectionBroken(Broken::Eof));
        expected.failed_attempts += 1;
        assert_eq!(peer.machine.counters(), expected);
    }
    peer.pass(LONGEST);
    peer.dial();
    peer.complete_handshake(crate::peer::tune(2047, 131_072, 60));
    peer.serve();
    expected.opened += 1;
    expected.republished += 1;
    assert_eq!(peer.machine.counters(), expected);
    peer.machine.handle_loss(Broken::DriverDropped);
    expected.lost += 1;
    expected.unconfirmed += 1;
    assert_eq!(peer.machine.counters(), expected);
}
