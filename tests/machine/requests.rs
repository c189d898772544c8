//! Requests: each has its own result, in time or not, and its channel afterwards.

use crate::peer::{Peer, consume, declare, method, shared, short};
use puka::machine::{Reply, Settle};
use puka::protocol::Table;
use puka::protocol::method::{basic, channel, connection, queue, tx};
use puka::{Error, Options};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn ok(name: &str) -> queue::DeclareOk<'_> {
    queue::DeclareOk {
        queue: short(name),
        message_count: 0,
        consumer_count: 0,
    }
}

#[test]
fn v01_unanswered_request_ends_at_its_deadline() {
    let mut peer = Peer::open_with(Options::default().heartbeat(0), crate::peer::tune(0, 0, 0));
    let request = peer.machine.request(declare("q")).unwrap();
    let get = peer.get();
    let started = peer.machine.consume(&consume("q")).unwrap();
    let sent = peer
        .machine
        .publish(&crate::peer::publish("", "x"))
        .unwrap();
    peer.pass(30 * SECOND - Duration::from_millis(1));
    assert!(peer.is_pending(request) && peer.is_pending(get) && peer.is_pending(started));
    peer.pass(Duration::from_millis(1));
    for promise in [request, get, started] {
        assert!(matches!(
            peer.error(promise),
            Error::Timeout {
                what: "the request",
                ..
            }
        ));
    }
    peer.pass(2 * SECOND);
    assert!(matches!(peer.error(sent), Error::Unconfirmed(cause)
        if matches!(*cause, Error::Timeout { .. })));
    assert!(
        peer.machine.why_closed().is_none(),
        "the connection is open"
    );
}

