//! Bounds of everything: outgoing bytes, buffered deliveries, and replies to a flood.

use crate::driver::opened;
use crate::peer::{Peer, ack, consume, declare, method, publish, raw, short, tune};
use bytes::Bytes;
use puka::machine::{Body, Outgoing, PromiseId, Publish, Reply, Settle};
use puka::protocol::method::{basic, channel, queue, tx};
use puka::{Broken, Error, Options, Recovery};
use std::time::Duration;

#[test]
fn e47_outgoing_bytes_are_bounded_while_transport_accepts_none() {
    // A driver takes the state machine's output at each poll, even if the stream does not accept
    // it.
    let (client, pipe, _clock, mut driver) = opened(Options::default().max_outgoing_bytes(1 << 20));
    pipe.script().stalled = true;
    let body = vec![7; 64 << 10];
    let mut accepted = 0;
    let mut promises = Vec::new();
    for _ in 0..100 {
        match client.basic_publish("", "q", body.clone()).try_send() {
            Ok(promise) => {
                accepted += body.len();
                promises.push(promise);
            }
            Err(Error::Full) => break,
            Err(error) => panic!("{error}"),
        }
        assert!(pipe.poll(&mut driver).is_none());
    }
    assert!(
        accepted <= (2 << 20) + body.len(),
        "{accepted} bytes are queued at a limit of 1 MiB and as much in the driver"
    );
}

#[test]
fn e47_only_publishes_are_refused_at_the_bound() {
    let mut peer = Peer::open_with(
        Options::default().max_outgoing_bytes(1000),
        crate::peer::tune(0, 0, 4),
    );
    let (id, channel, tag) = peer.consumer(&consume("q"));
    peer.deliver(channel, &tag, 1, b"x");
    let delivered = peer.take_deliveries(id).remove(0);
    let _sent = peer.machine.publish(&publish("", &[7; 2000])).unwrap();
    assert!(matches!(
        peer.machine.publish(&publish("", "x")),
        Err(Error::Full)
    ));
    assert!(matches!(
        peer.machine.request(declare("q")),
        Err(Error::Full)
    ));
    assert!(matches!(
        peer.machine.consume(&consume("q")),
        Err(Error::Full)
    ));
    assert!(!peer.machine.has_capacity_to_publish() && !peer.machine.has_capacity_to_request());
    peer.machine
        .settle(&delivered, Settle::Ack { multiple: false })
        .unwrap();
    let _closing = peer.machine.close();
    assert!(peer.names().contains(&format!("{channel} basic.ack")));
    assert!(peer.machine.publish(&publish("", "x")).is_err());
}

#[test]
fn sums_of_shared_bodies_do_not_overflow() {
    // On a 32-bit target, 100 times 64 MiB exceeds `usize`.
    let options = Options::default().max_message_size(64 << 20);
    let mut peer = Peer::open(options.max_outgoing_bytes(usize::MAX));
    let body = Bytes::from(vec![7; 64 << 20]);
    let mut accepted = 0;
    for _ in 0..100 {
        match peer.machine.publish(&Publish {
            body: Body::Shared(body.clone()),
            ..publish("", "")
        }) {
            Ok(_) => accepted += 1,
            Err(error) => assert!(matches!(error, Error::Full), "{error}"),
        }
    }
    assert!(
        accepted >= 8,
        "512 MiB are within the limit of every target, but {accepted} bodies were accepted"
    );
    assert!(peer.machine.stats().outgoing_bytes >= accepted * body.len());
}

#[test]
fn e47_publishes_in_flight_are_bounded() {
    let mut peer = Peer::open(Options::default().max_publishes_in_flight(10));
    for round in 0..3 {
        for _ in 0..10 {
            let _sent = peer.machine.publish(&publish("", "x")).unwrap();
        }
        peer.serve();
        assert!(matches!(
            peer.machine.publish(&publish("", "x")),
            Err(Error::Full)
        ));
        peer.method(1, &crate::peer::ack((round + 1) * 10, true));
        assert!(peer.machine.has_capacity_to_publish());
    }
}

