//! Brokers that look like RabbitMQ: one that mixes up the replies of all clients, and one without
//! any of RabbitMQ's extensions.

use crate::peer::{
    Peer, Sent, consume, declare, get_ok, header, lavinmq, method, publish, raw, reply_to, short,
    start, tune,
};
use crate::recovering::{options, replied};
use crate::restoring::{bind, exchange_declare};
use crate::transacting::correlation_ids;
use crate::unconfirmed::unconfirmed;
use puka::machine::{ConnectionState, Consume, PromiseId, Reply, Settle};
use puka::protocol::method::{basic, channel, connection, exchange, queue, tx};
use puka::protocol::{FrameKind, Method, Properties, Table, TableRef};
use puka::{Broken, Error, Options};
use std::time::Duration;

/// The tag that such a broker gives the consumer of each client.
const SHARED_TAG: &str = "amq.ctag-shared";

/// Returns a reply as LavinMQ delivers it. Each has the delivery tag 1.
fn reply(number: u16, consumer_tag: &str, correlation_id: &str, body: &str) -> Vec<u8> {
    let deliver = basic::Deliver {
        consumer_tag: short(consumer_tag),
        delivery_tag: 1,
        redelivered: false,
        exchange: short(""),
        routing_key: short("amq.direct.reply-to.x"),
    };
    let mut properties = Properties::default();
    properties.correlation_id = Some(short(correlation_id));
    let frames = [
        method(number, &deliver),
        header(number, body.len() as u64, properties),
        raw(3, number, body.as_bytes()),
    ];
    frames.concat()
}

/// A call, and what identifies it.
struct Call {
    promise: PromiseId,
    id: String,
    body: String,
}

/// Returns the calls with these bodies. Each reply has the body of its call.
fn call(peer: &mut Peer, bodies: &[&str]) -> Vec<Call> {
    let promises: Vec<_> = bodies
        .iter()
        .map(|body| peer.machine.call(&publish("", *body), None).unwrap())
        .collect();
    let ids = correlation_ids(&peer.serve());
    let parts = promises.into_iter().zip(ids).zip(bodies);
    parts
        .map(|((promise, id), body)| Call {
            promise,
            id,
            body: (*body).to_owned(),
        })
        .collect()
}

/// Checks that a call has its own reply.
fn expect_own_reply(peer: &mut Peer, call: &Call) {
    match peer.machine.fetch(call.promise) {
        Some(Ok(Reply::Message(message))) => assert_eq!(message.body(), call.body.as_bytes()),
        other => panic!("{}: {other:?}", call.body),
    }
}

/// Checks that replies to others were neither stored nor settled.
fn expect_nothing_left(peer: &mut Peer) {
    let sent = peer.take();
    let is_settled = |it: &Sent| {
        let settles = [basic::Ack::ID, basic::Nack::ID, basic::Reject::ID];
        settles.into_iter().any(|id| it.is(id)) || it.is(channel::Close::ID)
    };
    assert!(!sent.iter().any(is_settled), "{sent:?}");
    assert_eq!(peer.machine.stats().buffered_deliveries, 0);
    assert_eq!(peer.machine.counters().lost_deliveries, 0);
    assert_eq!(peer.machine.partly_received().count(), 0);
    assert!(peer.machine.is_idle());
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
}

#[test]
fn mixed_up_replies_reach_their_own_calls() {
    let client = || {
        let mut peer = Peer::undialled(options(|recovery| recovery).heartbeat(0));
        peer.dial();
        peer.complete_handshake_with(&lavinmq(), tune(2047, 131_072, 0));
        peer
    };
    let mut clients = [client(), client()];
    let bodies = [["a0", "a1", "a2", "a3"], ["b0", "b1", "b2", "b3"]];
    let mut calls = Vec::new();
    for (peer, bodies) in clients.iter_mut().zip(&bodies) {
        calls.push(call(peer, bodies));
    }
    let (numbers, secrets): (Vec<_>, Vec<_>) = calls
        .iter()
        .map(|calls| calls[0].id.split_once('.').unwrap())
        .unzip();
    assert_eq!(numbers[0], numbers[1], "the calls have the same numbers");
    assert_ne!(secrets[0], secrets[1]);
    // Each client gets the replies of both, the other's first. That to a3 reaches only the other.
    for place in [2, 0, 3, 1] {
        for to in [0, 1] {
            for of in [1 - to, to] {
                let call = &calls[of][place];
                if (to, of, place) != (0, 0, 3) {
                    let bytes = reply(1, SHARED_TAG, &call.id, &call.body);
                    clients[to].feed(&bytes);
                }
            }
        }
    }
    for (peer, calls) in clients.iter_mut().zip(&calls) {
        for call in calls.iter().filter(|call| call.body != "a3") {
            expect_own_reply(peer, call);
        }
    }
    assert!(clients[0].is_pending(calls[0][3].promise));
    clients[0].pass(Duration::from_secs(31));
    let error = clients[0].error(calls[0][3].promise);
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    // The reply to the call that timed out comes late, and all others come again.
    for (peer, confirmed) in clients.iter_mut().zip([4, 4]) {
        for call in calls.iter().flatten() {
            peer.feed(&reply(1, SHARED_TAG, &call.id, &call.body));
        }
        peer.method(1, &crate::peer::ack(confirmed, true));
        expect_nothing_left(peer);
    }
}

