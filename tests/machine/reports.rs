//! Faults that users of other clients have reported, each tried with this one.

use crate::driver::opened;
use crate::limits::{several, started};
use crate::peer::{
    Peer, Sent, ack, channel_close, close, consume, declare, deliver, header, method, publish,
    rabbitmq, raw, reply_to, short, start, tag_of, tune,
};
use crate::pipe::{ManualClock, Pipe, Read};
use crate::restoring::{
    ask, bind, dialled, dialled_without_resubscribing, exchange_declare, serve_naming,
};
use futures_lite::future::{block_on, poll_once};
use puka::machine::{ConnectionState, Consume, Notice};
use puka::protocol::method::{basic, connection, queue};
use puka::protocol::{FrameKind, Method, Properties, frame};
use puka::{Consumer, Dial, DialDriver, Ended, Error, Options, Recovery, Transport};
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Replies as a broker does that closes the connection over the `qos` for which `refuses` returns
/// `true`. Returns the number of closes.
fn serve_without_qos(peer: &mut Peer, refuses: impl Fn(&basic::Qos) -> bool) -> usize {
    let mut closes = 0;
    for _ in 0..100 {
        let sent = peer.take();
        for one in sent {
            if one.is(basic::Qos::ID) {
                let Method::Basic(basic::Method::Qos(it)) = one.method() else {
                    panic!()
                };
                if refuses(&it) {
                    closes += 1;
                    let over = close(540, "NOT_IMPLEMENTED");
                    peer.method(
                        0,
                        &connection::Close {
                            class_id: 60,
                            method_id: 10,
                            ..over
                        },
                    );
                    peer.pump();
                    peer.dial();
                    peer.complete_handshake(tune(2047, 131_072, 60));
                    break;
                }
            }
            peer.feed(&reply_to(&one).unwrap_or_default());
        }
    }
    closes
}

#[test]
fn refused_qos_fails_its_consume() {
    let mut peer = dialled();
    let (one, ..) = peer.consumer(&Consume {
        prefetch_count: 20,
        ..consume("a")
    });
    let refused = several(&mut peer, &["b", "c"]);
    let closes = serve_without_qos(&mut peer, |qos| qos.prefetch_count == 10);
    let outcome = peer.machine.fetch(refused);
    assert!(
        matches!(outcome, Some(Err(Error::NotImplemented(_)))),
        "{closes} {outcome:?}"
    );
    assert_eq!(closes, 1);
    assert!(!peer.has_ended(one));
}

#[test]
fn consumer_whose_qos_is_refused_ends() {
    let mut peer = dialled();
    let (one, ..) = peer.consumer(&Consume {
        prefetch_count: 20,
        ..consume("a")
    });
    let shared = several(&mut peer, &["b", "c"]);
    peer.serve();
    let shared = started(&mut peer, shared);
    let (two, ..) = peer.consumer(&Consume {
        prefetch_count: 20,
        ..consume("d")
    });
    peer.reconnect();
    let closes = serve_without_qos(&mut peer, |qos| qos.prefetch_count == 10);
    assert!(
        matches!(peer.machine.state(), ConnectionState::Open),
        "{closes}"
    );
    assert_eq!(closes, 2);
    assert!(!peer.has_ended(one) && !peer.has_ended(two));
    assert!(peer.has_ended(shared));
}

#[test]
fn refused_shared_prefetch_count_is_undone() {
    let mut peer = dialled();
    let shared = several(&mut peer, &["b", "c"]);
    peer.serve();
    let shared = started(&mut peer, shared);
    let resized = peer.machine.qos(shared, 9999).unwrap();
    let closes = serve_without_qos(&mut peer, |qos| qos.prefetch_count == 9999);
    assert!(matches!(peer.error(resized), Error::NotImplemented(_)));
    assert_eq!(closes, 1);
    assert!(!peer.has_ended(shared));
}

