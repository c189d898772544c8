//! The sequences of `tests/vectors/bytes/sequences.json` that only a connection can judge: the
//! allowed order of frames on a channel.
//!
//! The vectors name channel 1 with the consumer `c` and methods that either side sends. Here a
//! state machine has consumers on its channels, and the consumer's own tag and numbers replace
//! those of the vector.

use crate::peer::{Peer, consume};
use puka::Options;
use puka::protocol::{ReplyCode, frame};
use serde_json::Value;

const VECTORS: &str = include_str!("../vectors/bytes/sequences.json");

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// Returns the frames of a vector, with an existing consumer tag instead of the vector's `c`, `a`
/// or `b`.
fn with_tag(bytes: &[u8], tags: &[(u16, String)]) -> Vec<u8> {
    let mut rest = bytes;
    let mut all = Vec::new();
    while let Some(size) = rest.get(3..7) {
        let size = u32::from_be_bytes(size.try_into().unwrap()) as usize;
        let (one, behind) = rest.split_at(size + 8);
        let channel = u16::from_be_bytes([one[1], one[2]]);
        let payload = &one[7..7 + size];
        let tag = tags
            .iter()
            .find(|(number, _)| *number == channel)
            .map(|(_, tag)| tag.as_str());
        // A deliver or a cancel: class, method, then the tag.
        let has_tag = one[0] == 1 && matches!(payload[..4], [0, 60, 0, 60 | 30]);
        let payload = match tag {
            Some(tag) if has_tag => [
                &payload[..4],
                &[tag.len() as u8],
                tag.as_bytes(),
                &payload[6..],
            ]
            .concat(),
            _ => payload.to_vec(),
        };
        all.extend(crate::peer::raw(one[0], channel, &payload));
        assert_eq!(one[7 + size], frame::FRAME_END);
        rest = behind;
    }
    all
}

fn vectors() -> Vec<Value> {
    let file: Value = serde_json::from_str(VECTORS).unwrap();
    file["vectors"].as_array().unwrap().clone()
}

/// Returns a connection with consumers on channels 1 and 2.
fn consumers() -> (Peer, Vec<(u16, String)>, Vec<puka::machine::ConsumerId>) {
    let mut peer = Peer::open(Options::default());
    let started = [peer.consumer(&consume("a")), peer.consumer(&consume("b"))];
    let tags = started
        .iter()
        .map(|(_, channel, tag)| (*channel, tag.clone()))
        .collect::<Vec<_>>();
    assert_eq!([tags[0].0, tags[1].0], [1, 2]);
    (peer, tags, started.iter().map(|(id, ..)| *id).collect())
}

#[test]
fn e04_e06_e07_e14_invalid_sequences_are_refused_as_the_vectors_say() {
    let mut judged = 0;
    for vector in vectors()
        .iter()
        .filter(|vector| vector["expect"] == "error")
    {
        let name = vector["name"].as_str().unwrap();
        let (mut peer, tags, _) = consumers();
        let mut sent = bytes(vector["hex"].as_str().unwrap());
        // Two of them begin or end with qos-ok, which must be pending where it comes first.
        if name.ends_with("body-without-header") {
            // Any allowed method without content will do.
            sent.splice(
                ..12,
                crate::peer::method(1, &puka::protocol::method::channel::Flow { active: true }),
            );
        }
        peer.feed(&with_tag(&sent, &tags));
        let code = match vector["error"].as_str().unwrap() {
            "unexpected_frame" => ReplyCode::UNEXPECTED_FRAME,
            "body_too_long" => ReplyCode::FRAME_ERROR,
            "channel_not_open" => ReplyCode::CHANNEL_ERROR,
            "wrong_channel" if name.ends_with("channel-0") => ReplyCode::CHANNEL_ERROR,
            "wrong_channel" => ReplyCode::COMMAND_INVALID,
            other => panic!("{name}: {other}"),
        };
        let fault = peer
            .close_reason()
            .fault()
            .unwrap_or_else(|| panic!("{name}: {}", peer.close_reason()));
        assert_eq!(fault.code, code, "{name}: {fault}");
        assert!(
            peer.names().contains(&"0 connection.close".to_owned()),
            "{name}"
        );
        judged += 1;
    }
    assert_eq!(judged, 10);
}

#[test]
fn e07_sequences_of_deliveries_arrive_as_the_vectors_say() {
    for (name, expected) in [
        (
            "sequences/deliver/two-channels",
            [vec![&b"wxyz"[..]], vec![b"12"]],
        ),
        ("sequences/deliver/two-in-a-row", [vec![b"a", b""], vec![]]),
    ] {
        let vectors = vectors();
        let vector = vectors
            .iter()
            .find(|vector| vector["name"] == name)
            .unwrap();
        let (mut peer, tags, ids) = consumers();
        peer.feed(&with_tag(&bytes(vector["hex"].as_str().unwrap()), &tags));
        assert!(peer.machine.why_closed().is_none(), "{name}");
        for (id, expected) in ids.into_iter().zip(expected) {
            let taken = peer.take_deliveries(id);
            let bodies: Vec<_> = taken
                .iter()
                .map(|delivered| delivered.message.body())
                .collect();
            assert_eq!(bodies, expected, "{name}");
        }
    }
}
