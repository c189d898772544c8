//! Brokers that close the connection over a `channel.open`, because a user has too many channels.

use crate::peer::{
    Peer, ack, channel_close, close, consume, declare, publish, raw, reply_to, short, tune,
};
use puka::machine::{ConnectionState, ConsumerId, Ended, ListenerId, Notice, PromiseId, Reply};
use puka::protocol::method::{basic, channel, connection, queue, tx};
use puka::{Broken, Error, Options, Recovery};
use std::collections::BTreeMap;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

const USER: &str = "NOT_ALLOWED - number of channels opened for user 'u' has reached the maximum \
                    allowed limit of (6)";

/// A broker with a limit of channels.
struct Broker {
    /// How many channels this client may have now.
    most: usize,
    text: &'static str,
    names_method: bool,
    /// Another connection locks every queue.
    is_locked: bool,
    /// The open channels, each with its number of publishes.
    open: BTreeMap<u16, u64>,
    closes: usize,
    opened: usize,
}

impl Broker {
    fn new(most: usize) -> Self {
        Self {
            most,
            text: USER,
            names_method: false,
            is_locked: false,
            open: BTreeMap::new(),
            closes: 0,
            opened: 0,
        }
    }

    /// Replies until nothing more is written, and lets the client connect again.
    fn serve(&mut self, peer: &mut Peer) {
        loop {
            let sent = peer.take();
            if sent.is_empty() {
                return;
            }
            for one in sent {
                if one.is(channel::Open::ID) {
                    if self.open.len() >= self.most {
                        self.refuse(peer);
                        break;
                    }
                    self.opened += 1;
                    self.open.insert(one.channel, 0);
                } else if one.is(queue::Declare::ID) && self.is_locked {
                    self.open.remove(&one.channel);
                    peer.method(one.channel, &channel_close(405, "RESOURCE_LOCKED"));
                    continue;
                } else if one.is(channel::Close::ID) {
                    self.open.remove(&one.channel);
                } else if one.is(basic::Publish::ID) {
                    let count = self.open.get_mut(&one.channel).unwrap();
                    *count += 1;
                    peer.method(one.channel, &ack(*count, false));
                } else if one.is(tx::Select::ID) {
                    peer.method(one.channel, &tx::SelectOk {});
                }
                if let Some(answer) = reply_to(&one) {
                    peer.feed(&answer);
                }
            }
        }
    }

    fn refuse(&mut self, peer: &mut Peer) {
        self.closes += 1;
        let (class_id, method_id) = if self.names_method { (20, 10) } else { (0, 0) };
        let close = connection::Close {
            class_id,
            method_id,
            ..close(530, self.text)
        };
        peer.method(0, &close);
        self.reconnect(peer);
    }

    fn reconnect(&mut self, peer: &mut Peer) {
        peer.pump();
        peer.dial();
        peer.complete_handshake(tune(2047, 131_072, 60));
        self.open.clear();
    }

    /// Loses the transport. The broker has not noticed that, so the channels still count.
    fn lose_silently(&mut self, peer: &mut Peer) {
        self.most -= self.open.len();
        peer.machine.handle_loss(Broken::Eof);
        self.reconnect(peer);
        self.serve(peer);
    }

    /// Advances time by seconds, with heartbeats of the broker.
    fn pass(&mut self, peer: &mut Peer, seconds: u32) {
        for _ in 0..10 * seconds {
            peer.feed(&raw(8, 0, b""));
            peer.pass(SECOND / 10);
            self.serve(peer);
        }
    }
}

fn dialled() -> Peer {
    Peer::dialled(Options::default().recovery(Recovery::default().seed(7)))
}

fn consumers(peer: &mut Peer, broker: &mut Broker, count: usize) -> Vec<ConsumerId> {
    let start = |_| {
        let promise = peer.machine.consume(&consume("q")).unwrap();
        broker.serve(peer);
        started(peer, promise)
    };
    (0..count).map(start).collect()
}

fn started(peer: &mut Peer, promise: PromiseId) -> ConsumerId {
    match peer.machine.fetch(promise) {
        Some(Ok(Reply::Consumer(id))) => id,
        other => panic!("{other:?}"),
    }
}

fn is_channel_limit(peer: &mut Peer, promise: PromiseId) -> bool {
    matches!(peer.error(promise), Error::ChannelLimit)
}

fn is_open(peer: &Peer) -> bool {
    matches!(peer.machine.state(), ConnectionState::Open)
}

fn declares(peer: &mut Peer, broker: &mut Broker) {
    let declared = peer.machine.request(declare("q")).unwrap();
    broker.serve(peer);
    assert!(matches!(
        peer.machine.fetch(declared),
        Some(Ok(Reply::Queue(_)))
    ));
}

fn publishes(peer: &mut Peer, broker: &mut Broker) {
    let published = peer.machine.publish(&publish("", "m")).unwrap();
    broker.serve(peer);
    peer.expect_done(published);
}