#[test]
fn cancelling_keeps_no_ack_deliveries_beyond_the_bound() {
    for bound in [10, 1000] {
        let options = Options::default().max_buffered_deliveries(bound);
        let (client, pipe, _clock, mut driver) = opened(options);
        let consuming = client.basic_consume("q").no_ack(true).send();
        pipe.serve(&mut driver);
        let mut consumer = block_on(poll_once(consuming)).unwrap().unwrap();
        let all = |tags: std::ops::RangeInclusive<u64>, tag: &str| -> Vec<u8> {
            let frames = tags.flat_map(|number| {
                [
                    method(1, &deliver(tag, number)),
                    header(1, 3, Properties::default()),
                    raw(3, 1, b"odd"),
                ]
            });
            frames.collect::<Vec<_>>().concat()
        };
        let tag = consumer.tag().to_owned();
        pipe.feed(&all(1..=300, &tag));
        assert!(pipe.poll(&mut driver).is_none());
        let cancelled = consumer.cancel();
        assert!(pipe.poll(&mut driver).is_none());
        pipe.feed(&all(301..=600, &tag));
        pipe.feed(&method(
            1,
            &basic::CancelOk {
                consumer_tag: short(&tag),
            },
        ));
        assert!(pipe.poll(&mut driver).is_none());
        let mut count = 0;
        for _ in 0..2000 {
            match block_on(poll_once(pin!(Consumer::next(&mut consumer)))) {
                Some(Some(Ok(_))) => count += 1,
                Some(None) => break,
                Some(Some(Err(error))) => panic!("{error:?}"),
                None => assert!(pipe.poll(&mut driver).is_none()),
            }
        }
        assert_eq!(count, 600);
        assert!(block_on(poll_once(cancelled)).is_some());
    }
}

fn describe(sent: &[Sent]) -> Vec<String> {
    let methods = sent.iter().filter(|it| it.kind == FrameKind::Method);
    methods
        .filter_map(|it| match it.method() {
            Method::Queue(queue::Method::Declare(it)) => Some(format!("queue {}", it.queue)),
            Method::Queue(queue::Method::Bind(it)) => {
                Some(format!("bind {} by {}", it.queue, it.routing_key))
            }
            Method::Basic(basic::Method::Consume(it)) => Some(format!("consume {}", it.queue)),
            _ => None,
        })
        .collect()
}

#[test]
fn queue_deleted_during_recovery_gets_all_bindings() {
    let steps = ["bind q by k1", "bind q by k2", "bind q by k3", "consume q"];
    for (place, gone) in steps.iter().enumerate() {
        for with_others in [false, true] {
            let mut peer = dialled();
            let listener = peer.machine.listen();
            ask(&mut peer, exchange_declare("x"));
            let others: Vec<_> = (0..if with_others { 600 } else { 0 })
                .map(|n| format!("o{n}"))
                .collect();
            for name in ["q"].into_iter().chain(others.iter().map(|it| it.as_str())) {
                ask(&mut peer, declare(name));
                for key in ["k1", "k2", "k3"] {
                    ask(&mut peer, bind(name, "x", key));
                }
            }
            let (id, ..) = peer.consumer(&consume("q"));
            peer.reconnect();
            // The queue `q` is deleted right before a step of the replay.
            let mut exists = false;
            let mut bindings = BTreeSet::new();
            let mut is_deleted = false;
            let mut is_consumed = false;
            for _ in 0..200 {
                let mut closed = BTreeSet::new();
                let sent = peer.take();
                for one in &sent {
                    if closed.contains(&one.channel) {
                        continue;
                    }
                    let what = describe(std::slice::from_ref(one))
                        .pop()
                        .unwrap_or_default();
                    if what == *gone && !is_deleted {
                        (is_deleted, exists, is_consumed) = (true, false, false);
                        bindings.clear();
                    }
                    let needs = what.starts_with("bind q ") || what == "consume q";
                    if needs && !exists {
                        closed.insert(one.channel);
                        peer.method(
                            one.channel,
                            &channel_close(404, "NOT_FOUND - no queue 'q' in vhost '/'"),
                        );
                        continue;
                    }
                    match &*what {
                        "queue q" => exists = true,
                        "consume q" => is_consumed = true,
                        bind if bind.starts_with("bind q ") => {
                            _ = bindings.insert(bind.to_owned());
                        }
                        _ => {}
                    }
                    peer.feed(&reply_to(one).unwrap_or_default());
                }
                if sent.is_empty() {
                    if matches!(peer.machine.state(), ConnectionState::Open) {
                        break;
                    }
                    peer.feed(&raw(8, 0, b""));
                    peer.pass(SECOND / 10);
                }
            }
            assert!(is_deleted, "{place}");
            assert!(
                exists && is_consumed,
                "{gone} {with_others}: {exists} {is_consumed}"
            );
            assert_eq!(bindings.len(), 3, "{gone} {with_others}: {bindings:?}");
            assert!(!peer.has_ended(id));
            let report = std::iter::from_fn(|| peer.machine.take_notice(listener)).last();
            assert!(
                matches!(&report, Some(Notice::Recovered(it)) if it.failed.is_empty()),
                "{report:?}"
            );
        }
    }
}

