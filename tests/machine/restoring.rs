//! The replay with the next connection: its entities, their order, and the skipped ones.

use crate::peer::{Peer, Sent, channel_close, consume, declare, publish, short, tune};
use puka::machine::{ConnectionState, Notice, PromiseId, Reply};
use puka::protocol::method::{Encode, basic, channel, exchange, queue};
use puka::protocol::{Method, ShortStr, Table, TableRef};
use puka::{Broken, Error, Options, Recovered, Recovery, Resubscribe};

pub(crate) fn options(set: impl FnOnce(Recovery) -> Recovery) -> Options {
    Options::default().recovery(set(Recovery::default().seed(7)))
}

pub(crate) fn dialled() -> Peer {
    Peer::dialled(options(|recovery| recovery))
}

/// Returns a client whose consumers end when the broker ends them.
pub(crate) fn dialled_without_resubscribing() -> Peer {
    Peer::dialled(options(|recovery| {
        recovery.resubscribe(Resubscribe::never())
    }))
}

pub(crate) fn exchange_declare(name: &str) -> exchange::Declare<'_> {
    exchange::Declare {
        exchange: short(name),
        r#type: short("direct"),
        passive: false,
        durable: false,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: TableRef::EMPTY,
    }
}

pub(crate) fn bind<'a>(queue: &'a str, exchange: &'a str, key: &'a str) -> queue::Bind<'a> {
    queue::Bind {
        queue: short(queue),
        exchange: short(exchange),
        routing_key: short(key),
        nowait: false,
        arguments: TableRef::EMPTY,
    }
}

pub(crate) fn unbind<'a>(queue: &'a str, exchange: &'a str, key: &'a str) -> queue::Unbind<'a> {
    let (queue, exchange, routing_key) = (short(queue), short(exchange), short(key));
    queue::Unbind {
        queue,
        exchange,
        routing_key,
        arguments: TableRef::EMPTY,
    }
}

fn bind_exchange<'a>(destination: &'a str, source: &'a str) -> exchange::Bind<'a> {
    exchange::Bind {
        destination: short(destination),
        source: short(source),
        routing_key: ShortStr::EMPTY,
        nowait: false,
        arguments: TableRef::EMPTY,
    }
}

/// Serves as a broker that names queues `amq.gen-` and this.
pub(crate) fn serve_naming(peer: &mut Peer, generated: &str) -> Vec<Sent> {
    peer.serve_naming(&format!("amq.gen-{generated}"))
}

pub(crate) fn ask<'a>(peer: &mut Peer, request: impl Into<Method<'a>>) -> PromiseId {
    let promise = peer.machine.request(request).unwrap();
    serve_naming(peer, "first");
    assert!(matches!(peer.machine.fetch(promise), Some(Ok(_))));
    promise
}

/// Returns the method of a frame and the names in it.
pub(crate) fn describe(sent: &Sent) -> String {
    if sent.kind != puka::protocol::FrameKind::Method {
        return sent.name();
    }
    match sent.method() {
        Method::Exchange(exchange::Method::Declare(it)) => format!("exchange {}", it.exchange),
        Method::Exchange(exchange::Method::Bind(it)) => {
            format!("bind {} to {}", it.destination, it.source)
        }
        Method::Queue(queue::Method::Declare(it)) => format!("queue {}", it.queue),
        Method::Queue(queue::Method::Bind(it)) => {
            format!("bind {} to {} by {}", it.queue, it.exchange, it.routing_key)
        }
        Method::Basic(basic::Method::Consume(it)) => format!("consume {}", it.queue),
        other => other.id().to_string(),
    }
}

pub(crate) fn describe_all(sent: &[Sent]) -> Vec<String> {
    sent.iter()
        .map(describe)
        .filter(|describe| describe != "channel.open")
        .collect()
}

/// Returns what was restored with the last connection.
pub(crate) fn report(peer: &mut Peer, listener: puka::machine::ListenerId) -> Box<Recovered> {
    let mut last = None;
    while let Some(notice) = peer.machine.take_notice(listener) {
        if let Notice::Recovered(report) = notice {
            last = Some(report);
        }
    }
    last.expect("it was restored")
}

