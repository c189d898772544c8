//! Closing the connection: by us, by the server, and without a transport.

use crate::peer::{Peer, ack, channel_close, close, consume, declare, method, publish, raw};
use puka::machine::{Ended, Reply, Settle};
use puka::protocol::method::{basic, channel, connection};
use puka::{Broken, Error, Options};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn e25_other_frames_are_discarded_after_our_close() {
    let mut peer = Peer::open(Options::default());
    let (consumer, channel, tag) = peer.consumer(&consume("q"));
    let closing = peer.machine.close();
    assert_eq!(peer.names(), ["0 connection.close"]);
    peer.deliver(channel, &tag, 1, b"late");
    peer.method(channel, &channel_close(404, "late"));
    peer.method(77, &basic::QosOk {});
    peer.method(0, &connection::Unblocked {});
    peer.feed(&raw(8, 0, b""));
    assert!(peer.names().is_empty());
    assert!(peer.is_pending(closing));
    assert!(peer.take_deliveries(consumer).is_empty());
    peer.method(0, &connection::CloseOk {});
    peer.expect_done(closing);
    assert!(matches!(peer.close_reason(), Error::Closed));
}

#[test]
fn e25_closes_that_cross_are_both_answered() {
    let mut peer = Peer::open(Options::default());
    let closing = peer.machine.close();
    assert_eq!(peer.names(), ["0 connection.close"]);
    peer.method(0, &close(320, "CONNECTION_FORCED"));
    assert_eq!(peer.names(), ["0 connection.close-ok"]);
    peer.method(0, &connection::CloseOk {});
    peer.expect_done(closing);
    assert!(peer.machine.is_closed());
}

#[test]
fn e25_unanswered_close_ends_at_its_deadline() {
    let mut peer = Peer::open(Options::default().close_timeout(10 * SECOND));
    let closing = peer.machine.close();
    peer.pass(10 * SECOND - Duration::from_millis(1));
    assert!(peer.is_pending(closing));
    peer.pass(SECOND);
    assert!(matches!(
        peer.error(closing),
        Error::Timeout {
            what: "closing",
            ..
        }
    ));
    assert!(peer.machine.is_over());
}

#[test]
fn e25_decode_error_ends_pending_close_at_once() {
    // After the error no `close-ok` can be parsed, so waiting is pointless.
    let mut peer = Peer::open(Options::default());
    let closing = peer.machine.close();
    peer.names();
    peer.feed(&raw(9, 0, b""));
    assert!(
        peer.machine.is_closed(),
        "nothing can be read, and nothing is queued"
    );
    assert!(peer.machine.fetch(closing).is_some());
}

#[test]
fn e30_servers_close_is_answered_and_ends_every_promise() {
    let mut peer = Peer::open(Options::default());
    let (consumer, ..) = peer.consumer(&consume("q"));
    let request = peer.machine.request(declare("q")).unwrap();
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    peer.pump();
    peer.names();
    let why = connection::Close {
        reply_code: 320,
        reply_text: crate::peer::short("CONNECTION_FORCED - bye"),
        class_id: 60,
        method_id: 40,
    };
    peer.feed(&[method(0, &why), method(1, &channel::OpenOk {})].concat());
    assert_eq!(peer.names(), ["0 connection.close-ok"]);
    let error = peer.error(request);
    let fault = error.fault().unwrap();
    assert_eq!(
        (fault.code.value(), &*fault.text, fault.method),
        (320, "CONNECTION_FORCED - bye", basic::Publish::ID)
    );
    assert!(matches!(error, Error::ConnectionForced(_)));
    assert!(matches!(peer.error(sent), Error::Unconfirmed(cause)
        if matches!(*cause, Error::ConnectionForced(_))));
    assert!(matches!(
        peer.machine.consumer(consumer).and_then(|it| it.ended()),
        Some(Ended::ConnectionBroken(Error::ConnectionForced(_)))
    ));
    assert!(matches!(
        peer.machine.request(declare("q")),
        Err(Error::ConnectionForced(_))
    ));
    // The last bytes have a second.
    assert!(peer.machine.is_closed() && !peer.machine.is_over());
    peer.pass(SECOND);
    assert!(peer.machine.is_over());
}

