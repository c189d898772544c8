//! Failing handshakes: another protocol, the end of the stream, methods out of order.

use crate::peer::{Peer, close, deliver, header, method, rabbitmq, raw, start, tune};
use puka::machine::PromiseId;
use puka::protocol::method::{channel, connection};
use puka::protocol::{Properties, ProtocolHeader};
use puka::{Broken, Error, Options};
use std::io;
use std::sync::Arc;

/// Returns a handshake after this many steps, and its promise. All output has been read.
fn after(steps: usize) -> (Peer, PromiseId) {
    let mut peer = Peer::new(Options::default());
    let promise = peer.machine.connect();
    if steps > 0 {
        peer.feed(&start(&rabbitmq(), b"PLAIN"));
    }
    if steps > 1 {
        peer.method(0, &tune(0, 0, 0));
    }
    peer.names();
    (peer, promise)
}

#[test]
fn e18_refused_version_is_read_in_any_pieces() {
    for (bytes, proposed) in [
        (
            *b"AMQP\x00\x00\x09\x01",
            ProtocolHeader {
                id: 0,
                major: 0,
                minor: 9,
                revision: 1,
            },
        ),
        (
            *b"AMQP\x03\x01\x00\x00",
            ProtocolHeader {
                id: 3,
                major: 1,
                minor: 0,
                revision: 0,
            },
        ),
    ] {
        for size in 1..=8 {
            let (mut peer, promise) = after(0);
            bytes.chunks(size).for_each(|piece| peer.feed(piece));
            // The reset that follows changes nothing.
            peer.machine
                .handle_loss(Broken::Io(Arc::new(io::ErrorKind::ConnectionReset.into())));
            let error = peer.error(promise);
            assert!(
                matches!(error, Error::UnsupportedProtocol(header) if header == proposed),
                "{error}"
            );
        }
    }
}

#[test]
fn proposed_protocol_is_named_as_people_know_it() {
    for (bytes, name) in [
        (b"AMQP\0\x01\0\0", "AMQP 1.0"),
        (b"AMQP\x02\x01\0\0", "AMQP 1.0 with TLS"),
        (b"AMQP\x03\x01\0\0", "AMQP 1.0 with SASL"),
        (b"AMQP\0\0\x09\x01", "AMQP 0-9-1"),
        (b"AMQP\x01\x01\0\x09", "AMQP 1-1-0-9"),
    ] {
        let (mut peer, promise) = after(0);
        peer.feed(bytes);
        let text = peer.error(promise).to_string();
        assert!(text.ends_with(&format!("it proposes {name}")), "{text}");
    }
}

#[test]
fn e18_peer_without_amqp_is_named_in_the_error() {
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\n"[..],
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"SSH-2.0",
        b"AMQX\0\0\0\0",
    ] {
        let (mut peer, promise) = after(0);
        peer.feed(bytes);
        let error = peer.error(promise);
        assert!(matches!(error, Error::NotAmqp(_)), "{error}");
        assert!(peer.names().is_empty() && peer.machine.is_over());
    }
}

#[test]
fn a06_first_frame_of_4_gib_is_refused_early() {
    for head in [
        [1, 0, 0, 255, 255, 255, 255],
        [1, 0, 0, 255, 255, 255, 248],
        [1, 0, 0, 127, 255, 255, 255],
    ] {
        let (mut peer, promise) = after(0);
        peer.feed(&head);
        let error = peer.error(promise);
        assert!(
            matches!(error, Error::NotAmqp(_) | Error::FrameError(_)),
            "{error}"
        );
        assert!(peer.machine.is_over());
    }
}

#[test]
fn a06_frames_before_tuning_have_at_most_8192_bytes() {
    // Incoming frames before tuning have at most 8192 bytes each, not only the first.
    for steps in 0..2 {
        let (mut peer, promise) = after(steps);
        let mut head = vec![1, 0, 0];
        head.extend(8185_u32.to_be_bytes());
        peer.feed(&head);
        assert!(peer.machine.is_closed(), "after {steps} steps");
        let error = peer.error(promise);
        assert!(
            matches!(error, Error::NotAmqp(_) | Error::FrameError(_)),
            "{error}"
        );
    }
}

#[test]
fn e19_s41_end_of_stream_is_its_own_error_everywhere() {
    for reset in [false, true] {
        let loss = || {
            if reset {
                Broken::Io(Arc::new(io::ErrorKind::ConnectionReset.into()))
            } else {
                Broken::Eof
            }
        };
        for steps in [0, 2] {
            let (mut peer, promise) = after(steps);
            peer.machine.handle_loss(loss());
            let error = peer.error(promise);
            assert!(
                matches!(error, Error::ConnectionBroken(_)),
                "after {steps} steps: {error}"
            );
            assert!(peer.machine.is_over() && peer.names().is_empty());
        }
        let (mut peer, promise) = after(1);
        peer.machine.handle_loss(loss());
        assert!(
            matches!(peer.error(promise), Error::LoginRefused),
            "in reply to the login"
        );
    }
}