#[test]
fn late_replies_of_an_earlier_connection_are_dropped() {
    let mut peer = Peer::dialled(options(|recovery| recovery));
    let earlier = call(&mut peer, &["early", "late"]);
    peer.reconnect();
    for call in &earlier {
        assert!(matches!(peer.error(call.promise), Error::Unconfirmed(_)));
    }
    let later = call(&mut peer, &["first", "second"]);
    for (before, after) in earlier.iter().zip(&later) {
        let (number, secret) = before.id.split_once('.').unwrap();
        let (same_number, new_secret) = after.id.split_once('.').unwrap();
        assert_eq!(number, same_number);
        assert_ne!(secret, new_secret);
    }
    for call in &earlier {
        peer.feed(&reply(1, SHARED_TAG, &call.id, &call.body));
    }
    for call in &later {
        assert!(peer.is_pending(call.promise));
        peer.feed(&reply(1, SHARED_TAG, &call.id, &call.body));
        expect_own_reply(&mut peer, call);
    }
    peer.method(1, &crate::peer::ack(2, true));
    expect_nothing_left(&mut peer);
}

#[test]
fn reply_with_a_consumers_tag_reaches_no_consumer() {
    let mut peer = Peer::dialled(Options::default());
    let (id, number, tag) = peer.consumer(&consume("q"));
    let mine = call(&mut peer, &["mine"]).remove(0);
    peer.feed(&reply(2, &tag, "1.of-another-client", "other"));
    peer.feed(&reply(2, &tag, &mine.id, "mine"));
    assert!(peer.take_deliveries(id).is_empty());
    expect_own_reply(&mut peer, &mine);
    // Its own deliveries are not affected.
    peer.deliver(number, &tag, 1, b"m");
    let taken = peer.take_deliveries(id);
    assert_eq!(taken.len(), 1);
    peer.machine
        .settle(&taken[0], Settle::Ack { multiple: false })
        .unwrap();
    assert_eq!(peer.names(), [format!("{number} basic.ack")]);
}

/// Returns `true` for a method that is not in AMQP 0-9-1.
fn is_extension(sent: &Sent) -> bool {
    sent.kind == FrameKind::Method
        && match sent.method() {
            Method::Confirm(_)
            | Method::Exchange(exchange::Method::Bind(_) | exchange::Method::Unbind(_))
            | Method::Basic(basic::Method::Nack(_))
            | Method::Connection(connection::Method::UpdateSecret(_)) => true,
            Method::Basic(basic::Method::Consume(it)) => !it.arguments.is_empty(),
            _ => false,
        }
}

/// Replies as a broker that has no extensions.
fn serve_plain(peer: &mut Peer) -> Vec<Sent> {
    peer.serve_with(|sent| {
        assert!(!is_extension(sent), "{sent:?}");
        if sent.kind != FrameKind::Method {
            return None;
        }
        let number = sent.channel;
        match sent.method() {
            Method::Tx(tx::Method::Select(_)) => Some(method(number, &tx::SelectOk {})),
            Method::Tx(tx::Method::Commit(_)) => Some(method(number, &tx::CommitOk {})),
            Method::Tx(tx::Method::Rollback(_)) => Some(method(number, &tx::RollbackOk {})),
            Method::Basic(basic::Method::Recover(_)) => Some(method(number, &basic::RecoverOk {})),
            Method::Queue(queue::Method::Purge(_)) => {
                Some(method(number, &queue::PurgeOk { message_count: 0 }))
            }
            _ => reply_to(sent),
        }
    })
}

/// Completes the handshake with a broker that lists no capability.
fn connect_to_plain(peer: &mut Peer) {
    let mut properties = Table::new();
    properties.insert("product", "Plain").unwrap();
    properties.insert("capabilities", &Table::new()).unwrap();
    peer.dial();
    peer.names();
    peer.feed(&start(&properties, b"PLAIN"));
    peer.method(0, &tune(0, 0, 0));
    peer.names();
    peer.method(0, &connection::OpenOk {});
}

fn plain() -> Peer {
    let mut peer = Peer::undialled(options(|recovery| recovery.republish_unconfirmed(3)));
    connect_to_plain(&mut peer);
    peer
}

/// Requests something, and checks that the broker without extensions grants it.
fn request<'a>(peer: &mut Peer, request: impl Into<Method<'a>>) -> Reply {
    let promise = peer.machine.request(request).unwrap();
    serve_plain(peer);
    replied(peer, promise)
}

/// Returns the channel of the get that is sent.
fn channel_of_get(peer: &mut Peer) -> u16 {
    let sent = serve_plain(peer);
    let get = sent.iter().find(|it| it.is(basic::Get::ID));
    get.unwrap().channel
}

