//! Changing the prefetch count of a live consumer, for which the broker sees consumers start and
//! end.

use crate::peer::{Peer, Sent, consume, reply_to, tag_of};
use puka::machine::{Consume, ConsumerId, Reply};
use puka::protocol::method::basic;
use puka::protocol::{FrameKind, Method, Table};
use puka::{Ended, Error, Options};
use std::collections::BTreeMap;

/// A broker: the prefetch count of each consumer.
#[derive(Default, Debug)]
struct Broker {
    prefetch_count: u16,
    consumers: BTreeMap<String, u16>,
    unanswered: Vec<Vec<u8>>,
    /// Consumes without a reply.
    starting: Vec<String>,
}

impl Broker {
    fn read(&mut self, sent: &[Sent]) {
        for one in sent.iter().filter(|sent| sent.kind == FrameKind::Method) {
            match one.method() {
                Method::Basic(basic::Method::Qos(qos)) => self.prefetch_count = qos.prefetch_count,
                Method::Basic(basic::Method::Consume(_)) => {
                    self.consumers.insert(tag_of(one), self.prefetch_count);
                    self.starting.push(tag_of(one));
                }
                Method::Basic(basic::Method::Cancel(_)) => {
                    let tag = tag_of(one);
                    assert!(
                        !self.starting.contains(&tag),
                        "a cancel right behind its consume closes the connection"
                    );
                    self.consumers.remove(&tag);
                }
                _ => {}
            }
            self.unanswered.extend(reply_to(one));
        }
    }

    fn reply_to(&mut self, peer: &mut Peer) {
        self.starting.clear();
        std::mem::take(&mut self.unanswered)
            .iter()
            .for_each(|bytes| peer.feed(bytes));
    }

    fn settle(&mut self, peer: &mut Peer) {
        loop {
            self.read(&peer.take());
            if self.unanswered.is_empty() {
                return;
            }
            self.reply_to(peer);
        }
    }

    fn total(&self) -> u16 {
        self.consumers.values().sum()
    }
}

fn consumer(prefetch_count: u16) -> (Peer, Broker, ConsumerId) {
    let mut peer = Peer::open(Options::default());
    let mut broker = Broker::default();
    let promise = peer
        .machine
        .consume(&Consume {
            prefetch_count,
            ..consume("q")
        })
        .unwrap();
    broker.settle(&mut peer);
    let Some(Ok(Reply::Consumer(id))) = peer.machine.fetch(promise) else {
        panic!("it has started")
    };
    assert_eq!(broker.total(), prefetch_count);
    (peer, broker, id)
}

#[test]
fn e46_prefetch_count_is_raised_lowered_and_lifted() {
    let (mut peer, mut broker, id) = consumer(10);
    for prefetch_count in [20, 15, 15, 1, 100, 0, 7] {
        let resized = peer.machine.qos(id, prefetch_count).unwrap();
        broker.settle(&mut peer);
        peer.expect_done(resized);
        assert_eq!(broker.total(), prefetch_count);
        assert!(prefetch_count != 0 || broker.consumers.len() == 1);
        let unlimited = broker
            .consumers
            .values()
            .filter(|count| **count == 0)
            .count();
        assert_eq!(unlimited, usize::from(prefetch_count == 0));
    }
    let tag = broker.consumers.keys().next().unwrap().clone();
    peer.deliver(1, &tag, 1, b"x");
    assert_eq!(peer.take_deliveries(id).len(), 1);
    let _cancelled = peer.machine.cancel(id).unwrap();
    broker.settle(&mut peer);
    assert!(broker.consumers.is_empty());
    assert!(matches!(
        peer.machine.consumer(id).and_then(|it| it.ended()),
        Some(Ended::Cancelled)
    ));
}