#[test]
fn consumer_beyond_the_limit_fails_alone() {
    for (text, names_method) in [
        (USER, false),
        (
            "NOT_ALLOWED - number of channels opened (6) has reached the negotiated ..",
            false,
        ),
        ("no more channels", true),
    ] {
        let (mut peer, mut broker) = (dialled(), Broker::new(6));
        (broker.text, broker.names_method) = (text, names_method);
        declares(&mut peer, &mut broker);
        publishes(&mut peer, &mut broker);
        let ids = consumers(&mut peer, &mut broker, 4);
        let refused = peer.machine.consume(&consume("q")).unwrap();
        broker.serve(&mut peer);
        assert!(is_channel_limit(&mut peer, refused), "{text}");
        assert!(is_open(&peer) && ids.iter().all(|id| !peer.has_ended(*id)));
        declares(&mut peer, &mut broker);
        publishes(&mut peer, &mut broker);
        broker.pass(&mut peer, 1);
        assert_eq!(broker.closes, 1, "it is not repeated");
    }
}

#[test]
fn consumers_keep_all_channels_that_they_had() {
    let (mut peer, mut broker) = (dialled(), Broker::new(6));
    let ids = consumers(&mut peer, &mut broker, 6);
    let refused = peer.machine.publish(&publish("", "m")).unwrap();
    broker.serve(&mut peer);
    assert!(is_channel_limit(&mut peer, refused));
    assert!(is_open(&peer) && ids.iter().all(|id| !peer.has_ended(*id)));
    // Nothing has a channel for these, so they fail at once and close nothing.
    for promise in [
        peer.machine.publish(&publish("", "m")).unwrap(),
        peer.machine.request(declare("q")).unwrap(),
        peer.machine.consume(&consume("q")).unwrap(),
        peer.machine.transaction().unwrap(),
    ] {
        broker.serve(&mut peer);
        assert!(is_channel_limit(&mut peer, promise));
    }
    assert_eq!((broker.closes, broker.open.len()), (1, 6));
    peer.machine.cancel(ids[0]).unwrap();
    broker.serve(&mut peer);
    declares(&mut peer, &mut broker);
    publishes(&mut peer, &mut broker);
    assert_eq!(broker.closes, 1);
}

#[test]
fn refused_request_or_transaction_fails_alone() {
    for transacts in [false, true] {
        let (mut peer, mut broker) = (dialled(), Broker::new(2));
        let ids = consumers(&mut peer, &mut broker, 2);
        let refused = match transacts {
            true => peer.machine.transaction().unwrap(),
            false => peer
                .machine
                .request(queue::Purge {
                    queue: short("q"),
                    nowait: false,
                })
                .unwrap(),
        };
        broker.serve(&mut peer);
        assert!(is_channel_limit(&mut peer, refused), "{transacts}");
        assert!(is_open(&peer) && ids.iter().all(|id| !peer.has_ended(*id)));
        assert_eq!(broker.closes, 1);
    }
}