#[test]
fn named_queue_is_restored_without_its_ended_consumer() {
    let mut peer = dialled_without_resubscribing();
    ask(
        &mut peer,
        queue::Declare {
            exclusive: true,
            ..declare("")
        },
    );
    let (id, channel, _) = peer.consumer(&consume("amq.gen-first"));
    peer.method(
        channel,
        &channel_close(
            406,
            "PRECONDITION_FAILED - delivery acknowledgement timed out",
        ),
    );
    peer.take();
    assert!(matches!(
        peer.machine.consumer(id).and_then(|it| it.ended()),
        Some(Ended::ChannelClosed(_))
    ));
    peer.reconnect();
    let mut all = Vec::new();
    for _ in 0..600 {
        all.extend(describe(&serve_naming(&mut peer, "second")));
        peer.feed(&raw(8, 0, b""));
        peer.pass(SECOND);
    }
    assert_eq!(all, ["queue "]);
    let again = peer.machine.consume(&consume("amq.gen-first")).unwrap();
    assert_eq!(
        describe(&serve_naming(&mut peer, "second")),
        ["consume amq.gen-second"]
    );
    started(&mut peer, again);
}

/// Every pipe that was dialled.
#[derive(Clone, Default)]
struct Net(Arc<Mutex<Vec<Pipe>>>);

impl Net {
    fn last(&self) -> Pipe {
        self.0.lock().unwrap().last().unwrap().clone()
    }

    fn dialled(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn serve(&self, driver: &mut DialDriver<Self, ManualClock>) -> Vec<Sent> {
        let mut all = Vec::new();
        loop {
            assert!(poll(driver).is_pending());
            let sent = self.last().frames();
            if sent.is_empty() {
                return all;
            }
            sent.iter()
                .filter_map(reply_to)
                .for_each(|bytes| self.last().feed(&bytes));
            all.extend(sent);
        }
    }

    fn complete_handshake(&self, driver: &mut DialDriver<Self, ManualClock>, heartbeat: u16) {
        let pipe = self.last();
        pipe.feed(&start(&rabbitmq(), b"PLAIN"));
        pipe.feed(&method(0, &tune(2047, 131_072, heartbeat)));
        pipe.feed(&method(0, &connection::OpenOk {}));
        assert!(poll(driver).is_pending());
        // The protocol header is no frame.
        let written = pipe.take_written();
        pipe.script().written = written[8..].to_vec();
    }
}

impl Dial for Net {
    async fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![([127, 0, 0, 1], 5672).into()])
    }

    async fn connect(&self, _: SocketAddr) -> io::Result<Transport> {
        let pipe = Pipe::default();
        self.0.lock().unwrap().push(pipe.clone());
        Ok(Transport::new(pipe))
    }

    #[cfg(unix)]
    async fn connect_unix(&self, _: &Path) -> io::Result<Transport> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn poll(driver: &mut DialDriver<Net, ManualClock>) -> Poll<Result<(), Error>> {
    Pin::new(driver).poll(&mut Context::from_waker(Waker::noop()))
}

fn until_dialled(
    net: &Net,
    clock: &ManualClock,
    driver: &mut DialDriver<Net, ManualClock>,
    count: usize,
) {
    for _ in 0..1000 {
        assert!(poll(driver).is_pending());
        if net.dialled() == count {
            return;
        }
        clock.pass(SECOND / 10);
    }
    panic!("{} dialled", net.dialled());
}

#[test]
fn loss_is_detected_while_deliveries_are_buffered() {
    for kind in ["write error", "both", "silence"] {
        let (net, clock) = (Net::default(), ManualClock::default());
        let options = Options::default()
            .max_buffered_deliveries(4)
            .recovery(Recovery::default().seed(7));
        let (client, mut driver) = puka::connect(net.clone(), clock.clone(), options);
        until_dialled(&net, &clock, &mut driver, 1);
        net.complete_handshake(&mut driver, 10);
        let consuming = client.basic_consume("q").no_ack(true).send();
        net.serve(&mut driver);
        let mut consumer = block_on(poll_once(consuming)).unwrap().unwrap();
        let tag = consumer.tag().to_owned();
        let pipe = net.last();
        for number in 1..=50 {
            pipe.feed(
                &[
                    method(1, &deliver(&tag, number)),
                    header(1, 0, Properties::default()),
                ]
                .concat(),
            );
        }
        for _ in 0..10 {
            assert!(poll(&mut driver).is_pending());
        }
        if kind != "silence" {
            pipe.script().write_error = Some(io::ErrorKind::ConnectionReset);
        }
        if kind == "both" {
            pipe.read(Read::Error(io::ErrorKind::ConnectionReset));
        }
        if kind == "silence" {
            pipe.script().stalled = true;
            let _request = client.queue_declare("x").send();
        }
        let mut seconds = 0;
        while net.dialled() < 2 && seconds < 600 {
            clock.pass(SECOND);
            assert!(poll(&mut driver).is_pending());
            seconds += 1;
        }
        assert_eq!(net.dialled(), 2, "{kind}");
        net.complete_handshake(&mut driver, 10);
        net.serve(&mut driver);
        while let Some(Some(Ok(_))) = block_on(poll_once(pin!(Consumer::next(&mut consumer)))) {
            net.serve(&mut driver);
        }
        let tag = consumer.tag().to_owned();
        net.last().feed(
            &[
                method(1, &deliver(&tag, 1)),
                header(1, 0, Properties::default()),
            ]
            .concat(),
        );
        net.serve(&mut driver);
        let new = block_on(poll_once(pin!(Consumer::next(&mut consumer))));
        assert!(matches!(new, Some(Some(Ok(_)))), "{kind} {new:?}");
    }
}

