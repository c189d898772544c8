//! A close before the connection is open: accepted requests are sent, or the close reports how many
//! were not.

use crate::peer::{Peer, ack, consume, declare, publish, reply_to, tune};
use puka::machine::Reply;
use puka::protocol::method::connection;
use puka::{Broken, Error, Options, Recovery};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn recovering() -> Options {
    Options::default()
        .recovery(Recovery::default().seed(7))
        .close_timeout(10 * SECOND)
}

fn incomplete(peer: &mut Peer, closing: puka::machine::PromiseId, pending: usize) {
    let error = peer.error(closing);
    assert!(
        matches!(error, Error::CloseIncomplete { pending: it } if it == pending),
        "{error:?}"
    );
}

/// Serves as a broker does, and confirms each publish.
fn serve(peer: &mut Peer) -> Vec<String> {
    let sent = peer.serve_with(|sent| match &*sent.name() {
        name if name.ends_with("basic.publish") => {
            Some(crate::peer::method(sent.channel, &ack(1, false)))
        }
        _ => reply_to(sent),
    });
    sent.iter().map(crate::peer::Sent::name).collect()
}

#[test]
fn v10_close_in_the_handshake_flushes_accepted_requests() {
    let mut peer = Peer::undialled(recovering());
    peer.dial();
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    let declared = peer.machine.request(declare("q")).unwrap();
    let closing = peer.machine.close();
    assert!(matches!(
        peer.machine.publish(&publish("", "late")),
        Err(Error::Closed)
    ));
    assert!(matches!(
        peer.machine.request(declare("late")),
        Err(Error::Closed)
    ));
    let connecting = peer.machine.connect();
    assert!(matches!(peer.error(connecting), Error::Closed));
    assert!(peer.is_pending(closing));
    peer.complete_handshake(tune(2047, 131_072, 60));
    let names = serve(&mut peer);
    assert_eq!(
        names.last().map(String::as_str),
        Some("0 connection.close"),
        "{names:?}"
    );
    peer.expect_done(sent);
    assert!(matches!(
        peer.machine.fetch(declared),
        Some(Ok(Reply::Queue(_)))
    ));
    peer.expect_done(closing);
    assert!(peer.machine.is_idle());
}

#[test]
fn v10_close_in_a_recovery_flushes_accepted_requests() {
    let mut peer = Peer::dialled(recovering());
    let (consumer, ..) = peer.consumer(&consume("q"));
    let declared = peer.machine.request(declare("kept")).unwrap();
    peer.serve();
    assert!(matches!(
        peer.machine.fetch(declared),
        Some(Ok(Reply::Queue(_)))
    ));
    peer.reconnect();
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    let closing = peer.machine.close();
    assert!(peer.has_ended(consumer));
    let names = serve(&mut peer);
    assert!(
        names.iter().any(|name| name.ends_with("queue.declare")),
        "it is replayed: {names:?}"
    );
    assert!(
        !names.iter().any(|name| name.ends_with("basic.consume")),
        "{names:?}"
    );
    peer.expect_done(sent);
    peer.expect_done(closing);
}

#[test]
fn v10_close_waits_half_its_timeout_for_the_handshake() {
    let mut peer = Peer::undialled(recovering());
    peer.dial();
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    let _declared = peer.machine.request(declare("q")).unwrap();
    let closing = peer.machine.close();
    peer.pass(5 * SECOND - Duration::from_millis(1));
    assert!(peer.is_pending(closing));
    peer.pass(Duration::from_millis(1));
    incomplete(&mut peer, closing, 2);
    assert!(matches!(peer.error(sent), Error::Closed));
    assert!(peer.machine.is_over());
    let again = peer.machine.close();
    incomplete(&mut peer, again, 2);
}

#[test]
fn v10_close_takes_its_timeout_at_most() {
    let mut peer = Peer::undialled(recovering());
    peer.dial();
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    let closing = peer.machine.close();
    peer.pass(4 * SECOND);
    peer.complete_handshake(tune(2047, 131_072, 60));
    peer.pass(SECOND);
    let error = peer.error(sent);
    assert!(
        matches!(&error, Error::Unconfirmed(cause) if matches!(**cause, Error::Closed)),
        "{error:?}"
    );
    assert!(peer.is_pending(closing));
    peer.pass(5 * SECOND);
    assert!(matches!(
        peer.error(closing),
        Error::Timeout {
            what: "closing",
            ..
        }
    ));
}