#[test]
fn simultaneous_consumers_fill_the_limit_exactly() {
    let (mut peer, mut broker) = (dialled(), Broker::new(6));
    let promises: Vec<_> = (0..9)
        .map(|_| peer.machine.consume(&consume("q")).unwrap())
        .collect();
    broker.serve(&mut peer);
    // The first close does not show which of nine is refused, and the second does.
    assert_eq!(broker.closes, 2);
    let outcomes: Vec<_> = promises
        .into_iter()
        .map(|promise| match peer.machine.fetch(promise) {
            Some(Ok(Reply::Consumer(id))) => !peer.has_ended(id),
            Some(Err(Error::ChannelLimit)) => false,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        outcomes.iter().filter(|lives| **lives).count(),
        6,
        "{outcomes:?}"
    );
    assert!(is_open(&peer));
}

/// Returns a client that has declared a queue, with four consumers, and its broker.
fn with_four() -> (Peer, Broker, Vec<ConsumerId>, ListenerId) {
    let (mut peer, mut broker) = (dialled(), Broker::new(6));
    declares(&mut peer, &mut broker);
    let ids = consumers(&mut peer, &mut broker, 4);
    let listener = peer.machine.listen();
    (peer, broker, ids, listener)
}

/// Returns the numbers of consumers that were restored with recoveries and afterwards.
fn restored(peer: &mut Peer, listener: ListenerId) -> (usize, usize) {
    let (mut with, mut after) = (0, 0);
    while let Some(notice) = peer.machine.take_notice(listener) {
        match notice {
            Notice::Recovered(report) => {
                assert_eq!(report.entities, 1, "{report:?}");
                with = report.consumers;
            }
            Notice::ConsumerRestored(_) => after += 1,
            _ => {}
        }
    }
    (with, after)
}

#[test]
fn consumers_return_when_old_channels_are_gone() {
    let (mut peer, mut broker, ids, listener) = with_four();
    broker.lose_silently(&mut peer);
    assert_eq!(broker.most, 1);
    assert!(is_open(&peer), "{:?}", peer.machine.state());
    assert_eq!(restored(&mut peer, listener), (0, 0));
    for _ in 0..60 {
        declares(&mut peer, &mut broker);
        publishes(&mut peer, &mut broker);
        broker.pass(&mut peer, 1);
    }
    assert!(ids.iter().all(|id| !peer.has_ended(*id)));
    assert!(broker.closes <= 8, "{}", broker.closes);
    broker.most = 6;
    broker.pass(&mut peer, 70);
    let (with, after) = restored(&mut peer, listener);
    assert_eq!(with + after, 4);
    assert!(broker.closes <= 8 && ids.iter().all(|id| !peer.has_ended(*id)));
    declares(&mut peer, &mut broker);
    publishes(&mut peer, &mut broker);
}

#[test]
fn locked_queue_is_restored_under_a_limit() {
    let (mut peer, mut broker) = (dialled(), Broker::new(2));
    declares(&mut peer, &mut broker);
    publishes(&mut peer, &mut broker);
    let listener = peer.machine.listen();
    broker.is_locked = true;
    peer.machine.handle_loss(Broken::Eof);
    broker.reconnect(&mut peer);
    broker.pass(&mut peer, 4);
    assert!(is_open(&peer));
    publishes(&mut peer, &mut broker);
    // The client learns the limit, and all its channels are in use.
    broker.most = 1;
    let refused = peer.machine.transaction().unwrap();
    broker.serve(&mut peer);
    assert!(is_channel_limit(&mut peer, refused));
    broker.pass(&mut peer, 4);
    publishes(&mut peer, &mut broker);
    (broker.is_locked, broker.most) = (false, 2);
    broker.pass(&mut peer, 70);
    let notices = std::iter::from_fn(|| peer.machine.take_notice(listener));
    let restored = notices.filter(|it| matches!(it, Notice::EntityRestored(_)));
    assert_eq!(restored.count(), 1);
}

#[test]
fn lasting_limit_finally_ends_the_consumers() {
    let (mut peer, mut broker, ids, _) = with_four();
    broker.lose_silently(&mut peer);
    let mut closes = Vec::new();
    for _ in 0..20 {
        let before = broker.closes;
        broker.pass(&mut peer, 60);
        closes.push(broker.closes - before);
    }
    assert!(
        closes[0] <= 6 && closes[1..].iter().all(|count| *count <= 1),
        "{closes:?}"
    );
    for id in ids {
        let ended = peer.machine.consumer(id).and_then(|it| it.ended());
        assert!(
            matches!(ended, Some(Ended::ChannelClosed(Error::ChannelLimit))),
            "{ended:?}"
        );
    }
    assert_eq!(closes.last(), Some(&0));
    declares(&mut peer, &mut broker);
}

#[test]
fn recovery_without_any_channel_is_retried_slowly() {
    let (mut peer, mut broker, ids, listener) = with_four();
    broker.most = 0;
    peer.machine.handle_loss(Broken::Eof);
    broker.reconnect(&mut peer);
    let start = peer.now;
    let mut connections = 0;
    while peer.now - start < 600 * SECOND {
        let before = broker.closes;
        let sent = peer.take();
        assert!(sent.iter().any(|it| it.is(channel::Open::ID)), "{sent:?}");
        broker.refuse(&mut peer);
        connections += broker.closes - before;
    }
    assert!(connections < 60, "{connections}");
    broker.most = 6;
    broker.serve(&mut peer);
    broker.pass(&mut peer, 1);
    assert_eq!(restored(&mut peer, listener), (4, 0));
    assert!(ids.iter().all(|id| !peer.has_ended(*id)));
}

#[test]
fn raised_limit_is_noticed_within_minutes() {
    let (mut peer, mut broker) = (dialled(), Broker::new(2));
    consumers(&mut peer, &mut broker, 2);
    let mut losses = 0;
    // A program that asks again each second.
    for minute in 0..60 {
        let before = broker.closes;
        for _ in 0..60 {
            let refused = peer.machine.consume(&consume("q")).unwrap();
            broker.serve(&mut peer);
            assert!(is_channel_limit(&mut peer, refused));
            broker.pass(&mut peer, 1);
        }
        losses = broker.closes - before;
        assert!(
            losses <= if minute == 0 { 6 } else { 1 },
            "{minute}: {losses}"
        );
    }
    assert!(losses <= 1);
    broker.most = 9;
    broker.pass(&mut peer, 600);
    let before = broker.closes;
    consumers(&mut peer, &mut broker, 5);
    declares(&mut peer, &mut broker);
    publishes(&mut peer, &mut broker);
    assert_eq!(broker.closes, before);
}

#[test]
fn delays_start_over_after_the_limit_has_risen() {
    let (mut peer, mut broker, ids, listener) = with_four();
    broker.lose_silently(&mut peer);
    broker.pass(&mut peer, 60);
    broker.most = 6;
    broker.pass(&mut peer, 70);
    let (with, after) = restored(&mut peer, listener);
    assert_eq!(with + after, 4);
    broker.lose_silently(&mut peer);
    broker.pass(&mut peer, 3);
    broker.most = 6;
    broker.pass(&mut peer, 20);
    let (with, after) = restored(&mut peer, listener);
    assert_eq!(with + after, 4);
    assert!(ids.iter().all(|id| !peer.has_ended(*id)));
}
