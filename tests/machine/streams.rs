//! Deliveries of a stream, which requeues nothing. RabbitMQ before 4.0 closes the connection when a
//! client asks for it.

use crate::peer::{Peer, Sent, consume, deliver, header, method, raw};
use crate::recovering::{complete_handshake, dialled};
use puka::machine::{Consume, ConsumerId, Settle};
use puka::protocol::method::basic;
use puka::protocol::{FrameKind, Method, Properties, Table};
use puka::{Broken, Ended, Options};
use std::collections::VecDeque;

/// Returns a consumer with or without an offset and with this many deliveries, which have an offset
/// or not, and its channel and tag.
fn consumer(says: bool, have: bool, deliveries: u64) -> (Peer, ConsumerId, u16, String) {
    let mut arguments = Table::new();
    if says {
        arguments.insert("x-stream-offset", "next").unwrap();
    }
    let mut peer = Peer::open(Options::default());
    let terms = Consume {
        prefetch_count: 10,
        arguments: arguments.as_ref(),
        ..consume("q")
    };
    let (id, channel, tag) = peer.consumer(&terms);
    for number in 1..=deliveries {
        arrives(&mut peer, channel, &tag, number, have);
    }
    (peer, id, channel, tag)
}

fn arrives(peer: &mut Peer, channel: u16, tag: &str, number: u64, has_offset: bool) {
    arrives_at(peer, channel, tag, number, has_offset.then_some(7));
}

/// Delivers a message of a stream.
pub(crate) fn arrives_at(
    peer: &mut Peer,
    channel: u16,
    tag: &str,
    number: u64,
    offset: Option<i64>,
) {
    let mut headers = Table::new();
    if let Some(offset) = offset {
        headers.insert("x-stream-offset", offset).unwrap();
    }
    let mut properties = Properties::default();
    properties.headers = offset.is_some().then(|| headers.as_ref().into());
    let frames = [
        method(channel, &deliver(tag, number)),
        header(channel, 1, properties),
        raw(3, channel, b"x"),
    ];
    peer.feed(&frames.concat());
}

/// Returns acknowledgements and rejections, each with its number.
fn settled(sent: &[Sent]) -> Vec<(&'static str, u64, bool)> {
    let methods = sent
        .iter()
        .filter(|sent| sent.kind == FrameKind::Method)
        .map(Sent::method);
    methods
        .filter_map(|method| match method {
            Method::Basic(basic::Method::Ack(it)) => Some(("ack", it.delivery_tag, it.multiple)),
            Method::Basic(basic::Method::Nack(it)) => Some(("nack", it.delivery_tag, it.multiple)),
            Method::Basic(basic::Method::Reject(it)) => Some(("reject", it.delivery_tag, false)),
            _ => None,
        })
        .collect()
}

#[test]
fn rejected_and_dropped_stream_deliveries_are_acknowledged() {
    let (mut peer, id, ..) = consumer(true, true, 5);
    let taken = peer.take_deliveries(id);
    peer.machine
        .settle(&taken[0], Settle::Reject { requeue: true })
        .unwrap();
    peer.machine
        .settle(
            &taken[1],
            Settle::Nack {
                multiple: false,
                requeue: false,
            },
        )
        .unwrap();
    assert_eq!(settled(&peer.take()), [("ack", 2, true)]);
    peer.machine
        .settle(
            &taken[3],
            Settle::Nack {
                multiple: true,
                requeue: true,
            },
        )
        .unwrap();
    peer.machine.give_back(&taken[4]);
    assert_eq!(settled(&peer.take()), [("ack", 5, true)]);
    assert!(
        peer.machine
            .settle(&taken[0], Settle::Ack { multiple: false })
            .is_err(),
        "it is settled"
    );
}

#[test]
fn buffered_stream_deliveries_are_acknowledged_at_the_end() {
    for drops in [true, false] {
        let (mut peer, id, channel, tag) = consumer(true, true, 3);
        if drops {
            peer.machine.drop_consumer(id);
        } else {
            let _cancelled = peer.machine.cancel(id).unwrap();
        }
        assert_eq!(settled(&peer.take()), [("ack", 3, true)]);
        // The same for deliveries before cancel-ok.
        arrives(&mut peer, channel, &tag, 4, true);
        assert_eq!(settled(&peer.take()), [("ack", 4, false)]);
        peer.method(
            channel,
            &basic::CancelOk {
                consumer_tag: crate::peer::short(&tag),
            },
        );
        assert!(
            drops
                || matches!(
                    peer.machine.consumer(id).and_then(|it| it.ended()),
                    Some(Ended::Cancelled)
                )
        );
    }
}

#[test]
fn queue_messages_with_offset_headers_are_still_requeued() {
    for (says, have) in [(true, false), (false, true), (false, false)] {
        let (mut peer, id, ..) = consumer(says, have, 3);
        let taken = peer.take_deliveries(id);
        peer.machine
            .settle(
                &taken[1],
                Settle::Nack {
                    multiple: true,
                    requeue: true,
                },
            )
            .unwrap();
        peer.machine.give_back(&taken[2]);
        let expected = [("nack", 2, true), ("reject", 3, false)];
        assert_eq!(settled(&peer.take()), expected, "says {says}, have {have}");
    }
}

/// Loses the connection, and returns the `x-stream-offset` of the `consume` after it.
pub(crate) fn offset_after_a_loss(peer: &mut Peer) -> Option<Vec<u8>> {
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    complete_handshake(peer);
    let sent = peer.serve();
    let methods = sent
        .iter()
        .filter(|sent| sent.kind == FrameKind::Method)
        .map(Sent::method);
    methods
        .filter_map(|method| match method {
            Method::Basic(basic::Method::Consume(it)) => it.arguments.get("x-stream-offset"),
            _ => None,
        })
        .map(|offset| format!("{offset:?}").into_bytes())
        .next()
}

#[test]
fn stream_continues_behind_the_last_taken_delivery() {
    let mut arguments = Table::new();
    arguments.insert("x-stream-offset", "first").unwrap();
    arguments.insert("x-other", true).unwrap();
    let mut peer = dialled();
    let terms = Consume {
        prefetch_count: 10,
        arguments: arguments.as_ref(),
        ..consume("q")
    };
    let (id, channel, tag) = peer.consumer(&terms);
    for number in 1..=5 {
        let offset = 40 + number as i64;
        arrives_at(&mut peer, channel, &tag, number, Some(offset));
    }
    let mut taken = VecDeque::new();
    peer.machine.take_deliveries(id, 100, &mut taken);
    peer.machine.take_deliveries(id, 100, &mut taken);
    assert_eq!(taken.len(), 2, "one at a time");
    // Three are buffered, and the program has not received them.
    assert_eq!(offset_after_a_loss(&mut peer), Some(b"I64(43)".to_vec()));
    assert!(peer.take_deliveries(id).is_empty());
    assert_eq!(offset_after_a_loss(&mut peer), Some(b"I64(43)".to_vec()));

    // Without a delivery, the consumer begins where it began before.
    let mut peer = dialled();
    peer.consumer(&terms);
    let first = offset_after_a_loss(&mut peer).unwrap();
    assert!(!first.starts_with(b"I64"), "{}", first.escape_ascii());
}
