//! What is declared again with the next connection, in which order, and what is not.

use crate::peer::{Peer, Sent, channel_close, consume, declare, publish, short, tune};
use puka::machine::{ConnectionState, Notice, PromiseId, Reply};
use puka::protocol::method::{Encode, basic, channel, exchange, queue};
use puka::protocol::{Method, ShortStr, Table, TableRef};
use puka::{Broken, Entity, Error, Options, RecoverTopology, Recovered, Recovery};
use std::time::Duration;

pub(crate) fn options(set: impl FnOnce(Recovery) -> Recovery) -> Options {
    Options::default().recovery(set(Recovery::default().seed(7)))
}

pub(crate) fn dialled() -> Peer {
    Peer::dialled(options(|recovery| recovery))
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

/// What a frame asks for: the method, and the names in it.
fn told(sent: &Sent) -> String {
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

pub(crate) fn all_told(sent: &[Sent]) -> Vec<String> {
    sent.iter()
        .map(told)
        .filter(|told| told != "channel.open")
        .collect()
}

/// What came back with the last connection.
pub(crate) fn report(peer: &mut Peer, listener: puka::machine::ListenerId) -> Box<Recovered> {
    let mut last = None;
    while let Some(notice) = peer.machine.take_notice(listener) {
        if let Notice::Recovered(report) = notice {
            last = Some(report);
        }
    }
    last.expect("it came back")
}

#[test]
fn r5_everything_is_declared_in_the_order_in_which_one_needs_another() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    ask(&mut peer, declare("a-queue"));
    ask(&mut peer, exchange_declare("x"));
    ask(&mut peer, bind("a-queue", "x", "key"));
    ask(&mut peer, exchange_declare("a"));
    ask(&mut peer, bind_exchange("a", "x"));
    ask(&mut peer, exchange_declare("amq.rabbitmq.trace"));
    let (..) = peer.consumer(&consume("a-queue"));
    peer.again();
    assert!(matches!(
        peer.machine.state(),
        ConnectionState::Recovering { .. }
    ));
    let again = all_told(&peer.serve());
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
fn s16_nothing_else_is_sent_before_everything_is_back() {
    let mut peer = dialled();
    ask(&mut peer, declare("q"));
    let (..) = peer.consumer(&consume("q"));
    peer.machine.handle_loss(Broken::Eof);
    let published = peer.machine.publish(&publish("", "first")).unwrap();
    let asked = peer.machine.request(declare("later")).unwrap();
    peer.dial();
    peer.shake_hands(tune(2047, 131_072, 60));
    let order = all_told(&peer.serve());
    let place = |what: &str| order.iter().position(|told| told.starts_with(what));
    assert!(
        place("consume q") < place("queue later") && place("consume q") < place("basic.publish"),
        "{order:?}"
    );
    assert_eq!(order[0], "queue q");
    peer.method(2, &crate::peer::ack(1, false));
    assert!(matches!(
        peer.machine.fetch(asked),
        Some(Ok(Reply::Queue(_)))
    ));
    let _ = published;
}

#[test]
fn s20_s21_s32_what_was_deleted_or_unbound_does_not_come_back() {
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
    peer.again();
    assert_eq!(
        all_told(&peer.serve()),
        ["exchange kept", "queue kept", "bind kept to kept by key"]
    );
}

#[test]
fn passive_declares_and_what_was_refused_are_not_remembered() {
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
    peer.again();
    assert!(all_told(&peer.serve()).is_empty());
}

#[test]
fn r5_s22_what_goes_by_itself_is_forgotten() {
    let mut peer = dialled();
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
    // A channel that the broker closes takes its consumer along, and a broker that cancels has lost
    // the queue.
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
    peer.again();
    assert!(all_told(&peer.serve()).is_empty());
}

#[test]
fn a_long_chain_of_exchanges_that_go_one_with_the_other_is_forgotten() {
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
    peer.again();
    assert!(all_told(&peer.serve()).is_empty());
}

#[test]
fn s24_r6_a_queue_that_the_broker_names_has_a_new_name_everywhere() {
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
        peer.shake_hands(tune(2047, 131_072, 60));
        let sent = serve_naming(&mut peer, name);
        let order = all_told(&sent);
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
        let dead = sent.iter().find(|it| told(it) == "queue mortal").unwrap();
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
fn s27_s28_what_fails_is_told_and_the_rest_comes_back() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    for name in ["a", "b", "c", "d"] {
        ask(&mut peer, declare(name));
    }
    let (doomed, ..) = peer.consumer(&consume("b"));
    let (lives, ..) = peer.consumer(&consume("d"));
    peer.again();
    let first = peer.take();
    assert_eq!(
        all_told(&first),
        ["queue a", "queue b", "queue c", "queue d"],
        "one behind the other, at once"
    );
    peer.method(1, &channel::OpenOk {});
    let ok = |name| queue::DeclareOk {
        queue: short(name),
        message_count: 0,
        consumer_count: 0,
    };
    peer.method(1, &ok("a"));
    peer.method(
        1,
        &channel_close(406, "PRECONDITION_FAILED - inequivalent arg"),
    );
    let again = peer.take();
    assert_eq!(
        all_told(&again),
        ["channel.close-ok", "queue c", "queue d"],
        "what was behind it"
    );
    let number = again.last().unwrap().channel;
    peer.method(number, &channel::OpenOk {});
    peer.method(number, &ok("c"));
    peer.method(number, &ok("d"));
    let consumes = peer.take();
    let of = |name: &str| {
        consumes
            .iter()
            .find(|it| told(it) == format!("consume {name}"))
            .unwrap()
            .channel
    };
    assert!(matches!(
        peer.machine.state(),
        ConnectionState::Recovering { .. }
    ));
    let (b, d) = (of("b"), of("d"));
    for number in [b, d].into_iter().filter(|it| *it != number) {
        peer.method(number, &channel::OpenOk {});
    }
    peer.method(b, &channel_close(404, "NOT_FOUND - no queue 'b'"));
    let tag = peer.machine.consumer(lives).unwrap().tag().to_owned();
    peer.method(
        d,
        &basic::ConsumeOk {
            consumer_tag: short(&tag),
        },
    );
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    assert!(matches!(
        peer.machine.consumer(doomed).and_then(|it| it.ended()),
        Some(puka::Ended::ChannelClosed(Error::NotFound(_)))
    ));
    assert!(
        peer.machine
            .consumer(lives)
            .and_then(|it| it.ended())
            .is_none()
    );
    let report = report(&mut peer, listener);
    let failed: Vec<_> = report.failed.iter().map(|(what, _)| &**what).collect();
    assert_eq!(failed.len(), 2);
    assert_eq!(failed[0], "queue \"b\"");
    assert!(failed[1].starts_with("consumer \"puka."), "{failed:?}");
    assert_eq!((report.entities, report.consumers), (3, 1));
}

#[test]
fn r5_strict_tries_anew_with_another_connection() {
    let mut peer = Peer::dialled(options(|recovery| recovery.strict(true)));
    ask(&mut peer, declare("q"));
    peer.again();
    peer.take();
    peer.method(1, &channel::OpenOk {});
    peer.method(
        1,
        &channel_close(406, "PRECONDITION_FAILED - inequivalent arg"),
    );
    assert!(peer.machine.is_down());
    peer.dial();
    peer.shake_hands(tune(2047, 131_072, 60));
    assert_eq!(all_told(&peer.serve()), ["queue q"]);
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
}

#[test]
fn r5_an_exclusive_queue_that_the_dead_connection_still_holds_is_tried_again() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    let mut own = declare("own");
    own.exclusive = true;
    ask(&mut peer, own);
    ask(&mut peer, declare("other"));
    peer.again();
    for _ in 0..3 {
        let sent = peer.take();
        let number = sent
            .iter()
            .find(|it| told(it) == "queue own")
            .unwrap()
            .channel;
        peer.method(number, &channel::OpenOk {});
        if sent.iter().position(|it| told(it) == "queue other")
            < sent.iter().position(|it| told(it) == "queue own")
            && sent.iter().any(|it| told(it) == "queue other")
        {
            let ok = queue::DeclareOk {
                queue: short("other"),
                message_count: 0,
                consumer_count: 0,
            };
            peer.method(number, &ok);
        }
        peer.method(
            number,
            &channel_close(405, "RESOURCE_LOCKED - cannot obtain exclusive access"),
        );
        assert!(matches!(
            peer.machine.state(),
            ConnectionState::Recovering { .. }
        ));
        peer.pass(Duration::from_millis(500));
    }
    peer.serve();
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    assert_eq!(report(&mut peer, listener).entities, 2);

    // It is not tried for ever.
    peer.again();
    for _ in 0..400 {
        for sent in peer.take() {
            match &*told(&sent) {
                "queue own" => {
                    peer.method(sent.channel, &channel_close(405, "RESOURCE_LOCKED - still"));
                    break;
                }
                "channel.close-ok" => {}
                _ => peer.feed(&crate::peer::answer(&sent).unwrap_or_default()),
            }
        }
        peer.pass(Duration::from_millis(500));
        peer.feed(&crate::peer::raw(8, 0, b""));
        if matches!(peer.machine.state(), ConnectionState::Open) {
            break;
        }
    }
    let report = report(&mut peer, listener);
    assert!(
        matches!(&report.failed[..], [(_, Error::ResourceLocked(_))]),
        "{report:?}"
    );
}

/// Answers a restoration, but says of what has this description that it is not there.
fn serve_without(peer: &mut Peer, missing: &str) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let sent = peer.take();
        if sent.is_empty() {
            return all;
        }
        let mut closed = None;
        all.extend(
            all_told(&sent)
                .into_iter()
                .filter(|told| told != "channel.close-ok"),
        );
        for one in sent.iter().filter(|one| told(one) != "channel.close-ok") {
            if closed == Some(one.channel) {
            } else if told(one) == missing {
                peer.method(one.channel, &channel_close(404, "NOT_FOUND - gone again"));
                closed = Some(one.channel);
            } else {
                peer.feed(&crate::peer::answer(one).unwrap_or_default());
            }
        }
    }
}