#[test]
fn e46_last_of_two_concurrent_changes_holds() {
    for (first, second) in [(5, 20), (5, 3), (5, 12), (20, 30), (20, 5), (0, 5), (20, 0)] {
        let (mut peer, mut broker, id) = consumer(10);
        let resized = [
            peer.machine.qos(id, first).unwrap(),
            peer.machine.qos(id, second).unwrap(),
        ];
        broker.settle(&mut peer);
        resized
            .into_iter()
            .for_each(|promise| peer.expect_done(promise));
        assert_eq!(
            broker.total(),
            second,
            "10, then {first}, then {second}: {broker:?}"
        );
        assert!(second != 0 || broker.consumers.len() == 1, "{broker:?}");
    }
}

#[test]
fn consumer_delivers_until_its_last_change_has_started() {
    let (mut peer, _, id) = consumer(10);
    let _changes = [5, 3].map(|prefetch_count| peer.machine.qos(id, prefetch_count).unwrap());
    let sent = peer.take();
    let (first, second) = sent.split_at(sent.len() / 2);
    first
        .iter()
        .filter_map(reply_to)
        .for_each(|bytes| peer.feed(&bytes));
    assert!(peer.take().is_empty(), "the second change has not started");
    second
        .iter()
        .filter_map(reply_to)
        .for_each(|bytes| peer.feed(&bytes));
    assert_eq!(
        peer.take()
            .iter()
            .filter(|sent| sent.is(basic::Cancel::ID))
            .count(),
        2
    );
}

#[test]
fn e43_cancel_waits_for_consume_ok_of_a_change() {
    for prefetch_count in [5, 20] {
        let (mut peer, mut broker, id) = consumer(10);
        let _resized = peer.machine.qos(id, prefetch_count).unwrap();
        let _cancelled = peer.machine.cancel(id).unwrap();
        broker.settle(&mut peer);
        assert!(broker.consumers.is_empty(), "{broker:?}");
        assert!(matches!(
            peer.machine.consumer(id).and_then(|it| it.ended()),
            Some(Ended::Cancelled)
        ));
    }
}

#[test]
fn e43_consumer_dropped_during_a_change_leaves_nothing() {
    let (mut peer, mut broker, id) = consumer(10);
    let resized = peer.machine.qos(id, 20).unwrap();
    peer.machine.abandon(resized);
    peer.machine.drop_consumer(id);
    broker.settle(&mut peer);
    assert!(broker.consumers.is_empty(), "{broker:?}");
    assert!(peer.machine.is_idle());
}

#[test]
fn e42_server_cancel_during_a_change_keeps_new_tag() {
    let (mut peer, mut broker, id) = consumer(10);
    let old = broker.consumers.keys().next().unwrap().clone();
    let resized = peer.machine.qos(id, 5).unwrap();
    broker.read(&peer.take());
    peer.method(
        1,
        &basic::Cancel {
            consumer_tag: crate::peer::short(&old),
            nowait: true,
        },
    );
    broker.consumers.remove(&old);
    assert!(!peer.has_ended(id));
    broker.reply_to(&mut peer);
    broker.settle(&mut peer);
    peer.expect_done(resized);
    assert_eq!(broker.total(), 5);
}

#[test]
fn exclusive_and_ended_consumers_cannot_be_resized() {
    let mut peer = Peer::open(Options::default());
    let (id, ..) = peer.consumer(&Consume {
        exclusive: true,
        prefetch_count: 5,
        ..consume("q")
    });
    assert!(matches!(
        peer.machine.qos(id, 6),
        Err(Error::InvalidArgument { .. })
    ));
    let mut arguments = Table::new();
    arguments.insert("x-stream-offset", "first").unwrap();
    let (stream, ..) = peer.consumer(&Consume {
        arguments: arguments.as_ref(),
        prefetch_count: 5,
        ..consume("stream")
    });
    for count in [4, 6] {
        assert!(matches!(
            peer.machine.qos(stream, count),
            Err(Error::InvalidArgument { .. })
        ));
    }
    let same = peer.machine.qos(stream, 5).unwrap();
    peer.expect_done(same);
    let same = peer.machine.qos(id, 5).unwrap();
    peer.expect_done(same);
    let _cancelled = peer.machine.cancel(id).unwrap();
    assert!(matches!(peer.machine.qos(id, 6), Err(Error::Stale)));
    assert_eq!(peer.serve().len(), 1);
}
