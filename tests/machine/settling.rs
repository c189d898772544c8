//! Settling deliveries, and deliveries that cannot be settled.

use crate::peer::{Peer, Sent, consume};
use puka::machine::{Delivered, Settle};
use puka::protocol::Method;
use puka::protocol::method::basic;
use puka::{Error, Options};

const ACK: Settle = Settle::Ack { multiple: false };

/// Returns a consumer on channel 1 from which this many deliveries were taken.
fn delivered(count: u64) -> (Peer, Vec<Delivered>) {
    let mut peer = Peer::open(Options::default());
    let (id, channel, tag) = peer.consumer(&consume("q"));
    (1..=count).for_each(|delivery| peer.deliver(channel, &tag, delivery, b"x"));
    let taken = peer.take_deliveries(id);
    assert_eq!(taken.len() as u64, count);
    (peer, taken)
}

/// Returns acks, nacks and rejects as the broker receives them.
fn frames(sent: &[Sent]) -> Vec<String> {
    sent.iter()
        .map(|sent| match sent.method() {
            Method::Basic(basic::Method::Ack(it)) => {
                format!(
                    "ack {}{}",
                    it.delivery_tag,
                    if it.multiple { " multiple" } else { "" }
                )
            }
            Method::Basic(basic::Method::Nack(it)) => {
                format!(
                    "nack {}{}",
                    it.delivery_tag,
                    if it.multiple { " multiple" } else { "" }
                )
            }
            Method::Basic(basic::Method::Reject(it)) => {
                format!("reject {} {}", it.delivery_tag, it.requeue)
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn s56_e40_second_settlement_is_stale_and_sends_nothing() {
    let (mut peer, taken) = delivered(3);
    peer.machine.settle(&taken[0], ACK).unwrap();
    for again in [
        ACK,
        Settle::Ack { multiple: true },
        Settle::Reject { requeue: true },
    ] {
        assert!(matches!(
            peer.machine.settle(&taken[0], again),
            Err(Error::Stale)
        ));
    }
    assert_eq!(frames(&peer.take()), ["ack 1"]);
    assert!(matches!(
        peer.machine.settle(&taken[0], ACK),
        Err(Error::Stale)
    ));
    assert!(peer.names().is_empty());
}

#[test]
fn e40_multiple_ack_settles_everything_up_to_it() {
    let (mut peer, taken) = delivered(5);
    peer.machine
        .settle(&taken[1], Settle::Reject { requeue: false })
        .unwrap();
    peer.machine
        .settle(&taken[3], Settle::Ack { multiple: true })
        .unwrap();
    for settled in &taken[..4] {
        assert!(matches!(
            peer.machine.settle(settled, ACK),
            Err(Error::Stale)
        ));
    }
    assert_eq!(frames(&peer.take()), ["reject 2 false", "ack 4 multiple"]);
    peer.machine.settle(&taken[4], ACK).unwrap();
    assert_eq!(frames(&peer.take()), ["ack 5"]);
}

#[test]
fn e40_multiple_nack_rejects_no_acknowledged_delivery() {
    let (mut peer, taken) = delivered(4);
    peer.machine.settle(&taken[0], ACK).unwrap();
    peer.machine.settle(&taken[2], ACK).unwrap();
    peer.machine
        .settle(
            &taken[3],
            Settle::Nack {
                multiple: true,
                requeue: true,
            },
        )
        .unwrap();
    assert_eq!(frames(&peer.take()), ["ack 1", "ack 3", "nack 4 multiple"]);
    assert!(matches!(
        peer.machine.settle(&taken[1], ACK),
        Err(Error::Stale)
    ));
}

#[test]
fn e40_acks_name_only_tags_of_their_channel() {
    let mut peer = Peer::open(Options::default());
    let (one, first, first_tag) = peer.consumer(&consume("a"));
    let (_, second, second_tag) = peer.consumer(&consume("b"));
    peer.deliver(first, &first_tag, 1, b"x");
    peer.deliver(second, &second_tag, 1, b"x");
    let mut delivered = peer.take_deliveries(one).remove(0);
    delivered.tag = 0;
    assert!(matches!(
        peer.machine
            .settle(&delivered, Settle::Ack { multiple: true }),
        Err(Error::Stale)
    ));
    delivered.tag = 2;
    assert!(matches!(
        peer.machine.settle(&delivered, ACK),
        Err(Error::Stale)
    ));
    delivered.tag = 1;
    peer.machine.settle(&delivered, ACK).unwrap();
    assert_eq!(peer.names(), [format!("{first} basic.ack")]);
}

#[test]
fn thousand_acks_leave_as_one_frame() {
    let (mut peer, taken) = delivered(1000);
    taken
        .iter()
        .for_each(|delivered| peer.machine.settle(delivered, ACK).unwrap());
    assert_eq!(frames(&peer.take()), ["ack 1000 multiple"]);
}

#[test]
fn acks_behind_an_unsettled_delivery_leave_individually() {
    let (mut peer, taken) = delivered(5);
    taken[1..]
        .iter()
        .for_each(|delivered| peer.machine.settle(delivered, ACK).unwrap());
    let mut sent = frames(&peer.take());
    sent.sort();
    assert_eq!(sent, ["ack 2", "ack 3", "ack 4", "ack 5"]);
    peer.machine.settle(&taken[0], ACK).unwrap();
    assert_eq!(frames(&peer.take()), ["ack 1"]);
    assert!(peer.machine.why_closed().is_none());
}

#[test]
fn v08_delivery_of_a_closed_connection_is_stale() {
    let (mut peer, taken) = delivered(1);
    peer.machine.handle_loss(puka::Broken::Eof);
    assert!(matches!(
        peer.machine.settle(&taken[0], ACK),
        Err(Error::Stale)
    ));
    peer.machine.give_back(&taken[0]);
    assert!(peer.names().is_empty());
}