#[test]
fn what_goes_by_itself_just_after_it_was_declared_again_is_declared_once_more() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    ask(&mut peer, exchange_declare("x"));
    ask(&mut peer, declare("q"));
    ask(&mut peer, declare(""));
    ask(&mut peer, bind("q", "x", "k"));
    let (consumer, ..) = peer.consumer(&consume("q"));
    for missing in ["bind q to x by k", "consume q"] {
        peer.again();
        serve_without(&mut peer, missing);
        assert!(
            matches!(peer.machine.state(), ConnectionState::Recovering { .. }),
            "{missing}"
        );
        peer.pass(Duration::from_millis(500));
        let again = all_told(&peer.serve());
        assert_eq!(
            again,
            ["exchange x", "queue q", "bind q to x by k", "consume q"],
            "{missing}"
        );
        assert!(
            matches!(peer.machine.state(), ConnectionState::Open),
            "{missing}"
        );
        let report = report(&mut peer, listener);
        assert!(report.failed.is_empty(), "{report:?}");
        assert_eq!((report.entities, report.consumers), (4, 1));
        assert!(
            peer.machine
                .consumer(consumer)
                .and_then(|it| it.ended())
                .is_none()
        );
    }
}

#[test]
fn s28_what_is_missing_every_time_is_told_in_the_end() {
    for (missing, failures) in [("bind q to x by k", 1), ("consume q", 1)] {
        let mut peer = dialled();
        let listener = peer.machine.listen();
        ask(&mut peer, exchange_declare("x"));
        ask(&mut peer, declare("q"));
        ask(&mut peer, bind("q", "x", "k"));
        let (consumer, ..) = peer.consumer(&consume("q"));
        peer.again();
        let mut tries = 0;
        while !matches!(peer.machine.state(), ConnectionState::Open) {
            tries += serve_without(&mut peer, missing)
                .iter()
                .filter(|told| *told == missing)
                .count();
            peer.pass(Duration::from_millis(500));
        }
        assert_eq!(tries, 4, "{missing}");
        assert_eq!(
            report(&mut peer, listener).failed.len(),
            failures,
            "{missing}"
        );
        assert_eq!(
            peer.machine
                .consumer(consumer)
                .and_then(|it| it.ended())
                .is_some(),
            missing == "consume q"
        );
    }
}

