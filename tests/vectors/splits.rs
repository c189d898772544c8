//! A byte stream decodes to the same frames, or the same error, for any split into pieces.

use super::bodies;
use super::json::vectors;
use super::strategies::{for_all, mutated_stream, random_stream, valid_stream};
use super::tools::{FRAME_MAX, OwnedFrame, decode_stream, drain};
use proptest::prelude::*;
use proptest::sample::select;
use puka::protocol::{DecodeError, Decoder, FrameKind};

fn pieces() -> impl Strategy<Value = (u32, usize)> {
    (any::<u32>(), select(vec![7_usize, 9, 100, 3000, 200_000]))
}

#[test]
fn valid_stream_decodes_alike_in_any_pieces() {
    for_all(
        60,
        (valid_stream(), pieces()),
        |(stream, (seed, longest))| {
            let (_, error, pending) = decode_stream(&stream, FRAME_MAX);
            assert_eq!((error, pending), (None, 0));
            bodies::any_split(&stream, FRAME_MAX, seed, longest);
        },
    );
}

#[test]
fn mutated_stream_fails_alike_in_any_pieces() {
    for_all(
        120,
        (mutated_stream(), pieces(), select(vec![4096, FRAME_MAX])),
        |(stream, (seed, longest), max)| {
            bodies::any_split(&stream, max, seed, longest);
        },
    );
}

#[test]
fn random_stream_fails_alike_in_any_pieces() {
    for_all(
        3000,
        (random_stream(), pieces()),
        |(stream, (seed, longest))| {
            bodies::any_split(&stream, FRAME_MAX, seed, longest);
        },
    );
}

#[test]
fn a29_golden_frame_decodes_alike_at_every_split() {
    for vector in vectors() {
        if vector.text("feed") == Some("table") || vector.text("feed") == Some("bytes") {
            continue;
        }
        let bytes = vector.bytes();
        let (expected, error, _) = decode_stream(&bytes, FRAME_MAX);
        for at in 0..=bytes.len() {
            let mut decoder = Decoder::new();
            decoder.set_frame_max(FRAME_MAX);
            let mut frames = Vec::new();
            decoder.extend(&bytes[..at]);
            let mut found = drain(&mut decoder, &mut frames);
            if found.is_none() {
                decoder.extend(&bytes[at..]);
                found = drain(&mut decoder, &mut frames);
            }
            assert_eq!(
                (&frames, found),
                (&expected, error),
                "{} cut at {at}",
                vector.name()
            );
        }
        // Also in single bytes, with a check of the decoder after each.
        bodies::any_split(&bytes, FRAME_MAX, 1, 1);
    }
}

#[test]
fn a29_single_byte_reads_move_bytes_rarely() {
    // A large frame in the smallest reads. If the buffer were reallocated or moved for each of
    // them, its address would change often. Counting the changes needs no clock.
    for size in [8_000_u32, 100_000, 1_000_000] {
        let mut decoder = Decoder::new();
        decoder.set_frame_max(2 << 20);
        let mut places = 0;
        let mut last = None;
        let header = [&[3, 0, 1][..], &size.to_be_bytes()].concat();
        let stream = header
            .into_iter()
            .chain(std::iter::repeat_n(0xAB, usize::try_from(size).unwrap()));
        for (received, byte) in stream.chain([0xCE]).enumerate() {
            let space = decoder.space();
            assert!(
                space.len() <= received + bodies::AHEAD,
                "a size alone must not make a buffer"
            );
            // The address of the start of the stream.
            let place = space.as_ptr().addr() - received;
            if last != Some(place) {
                places += 1;
                last = Some(place);
            }
            space[0] = byte;
            decoder.filled(1);
        }
        assert!(places <= 10, "{places} moves for {size} bytes");
        let frame = decoder.next_frame().unwrap().unwrap();
        assert_eq!(frame.payload().len(), usize::try_from(size).unwrap());
    }
}