#[test]
fn one_transport_is_dialled_at_a_time() {
    for read in [Read::Eof, Read::Error(io::ErrorKind::ConnectionReset)] {
        let (net, clock) = (Net::default(), ManualClock::default());
        let options = Options::default()
            .heartbeat(0)
            .recovery(Recovery::default().seed(7));
        let (client, mut driver) = puka::connect(net.clone(), clock.clone(), options);
        until_dialled(&net, &clock, &mut driver, 1);
        net.complete_handshake(&mut driver, 0);
        let declared = client.queue_declare("q").send();
        let consuming = client.basic_consume("q").send();
        net.serve(&mut driver);
        let _consumer = block_on(poll_once(consuming)).unwrap().unwrap();
        drop(declared);
        // The connection is lost, and again at each stage of the recovery.
        for (lost, stage) in (1..).zip(0..5) {
            let again = match &read {
                Read::Error(kind) => Read::Error(*kind),
                _ => Read::Eof,
            };
            net.last().read(again);
            until_dialled(&net, &clock, &mut driver, lost + 1);
            match stage {
                0 => {}
                1 => net.last().feed(&start(&rabbitmq(), b"PLAIN")),
                2 => net.complete_handshake(&mut driver, 0),
                3 => {
                    net.complete_handshake(&mut driver, 0);
                    let first = net.last().frames();
                    first
                        .iter()
                        .filter_map(reply_to)
                        .for_each(|bytes| net.last().feed(&bytes));
                }
                _ => {
                    net.complete_handshake(&mut driver, 0);
                    net.serve(&mut driver);
                }
            }
            assert!(poll(&mut driver).is_pending());
        }
        for _ in 0..3600 {
            clock.pass(SECOND);
            assert!(poll(&mut driver).is_pending());
        }
        assert_eq!(net.dialled(), 6);
    }
}

#[test]
fn reply_without_an_id_is_dropped() {
    let mut peer = Peer::open(Options::default());
    let call = peer.machine.call(&publish("", "12"), None).unwrap();
    peer.serve();
    peer.method(1, &ack(1, false));
    for number in 1..100 {
        let mut bytes = method(1, &deliver("amq.ctag-x", number));
        bytes.extend(header(1, 5, Properties::default()));
        frame::body(&mut bytes, 1, 131_072, b"reply");
        peer.feed(&bytes);
    }
    assert!(peer.is_pending(call));
    assert!(peer.names().is_empty());
    let next = peer.machine.call(&publish("", "13"), None).unwrap();
    assert!(peer.serve().iter().any(|it| it.is(basic::Publish::ID)));
    peer.pass(40 * SECOND);
    assert!(matches!(peer.error(call), Error::Timeout { .. }));
    let _ = next;
}

#[test]
fn changed_prefetch_count_is_restored() {
    for (before, after) in [(10, 20), (20, 10), (10, 0), (0, 10), (5, 65535), (65535, 1)] {
        for losses in 1..3 {
            let mut peer = dialled();
            let (id, ..) = peer.consumer(&Consume {
                prefetch_count: before,
                ..consume("q")
            });
            let shared = several(&mut peer, &["a", "b"]);
            peer.serve();
            let shared = started(&mut peer, shared);
            for one in [id, shared] {
                let resized = peer.machine.qos(one, after).unwrap();
                peer.serve();
                peer.expect_done(resized);
            }
            let mut seen = Vec::new();
            for _ in 0..losses {
                peer.reconnect();
                seen = peer.serve();
            }
            let counts: Vec<_> = seen
                .iter()
                .filter_map(|it| match it.method() {
                    Method::Basic(basic::Method::Qos(qos)) => {
                        Some((qos.prefetch_count, qos.global))
                    }
                    _ => None,
                })
                .collect();
            let expected = [(after, false), (after, false)];
            assert_eq!(
                counts,
                if after == 0 { &[][..] } else { &expected[..] },
                "{before} to {after}"
            );
            let consumes = seen
                .iter()
                .filter(|it| it.is(basic::Consume::ID))
                .map(tag_of)
                .count();
            assert_eq!(consumes, 3);
        }
    }
}
