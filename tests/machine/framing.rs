//! Frames that are wrong by themselves, and methods where they may not stand.

use crate::peer::{Peer, close, declare, method, raw, short};
use puka::protocol::method::{basic, channel, connection, queue, tx};
use puka::protocol::{MethodId, ReplyCode};
use puka::{Error, Options, Peer as Side};

/// An open connection with a request pending on channel 1.
fn waiting() -> (Peer, puka::machine::PromiseId) {
    let mut peer = Peer::open(Options::default());
    let promise = peer.machine.request(declare("q")).unwrap();
    assert_eq!(peer.names(), ["1 channel.open", "1 queue.declare"]);
    (peer, promise)
}

/// The server writes this, and the connection is closed over it, with that code and in the words of
/// a close.
#[track_caller]
fn is_answered_by_close(octets: &[u8], code: ReplyCode) -> MethodId {
    let (mut peer, promise) = waiting();
    peer.feed(octets);
    let fault = peer.why().fault().expect("a fault").clone();
    assert_eq!(
        (fault.code, fault.found_by),
        (code, Side::Client),
        "{fault}"
    );
    assert_eq!(
        peer.error(promise).fault(),
        Some(&fault),
        "the request has the same answer"
    );
    let sent = peer.take();
    assert_eq!(
        sent.iter().map(|sent| sent.name()).collect::<Vec<_>>(),
        ["0 connection.close"]
    );
    let close = method(0, &close(code.value(), &fault.text));
    assert_eq!(sent[0].payload[..6], close[7..13], "it says the same code");
    fault.method
}

#[test]
fn e01_a_wrong_frame_end_drops_the_transport_and_nothing_more_is_parsed_or_sent() {
    let (mut peer, promise) = waiting();
    let mut octets = method(1, &channel::OpenOk {});
    *octets.last_mut().unwrap() = 0xCD;
    octets.extend(method(
        1,
        &queue::DeclareOk {
            queue: short("q"),
            message_count: 0,
            consumer_count: 0,
        },
    ));
    peer.feed(&octets);
    assert!(
        matches!(peer.why(), Error::FrameError(_)),
        "{:?}",
        peer.why()
    );
    assert!(matches!(peer.error(promise), Error::FrameError(_)));
    assert!(
        peer.names().is_empty(),
        "MUST close without sending (4.2.3)"
    );
    assert!(peer.machine.is_over() && !peer.machine.wants_input());
}

#[test]
fn e01_what_the_server_is_told_it_is_told_whether_a_wrong_frame_end_follows_at_once_or_later() {
    let unknown = raw(3, 513, b"");
    let mut bad = method(1, &channel::OpenOk {});
    *bad.last_mut().unwrap() = 0xCD;
    let (mut at_once, _) = waiting();
    at_once.feed(&[&unknown[..], &bad].concat());
    let (mut later, _) = waiting();
    later.feed(&unknown);
    let told = later.names();
    later.feed(&bad);
    assert_eq!(
        (at_once.names(), &told[..]),
        (told.clone(), &["0 connection.close".to_owned()][..])
    );
    for peer in [&at_once, &later] {
        assert!(
            matches!(peer.why(), Error::ChannelError(_)),
            "{:?}",
            peer.why()
        );
    }
}

#[test]
fn e02_a05_a_frame_over_the_limit_is_refused_on_its_first_seven_octets() {
    // A body frame of 16 MiB where 131 072 octets were agreed upon, of which nothing but the head
    // has come.
    is_answered_by_close(&[3, 0, 1, 1, 0, 0, 0], ReplyCode::FRAME_ERROR);
    let (mut peer, _) = waiting();
    peer.feed(&[3, 0, 1, 1, 0, 0, 0]);
    assert!(
        peer.machine.is_closed(),
        "no close-ok could be understood any more"
    );
    peer.pass(std::time::Duration::from_secs(2));
    assert!(peer.machine.is_over(), "and the last octets have a second");
}

