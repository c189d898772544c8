//! The regular handshake, and the limits that it negotiates.

use crate::peer::{Peer, close, method, rabbitmq, start, tune};
use puka::machine::Reply;
use puka::protocol::method::connection;
use puka::protocol::{Method, Table, Value};
use puka::{AuthMechanism, Error, Options};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn tune_ok(options: Options, proposal: connection::Tune) -> connection::TuneOk {
    let mut peer = Peer::new(options);
    peer.feed(&start(&rabbitmq(), b"PLAIN"));
    peer.method(0, &proposal);
    let sent = peer.take();
    let tuned = sent
        .iter()
        .find(|sent| sent.is(connection::TuneOk::ID))
        .expect("tune-ok");
    match tuned.method() {
        Method::Connection(connection::Method::TuneOk(ok)) => ok,
        other => panic!("{other:?}"),
    }
}

#[test]
fn handshake_follows_the_spec_and_reports_server_properties() {
    let mut peer = Peer::new(Options::default());
    let promise = peer.machine.connect();
    peer.complete_handshake(tune(2047, 131_072, 60));
    match peer.machine.fetch(promise) {
        Some(Ok(Reply::Connected(server))) => {
            assert_eq!(
                (&*server.product(), &*server.version()),
                ("RabbitMQ", "4.1.0")
            )
        }
        other => panic!("{other:?}"),
    }
    let again = peer.machine.connect();
    assert!(matches!(
        peer.machine.fetch(again),
        Some(Ok(Reply::Connected(_)))
    ));
}

#[test]
fn a07_frame_max_below_the_floor_is_refused() {
    for frame_max in [1, 7, 8, 9, 4095] {
        let mut peer = Peer::new(Options::default());
        let promise = peer.machine.connect();
        peer.feed(&start(&rabbitmq(), b"PLAIN"));
        peer.names();
        peer.method(0, &tune(2047, frame_max, 60));
        let error = peer.error(promise);
        assert!(
            matches!(error, Error::BadTuning { value, .. } if value == frame_max),
            "{error}"
        );
        assert!(
            peer.names().is_empty(),
            "spec 2.2.4: there is no common protocol to report the error in"
        );
        assert!(peer.machine.is_closed());
    }
}

#[test]
fn a08_extreme_proposals_are_answered_within_our_own_limits() {
    for frame_max in [0, 0x8000_0000, u32::MAX] {
        let ok = tune_ok(Options::default(), tune(0xFFFF, frame_max, 0xFFFF));
        assert_eq!(
            (ok.channel_max, ok.frame_max, ok.heartbeat),
            (2047, 131_072, 60)
        );
    }
    let ok = tune_ok(Options::default(), tune(0, 0, 0));
    assert_eq!(
        (ok.channel_max, ok.frame_max, ok.heartbeat),
        (2047, 131_072, 60)
    );
    let ok = tune_ok(
        Options::default().heartbeat(0).channel_max(0),
        tune(0, 0, 0),
    );
    assert_eq!(
        (ok.channel_max, ok.frame_max, ok.heartbeat),
        (2047, 131_072, 0)
    );
}

#[test]
fn a08_unlimited_server_does_not_raise_our_frame_max() {
    // "frame_max 0 or > our ceiling -> we answer our own (131 072)".
    let ok = tune_ok(Options::default().frame_max(0), tune(0, u32::MAX, 0));
    assert!(ok.frame_max <= 1 << 24, "{} bytes", ok.frame_max);
}

#[test]
fn e22_tune_ok_never_exceeds_the_servers_limits() {
    let ok = tune_ok(
        Options::default().channel_max(0).frame_max(0),
        tune(10, 8192, 5),
    );
    assert_eq!((ok.channel_max, ok.frame_max, ok.heartbeat), (10, 8192, 5));
    let ok = tune_ok(
        Options::default()
            .channel_max(5)
            .frame_max(4096)
            .heartbeat(3),
        tune(10, 8192, 0),
    );
    assert_eq!((ok.channel_max, ok.frame_max, ok.heartbeat), (5, 4096, 3));
}

#[test]
fn e22_negotiated_limits_bound_everything_sent() {
    let mut peer = Peer::open_with(Options::default(), tune(2047, 4096, 60));
    let _publish = peer
        .machine
        .publish(&crate::peer::publish("", &*vec![7; 10_000]))
        .unwrap();
    let sent = peer.serve();
    assert!(
        sent.iter().all(|sent| sent.payload.len() <= 4088),
        "{sent:?}"
    );
    let bodies: usize = sent
        .iter()
        .filter(|sent| sent.name().contains("body"))
        .map(|sent| sent.payload.len())
        .sum();
    assert_eq!(bodies, 10_000);
}

