//! Malformed frames, and methods at positions where they are not allowed.

use crate::peer::{Peer, close, declare, method, rabbitmq, raw, short, start, tune};
use puka::protocol::method::{basic, channel, connection, queue, tx};
use puka::protocol::{MethodId, ReplyCode};
use puka::{Error, Options, Peer as Side};

/// Returns an open connection with a request pending on channel 1.
fn with_pending_request() -> (Peer, puka::machine::PromiseId) {
    let mut peer = Peer::open(Options::default());
    let promise = peer.machine.request(declare("q")).unwrap();
    assert_eq!(peer.names(), ["1 channel.open", "1 queue.declare"]);
    (peer, promise)
}

/// Checks that these bytes of the server make the client close the connection with this code, in a
/// `close` frame.
#[track_caller]
fn is_answered_by_close(bytes: &[u8], code: ReplyCode) -> MethodId {
    let (mut peer, promise) = with_pending_request();
    peer.feed(bytes);
    let fault = peer.close_reason().fault().expect("a fault").clone();
    assert_eq!(
        (fault.code, fault.found_by),
        (code, Side::Client),
        "{fault}"
    );
    assert_eq!(
        peer.error(promise).fault(),
        Some(&fault),
        "the request has the same error"
    );
    let sent = peer.take();
    assert_eq!(
        sent.iter().map(|sent| sent.name()).collect::<Vec<_>>(),
        ["0 connection.close"]
    );
    let close = method(0, &close(code.value(), &fault.text));
    assert_eq!(
        sent[0].payload[..6],
        close[7..13],
        "the close carries the same code"
    );
    fault.method
}

#[test]
fn e01_wrong_frame_end_stops_parsing_and_sending() {
    let (mut peer, promise) = with_pending_request();
    let mut bytes = method(1, &channel::OpenOk {});
    *bytes.last_mut().unwrap() = 0xCD;
    bytes.extend(method(
        1,
        &queue::DeclareOk {
            queue: short("q"),
            message_count: 0,
            consumer_count: 0,
        },
    ));
    peer.feed(&bytes);
    assert!(
        matches!(peer.close_reason(), Error::FrameError(_)),
        "{:?}",
        peer.close_reason()
    );
    assert!(matches!(peer.error(promise), Error::FrameError(_)));
    assert!(
        peer.names().is_empty(),
        "MUST close without sending (4.2.3)"
    );
    assert!(peer.machine.is_over() && !peer.machine.wants_input());
}

#[test]
fn e01_reply_does_not_depend_on_later_wrong_end() {
    let unknown = raw(3, 513, b"");
    let mut bad = method(1, &channel::OpenOk {});
    *bad.last_mut().unwrap() = 0xCD;
    let (mut at_once, _) = with_pending_request();
    at_once.feed(&[&unknown[..], &bad].concat());
    let (mut later, _) = with_pending_request();
    later.feed(&unknown);
    let names = later.names();
    later.feed(&bad);
    assert_eq!(
        (at_once.names(), &names[..]),
        (names.clone(), &["0 connection.close".to_owned()][..])
    );
    for peer in [&at_once, &later] {
        assert!(
            matches!(peer.close_reason(), Error::ChannelError(_)),
            "{:?}",
            peer.close_reason()
        );
    }
}

#[test]
fn e02_a05_oversized_frame_is_refused_after_seven_bytes() {
    // A body frame of 16 MiB at a negotiated limit of 131 072 bytes, of which only the header has
    // arrived.
    is_answered_by_close(&[3, 0, 1, 1, 0, 0, 0], ReplyCode::FRAME_ERROR);
    let (mut peer, _) = with_pending_request();
    peer.feed(&[3, 0, 1, 1, 0, 0, 0]);
    assert!(
        peer.machine.is_closed(),
        "no close-ok can be parsed after the error"
    );
    peer.pass(std::time::Duration::from_secs(2));
    assert!(peer.machine.is_over(), "and the last bytes have a second");
}

#[test]
fn e03_unknown_frame_types_are_answered_by_501() {
    for kind in [0, 4, 5, 9, 255] {
        is_answered_by_close(&[kind], ReplyCode::FRAME_ERROR);
        is_answered_by_close(&raw(kind, 1, b"abc"), ReplyCode::FRAME_ERROR);
    }
}

#[test]
fn e04_frame_on_unopened_channel_is_answered_by_504() {
    is_answered_by_close(&method(2, &channel::OpenOk {}), ReplyCode::CHANNEL_ERROR);
    is_answered_by_close(&method(65_535, &basic::QosOk {}), ReplyCode::CHANNEL_ERROR);
    is_answered_by_close(&raw(2, 9, &[0; 14]), ReplyCode::CHANNEL_ERROR);
    is_answered_by_close(&raw(3, 9, b"x"), ReplyCode::CHANNEL_ERROR);
}

#[test]
fn e04_frame_on_closed_channel_is_answered_by_504() {
    let mut peer = Peer::open(Options::default().publish_channels(1));
    let first = peer
        .machine
        .publish(&crate::peer::publish("a", "x"))
        .unwrap();
    peer.serve();
    peer.method(1, &crate::peer::ack(1, false));
    peer.expect_done(first);
    let _second = peer
        .machine
        .publish(&crate::peer::publish("b", "x"))
        .unwrap();
    let names: Vec<_> = peer.serve().iter().map(|sent| sent.name()).collect();
    assert!(names.contains(&"1 channel.close".to_owned()), "{names:?}");
    peer.method(1, &crate::peer::ack(2, false));
    assert!(
        matches!(peer.close_reason(), Error::ChannelError(_)),
        "{:?}",
        peer.close_reason()
    );
}