#[test]
fn v10_close_after_a_short_handshake_waits_for_close_ok() {
    let mut peer = Peer::undialled(recovering());
    peer.dial();
    let _sent = peer.machine.publish(&publish("", "x")).unwrap();
    let closing = peer.machine.close();
    peer.pass(Duration::from_millis(100));
    peer.complete_handshake(tune(2047, 131_072, 60));
    // The publish is not confirmed, so draining takes half of the timeout.
    peer.pass(Duration::from_millis(4900));
    peer.pass(SECOND);
    assert!(peer.is_pending(closing));
    peer.method(0, &connection::CloseOk {});
    incomplete(&mut peer, closing, 1);
}

#[test]
fn r10_close_without_a_transport_dials_none() {
    let mut peer = Peer::dialled(recovering());
    peer.machine.handle_loss(Broken::Eof);
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    let declared = peer.machine.request(declare("q")).unwrap();
    let consuming = peer.machine.consume(&consume("q")).unwrap();
    let closing = peer.machine.close();
    incomplete(&mut peer, closing, 2);
    for promise in [sent, declared, consuming] {
        assert!(matches!(peer.error(promise), Error::Closed));
    }
    assert!(peer.machine.poll_dial(peer.now + 600 * SECOND).is_none());
    assert!(peer.machine.is_idle());
}

#[test]
fn r10_loss_during_an_early_close_ends_it() {
    for dialled in [false, true] {
        let mut peer = if dialled {
            Peer::undialled(recovering())
        } else {
            Peer::new(Options::default())
        };
        if dialled {
            peer.dial();
        }
        let sent = peer.machine.publish(&publish("", "x")).unwrap();
        let closing = peer.machine.close();
        peer.names();
        peer.machine.handle_loss(Broken::Eof);
        let error = peer.error(closing);
        assert!(!matches!(error, Error::Closed), "{error:?}");
        assert!(
            peer.machine
                .fetch(sent)
                .is_some_and(|outcome| outcome.is_err())
        );
        assert!(peer.machine.poll_dial(peer.now + 600 * SECOND).is_none());
        assert!(peer.machine.is_idle());
    }
}

#[test]
fn v10_early_close_with_nothing_pending_is_immediate() {
    let mut peer = Peer::undialled(recovering());
    peer.dial();
    let connecting = peer.machine.connect();
    let consuming = peer.machine.consume(&consume("q")).unwrap();
    let closing = peer.machine.close();
    peer.expect_done(closing);
    for promise in [connecting, consuming] {
        assert!(matches!(peer.error(promise), Error::Closed));
    }
    assert!(peer.machine.is_over() && peer.machine.is_idle());
}

#[test]
fn v10_early_close_ends_when_everything_has_timed_out() {
    let options = recovering().request_timeout(SECOND);
    let mut peer = Peer::undialled(options);
    peer.dial();
    let declared = peer.machine.request(declare("q")).unwrap();
    let closing = peer.machine.close();
    peer.pass(SECOND);
    assert!(matches!(peer.error(declared), Error::Timeout { .. }));
    incomplete(&mut peer, closing, 1);
    assert!(peer.machine.is_over());
}

#[test]
fn v10_close_reports_publishes_of_a_blocked_connection() {
    let mut peer = Peer::open(Options::default().close_timeout(10 * SECOND));
    peer.method(
        0,
        &connection::Blocked {
            reason: crate::peer::short("low on memory"),
        },
    );
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    let closing = peer.machine.close();
    peer.pass(5 * SECOND);
    assert!(matches!(peer.error(sent), Error::Closed));
    assert_eq!(peer.names(), ["0 connection.close"]);
    peer.method(0, &connection::CloseOk {});
    incomplete(&mut peer, closing, 1);
}

#[test]
fn v10_close_reports_requests_that_timed_out_meanwhile() {
    let mut peer = Peer::open(
        Options::default()
            .close_timeout(10 * SECOND)
            .request_timeout(SECOND),
    );
    let declared = peer.machine.request(declare("q")).unwrap();
    let closing = peer.machine.close();
    peer.pass(SECOND);
    assert!(matches!(peer.error(declared), Error::Timeout { .. }));
    assert_eq!(
        peer.names().last().map(String::as_str),
        Some("0 connection.close")
    );
    peer.method(0, &connection::CloseOk {});
    incomplete(&mut peer, closing, 1);
}

#[test]
fn refused_login_ends_an_early_close() {
    let mut peer = Peer::undialled(recovering());
    peer.dial();
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    let closing = peer.machine.close();
    peer.names();
    peer.feed(&crate::peer::start(&crate::peer::rabbitmq(), b"PLAIN"));
    peer.method(0, &crate::peer::close(403, "ACCESS_REFUSED"));
    assert!(matches!(peer.error(closing), Error::AccessRefused(_)));
    assert!(matches!(peer.error(sent), Error::AccessRefused(_)));
    assert!(peer.machine.poll_dial(peer.now + 600 * SECOND).is_none());
}
