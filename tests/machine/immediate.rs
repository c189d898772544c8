//! Publishes with the flag `immediate`: which brokers are sent them, and what a broker that refuses
//! them does to the other work.

use crate::peer::{
    Peer, Sent, ack, channel_close, close, declare, header, lavinmq, method, publish, rabbitmq,
    raw, short, tune,
};
use crate::recovering::{options, replied};
use puka::machine::{Notice, PromiseId, Publish, Reply, TransactionId};
use puka::protocol::method::{basic, connection, tx};
use puka::protocol::{FrameKind, Method, Table};
use puka::{Broken, Error, Options};

/// RabbitMQ's text, which proxies pass on.
const TEXT: &str = "NOT_IMPLEMENTED - immediate=true";

/// Returns a close over the method with these ids.
fn not_implemented(text: &str, class_id: u16, method_id: u16) -> connection::Close<'_> {
    connection::Close {
        class_id,
        method_id,
        ..close(540, text)
    }
}

/// Returns RabbitMQ's close over a publish with the flag.
fn over_publish() -> connection::Close<'static> {
    not_implemented(TEXT, 60, 40)
}

fn immediate<'a>(exchange: &'a str, body: &'a str) -> Publish<'a> {
    Publish {
        immediate: true,
        ..publish(exchange, body)
    }
}

/// Returns an open connection to a broker with these properties, which is dialled again.
fn dialled_to(properties: &Table, options: Options) -> Peer {
    let mut peer = Peer::undialled(options);
    peer.dial();
    peer.complete_handshake_with(properties, tune(2047, 131_072, 60));
    peer
}

/// Returns an open connection to LavinMQ, with and without republishing.
fn dialled(republishes: bool) -> Peer {
    let republish = |recovery: puka::Recovery| match republishes {
        true => recovery.republish_unconfirmed(3),
        false => recovery,
    };
    dialled_to(&lavinmq(), options(republish))
}

fn reconnect(peer: &mut Peer) {
    peer.dial();
    peer.complete_handshake_with(&lavinmq(), tune(2047, 131_072, 60));
}

/// Publishes with a confirm, and lets the broker receive it.
fn send(peer: &mut Peer, it: &Publish<'_>) -> PromiseId {
    let promise = peer.machine.publish(it).unwrap();
    peer.serve();
    promise
}

/// Returns the exchanges and flags of the sent publishes.
fn published(sent: &[Sent]) -> Vec<(String, bool)> {
    let methods = sent.iter().filter(|it| it.kind == FrameKind::Method);
    let publishes = methods.filter_map(|it| match it.method() {
        Method::Basic(basic::Method::Publish(it)) => Some((it.exchange.to_string(), it.immediate)),
        _ => None,
    });
    publishes.collect()
}

