//! Brokers that close the connection or a channel at a limit for consumers, prefetch counts or
//! channels.

use crate::peer::{Peer, close, consume, declare, publish, raw, reply_to, shared, tune};
use crate::reports::SECOND;
use crate::restoring::dialled;
use puka::machine::{ConnectionState, Consume, ConsumerId, PromiseId, Reply};
use puka::protocol::Method;
use puka::protocol::method::{basic, channel, connection, tx};
use puka::{Broken, Error};
use std::collections::{BTreeMap, BTreeSet};

/// A broker that closes the connection when a channel has more than `most` consumers.
#[derive(Debug, Default)]
struct Limited {
    most: usize,
    consumers: BTreeMap<u16, usize>,
    consumes: Vec<(String, u16)>,
    closes: usize,
}

impl Limited {
    fn new(most: usize) -> Self {
        Self {
            most,
            ..Self::default()
        }
    }

    /// Replies until nothing more is written, and lets the client connect again.
    fn serve(&mut self, peer: &mut Peer) {
        let mut prefetch_count = BTreeMap::new();
        loop {
            let sent = peer.take();
            if sent.is_empty() {
                return;
            }
            for one in sent {
                if one.is(basic::Consume::ID) {
                    let count = self.consumers.entry(one.channel).or_default();
                    *count += 1;
                    if *count > self.most {
                        self.refuse(peer);
                        prefetch_count.clear();
                        break;
                    }
                    let Method::Basic(basic::Method::Consume(it)) = one.method() else {
                        panic!()
                    };
                    let prefetch = prefetch_count.get(&one.channel).copied().unwrap_or(0);
                    self.consumes.push((it.queue.to_string(), prefetch));
                } else if one.is(basic::Cancel::ID) {
                    *self.consumers.entry(one.channel).or_default() -= 1;
                } else if one.is(channel::Close::ID) || one.is(channel::Open::ID) {
                    self.consumers.remove(&one.channel);
                } else if one.is(basic::Qos::ID) {
                    let Method::Basic(basic::Method::Qos(it)) = one.method() else {
                        panic!()
                    };
                    prefetch_count.insert(one.channel, it.prefetch_count);
                }
                if let Some(answer) = reply_to(&one) {
                    peer.feed(&answer);
                }
            }
        }
    }

    fn refuse(&mut self, peer: &mut Peer) {
        self.closes += 1;
        assert!(self.closes < 20, "it is repeated for ever");
        let over = close(
            530,
            "NOT_ALLOWED - reached maximum of consumers per channel",
        );
        peer.method(
            0,
            &connection::Close {
                class_id: 60,
                method_id: 20,
                ..over
            },
        );
        self.reconnect(peer);
    }

    fn reconnect(&mut self, peer: &mut Peer) {
        peer.pump();
        peer.dial();
        peer.complete_handshake(tune(2047, 131_072, 60));
        self.consumers.clear();
        self.consumes.clear();
    }
}

pub(crate) fn several(peer: &mut Peer, queues: &[&str]) -> PromiseId {
    let queues: Vec<Consume<'_>> = queues.iter().map(|queue| consume(queue)).collect();
    peer.machine.consume_multi(&queues, &shared(10)).unwrap()
}

