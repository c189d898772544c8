//! What happens when a connection is lost at an awkward moment, as random worlds have found it.

use crate::peer::{Peer, consume, declare, get_ok, publish, short, tune};
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

/// Time passes while the machine has a transport that takes nothing. Gives how often somebody had
/// to look.
fn wait(peer: &mut Peer, time: Duration) -> usize {
    let end = peer.now + time;
    for looks in 0..100 {
        match peer.machine.poll_timeout() {
            Some(at) if at <= end => peer.now = peer.now.max(at),
            _ => return looks,
        }
        peer.machine.handle_timeout(peer.now);
    }
    panic!("nothing comes to rest");
}

#[test]
fn a_transport_that_does_not_take_the_last_octets_is_waited_for_without_haste() {
    let mut peer = dialled(|recovery| recovery.backoff(Duration::from_millis(1), SECOND));
    peer.method(0, &crate::peer::close(320, "CONNECTION_FORCED"));
    let mut out = Outgoing::default();
    assert!(peer.machine.poll_transmit(peer.now, &mut out));
    assert!(peer.machine.is_down() && !peer.machine.is_over());
    assert!(
        wait(&mut peer, SECOND) <= 2,
        "the time to dial is not to be looked at yet"
    );
    assert!(peer.machine.is_over());
    assert!(peer.machine.poll_dial(peer.now).is_some());
}

#[test]
fn a_deadline_of_a_recovery_that_was_lost_does_not_count_for_the_next() {
    let mut peer = dialled(|recovery| recovery);
    ask(&mut peer, declare("q"));
    peer.again();
    peer.take();
    assert!(matches!(
        peer.machine.state(),
        ConnectionState::Recovering { .. }
    ));
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.take();
    // A broker that takes its time, though less than it may.
    assert!(wait(&mut peer, Duration::from_secs(9)) < 10);
    assert!(!peer.machine.is_down());
}

#[test]
fn what_was_published_before_and_is_not_sent_again_is_unconfirmed() {
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
        "in haste"
    );
    peer.dial();
    peer.shake_hands(tune(2047, 131_072, 60));
}

#[test]
fn what_the_broker_ended_keeps_no_deliveries_of_a_connection_that_went() {
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
    peer.again();
    assert!(peer.taken(consumer).is_empty());
    assert_eq!(
        peer.machine.consumer(consumer).unwrap().lost_deliveries(),
        1
    );
}

#[test]
fn a_request_that_is_asked_twice_more_finds_its_queue_under_each_name() {
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
        peer.again();
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

/// A queue that the broker has named anew, and that is consumed since then by the name that the
/// user knows.
fn consumed_since_it_has_another_name() -> (Peer, ConsumerId, u16, String) {
    let mut peer = dialled(|recovery| recovery);
    let mut unnamed = declare("");
    (unnamed.exclusive, unnamed.auto_delete) = (true, true);
    ask(&mut peer, unnamed);
    peer.again();
    serve_naming(&mut peer, "second");
    let (consumer, channel, tag) = peer.consumer(&consume("amq.gen-first"));
    (peer, consumer, channel, tag)
}

fn declares_again(peer: &mut Peer) -> bool {
    peer.again();
    serve_naming(peer, "third")
        .iter()
        .any(|sent| sent.is(queue::Declare::ID))
}

#[test]
fn a_queue_that_goes_with_its_consumer_does_not_come_back_under_another_name() {
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
fn a_queue_stays_while_it_is_consumed_under_one_of_its_names() {
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
        peer.again();
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
fn a_dropped_consumer_holds_up_nobody_while_it_is_being_cancelled() {
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
fn deliveries_that_nobody_takes_do_not_keep_a_connection_from_coming_back() {
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
    assert!(
        peer.machine.wants_input(),
        "there are no deliveries in a handshake"
    );
    peer.shake_hands(tune(2047, 131_072, 0));
    peer.take();
    assert!(!peer.machine.wants_input());
    peer.pass(Duration::from_secs(600));
    assert!(!peer.machine.is_down(), "the broker can't be blamed");
    assert_eq!(peer.taken(consumer).len(), 8);
    assert!(peer.machine.wants_input());
    peer.pass(Duration::from_secs(60));
    assert!(peer.machine.is_down(), "from here on it can");
}

#[test]
fn another_prefetch_count_for_a_consumer_that_is_starting_again_is_dealt_with() {
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
        peer.again();
        // It is on its way when another count is asked for, and then there is no room for a
        // request.
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
fn a_shared_prefetch_count_that_changes_while_a_consumer_starts_again_is_sent() {
    let mut peer = dialled(|recovery| recovery);
    let promise = peer
        .machine
        .consume_multi(&[consume("one"), consume("two")], 5, false)
        .unwrap();
    peer.serve();
    let Some(Ok(Reply::Consumer(consumer))) = peer.machine.fetch(promise) else {
        panic!("it has not started")
    };
    peer.again();
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
    let answers: Vec<_> = sent.iter().filter_map(crate::peer::answer).collect();
    assert_eq!(counts(sent), [5]);
    let resized = peer.machine.qos(consumer, 9).unwrap();
    answers.iter().for_each(|answer| peer.feed(answer));
    assert_eq!(counts(peer.serve()), [9]);
    peer.done(resized);
}

#[test]
fn a_queue_is_not_forgotten_while_a_part_of_its_consumer_lives() {
    let mut peer = dialled(|recovery| recovery);
    ask(&mut peer, declare("q"));
    let mut it = consume("q");
    it.prefetch_count = 1;
    let (consumer, number, tag) = peer.consumer(&it);
    let resized = peer.machine.qos(consumer, 3).unwrap();
    peer.serve();
    peer.done(resized);
    // The first of the two that the broker knows of goes, and before the second does the
    // connection.
    peer.method(
        number,
        &basic::Cancel {
            consumer_tag: short(&tag),
            nowait: true,
        },
    );
    assert!(
        peer.machine
            .consumer(consumer)
            .and_then(|it| it.ended())
            .is_none()
    );
    peer.again();
    assert!(peer.serve().iter().any(|sent| sent.is(queue::Declare::ID)));
}