/// Checks that another publish with the flag is refused, and that none is sent.
fn expect_refused_locally(peer: &mut Peer) {
    for exchange in ["", "new"] {
        let refused = peer.machine.publish(&immediate(exchange, "later"));
        let what = match refused {
            Err(Error::InvalidArgument { what, .. }) => what,
            // Without a channel, it is queued first.
            Ok(promise) => {
                peer.serve();
                let Error::InvalidArgument { what, .. } = peer.error(promise) else {
                    panic!()
                };
                what
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(what, "immediate");
    }
    assert!(published(&peer.serve()).iter().all(|it| !it.1));
}

/// Checks that a publish with the flag is sent.
fn expect_sent(peer: &mut Peer) {
    let _promise = peer.machine.publish(&immediate("", "later")).unwrap();
    assert!(published(&peer.serve()).contains(&(String::new(), true)));
}

fn is_not_implemented(error: &Error) -> bool {
    matches!(error, Error::NotImplemented(_))
}

fn is_unconfirmed(error: &Error) -> bool {
    matches!(error, Error::Unconfirmed(cause) if is_not_implemented(cause))
}

#[test]
fn e39_rabbitmq_is_known_whatever_its_product() {
    for product in ["RabbitMQ", "Tanzu", ""] {
        let mut properties = rabbitmq();
        properties.insert("product", product).unwrap();
        let mut renamed = Table::new();
        renamed.insert("product", product).unwrap();
        renamed.insert("version", "1.0").unwrap();
        renamed.insert("cluster_name", "rabbit@node").unwrap();
        for properties in [properties, renamed] {
            let mut peer = dialled_to(&properties, Options::default());
            expect_refused_locally(&mut peer);
        }
    }
}

#[test]
fn other_brokers_are_sent_immediate() {
    let mut proxy = lavinmq();
    proxy.insert("product", "AMQProxy").unwrap();
    let mut old = Table::new();
    old.insert("product", "RabbitMQ").unwrap();
    old.insert("version", "2.8.7").unwrap();
    for properties in [lavinmq(), proxy, old, Table::new()] {
        let mut peer = dialled_to(&properties, Options::default());
        expect_sent(&mut peer);
    }
}

#[test]
fn close_over_immediate_is_its_own_outcome() {
    let mut peer = dialled(false);
    let confirmed = send(&mut peer, &publish("", "confirmed"));
    peer.method(1, &ack(1, false));
    let beside = send(&mut peer, &publish("", "beside"));
    let cause = send(&mut peer, &immediate("", "cause"));
    let behind = send(&mut peer, &publish("", "behind"));
    let other = send(&mut peer, &publish("other", "x"));
    let call = peer.machine.call(&publish("", "call"), None).unwrap();
    let unconfirmed = crate::unconfirmed::unconfirmed(&mut peer, "");
    peer.serve();
    peer.method(0, &over_publish());
    peer.expect_done(confirmed);
    peer.expect_done(unconfirmed);
    assert!(is_not_implemented(&peer.error(cause)));
    for promise in [beside, behind, other, call] {
        let error = peer.error(promise);
        assert!(is_unconfirmed(&error), "{error:?}");
    }
    for _ in 0..2 {
        reconnect(&mut peer);
        assert!(published(&peer.serve()).is_empty());
        expect_refused_locally(&mut peer);
        let published = send(&mut peer, &publish("", "later"));
        peer.method(1, &ack(1, false));
        peer.expect_done(published);
        peer.machine.handle_loss(Broken::Eof);
    }
}

#[test]
fn refused_immediate_alone_is_not_republished() {
    let mut peer = dialled(true);
    let beside = send(&mut peer, &publish("", "beside"));
    let cause = send(&mut peer, &immediate("", "cause"));
    let other = send(&mut peer, &publish("other", "x"));
    peer.method(0, &over_publish());
    assert!(is_not_implemented(&peer.error(cause)));
    reconnect(&mut peer);
    let mut sent = published(&peer.serve());
    sent.sort();
    assert_eq!(sent, [(String::new(), false), ("other".to_owned(), false)]);
    for channel in [1, 2] {
        peer.method(channel, &ack(1, false));
    }
    peer.expect_done(beside);
    peer.expect_done(other);
    expect_refused_locally(&mut peer);
}

#[test]
fn several_immediate_publishes_are_refused_together() {
    for republishes in [false, true] {
        let mut peer = dialled(republishes);
        let exchanges = ["a", "a", "b", "c"];
        let causes = exchanges.map(|exchange| send(&mut peer, &immediate(exchange, "x")));
        let mut it = immediate("d", "x");
        it.mandatory = true;
        let call = peer.machine.call(&it, None).unwrap();
        let confirmed = send(&mut peer, &immediate("e", "x"));
        peer.method(5, &ack(1, false));
        peer.expect_done(confirmed);
        peer.method(0, &over_publish());
        for promise in causes.into_iter().chain([call]) {
            let error = peer.error(promise);
            assert!(is_not_implemented(&error), "{error:?}");
        }
        reconnect(&mut peer);
        assert!(published(&peer.serve()).is_empty());
        assert!(peer.machine.is_idle());
    }
}

#[test]
fn immediate_that_was_queued_is_refused_later() {
    let mut peer = dialled(true);
    let cause = send(&mut peer, &immediate("", "cause"));
    let reason = short("low on memory");
    peer.method(0, &connection::Blocked { reason });
    let queued = peer.machine.publish(&immediate("", "queued")).unwrap();
    let plain = peer.machine.publish(&publish("", "queued")).unwrap();
    peer.method(0, &over_publish());
    assert!(is_not_implemented(&peer.error(cause)));
    let requested = peer.machine.publish(&immediate("", "while down")).unwrap();
    reconnect(&mut peer);
    assert_eq!(published(&peer.serve()), [(String::new(), false)]);
    for promise in [queued, requested] {
        let error = peer.error(promise);
        assert!(
            matches!(error, Error::InvalidArgument { what, .. } if what == "immediate"),
            "{error:?}"
        );
    }
    peer.method(1, &ack(1, false));
    peer.expect_done(plain);
}

#[test]
fn immediate_that_was_queued_has_the_same_outcome() {
    for republishes in [false, true] {
        let mut peer = dialled(republishes);
        let reason = short("low on memory");
        peer.method(0, &connection::Blocked { reason });
        let queued = peer.machine.publish(&immediate("", "queued")).unwrap();
        let call = peer.machine.call(&immediate("", "call"), None).unwrap();
        let plain = peer.machine.publish(&publish("", "plain")).unwrap();
        peer.method(0, &connection::Unblocked {});
        assert_eq!(published(&peer.serve()).len(), 3);
        peer.method(0, &over_publish());
        for promise in [queued, call] {
            let error = peer.error(promise);
            assert!(is_not_implemented(&error), "{error:?}");
        }
        if republishes {
            assert!(peer.is_pending(plain));
        } else {
            assert!(is_unconfirmed(&peer.error(plain)));
        }
    }
}

#[test]
fn immediate_call_is_not_republished_after_a_loss() {
    let mut peer = dialled(true);
    let call = peer.machine.call(&immediate("", "call"), None).unwrap();
    peer.serve();
    peer.machine.handle_loss(Broken::Eof);
    assert!(matches!(peer.error(call), Error::Unconfirmed(_)));
    reconnect(&mut peer);
    assert!(published(&peer.serve()).is_empty());
    expect_sent(&mut peer);
}

#[test]
fn refused_immediate_fails_without_recovery_too() {
    let mut peer = Peer::new(Options::default());
    peer.complete_handshake_with(&lavinmq(), tune(2047, 131_072, 60));
    let beside = send(&mut peer, &publish("", "beside"));
    let cause = send(&mut peer, &immediate("", "cause"));
    peer.method(0, &over_publish());
    assert!(is_not_implemented(&peer.error(cause)));
    assert!(is_unconfirmed(&peer.error(beside)));
    assert!(is_not_implemented(peer.close_reason()));
}

#[test]
fn proxy_passes_the_close_on_without_a_method() {
    // The request is no cause, because RabbitMQ's text tells.
    let mut peer = dialled(true);
    let declared = peer.machine.request(declare("q")).unwrap();
    let cause = peer.machine.publish(&immediate("", "cause")).unwrap();
    peer.take();
    peer.method(0, &not_implemented(TEXT, 0, 0));
    assert!(is_not_implemented(&peer.error(cause)));
    reconnect(&mut peer);
    let sent = peer.serve();
    assert!(published(&sent).is_empty());
    assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
    expect_refused_locally(&mut peer);
    // Without a request, only the publish can be the cause.
    let mut peer = dialled(true);
    let cause = send(&mut peer, &immediate("", "cause"));
    peer.method(0, &not_implemented("NOT_IMPLEMENTED", 0, 0));
    assert!(is_not_implemented(&peer.error(cause)));
    reconnect(&mut peer);
    expect_refused_locally(&mut peer);
}

#[test]
fn unnamed_close_beside_a_request_teaches_nothing() {
    let mut peer = dialled(true);
    let declared = peer.machine.request(declare("q")).unwrap();
    let may_be = send(&mut peer, &immediate("", "may be"));
    let declared_too = peer.machine.request(declare("q2")).unwrap();
    let beside = send(&mut peer, &publish("other", "beside"));
    assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
    assert!(matches!(replied(&mut peer, declared_too), Reply::Queue(_)));
    let pending = peer.machine.request(declare("q3")).unwrap();
    peer.take();
    peer.method(0, &not_implemented("NOT_IMPLEMENTED", 0, 0));
    let error = peer.error(may_be);
    assert!(is_unconfirmed(&error), "{error:?}");
    assert!(peer.is_pending(pending) && peer.is_pending(beside));
    reconnect(&mut peer);
    assert_eq!(published(&peer.serve()), [("other".to_owned(), false)]);
    assert!(matches!(replied(&mut peer, pending), Reply::Queue(_)));
    expect_sent(&mut peer);
}

#[test]
fn close_over_other_methods_teaches_nothing() {
    for (over, is_repeated) in [
        (not_implemented("NOT_IMPLEMENTED", 60, 10), true),
        (close(320, "CONNECTION_FORCED"), true),
        (
            connection::Close {
                class_id: 60,
                method_id: 40,
                ..close(541, "INTERNAL_ERROR")
            },
            false,
        ),
    ] {
        let mut peer = dialled(true);
        let pending = send(&mut peer, &immediate("", "x"));
        peer.method(0, &over);
        if !is_repeated {
            assert!(matches!(peer.error(pending), Error::Unconfirmed(_)));
        }
        reconnect(&mut peer);
        assert_eq!(!published(&peer.serve()).is_empty(), is_repeated);
        expect_sent(&mut peer);
    }
    // No publish with the flag is in flight.
    let mut peer = dialled(true);
    let cause = send(&mut peer, &immediate("", "done"));
    peer.method(1, &ack(1, false));
    peer.expect_done(cause);
    let plain = send(&mut peer, &publish("", "plain"));
    peer.method(0, &over_publish());
    assert!(is_unconfirmed(&peer.error(plain)));
    reconnect(&mut peer);
    expect_sent(&mut peer);
}

#[test]
fn republished_immediate_is_unconfirmed_when_refused() {
    // The first broker may have accepted it.
    let mut peer = dialled(true);
    let cause = send(&mut peer, &immediate("", "x"));
    peer.machine.handle_loss(Broken::Eof);
    reconnect(&mut peer);
    assert_eq!(published(&peer.serve()), [(String::new(), true)]);
    peer.method(0, &over_publish());
    assert!(is_unconfirmed(&peer.error(cause)));
    reconnect(&mut peer);
    assert!(published(&peer.serve()).is_empty());
}

/// Begins a transaction on channel 1.
fn begin(peer: &mut Peer) -> TransactionId {
    let promise = peer.machine.transaction().unwrap();
    peer.serve();
    peer.method(1, &tx::SelectOk {});
    match replied(peer, promise) {
        Reply::Transaction(id) => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn refused_immediate_fails_its_transaction() {
    for commits in [false, true] {
        let mut peer = dialled(true);
        let id = begin(&mut peer);
        peer.machine.publish_in(id, &immediate("", "x")).unwrap();
        let committed = commits.then(|| peer.machine.commit(id).unwrap());
        peer.serve();
        peer.method(0, &over_publish());
        match committed {
            Some(promise) => assert!(is_unconfirmed(&peer.error(promise))),
            None => assert!(is_not_implemented(&peer.machine.commit(id).unwrap_err())),
        }
        reconnect(&mut peer);
        expect_refused_locally(&mut peer);
        let id = begin_later(&mut peer);
        let refused = peer.machine.publish_in(id, &immediate("", "x"));
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })));
    }
}

