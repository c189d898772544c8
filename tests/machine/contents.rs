//! Messages assembled from their frames, and the inputs of hostile servers.

use crate::peer::{Peer, consume, deliver, get_ok, header, method, raw, short};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use puka::machine::{PromiseId, Settle};
use puka::protocol::frame::FRAME_END;
use puka::protocol::{FrameKind, Properties, ReplyCode};
use puka::{Error, Options};

/// Returns a connection with a get on channel 1 whose `get-ok` has arrived.
fn got(options: Options) -> (Peer, PromiseId) {
    let mut peer = Peer::open(options);
    let promise = peer.get();
    assert_eq!(peer.serve().last().unwrap().name(), "1 basic.get");
    peer.method(1, &get_ok(1));
    (peer, promise)
}

fn body(bytes: &[u8]) -> Vec<u8> {
    raw(3, 1, bytes)
}

fn size(size: u64) -> Vec<u8> {
    header(1, size, Properties::default())
}

fn message(peer: &mut Peer, promise: PromiseId) -> puka::machine::Delivered {
    match peer.machine.fetch(promise) {
        Some(Ok(puka::machine::Reply::Delivery(Some(got)))) => got.delivered,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn ends_with(bytes: &[u8], code: ReplyCode) {
    let (mut peer, promise) = got(Options::default());
    peer.feed(bytes);
    let error = peer.error(promise);
    assert_eq!(error.fault().map(|fault| fault.code), Some(code), "{error}");
    assert_eq!(peer.names(), ["0 connection.close"]);
}

#[test]
fn e05_empty_body_is_complete_at_its_header() {
    let (mut peer, promise) = got(Options::default());
    peer.feed(&size(0));
    assert_eq!(message(&mut peer, promise).message.body(), b"");
}

#[test]
fn e05_empty_body_frames_are_accepted_up_to_limit() {
    let (mut peer, promise) = got(Options::default());
    peer.feed(&[size(2), body(b"a"), body(b"").repeat(1024), body(b"b")].concat());
    assert_eq!(message(&mut peer, promise).message.body(), b"ab");
    ends_with(
        &[size(2), body(b"a"), body(b"").repeat(1025)].concat(),
        ReplyCode::UNEXPECTED_FRAME,
    );
}

#[test]
fn e06_a26_excess_body_bytes_are_answered_by_501() {
    ends_with(&[size(1), body(b"ab")].concat(), ReplyCode::FRAME_ERROR);
    ends_with(
        &[size(3), body(b"ab"), body(b"cd")].concat(),
        ReplyCode::FRAME_ERROR,
    );
}

#[test]
fn e06_unexpected_body_or_header_is_answered_by_505() {
    ends_with(&body(b"a"), ReplyCode::UNEXPECTED_FRAME);
    ends_with(&[size(1), size(1)].concat(), ReplyCode::UNEXPECTED_FRAME);
}

#[test]
fn e07_method_inside_a_content_is_answered_by_505() {
    let close = method(1, &crate::peer::channel_close(404, "NOT_FOUND"));
    ends_with(&close, ReplyCode::UNEXPECTED_FRAME);
    ends_with(
        &[size(4), body(b"ab"), close].concat(),
        ReplyCode::UNEXPECTED_FRAME,
    );
}

#[test]
fn e07_contents_of_other_channels_and_heartbeats_interleave() {
    let mut peer = Peer::open(Options::default());
    let (one, first, first_tag) = peer.consumer(&consume("a"));
    let (other, second, second_tag) = peer.consumer(&consume("b"));
    let bytes = [
        method(first, &deliver(&first_tag, 1)),
        raw(8, 0, b""),
        method(second, &deliver(&second_tag, 1)),
        header(second, 2, Properties::default()),
        header(first, 4, Properties::default()),
        raw(3, first, b"wx"),
        raw(8, 0, b""),
        raw(3, second, b"12"),
        raw(3, first, b"yz"),
    ];
    peer.feed(&bytes.concat());
    assert_eq!(peer.take_deliveries(one)[0].message.body(), b"wxyz");
    assert_eq!(peer.take_deliveries(other)[0].message.body(), b"12");
}

#[test]
fn e08_wrong_class_or_weight_is_answered_by_505() {
    ends_with(
        &raw(2, 1, &[0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]),
        ReplyCode::UNEXPECTED_FRAME,
    );
    ends_with(
        &raw(2, 1, &[0, 60, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]),
        ReplyCode::UNEXPECTED_FRAME,
    );
}

#[test]
fn e11_header_larger_than_frame_max_is_accepted() {
    let mut peer = Peer::open_with(Options::default(), crate::peer::tune(0, 4096, 0));
    let promise = peer.get();
    peer.serve();
    let mut headers = puka::protocol::Table::new();
    headers.insert("large", &*vec![7_u8; 100_000]).unwrap();
    let mut properties = Properties::default();
    properties.headers = Some(headers.as_ref().into());
    peer.feed(&[method(1, &get_ok(1)), header(1, 1, properties), body(b"x")].concat());
    assert_eq!(
        message(&mut peer, promise).message.headers().unwrap(),
        headers.as_ref()
    );
}

#[test]
fn a03_huge_body_is_never_parsed_as_methods() {
    let (mut peer, promise) = got(Options::default());
    let inside = method(0, &crate::peer::close(320, "not a command"));
    peer.feed(&[size(1 << 63), body(&inside), body(&inside)].concat());
    assert!(peer.machine.why_closed().is_none());
    assert!(peer.is_pending(promise));
    assert!(peer.names().is_empty());
}

#[test]
fn v06_message_above_the_limit_is_drained() {
    let (mut peer, promise) = got(Options::default().max_message_size(10));
    peer.feed(&[size(11), body(b"0123456789"), body(b"x")].concat());
    let delivered = message(&mut peer, promise);
    assert_eq!(
        (delivered.message.too_large_body(), delivered.message.body()),
        (Some(11), &b""[..])
    );
    peer.machine
        .settle(&delivered, Settle::Reject { requeue: false })
        .unwrap();
    assert_eq!(peer.names(), ["1 basic.reject"]);
    // The same at the limit.
    let at_limit = peer.get_message(2, b"0123456789");
    assert_eq!(at_limit.message.body(), b"0123456789");
}

#[test]
fn v06_malformed_headers_fail_only_their_message() {
    let (mut peer, promise) = got(Options::default());
    let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x20, 0, 0, 0, 0, 3];
    payload.extend(b"\x01kZ");
    peer.feed(&[raw(2, 1, &payload), body(b"x")].concat());
    let delivered = message(&mut peer, promise);
    assert!(delivered.message.headers().is_err());
    assert_eq!(delivered.message.body(), b"x");
    assert!(peer.machine.why_closed().is_none());
}

#[test]
fn v06_repeated_delivery_tag_ends_the_connection() {
    let mut peer = Peer::open(Options::default());
    let (_, channel, tag) = peer.consumer(&consume("q"));
    peer.deliver(channel, &tag, 1, b"x");
    peer.deliver(channel, &tag, 1, b"x");
    assert!(
        matches!(peer.close_reason(), Error::CommandInvalid(_)),
        "{:?}",
        peer.close_reason()
    );
}

#[test]
fn large_body_is_stored_without_a_copy() {
    for (bytes, is_shared) in [
        (1, false),
        (16 << 10, false),
        ((16 << 10) + 1, true),
        (100_000, true),
    ] {
        let (mut peer, promise) = got(Options::default());
        let whole = vec![b'x'; bytes];
        let frames: Vec<u8> = whole.chunks(4000).flat_map(body).collect();
        peer.feed(&[size(bytes as u64), frames].concat());
        let message = message(&mut peer, promise).message;
        let kept = message.body_bytes();
        assert_eq!(
            kept.as_ptr() == message.body().as_ptr(),
            is_shared,
            "{bytes}"
        );
        drop(message);
        assert!(kept == whole, "{bytes}");
    }
}

#[test]
fn s50_bodies_of_sizes_around_frame_max_arrive_whole() {
    for bytes in [
        0, 1, 16_384, 16_385, 131_063, 131_064, 131_065, 262_128, 1_000_000,
    ] {
        let mut peer = Peer::open(Options::default());
        let sent: Vec<u8> = (0..bytes).map(|place| place as u8).collect();
        assert!(peer.get_message(1, &sent).message.body() == sent, "{bytes}");
    }
}

/// The content that follows a `deliver`.
#[derive(Clone, Debug)]
struct Content {
    size: usize,
    has_properties: bool,
    /// The position at which the body frame is split.
    cut: Option<Index>,
    /// A frame inserted between two of these.
    between: Option<(FrameKind, usize)>,
}

fn contents() -> impl Strategy<Value = Vec<Content>> {
    let size = select(vec![0, 1, 16, 500, 16_384, 16_385, 20_000]);
    let between = prop::option::weighted(
        0.1,
        (
            select(vec![FrameKind::Heartbeat, FrameKind::Body]),
            0..3_usize,
        ),
    );
    let cut = prop::option::weighted(0.2, any::<Index>());
    let content =
        (size, any::<bool>(), cut, between).prop_map(|(size, has_properties, cut, between)| {
            Content {
                size,
                has_properties,
                cut,
                between,
            }
        });
    prop::collection::vec(content, 1..8)
}

fn delivery(channel: u16, consumer_tag: &str, tag: u64, content: &Content) -> Vec<u8> {
    let mut properties = Properties::default();
    if content.has_properties {
        properties.priority = Some(3);
        properties.message_id = Some(short("id"));
    }
    let body: Vec<u8> = (0..content.size).map(|place| place as u8).collect();
    let mut frames = vec![
        method(channel, &deliver(consumer_tag, tag)),
        header(channel, body.len() as u64, properties),
    ];
    match content.cut {
        _ if body.is_empty() => {}
        Some(cut) => {
            let (head, rest) = body.split_at(cut.index(body.len()));
            frames.extend([raw(3, channel, head), raw(3, channel, rest)]);
        }
        None => frames.push(raw(3, channel, &body)),
    }
    match content.between {
        Some((FrameKind::Heartbeat, place)) => {
            frames.insert(place.min(frames.len()), raw(8, 0, b""))
        }
        Some((_, place)) => frames.insert(place.min(frames.len()), raw(3, channel + 1, b"x")),
        None => {}
    }
    frames.concat()
}

proptest! {
    /// One of the bytes may be changed, also a frame's end, so that a frame is wrong.
    #[test]
    fn messages_do_not_depend_on_the_read_chunks(
        contents in contents(),
        wrong in prop::option::weighted(0.4, (any::<Index>(), any::<bool>(), any::<u8>())),
        piece in select(vec![1_usize, 7, 40, 999]),
    ) {
        let all_of = |piece: usize| {
            let mut peer = Peer::open(Options::default().recovery(None).max_message_size(16_384));
            let (consumer, channel, tag) = peer.consumer(&consume("q"));
            let deliveries = contents.iter().zip(1..);
            let mut bytes: Vec<u8> =
                deliveries
                    .flat_map(|(content, number)| delivery(channel, &tag, number, content))
                    .collect();
            if let Some((place, of_an_end, byte)) = wrong {
                let is_end = |place: &usize| bytes[*place] == FRAME_END;
                let ends: Vec<_> = (0..bytes.len()).filter(is_end).collect();
                let place = if of_an_end { *place.get(&ends) } else { place.index(bytes.len()) };
                bytes[place] = byte;
            }
            bytes.chunks(piece).for_each(|piece| peer.feed(piece));
            let taken: Vec<_> = peer
                .take_deliveries(consumer)
                .into_iter()
                .map(|it| {
                    let (message, body) = (&it.message, it.message.body());
                    format!("{} {} {message:?} {body:?}", it.tag, it.redelivered)
                })
                .collect();
            (taken, format!("{:?}", peer.machine.why_closed()), peer.names())
        };
        prop_assert_eq!(all_of(usize::MAX), all_of(piece));
    }
}
