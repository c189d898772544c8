//! Losses of a connection at inconvenient moments, as random worlds have found them.

use crate::peer::{Peer, consume, declare, get_ok, publish, shared, short, tune};
use crate::restoring::{ask, serve_naming};
use puka::machine::{ConnectionState, Consume, ConsumerId, Outgoing, Reply};
use puka::protocol::Method;
use puka::protocol::method::{basic, queue};
use puka::{Broken, Error, Options, Recovery};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn dialled(set: impl FnOnce(Recovery) -> Recovery) -> Peer {
    Peer::dialled(Options::default().recovery(set(Recovery::default().seed(7))))
}

/// Advances time while the transport accepts nothing. Returns the number of polls.
fn wait(peer: &mut Peer, time: Duration) -> usize {
    let end = peer.now + time;
    for looks in 0..100 {
        match peer.machine.poll_timeout() {
            Some(at) if at <= end => peer.now = peer.now.max(at),
            _ => return looks,
        }
        peer.machine.handle_timeout(peer.now);
    }
    panic!("the state machine does not become idle");
}

#[test]
fn slow_transport_gets_time_for_the_last_bytes() {
    let mut peer = dialled(|recovery| recovery.backoff(Duration::from_millis(1), SECOND));
    peer.method(0, &crate::peer::close(320, "CONNECTION_FORCED"));
    let mut out = Outgoing::default();
    assert!(peer.machine.poll_transmit(peer.now, &mut out));
    assert!(peer.machine.is_down() && !peer.machine.is_over());
    assert!(wait(&mut peer, SECOND) <= 2, "the dial is not due yet");
    assert!(peer.machine.is_over());
    assert!(peer.machine.poll_dial(peer.now).is_some());
}

#[test]
fn deadline_of_a_lost_recovery_ends_with_it() {
    let mut peer = dialled(|recovery| recovery);
    ask(&mut peer, declare("q"));
    peer.reconnect();
    peer.take();
    assert!(matches!(
        peer.machine.state(),
        ConnectionState::Recovering { .. }
    ));
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.take();
    // A slow broker, within its timeout.
    assert!(wait(&mut peer, Duration::from_secs(9)) < 10);
    assert!(!peer.machine.is_down());
}

#[test]
fn publish_that_is_not_republished_is_unconfirmed() {
    let lost = |set: fn(Recovery) -> Recovery| {
        let mut peer = dialled(|recovery| set(recovery.republish_unconfirmed(3)));
        let published = peer.machine.publish(&publish("", "x")).unwrap();
        peer.take();
        peer.machine.handle_loss(Broken::Eof);
        (peer, published)
    };
    let (mut peer, published) = lost(|recovery| recovery);
    let _closed = peer.machine.close();
    assert!(
        matches!(peer.error(published), Error::Unconfirmed(_)),
        "closed"
    );

    let (mut peer, published) = lost(|recovery| recovery);
    peer.machine.tend(peer.now);
    peer.now += Duration::from_secs(60);
    peer.machine.handle_timeout(peer.now);
    assert!(
        matches!(peer.error(published), Error::Unconfirmed(_)),
        "too late"
    );

    let (mut peer, published) = lost(|recovery| recovery.fail_fast(true));
    assert!(
        matches!(peer.error(published), Error::Unconfirmed(_)),
        "in a busy loop"
    );
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
}

#[test]
fn consumer_ended_by_broker_keeps_no_stale_deliveries() {
    let mut peer = dialled(|recovery| recovery);
    let (consumer, number, tag) = peer.consumer(&consume("q"));
    peer.deliver(number, &tag, 1, b"x");
    peer.method(
        number,
        &basic::Cancel {
            consumer_tag: short(&tag),
            nowait: true,
        },
    );
    peer.reconnect();
    assert!(peer.take_deliveries(consumer).is_empty());
    assert_eq!(
        peer.machine.consumer(consumer).unwrap().lost_deliveries(),
        1
    );
}

