//! Brokers that close the connection over a method on a channel that they have closed. The client
//! has sent that method before the close arrived. LavinMQ and AMQProxy do so; RabbitMQ ignores it.

use crate::peer::{
    Peer, Sent, channel_close, close, consume, declare, lavinmq, method, publish, reply_to, tune,
};
use crate::recovering::{options, replied};
use puka::machine::{ConnectionState, Notice, Reply};
use puka::protocol::method::{Encode as _, basic, channel, connection, queue};
use puka::protocol::{FrameKind, Method};
use puka::{Broken, Error};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

/// Such a broker, which refuses what `refuses` returns a close for.
pub(crate) struct Broker<F> {
    refuses: F,
    /// The channels that it has closed.
    closed: RefCell<BTreeSet<u16>>,
    has_closed_connection: Cell<bool>,
    /// The number of connections that it has closed.
    pub(crate) closes: Cell<usize>,
}

impl<F: Fn(&Sent) -> Option<(u16, String)>> Broker<F> {
    pub(crate) fn new(refuses: F) -> Self {
        Self {
            refuses,
            closed: RefCell::default(),
            has_closed_connection: Cell::new(false),
            closes: Cell::new(0),
        }
    }

    fn reply(&self, sent: &Sent) -> Option<Vec<u8>> {
        let number = sent.channel;
        if self.has_closed_connection.get() || sent.kind != FrameKind::Method {
            return None;
        }
        if sent.is(channel::Open::ID) {
            self.closed.borrow_mut().remove(&number);
        }
        if self.closed.borrow().contains(&number) {
            return match sent.method() {
                Method::Channel(channel::Method::Close(_)) => reply_to(sent),
                Method::Channel(_) | Method::Basic(basic::Method::Publish(_)) => None,
                late => {
                    self.has_closed_connection.set(true);
                    self.closes.set(self.closes.get() + 1);
                    let text = format!("CHANNEL_ERROR - Channel {number} not open");
                    let close = connection::Close {
                        class_id: late.id().class,
                        method_id: late.id().method,
                        ..close(504, &text)
                    };
                    Some(method(0, &close))
                }
            };
        }
        if let Some((code, text)) = (self.refuses)(sent) {
            self.closed.borrow_mut().insert(number);
            return Some(method(number, &channel_close(code, &text)));
        }
        reply_to(sent)
    }

    /// Replies on the next connection if there is none, until nothing is sent.
    fn step(&self, peer: &mut Peer) -> Vec<Sent> {
        if peer.machine.is_down() {
            peer.dial();
            self.has_closed_connection.set(false);
            self.closed.borrow_mut().clear();
            peer.complete_handshake_with(&lavinmq(), tune(2047, 131_072, 60));
        }
        peer.serve_with(|sent| self.reply(sent))
    }

    /// Replies until the connection is open and idle, on as many connections as it takes.
    pub(crate) fn serve(&self, peer: &mut Peer) {
        for _ in 0..100 {
            self.step(peer);
            if matches!(peer.machine.state(), ConnectionState::Open) {
                return;
            }
        }
        panic!("{:?}", peer.machine.state());
    }

    /// Replies like [`serve`](Self::serve), with delays up to this time together.
    pub(crate) fn serve_within(&self, peer: &mut Peer, time: Duration) {
        let end = peer.now + time;
        while peer.now < end {
            self.step(peer);
            if matches!(peer.machine.state(), ConnectionState::Open) {
                return;
            }
            peer.pass(Duration::from_millis(100));
        }
        panic!("{:?}", peer.machine.state());
    }
}

pub(crate) fn dialled() -> Peer {
    let mut peer = Peer::undialled(options(|recovery| recovery));
    peer.dial();
    peer.complete_handshake_with(&lavinmq(), tune(2047, 131_072, 60));
    peer
}