#[test]
fn r5_entities_are_declared_in_order_of_dependency() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    ask(&mut peer, declare("a-queue"));
    ask(&mut peer, exchange_declare("x"));
    ask(&mut peer, bind("a-queue", "x", "key"));
    ask(&mut peer, exchange_declare("a"));
    ask(&mut peer, bind_exchange("a", "x"));
    ask(&mut peer, exchange_declare("amq.rabbitmq.trace"));
    let (..) = peer.consumer(&consume("a-queue"));
    peer.reconnect();
    assert!(matches!(
        peer.machine.state(),
        ConnectionState::Recovering { .. }
    ));
    let again = describe_all(&peer.serve());
    assert_eq!(
        again,
        [
            "exchange a",
            "exchange x",
            "bind a to x",
            "queue a-queue",
            "bind a-queue to x by key",
            "consume a-queue"
        ]
    );
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    let report = report(&mut peer, listener);
    assert_eq!(
        (report.entities, report.consumers, report.failed.len()),
        (5, 1, 0)
    );
}

#[test]
fn s16_requests_wait_until_everything_is_restored() {
    let mut peer = dialled();
    ask(&mut peer, declare("q"));
    let (..) = peer.consumer(&consume("q"));
    peer.machine.handle_loss(Broken::Eof);
    let published = peer.machine.publish(&publish("", "first")).unwrap();
    let requested = peer.machine.request(declare("later")).unwrap();
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
    let order = describe_all(&peer.serve());
    let place = |what: &str| order.iter().position(|describe| describe.starts_with(what));
    assert!(
        place("consume q") < place("queue later") && place("consume q") < place("basic.publish"),
        "{order:?}"
    );
    assert_eq!(order[0], "queue q");
    peer.method(2, &crate::peer::ack(1, false));
    assert!(matches!(
        peer.machine.fetch(requested),
        Some(Ok(Reply::Queue(_)))
    ));
    let _ = published;
}

#[test]
fn s20_s21_s32_deleted_or_unbound_entities_are_not_restored() {
    let mut peer = dialled();
    for name in ["kept", "deleted"] {
        ask(&mut peer, declare(name));
        ask(&mut peer, exchange_declare(name));
        ask(&mut peer, bind("kept", name, "key"));
        ask(&mut peer, bind("deleted", name, "key"));
    }
    ask(&mut peer, bind("kept", "kept", "unbound"));
    ask(&mut peer, unbind("kept", "kept", "unbound"));
    let delete = queue::Delete {
        queue: short("deleted"),
        if_unused: false,
        if_empty: false,
        nowait: false,
    };
    ask(&mut peer, delete);
    ask(
        &mut peer,
        exchange::Delete {
            exchange: short("deleted"),
            if_unused: false,
            nowait: false,
        },
    );
    let (gone, _, tag) = peer.consumer(&consume("kept"));
    let cancelled = peer.machine.cancel(gone).unwrap();
    peer.serve();
    assert!(
        matches!(peer.machine.fetch(cancelled), Some(Ok(Reply::Cancelled(found))) if *found == *tag)
    );
    peer.reconnect();
    assert_eq!(
        describe_all(&peer.serve()),
        ["exchange kept", "queue kept", "bind kept to kept by key"]
    );
}

#[test]
fn passive_and_refused_declares_are_not_recorded() {
    let mut peer = dialled();
    let mut passive = declare("other");
    passive.passive = true;
    ask(&mut peer, passive);
    ask(&mut peer, declare("mine"));
    let missing = peer
        .machine
        .request(basic::Get {
            queue: short("mine"),
            no_ack: false,
        })
        .unwrap();
    let number = peer.take().last().unwrap().channel;
    peer.method(number, &channel_close(404, "NOT_FOUND - no queue 'mine'"));
    assert!(matches!(peer.error(missing), Error::NotFound(_)));
    peer.take();
    peer.reconnect();
    assert!(describe_all(&peer.serve()).is_empty());
}