#[test]
fn e03_unknown_frame_types_are_answered_by_501() {
    for kind in [0, 4, 5, 9, 255] {
        is_answered_by_close(&[kind], ReplyCode::FRAME_ERROR);
        is_answered_by_close(&raw(kind, 1, b"abc"), ReplyCode::FRAME_ERROR);
    }
}

#[test]
fn e04_a_frame_on_a_channel_that_is_not_open_is_answered_by_504() {
    is_answered_by_close(&method(2, &channel::OpenOk {}), ReplyCode::CHANNEL_ERROR);
    is_answered_by_close(&method(65_535, &basic::QosOk {}), ReplyCode::CHANNEL_ERROR);
    is_answered_by_close(&raw(2, 9, &[0; 14]), ReplyCode::CHANNEL_ERROR);
    is_answered_by_close(&raw(3, 9, b"x"), ReplyCode::CHANNEL_ERROR);
}

#[test]
fn e04_a_frame_on_a_channel_that_was_closed_is_answered_by_504() {
    let mut peer = Peer::open(Options::default().publish_channels(1));
    let first = peer
        .machine
        .publish(&crate::peer::publish("a", "x"))
        .unwrap();
    peer.serve();
    peer.method(1, &crate::peer::ack(1, false));
    peer.done(first);
    let _second = peer
        .machine
        .publish(&crate::peer::publish("b", "x"))
        .unwrap();
    let names: Vec<_> = peer.serve().iter().map(|sent| sent.name()).collect();
    assert!(names.contains(&"1 channel.close".to_owned()), "{names:?}");
    peer.method(1, &crate::peer::ack(2, false));
    assert!(
        matches!(peer.why(), Error::ChannelError(_)),
        "{:?}",
        peer.why()
    );
}

#[test]
fn e10_octets_left_over_after_the_last_argument_are_answered_by_501() {
    let mut octets = method(1, &channel::OpenOk {});
    octets[6] += 1;
    octets.insert(octets.len() - 1, 0);
    is_answered_by_close(&octets, ReplyCode::FRAME_ERROR);
}

#[test]
fn e10_octets_left_over_after_the_last_property_are_answered_by_501() {
    let mut peer = Peer::open(Options::default());
    let promise = peer.get();
    peer.serve();
    let mut octets = method(1, &crate::peer::get_ok(1));
    octets.extend(raw(2, 1, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 7]));
    peer.feed(&octets);
    assert!(matches!(peer.error(promise), Error::FrameError(_)));
    assert_eq!(peer.names(), ["0 connection.close"]);
}

#[test]
fn e13_heartbeats_with_a_payload_or_on_a_channel_are_answered_by_501() {
    is_answered_by_close(&raw(8, 0, b"x"), ReplyCode::FRAME_ERROR);
    is_answered_by_close(&raw(8, 1, b""), ReplyCode::FRAME_ERROR);
}

#[test]
fn e14_methods_of_the_connection_on_a_channel_are_answered_by_503_and_of_a_channel_on_0_by_504() {
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
fn e15_a27_methods_that_nobody_has_and_methods_of_a_client_are_refused() {
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
fn a27_arguments_that_are_cut_short_are_answered_by_501() {
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
fn a31_a_reply_that_answers_nothing_is_refused_with_503() {
    // Another request's reply, a reply of another class, one reply too many, and one before its
    // turn.
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
    let mut peer = waiting().0;
    peer.feed(&twice);
    assert!(
        matches!(peer.why(), Error::CommandInvalid(_)),
        "{:?}",
        peer.why()
    );
}

#[test]
fn a31_content_behind_a_method_without_content_is_refused_with_505() {
    let mut octets = method(1, &channel::OpenOk {});
    octets.extend(raw(2, 1, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]));
    is_answered_by_close(&octets, ReplyCode::UNEXPECTED_FRAME);
    let mut octets = method(1, &channel::OpenOk {});
    octets.extend(raw(3, 1, b"x"));
    is_answered_by_close(&octets, ReplyCode::UNEXPECTED_FRAME);
}