#[test]
fn refused_steps_fail_alone() {
    let names = ["a", "poison", "b", "bad", "c", "d"];
    let broker = Broker::new(|sent: &Sent| match sent.method() {
        Method::Queue(queue::Method::Declare(it)) if it.queue.as_bytes() == b"poison" => Some((
            406,
            "PRECONDITION_FAILED - Existing queue 'poison' declared with other arguments".into(),
        )),
        Method::Queue(queue::Method::Declare(it)) if it.queue.as_bytes() == b"bad" => Some((
            403,
            "ACCESS_REFUSED - User 'u' doesn't have permissions to queue 'bad'".into(),
        )),
        _ => None,
    });
    let mut peer = dialled();
    let listener = peer.machine.listen();
    for name in names {
        let declared = peer.machine.request(declare(name)).unwrap();
        peer.serve();
        assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
    }
    for _ in 0..2 {
        peer.machine.handle_loss(Broken::Eof);
        broker.closes.set(0);
        broker.serve(&mut peer);
        let report = std::iter::from_fn(|| peer.machine.take_notice(listener)).last();
        let Some(Notice::Recovered(report)) = report else {
            panic!("{report:?}");
        };
        let failed: Vec<_> = report.failed.iter().map(|(what, _)| &**what).collect();
        assert_eq!(failed, ["queue \"bad\"", "queue \"poison\""]);
        assert_eq!((report.entities, broker.closes.get()), (4, 1));
    }
}

/// Starts a consumer of several queues.
fn several(peer: &mut Peer, queues: &[&str]) -> puka::machine::ConsumerId {
    let promise = crate::limits::several(peer, queues);
    peer.serve();
    crate::limits::started(peer, promise)
}

/// Refuses consumers of the queue `gone`.
fn without_queue(sent: &Sent) -> Option<(u16, String)> {
    match sent.method() {
        Method::Basic(basic::Method::Consume(it)) if it.queue.as_bytes() == b"gone" => {
            Some((404, "NOT_FOUND - Queue 'gone' not declared".into()))
        }
        _ => None,
    }
}

#[test]
fn consumer_of_several_queues_survives_a_missing_one() {
    for has_another in [false, true] {
        let broker = Broker::new(without_queue);
        let mut peer = dialled();
        let id = several(&mut peer, &["gone", "a", "b"]);
        let other = has_another.then(|| peer.consumer(&consume("c")).0);
        peer.machine.handle_loss(Broken::Eof);
        broker.serve(&mut peer);
        assert!(other.is_none_or(|id| !peer.has_ended(id)));
        assert!(!peer.has_ended(id));
        let ended = peer.machine.consumer(id).unwrap().ended_queues();
        assert_eq!(ended.count(), 1);
        assert_eq!(broker.closes.get(), 1);
    }
}

#[test]
fn missing_queue_fails_its_consume_alone() {
    let broker = Broker::new(without_queue);
    let mut peer = dialled();
    let failed = crate::limits::several(&mut peer, &["gone", "a"]);
    let beside = peer.machine.consume(&consume("b")).unwrap();
    broker.serve(&mut peer);
    assert_eq!(broker.closes.get(), 1);
    assert!(matches!(peer.error(failed), Error::NotFound(_)));
    assert!(matches!(replied(&mut peer, beside), Reply::Consumer(_)));
}

#[test]
fn missing_exchange_fails_its_publish_alone() {
    let broker = Broker::new(|sent: &Sent| match sent.method() {
        Method::Basic(basic::Method::Publish(it)) if it.exchange.as_bytes() == b"missing" => {
            Some((404, "NOT_FOUND - No exchange 'missing' in vhost '/'".into()))
        }
        _ => None,
    });
    let mut peer = dialled();
    for closes in [1, 0, 0] {
        broker.closes.set(0);
        let failed = peer.machine.publish(&publish("missing", "x")).unwrap();
        let declared = peer.machine.request(declare("q")).unwrap();
        broker.serve(&mut peer);
        assert!(matches!(peer.error(failed), Error::NotFound(_)));
        assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
        assert_eq!(broker.closes.get(), closes);
    }
}

#[test]
fn several_publishes_without_a_probe_stay_unknown() {
    let broker = Broker::new(|sent: &Sent| match sent.method() {
        Method::Basic(basic::Method::Publish(it)) if it.exchange.as_bytes() == b"missing" => {
            Some((404, "NOT_FOUND - No exchange 'missing' in vhost '/'".into()))
        }
        _ => None,
    });
    let mut peer = dialled();
    let close = close(504, "CHANNEL_ERROR - Channel 7 not open");
    peer.method(0, &close);
    let promises = [1, 2, 3].map(|_| peer.machine.publish(&publish("missing", "x")).unwrap());
    broker.serve(&mut peer);
    assert_eq!(broker.closes.get(), 0);
    let [first, second, last] = promises.map(|promise| peer.error(promise));
    assert!(matches!(first, Error::Unconfirmed(_)), "{first:?}");
    assert!(matches!(second, Error::Unconfirmed(_)), "{second:?}");
    assert!(matches!(last, Error::NotFound(_)), "{last:?}");
}