#[test]
fn broker_without_extensions_declares_and_gets() {
    let mut peer = plain();
    request(&mut peer, exchange_declare("x"));
    request(&mut peer, declare("q"));
    request(&mut peer, bind("q", "x", "key"));
    let (queue, nowait) = (short("q"), false);
    request(&mut peer, queue::Purge { queue, nowait });
    for (tag, is_acked) in [(1, true), (2, false)] {
        let got = peer.get();
        let number = channel_of_get(&mut peer);
        peer.content(number, &get_ok(tag), b"m");
        let Reply::Delivery(Some(got)) = replied(&mut peer, got) else {
            panic!()
        };
        if is_acked {
            let ack = Settle::Ack { multiple: false };
            peer.machine.settle(&got.delivered, ack).unwrap();
            assert!(serve_plain(&mut peer)[0].is(basic::Ack::ID));
        } else {
            peer.machine.give_back(&got.delivered);
            assert!(serve_plain(&mut peer)[0].is(basic::Reject::ID));
        }
    }
    let empty = peer.get();
    let number = channel_of_get(&mut peer);
    peer.method(number, &basic::GetEmpty {});
    assert!(matches!(replied(&mut peer, empty), Reply::Delivery(None)));
}

#[test]
fn broker_without_extensions_publishes_and_closes() {
    let mut peer = plain();
    let sent = |sent: &[Sent]| sent.iter().filter(|it| it.is(basic::Publish::ID)).count();
    let promise = unconfirmed(&mut peer, "x");
    peer.expect_done(promise);
    assert_eq!(sent(&serve_plain(&mut peer)), 1);
    for commits in [true, false] {
        let begun = peer.machine.transaction().unwrap();
        serve_plain(&mut peer);
        let Reply::Transaction(id) = replied(&mut peer, begun) else {
            panic!()
        };
        peer.machine.publish_in(id, &publish("x", "in")).unwrap();
        let ended = match commits {
            true => peer.machine.commit(id).unwrap(),
            false => peer.machine.rollback(id).unwrap(),
        };
        assert_eq!(sent(&serve_plain(&mut peer)), 1);
        match replied(&mut peer, ended) {
            Reply::Committed(returned) => assert!(commits && returned.is_empty()),
            Reply::Done => assert!(!commits),
            other => panic!("{other:?}"),
        }
    }
    let closed = peer.machine.close();
    serve_plain(&mut peer);
    peer.expect_done(closed);
}

#[test]
fn broker_without_extensions_feeds_a_consumer() {
    let mut peer = plain();
    let consumed = peer
        .machine
        .consume(&Consume {
            prefetch_count: 10,
            ..consume("q")
        })
        .unwrap();
    let sent = serve_plain(&mut peer);
    let Reply::Consumer(id) = replied(&mut peer, consumed) else {
        panic!()
    };
    let started = sent.iter().find(|it| it.is(basic::Consume::ID)).unwrap();
    let (number, tag) = (started.channel, crate::peer::tag_of(started));
    for delivery in 1..=4 {
        peer.deliver(number, &tag, delivery, b"m");
    }
    let taken = peer.take_deliveries(id);
    let reject = Settle::Reject { requeue: true };
    let nack = |multiple| Settle::Nack {
        multiple,
        requeue: true,
    };
    let refused = peer.machine.settle(&taken[3], nack(true)).unwrap_err();
    assert!(matches!(refused, Error::MissingCapability("basic.nack")));
    assert!(peer.take().is_empty());
    for (delivered, how) in taken
        .iter()
        .zip([Settle::Ack { multiple: false }, reject, nack(false)])
    {
        peer.machine.settle(delivered, how).unwrap();
    }
    serve_plain(&mut peer);
    let recovered = peer.machine.recover(id).unwrap();
    serve_plain(&mut peer);
    peer.expect_done(recovered);
    let resized = peer.machine.qos(id, 20).unwrap();
    serve_plain(&mut peer);
    peer.expect_done(resized);
    // It survives a loss.
    peer.machine.handle_loss(Broken::Eof);
    connect_to_plain(&mut peer);
    assert!(
        serve_plain(&mut peer)
            .iter()
            .any(|it| it.is(basic::Consume::ID))
    );
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    let cancelled = peer.machine.cancel(id).unwrap();
    serve_plain(&mut peer);
    assert!(matches!(replied(&mut peer, cancelled), Reply::Cancelled(_)));
}

#[test]
fn missing_extensions_are_errors_and_send_nothing() {
    let mut peer = plain();
    let lacks = |error: &Error, capability| {
        assert!(
            matches!(error, Error::MissingCapability(name) if *name == capability),
            "{error:?}"
        );
    };
    let published = peer.machine.publish(&publish("", "x")).unwrap();
    let call = peer.machine.call(&publish("", "x"), None).unwrap();
    peer.pump();
    for promise in [published, call] {
        lacks(&peer.error(promise), "publisher_confirms");
    }
    let (destination, source, routing_key) = (short("to"), short("from"), short("key"));
    let bound = peer.machine.request(exchange::Bind {
        destination,
        source,
        routing_key,
        nowait: false,
        arguments: TableRef::EMPTY,
    });
    lacks(&bound.unwrap_err(), "exchange_exchange_bindings");
    assert!(peer.take().is_empty());
    assert!(peer.machine.is_idle());
}
