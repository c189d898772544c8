//! Dropped promises: their requests are performed, and the results are discarded.

use crate::peer::{Peer, ack, consume, declare, get_ok, method, publish, short, tag_of};
use puka::machine::Reply;
use puka::protocol::method::{basic, channel};
use puka::{Broken, Options};

fn one_channel() -> Peer {
    Peer::open(Options::default().request_channels(1))
}

#[test]
fn v02_abandoned_get_requeues_its_message() {
    // Dropped before the message arrives, and after it arrived without being fetched.
    for after in [false, true] {
        let mut peer = one_channel();
        let promise = peer.get();
        peer.serve();
        if !after {
            peer.machine.abandon(promise);
        }
        peer.content(1, &get_ok(1), b"x");
        if after {
            peer.machine.abandon(promise);
        }
        let sent = peer.take();
        assert_eq!(sent.len(), 1);
        assert_eq!(
            sent[0].payload,
            method(
                1,
                &basic::Nack {
                    delivery_tag: 1,
                    multiple: false,
                    requeue: true
                }
            )[7..20]
        );
        assert!(peer.machine.is_idle());
        let request = peer.machine.request(declare("next")).unwrap();
        peer.serve();
        assert!(
            matches!(peer.machine.fetch(request), Some(Ok(Reply::Queue(_)))),
            "the channel is reused"
        );
    }
}

#[test]
fn v02_abandoned_get_without_ack_rejects_nothing() {
    let mut peer = one_channel();
    let promise = peer
        .machine
        .request(basic::Get {
            queue: short("q"),
            no_ack: true,
        })
        .unwrap();
    peer.serve();
    peer.machine.abandon(promise);
    peer.content(1, &get_ok(1), b"x");
    assert!(peer.names().is_empty() && peer.machine.is_idle());
}

#[test]
fn v02_timed_out_get_requeues_its_message() {
    let mut peer = Peer::open_with(Options::default().heartbeat(0), crate::peer::tune(0, 0, 0));
    let promise = peer.get();
    peer.serve();
    peer.pass(std::time::Duration::from_secs(30));
    peer.error(promise);
    assert_eq!(
        peer.names(),
        ["1 channel.close"],
        "the broker requeues the message when its channel closes"
    );
    peer.content(1, &get_ok(1), b"x");
    let second = peer.get();
    peer.serve();
    peer.machine.abandon(second);
    peer.content(2, &get_ok(1), b"x");
    assert_eq!(peer.names(), ["2 basic.nack"]);
}

#[test]
fn v02_abandoned_consume_is_cancelled_and_requeues_its_deliveries() {
    for after in [false, true] {
        let mut peer = one_channel();
        let promise = peer.machine.consume(&consume("q")).unwrap();
        let tag = tag_of(peer.take().last().unwrap());
        if !after {
            peer.machine.abandon(promise);
        }
        peer.method(1, &channel::OpenOk {});
        peer.method(
            1,
            &basic::ConsumeOk {
                consumer_tag: short(&tag),
            },
        );
        peer.deliver(1, &tag, 1, b"x");
        if after {
            peer.machine.abandon(promise);
        }
        let mut names: Vec<_> = peer.serve().iter().map(|sent| sent.name()).collect();
        names.sort();
        assert_eq!(names, ["1 basic.cancel", "1 basic.nack"]);
        assert!(peer.machine.is_idle());
    }
}

#[test]
fn v02_timed_out_consume_is_cancelled_when_it_starts() {
    let mut peer = Peer::open_with(Options::default().heartbeat(0), crate::peer::tune(0, 0, 0));
    let promise = peer.machine.consume(&consume("q")).unwrap();
    peer.pump();
    peer.pass(std::time::Duration::from_secs(30));
    peer.error(promise);
    let names: Vec<_> = peer.serve().iter().map(|sent| sent.name()).collect();
    assert_eq!(
        names,
        ["1 channel.open", "1 basic.consume", "1 basic.cancel"],
        "no consumer without a reader is left"
    );
    assert!(peer.machine.is_idle());
}

#[test]
fn v02_other_abandoned_requests_are_still_performed() {
    let mut peer = Peer::new(Options::default());
    let connecting = peer.machine.connect();
    peer.machine.abandon(connecting);
    peer.complete_handshake(crate::peer::tune(0, 0, 0));
    let (id, ..) = peer.consumer(&consume("q"));
    let resized = peer.machine.qos(id, 5).unwrap();
    peer.machine.abandon(resized);
    peer.serve();
    let cancelled = peer.machine.cancel(id).unwrap();
    let declared = peer.machine.request(declare("q")).unwrap();
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    for promise in [cancelled, declared, sent] {
        peer.machine.abandon(promise);
    }
    let served = peer.serve();
    let number = served
        .iter()
        .find(|sent| sent.is(basic::Publish::ID))
        .unwrap()
        .channel;
    peer.method(number, &ack(1, false));
    peer.machine.drop_consumer(id);
    assert!(peer.machine.is_idle(), "{:?}", peer.machine);
    let closing = peer.machine.close();
    peer.machine.abandon(closing);
    peer.serve();
    assert!(peer.machine.is_closed() && peer.machine.is_idle());
}

#[test]
fn v02_abandoned_close_leaves_nothing_after_a_loss() {
    let mut peer = Peer::open(Options::default());
    for _ in 0..2 {
        let closing = peer.machine.close();
        peer.machine.abandon(closing);
    }
    peer.names();
    peer.machine.handle_loss(Broken::Eof);
    assert!(peer.machine.is_closed());
    assert!(peer.machine.is_idle(), "{:?}", peer.machine);
}

#[test]
fn v01_promises_complete_once_and_are_fetched_once() {
    let mut peer = one_channel();
    let promise = peer.machine.request(declare("q")).unwrap();
    peer.serve();
    assert!(matches!(
        peer.machine.fetch(promise),
        Some(Ok(Reply::Queue(_)))
    ));
    assert!(peer.machine.fetch(promise).is_none());
    peer.machine.abandon(promise);
    peer.machine.handle_loss(Broken::Eof);
    assert!(peer.machine.fetch(promise).is_none());
}

#[test]
fn v02_reused_promise_numbers_do_not_mix_up_results() {
    let mut peer = one_channel();
    let old = peer.machine.request(declare("old")).unwrap();
    peer.serve();
    peer.machine.fetch(old);
    let new = (0..3)
        .map(|_| peer.machine.request(declare("new")).unwrap())
        .find(|new| new.index() == old.index());
    let new = new.expect("the number is reused");
    assert!(peer.machine.fetch(old).is_none());
    peer.machine.abandon(old);
    peer.serve();
    assert!(matches!(peer.machine.fetch(new), Some(Ok(Reply::Queue(_)))));
}

#[test]
fn unfetched_consumer_does_not_stop_reading() {
    let mut peer = Peer::open(Options::default().max_buffered_deliveries(2));
    let promise = peer.machine.consume(&consume("q")).unwrap();
    let sent = peer.serve();
    let started = sent
        .iter()
        .find(|sent| sent.is(basic::Consume::ID))
        .unwrap();
    let (channel, tag) = (started.channel, tag_of(started));
    (1..=2).for_each(|number| peer.deliver(channel, &tag, number, b"x"));
    assert!(!peer.machine.wants_input());
    peer.machine.abandon(promise);
    assert!(peer.machine.wants_input(), "nothing buffered is left");
}
