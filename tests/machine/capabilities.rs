//! Brokers without some of RabbitMQ's extensions.

use crate::peer::{Peer, consume, declare, publish, rabbitmq, reply_to, short, start, tune};
use puka::machine::{ConnectionState, Notice, PromiseId, Settle};
use puka::protocol::method::{basic, connection, exchange};
use puka::protocol::{Method, Table, TableRef};
use puka::{Broken, Error, Options, Recovery};

const ALL: [&str; 3] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
];

/// Completes the handshake with a broker that lists these capabilities.
fn complete_handshake(peer: &mut Peer, capabilities: &[&str]) {
    let mut table = Table::new();
    for name in capabilities {
        table.insert(name, true).unwrap();
    }
    // A broker may list what it does not have.
    table.insert("consumer_priorities", false).unwrap();
    let mut properties = rabbitmq();
    properties.insert("capabilities", &table).unwrap();
    peer.names();
    peer.feed(&start(&properties, b"PLAIN"));
    peer.method(0, &tune(2047, 131_072, 60));
    peer.names();
    peer.method(0, &connection::OpenOk {});
}

fn dialled(capabilities: &[&str]) -> Peer {
    let mut peer = Peer::undialled(Options::default().recovery(Recovery::default().seed(7)));
    peer.dial();
    complete_handshake(&mut peer, capabilities);
    peer
}

fn lacks(peer: &mut Peer, promise: PromiseId, capability: &str) -> bool {
    peer.pump();
    match peer.error(promise) {
        Error::MissingCapability(name) => name == capability,
        other => panic!("{other:?}"),
    }
}

fn bind(source: &str) -> exchange::Bind<'_> {
    exchange::Bind {
        destination: short("to"),
        source: short(source),
        routing_key: short("key"),
        nowait: false,
        arguments: TableRef::EMPTY,
    }
}

#[test]
fn publish_needs_confirms_unless_it_asks_none() {
    let mut peer = dialled(&["basic.nack"]);
    let message = publish("", "x");
    for _ in 0..2 {
        let published = peer.machine.publish(&message).unwrap();
        assert!(lacks(&mut peer, published, "publisher_confirms"));
        let call = peer.machine.call(&message, None).unwrap();
        assert!(lacks(&mut peer, call, "publisher_confirms"));
    }
    assert_eq!(peer.names(), [""; 0]);
    let unconfirmed = peer.machine.publish_unconfirmed(&message).unwrap();
    assert_eq!(peer.names()[0], "1 channel.open");
    peer.expect_done(unconfirmed);
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
}

#[test]
fn call_needs_direct_reply_to() {
    let mut peer = dialled(&["publisher_confirms"]);
    let call = peer.machine.call(&publish("", "x"), None).unwrap();
    assert!(lacks(&mut peer, call, "direct_reply_to"));
    assert_eq!(peer.names(), [""; 0]);
    let mut peer = dialled(&["publisher_confirms", "direct_reply_to"]);
    peer.machine.call(&publish("", "x"), None).unwrap();
    assert!(peer.take().iter().any(|it| it.is(basic::Consume::ID)));
}

#[test]
fn exchange_bind_needs_its_capability() {
    let mut peer = dialled(&["publisher_confirms"]);
    let unbind = exchange::Unbind {
        destination: short("to"),
        source: short("from"),
        routing_key: short("key"),
        nowait: false,
        arguments: TableRef::EMPTY,
    };
    for outcome in [
        peer.machine.request(bind("from")),
        peer.machine.request(unbind),
    ] {
        let error = outcome.unwrap_err();
        assert!(
            matches!(
                error,
                Error::MissingCapability("exchange_exchange_bindings")
            ),
            "{error}"
        );
    }
    assert_eq!(peer.names(), [""; 0]);
    assert!(peer.machine.is_idle());
}

#[test]
fn nack_is_a_reject_without_its_capability() {
    let mut peer = dialled(&["publisher_confirms"]);
    let (id, channel, tag) = peer.consumer(&consume("q"));
    for number in 1..=5 {
        peer.deliver(channel, &tag, number, b"m");
    }
    let taken = peer.take_deliveries(id);
    let nack = |multiple| Settle::Nack {
        multiple,
        requeue: false,
    };
    let error = peer.machine.settle(&taken[1], nack(true)).unwrap_err();
    assert!(matches!(error, Error::MissingCapability("basic.nack")));
    peer.machine.settle(&taken[1], nack(false)).unwrap();
    let [sent] = &peer.take()[..] else { panic!() };
    let reject = basic::Reject {
        delivery_tag: 2,
        requeue: false,
    };
    assert_eq!(sent.method(), reject.into());
    // Those that the program never receives are rejected one by one after the cancel.
    drop(taken);
    for number in 6..=8 {
        peer.deliver(channel, &tag, number, b"m");
    }
    peer.machine.drop_consumer(id);
    let sent = peer.serve_with(reply_to);
    let rejected: Vec<_> = sent
        .iter()
        .filter_map(|it| match it.method() {
            Method::Basic(basic::Method::Reject(it)) => Some((it.delivery_tag, it.requeue)),
            Method::Basic(basic::Method::Nack(it)) => panic!("{it:?}"),
            _ => None,
        })
        .collect();
    assert_eq!(rejected, [(6, true), (7, true), (8, true)]);
}

#[test]
fn queued_work_meets_a_broker_without_capabilities() {
    let mut peer = dialled(&ALL);
    for name in ["to", "from"] {
        peer.machine.request(declare(name)).unwrap();
    }
    peer.machine.request(bind("from")).unwrap();
    peer.serve();
    let listener = peer.machine.listen();
    peer.machine.handle_loss(Broken::Eof);
    let bound = peer.machine.request(bind("from")).unwrap();
    let published = peer.machine.publish(&publish("", "x")).unwrap();
    peer.dial();
    complete_handshake(&mut peer, &[]);
    let sent = peer.serve();
    assert!(!sent.iter().any(|it| it.is(exchange::Bind::ID)), "{sent:?}");
    assert!(lacks(&mut peer, bound, "exchange_exchange_bindings"));
    assert!(lacks(&mut peer, published, "publisher_confirms"));
    let notices = std::iter::from_fn(|| peer.machine.take_notice(listener));
    let reports: Vec<_> = notices
        .filter_map(|notice| match notice {
            Notice::Recovered(report) => Some(report),
            _ => None,
        })
        .collect();
    let [report] = &reports[..] else {
        panic!("{reports:?}")
    };
    let [(what, Error::MissingCapability(_))] = &report.failed[..] else {
        panic!("{report:?}")
    };
    assert!(what.contains("from"), "{what}");
    // The record is kept, for the next broker.
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    complete_handshake(&mut peer, &ALL);
    assert!(peer.serve().iter().any(|it| it.is(exchange::Bind::ID)));
}

#[test]
fn broker_without_a_list_is_asked() {
    let mut peer = Peer::dialled(Options::default());
    peer.machine.request(bind("from")).unwrap();
    peer.machine.publish(&publish("", "x")).unwrap();
    let sent = peer.serve();
    assert!(sent.iter().any(|it| it.is(exchange::Bind::ID)));
    assert!(sent.iter().any(|it| it.is(basic::Publish::ID)));
}