#[test]
fn v02_late_reply_does_not_reach_the_next_request() {
    let mut peer = Peer::open_with(
        Options::default().request_channels(1).heartbeat(0),
        crate::peer::tune(0, 0, 0),
    );
    let late = peer.machine.request(declare("late")).unwrap();
    peer.pass(29 * SECOND);
    let next = peer.machine.request(declare("next")).unwrap();
    peer.pass(SECOND);
    assert!(matches!(peer.error(late), Error::Timeout { .. }));
    let opened = ["1 channel.open", "1 queue.declare"];
    let replaced = ["1 channel.close", "2 channel.open", "2 queue.declare"];
    assert_eq!(peer.names(), [&opened[..], &replaced[..]].concat());
    peer.feed(&[method(1, &channel::OpenOk {}), method(1, &ok("late"))].concat());
    assert!(peer.is_pending(next));
    assert!(peer.names().is_empty());
    peer.feed(&[method(2, &channel::OpenOk {}), method(2, &ok("next"))].concat());
    match peer.machine.fetch(next) {
        Some(Ok(Reply::Queue(queue))) => assert_eq!(queue.name, "next"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn v02_request_timed_out_in_the_queue_is_unsent() {
    let mut peer = Peer::open_with(
        Options::default().request_channels(1).heartbeat(0),
        crate::peer::tune(0, 0, 0),
    );
    let first = peer.machine.request(declare("first")).unwrap();
    let second = peer.machine.request(declare("second")).unwrap();
    peer.pass(30 * SECOND);
    assert!(matches!(peer.error(first), Error::Timeout { .. }));
    assert!(matches!(peer.error(second), Error::Timeout { .. }));
    peer.names();
    let late = [
        method(1, &channel::OpenOk {}),
        method(1, &ok("first")),
        method(1, &channel::CloseOk {}),
    ];
    peer.feed(&late.concat());
    assert!(peer.names().is_empty());
    assert!(peer.machine.is_idle());
}

#[test]
fn v06_unsettled_get_delays_no_request() {
    // Settling the message frees its channel. A consumer that waits for one starts at once, not at
    // the server's next frame.
    let mut peer = Peer::open(Options::default().request_channels(1).channel_max(1));
    let delivered = peer.get_message(1, b"x");
    let _request = peer.machine.request(declare("q")).unwrap();
    assert!(
        peer.names().is_empty(),
        "the only channel has an unsettled message"
    );
    peer.machine
        .settle(&delivered, Settle::Ack { multiple: false })
        .unwrap();
    assert!(peer.machine.wants_attention());
    let mut names = peer.names();
    names.sort();
    assert_eq!(names, ["1 basic.ack", "1 queue.declare"]);
}

#[test]
fn v06_settled_get_frees_a_channel_for_the_consumer() {
    let mut peer = Peer::open(Options::default().channel_max(1));
    let delivered = peer.get_message(1, b"x");
    let _started = peer.machine.consume(&consume("q")).unwrap();
    assert!(
        peer.names().is_empty(),
        "the only channel has an unsettled message"
    );
    peer.machine
        .settle(&delivered, Settle::Ack { multiple: false })
        .unwrap();
    let names = peer.names();
    assert!(names.contains(&"1 basic.consume".to_owned()), "{names:?}");
}

#[test]
fn v06_hundred_unsettled_gets_leave_room_for_requests() {
    let mut peer = Peer::open(Options::default());
    let unsettled: Vec<_> = (0..100).map(|_| peer.get_message(1, b"x")).collect();
    let request = peer.machine.request(declare("q")).unwrap();
    peer.serve();
    assert!(matches!(
        peer.machine.fetch(request),
        Some(Ok(Reply::Queue(_)))
    ));
    for delivered in &unsettled {
        peer.machine
            .settle(delivered, Settle::Ack { multiple: false })
            .unwrap();
    }
    let sent = peer.serve();
    assert_eq!(
        sent.iter().filter(|sent| sent.is(basic::Ack::ID)).count(),
        100
    );
    assert!(
        peer.machine.stats().open_channels <= 64,
        "and the pool shrinks again"
    );
}

#[test]
fn v02_requests_before_open_are_sent_after_it() {
    let mut peer = Peer::new(Options::default());
    let request = peer.machine.request(declare("q")).unwrap();
    let started = peer.machine.consume(&consume("q")).unwrap();
    let sent = peer
        .machine
        .publish(&crate::peer::publish("", "x"))
        .unwrap();
    peer.complete_handshake(crate::peer::tune(0, 0, 0));
    let served = peer.serve();
    let number = served
        .iter()
        .find(|sent| sent.is(basic::Publish::ID))
        .unwrap()
        .channel;
    peer.method(number, &crate::peer::ack(1, false));
    assert!(matches!(
        peer.machine.fetch(request),
        Some(Ok(Reply::Queue(_)))
    ));
    assert!(matches!(
        peer.machine.fetch(started),
        Some(Ok(Reply::Consumer(_)))
    ));
    peer.expect_done(sent);
}

#[test]
fn e11_request_larger_than_a_frame_is_refused() {
    let mut peer = Peer::open_with(
        Options::default().frame_max(4096),
        crate::peer::tune(0, 4096, 0),
    );
    let mut arguments = Table::new();
    arguments.insert("large", &*vec![7_u8; 4096]).unwrap();
    let mut large = declare("q");
    large.arguments = arguments.as_ref();
    assert!(matches!(
        peer.machine.request(large),
        Err(Error::InvalidArgument { .. })
    ));
    let mut large = consume("q");
    large.arguments = arguments.as_ref();
    assert!(matches!(
        peer.machine.consume(&large),
        Err(Error::InvalidArgument { .. })
    ));
    assert!(peer.names().is_empty() && peer.machine.is_idle());
}

#[test]
fn e11_request_too_large_after_tuning_frees_its_channel() {
    let mut peer = Peer::new(Options::default().request_channels(1));
    let mut arguments = Table::new();
    arguments.insert("large", &*vec![7_u8; 5000]).unwrap();
    let mut large = declare("q");
    large.arguments = arguments.as_ref();
    let refused = peer.machine.request(large).unwrap();
    let mut large = consume("q");
    large.arguments = arguments.as_ref();
    let not_started = peer.machine.consume(&large).unwrap();
    let fine = peer.machine.request(declare("q")).unwrap();
    peer.complete_handshake(crate::peer::tune(0, 4096, 0));
    peer.serve();
    assert!(matches!(peer.error(refused), Error::InvalidArgument { .. }));
    assert!(matches!(
        peer.error(not_started),
        Error::InvalidArgument { .. }
    ));
    assert!(matches!(
        peer.machine.fetch(fine),
        Some(Ok(Reply::Queue(_)))
    ));
    assert!(peer.machine.is_idle());
}

#[test]
fn e11_publish_with_oversized_header_leaves_channel_usable() {
    let mut peer = Peer::open_with(Options::default(), crate::peer::tune(0, 4096, 0));
    let mut headers = Table::new();
    headers.insert("large", &*vec![7_u8; 4096]).unwrap();
    let mut large = crate::peer::publish("", "x");
    large.headers = Some(headers.as_ref());
    for _ in 0..2 {
        assert!(matches!(
            peer.machine.publish(&large),
            Err(Error::InvalidArgument { .. })
        ));
        let sent = peer
            .machine
            .publish(&crate::peer::publish("", "x"))
            .unwrap();
        peer.serve();
        assert!(peer.is_pending(sent));
    }
    peer.method(1, &crate::peer::ack(2, true));
    assert!(peer.machine.why_closed().is_none() && peer.machine.stats().open_channels == 1);
}

#[test]
fn a11_large_body_is_split_and_oversized_body_refused() {
    let mut peer = Peer::open(Options::default().max_message_size(1_000_000));
    let large = vec![7_u8; 1_000_001];
    assert!(matches!(
        peer.machine.publish(&crate::peer::publish("", &large[..])),
        Err(Error::InvalidArgument { what: "body", .. })
    ));
    assert!(peer.names().is_empty());
    for body in [
        puka::Body::from(&large[1..]),
        puka::Body::from(large[1..].to_vec()),
    ] {
        let _sent = peer
            .machine
            .publish(&crate::peer::publish("", body))
            .unwrap();
        let sent = peer.serve();
        let bodies = sent.iter().filter(|sent| sent.name().contains("body"));
        assert_eq!(
            bodies.map(|sent| sent.payload.len()).collect::<Vec<_>>(),
            [[131_064; 7].as_slice(), &[82_552]].concat()
        );
    }
}

#[test]
fn methods_that_are_no_requests_are_refused() {
    let mut peer = Peer::open(Options::default());
    assert!(peer.machine.request(channel::Open {}).is_err());
    assert!(peer.machine.request(ok("q")).is_err());
    let publish = basic::Publish {
        exchange: short(""),
        routing_key: short(""),
        mandatory: false,
        immediate: false,
    };
    assert!(peer.machine.request(publish).is_err());
    let mut nowait = declare("q");
    nowait.nowait = true;
    assert!(
        peer.machine.request(nowait).is_err(),
        "no reply would arrive, and the channel would wait for ever"
    );
    assert!(peer.names().is_empty());
}

#[test]
fn empty_queue_name_is_refused_before_sending() {
    let mut peer = Peer::open(Options::default());
    let transaction = peer.machine.transaction().unwrap();
    peer.take();
    peer.feed(&[method(1, &channel::OpenOk {}), method(1, &tx::SelectOk {})].concat());
    let Some(Ok(Reply::Transaction(transaction))) = peer.machine.fetch(transaction) else {
        panic!()
    };
    let (queue, exchange, routing_key) = (short(""), short("e"), short("k"));
    let arguments = Table::new();
    let arguments = arguments.as_ref();
    let bind = queue::Bind {
        queue,
        exchange,
        routing_key,
        nowait: false,
        arguments,
    };
    let unbind = queue::Unbind {
        queue,
        exchange,
        routing_key,
        arguments,
    };
    let machine = &mut peer.machine;
    let refused = [
        machine.request(bind),
        machine.request(unbind),
        machine.request(queue::Purge {
            queue,
            nowait: false,
        }),
        machine.request(queue::Delete {
            queue,
            if_unused: false,
            if_empty: false,
            nowait: false,
        }),
        machine.request(basic::Get {
            queue,
            no_ack: false,
        }),
        machine.get_in(
            transaction,
            basic::Get {
                queue,
                no_ack: false,
            },
        ),
        machine.consume(&consume("")),
        machine.consume_multi(&[consume("q"), consume("")], &shared(0)),
    ];
    for refusal in refused {
        assert!(
            matches!(refusal, Err(Error::InvalidArgument { what: "queue", .. })),
            "{refusal:?}"
        );
    }
    assert!(peer.names().is_empty(), "the broker sees none of it");
    assert!(
        peer.machine.request(declare("")).is_ok(),
        "the broker may name a queue that is declared"
    );
}

#[test]
fn full_pool_closes_no_other_channel() {
    let mut peer = Peer::open(Options::default().request_channels(1));
    let sent = peer
        .machine
        .publish(&crate::peer::publish("", "x"))
        .unwrap();
    peer.serve();
    peer.method(1, &crate::peer::ack(1, false));
    peer.expect_done(sent);
    let _requests = [declare("a"), declare("b")].map(|it| peer.machine.request(it).unwrap());
    // The second request waits for the first, although channel numbers are free and channel 1 is
    // idle.
    assert_eq!(peer.names(), ["2 channel.open", "2 queue.declare"]);
}

#[test]
fn released_publish_leaves_other_deadlines_alone() {
    let mut peer = Peer::open(Options::default().heartbeat(0));
    let blocked = connection::Blocked {
        reason: short("low on memory"),
    };
    peer.method(0, &blocked);
    let _sent = peer
        .machine
        .publish(&crate::peer::publish("", "x"))
        .unwrap();
    let slow = peer.machine.request(declare("q")).unwrap();
    // The publish is written and its first deadline removed before either deadline has started.
    peer.method(0, &connection::Unblocked {});
    peer.names();
    peer.now += Duration::from_secs(31);
    peer.machine.handle_timeout(peer.now);
    assert!(matches!(peer.error(slow), Error::Timeout { .. }));
}

#[test]
fn request_may_fill_a_frame() {
    let mut peer = Peer::open_with(Options::default(), crate::peer::tune(0, 4096, 0));
    let mut largest = 0;
    for size in 4000..4096 {
        let mut arguments = Table::new();
        arguments.insert("x", "x".repeat(size).as_str()).unwrap();
        let declare = queue::Declare {
            arguments: arguments.as_ref(),
            ..declare("q")
        };
        if peer.machine.request(declare).is_err() {
            break;
        }
        let sent = peer.serve();
        let payload = &sent.last().unwrap().payload;
        // "The frame header and end" have 8 bytes (4.2.3).
        largest = payload.len() + 8;
    }
    assert_eq!(largest, 4096);
}