#[test]
fn e10_bytes_after_last_argument_are_answered_by_501() {
    let mut bytes = method(1, &channel::OpenOk {});
    bytes[6] += 1;
    bytes.insert(bytes.len() - 1, 0);
    is_answered_by_close(&bytes, ReplyCode::FRAME_ERROR);
}

#[test]
fn e10_bytes_after_last_property_are_answered_by_501() {
    let mut peer = Peer::open(Options::default());
    let promise = peer.get();
    peer.serve();
    let mut bytes = method(1, &crate::peer::get_ok(1));
    bytes.extend(raw(2, 1, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 7]));
    peer.feed(&bytes);
    assert!(matches!(peer.error(promise), Error::FrameError(_)));
    assert_eq!(peer.names(), ["0 connection.close"]);
}

#[test]
fn e13_malformed_heartbeats_are_answered_by_501() {
    is_answered_by_close(&raw(8, 0, b"x"), ReplyCode::FRAME_ERROR);
    is_answered_by_close(&raw(8, 1, b""), ReplyCode::FRAME_ERROR);
}

#[test]
fn e14_methods_on_wrong_channels_are_refused() {
    let blocked = connection::Blocked {
        reason: short("low on memory"),
    };
    is_answered_by_close(&method(1, &blocked), ReplyCode::COMMAND_INVALID);
    is_answered_by_close(
        &method(1, &connection::CloseOk {}),
        ReplyCode::COMMAND_INVALID,
    );
    is_answered_by_close(&method(0, &channel::OpenOk {}), ReplyCode::CHANNEL_ERROR);
    is_answered_by_close(
        &method(0, &crate::peer::deliver("c", 1)),
        ReplyCode::CHANNEL_ERROR,
    );
    is_answered_by_close(&raw(2, 0, &[0; 14]), ReplyCode::UNEXPECTED_FRAME);
}

#[test]
fn e15_a27_unknown_methods_and_methods_of_clients_are_refused() {
    is_answered_by_close(&raw(1, 1, &[0, 60, 3, 231]), ReplyCode::NOT_IMPLEMENTED);
    is_answered_by_close(&raw(1, 1, &[0, 77, 0, 1]), ReplyCode::NOT_IMPLEMENTED);
    is_answered_by_close(&raw(1, 0, &[0, 10, 0, 99]), ReplyCode::NOT_IMPLEMENTED);
    let publish = basic::Publish {
        exchange: short(""),
        routing_key: short("q"),
        mandatory: false,
        immediate: false,
    };
    let id = is_answered_by_close(&method(1, &publish), ReplyCode::COMMAND_INVALID);
    assert_eq!(id, basic::Publish::ID);
    is_answered_by_close(&method(1, &declare("q")), ReplyCode::COMMAND_INVALID);
}

#[test]
fn a27_truncated_arguments_are_answered_by_501() {
    let whole = method(
        1,
        &queue::DeclareOk {
            queue: short("queue"),
            message_count: 1,
            consumer_count: 1,
        },
    );
    for kept in 4..whole.len() - 8 {
        is_answered_by_close(&raw(1, 1, &whole[7..7 + kept]), ReplyCode::FRAME_ERROR);
    }
    for kept in 0..4 {
        is_answered_by_close(&raw(1, 1, &whole[7..7 + kept]), ReplyCode::FRAME_ERROR);
    }
}

#[test]
fn a31_unexpected_reply_is_answered_by_503() {
    // Another request's reply, a reply of another class, one reply too many, and one too early.
    let ok = queue::DeclareOk {
        queue: short("q"),
        message_count: 0,
        consumer_count: 0,
    };
    is_answered_by_close(&method(1, &ok), ReplyCode::COMMAND_INVALID);
    is_answered_by_close(&method(1, &tx::SelectOk {}), ReplyCode::COMMAND_INVALID);
    is_answered_by_close(&method(1, &basic::GetEmpty {}), ReplyCode::COMMAND_INVALID);
    is_answered_by_close(
        &method(1, &channel::FlowOk { active: true }),
        ReplyCode::COMMAND_INVALID,
    );
    let mut twice = method(1, &channel::OpenOk {});
    twice.extend(method(1, &ok));
    twice.extend(method(1, &ok));
    let mut peer = with_pending_request().0;
    peer.feed(&twice);
    assert!(
        matches!(peer.close_reason(), Error::CommandInvalid(_)),
        "{:?}",
        peer.close_reason()
    );
}

#[test]
fn a31_unexpected_content_is_answered_by_505() {
    let mut bytes = method(1, &channel::OpenOk {});
    bytes.extend(raw(2, 1, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]));
    is_answered_by_close(&bytes, ReplyCode::UNEXPECTED_FRAME);
    let mut bytes = method(1, &channel::OpenOk {});
    bytes.extend(raw(3, 1, b"x"));
    is_answered_by_close(&bytes, ReplyCode::UNEXPECTED_FRAME);
}

#[test]
fn a31_close_ok_without_a_close_is_answered_by_503() {
    let close_ok = method(0, &connection::CloseOk {});
    is_answered_by_close(&close_ok, ReplyCode::COMMAND_INVALID);
}

#[test]
fn e02_negotiated_frame_max_applies_at_once() {
    for is_open in [false, true] {
        let mut peer = Peer::new(Options::default());
        peer.pump();
        peer.feed(&start(&rabbitmq(), b"PLAIN"));
        peer.pump();
        peer.method(0, &tune(0, 4096, 0));
        if is_open {
            peer.method(0, &connection::OpenOk {});
        }
        let oversized = raw(3, 0, &[0; 4096]);
        peer.feed(&oversized[..7]);
        let why = peer.machine.why_closed();
        assert!(
            matches!(why, Some(Error::FrameError(_))),
            "open: {is_open}, {why:?}"
        );
    }
}
