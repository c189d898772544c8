//! A connection that goes and comes back: who is told, what is numbered anew, what comes back with
//! a queue.

use crate::peer::{Peer, Sent, ack, consume, declare, publish, short};
use puka::machine::{Notice, Reply, Settle};
use puka::protocol::method::{basic, connection, queue};
use puka::protocol::{Method, Table};
use puka::{Broken, Error, Options, Recovery};
use std::time::Duration;

/// The longest that it is waited before another try.
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
            Method::Queue(queue::Method::Declare(it)) => it.arguments.as_octets().to_vec(),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn s5_s7_r11_who_listens_is_told_of_the_loss_before_it_is_dialled_and_hears_on_afterwards() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    peer.machine.handle_loss(Broken::Eof);
    let told = notices(&mut peer, listener);
    assert!(
        matches!(
            told[..],
            [
                Notice::Disconnected(Error::ConnectionBroken(Broken::Eof)),
                ..
            ]
        ),
        "{told:?}"
    );
    peer.dial();
    peer.shake_hands(crate::peer::tune(2047, 131_072, 60));
    peer.serve();
    let told = notices(&mut peer, listener);
    assert!(
        matches!(told.last(), Some(Notice::Recovered(_))),
        "{told:?}"
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
fn s7_what_had_blocked_the_connection_before_blocks_the_next_no_more() {
    let mut peer = dialled();
    peer.method(
        0,
        &connection::Blocked {
            reason: short("low on memory"),
        },
    );
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    peer.again();
    assert_eq!(peer.machine.blocked(), None);
    assert!(
        peer.serve().iter().any(|sent| sent.is(basic::Publish::ID)),
        "it waited, and goes now"
    );
    assert!(peer.is_pending(sent));
}

#[test]
fn r11_a_listener_that_never_listens_keeps_the_latest_notices_and_how_many_it_missed() {
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
    let told = notices(&mut peer, listener);
    assert!(told.len() <= 257, "{}", told.len());
    assert!(
        matches!(told[0], Notice::Lost(lost) if lost as usize + told.len() == 2001),
        "{:?}",
        told[0]
    );
}

#[test]
fn s33_e31_publishes_are_numbered_from_1_again() {
    let mut peer = dialled();
    for tag in 1..=3 {
        let sent = peer.machine.publish(&publish("", "x")).unwrap();
        peer.serve();
        peer.method(1, &ack(tag, false));
        peer.done(sent);
    }
    peer.again();
    peer.serve();
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    let channel = peer.serve().last().unwrap().channel;
    peer.method(channel, &ack(1, false));
    peer.done(sent);
}

#[test]
fn s18_s25_a_queue_comes_back_with_its_arguments_and_what_it_is() {
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
    peer.again();
    let sent = peer.serve();
    assert_eq!(arguments(&sent), [&[], table.as_ref().as_octets()]);
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
fn i6_after_a_loss_nothing_is_written_on_a_channel_that_is_not_open() {
    let mut peer = dialled();
    let (id, channel, tag) = peer.consumer(&consume("q"));
    peer.deliver(channel, &tag, 1, b"x");
    let held = peer.taken(id).remove(0);
    for _ in 0..3 {
        let _sent = peer.machine.publish(&publish("x", "x")).unwrap();
    }
    peer.again();
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
fn s12_the_deadline_of_a_recovery_that_was_cut_short_does_not_keep_the_next_one_busy() {
    for closes in [false, true] {
        let mut peer = dialled();
        let declared = peer.machine.request(declare("q")).unwrap();
        peer.serve();
        assert!(matches!(peer.machine.fetch(declared), Some(Ok(_))));
        peer.again();
        peer.pass(Duration::from_secs(25));
        if closes {
            let _closing = peer.machine.close();
        } else {
            peer.machine.handle_loss(Broken::Eof);
            peer.dial();
        }
        // Nobody answers, and the 30 s that bringing everything back may take are over.
        peer.pass(Duration::from_secs(6));
        assert!(
            peer.machine.poll_timeout().is_none_or(|at| at > peer.now),
            "there is nothing to do yet"
        );
    }
}

#[test]
fn each_recovery_tells_of_the_deliveries_that_were_lost_since_the_one_before() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    let (consumer, mut number, tag) = peer.consumer(&consume("q"));
    let mut lost = Vec::new();
    for deliveries in [2, 0, 1] {
        for delivery in 1..=deliveries {
            peer.deliver(number, &tag, delivery, b"");
        }
        peer.again();
        number = peer.serve()[0].channel;
        let told = notices(&mut peer, listener);
        let Some(Notice::Recovered(report)) = told.last() else {
            panic!("{told:?}")
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
fn r11_what_happens_to_a_connection_is_counted() {
    let mut peer =
        Peer::dialled(Options::default().recovery(Recovery::default().republish_unconfirmed(1)));
    let (consumer, number, tag) = peer.consumer(&consume("q"));
    peer.deliver(number, &tag, 1, b"");
    let held = peer.taken(consumer);
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
    peer.shake_hands(crate::peer::tune(2047, 131_072, 60));
    peer.serve();
    expected.opened += 1;
    expected.republished += 1;
    assert_eq!(peer.machine.counters(), expected);
    peer.machine.handle_loss(Broken::DriverDropped);
    expected.lost += 1;
    expected.unconfirmed += 1;
    assert_eq!(peer.machine.counters(), expected);
}