#[test]
fn s29_a_restoration_that_does_not_go_on_is_torn_down() {
    let mut peer = dialled();
    let (consumer, ..) = peer.consumer(&consume("q"));
    peer.again();
    peer.take();
    peer.method(1, &channel::OpenOk {});
    for _ in 0..31 {
        peer.pass(Duration::from_secs(1));
        peer.feed(&crate::peer::raw(8, 0, b""));
    }
    assert!(peer.machine.is_down(), "{:?}", peer.machine.state());
    // An answer that comes too late finds nobody.
    let tag = peer.machine.consumer(consumer).unwrap().tag().to_owned();
    peer.method(
        1,
        &basic::ConsumeOk {
            consumer_tag: short(&tag),
        },
    );
    peer.dial();
    peer.shake_hands(tune(2047, 131_072, 60));
    peer.serve();
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    assert!(
        peer.machine
            .consumer(consumer)
            .and_then(|it| it.ended())
            .is_none()
    );
}

#[test]
fn s12_a_connection_that_is_lost_while_it_recovers_recovers() {
    for cut in 0..6 {
        let mut peer = dialled();
        ask(&mut peer, declare("q"));
        ask(&mut peer, exchange_declare("x"));
        ask(&mut peer, bind("q", "x", "key"));
        let (consumer, ..) = peer.consumer(&consume("q"));
        peer.again();
        let mut answered = 0;
        'cut: loop {
            for sent in peer.take() {
                if answered == cut {
                    break 'cut;
                }
                if let Some(answer) = crate::peer::answer(&sent) {
                    peer.feed(&answer);
                    answered += 1;
                }
            }
        }
        peer.again();
        let again = all_told(&peer.serve());
        assert_eq!(
            again,
            ["exchange x", "queue q", "bind q to x by key", "consume q"],
            "cut behind {cut}"
        );
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
        assert!(
            peer.machine
                .consumer(consumer)
                .and_then(|it| it.ended())
                .is_none()
        );
    }
}