pub(crate) fn started(peer: &mut Peer, promise: PromiseId) -> ConsumerId {
    match peer.machine.fetch(promise) {
        Some(Ok(Reply::Consumer(id))) => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn consume_of_too_many_queues_fails_alone() {
    let mut peer = dialled();
    let mut broker = Limited::new(2);
    let (one, ..) = peer.consumer(&consume("a"));
    let too_many = several(&mut peer, &["b", "c", "d"]);
    broker.serve(&mut peer);
    let error = peer.error(too_many);
    assert!(matches!(error, Error::NotAllowed(_)), "{error:?}");
    assert!(!peer.has_ended(one));
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    for _ in 0..1000 {
        peer.feed(&raw(8, 0, b""));
        peer.pass(10 * SECOND);
        broker.serve(&mut peer);
    }
    assert_eq!(broker.closes, 1);
    assert_eq!(broker.consumes, [("a".to_owned(), 0)]);
}

#[test]
fn refused_resize_leaves_the_prefetch_count() {
    for count in [5, 20] {
        let mut peer = dialled();
        let mut broker = Limited::new(1);
        let (one, ..) = peer.consumer(&Consume {
            prefetch_count: 10,
            ..consume("a")
        });
        broker.consumers.insert(1, 1);
        let resized = peer.machine.qos(one, count).unwrap();
        broker.serve(&mut peer);
        let error = peer.error(resized);
        assert!(matches!(error, Error::NotAllowed(_)), "{error:?}");
        assert!(
            !peer.has_ended(one),
            "{:?}",
            peer.machine.consumer(one).and_then(|it| it.ended())
        );
        assert_eq!(broker.closes, 1);
        assert_eq!(broker.consumes, [("a".to_owned(), 10)]);
    }
}

#[test]
fn consumers_beyond_a_lowered_limit_end() {
    let mut peer = dialled();
    let mut broker = Limited::new(3);
    let many = several(&mut peer, &["b", "c", "d"]);
    let others = several(&mut peer, &["e", "f", "g"]);
    broker.serve(&mut peer);
    let (many, others) = (started(&mut peer, many), started(&mut peer, others));
    let single = ["a", "h"].map(|name| peer.consumer(&consume(name)).0);
    broker.most = 2;
    peer.machine.handle_loss(Broken::Eof);
    broker.reconnect(&mut peer);
    broker.serve(&mut peer);
    for _ in 0..1000 {
        peer.feed(&raw(8, 0, b""));
        peer.pass(10 * SECOND);
        broker.serve(&mut peer);
    }
    assert!(single.iter().all(|id| { !peer.has_ended(*id) }));
    assert!(peer.has_ended(many) && peer.has_ended(others));
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    // Together at first, then one at a time.
    assert_eq!(broker.closes, 3);
}

#[test]
fn call_without_its_reply_consumer_fails_once() {
    for count in [1, 3] {
        let mut peer = dialled();
        let mut broker = Limited::new(0);
        let calls: Vec<_> = (0..count)
            .map(|_| peer.machine.call(&publish("", "12"), None).unwrap())
            .collect();
        broker.serve(&mut peer);
        for _ in 0..100 {
            peer.feed(&raw(8, 0, b""));
            peer.pass(SECOND);
            broker.serve(&mut peer);
        }
        for call in calls {
            let error = peer.error(call);
            assert!(matches!(error, Error::Unconfirmed(_)), "{error:?}");
        }
        assert_eq!(broker.closes, 1);
    }
}

#[test]
fn resize_refused_after_a_loss_is_undone() {
    let mut peer = dialled();
    let mut broker = Limited::new(1);
    let (one, ..) = peer.consumer(&Consume {
        prefetch_count: 10,
        ..consume("a")
    });
    peer.machine.handle_loss(Broken::Eof);
    broker.reconnect(&mut peer);
    let sent = peer.take();
    let resized = peer.machine.qos(one, 20).unwrap();
    for it in sent {
        if it.is(basic::Consume::ID) {
            broker.consumers.insert(it.channel, 1);
        }
        peer.feed(&reply_to(&it).unwrap_or_default());
    }
    broker.serve(&mut peer);
    for _ in 0..100 {
        peer.feed(&raw(8, 0, b""));
        peer.pass(SECOND);
        broker.serve(&mut peer);
    }
    assert!(matches!(peer.error(resized), Error::NotAllowed(_)));
    assert!(!peer.has_ended(one));
    assert_eq!(broker.closes, 1);
    assert_eq!(broker.consumes, [("a".to_owned(), 10)]);
}

/// Closes the connection over `channel.open`, by name or not, and lets the client connect again.
fn refuse_channel(peer: &mut Peer, is_named: bool) {
    let (class_id, method_id) = if is_named { (20, 10) } else { (0, 0) };
    let over = close(
        530,
        "NOT_ALLOWED - number of channels opened has reached the limit",
    );
    peer.method(
        0,
        &connection::Close {
            class_id,
            method_id,
            ..over
        },
    );
    peer.pump();
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
}

/// Replies as a broker does that lets a user open only `most` channels. Returns the number of
/// closes.
fn serve_few_channels(peer: &mut Peer, most: usize, is_named: bool) -> usize {
    let mut closes = 0;
    let mut open = BTreeSet::new();
    for _ in 0..100 {
        for one in peer.take() {
            if one.is(channel::Open::ID) {
                open.insert(one.channel);
                if open.len() > most {
                    closes += 1;
                    open.clear();
                    refuse_channel(peer, is_named);
                    break;
                }
            } else if one.is(channel::Close::ID) {
                open.remove(&one.channel);
            } else if one.is(tx::Select::ID) {
                peer.method(one.channel, &tx::SelectOk {});
            }
            peer.feed(&reply_to(&one).unwrap_or_default());
        }
    }
    closes
}

#[test]
fn requests_of_a_refused_channel_fail_once() {
    for is_named in [false, true] {
        for what in 0..4 {
            let mut peer = dialled();
            let ids = ["a", "b", "c"].map(|queue| peer.consumer(&consume(queue)).0);
            let promise = match what {
                0 => peer.machine.publish(&publish("", "x")),
                1 => peer.machine.request(declare("q")),
                2 => peer.machine.consume(&consume("d")),
                _ => peer.machine.transaction(),
            };
            let promise = promise.unwrap();
            assert!(peer.take().iter().any(|it| it.is(channel::Open::ID)));
            refuse_channel(&mut peer, is_named);
            assert_eq!(
                serve_few_channels(&mut peer, 3, is_named),
                0,
                "{is_named} {what}"
            );
            let error = peer.error(promise);
            assert!(matches!(error, Error::ChannelLimit), "{what} {error:?}");
            assert!(ids.iter().all(|id| { !peer.has_ended(*id) }));
            assert!(matches!(peer.machine.state(), ConnectionState::Open));
        }
    }
}

#[test]
fn requests_sharing_a_refused_channel_are_retried_separately() {
    for is_named in [false, true] {
        let mut peer = dialled();
        let ids = ["a", "b"].map(|queue| peer.consumer(&consume(queue)).0);
        let begun = [
            peer.machine.transaction().unwrap(),
            peer.machine.transaction().unwrap(),
        ];
        let declared = peer.machine.request(declare("q")).unwrap();
        peer.take();
        refuse_channel(&mut peer, is_named);
        let closes = serve_few_channels(&mut peer, 4, is_named);
        let outcomes = [begun[0], begun[1], declared].map(|promise| peer.machine.fetch(promise));
        let done = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Some(Ok(_))))
            .count();
        let refused = |outcome: &&Option<_>| matches!(outcome, Some(Err(Error::ChannelLimit)));
        assert_eq!(
            (done, outcomes.iter().filter(refused).count(), closes),
            (2, 1, 1),
            "{outcomes:?}"
        );
        assert!(ids.iter().all(|id| { !peer.has_ended(*id) }));
    }
}
