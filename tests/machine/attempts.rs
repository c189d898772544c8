//! The attempts to reconnect: endpoints, credentials, backoff, and the last attempt.

use crate::peer::{Peer, close, declare, publish, rabbitmq, start, tune};
use crate::recovering::{SECOND, complete_handshake, dialled, options, replied};
use puka::machine::{ConnectionState, Dialled, Notice, Reply};
use puka::protocol::method::connection;
use puka::{Broken, Endpoint, Error, FailedAttempt, Options, Recovery};
use std::error::Error as _;
use std::io;
use std::time::Duration;

#[test]
fn r2_another_protocol_is_a_failed_attempt() {
    for first in [
        &b"AMQP\x03\x01\x00\x00"[..],
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
    ] {
        let mut peer = dialled();
        peer.machine.handle_loss(Broken::Eof);
        peer.dial();
        peer.feed(first);
        assert!(peer.machine.is_down());
        peer.dial();
        complete_handshake(&mut peer);
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
    }
}

fn of_three(set: impl FnOnce(Recovery) -> Recovery) -> Options {
    Options::from_uri("amqp://one,two,three/")
        .unwrap()
        .recovery(set(Recovery::default().seed(1)))
}

#[test]
fn s4_attempt_tries_every_endpoint_at_once() {
    let mut peer = Peer::undialled(of_three(|recovery| recovery));
    let connected = peer.machine.connect();
    let start = peer.now;
    // The first refuses connections, and the second is not a broker.
    assert_eq!(peer.until_dialling().first, 0);
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused).into();
    let mut second = Dialled::new(1, false);
    second.failed = vec![FailedAttempt::new(
        0,
        Endpoint::tcp("one", 5672),
        Some("10.0.0.1:5672".parse().unwrap()),
        refused,
    )];
    peer.machine.handle_dialled(peer.now, second);
    peer.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let third = peer.until_dialling();
    let failed = [(0, None), (1, None)];
    assert_eq!((third.first, &third.failed[..]), (2, &failed[..]));
    assert_eq!(peer.now, start);
    peer.machine
        .handle_dialled(peer.now, Dialled::new(2, false));
    peer.names();
    peer.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    // One round before the attempt fails.
    let error = peer.error(connected);
    let not_amqp = "the broker does not speak AMQP: its first bytes are HTTP/1.1 400 Bad Request";
    let lines: Vec<_> = error.to_string().split("; ").map(str::to_owned).collect();
    assert_eq!(lines.len(), 3, "{error}");
    assert_eq!(lines[0], "one:5672 (10.0.0.1:5672): connection refused");
    assert!(
        lines[1].starts_with(&format!("two:5672: {not_amqp}")),
        "{error}"
    );
    assert!(
        lines[2].starts_with(&format!("three:5672: {not_amqp}")),
        "{error}"
    );
    assert!(error.source().is_none(), "the text has all causes");
    assert!(error.is_connection_broken());
    assert!(peer.machine.is_closed());
}

#[test]
fn s4_odd_endpoint_does_not_delay_the_others() {
    let mut peer = Peer::undialled(of_three(|recovery| recovery));
    peer.dial();
    complete_handshake(&mut peer);
    peer.machine.handle_loss(Broken::Eof);
    for round in 0..5 {
        let first = peer.until_dialling().first;
        let start = peer.now;
        for place in 0..3 {
            if place > 0 {
                assert_eq!(peer.until_dialling().first, (first + place) % 3, "{round}");
                assert_eq!(peer.now, start, "{round}");
            }
            peer.machine
                .handle_dialled(peer.now, Dialled::new((first + place) % 3, false));
            peer.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
        peer.until_dialling();
        assert!(peer.now > start || round == 0, "no hot loop");
        peer.machine.handle_dial_failure(
            peer.now,
            Error::Timeout {
                what: "dialling",
                after: SECOND,
            },
        );
    }
    assert!(!peer.machine.is_closed());
}

#[test]
fn s13_successful_recovery_counts_as_no_failed_attempt() {
    let mut peer = Peer::dialled(options(|recovery| recovery.max_attempts(2)));
    for _ in 0..10 {
        peer.machine.handle_loss(Broken::Eof);
        assert_eq!(peer.until_dialling().attempt, 1);
        peer.machine.handle_dial_failure(
            peer.now,
            Error::Timeout {
                what: "dialling",
                after: SECOND,
            },
        );
        assert_eq!(peer.dial(), 2);
        complete_handshake(&mut peer);
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
    }
}

#[test]
fn r3_credentials_are_requested_again_and_may_fail_temporarily() {
    let requests = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = requests.clone();
    let options = options(|recovery| recovery).credentials_from(move || {
        match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            1 | 2 => Err("the token server is down".into()),
            nth => Ok(puka::Credentials::new("user", format!("token {nth}"))),
        }
    });
    let mut peer = Peer::undialled(options);
    let log_in = |peer: &mut Peer| {
        peer.dial();
        assert_eq!(peer.names(), ["protocol header"]);
        peer.feed(&crate::peer::start(&crate::peer::rabbitmq(), b"PLAIN"));
        let outcome = peer.machine.poll_login().unwrap().run();
        peer.machine.handle_login(outcome);
    };
    log_in(&mut peer);
    peer.method(0, &tune(2047, 131_072, 60));
    peer.method(0, &connection::OpenOk {});
    peer.machine.handle_loss(Broken::Eof);
    for _ in 0..2 {
        log_in(&mut peer);
        assert!(peer.machine.is_down());
    }
    log_in(&mut peer);
    peer.method(0, &tune(2047, 131_072, 60));
    peer.method(0, &connection::OpenOk {});
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    assert_eq!(requests.load(std::sync::atomic::Ordering::Relaxed), 4);
}

