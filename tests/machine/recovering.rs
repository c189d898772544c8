//! A connection that is lost and dialled again: its attempts, its end, and the outcome of pending
//! work.

use crate::peer::{Peer, close, consume, declare, method, publish, tune};
use puka::machine::{ConnectionState, Dialled, Notice, PromiseId, Reply};
use puka::protocol::method::{channel, connection, queue};
use puka::{Broken, Error, Options, Recovery};
use std::time::Duration;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn options(set: impl FnOnce(Recovery) -> Recovery) -> Options {
    Options::default().recovery(set(Recovery::default().seed(7)))
}

pub(crate) fn dialled() -> Peer {
    Peer::dialled(options(|recovery| recovery))
}

/// Returns the reply of a completed promise.
pub(crate) fn replied(peer: &mut Peer, promise: PromiseId) -> Reply {
    match peer.machine.fetch(promise) {
        Some(Ok(reply)) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn r1_connection_states_are_visible() {
    let mut peer = Peer::undialled(options(|recovery| recovery));
    assert!(matches!(peer.machine.state(), ConnectionState::Connecting));
    let connected = peer.machine.connect();
    peer.dial();
    assert!(matches!(peer.machine.state(), ConnectionState::Connecting));
    peer.complete_handshake(tune(2047, 131_072, 60));
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    assert!(matches!(replied(&mut peer, connected), Reply::Connected(_)));
    peer.machine.handle_loss(Broken::Eof);
    peer.pump();
    match peer.machine.state() {
        ConnectionState::Recovering {
            attempt: 1,
            cause,
            next_at: Some(_),
        } => {
            assert!(matches!(cause, Error::ConnectionBroken(Broken::Eof)));
        }
        other => panic!("{other:?}"),
    }
    peer.dial();
    assert!(matches!(
        peer.machine.state(),
        ConnectionState::Recovering {
            attempt: 1,
            next_at: None,
            ..
        }
    ));
    peer.complete_handshake(tune(2047, 131_072, 60));
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    let closed = peer.machine.close();
    peer.serve();
    peer.expect_done(closed);
    assert!(matches!(
        peer.machine.state(),
        ConnectionState::Closed(Error::Closed)
    ));
}

/// The server refuses the login or the virtual host.
fn refuse(peer: &mut Peer, code: u16) {
    peer.dial();
    assert_eq!(peer.names(), ["protocol header"]);
    peer.feed(&crate::peer::start(&crate::peer::rabbitmq(), b"PLAIN"));
    peer.method(0, &close(code, "WHY - text"));
}

pub(crate) fn complete_handshake(peer: &mut Peer) {
    peer.complete_handshake(tune(2047, 131_072, 60));
}

#[test]
fn r2_no_reply_code_ends_a_connection_that_stood() {
    for code in [
        320, 402, 403, 501, 502, 503, 504, 505, 506, 530, 540, 541, 999,
    ] {
        let mut peer = dialled();
        peer.method(0, &close(code, "WHY - text"));
        assert_eq!(peer.names(), ["0 connection.close-ok"], "{code}");
        assert!(
            peer.machine.is_down() && !peer.machine.is_closed(),
            "{code}"
        );
        peer.dial();
        complete_handshake(&mut peer);
        assert!(
            matches!(peer.machine.state(), ConnectionState::Open),
            "{code}"
        );
    }
    let mut peer = dialled();
    peer.machine.handle_loss(Broken::DriverDropped);
    assert!(peer.machine.is_closed());
}

#[test]
fn r2_breaches_of_the_protocol_never_end_it() {
    let mut peer = dialled();
    for _ in 0..9 {
        peer.method(9, &channel::OpenOk {});
        assert!(
            peer.machine.is_down(),
            "an error that we detect counts, too"
        );
        peer.pass(SECOND);
        peer.dial();
        complete_handshake(&mut peer);
    }
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
}

#[test]
fn r2_refusals_are_retried_at_the_slow_end() {
    for code in [403, 530, 402] {
        let mut peer = dialled();
        let listener = peer.machine.listen();
        peer.machine.handle_loss(Broken::Eof);
        for _ in 0..20 {
            refuse(&mut peer, code);
            assert!(peer.machine.is_down());
        }
        let received = std::iter::from_fn(|| peer.machine.take_notice(listener));
        let delays: Vec<_> = received
            .filter_map(|notice| match notice {
                Notice::Retrying {
                    attempt,
                    delay,
                    cause,
                    ..
                } if cause.fault().is_some() => Some((attempt, delay)),
                _ => None,
            })
            .collect();
        assert_eq!(delays.len(), 20);
        for (attempt, delay) in delays {
            let longest =
                Duration::from_millis(100 << (attempt - 1).min(20)).min(Duration::from_secs(30));
            assert!(
                delay >= longest / 2 && delay <= longest,
                "{attempt}: {delay:?}"
            );
        }
        peer.dial();
        complete_handshake(&mut peer);
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
    }
}

#[test]
fn r9_waiting_for_the_connection_has_an_end() {
    let mut peer = dialled();
    peer.machine.handle_loss(Broken::Eof);
    let request = peer.machine.request(declare("q")).unwrap();
    let published = peer.machine.publish(&publish("", "body")).unwrap();
    let started = peer.machine.consume(&consume("q")).unwrap();
    for _ in 0..100 {
        peer.pump();
        let Some(at) = peer.machine.poll_timeout() else {
            break;
        };
        peer.now = peer.now.max(at);
        peer.machine.handle_timeout(peer.now);
        if peer.machine.poll_dial(peer.now).is_some() {
            peer.machine.handle_dial_failure(
                peer.now,
                Error::Timeout {
                    what: "dialling",
                    after: SECOND,
                },
            );
        }
    }
    for promise in [request, published, started] {
        assert!(matches!(peer.error(promise), Error::Timeout { .. }));
    }
    assert!(peer.machine.is_idle());
}

#[test]
fn r1_requests_fail_fast_if_so_configured() {
    let mut peer = Peer::dialled(options(|recovery| recovery.fail_fast(true)));
    let sent = peer.machine.request(declare("q")).unwrap();
    peer.take();
    peer.machine.handle_loss(Broken::Eof);
    assert!(matches!(
        peer.error(sent),
        Error::ConnectionBroken(Broken::Eof)
    ));
    assert!(matches!(
        peer.machine.request(declare("q")),
        Err(Error::ConnectionBroken(Broken::Eof))
    ));
    assert!(matches!(
        peer.machine.publish(&publish("", "")),
        Err(Error::ConnectionBroken(Broken::Eof))
    ));
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
    peer.machine.request(declare("q")).unwrap();
}

#[test]
fn s10_s11_r10_close_wins_at_any_point() {
    let at: [&dyn Fn(&mut Peer); 5] = [
        &|_| {},
        &|peer| peer.machine.handle_loss(Broken::Eof),
        &|peer| {
            peer.machine.handle_loss(Broken::Eof);
            peer.until_dialling();
        },
        &|peer| {
            peer.machine.handle_loss(Broken::Eof);
            peer.dial();
        },
        &|peer| {
            peer.reconnect();
            peer.take();
        },
    ];
    for (place, reach) in at.iter().enumerate() {
        let mut peer = dialled();
        let (..) = peer.consumer(&consume("q"));
        let declared = peer.machine.request(declare("kept")).unwrap();
        peer.serve();
        assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
        reach(&mut peer);
        let closed = peer.machine.close();
        peer.serve();
        peer.expect_done(closed);
        peer.machine
            .handle_dialled(peer.now, Dialled::new(0, false));
        peer.machine.handle_dial_failure(
            peer.now,
            Error::Timeout {
                what: "dialling",
                after: SECOND,
            },
        );
        peer.machine.handle_loss(Broken::Eof);
        assert!(peer.machine.is_closed(), "{place}");
        peer.pass(Duration::from_secs(600));
        assert!(peer.machine.poll_dial(peer.now).is_none(), "{place}");
        assert!(matches!(peer.close_reason(), Error::Closed), "{place}");
    }
}

#[test]
fn s14_channel_error_keeps_the_connection() {
    let mut peer = dialled();
    for code in [403, 404, 405, 406] {
        let request = peer.machine.request(declare("q")).unwrap();
        let number = peer
            .serve()
            .iter()
            .find(|it| it.is(queue::Declare::ID))
            .map(|it| it.channel);
        peer.machine.fetch(request);
        let failed = peer.get();
        let number = number.unwrap_or(1);
        peer.take();
        peer.method(number, &crate::peer::channel_close(code, "WHY - text"));
        assert_eq!(
            peer.error(failed).fault().map(|fault| fault.code.value()),
            Some(code)
        );
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
        peer.take();
    }
}

#[test]
fn transaction_ends_with_its_connection() {
    let mut peer = dialled();
    let begin = |peer: &mut Peer| {
        let promise = peer.machine.transaction().unwrap();
        for sent in peer.serve() {
            if sent.is(puka::protocol::method::tx::Select::ID) {
                peer.method(sent.channel, &puka::protocol::method::tx::SelectOk {});
            }
        }
        match replied(peer, promise) {
            Reply::Transaction(id) => id,
            other => panic!("{other:?}"),
        }
    };
    let (open, committing) = (begin(&mut peer), begin(&mut peer));
    let commit = peer.machine.commit(committing).unwrap();
    peer.take();
    let starting = peer.machine.transaction().unwrap();
    peer.take();
    peer.reconnect();
    assert!(matches!(peer.error(commit), Error::Unconfirmed(_)));
    assert!(peer.machine.publish_in(open, &publish("", "late")).is_err());
    assert!(matches!(
        peer.machine.commit(open),
        Err(Error::ConnectionBroken(_))
    ));
    peer.serve();
    peer.method(1, &puka::protocol::method::tx::SelectOk {});
    assert!(
        matches!(replied(&mut peer, starting), Reply::Transaction(_)),
        "one that has not begun is repeated"
    );
}

#[test]
fn late_bytes_of_the_previous_connection_are_ignored() {
    let mut peer = dialled();
    peer.machine.handle_loss(Broken::Eof);
    peer.feed(&method(
        0,
        &connection::Close {
            reply_code: 530,
            ..close(530, "late")
        },
    ));
    assert!(peer.machine.is_down());
    peer.machine.handle_loss(Broken::Eof);
    assert!(peer.machine.is_down());
}

#[test]
fn queued_work_that_failed_fast_uses_no_capacity() {
    let options = options(|recovery| recovery.fail_fast(true)).max_outgoing_bytes(8192);
    let mut peer = Peer::dialled(options);
    let queue = "q".repeat(200);
    for _ in 0..100 {
        let request = peer.machine.request(declare(&queue)).unwrap();
        let consumer = peer.machine.consume(&consume(&queue)).unwrap();
        peer.reconnect();
        assert!(peer.error(request).is_connection_broken());
        assert!(peer.error(consumer).is_connection_broken());
    }
    assert!(peer.machine.has_capacity_to_request());
}