#[test]
fn s44_hundred_closes_send_one_close_and_all_complete() {
    let mut peer = Peer::open(Options::default());
    let mut promises: Vec<_> = (0..50).map(|_| peer.machine.close()).collect();
    assert_eq!(peer.names(), ["0 connection.close"]);
    promises.extend((0..50).map(|_| peer.machine.close()));
    assert!(peer.names().is_empty());
    peer.method(0, &connection::CloseOk {});
    promises.push(peer.machine.close());
    for promise in promises {
        peer.expect_done(promise);
    }
    assert!(peer.names().is_empty());
}

#[test]
fn s45_close_after_lost_transport_fails_at_once() {
    let mut peer = Peer::open(Options::default());
    peer.machine.handle_loss(Broken::Eof);
    let closing = peer.machine.close();
    assert!(matches!(
        peer.error(closing),
        Error::ConnectionBroken(Broken::Eof)
    ));
    assert!(peer.names().is_empty() && peer.machine.is_over());
}

#[test]
fn s45_end_of_stream_replaces_close_ok() {
    let mut peer = Peer::open(Options::default());
    let closing = peer.machine.close();
    peer.names();
    peer.machine.handle_loss(Broken::Eof);
    peer.expect_done(closing);
}

#[test]
fn s47_channel_close_crossing_our_close_is_discarded() {
    let mut peer = Peer::open(Options::default());
    let _request = peer.machine.request(declare("q")).unwrap();
    peer.serve();
    let closing = peer.machine.close();
    assert_eq!(peer.names(), ["0 connection.close"]);
    peer.method(1, &channel_close(404, "NOT_FOUND"));
    assert!(peer.names().is_empty());
    peer.method(0, &connection::CloseOk {});
    peer.expect_done(closing);
}

#[test]
fn v10_close_flushes_accepted_requests() {
    let mut peer = Peer::open(Options::default());
    let (consumer, channel, tag) = peer.consumer(&consume("q"));
    peer.deliver(channel, &tag, 1, b"x");
    let delivered = peer.take_deliveries(consumer).remove(0);
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    let request = peer.machine.request(declare("q")).unwrap();
    peer.machine
        .settle(&delivered, Settle::Ack { multiple: false })
        .unwrap();
    let closing = peer.machine.close();
    let names = peer.names();
    assert!(
        names.contains(&format!("{channel} basic.ack"))
            && names.contains(&"2 basic.publish".to_owned()),
        "{names:?}"
    );
    assert!(
        !names.contains(&"0 connection.close".to_owned()),
        "{names:?}"
    );
    assert!(matches!(
        peer.machine.request(declare("late")),
        Err(Error::Closed)
    ));
    assert!(matches!(
        peer.machine.publish(&publish("", "late")),
        Err(Error::Closed)
    ));
    peer.feed(
        &[
            method(2, &channel::OpenOk {}),
            method(2, &puka::protocol::method::confirm::SelectOk {}),
        ]
        .concat(),
    );
    peer.method(2, &ack(1, false));
    peer.expect_done(sent);
    assert!(peer.names().is_empty(), "the request is still waited for");
    peer.method(3, &channel::OpenOk {});
    let ok = puka::protocol::method::queue::DeclareOk {
        queue: crate::peer::short("q"),
        message_count: 0,
        consumer_count: 0,
    };
    peer.method(3, &ok);
    assert!(matches!(
        peer.machine.fetch(request),
        Some(Ok(Reply::Queue(_)))
    ));
    assert_eq!(peer.names(), ["0 connection.close"]);
    peer.method(0, &connection::CloseOk {});
    peer.expect_done(closing);
}