#[test]
fn twice_repeated_request_follows_its_renamed_queue() {
    let mut peer = dialled(|recovery| recovery);
    let mut exclusive = declare("");
    exclusive.exclusive = true;
    ask(&mut peer, exclusive);
    let purge = basic::Get {
        queue: short("amq.gen-first"),
        no_ack: false,
    };
    let got = peer.machine.request(purge).unwrap();
    peer.take();
    for name in ["second", "third"] {
        peer.reconnect();
        let sent = serve_naming(&mut peer, name);
        let get = sent.iter().find(|sent| sent.is(basic::Get::ID)).unwrap();
        match get.method() {
            Method::Basic(basic::Method::Get(get)) => {
                assert_eq!(get.queue, short(&format!("amq.gen-{name}")))
            }
            other => panic!("{other:?}"),
        }
        if name == "third" {
            let channel = get.channel;
            peer.content(channel, &get_ok(1), b"x");
        }
    }
    assert!(matches!(
        peer.machine.fetch(got),
        Some(Ok(Reply::Delivery(Some(_))))
    ));
}

/// Returns a connection with a queue that the broker has renamed, and that is consumed under the
/// name that the user knows.
fn consumed_since_it_has_another_name() -> (Peer, ConsumerId, u16, String) {
    let mut peer = dialled(|recovery| recovery);
    let mut unnamed = declare("");
    (unnamed.exclusive, unnamed.auto_delete) = (true, true);
    ask(&mut peer, unnamed);
    peer.reconnect();
    serve_naming(&mut peer, "second");
    let (consumer, channel, tag) = peer.consumer(&consume("amq.gen-first"));
    (peer, consumer, channel, tag)
}

fn declares_again(peer: &mut Peer) -> bool {
    peer.reconnect();
    serve_naming(peer, "third")
        .iter()
        .any(|sent| sent.is(queue::Declare::ID))
}

#[test]
fn queue_deleted_with_its_consumer_is_not_restored() {
    let (mut peer, ..) = consumed_since_it_has_another_name();
    assert!(declares_again(&mut peer), "while it is consumed");
    let (mut peer, consumer, ..) = consumed_since_it_has_another_name();
    peer.machine.cancel(consumer).unwrap();
    peer.serve();
    assert!(!declares_again(&mut peer));
    let (mut peer, _, channel, tag) = consumed_since_it_has_another_name();
    peer.method(
        channel,
        &basic::Cancel {
            consumer_tag: short(&tag),
            nowait: true,
        },
    );
    assert!(!declares_again(&mut peer));
}

