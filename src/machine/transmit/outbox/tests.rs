//! Tests of the outgoing queue.

use super::*;
use crate::protocol::method::{basic, channel as channels, connection};
use crate::protocol::{ContentHeader, Decoder, FrameKind, Method, MethodId, ShortStr};
use bytes::Bytes;
use proptest::prelude::*;

const FRAME_MAX: u32 = 131_072;

fn publish_on(
    out: &mut Outbox,
    channel: u16,
    frame_max: u32,
    body: Body<'_>,
) -> Result<(), EncodeError> {
    let method = basic::Publish {
        exchange: ShortStr::EMPTY,
        routing_key: ShortStr::literal("q"),
        mandatory: false,
        immediate: false,
    };
    out.append_content(channel, frame_max, &method, &Properties::default(), &body)
}

fn publish(out: &mut Outbox, frame_max: u32, body: Body<'_>) -> Result<(), EncodeError> {
    publish_on(out, 1, frame_max, body)
}

fn transferred(out: &mut Outbox) -> Outgoing {
    let mut to = Outgoing::default();
    out.transfer(0, false, &mut to);
    to
}

fn whole(out: &Outgoing) -> Vec<u8> {
    out.pieces().flatten().copied().collect()
}

/// Returns what a fast transport receives, over all calls.
fn all(out: &mut Outbox) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !out.is_empty() {
        bytes.extend(whole(&transferred(out)));
    }
    bytes
}

/// Returns the frames: kind, channel, payload.
fn frames(bytes: &[u8]) -> Vec<(FrameKind, u16, Vec<u8>)> {
    let mut decoder = Decoder::new();
    decoder.set_frame_max(FRAME_MAX);
    decoder.extend(bytes);
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame().unwrap() {
        frames.push((frame.kind(), frame.channel(), frame.payload().to_vec()));
    }
    assert!(decoder.pending().is_empty());
    frames
}

#[test]
fn large_body_is_shared_and_reads_the_same() {
    let body: Bytes = (0..20_000_u32).map(|n| n as u8).collect::<Vec<_>>().into();
    let (mut copied, mut shared) = (Outbox::default(), Outbox::default());
    publish(&mut copied, 8192, Body::Borrowed(&body)).unwrap();
    publish(&mut shared, 8192, Body::Shared(body.clone())).unwrap();
    let (copied, shared) = (transferred(&mut copied), transferred(&mut shared));
    assert_eq!(whole(&copied), whole(&shared));
    assert_eq!((copied.pieces().count(), shared.pieces().count()), (1, 7));
    let inside = body.as_ptr_range();
    assert_eq!(
        shared
            .pieces()
            .filter(|piece| inside.contains(&piece.as_ptr()))
            .count(),
        3
    );
}

#[test]
fn bytes_keep_their_order_for_any_write_size() {
    let mut expected = Vec::new();
    for step in [1, 2, 7, 100, 4095, 4096, 5000, 1 << 20] {
        let mut out = Outbox::default();
        publish(&mut out, 4096, Body::Shared(vec![1; 9000].into())).unwrap();
        let mut to = transferred(&mut out);
        publish(&mut out, 4096, Body::Shared(vec![2; 4096].into())).unwrap();
        out.append_heartbeat();
        let mut taken = Vec::new();
        while !to.is_empty() || !out.is_empty() {
            let count = step.min(to.len());
            taken.extend(whole(&to).into_iter().take(count));
            to.advance(count);
            if taken.len() > 5000 {
                out.transfer(to.len(), false, &mut to);
            }
        }
        if expected.is_empty() {
            expected.clone_from(&taken);
        }
        assert_eq!(taken, expected, "in steps of {step}");
    }
}

#[test]
fn e11_too_large_header_writes_nothing() {
    let mut out = Outbox::default();
    let long = "x".repeat(255);
    let text = ShortStr::new(&long).unwrap();
    let properties = Properties {
        message_id: Some(text),
        app_id: Some(text),
        ..Properties::default()
    };
    let method = basic::Publish {
        exchange: text,
        routing_key: text,
        mandatory: false,
        immediate: false,
    };
    let written = out.append_content(1, 530, &method, &properties, &Body::Borrowed(b""));
    assert!(matches!(
        written,
        Err(EncodeError::FrameTooLarge { limit: 530, .. })
    ));
    assert!(out.is_empty());
}

#[test]
fn e48_small_publish_overtakes_a_64_mib_body() {
    for body in [
        Body::Shared(vec![0; 64 << 20].into()),
        Body::Borrowed(&vec![0; 64 << 20]),
    ] {
        let mut out = Outbox::default();
        publish_on(&mut out, 1, FRAME_MAX, body).unwrap();
        for _ in 0..100 {
            // The transport is in the middle of what it has.
            let mut to = transferred(&mut out);
            to.advance(to.len() - 1000);
            publish_on(&mut out, 2, FRAME_MAX, Body::Borrowed(b"small")).unwrap();
            let ahead = to.len();
            out.transfer(to.len(), false, &mut to);
            to.advance(ahead);
            let frames = frames(&whole(&to));
            let place = frames.iter().position(|(_, channel, _)| *channel == 2);
            assert!(place.is_some_and(|place| place <= 2), "{place:?}");
        }
    }
}

#[test]
fn e48_busy_publisher_does_not_starve_other_channels() {
    let mut out = Outbox::default();
    for _ in 0..100_000 {
        publish_on(&mut out, 1, FRAME_MAX, Body::Borrowed(&[0; 100])).unwrap();
    }
    let _first = transferred(&mut out);
    publish_on(&mut out, 2, FRAME_MAX, Body::Borrowed(b"small")).unwrap();
    assert!(
        frames(&whole(&transferred(&mut out)))
            .iter()
            .any(|(_, channel, _)| *channel == 2)
    );
}