#[test]
fn e21_close_instead_of_open_ok_is_the_error() {
    for (code, text) in [
        (530, "NOT_ALLOWED - vhost v not found"),
        (402, "INVALID_PATH"),
        (403, "ACCESS_REFUSED"),
    ] {
        let mut peer = Peer::new(Options::default());
        let promise = peer.machine.connect();
        peer.feed(&start(&rabbitmq(), b"PLAIN"));
        peer.method(0, &tune(0, 0, 0));
        peer.names();
        peer.method(0, &close(code, text));
        let error = peer.error(promise);
        assert_eq!(
            error
                .fault()
                .map(|fault| (fault.code.value(), &*fault.text)),
            Some((code, text))
        );
        assert!(matches!(
            (code, error),
            (530, Error::NotAllowed(_))
                | (402, Error::InvalidPath(_))
                | (403, Error::AccessRefused(_))
        ));
        assert_eq!(peer.names(), ["0 connection.close-ok"]);
    }
}

#[test]
fn e24_common_mechanism_is_chosen_by_our_preference() {
    for (offered, ours, chosen) in [
        (
            &b"AMQPLAIN PLAIN"[..],
            &[AuthMechanism::Plain, AuthMechanism::Amqplain][..],
            "PLAIN",
        ),
        (
            b"PLAIN AMQPLAIN",
            &[AuthMechanism::Amqplain, AuthMechanism::Plain],
            "AMQPLAIN",
        ),
        (
            b"EXTERNAL AMQPLAIN",
            &[AuthMechanism::Plain, AuthMechanism::Amqplain],
            "AMQPLAIN",
        ),
    ] {
        let mut peer = Peer::new(Options::default().auth_mechanisms(ours));
        peer.names();
        peer.feed(&start(&rabbitmq(), offered));
        match peer.take()[0].method() {
            Method::Connection(connection::Method::StartOk(ok)) => {
                assert_eq!(ok.mechanism.to_string(), chosen)
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn e24_missing_common_mechanism_error_names_both_sides() {
    let mut peer = Peer::new(Options::default().auth_mechanisms(&[AuthMechanism::Plain]));
    let promise = peer.machine.connect();
    peer.names();
    peer.feed(&start(&rabbitmq(), b"RABBIT-CR-DEMO PLAINER"));
    match peer.error(promise) {
        Error::NoMechanism { offered, allowed } => {
            assert_eq!((&*offered, &*allowed), ("RABBIT-CR-DEMO PLAINER", "PLAIN"));
        }
        other => panic!("{other:?}"),
    }
    assert!(peer.names().is_empty());
}

#[test]
fn e23_oversized_credentials_are_a_local_error() {
    let token = "t".repeat(8192);
    let mut peer = Peer::new(Options::default().credentials("jwt", &token));
    let promise = peer.machine.connect();
    peer.names();
    peer.feed(&start(&rabbitmq(), b"PLAIN"));
    let error = peer.error(promise);
    assert!(matches!(error, Error::InvalidArgument { .. }));
    assert!(error.to_string().contains("initial_frame_max"), "{error}");
    assert!(!error.to_string().contains("ttt"), "no secret in an error");
    assert!(peer.names().is_empty());
}

#[test]
fn e20_every_handshake_step_has_a_deadline() {
    for steps in 0..3 {
        let mut peer = Peer::new(Options::default().handshake_timeout(10 * SECOND));
        let promise = peer.machine.connect();
        if steps > 0 {
            peer.feed(&start(&rabbitmq(), b"PLAIN"));
        }
        if steps > 1 {
            peer.method(0, &tune(0, 0, 0));
        }
        peer.pass(10 * SECOND - Duration::from_millis(1));
        assert!(peer.is_pending(promise), "after {steps} steps");
        peer.pass(Duration::from_millis(1));
        assert!(matches!(
            peer.error(promise),
            Error::Timeout {
                what: "the handshake",
                ..
            }
        ));
        assert!(peer.machine.is_over());
    }
}

#[test]
fn s42_unanswered_protocol_header_times_out() {
    let mut peer = Peer::new(Options::default());
    let promise = peer.machine.connect();
    let request = peer.machine.request(crate::peer::declare("q")).unwrap();
    peer.pass(60 * SECOND);
    assert!(matches!(peer.error(promise), Error::Timeout { .. }));
    assert!(matches!(peer.error(request), Error::Timeout { .. }));
    assert!(peer.machine.is_over() && peer.machine.poll_timeout().is_none());
}

#[test]
fn s43_one_byte_a_second_extends_no_deadline() {
    let mut peer = Peer::new(Options::default());
    let promise = peer.machine.connect();
    for byte in start(&rabbitmq(), b"PLAIN") {
        if peer.machine.is_closed() {
            break;
        }
        peer.feed(&[byte]);
        peer.pass(SECOND);
    }
    assert!(matches!(
        peer.error(promise),
        Error::Timeout {
            what: "the handshake",
            ..
        }
    ));
}

#[test]
fn s43_one_byte_a_second_opens_within_the_deadline() {
    let mut peer = Peer::new(Options::default().handshake_timeout(3600 * SECOND));
    let promise = peer.machine.connect();
    let bytes = [
        start(&Table::new(), b"PLAIN"),
        method(0, &tune(0, 0, 10)),
        method(0, &connection::OpenOk {}),
    ];
    for byte in bytes.concat() {
        peer.feed(&[byte]);
        peer.pass(SECOND);
    }
    assert!(matches!(
        peer.machine.fetch(promise),
        Some(Ok(Reply::Connected(_)))
    ));
    assert!(peer.machine.why_closed().is_none());
}

#[test]
fn m12_client_announces_every_optional_capability() {
    let options = Options::default()
        .connection_name("orders")
        .client_property("customer", "somebody")
        .unwrap();
    let mut peer = Peer::new(options);
    peer.names();
    peer.feed(&start(&rabbitmq(), b"PLAIN"));
    let sent = peer.take();
    let Method::Connection(connection::Method::StartOk(ok)) = sent[0].method() else {
        panic!("{sent:?}")
    };
    let properties = ok.client_properties;
    let capabilities = properties
        .get("capabilities")
        .and_then(Value::as_table)
        .unwrap();
    let all = capabilities
        .iter()
        .map(|(name, value)| (name.to_str_lossy().into_owned(), value.as_bool()));
    let mut names: Vec<_> = all
        .map(|(name, truth)| (name, truth == Some(true)))
        .collect();
    names.sort();
    let expected = [
        "authentication_failure_close",
        "basic.nack",
        "connection.blocked",
        "consumer_cancel_notify",
        "exchange_exchange_bindings",
        "publisher_confirms",
    ];
    assert_eq!(names, expected.map(|name| (name.to_owned(), true)));
    for name in ["product", "version", "platform"] {
        assert!(
            properties
                .get(name)
                .and_then(Value::as_str)
                .is_some_and(|text| !text.is_empty()),
            "{name}"
        );
    }
    assert_eq!(
        properties.get("connection_name").and_then(Value::as_str),
        Some("orders")
    );
    assert_eq!(
        properties.get("customer").and_then(Value::as_str),
        Some("somebody")
    );
}

#[test]
fn small_frame_max_is_named_after_a_loss() {
    for (frame_max, is_named) in [(4096, true), (8191, true), (8192, false), (0, false)] {
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        for cause in [
            puka::Broken::Eof,
            puka::Broken::from(std::sync::Arc::new(reset)),
        ] {
            let mut peer = Peer::new(Options::default().frame_max(frame_max));
            let promise = peer.machine.connect();
            peer.feed(&start(&rabbitmq(), b"PLAIN"));
            peer.method(0, &tune(2047, 131_072, 60));
            peer.machine.handle_loss(cause);
            let error = peer.error(promise);
            let text = error.to_string();
            assert_eq!(
                text.contains(&format!("frame_max {frame_max}")),
                is_named,
                "{text}"
            );
            assert_eq!(text.contains("8192"), is_named, "{text}");
            assert!(
                matches!(error, Error::ConnectionBroken(_)),
                "it is tried again"
            );
        }
    }
}

#[test]
fn awaited_connection_is_not_idle() {
    let mut peer = Peer::new(Options::default());
    assert!(peer.machine.is_idle());
    let promise = peer.machine.connect();
    assert!(!peer.machine.is_idle());
    peer.machine.abandon(promise);
    peer.complete_handshake(tune(2047, 131_072, 60));
    assert!(peer.machine.is_idle());
}