#[test]
fn queue_consumed_under_any_name_is_kept() {
    for (first, second) in [
        ("amq.gen-first", "amq.gen-second"),
        ("amq.gen-second", "amq.gen-first"),
    ] {
        let (mut peer, consumer, ..) = consumed_since_it_has_another_name();
        let (other, ..) = peer.consumer(&consume(first));
        peer.consumer(&consume(second));
        for consumer in [consumer, other] {
            peer.machine.cancel(consumer).unwrap();
            peer.serve();
        }
        peer.reconnect();
        let sent = serve_naming(&mut peer, "third");
        let consumed = sent
            .iter()
            .find(|sent| sent.is(basic::Consume::ID))
            .expect("it is consumed again");
        match consumed.method() {
            Method::Basic(basic::Method::Consume(it)) => {
                assert_eq!(it.queue, short("amq.gen-third"))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn dropped_consumer_delays_nothing_during_its_cancel() {
    let mut peer = Peer::open(Options::default().max_buffered_deliveries(2));
    let mut unacked = consume("q");
    unacked.no_ack = true;
    let (consumer, number, tag) = peer.consumer(&unacked);
    (1..=2).for_each(|delivery| peer.deliver(number, &tag, delivery, b"x"));
    assert!(!peer.machine.wants_input());
    let cancelled = peer.machine.cancel(consumer).unwrap();
    assert!(!peer.machine.wants_input(), "they would be lost");
    peer.machine.drop_consumer(consumer);
    assert!(peer.machine.wants_input());
    peer.serve();
    assert!(matches!(
        peer.machine.fetch(cancelled),
        Some(Ok(Reply::Cancelled(_)))
    ));
}

#[test]
fn untaken_deliveries_do_not_prevent_recovery() {
    let options = Options::default()
        .max_buffered_deliveries(2)
        .recovery(Recovery::default().seed(7));
    let mut peer = Peer::dialled(options);
    ask(&mut peer, declare("q"));
    let mut unacked = consume("q");
    unacked.no_ack = true;
    let (consumer, number, tag) = peer.consumer(&unacked);
    // As many as the hard limit, up to which it reads while a reply is pending.
    (1..=8).for_each(|delivery| peer.deliver(number, &tag, delivery, b"x"));
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    assert!(peer.machine.wants_input(), "a handshake has no deliveries");
    peer.complete_handshake(tune(2047, 131_072, 0));
    peer.take();
    assert!(!peer.machine.wants_input());
    peer.pass(Duration::from_secs(600));
    assert!(
        !peer.machine.is_down(),
        "silence while reading is paused does not count"
    );
    assert_eq!(peer.take_deliveries(consumer).len(), 8);
    assert!(peer.machine.wants_input());
    peer.pass(Duration::from_secs(60));
    assert!(peer.machine.is_down(), "silence counts from here on");
}

#[test]
fn prefetch_change_of_a_restarting_consumer_takes_effect() {
    let options = |set: fn(Recovery) -> Recovery| {
        Options::default()
            .max_requests(2)
            .recovery(set(Recovery::default().seed(7)))
    };
    let exclusive = Consume {
        exclusive: true,
        ..consume("q")
    };
    let each: [(&str, Consume<'_>, bool); 2] = [
        ("free", consume("q"), true),
        ("exclusive", exclusive, false),
    ];
    for (name, it, can) in each {
        let mut peer = Peer::dialled(options(|recovery| recovery));
        let (consumer, ..) = peer.consumer(&it);
        peer.reconnect();
        // The consume is in flight when another count is requested, and then no channel is free for
        // a request.
        peer.take();
        let resized = peer.machine.qos(consumer, 7).unwrap();
        let waiting = peer.machine.request(declare("other")).unwrap();
        let number = 1;
        peer.method(number, &puka::protocol::method::channel::OpenOk {});
        peer.method(
            number,
            &basic::ConsumeOk {
                consumer_tag: short("puka.1"),
            },
        );
        let sent = peer.serve();
        assert_eq!(
            sent.iter().any(|sent| sent.is(basic::Qos::ID)),
            can,
            "{name}"
        );
        match peer.machine.fetch(resized) {
            Some(Ok(Reply::Done)) => assert!(can, "{name}"),
            Some(Err(Error::InvalidArgument { .. })) => assert!(!can, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        assert!(matches!(
            peer.machine.fetch(waiting),
            Some(Ok(Reply::Queue(_)))
        ));
    }
}

#[test]
fn shared_prefetch_change_during_a_restart_is_sent() {
    let mut peer = dialled(|recovery| recovery);
    let promise = peer
        .machine
        .consume_multi(&[consume("one"), consume("two")], &shared(5))
        .unwrap();
    peer.serve();
    let Some(Ok(Reply::Consumer(consumer))) = peer.machine.fetch(promise) else {
        panic!("it has not started")
    };
    peer.reconnect();
    let counts = |sent: Vec<crate::peer::Sent>| -> Vec<u16> {
        let each = sent
            .iter()
            .filter(|sent| sent.is(basic::Qos::ID))
            .map(|sent| match sent.method() {
                Method::Basic(basic::Method::Qos(qos)) => qos.prefetch_count,
                other => panic!("{other:?}"),
            });
        each.collect()
    };
    let sent = peer.take();
    let answers: Vec<_> = sent.iter().filter_map(crate::peer::reply_to).collect();
    assert_eq!(counts(sent), [5]);
    let resized = peer.machine.qos(consumer, 9).unwrap();
    answers.iter().for_each(|answer| peer.feed(answer));
    assert_eq!(counts(peer.serve()), [9]);
    peer.expect_done(resized);
}

#[test]
fn queue_is_remembered_while_its_consumer_lives() {
    let mut peer = dialled(|recovery| recovery);
    ask(&mut peer, declare("q"));
    let mut it = consume("q");
    it.prefetch_count = 1;
    let (consumer, number, tag) = peer.consumer(&it);
    let resized = peer.machine.qos(consumer, 3).unwrap();
    peer.serve();
    peer.expect_done(resized);
    // The broker deletes one of the two queues, and the connection is lost before the second is
    // deleted.
    peer.method(
        number,
        &basic::Cancel {
            consumer_tag: short(&tag),
            nowait: true,
        },
    );
    assert!(!peer.has_ended(consumer));
    peer.reconnect();
    assert!(peer.serve().iter().any(|sent| sent.is(queue::Declare::ID)));
}
