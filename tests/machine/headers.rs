//! Malformed headers are an error only when they are read: the message is delivered and settled
//! like any other, and other messages are not affected.

use crate::peer::{Peer, consume, deliver, method, raw};
use puka::Options;
use puka::machine::Settle;
use puka::protocol::{DecodeError, MAX_NESTING, Table, Value};

/// Returns the bytes of a delivery whose header table has exactly these bytes.
fn delivery(channel: u16, tag: &str, number: u64, table: &[u8]) -> Vec<u8> {
    let mut header = [0, 60, 0, 0].to_vec();
    header.extend(4_u64.to_be_bytes());
    header.extend([0x20, 0]);
    header.extend(u32::try_from(table.len()).unwrap().to_be_bytes());
    header.extend(table);
    [
        method(channel, &deliver(tag, number)),
        raw(2, channel, &header),
        raw(3, channel, b"body"),
    ]
    .concat()
}

/// Returns this many nested tables.
fn nested(depth: usize) -> Vec<u8> {
    let mut table = Table::new();
    for _ in 0..depth.min(MAX_NESTING) {
        let mut outer = Table::new();
        outer.insert("n", &table).unwrap();
        table = outer;
    }
    let mut bytes = table.as_ref().as_bytes().to_vec();
    for _ in MAX_NESTING..depth {
        let mut outer = vec![1, b'n', b'F'];
        outer.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
        outer.extend(bytes);
        bytes = outer;
    }
    bytes
}

#[test]
fn m07_malformed_headers_fail_only_their_message() {
    let bad: [(&str, Vec<u8>); 6] = [
        ("an unknown tag", b"\x01aZ".to_vec()),
        (
            "a text that runs past the end",
            b"\x01aS\xff\xff\xff\xffx".to_vec(),
        ),
        ("a name that runs past the end", b"\x09a".to_vec()),
        ("a name without a value", b"\x01a".to_vec()),
        (
            "a nested table that is longer than its container",
            b"\x01aF\x00\x00\x00\x09".to_vec(),
        ),
        ("tables nested too deep", nested(20_000)),
    ];
    let mut peer = Peer::open(Options::default());
    let (id, channel, tag) = peer.consumer(&consume("q"));
    for (round, (what, table)) in (0_u64..).zip(&bad) {
        let number = 3 * round;
        let fine = b"\x01aI\x00\x00\x00\x07";
        let frames = [
            delivery(channel, &tag, number + 1, fine),
            delivery(channel, &tag, number + 2, table),
            delivery(channel, &tag, number + 3, fine),
        ];
        peer.feed(&frames.concat());
        let taken = peer.take_deliveries(id);
        assert_eq!(taken.len(), 3, "{what}");
        assert!(taken[1].message.headers().is_err(), "{what}");
        assert_eq!(taken[1].message.body(), b"body");
        let shown = format!("{:?}", taken[1].message);
        assert!(
            shown.len() < 2000,
            "{what} is shown in {} characters",
            shown.len()
        );
        for neighbour in [&taken[0], &taken[2]] {
            assert_eq!(
                neighbour.message.headers().unwrap().get("a"),
                Some(Value::I32(7)),
                "{what}"
            );
        }
        peer.machine
            .settle(&taken[1], Settle::Reject { requeue: false })
            .unwrap();
        for neighbour in [&taken[0], &taken[2]] {
            peer.machine
                .settle(neighbour, Settle::Ack { multiple: false })
                .unwrap();
        }
        assert_eq!(
            peer.names(),
            [
                format!("{channel} basic.reject"),
                format!("{channel} basic.ack")
            ],
            "{what}"
        );
        assert!(peer.machine.why_closed().is_none(), "{what}");
    }
}

#[test]
fn m07_names_and_texts_need_not_be_utf8() {
    let mut peer = Peer::open(Options::default());
    let (id, channel, tag) = peer.consumer(&consume("q"));
    peer.feed(&delivery(
        channel,
        &tag,
        1,
        b"\x02\xff\xfeS\x00\x00\x00\x02\xfd\xfc\x01aV",
    ));
    let message = peer.take_deliveries(id).remove(0).message;
    let headers = message.headers().unwrap();
    let (name, value) = headers.iter().next().unwrap();
    assert_eq!(
        (name.as_bytes(), value),
        (&b"\xff\xfe"[..], Value::String(b"\xfd\xfc"))
    );
    assert_eq!(
        (name.as_str(), value.as_str(), value.as_bytes()),
        (None, None, Some(&b"\xfd\xfc"[..]))
    );
    assert_eq!(headers.get("a"), Some(Value::Void));
}

#[test]
fn m07_headers_are_read_to_the_limit_of_nesting() {
    let mut peer = Peer::open(Options::default());
    let (id, channel, tag) = peer.consumer(&consume("q"));
    peer.feed(&delivery(channel, &tag, 1, &nested(MAX_NESTING)));
    peer.feed(&delivery(channel, &tag, 2, &nested(MAX_NESTING + 1)));
    let taken = peer.take_deliveries(id);
    let mut table = taken[0].message.headers().unwrap();
    for _ in 0..MAX_NESTING {
        table = table.get("n").and_then(Value::as_table).unwrap();
    }
    assert!(table.is_empty());
    let refused = taken[1].message.headers();
    assert!(
        matches!(
            refused,
            Err(DecodeError::NestingTooDeep { limit: MAX_NESTING })
        ),
        "{refused:?}"
    );
}