#[test]
fn r5_s22_auto_deleted_entities_are_forgotten() {
    let mut peer = dialled_without_resubscribing();
    let mut auto = declare("auto");
    auto.auto_delete = true;
    ask(&mut peer, auto);
    let mut x = exchange_declare("x");
    x.auto_delete = true;
    ask(&mut peer, x);
    ask(&mut peer, bind("auto", "x", "key"));
    let (consumer, ..) = peer.consumer(&consume("auto"));
    let cancelled = peer.machine.cancel(consumer).unwrap();
    peer.serve();
    assert!(matches!(peer.machine.fetch(cancelled), Some(Ok(_))));
    // A channel closed by the broker ends its consumer, and a broker that cancels has lost the
    // queue.
    for end in 0..2 {
        ask(&mut peer, auto);
        ask(&mut peer, x);
        ask(&mut peer, bind("auto", "x", "key"));
        let (_, number, tag) = peer.consumer(&consume("auto"));
        if end == 0 {
            peer.method(
                number,
                &channel_close(406, "PRECONDITION_FAILED - unknown delivery tag"),
            );
        } else {
            peer.method(
                number,
                &basic::Cancel {
                    consumer_tag: short(&tag),
                    nowait: true,
                },
            );
        }
        peer.serve();
    }
    peer.reconnect();
    assert!(describe_all(&peer.serve()).is_empty());
}

#[test]
fn long_chain_of_auto_delete_exchanges_is_forgotten() {
    let mut peer = dialled();
    let name = |n: u32| format!("x{n:04}");
    for n in 0..2000 {
        ask(
            &mut peer,
            exchange::Declare {
                auto_delete: true,
                ..exchange_declare(&name(n))
            },
        );
        if n > 0 {
            ask(&mut peer, bind_exchange(&name(n), &name(n - 1)));
        }
    }
    ask(
        &mut peer,
        exchange::Delete {
            exchange: short(&name(1999)),
            if_unused: false,
            nowait: false,
        },
    );
    peer.reconnect();
    assert!(describe_all(&peer.serve()).is_empty());
}

#[test]
fn s24_r6_new_name_of_a_queue_is_used_everywhere() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    let mut own = declare("");
    own.exclusive = true;
    ask(&mut peer, own);
    let mut arguments = Table::new();
    arguments.insert("x-dead-letter-exchange", "").unwrap();
    arguments
        .insert("x-dead-letter-routing-key", "amq.gen-first")
        .unwrap();
    let mut mortal = declare("mortal");
    mortal.arguments = arguments.as_ref();
    ask(&mut peer, mortal);
    ask(&mut peer, exchange_declare("x"));
    ask(&mut peer, bind("amq.gen-first", "x", "key"));
    let (consumer, ..) = peer.consumer(&consume("amq.gen-first"));
    for name in ["second", "third"] {
        peer.machine.handle_loss(Broken::Eof);
        let waiting = peer
            .machine
            .request(bind("amq.gen-first", "x", "waiting"))
            .unwrap();
        let published = peer.machine.publish(&puka::machine::Publish {
            routing_key: short("amq.gen-first"),
            ..publish("", "to it")
        });
        peer.dial();
        peer.complete_handshake(tune(2047, 131_072, 60));
        let sent = serve_naming(&mut peer, name);
        let order = describe_all(&sent);
        let (bound, consumed) = (
            format!("bind amq.gen-{name} to x by key"),
            format!("consume amq.gen-{name}"),
        );
        assert_eq!(order[..3], ["exchange x", "queue ", "queue mortal"]);
        assert!(
            order.contains(&bound) && order.contains(&consumed),
            "{order:?}"
        );
        assert!(
            order.contains(&format!("bind amq.gen-{name} to x by waiting")),
            "{order:?}"
        );
        let key = sent.iter().find_map(|it| match it.kind {
            puka::protocol::FrameKind::Method => match it.method() {
                Method::Basic(basic::Method::Publish(it)) => Some(it.routing_key.to_string()),
                _ => None,
            },
            _ => None,
        });
        assert_eq!(key, Some(format!("amq.gen-{name}")));
        let dead = sent
            .iter()
            .find(|it| describe(it) == "queue mortal")
            .unwrap();
        match dead.method() {
            Method::Queue(queue::Method::Declare(it)) => {
                let current = format!("amq.gen-{name}");
                let expected = puka::protocol::Value::from(current.as_str());
                assert_eq!(
                    it.arguments.get("x-dead-letter-routing-key"),
                    Some(expected)
                );
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(peer.machine.fetch(waiting), Some(Ok(_))));
        assert_eq!(
            &*peer.machine.current_name(b"amq.gen-first"),
            format!("amq.gen-{name}").as_bytes()
        );
        let _ = published;
    }
    let report = report(&mut peer, listener);
    assert_eq!(
        report.renamed,
        [("amq.gen-second".into(), "amq.gen-third".into())]
    );
    let queues: Vec<_> = peer
        .machine
        .consumer(consumer)
        .unwrap()
        .queues()
        .map(|(name, _)| name.to_string())
        .collect();
    assert_eq!(queues, ["amq.gen-first"]);
}