#[test]
fn frame_size_alone_allocates_no_buffer() {
    let mut decoder = Decoder::new();
    decoder.set_frame_max(u32::MAX);
    // A complete frame, whose payload shares the buffer, and the start of one of 4 GiB.
    let size = 100_000_u32.to_be_bytes();
    let stream = [
        &[3, 0, 1][..],
        &size,
        &[7; 100_000],
        &[0xCE, 3, 0, 1, 0xFF, 0xFF, 0xFF, 0xF0],
    ]
    .concat();
    decoder.extend(&stream);
    let payload = decoder.next_frame().unwrap().unwrap().into_payload();
    assert_eq!(payload.len(), 100_000);
    assert!(decoder.next_frame().unwrap().is_none());
    assert!(
        decoder.space().len() <= bodies::AHEAD,
        "a size alone must not make a buffer"
    );
}

#[test]
fn undecoded_bytes_are_moved_rarely() {
    let mut decoder = Decoder::new();
    let mut places = 0;
    let mut last = None;
    for received in 0..1_000_000 {
        let space = decoder.space();
        let place = space.as_ptr().addr().wrapping_sub(received);
        if last != Some(place) {
            places += 1;
            last = Some(place);
        }
        space[0] = [8, 0, 0, 0, 0, 0, 0, 0xCE][received % 8];
        decoder.filled(1);
    }
    assert!(places <= 12, "{places} moves");
    let mut frames = Vec::new();
    assert_eq!(drain(&mut decoder, &mut frames), None);
    assert_eq!(frames.len(), 125_000);
}

#[test]
fn promptly_decoded_stream_reuses_its_buffer() {
    // Small frames that are dropped at once: after the first few reads no buffer is reallocated.
    let frames = super::tools::raw_frame(3, 1, &[7; 100]).repeat(1000);
    let mut decoder = Decoder::new();
    decoder.set_frame_max(FRAME_MAX);
    let mut places = std::collections::HashSet::new();
    for round in 0..200 {
        let mut rest = &frames[..];
        while !rest.is_empty() {
            let space = decoder.space();
            if round > 0 {
                places.insert(space.as_ptr_range().end.addr());
            }
            let count = space.len().min(rest.len()).min(5000);
            space[..count].copy_from_slice(&rest[..count]);
            decoder.filled(count);
            rest = &rest[count..];
            while decoder.next_frame().unwrap().is_some() {}
        }
    }
    assert!(places.len() <= 2, "{} buffers", places.len());
}

#[test]
fn stored_payload_does_not_change() {
    let mut decoder = Decoder::new();
    let mut kept = Vec::new();
    for n in 0..500_u16 {
        let payload = vec![n.to_be_bytes()[1]; usize::from(n)];
        decoder.extend(&super::tools::raw_frame(3, n, &payload));
        let frame = decoder.next_frame().unwrap().unwrap();
        assert_eq!(
            (frame.kind(), frame.channel(), frame.payload()),
            (FrameKind::Body, n, &payload[..])
        );
        kept.push((payload, frame.into_payload()));
    }
    for (payload, kept) in kept {
        assert_eq!(payload, kept);
    }
}

#[test]
fn protocol_header_is_only_valid_first() {
    let header = b"AMQP\x00\x00\x09\x01";
    let heartbeat = [8, 0, 0, 0, 0, 0, 0, 0xCE];
    let (frames, error, _) = decode_stream(&[&header[..], &heartbeat].concat(), FRAME_MAX);
    assert_eq!(
        frames.iter().map(|f| f.kind).collect::<Vec<_>>(),
        [FrameKind::ProtocolHeader, FrameKind::Heartbeat]
    );
    assert_eq!((error, &frames[0].payload[..]), (None, &header[..]));
    for stream in [
        [&header[..], header].concat(),
        [&heartbeat[..], header].concat(),
    ] {
        let (frames, error, pending): (Vec<OwnedFrame>, _, _) = decode_stream(&stream, FRAME_MAX);
        assert_eq!(
            (frames.len(), error, pending),
            (1, Some(DecodeError::UnknownFrameType(b'A')), 8)
        );
    }
}