#[test]
fn credentials_that_panic_are_a_failed_attempt() {
    let logins = std::sync::atomic::AtomicU32::new(0);
    let credentials = move || match logins.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        1 => panic!("the source panics"),
        _ => Ok(puka::Credentials::new("user", "secret")),
    };
    let mut peer = Peer::undialled(options(|recovery| recovery).credentials_from(credentials));
    for login in 0..3 {
        peer.dial();
        peer.names();
        peer.feed(&crate::peer::start(&crate::peer::rabbitmq(), b"PLAIN"));
        let outcome = peer.machine.poll_login().unwrap().run();
        peer.machine.handle_login(outcome);
        if login == 1 {
            assert!(
                peer.machine.is_down(),
                "no handshake runs into its deadline"
            );
            continue;
        }
        peer.method(0, &tune(2047, 131_072, 60));
        peer.method(0, &connection::OpenOk {});
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
        peer.machine.handle_loss(Broken::Eof);
    }
}

#[test]
fn s17_first_connect_is_retried_only_on_request() {
    let refused = || Error::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
    let mut peer = Peer::undialled(options(|recovery| recovery));
    let connected = peer.machine.connect();
    peer.until_dialling();
    peer.machine.handle_dial_failure(peer.now, refused());
    assert!(matches!(
        peer.error(connected),
        Error::ConnectionBroken(Broken::Io(_))
    ));
    assert!(peer.machine.is_closed());

    let mut peer = Peer::undialled(options(|recovery| recovery.retry_first_connect(true)));
    let connected = peer.machine.connect();
    for attempt in 0..5 {
        assert_eq!(peer.until_dialling().attempt, attempt);
        peer.machine.handle_dial_failure(peer.now, refused());
        assert!(matches!(peer.machine.state(), ConnectionState::Connecting));
    }
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
    assert!(matches!(replied(&mut peer, connected), Reply::Connected(_)));
}

#[test]
fn s13_last_failed_attempt_ends_every_promise() {
    let mut peer = Peer::dialled(options(|recovery| recovery.max_attempts(3)));
    let listener = peer.machine.listen();
    peer.machine.handle_loss(Broken::Eof);
    let (request, published) = (
        peer.machine.request(declare("q")).unwrap(),
        peer.machine.publish(&publish("", "body")).unwrap(),
    );
    for attempt in 1..=3 {
        assert_eq!(peer.until_dialling().attempt, attempt);
        peer.machine.handle_dial_failure(
            peer.now,
            Error::Timeout {
                what: "dialling",
                after: SECOND,
            },
        );
    }
    assert!(matches!(
        peer.error(request),
        Error::Timeout {
            what: "dialling",
            ..
        }
    ));
    assert!(matches!(
        peer.error(published),
        Error::Timeout {
            what: "dialling",
            ..
        }
    ));
    assert!(peer.machine.is_closed() && peer.machine.is_idle());
    let received: Vec<_> = std::iter::from_fn(|| peer.machine.take_notice(listener)).collect();
    let [
        Notice::Disconnected(_),
        Notice::Retrying { attempt: 1, .. },
        Notice::Retrying { attempt: 2, .. },
        Notice::Retrying { attempt: 3, .. },
        Notice::Closed(_),
    ] = &received[..]
    else {
        panic!("{received:?}")
    };

    let mut peer = Peer::dialled(options(|recovery| {
        recovery.max_time(Duration::from_secs(60))
    }));
    peer.machine.handle_loss(Broken::Eof);
    let start = peer.now;
    while !peer.machine.is_closed() {
        peer.until_dialling();
        peer.machine.handle_dial_failure(
            peer.now,
            Error::Timeout {
                what: "dialling",
                after: SECOND,
            },
        );
    }
    let took = peer.now - start;
    assert!(
        took >= Duration::from_secs(60) && took < Duration::from_secs(91),
        "{took:?}"
    );
}