#[test]
fn large_frames_do_not_starve_queued_channels() {
    let frame_max = 1 << 20;
    let body = vec![0; 1 << 19];
    let mut out = Outbox::default();
    publish(&mut out, frame_max, Body::Borrowed(&body)).unwrap();
    publish_on(&mut out, 2, frame_max, Body::Borrowed(b"queued")).unwrap();
    for _ in 0..3 {
        if whole(&transferred(&mut out))
            .windows(6)
            .any(|bytes| bytes == b"queued")
        {
            return;
        }
        // The queue of this channel is empty, so its frames go to `first` again.
        publish(&mut out, frame_max, Body::Borrowed(&body)).unwrap();
    }
    panic!("channel 2 has had no turn in three transfers");
}

#[test]
fn method_follows_the_content_on_its_channel() {
    let mut out = Outbox::default();
    publish_on(
        &mut out,
        1,
        FRAME_MAX,
        Body::Shared(vec![0; 1 << 20].into()),
    )
    .unwrap();
    out.append_method(2, FRAME_MAX, &channels::CloseOk {})
        .unwrap();
    out.append_method(1, FRAME_MAX, &channels::CloseOk {})
        .unwrap();
    let frames = frames(&all(&mut out));
    let body = frames
        .iter()
        .rposition(|(kind, ..)| *kind == FrameKind::Body)
        .unwrap();
    let of = |wanted: u16| {
        frames
            .iter()
            .rposition(|(_, channel, _)| *channel == wanted)
            .unwrap()
    };
    assert!(of(2) < body && of(1) == frames.len() - 1 && body < of(1));
}

#[test]
fn last_method_is_written_last() {
    let mut out = Outbox::default();
    out.append_last_method(FRAME_MAX, &connection::CloseOk {})
        .unwrap();
    for channel in 1..4 {
        publish_on(
            &mut out,
            channel,
            FRAME_MAX,
            Body::Shared(vec![0; 1 << 20].into()),
        )
        .unwrap();
    }
    let frames = frames(&all(&mut out));
    let last = frames
        .last()
        .map(|(_, channel, payload)| (*channel, Method::decode(payload).unwrap().id()));
    assert_eq!(last, Some((0, connection::CloseOk::ID)));
}

#[test]
fn draining_transfers_everything_at_once() {
    let mut out = Outbox::default();
    publish_on(
        &mut out,
        1,
        FRAME_MAX,
        Body::Shared(vec![0; 4 << 20].into()),
    )
    .unwrap();
    let mut to = Outgoing::default();
    let bytes = out.transfer(1 << 20, true, &mut to);
    assert!(out.is_empty() && bytes == to.len() && bytes > 4 << 20);
}

proptest! {
    /// The body of each message contains its number.
    #[test]
    fn contents_of_a_channel_are_whole_and_ordered(
        steps in prop::collection::vec((1..5_u16, 0..40_000_usize, any::<bool>()), 1..60),
    ) {
        let mut out = Outbox::default();
        let mut bytes = Vec::new();
        for (number, (channel, size, gives)) in steps.iter().enumerate() {
            let body = Body::Shared(vec![number as u8; *size].into());
            publish_on(&mut out, *channel, 4096, body).unwrap();
            if *gives {
                bytes.extend(whole(&transferred(&mut out)));
            }
        }
        bytes.extend(all(&mut out));
        let frames = frames(&bytes);
        for channel in 1..5 {
            let mut expected = steps.iter().enumerate().filter(|(_, (on, ..))| *on == channel);
            let mut left = 0;
            let mut number = 0;
            for (kind, _, payload) in frames.iter().filter(|(_, on, _)| *on == channel) {
                match kind {
                    FrameKind::Method => {
                        prop_assert_eq!(left, 0);
                        let id = Method::decode(payload).unwrap().id();
                        prop_assert_eq!(id, MethodId { class: 60, method: 40 });
                    }
                    FrameKind::Header => {
                        let (next, (_, size, _)) = expected.next().unwrap();
                        number = next;
                        left = *size;
                        let header = ContentHeader::decode(payload).unwrap();
                        prop_assert_eq!(header.body_size, left as u64);
                    }
                    _ => {
                        prop_assert!(payload.iter().all(|byte| *byte == number as u8));
                        left -= payload.len();
                    }
                }
            }
            prop_assert!(left == 0 && expected.next().is_none());
        }
    }
}

#[test]
fn transport_with_enough_bytes_is_given_no_more() {
    let mut out = Outbox::default();
    publish(&mut out, FRAME_MAX, Body::Borrowed(b"x")).unwrap();
    let mut to = Outgoing::default();
    assert_eq!(out.transfer(UNWRITTEN_BYTES, false, &mut to), 0);
    assert!(to.is_empty() && !out.is_empty());
    assert!(out.transfer(UNWRITTEN_BYTES - 1, false, &mut to) > 0);
    publish(&mut out, FRAME_MAX, Body::Borrowed(b"x")).unwrap();
    assert!(out.transfer(UNWRITTEN_BYTES, true, &mut to) > 0);
}

#[test]
fn few_written_chunks_are_reused() {
    let mut to = Outgoing::default();
    for _ in 0..5 {
        let mut chunk = Chunk::default();
        chunk.buffer().push(0);
        to.push(chunk);
    }
    to.advance(5);
    let reused = std::iter::from_fn(|| to.take_empty_chunk()).count();
    assert_eq!((reused, to.len()), (2, 0));
}