#[test]
fn v10_close_waits_half_its_timeout_for_pending_work() {
    let mut peer = Peer::open(Options::default().close_timeout(10 * SECOND));
    let request = peer.machine.request(declare("q")).unwrap();
    let closing = peer.machine.close();
    peer.pass(5 * SECOND - Duration::from_millis(1));
    assert!(!peer.names().contains(&"0 connection.close".to_owned()));
    peer.pass(Duration::from_millis(1));
    assert_eq!(peer.names(), ["0 connection.close"]);
    assert!(matches!(peer.error(request), Error::Closed));
    assert!(peer.is_pending(closing));
}

#[test]
fn v01_dropping_the_driver_completes_every_promise() {
    let mut peer = Peer::open(Options::default());
    let (consumer, ..) = peer.consumer(&consume("q"));
    let request = peer.machine.request(declare("q")).unwrap();
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    let closing = peer.machine.close();
    peer.machine.handle_loss(Broken::DriverDropped);
    assert!(matches!(
        peer.error(request),
        Error::ConnectionBroken(Broken::DriverDropped)
    ));
    assert!(peer.error(sent).is_connection_broken());
    assert!(peer.machine.fetch(closing).is_some());
    assert!(peer.has_ended(consumer));
    peer.machine.drop_consumer(consumer);
    assert!(peer.machine.is_idle());
}

#[test]
fn draining_lasts_until_its_deadline() {
    let mut peer = Peer::open(Options::default());
    let _pending = peer.machine.request(declare("q")).unwrap();
    let _closing = peer.machine.close();
    peer.names();
    // Another deadline has passed, but not half of the close timeout.
    peer.now += Duration::from_secs(1);
    peer.machine.handle_timeout(peer.now);
    assert_eq!(peer.names(), Vec::<String>::new());
    peer.now += Duration::from_secs(5);
    peer.machine.handle_timeout(peer.now);
    assert_eq!(peer.names(), ["0 connection.close"]);
}

#[test]
fn publishes_without_confirms_do_not_delay_closing() {
    let mut peer = Peer::open(Options::default());
    let _done = peer.machine.publish_unconfirmed(&publish("", "x")).unwrap();
    peer.serve();
    let _closing = peer.machine.close();
    assert_eq!(peer.names(), ["0 connection.close"]);
}

#[test]
fn closing_ends_only_at_its_deadline() {
    let mut peer = Peer::open(Options::default().close_timeout(10 * SECOND));
    let closing = peer.machine.close();
    peer.pump();
    peer.machine
        .handle_timeout(peer.now + 10 * SECOND - Duration::from_millis(1));
    assert!(peer.is_pending(closing) && !peer.machine.is_closed());
    peer.machine.handle_timeout(peer.now + 10 * SECOND);
    assert!(matches!(peer.error(closing), Error::Timeout { .. }));
}

#[test]
fn consumers_are_cancelled_while_a_close_drains() {
    let mut peer = Peer::open(Options::default());
    let (_, channel, _) = peer.consumer(&consume("q"));
    let _request = peer.machine.request(declare("q")).unwrap();
    peer.pump();
    let _closing = peer.machine.close();
    let names = peer.names();
    assert!(
        names.contains(&format!("{channel} basic.cancel")),
        "{names:?}"
    );
    assert!(!names.contains(&"0 connection.close".to_owned()));
}

#[test]
fn violation_while_closing_leaves_half_of_the_timeout() {
    let mut peer = Peer::open(Options::default().close_timeout(10 * SECOND));
    let _request = peer.machine.request(declare("q")).unwrap();
    peer.names();
    let _closing = peer.machine.close();
    peer.names();
    peer.method(0, &connection::CloseOk {});
    assert_eq!(peer.names(), ["0 connection.close"]);
    peer.pass(5 * SECOND - Duration::from_millis(1));
    assert!(!peer.machine.is_closed());
    peer.pass(Duration::from_millis(1));
    assert!(peer.machine.is_closed());
}