#[test]
fn r3_backoff_grows_and_resets_after_a_stable_connection() {
    let mut longest = Vec::new();
    for attempt in 1..=12_u32 {
        let mut delays = Vec::new();
        for seed in 0..50 {
            let mut peer = Peer::dialled(options(|recovery| recovery.seed(seed * 1_000_003 + 17)));
            peer.machine.handle_loss(Broken::Eof);
            for _ in 1..attempt {
                peer.until_dialling();
                peer.machine.handle_dial_failure(
                    peer.now,
                    Error::Timeout {
                        what: "dialling",
                        after: SECOND,
                    },
                );
            }
            let before = peer.now;
            peer.until_dialling();
            delays.push(peer.now - before);
        }
        let bound = Duration::from_millis(100 << (attempt - 1)).min(Duration::from_secs(30));
        assert!(
            delays.iter().all(|delay| *delay <= bound),
            "{attempt}: {delays:?}"
        );
        delays.sort();
        delays.dedup();
        assert!(delays.len() > 25, "{attempt}: {delays:?}");
        longest.push(delays[delays.len() - 1]);
    }
    assert!(
        longest[0] < Duration::from_millis(101) && longest[11] > Duration::from_secs(20),
        "{longest:?}"
    );

    // Returns the delay after this many connections that were lost at once, and then one that
    // stayed open.
    let after = |losses: u32, stands: bool| {
        let mut delays = (0..50_u64).map(|seed| {
            let mut peer = Peer::dialled(options(|recovery| recovery.seed(seed * 1_000_003 + 17)));
            (0..losses).for_each(|_| peer.reconnect());
            if stands {
                peer.machine.handle_loss(Broken::Eof);
                peer.dial();
                peer.complete_handshake(tune(2047, 131_072, 0));
                peer.pass(Duration::from_secs(60));
            }
            peer.machine.handle_loss(Broken::Eof);
            let before = peer.now;
            assert_eq!(peer.until_dialling().attempt, 1);
            peer.now - before
        });
        delays.by_ref().max().unwrap()
    };
    assert!(
        after(6, false) > Duration::from_secs(3),
        "the delay has doubled six times"
    );
    assert!(after(6, true) <= Duration::from_millis(100));
}

#[test]
fn r3_thousand_clients_do_not_reconnect_at_once() {
    let mut dials: Vec<Duration> = Vec::new();
    for seed in 0..1000 {
        let mut peer = Peer::dialled(options(|recovery| recovery.seed(seed * 7919 + 3)));
        let start = peer.now;
        peer.machine.handle_loss(Broken::Eof);
        loop {
            peer.until_dialling();
            let at = peer.now - start;
            if at > Duration::from_secs(200) {
                break;
            }
            dials.push(at);
            peer.machine.handle_dial_failure(
                peer.now,
                Error::Timeout {
                    what: "dialling",
                    after: SECOND,
                },
            );
        }
    }
    // After this time all attempts have the longest delay.
    let mut slots = vec![0_u32; 2001];
    for at in dials.iter().filter(|at| **at > Duration::from_secs(90)) {
        slots[(at.as_millis() / 100) as usize] += 1;
    }
    let peak = slots.iter().max().copied().unwrap_or_default();
    assert!(
        peak > 0 && peak <= 50,
        "{peak} of 1000 clients in one tenth of a second"
    );
}

#[test]
fn s4_failed_endpoint_is_skipped_and_working_one_kept() {
    let uri = "amqp://one,two,three/";
    let mut peer = Peer::undialled(
        Options::from_uri(uri)
            .unwrap()
            .recovery(Recovery::default().seed(1).retry_first_connect(true)),
    );
    assert_eq!(peer.until_dialling().first, 0);
    // All were tried, and the third had a broker.
    peer.machine
        .handle_dialled(peer.now, Dialled::new(2, false));
    peer.complete_handshake(tune(2047, 131_072, 60));
    peer.machine.handle_loss(Broken::Eof);
    let before = peer.now;
    assert_eq!(peer.until_dialling().first, 2);
    assert_eq!(
        peer.now, before,
        "there are other endpoints, so it is retried at once"
    );
    peer.machine.handle_dial_failure(
        peer.now,
        Error::Timeout {
            what: "dialling",
            after: SECOND,
        },
    );
    assert_eq!(peer.until_dialling().first, 0);
}