#[test]
fn s26_a_filter_and_a_mode_choose_what_comes_back() {
    let declare_all = |peer: &mut Peer| {
        for durable in [true, false] {
            let (queue, exchange) = if durable { ("dq", "dx") } else { ("tq", "tx") };
            ask(
                peer,
                queue::Declare {
                    durable,
                    ..declare(queue)
                },
            );
            ask(
                peer,
                exchange::Declare {
                    durable,
                    ..exchange_declare(exchange)
                },
            );
        }
        for (queue, exchange) in [("dq", "dx"), ("dq", "tx"), ("tq", "dx"), ("tq", "tx")] {
            ask(peer, bind(queue, exchange, "key"));
        }
    };
    let back = |recovery: Recovery| {
        let mut peer = Peer::dialled(options(|_| recovery.seed(7)));
        declare_all(&mut peer);
        peer.again();
        all_told(&peer.serve())
    };
    assert_eq!(back(Recovery::default()).len(), 8);
    assert_eq!(
        back(Recovery::default().topology(RecoverTopology::Transient)),
        [
            "exchange tx",
            "queue tq",
            "bind dq to tx by key",
            "bind tq to dx by key",
            "bind tq to tx by key"
        ]
    );
    assert!(back(Recovery::default().topology(RecoverTopology::Nothing)).is_empty());
    let filtered = Recovery::default().filter(|entity| {
        !matches!(
            entity,
            Entity::Queue("tq") | Entity::QueueBinding { queue: "tq", .. }
        )
    });
    assert_eq!(
        back(filtered),
        [
            "exchange dx",
            "exchange tx",
            "queue dq",
            "bind dq to dx by key",
            "bind dq to tx by key"
        ]
    );
}

#[test]
fn what_was_being_deleted_is_not_declared_again() {
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
    peer.again();
    let declared: Vec<_> = all_told(&peer.serve());
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
fn what_the_broker_refused_to_delete_comes_back() {
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
        ..crate::peer::close(530, "NOT_ALLOWED - told")
    };
    peer.method(0, &close);
    assert!(matches!(peer.error(deleted), Error::NotAllowed(_)));
    peer.dial();
    peer.shake_hands(tune(2047, 131_072, 60));
    assert_eq!(all_told(&peer.serve()), ["queue q"]);
}