#[test]
fn e19_servers_reason_for_a_refused_login_is_reported() {
    let (mut peer, promise) = after(1);
    peer.method(0, &close(403, "ACCESS_REFUSED - Login was refused"));
    peer.machine.handle_loss(Broken::Eof);
    assert!(matches!(peer.error(promise), Error::AccessRefused(_)));
}

#[test]
fn s41_end_of_stream_inside_handshake_frames_ends_everything() {
    let steps = [
        start(&rabbitmq(), b"PLAIN"),
        method(0, &tune(0, 0, 0)),
        method(0, &connection::OpenOk {}),
    ];
    let all = steps.concat();
    for cut in 0..all.len() {
        let mut peer = Peer::new(Options::default());
        let promise = peer.machine.connect();
        let request = peer.machine.request(crate::peer::declare("q")).unwrap();
        peer.feed(&all[..cut]);
        peer.machine.handle_loss(Broken::Eof);
        peer.error(promise);
        peer.error(request);
        assert!(
            peer.machine.is_over() && peer.machine.is_idle(),
            "cut at {cut}"
        );
    }
}

#[test]
fn e20_a31_methods_out_of_order_end_the_handshake() {
    let start = start(&rabbitmq(), b"PLAIN");
    let tune = method(0, &tune(0, 0, 0));
    let open_ok = method(0, &connection::OpenOk {});
    let secure = method(0, &connection::Secure { challenge: b"?" });
    let blocked = method(
        0,
        &connection::Blocked {
            reason: crate::peer::short("?"),
        },
    );
    let wrong: [&[&Vec<u8>]; 3] = [
        &[&tune, &open_ok, &secure, &blocked],
        &[&start, &open_ok, &blocked],
        &[&start, &tune, &secure, &blocked],
    ];
    for (steps, wrong) in wrong.iter().enumerate() {
        for bytes in *wrong {
            let (mut peer, promise) = after(steps);
            peer.feed(bytes);
            let error = peer.error(promise);
            assert!(
                matches!(error, Error::CommandInvalid(_)),
                "after {steps} steps: {error}"
            );
            let expected = [
                "expected connection.start, got",
                "expected connection.tune or secure, got",
                "expected connection.open-ok, got",
            ];
            assert!(error.to_string().contains(expected[steps]), "{error}");
            assert!(peer.machine.is_closed() && peer.names().is_empty());
        }
    }
}

#[test]
fn e20_content_and_channels_in_the_handshake_end_it() {
    for steps in 0..3 {
        for bytes in [
            method(1, &channel::OpenOk {}),
            method(0, &deliver("c", 1)),
            header(0, 1, Properties::default()),
            raw(3, 1, b"x"),
        ] {
            let (mut peer, promise) = after(steps);
            peer.feed(&bytes);
            let error = peer.error(promise);
            assert!(error.fault().is_some(), "after {steps} steps: {error}");
            assert!(peer.machine.is_closed());
        }
    }
}

#[test]
fn e20_heartbeat_in_the_handshake_does_no_harm() {
    let (mut peer, promise) = after(2);
    peer.feed(&raw(8, 0, b""));
    assert!(peer.is_pending(promise));
    peer.method(0, &connection::OpenOk {});
    assert!(matches!(peer.machine.fetch(promise), Some(Ok(_))));
}

#[test]
fn e22_own_frame_max_below_the_floor_is_refused() {
    let mut peer = Peer::new(Options::default().frame_max(4095));
    let promise = peer.machine.connect();
    assert!(matches!(
        peer.error(promise),
        Error::InvalidArgument {
            what: "frame_max",
            ..
        }
    ));
    assert!(peer.names().is_empty() && peer.machine.is_over());
}

#[test]
fn channel_used_before_open_is_named() {
    let (mut peer, promise) = after(1);
    peer.method(7, &channel::OpenOk {});
    let error = peer.error(promise);
    assert!(matches!(error, Error::ChannelError(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("a frame on channel 7 before the connection was open"),
        "{text}"
    );
}

#[test]
fn only_the_first_bytes_prove_another_protocol() {
    for steps in 0..3 {
        let (mut peer, promise) = after(steps);
        peer.feed(b"HTTP/1.1 400 Bad Request");
        let error = peer.error(promise);
        assert_eq!(matches!(error, Error::NotAmqp(_)), steps == 0, "{error}");
    }
}