/// Returns the error of `connect` to this URI if the broker sends these bytes and closes the
/// transport.
fn error_after(uri: &str, reply: &[u8]) -> Error {
    let mut peer = Peer::undialled(Options::from_uri(uri).unwrap());
    let connected = peer.machine.connect();
    peer.dial();
    if reply.is_empty() {
        peer.machine.handle_loss(Broken::Eof);
    } else {
        peer.feed(reply);
    }
    peer.error(connected)
}

#[test]
fn plain_login_at_a_tls_port_is_explained() {
    // What RabbitMQ 3.10 replies to AMQP at its port for TLS: the alert `unexpected_message`.
    let alert = b"\x15\x03\x01\x00\x02\x02\x0a";
    for (uri, reply, port) in [
        ("amqp://one:5671/", &alert[..], Some(5671)),
        ("amqp://one:443/", alert, Some(443)),
        ("amqp://one:5671/", b"", Some(5671)),
        ("amqp://one:5672/", b"", None),
        ("amqps://one:5671/", b"", None),
        (
            "amqp://one:5671/",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            None,
        ),
    ] {
        let error = error_after(uri, reply);
        let found = match &error {
            Error::TlsExpected { port, .. } => Some(*port),
            _ => None,
        };
        assert_eq!(found, port, "{uri}: {error}");
        assert_eq!(error.is_connection_broken(), reply.is_empty(), "{error:?}");
    }
    let error = error_after("amqp://one:5671/", b"");
    let text = "port 5671 expects TLS: use amqps:// instead of amqp://";
    assert_eq!(error.to_string(), text);
    let source = error.source().unwrap().to_string();
    assert_eq!(source, "the broker closed the transport");
}

#[test]
fn close_after_a_reply_does_not_suggest_tls() {
    let mut peer = Peer::undialled(Options::from_uri("amqp://one:5671/").unwrap());
    let connected = peer.machine.connect();
    peer.dial();
    peer.feed(&crate::peer::start(&crate::peer::rabbitmq(), b"PLAIN"));
    peer.machine.handle_loss(Broken::Eof);
    assert!(matches!(peer.error(connected), Error::LoginRefused));
}

#[test]
fn notice_names_the_endpoint_and_address() {
    let mut peer = Peer::undialled(of_three(|recovery| recovery));
    let listener = peer.machine.listen();
    let reached = |endpoint| {
        let mut dialled = Dialled::new(endpoint, false);
        dialled.address = Some("10.0.0.9:5672".parse().unwrap());
        dialled
    };
    peer.until_dialling();
    peer.machine.handle_dialled(peer.now, reached(0));
    peer.machine.handle_loss(Broken::Eof);
    peer.until_dialling();
    peer.machine.handle_dialled(peer.now, reached(1));
    complete_handshake(&mut peer);
    peer.machine.handle_loss(Broken::Eof);
    let failed = peer.until_dialling().failed;
    assert!(
        failed.is_empty(),
        "the loss of a connection is no failed attempt"
    );
    let timeout = Error::Timeout {
        what: "dialling",
        after: SECOND,
    };
    peer.machine.handle_dial_failure(peer.now, timeout);
    let notices = std::iter::from_fn(|| peer.machine.take_notice(listener));
    let failed: Vec<_> = notices
        .filter_map(|notice| match notice {
            Notice::Retrying { failed, cause, .. } => Some((failed.to_string(), cause)),
            _ => None,
        })
        .collect();
    let texts: Vec<_> = failed.iter().map(|(text, _)| text.as_str()).collect();
    let closed = "the broker closed the transport";
    assert_eq!(
        texts,
        [
            &format!("one:5672 (10.0.0.9:5672): {closed}"),
            &format!("two:5672 (10.0.0.9:5672): {closed}"),
            "two:5672: dialling took longer than 1 s",
        ]
    );
    assert!(matches!(failed[0].1, Error::ConnectionBroken(Broken::Eof)));
}