/// Returns a connection with an exchange, a queue that is bound to it, and a filter.
fn filtered(filter: impl Fn(&Entity<'_>) -> bool + Send + Sync + 'static) -> Peer {
    let mut peer = Peer::dialled(options(|recovery| recovery.filter(filter)));
    ask(&mut peer, exchange_declare("x"));
    ask(&mut peer, declare("q"));
    ask(&mut peer, bind("q", "x", "key"));
    peer
}

#[test]
fn a_filter_runs_outside_of_the_machine() {
    let mut peer = filtered(|entity| !matches!(entity, Entity::Queue(_)));
    peer.runs_filters = false;
    peer.again();
    let mut sent = Vec::new();
    for _ in 0..3 {
        assert!(peer.machine.has_event());
        let step = peer.machine.poll_filter().expect("it is to be asked");
        assert!(peer.machine.poll_filter().is_none(), "once");
        assert!(peer.names().is_empty(), "nothing is declared meanwhile");
        // Any other call may come before the outcome.
        peer.machine.request(declare("late")).unwrap();
        peer.machine.handle_filter(step.run());
        sent.extend(all_told(&peer.serve()));
    }
    assert_eq!(sent[..2], ["exchange x", "bind q to x by key"]);
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
}

#[test]
fn an_outcome_of_a_lost_connection_is_ignored() {
    let mut peer = filtered(|_| false);
    peer.runs_filters = false;
    peer.again();
    let stale = peer.machine.poll_filter().unwrap().run();
    peer.again();
    peer.machine.handle_filter(stale);
    assert!(matches!(
        peer.machine.state(),
        ConnectionState::Recovering { .. }
    ));
    let step = peer
        .machine
        .poll_filter()
        .expect("it is asked for each connection");
    peer.machine.handle_loss(Broken::Eof);
    peer.machine.handle_filter(step.run());
    assert!(peer.machine.is_down() && peer.machine.poll_filter().is_none());
}

#[test]
fn entity_whose_filter_panics_is_declared() {
    let mut peer = filtered(|entity| match entity {
        Entity::Queue(_) => panic!("the filter's own fault"),
        _ => true,
    });
    let listener = peer.machine.listen();
    peer.again();
    assert_eq!(
        all_told(&peer.serve()),
        ["exchange x", "queue q", "bind q to x by key"]
    );
    let report = report(&mut peer, listener);
    let (what, error) = &report.failed[0];
    assert_eq!((&**what, report.failed.len()), ("filter", 1));
    assert!(
        matches!(error, Error::InvalidArgument { what: "filter", .. }),
        "{error:?}"
    );
}

#[test]
fn s30_s31_a_hundred_consumers_come_back_each_with_its_prefetch_count_and_tag() {
    let mut peer = dialled();
    let mut started = Vec::new();
    for count in 1..=100 {
        let mut it = consume("q");
        (it.prefetch_count, it.tag) = (count, "same");
        started.push(peer.consumer(&it));
    }
    let (raised, ..) = started[0];
    let resized = peer.machine.qos(raised, 7).unwrap();
    peer.serve();
    peer.done(resized);
    peer.again();
    let sent = peer.serve();
    let counts: Vec<_> = sent
        .iter()
        .filter_map(|it| match it.method() {
            Method::Basic(basic::Method::Qos(qos)) => Some(qos.prefetch_count),
            _ => None,
        })
        .collect();
    assert_eq!(
        counts,
        std::iter::once(7).chain(2..=100).collect::<Vec<_>>()
    );
    let tags: Vec<_> = sent
        .iter()
        .filter(|it| it.is(basic::Consume::ID))
        .map(crate::peer::tag_of)
        .collect();
    assert_eq!(
        tags,
        started
            .iter()
            .map(|(_, _, tag)| tag.clone())
            .collect::<Vec<_>>()
    );
    assert!(started.iter().all(|(id, ..)| {
        peer.machine
            .consumer(*id)
            .and_then(|it| it.ended())
            .is_none()
    }));
}

#[test]
fn consumers_for_which_a_broker_has_no_channel_end_and_the_others_live() {
    let mut peer = dialled();
    let consumers: Vec<_> = (0..5).map(|_| peer.consumer(&consume("q")).0).collect();
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.shake_hands(tune(4, 131_072, 60));
    peer.serve();
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    let ended: Vec<_> = consumers
        .iter()
        .map(|id| {
            peer.machine
                .consumer(*id)
                .and_then(|it| it.ended())
                .is_some()
        })
        .collect();
    assert_eq!(ended, [false, false, true, true, true]);
    assert!(matches!(
        peer.machine
            .consumer(consumers[4])
            .and_then(|it| it.ended()),
        Some(puka::Ended::ChannelClosed(Error::ChannelLimit))
    ));
}

/// Runs a test on a stack too small for a recursion over thousands of consumers.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(test)
        .unwrap()
        .join()
        .unwrap();
}

