//! A connection that is lost and dialled again: when it tries, when it gives up, and what becomes
//! of what was under way.

use crate::peer::{Peer, ack, close, consume, declare, method, publish, short, tune};
use puka::machine::{ConnectionState, Notice, PromiseId, Reply, Settle};
use puka::protocol::method::{basic, channel, connection, queue};
use puka::protocol::{ContentHeader, Value};
use puka::{Broken, Error, Options, Recovery};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn options(set: impl FnOnce(Recovery) -> Recovery) -> Options {
    Options::default().recovery(set(Recovery::default().seed(7)))
}

fn dialled() -> Peer {
    Peer::dialled(options(|recovery| recovery))
}

/// Whether a promise is still waited for, and if not, what it is.
fn replied(peer: &mut Peer, promise: PromiseId) -> Reply {
    match peer.machine.fetch(promise) {
        Some(Ok(reply)) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn r1_the_states_can_be_seen() {
    let mut peer = Peer::undialled(options(|recovery| recovery));
    assert!(matches!(peer.machine.state(), ConnectionState::Connecting));
    let connected = peer.machine.connect();
    peer.dial();
    assert!(matches!(peer.machine.state(), ConnectionState::Connecting));
    peer.shake_hands(tune(2047, 131_072, 60));
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
    peer.shake_hands(tune(2047, 131_072, 60));
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    let closed = peer.machine.close();
    peer.serve();
    peer.done(closed);
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
    peer.method(0, &close(code, "WHY - told"));
}

fn shake_hands(peer: &mut Peer) {
    peer.shake_hands(tune(2047, 131_072, 60));
}

#[test]
fn r2_no_reply_code_ends_a_connection_that_stood() {
    for code in [
        320, 402, 403, 501, 502, 503, 504, 505, 506, 530, 540, 541, 999,
    ] {
        let mut peer = dialled();
        peer.method(0, &close(code, "WHY - told"));
        assert_eq!(peer.names(), ["0 connection.close-ok"], "{code}");
        assert!(
            peer.machine.is_down() && !peer.machine.is_closed(),
            "{code}"
        );
        peer.dial();
        shake_hands(&mut peer);
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
        assert!(peer.machine.is_down(), "our own finding counts, too");
        peer.pass(SECOND);
        peer.dial();
        shake_hands(&mut peer);
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
        let told = std::iter::from_fn(|| peer.machine.take_notice(listener));
        let delays: Vec<_> = told
            .filter_map(|notice| match notice {
                Notice::Retrying {
                    attempt,
                    delay,
                    cause,
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
        shake_hands(&mut peer);
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
    }
}

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
        shake_hands(&mut peer);
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
    }
}

fn of_three(set: impl FnOnce(Recovery) -> Recovery) -> Options {
    Options::from_uri("amqp://one,two,three/")
        .unwrap()
        .recovery(set(Recovery::default().seed(1)))
}

#[test]
fn s4_an_attempt_tries_every_endpoint_at_once() {
    let mut peer = Peer::undialled(of_three(|recovery| recovery));
    let connected = peer.machine.connect();
    let start = peer.now;
    // The first can't be dialled, and the second is not a broker.
    assert_eq!(peer.until_dialling().first, 0);
    peer.machine.handle_dialled(peer.now, 1, false);
    peer.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert_eq!(peer.until_dialling().first, 2);
    assert_eq!(peer.now, start);
    peer.machine.handle_dialled(peer.now, 2, false);
    peer.names();
    peer.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert!(
        matches!(peer.error(connected), Error::NotAmqp(_)),
        "one round before it fails"
    );
    assert!(peer.machine.is_closed());
}

#[test]
fn s4_an_odd_endpoint_does_not_delay_the_others() {
    let mut peer = Peer::undialled(of_three(|recovery| recovery));
    peer.dial();
    shake_hands(&mut peer);
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
                .handle_dialled(peer.now, (first + place) % 3, false);
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
fn s13_a_recovery_that_worked_is_no_failed_attempt() {
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
        shake_hands(&mut peer);
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
    }
}

#[test]
fn r3_credentials_are_asked_for_anew_and_may_be_missing_for_a_moment() {
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = asked.clone();
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
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 4);
}

#[test]
fn credentials_that_panic_are_a_failed_attempt() {
    let logins = std::sync::atomic::AtomicU32::new(0);
    let credentials = move || match logins.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        1 => panic!("the source's own fault"),
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
                "no handshake waits for its deadline"
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
fn s17_the_first_connect_is_tried_again_only_when_asked_for() {
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
    peer.shake_hands(tune(2047, 131_072, 60));
    assert!(matches!(replied(&mut peer, connected), Reply::Connected(_)));
}

#[test]
fn s13_when_the_tries_are_used_up_everybody_is_told() {
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
    let told: Vec<_> = std::iter::from_fn(|| peer.machine.take_notice(listener)).collect();
    let [
        Notice::Disconnected(_),
        Notice::Retrying { attempt: 1, .. },
        Notice::Retrying { attempt: 2, .. },
        Notice::Retrying { attempt: 3, .. },
        Notice::Closed(_),
    ] = &told[..]
    else {
        panic!("{told:?}")
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
fn r3_delays_grow_are_random_and_begin_anew_with_a_connection_that_stood() {
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
            (0..losses).for_each(|_| peer.again());
            if stands {
                peer.machine.handle_loss(Broken::Eof);
                peer.dial();
                peer.shake_hands(tune(2047, 131_072, 0));
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
fn r3_a_thousand_clients_do_not_all_come_at_once() {
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
    // From when the longest delay is reached.
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
fn s4_the_next_endpoint_is_tried_when_one_fails_and_the_one_that_works_is_kept() {
    let uri = "amqp://one,two,three/";
    let mut peer = Peer::undialled(
        Options::from_uri(uri)
            .unwrap()
            .recovery(Recovery::default().seed(1).retry_first_connect(true)),
    );
    assert_eq!(peer.until_dialling().first, 0);
    // All were tried, and the third was there.
    peer.machine.handle_dialled(peer.now, 2, false);
    peer.shake_hands(tune(2047, 131_072, 60));
    peer.machine.handle_loss(Broken::Eof);
    let before = peer.now;
    assert_eq!(peer.until_dialling().first, 2);
    assert_eq!(peer.now, before, "there are others, so it is tried at once");
    peer.machine.handle_dial_failure(
        peer.now,
        Error::Timeout {
            what: "dialling",
            after: SECOND,
        },
    );
    assert_eq!(peer.until_dialling().first, 0);
}

#[test]
fn r4_what_an_earlier_connection_delivered_can_not_be_settled() {
    let mut peer = dialled();
    let (consumer, number, tag) = peer.consumer(&consume("q"));
    peer.deliver(number, &tag, 1, b"old");
    let old = peer.taken(consumer).remove(0);
    peer.again();
    peer.serve();
    peer.deliver(1, &tag, 1, b"new");
    let new = peer.taken(consumer).remove(0);
    for how in [
        Settle::Ack { multiple: true },
        Settle::Reject { requeue: true },
    ] {
        assert!(matches!(peer.machine.settle(&old, how), Err(Error::Stale)));
    }
    assert!(peer.names().is_empty(), "nothing is sent");
    peer.machine
        .settle(&new, Settle::Ack { multiple: false })
        .unwrap();
    assert_eq!(peer.names(), ["1 basic.ack"]);
}

#[test]
fn r7_what_was_not_handed_out_is_dropped_before_the_first_new_delivery_and_counted() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    let mut it = consume("q");
    it.prefetch_count = 10;
    let (consumer, number, tag) = peer.consumer(&it);
    let mut unacked = consume("free");
    unacked.no_ack = true;
    let (free, free_number, free_tag) = peer.consumer(&unacked);
    for delivery in 1..=3 {
        peer.deliver(number, &tag, delivery, b"old");
        peer.deliver(free_number, &free_tag, delivery, b"kept");
    }
    peer.again();
    let sent: Vec<_> = peer.serve();
    let names: Vec<_> = sent.iter().map(crate::peer::Sent::name).collect();
    assert_eq!(
        names,
        [
            "1 channel.open",
            "1 basic.qos",
            "1 basic.consume",
            "2 channel.open",
            "2 basic.consume"
        ]
    );
    assert_eq!(crate::peer::tag_of(&sent[2]), tag, "the tag that is known");
    peer.deliver(1, &tag, 1, b"new");
    let bodies: Vec<_> = peer
        .taken(consumer)
        .iter()
        .map(|it| it.message.body().to_vec())
        .collect();
    assert_eq!(bodies, [b"new"]);
    assert_eq!(
        peer.machine.consumer(consumer).unwrap().lost_deliveries(),
        3
    );
    assert_eq!(peer.taken(free).len(), 3, "what needs no ack is not lost");
    let told: Vec<_> = std::iter::from_fn(|| peer.machine.take_notice(listener)).collect();
    match &told[..] {
        [
            Notice::Disconnected(_),
            Notice::Retrying { .. },
            Notice::Recovered(report),
        ] => {
            assert_eq!(
                (report.epoch, report.consumers, report.lost_deliveries),
                (2, 2, 3)
            );
            assert!(report.failed.is_empty());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn r8_a_publish_without_a_confirm_is_unconfirmed_and_one_that_was_not_sent_waits() {
    let mut peer = dialled();
    let sent = peer.machine.publish(&publish("", "sent")).unwrap();
    peer.serve();
    peer.machine.handle_loss(Broken::Eof);
    match peer.error(sent) {
        Error::Unconfirmed(cause) => {
            assert!(matches!(*cause, Error::ConnectionBroken(Broken::Eof)))
        }
        other => panic!("{other:?}"),
    }
    let waits = peer.machine.publish(&publish("", "waits")).unwrap();
    peer.dial();
    peer.shake_hands(tune(2047, 131_072, 60));
    let names: Vec<_> = peer.serve().iter().map(crate::peer::Sent::name).collect();
    assert!(names.contains(&"1 body 5".to_owned()), "{names:?}");
    peer.method(1, &ack(1, false));
    peer.done(waits);
    assert!(peer.machine.is_idle());
}

#[test]
fn a_publish_stopped_by_flow_leaves_after_a_loss() {
    let mut peer = dialled();
    let first = peer.machine.publish(&publish("", "1")).unwrap();
    peer.serve();
    peer.method(1, &ack(1, false));
    peer.done(first);
    peer.method(1, &channel::Flow { active: false });
    let stopped = peer.machine.publish(&publish("", "2")).unwrap();
    // It is tried in vain.
    peer.method(1, &channel::Flow { active: false });
    assert!(!peer.serve().iter().any(|sent| sent.is(basic::Publish::ID)));
    peer.again();
    assert!(peer.serve().iter().any(|sent| sent.is(basic::Publish::ID)));
    peer.method(1, &ack(1, false));
    peer.done(stopped);
}

#[test]
fn r8_at_least_once_publishes_again_in_order_and_says_so() {
    let mut peer = Peer::dialled(options(|recovery| recovery.republish_unconfirmed(2)));
    let promises: Vec<_> = (0..4)
        .map(|n| peer.machine.publish(&publish("", vec![n; 5])).unwrap())
        .collect();
    peer.serve();
    peer.method(1, &ack(2, false));
    peer.done(promises[1]);
    let held = |peer: &mut Peer| {
        let sent = peer.serve();
        let headers = sent.iter().filter(|it| it.name().contains("header"));
        let attempts: Vec<_> = headers
            .map(|it| {
                let header = ContentHeader::decode(&it.payload).unwrap();
                let headers = header
                    .properties
                    .headers
                    .map(|headers| headers.table().unwrap());
                headers
                    .and_then(|headers| headers.get("x-puka-republished"))
                    .and_then(Value::as_i64)
            })
            .collect();
        let bodies = sent
            .iter()
            .filter(|it| it.name().contains("body"))
            .map(|it| it.payload[0]);
        (bodies.collect::<Vec<_>>(), attempts)
    };
    peer.machine.handle_loss(Broken::Eof);
    let new = peer.machine.publish(&publish("", vec![9; 5])).unwrap();
    peer.dial();
    peer.shake_hands(tune(2047, 131_072, 60));
    assert_eq!(
        held(&mut peer),
        (vec![0, 2, 3, 9], vec![Some(1), Some(1), Some(1), None])
    );
    peer.method(1, &ack(1, true));
    peer.done(promises[0]);
    peer.again();
    assert_eq!(
        held(&mut peer),
        (vec![2, 3, 9], vec![Some(2), Some(2), Some(1)])
    );
    // Twice was allowed.
    peer.again();
    assert!(matches!(peer.error(promises[2]), Error::Unconfirmed(_)));
    assert_eq!(held(&mut peer), (vec![9], vec![Some(2)]));
    assert!(matches!(peer.error(promises[3]), Error::Unconfirmed(_)));
    peer.method(1, &ack(1, false));
    peer.done(new);
    assert!(peer.machine.is_idle());
}

#[test]
fn a_republished_message_never_fails_for_certain() {
    type Refusal = fn(&mut Peer);
    let refusals: [(Refusal, bool); 4] = [
        (
            |peer| {
                peer.method(
                    1,
                    &crate::peer::channel_close(404, "NOT_FOUND - no exchange 'x'"),
                )
            },
            true,
        ),
        (
            |peer| {
                peer.method(
                    1,
                    &basic::Nack {
                        delivery_tag: 1,
                        multiple: false,
                        requeue: false,
                    },
                )
            },
            true,
        ),
        (
            |peer| {
                let mut stamp = puka::protocol::Table::new();
                stamp.insert("x-puka-publish", 1).unwrap();
                let mut properties = puka::protocol::Properties::default();
                properties.headers = Some(stamp.as_ref().into());
                let returned = basic::Return {
                    reply_code: 312,
                    reply_text: short("NO_ROUTE"),
                    exchange: short("x"),
                    routing_key: short("key"),
                };
                peer.feed(&[method(1, &returned), crate::peer::header(1, 0, properties)].concat());
            },
            true,
        ),
        (|peer| peer.method(1, &ack(1, false)), false),
    ];
    for (place, (refuse, fails)) in refusals.into_iter().enumerate() {
        let mut peer = Peer::dialled(options(|recovery| recovery.republish_unconfirmed(2)));
        let message = puka::machine::Publish {
            mandatory: true,
            ..publish("x", "")
        };
        let promise = peer.machine.publish(&message).unwrap();
        peer.serve();
        peer.again();
        peer.serve();
        refuse(&mut peer);
        if fails {
            let error = peer.error(promise);
            let is_told = matches!(
                &error,
                Error::Unconfirmed(cause)
                    if matches!(**cause, Error::NotFound(_) | Error::Nacked | Error::NoRoute(_))
            );
            assert!(is_told, "{place}: {error:?}");
            assert_eq!(peer.machine.counters().unconfirmed, 1, "{place}");
        } else {
            peer.done(promise);
        }
        // The first attempt of another is certain again.
        let promise = peer.machine.publish(&publish("gone", "")).unwrap();
        let channel = peer
            .serve()
            .iter()
            .find(|it| it.is(basic::Publish::ID))
            .unwrap()
            .channel;
        peer.method(
            channel,
            &crate::peer::channel_close(404, "NOT_FOUND - no exchange 'gone'"),
        );
        assert!(matches!(peer.error(promise), Error::NotFound(_)), "{place}");
    }
}

#[test]
fn r9_requests_that_can_be_repeated_are_and_others_have_an_unknown_outcome() {
    let mut peer = dialled();
    let declared = peer.machine.request(declare("q")).unwrap();
    let got = peer.get();
    let no_ack = peer
        .machine
        .request(basic::Get {
            queue: short("q"),
            no_ack: true,
        })
        .unwrap();
    let purged = peer
        .machine
        .request(queue::Purge {
            queue: short("q"),
            nowait: false,
        })
        .unwrap();
    let delete = queue::Delete {
        queue: short("q"),
        if_unused: false,
        if_empty: false,
        nowait: false,
    };
    let deleted = peer.machine.request(delete).unwrap();
    let unnamed = peer.machine.request(declare("")).unwrap();
    let mut own = declare("");
    own.exclusive = true;
    let own = peer.machine.request(own).unwrap();
    peer.take();
    peer.again();
    for promise in [no_ack, purged, deleted, unnamed] {
        let error = peer.error(promise);
        assert!(
            matches!(error, Error::ConnectionBroken(Broken::OutcomeUnknown(_))),
            "{error:?}"
        );
    }
    let names: Vec<_> = peer.serve().iter().map(crate::peer::Sent::name).collect();
    let again: Vec<_> = names
        .iter()
        .filter(|name| !name.contains("channel.open"))
        .collect();
    assert_eq!(again, ["1 queue.declare", "2 basic.get", "3 queue.declare"]);
    assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
    assert!(matches!(replied(&mut peer, own), Reply::Queue(_)));
    peer.method(2, &basic::GetEmpty {});
    assert!(matches!(replied(&mut peer, got), Reply::Delivery(None)));
}

/// RabbitMQ does not always name the method over which it closes: then class and method are 0.
fn close_over(class_id: u16, method_id: u16) -> connection::Close<'static> {
    connection::Close {
        class_id,
        method_id,
        ..close(541, "INTERNAL_ERROR")
    }
}

fn reconnect(peer: &mut Peer) {
    peer.dial();
    shake_hands(peer);
}

#[test]
fn a_hard_error_answers_its_own_request_only() {
    let mut peer = dialled();
    let (got, poison) = (peer.get(), peer.machine.request(declare("poison")).unwrap());
    let consumed = peer.machine.consume(&consume("waits")).unwrap();
    peer.take();
    peer.method(
        0,
        &connection::Close {
            class_id: 50,
            method_id: 10,
            ..close(503, "COMMAND_INVALID")
        },
    );
    assert!(matches!(peer.error(poison), Error::CommandInvalid(_)));
    reconnect(&mut peer);
    let sent = peer.serve();
    assert!(
        !sent.iter().any(|it| it.is(queue::Declare::ID)),
        "it is not repeated"
    );
    assert!(matches!(replied(&mut peer, consumed), Reply::Consumer(_)));
    let channel = sent
        .iter()
        .find(|it| it.is(basic::Get::ID))
        .unwrap()
        .channel;
    peer.method(channel, &basic::GetEmpty {});
    assert!(matches!(replied(&mut peer, got), Reply::Delivery(None)));

    let poison = peer.machine.consume(&consume("poison")).unwrap();
    peer.take();
    peer.method(0, &close_over(60, 20));
    assert!(matches!(peer.error(poison), Error::InternalError(_)));
}

#[test]
fn suspects_sent_one_by_one_reveal_the_cause() {
    for over in [close_over(0, 0), close_over(50, 10)] {
        let mut peer = dialled();
        let names = ["a", "b", "poison", "c"];
        let promises = names.map(|name| peer.machine.request(declare(name)).unwrap());
        peer.take();
        peer.method(0, &over);
        reconnect(&mut peer);
        // Each is sent alone, after the reply to the one before.
        for name in ["a", "b", "poison", "c"] {
            let declares: Vec<_> = peer
                .take()
                .into_iter()
                .filter(|it| it.is(queue::Declare::ID))
                .collect();
            assert_eq!(declares.len(), 1, "{name}");
            let channel = declares[0].channel;
            if name == "poison" {
                peer.method(0, &over);
                reconnect(&mut peer);
            } else {
                if matches!(name, "a" | "c") {
                    peer.method(channel, &channel::OpenOk {});
                }
                let ok = queue::DeclareOk {
                    queue: short(name),
                    message_count: 0,
                    consumer_count: 0,
                };
                peer.method(channel, &ok);
            }
            if name == "poison" {
                // The declared entities are restored first.
                for _ in 0..2 {
                    let sent = peer.take();
                    let opened = sent
                        .iter()
                        .find(|it| it.is(channel::Open::ID))
                        .map(|it| it.channel);
                    opened
                        .into_iter()
                        .for_each(|number| peer.method(number, &channel::OpenOk {}));
                    for it in sent
                        .iter()
                        .filter(|it| it.is(queue::Declare::ID))
                        .collect::<Vec<_>>()
                    {
                        let ok = queue::DeclareOk {
                            queue: short("x"),
                            message_count: 0,
                            consumer_count: 0,
                        };
                        peer.method(it.channel, &ok);
                    }
                }
                break;
            }
        }
        let outcomes = promises.map(|promise| peer.machine.fetch(promise));
        assert!(
            matches!(outcomes[2], Some(Err(Error::InternalError(_)))),
            "{outcomes:?}"
        );
        for place in [0, 1, 3] {
            assert!(
                matches!(outcomes[place], Some(Ok(Reply::Queue(_)))),
                "{outcomes:?}"
            );
        }
    }
}

#[test]
fn request_beside_a_pending_publish_is_repeated() {
    // The close may be over the publish, or over the `channel.open` in front of it.
    for over in [close_over(0, 0), close_over(20, 10)] {
        let mut peer = dialled();
        let published = peer.machine.publish(&publish("", "x")).unwrap();
        let declared = peer.machine.request(declare("q")).unwrap();
        peer.take();
        peer.method(0, &over);
        assert!(matches!(peer.error(published), Error::Unconfirmed(_)));
        assert!(peer.is_pending(declared));
        reconnect(&mut peer);
        peer.serve();
        assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
    }
}

#[test]
fn consumers_that_start_with_a_poisoned_one_live() {
    let mut peer = dialled();
    let consumers = ["a", "poison", "b"].map(|queue| peer.consumer(&consume(queue)).0);
    peer.machine.handle_loss(Broken::Eof);
    let mut losses = 0;
    reconnect(&mut peer);
    while !matches!(peer.machine.state(), ConnectionState::Open) {
        for sent in peer.take() {
            let is_poison = |it: basic::Consume<'_>| it.queue.as_octets() == b"poison";
            match sent.kind {
                _ if peer.machine.is_down() => {}
                puka::protocol::FrameKind::Method => match sent.method() {
                    puka::protocol::Method::Basic(basic::Method::Consume(it)) if is_poison(it) => {
                        losses += 1;
                        peer.method(0, &close_over(60, 20));
                    }
                    _ => {
                        if let Some(answer) = crate::peer::answer(&sent) {
                            peer.feed(&answer);
                        }
                    }
                },
                _ => {}
            }
        }
        if peer.machine.is_down() {
            reconnect(&mut peer);
        }
    }
    assert_eq!(losses, 2);
    let ended = consumers.map(|id| {
        peer.machine
            .consumer(id)
            .and_then(|it| it.ended())
            .is_some()
    });
    assert_eq!(ended, [false, true, false]);
}

#[test]
fn step_that_closes_the_connection_is_skipped() {
    // The number of closes before the step is identified.
    for (over, closes) in [(close_over(50, 10), 1), (close_over(0, 0), 2)] {
        let mut peer = dialled();
        let listener = peer.machine.listen();
        for name in ["a", "poison", "z"] {
            let declared = peer.machine.request(declare(name)).unwrap();
            peer.serve();
            assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
        }
        peer.again();
        for _ in 0..closes {
            peer.take();
            peer.method(1, &channel::OpenOk {});
            peer.method(
                1,
                &queue::DeclareOk {
                    queue: short("a"),
                    message_count: 0,
                    consumer_count: 0,
                },
            );
            peer.take();
            peer.method(0, &over);
            reconnect(&mut peer);
        }
        peer.serve();
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
        let report = std::iter::from_fn(|| peer.machine.take_notice(listener)).last();
        match report {
            Some(Notice::Recovered(report)) => {
                assert_eq!(report.entities, 2);
                assert_eq!(&*report.failed[0].0, "queue \"poison\"");
            }
            other => panic!("{other:?}"),
        }
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
fn r1_requests_fail_at_once_when_somebody_wants_it_so() {
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
    peer.shake_hands(tune(2047, 131_072, 60));
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
            peer.again();
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
        peer.done(closed);
        peer.machine.handle_dialled(peer.now, 0, false);
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
        assert!(matches!(peer.why(), Error::Closed), "{place}");
    }
}

#[test]
fn s14_an_error_that_closes_a_channel_loses_no_connection() {
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
        peer.method(number, &crate::peer::channel_close(code, "WHY - told"));
        assert_eq!(
            peer.error(failed).fault().map(|fault| fault.code.value()),
            Some(code)
        );
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
        peer.take();
    }
}

#[test]
fn a_transaction_ends_with_its_connection() {
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
    peer.again();
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
        "one that was not begun is"
    );
}

#[test]
fn late_octets_of_the_connection_before_are_not_heard() {
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