#[test]
fn slow_endpoint_is_dialled_after_another_fails() {
    let mut peer = Peer::undialled(of_three(|recovery| recovery));
    let connected = peer.machine.connect();
    // The second was faster than the first and the third.
    assert_eq!(peer.until_dialling().first, 0);
    peer.machine
        .handle_dialled(peer.now, Dialled::new(1, false));
    peer.machine.handle_loss(Broken::Eof);
    let dialling = peer.until_dialling();
    assert_eq!(
        (dialling.first, &dialling.failed[..]),
        (2, &[(1, None)][..])
    );
    peer.machine
        .handle_dialled(peer.now, Dialled::new(0, false));
    complete_handshake(&mut peer);
    assert!(matches!(replied(&mut peer, connected), Reply::Connected(_)));
}

/// Returns the transport to an address of an endpoint that has other addresses.
fn one_of_several(endpoint: usize, address: u32) -> Dialled {
    let mut dialled = Dialled::new(endpoint, false);
    let [.., high, low] = address.to_be_bytes();
    dialled.address = Some(([10, 0, high, low], 5672).into());
    dialled.unfinished = vec![endpoint];
    dialled
}

#[test]
fn other_addresses_follow_a_failed_handshake() {
    let mut peer = Peer::undialled(of_three(|recovery| recovery));
    let connected = peer.machine.connect();
    let start = peer.now;
    for address in 1..=3 {
        let dialling = peer.until_dialling();
        assert_eq!(dialling.first, 0, "the other addresses are first");
        let failed = (1..address).map(|address| (0, one_of_several(0, address).address));
        assert!(dialling.failed.iter().copied().eq(failed));
        let mut dialled = one_of_several(0, address);
        if address == 3 {
            dialled.unfinished.clear();
        }
        peer.machine.handle_dialled(peer.now, dialled);
        peer.machine.handle_loss(Broken::Eof);
    }
    let dialling = peer.until_dialling();
    assert_eq!((dialling.first, dialling.failed), (1, vec![(0, None); 3]));
    assert_eq!(peer.now, start);
    let refused = Error::CannotConnect(Vec::new().into());
    peer.machine.handle_dial_failure(peer.now, refused);
    let Error::CannotConnect(failed) = peer.error(connected) else {
        panic!("not a list")
    };
    assert_eq!(failed.len(), 3);
}

#[test]
fn single_failed_handshake_keeps_its_own_error() {
    let mut peer = Peer::undialled(options(|recovery| recovery));
    let connected = peer.machine.connect();
    peer.until_dialling();
    peer.machine.handle_dialled(peer.now, one_of_several(0, 1));
    peer.machine.handle_loss(Broken::Eof);
    // The resolver returns no other address any more.
    peer.until_dialling();
    let nothing = Error::CannotConnect(Vec::new().into());
    peer.machine.handle_dial_failure(peer.now, nothing);
    let error = peer.error(connected);
    assert!(
        matches!(error, Error::ConnectionBroken(Broken::Eof)),
        "{error:?}"
    );
}

#[test]
fn changing_addresses_do_not_make_rounds_endless() {
    let mut peer = Peer::undialled(options(|recovery| recovery.retry_first_connect(true)));
    let start = peer.now;
    let mut handshakes = 0;
    while peer.until_dialling().attempt == 0 {
        handshakes += 1;
        peer.machine
            .handle_dialled(peer.now, one_of_several(0, handshakes));
        peer.machine.handle_loss(Broken::Eof);
        assert!(handshakes < 1000, "endless");
    }
    assert_eq!(handshakes, 65);
    assert!(peer.now > start, "the next round begins after a delay");
}

#[test]
fn address_that_is_dialled_again_ends_the_round() {
    let mut peer = Peer::undialled(options(|recovery| recovery.retry_first_connect(true)));
    for attempt in [0, 0, 1] {
        assert_eq!(peer.until_dialling().attempt, attempt);
        peer.machine.handle_dialled(peer.now, one_of_several(0, 1));
        peer.machine.handle_loss(Broken::Eof);
    }
}

#[test]
fn refused_login_speaks_for_the_whole_host() {
    let mut peer = Peer::undialled(options(|recovery| recovery));
    let connected = peer.machine.connect();
    peer.until_dialling();
    // One address has refused the connection, and another has not been tried.
    let mut dialled = one_of_several(0, 2);
    dialled.failed = vec![FailedAttempt::new(
        0,
        Endpoint::tcp("localhost", 5672),
        one_of_several(0, 1).address,
        Error::ConnectionBroken(Broken::Eof),
    )];
    peer.machine.handle_dialled(peer.now, dialled);
    peer.feed(&start(&rabbitmq(), b"PLAIN"));
    peer.take();
    peer.method(0, &close(403, "ACCESS_REFUSED - Login was refused"));
    let error = peer.error(connected);
    assert!(matches!(error, Error::AccessRefused(_)), "{error:?}");
}