/// Returns a connection with this many consumers, and their ids.
fn with_consumers(options: Options, count: usize) -> (Peer, Vec<puka::machine::ConsumerId>) {
    let mut peer = Peer::undialled(options.channel_max(u16::MAX));
    peer.dial();
    peer.shake_hands(tune(u16::MAX, 131_072, 60));
    let consumers = (0..count).map(|_| peer.consumer(&consume("q")).0).collect();
    (peer, consumers)
}

#[test]
fn falling_channel_max_ends_consumers_without_recursion() {
    on_a_small_stack(|| {
        let (mut peer, consumers) = with_consumers(options(|recovery| recovery), 10_000);
        peer.machine.handle_loss(Broken::Eof);
        peer.dial();
        peer.shake_hands(tune(3, 131_072, 60));
        peer.serve();
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
        let ended = consumers
            .iter()
            .filter(|id| {
                peer.machine
                    .consumer(**id)
                    .and_then(|it| it.ended())
                    .is_some()
            })
            .count();
        assert_eq!(ended, 9_999);
    });
}

#[test]
fn abandoned_replies_are_disposed_of_one_after_another() {
    on_a_small_stack(|| {
        let mut peer = dialled();
        let promises: Vec<_> = (0..1_000)
            .map(|_| peer.machine.consume(&consume("q")).unwrap())
            .collect();
        for promise in promises {
            peer.machine.abandon(promise);
        }
        let started = peer.serve();
        let cancelled = started
            .iter()
            .filter(|sent| sent.is(basic::Cancel::ID))
            .count();
        assert!(cancelled > 0 && peer.machine.is_idle(), "{cancelled}");
    });
}

#[test]
fn what_is_asked_of_a_consumer_on_its_way_back_is_done() {
    let mut peer = dialled();
    let (resized, ..) = peer.consumer(&crate::peer::consume("resized"));
    let (cancelled, ..) = peer.consumer(&crate::peer::consume("cancelled"));
    let (late, ..) = peer.consumer(&crate::peer::consume("late"));
    peer.machine.handle_loss(Broken::Eof);
    let qos = peer.machine.qos(resized, 5).unwrap();
    let cancel = peer.machine.cancel(cancelled).unwrap();
    let recovered = peer.machine.recover(resized).unwrap();
    peer.done(recovered);
    assert!(
        matches!(peer.machine.fetch(cancel), Some(Ok(Reply::Cancelled(_)))),
        "it is gone already"
    );
    peer.dial();
    peer.shake_hands(tune(2047, 131_072, 60));
    let sent = peer.take();
    assert_eq!(
        all_told(&sent),
        ["basic.qos", "consume resized", "consume late"]
    );
    let cancel = peer.machine.cancel(late).unwrap();
    for one in &sent {
        if let Some(answer) = crate::peer::answer(one) {
            peer.feed(&answer);
        }
    }
    peer.serve();
    peer.done(qos);
    assert!(matches!(
        peer.machine.fetch(cancel),
        Some(Ok(Reply::Cancelled(_)))
    ));
}

#[test]
fn r5_no_more_is_remembered_than_is_allowed() {
    let mut peer = Peer::dialled(options(|recovery| recovery.max_records(2)));
    let listener = peer.machine.listen();
    for name in ["a", "b", "c", "d"] {
        ask(&mut peer, declare(name));
    }
    let notices: Vec<_> = std::iter::from_fn(|| peer.machine.take_notice(listener)).collect();
    assert!(matches!(&notices[..], [Notice::NotRecorded]), "{notices:?}");
    peer.again();
    assert_eq!(all_told(&peer.serve()), ["queue a", "queue b"]);
}

#[test]
fn many_steps_are_declared_a_window_at_a_time() {
    let mut peer = dialled();
    for n in 0..500 {
        ask(&mut peer, declare(&format!("q{n:03}")));
    }
    peer.again();
    assert_eq!(
        peer.take().len(),
        65,
        "the channel, and as many as may be under way"
    );
    let _ = channel::OpenOk {}.id();
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.shake_hands(tune(2047, 131_072, 60));
    assert_eq!(all_told(&peer.serve()).len(), 500);
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
}