#[test]
fn entity_with_a_pending_delete_is_not_restored() {
    let mut peer = dialled();
    for name in ["x", "y"] {
        ask(&mut peer, exchange_declare(name));
    }
    for name in ["q", "kept"] {
        ask(&mut peer, declare(name));
    }
    ask(&mut peer, bind("q", "x", "key"));
    ask(&mut peer, bind("kept", "y", "key"));
    ask(&mut peer, bind("kept", "y", "other"));
    let deletes: [Method<'_>; 3] = [
        queue::Delete {
            queue: short("q"),
            if_unused: false,
            if_empty: false,
            nowait: false,
        }
        .into(),
        exchange::Delete {
            exchange: short("x"),
            if_unused: false,
            nowait: false,
        }
        .into(),
        unbind("kept", "y", "key").into(),
    ];
    let promises = deletes.map(|it| peer.machine.request(it).unwrap());
    peer.machine.abandon(promises[1]);
    peer.take();
    peer.reconnect();
    let declared: Vec<_> = describe_all(&peer.serve());
    assert_eq!(
        declared[..3],
        ["exchange y", "queue kept", "bind kept to y by other"]
    );
    assert!(
        declared[3..].iter().all(|it| it == "queue.unbind"),
        "{declared:?}"
    );
    let unknown = peer.error(promises[0]);
    assert!(
        matches!(unknown, Error::ConnectionBroken(Broken::OutcomeUnknown(_))),
        "{unknown:?}"
    );
}

#[test]
fn entity_with_a_refused_delete_is_restored() {
    let mut peer = dialled();
    ask(&mut peer, declare("q"));
    let delete = queue::Delete {
        queue: short("q"),
        if_unused: false,
        if_empty: false,
        nowait: false,
    };
    let deleted = peer.machine.request(delete).unwrap();
    peer.take();
    let close = puka::protocol::method::connection::Close {
        class_id: 50,
        method_id: 40,
        ..crate::peer::close(530, "NOT_ALLOWED - text")
    };
    peer.method(0, &close);
    assert!(matches!(peer.error(deleted), Error::NotAllowed(_)));
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
    assert_eq!(describe_all(&peer.serve()), ["queue q"]);
}

#[test]
fn r5_recorded_entities_are_bounded() {
    let mut peer = Peer::dialled(options(|recovery| recovery.max_records(2)));
    let listener = peer.machine.listen();
    let notices_after = |peer: &mut Peer, name| {
        ask(peer, declare(name));
        std::iter::from_fn(|| peer.machine.take_notice(listener)).count()
    };
    let notices = ["a", "b", "c", "d"].map(|name| notices_after(&mut peer, name));
    assert_eq!(notices, [0, 0, 1, 0], "the first that is not recorded");
    ask(&mut peer, bind("a", "amq.direct", "key"));
    peer.reconnect();
    assert_eq!(describe_all(&peer.serve()), ["queue a", "queue b"]);
}

#[test]
fn many_entities_are_declared_in_windows() {
    let mut peer = dialled();
    for n in 0..500 {
        ask(&mut peer, declare(&format!("q{n:03}")));
    }
    peer.reconnect();
    assert_eq!(peer.take().len(), 65, "the channel, and a full window");
    let _ = channel::OpenOk {}.id();
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
    assert_eq!(describe_all(&peer.serve()).len(), 500);
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
}