/// Begins a transaction beside other channels.
fn begin_later(peer: &mut Peer) -> TransactionId {
    let promise = peer.machine.transaction().unwrap();
    let sent = peer.serve();
    let select = sent.iter().find(|it| it.is(tx::Select::ID)).unwrap();
    peer.method(select.channel, &tx::SelectOk {});
    match replied(peer, promise) {
        Reply::Transaction(id) => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn commit_reports_a_returned_immediate_publish() {
    let mut peer = dialled(false);
    let id = begin(&mut peer);
    peer.machine.publish_in(id, &immediate("", "x")).unwrap();
    let committed = peer.machine.commit(id).unwrap();
    peer.serve();
    let returned = basic::Return {
        reply_code: 313,
        reply_text: short("NO_CONSUMERS"),
        exchange: short(""),
        routing_key: short("key"),
    };
    let frames = [
        method(1, &returned),
        header(1, 1, Default::default()),
        raw(3, 1, b"x"),
        method(1, &tx::CommitOk {}),
    ];
    peer.feed(&frames.concat());
    match replied(&mut peer, committed) {
        Reply::Committed(returned) => assert_eq!(returned.len(), 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn channel_close_over_immediate_refuses_the_flagged() {
    for republishes in [false, true] {
        let mut peer = dialled(republishes);
        let listener = peer.machine.listen();
        let names = ["first", "second", "third"];
        let plain = names.map(|body| send(&mut peer, &publish("", body)));
        let causes = names.map(|body| send(&mut peer, &immediate("", body)));
        let other = send(&mut peer, &immediate("other", "x"));
        peer.method(1, &channel_close(540, "NOT_IMPLEMENTED"));
        for promise in causes {
            assert!(is_not_implemented(&peer.error(promise)));
        }
        for promise in plain {
            assert!(is_unconfirmed(&peer.error(promise)));
        }
        assert!(peer.is_pending(other), "another channel is not affected");
        assert!(matches!(
            peer.machine.take_notice(listener),
            Some(Notice::ChannelClosed(Error::NotImplemented(_)))
        ));
        expect_refused_locally(&mut peer);
    }
}