#[test]
fn v05_queued_requests_are_bounded_by_count_and_bytes() {
    let mut peer = Peer::open(Options::default().max_requests(10).request_channels(1));
    let accepted = (0..100)
        .filter(|_| peer.machine.request(declare("q")).is_ok())
        .count();
    assert_eq!(accepted, 11, "one is in flight and ten are queued");
    let mut arguments = puka::protocol::Table::new();
    arguments.insert("large", &*vec![7_u8; 10_000]).unwrap();
    // The same holds for a request and for a consumer.
    let mut peer = Peer::open(
        Options::default()
            .max_outgoing_bytes(100_000)
            .request_channels(1)
            .channel_max(1),
    );
    let _first = peer.machine.request(declare("q")).unwrap();
    peer.names();
    let mut large = declare("q");
    large.arguments = arguments.as_ref();
    assert!(
        (0..100)
            .filter(|_| peer.machine.request(large).is_ok())
            .count()
            <= 11
    );
    let mut peer = Peer::open(
        Options::default()
            .max_outgoing_bytes(100_000)
            .channel_max(1),
    );
    let _first = peer.machine.request(declare("q")).unwrap();
    peer.names();
    let mut large = consume("q");
    large.arguments = arguments.as_ref();
    let accepted = (0..100)
        .filter(|_| peer.machine.consume(&large).is_ok())
        .count();
    assert!(
        accepted <= 11,
        "{accepted} consumers of 10 000 bytes are queued"
    );
}