#[test]
fn overflow_by_a_binding_is_reported() {
    let mut peer = Peer::dialled(options(|recovery| recovery.max_records(1)));
    let listener = peer.machine.listen();
    ask(&mut peer, declare("q"));
    assert!(peer.machine.take_notice(listener).is_none());
    ask(&mut peer, bind("q", "amq.direct", "key"));
    let notice = peer.machine.take_notice(listener);
    assert!(matches!(notice, Some(Notice::NotRecorded)), "{notice:?}");
}

#[test]
fn passive_exchange_is_not_declared_again() {
    let mut peer = dialled();
    ask(
        &mut peer,
        exchange::Declare {
            passive: true,
            ..exchange_declare("other")
        },
    );
    peer.reconnect();
    assert!(describe_all(&peer.serve()).is_empty());
}

#[test]
fn s20_unbound_exchange_is_not_bound_again() {
    let mut peer = dialled();
    for name in ["from", "to"] {
        ask(&mut peer, exchange_declare(name));
    }
    ask(&mut peer, bind_exchange("to", "from"));
    ask(
        &mut peer,
        exchange::Unbind {
            destination: short("to"),
            source: short("from"),
            routing_key: ShortStr::EMPTY,
            nowait: false,
            arguments: TableRef::EMPTY,
        },
    );
    peer.reconnect();
    assert_eq!(
        describe_all(&peer.serve()),
        ["exchange from", "exchange to"]
    );
}

#[test]
fn auto_delete_exchange_stays_until_its_last_unbind() {
    let mut peer = dialled();
    ask(
        &mut peer,
        exchange::Declare {
            auto_delete: true,
            ..exchange_declare("x")
        },
    );
    ask(&mut peer, declare("q"));
    ask(&mut peer, bind("q", "x", "a"));
    ask(&mut peer, bind("q", "x", "b"));
    ask(&mut peer, unbind("q", "x", "a"));
    peer.reconnect();
    let again = ["exchange x", "queue q", "bind q to x by b"];
    assert_eq!(describe_all(&peer.serve()), again);
    ask(&mut peer, unbind("q", "x", "b"));
    peer.reconnect();
    assert_eq!(describe_all(&peer.serve()), ["queue q"]);
}

#[test]
fn queue_that_is_not_found_is_forgotten() {
    let passive = queue::Declare {
        passive: true,
        ..declare("q")
    };
    let purge = queue::Purge {
        queue: short("q"),
        nowait: false,
    };
    for request in [Method::from(passive), Method::from(purge)] {
        let mut peer = dialled();
        ask(&mut peer, declare("q"));
        let missing = peer.machine.request(request).unwrap();
        let number = peer.take().last().unwrap().channel;
        peer.method(number, &channel_close(404, "NOT_FOUND - no queue 'q'"));
        assert!(matches!(peer.error(missing), Error::NotFound(_)));
        peer.take();
        peer.reconnect();
        assert!(describe_all(&peer.serve()).is_empty(), "{request:?}");
    }
}

#[test]
fn report_has_the_epoch_and_all_attempts() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    let before = peer.machine.stats().epoch;
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
    let report = report(&mut peer, listener);
    assert_eq!((report.epoch, report.attempts), (before + 1, 2));
    assert_eq!(peer.machine.stats().epoch, report.epoch);
}

#[test]
fn r5_slow_replies_do_not_end_a_recovery() {
    let mut peer = dialled();
    for name in ["a", "b", "c"] {
        ask(&mut peer, declare(name));
    }
    let (..) = peer.consumer(&consume("a"));
    let (..) = peer.consumer(&consume("b"));
    peer.reconnect();
    // All replies together take longer than the time in which one is expected.
    let mut replies = 0;
    while let sent = peer.take()
        && !sent.is_empty()
    {
        for reply in sent.iter().filter_map(crate::peer::reply_to) {
            peer.pass(std::time::Duration::from_secs(10));
            peer.feed(&reply);
            replies += 1;
        }
    }
    let state = peer.machine.state();
    assert!(matches!(state, ConnectionState::Open), "{state:?}");
    assert!(replies > 5, "{replies}");
    assert_eq!(peer.machine.counters().lost, 1);
}