#[test]
fn consume_may_be_as_large_as_a_frame() {
    // The size is an estimate that includes the longest names, so the frame itself is smaller.
    let mut peer = Peer::open_with(Options::default(), tune(0, 4096, 0));
    let refused = (3500..4096).find_map(|len| {
        let mut arguments = puka::protocol::Table::new();
        arguments.insert("large", &*vec![7_u8; len]).unwrap();
        let mut large = consume("q");
        large.arguments = arguments.as_ref();
        let refused = peer.machine.consume(&large).err();
        peer.serve();
        refused
    });
    match refused {
        Some(Error::InvalidArgument { why, .. }) => assert!(why.contains("4097"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn bytes_of_sent_requests_do_not_add_up() {
    let mut peer = Peer::open(Options::default().max_outgoing_bytes(1000));
    for _ in 0..100 {
        let declared = peer.machine.request(declare("q")).unwrap();
        peer.serve();
        assert!(matches!(
            peer.machine.fetch(declared),
            Some(Ok(Reply::Queue(_)))
        ));
        let (id, ..) = peer.consumer(&consume("q"));
        peer.machine.drop_consumer(id);
        peer.serve();
    }
}

#[test]
fn e46_reading_pauses_at_bound_and_resumes_at_half() {
    for options in [
        Options::default().max_buffered_deliveries(10),
        Options::default().max_buffered_bytes(10 * 132),
    ] {
        let mut peer = Peer::open(options);
        let (id, channel, tag) = peer.consumer(&consume("q"));
        let mut delivery = 0;
        while peer.machine.wants_input() {
            delivery += 1;
            peer.deliver(channel, &tag, delivery, &[7; 98]);
            assert!(delivery <= 11);
        }
        assert!(delivery >= 9, "{delivery}");
        let mut taken = std::collections::VecDeque::new();
        peer.machine.take_deliveries(id, 3, &mut taken);
        assert!(
            !peer.machine.wants_input(),
            "not yet, or reading would pause again at once"
        );
        peer.machine.take_deliveries(id, 3, &mut taken);
        assert!(peer.machine.wants_input() && peer.machine.wants_attention());
    }
}

#[test]
fn e46_cancelling_or_dropping_slow_consumer_resumes_reading() {
    for cancelled in [true, false] {
        let mut peer = Peer::open(Options::default().max_buffered_deliveries(10));
        let (id, channel, tag) = peer.consumer(&consume("q"));
        for delivery in 1..=10 {
            peer.deliver(channel, &tag, delivery, b"x");
        }
        assert!(!peer.machine.wants_input());
        if cancelled {
            let _cancelled = peer.machine.cancel(id).unwrap();
        } else {
            peer.machine.drop_consumer(id);
        }
        assert!(
            peer.machine.wants_input(),
            "its deliveries are requeued, and cancel-ok must be read"
        );
        let sent: Vec<_> = peer.serve().iter().map(|sent| sent.name()).collect();
        assert_eq!(
            sent,
            [
                format!("{channel} basic.cancel"),
                format!("{channel} basic.nack")
            ]
        );
        assert!(peer.has_ended(id) || !cancelled);
    }
}

#[test]
fn a22_unread_events_do_not_stop_anything() {
    let mut peer = Peer::open(Options::default());
    let (id, channel, tag) = peer.consumer(&consume("q"));
    // The harness reads events when it pumps; this does not pump.
    let mut out = Outgoing::default();
    for round in 1..=10_000 {
        peer.deliver(channel, &tag, round, b"x");
        let delivered = peer.take_deliveries(id).remove(0);
        peer.machine
            .settle(&delivered, Settle::Ack { multiple: false })
            .unwrap();
        peer.machine.poll_transmit(peer.now, &mut out);
        let bytes = out.len();
        out.advance(bytes);
        peer.machine.handle_transmitted(peer.now, bytes);
    }
    let mut events = 0;
    while peer.machine.poll_event().is_some() {
        events += 1;
    }
    assert!(events <= 10_000, "{events}");
    assert!(peer.machine.why_closed().is_none());
}

#[test]
fn a12_replies_to_an_unreading_peers_flood_are_bounded() {
    // Each `flow` is answered with a frame of the same size. A peer that writes and does not read
    // must not fill memory.
    for bytes in [
        method(1, &channel::Flow { active: true }).repeat(1000),
        method(
            1,
            &basic::Cancel {
                consumer_tag: crate::peer::short("unknown"),
                nowait: false,
            },
        )
        .repeat(1000),
    ] {
        let mut peer = Peer::open(Options::default().max_outgoing_bytes(100_000));
        let _request = peer.machine.request(declare("q")).unwrap();
        peer.serve();
        let mut out = Outgoing::default();
        for _ in 0..100 {
            if !peer.machine.wants_input() {
                break;
            }
            peer.feed(&bytes);
            peer.machine.poll_transmit(peer.now, &mut out);
        }
        assert!(
            out.len() <= 300_000,
            "{} bytes are queued for a peer that reads nothing",
            out.len()
        );
    }
}

#[test]
fn a12_flood_of_invalid_frames_ends_at_the_first() {
    for one in [
        raw(0, 0, b""),
        raw(4, 0, b""),
        raw(5, 1, b""),
        raw(255, 65_535, b""),
        raw(8, 1, b""),
    ] {
        let mut peer = Peer::open(Options::default());
        peer.feed(&one.repeat(1000));
        assert!(matches!(peer.close_reason(), Error::FrameError(_)));
        assert!(!peer.machine.wants_input());
        assert_eq!(peer.names(), ["0 connection.close"]);
    }
}

#[test]
fn a12_million_heartbeats_do_no_harm() {
    let mut peer = Peer::open(Options::default());
    let many = raw(8, 0, b"").repeat(10_000);
    for _ in 0..100 {
        peer.feed(&many);
    }
    peer.pass(Duration::from_secs(1));
    assert!(peer.names().is_empty() && peer.machine.why_closed().is_none());
}

/// Publishes up to the limit while everything is written at once. Returns the number of publishes.
fn fill(peer: &mut Peer, body: &[u8]) -> u64 {
    for accepted in 0..1000 {
        match peer.machine.publish(&publish("", body)) {
            Ok(_) => drop(peer.serve()),
            Err(Error::Full) => return accepted,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the limit is never reached");
}

#[test]
fn r8_stored_publishes_are_bounded_and_freed_when_confirmed() {
    let options = Options::default()
        .max_outgoing_bytes(10_000)
        .recovery(Recovery::default().republish_unconfirmed(5));
    let mut peer = Peer::dialled(options);
    let body = [7; 1000];
    assert_eq!(fill(&mut peer, &body), 10);
    peer.method(1, &ack(3, false));
    assert_eq!(fill(&mut peer, &body), 1);
    peer.method(1, &ack(6, true));
    assert_eq!(fill(&mut peer, &body), 5);
    peer.reconnect();
    peer.serve();
    assert_eq!(
        fill(&mut peer, &body),
        0,
        "they were republished and are unconfirmed"
    );
    peer.method(1, &ack(0, true));
    assert_eq!(fill(&mut peer, &body), 10);
    peer.pass(Duration::from_secs(60));
    assert_eq!(fill(&mut peer, &body), 10, "they have timed out");
}

/// Returns how many of a hundred calls are accepted.
fn accepted(mut ask: impl FnMut() -> Result<PromiseId, Error>) -> usize {
    (0..100).filter(|_| ask().is_ok()).count()
}

#[test]
fn waiting_transactions_count_among_the_requests() {
    let options = Options::default().max_requests(10).channel_max(1);
    let mut peer = Peer::open(options.clone());
    assert_eq!(
        accepted(|| peer.machine.transaction()),
        11,
        "one has a channel and ten are queued"
    );
    assert!(matches!(
        peer.machine.request(declare("q")),
        Err(Error::Full)
    ));
    assert!(!peer.machine.has_capacity_to_request());
    let mut peer = Peer::open(options.request_channels(1));
    for _ in 0..3 {
        peer.machine.transaction().unwrap();
    }
    assert_eq!(
        accepted(|| peer.machine.request(declare("q"))),
        8,
        "two transactions are queued"
    );
    assert!(matches!(
        peer.machine.consume(&consume("q")),
        Err(Error::Full)
    ));
}

#[test]
fn transactions_begun_without_a_connection_are_bounded() {
    let mut peer = Peer::new(Options::default().max_requests(10));
    assert_eq!(accepted(|| peer.machine.transaction()), 10);
}

#[test]
fn unanswered_requests_on_one_channel_are_bounded() {
    let mut peer = Peer::open(Options::default().max_requests(10));
    let (id, channel, tag) = peer.consumer(&consume("q"));
    peer.pump();
    let machine = &mut peer.machine;
    assert_eq!(accepted(|| machine.cancel(id)), 10);
    assert_eq!(
        accepted(|| machine.update_secret(b"secret", crate::peer::short(""))),
        0
    );
    peer.method(
        channel,
        &basic::CancelOk {
            consumer_tag: crate::peer::short(&tag),
        },
    );
    assert!(peer.machine.has_capacity_to_request());
    let (id, ..) = peer.consumer(&consume("q"));
    let machine = &mut peer.machine;
    let counts = [5, 6].map(|count| accepted(|| machine.qos(id, count)));
    assert_eq!(counts, [10, 0]);
    assert_eq!(accepted(|| machine.recover(id)), 0);
    let mut peer = Peer::open(Options::default().max_requests(10));
    let begun = peer.machine.transaction().unwrap();
    peer.take();
    let ok = [method(1, &channel::OpenOk {}), method(1, &tx::SelectOk {})];
    peer.feed(&ok.concat());
    let Some(Ok(Reply::Transaction(id))) = peer.machine.fetch(begun) else {
        panic!()
    };
    let get = basic::Get {
        queue: crate::peer::short("q"),
        no_ack: false,
    };
    assert_eq!(accepted(|| peer.machine.get_in(id, get)), 10);
    peer.take();
    peer.method(1, &basic::GetEmpty {});
    assert_eq!(accepted(|| peer.machine.get_in(id, get)), 1);
}

#[test]
fn abandoned_connects_are_forgotten() {
    let mut peer = Peer::undialled(Options::default());
    let kept = peer.machine.connect();
    let first = peer.machine.connect();
    peer.machine.abandon(first);
    for _ in 0..10_000 {
        let promise = peer.machine.connect();
        assert!(promise.index() < 64, "its number is reused");
        peer.machine.abandon(promise);
    }
    peer.dial();
    peer.complete_handshake(crate::peer::tune(0, 0, 0));
    assert!(matches!(
        peer.machine.fetch(kept),
        Some(Ok(Reply::Connected(_)))
    ));
    assert!(peer.machine.is_idle());
}

#[test]
fn expired_requests_free_their_bytes() {
    let seconds = Duration::from_secs;
    let options = Options::default()
        .max_outgoing_bytes(10_000)
        .request_timeout(seconds(5))
        .handshake_timeout(seconds(600));
    let mut peer = Peer::new(options);
    let name = "q".repeat(200);
    peer.pump();
    let declares = accepted(|| peer.machine.request(declare(&name)));
    assert!((10..100).contains(&declares));
    peer.pass(seconds(6));
    let consumes = accepted(|| peer.machine.consume(&consume(&name)));
    assert!((10..100).contains(&consumes));
    for _ in 0..3 {
        peer.pass(seconds(6));
        assert_eq!(accepted(|| peer.machine.request(declare(&name))), declares);
        peer.pass(seconds(6));
        assert_eq!(accepted(|| peer.machine.consume(&consume(&name))), consumes);
    }
}

#[test]
fn consumer_that_starts_frees_its_bytes() {
    let options = Options::default()
        .max_outgoing_bytes(10_000)
        .request_channels(2);
    let mut peer = Peer::open_with(options, tune(2, 131_072, 60));
    let name = "q".repeat(200);
    for queue in ["a", "b"] {
        peer.machine.request(declare(queue)).unwrap();
    }
    peer.pump();
    assert!(accepted(|| peer.machine.consume(&consume(&name))) > 10);
    peer.method(1, &channel::OpenOk {});
    let ok = queue::DeclareOk {
        queue: short("a"),
        message_count: 0,
        consumer_count: 0,
    };
    peer.method(1, &ok);
    peer.pump();
    assert_eq!(accepted(|| peer.machine.consume(&consume(&name))), 1);
}

#[test]
fn consumers_waiting_for_a_reconnect_count_once() {
    let mut peer = Peer::undialled(Options::default().max_outgoing_bytes(10_000));
    let name = "q".repeat(200);
    let limit = accepted(|| peer.machine.consume(&consume(&name)));
    assert!((10..100).contains(&limit));
    for _ in 0..2 {
        peer.dial();
        peer.complete_handshake(tune(2047, 131_072, 60));
        peer.pump();
        assert!(peer.machine.has_capacity_to_request());
        // None of them has started, so all of them are pending again.
        peer.machine.handle_loss(Broken::Eof);
        assert_eq!(accepted(|| peer.machine.consume(&consume(&name))), 0);
    }
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
    peer.serve();
    peer.machine.handle_loss(Broken::Eof);
    assert_eq!(accepted(|| peer.machine.consume(&consume(&name))), limit);
}
