//! Deliveries that the program drops without settling them.

use crate::peer::{Peer, Sent, consume, raw, tune};
use puka::machine::{Consume, ConsumerId, Settle};
use puka::protocol::method::basic;
use puka::protocol::{FrameKind, Method};
use puka::{Broken, OnDrop, Options};
use std::collections::VecDeque;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

struct World {
    peer: Peer,
    id: ConsumerId,
    channel: u16,
    tag: String,
    delivered: u64,
    /// Whether the next delivery is marked as redelivered.
    redelivered: bool,
}

/// Returns a client with a consumer of this policy.
fn world(on_drop: OnDrop) -> World {
    let mut peer = Peer::open_with(Options::default(), tune(2047, 131_072, 60));
    let terms = Consume {
        on_drop,
        prefetch_count: 10,
        ..consume("q")
    };
    let (id, channel, tag) = peer.consumer(&terms);
    World {
        peer,
        id,
        channel,
        tag,
        delivered: 0,
        redelivered: false,
    }
}

impl World {
    /// Delivers a message, and returns it as the program takes it.
    fn take(&mut self) -> puka::machine::Delivered {
        self.delivered += 1;
        let (channel, tag) = (self.channel, self.tag.clone());
        let deliver = basic::Deliver {
            redelivered: self.redelivered,
            ..crate::peer::deliver(&tag, self.delivered)
        };
        self.peer.content(channel, &deliver, b"x");
        let mut taken = VecDeque::new();
        self.peer.machine.take_deliveries(self.id, 1, &mut taken);
        taken.pop_front().expect("it was delivered")
    }

    /// Delivers a message that the program drops. Returns the delay until it is rejected.
    fn drop_one(&mut self) -> Duration {
        let delivered = self.take();
        let begin = self.peer.now;
        self.peer.machine.give_back(&delivered);
        loop {
            if self.rejected() == [(delivered.tag, true)] {
                return self.peer.now - begin;
            }
            assert!(self.peer.now < begin + 60_000 * MS, "it is never rejected");
            self.peer.feed(&raw(8, 0, b""));
            let next = self
                .peer
                .machine
                .poll_timeout()
                .expect("a delay is running");
            let time = next.saturating_duration_since(self.peer.now);
            self.peer.pass(time);
        }
    }

    /// Returns the rejected tags, each with `requeue`.
    fn rejected(&mut self) -> Vec<(u64, bool)> {
        rejected(&self.peer.take())
    }
}

fn rejected(sent: &[Sent]) -> Vec<(u64, bool)> {
    let methods = sent.iter().filter(|it| it.kind == FrameKind::Method);
    methods
        .filter_map(|frame| match frame.method() {
            Method::Basic(basic::Method::Reject(it)) => Some((it.delivery_tag, it.requeue)),
            _ => None,
        })
        .collect()
}

fn nacks(sent: &[Sent]) -> usize {
    sent.iter().filter(|it| it.is(basic::Nack::ID)).count()
}

#[test]
fn delays_of_dropped_deliveries_double() {
    let mut world = world(OnDrop::default());
    let delays: Vec<_> = (0..11).map(|_| world.drop_one()).collect();
    let expected = [
        0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000,
    ];
    assert_eq!(delays, expected.map(|ms| ms * MS));
}

#[test]
fn settled_delivery_starts_the_delays_over() {
    for how in [
        Settle::Ack { multiple: false },
        Settle::Reject { requeue: true },
        Settle::Nack {
            multiple: false,
            requeue: false,
        },
    ] {
        let mut world = world(OnDrop::default());
        let before: Vec<_> = (0..4).map(|_| world.drop_one()).collect();
        assert_eq!(before[3], 400 * MS);
        let settled = world.take();
        world.peer.machine.settle(&settled, how).unwrap();
        world.peer.take();
        assert_eq!(world.drop_one(), Duration::ZERO, "{how:?}");
        assert_eq!(world.drop_one(), 100 * MS);
    }
}

#[test]
fn policies_decide_about_dropped_deliveries() {
    let mut at_once = world(OnDrop::Requeue);
    assert_eq!([(); 3].map(|()| at_once.drop_one()), [Duration::ZERO; 3]);
    let mut later = world(OnDrop::RequeueAfter(250 * MS));
    assert_eq!([(); 3].map(|()| later.drop_one()), [250 * MS; 3]);

    let mut discarding = world(OnDrop::Discard);
    let dropped = discarding.take();
    discarding.peer.machine.give_back(&dropped);
    assert_eq!(discarding.rejected(), [(1, false)]);

    let mut keeping = world(OnDrop::Keep);
    let dropped = keeping.take();
    keeping.peer.machine.give_back(&dropped);
    for _ in 0..60 {
        keeping.peer.feed(&raw(8, 0, b""));
        keeping.peer.pass(20_000 * MS);
        assert_eq!(keeping.rejected(), []);
    }
    let settle = Settle::Ack { multiple: false };
    assert!(
        keeping.peer.machine.settle(&dropped, settle).is_ok(),
        "it is unsettled"
    );
}

#[test]
fn ack_multiple_excludes_dropped_deliveries() {
    let mut world = world(OnDrop::RequeueAfter(100 * MS));
    let [first, dropped, last] = [(); 3].map(|()| world.take());
    world.peer.machine.give_back(&dropped);
    let ack = Settle::Ack { multiple: true };
    world.peer.machine.settle(&last, ack).unwrap();
    let sent = world.peer.take();
    let acks: Vec<_> = sent
        .iter()
        .filter_map(|frame| match frame.method() {
            Method::Basic(basic::Method::Ack(it)) => Some((it.delivery_tag, it.multiple)),
            _ => None,
        })
        .collect();
    assert_eq!(acks, [(first.tag, false), (last.tag, false)]);
    world.peer.pass(100 * MS);
    assert_eq!(world.rejected(), [(dropped.tag, true)]);
}

#[test]
fn cancel_returns_dropped_deliveries_at_once() {
    let later = OnDrop::RequeueAfter(5_000 * MS);
    for (policy, drop) in [(later, false), (later, true), (OnDrop::Keep, true)] {
        let mut world = world(policy);
        let dropped = world.take();
        world.peer.machine.give_back(&dropped);
        if drop {
            world.peer.machine.drop_consumer(world.id);
        } else {
            world.peer.machine.cancel(world.id).unwrap();
        }
        let sent = world.peer.serve();
        assert_eq!((nacks(&sent), rejected(&sent).len()), (1, 0));
        world.peer.pass(5_000 * MS);
        assert_eq!(world.rejected(), []);
    }
}

#[test]
fn loss_forgets_dropped_deliveries() {
    let options = Options::default().recovery(puka::Recovery::default().seed(7));
    let mut peer = Peer::dialled(options);
    let terms = Consume {
        on_drop: OnDrop::RequeueAfter(100 * MS),
        ..consume("q")
    };
    let (id, channel, tag) = peer.consumer(&terms);
    peer.deliver(channel, &tag, 1, b"x");
    let dropped = peer.take_deliveries(id).remove(0);
    peer.machine.give_back(&dropped);
    peer.pump();
    peer.machine.handle_loss(Broken::Eof);
    peer.reconnect();
    peer.serve();
    peer.pass(200 * MS);
    assert_eq!(rejected(&peer.take()), []);
    assert_eq!(peer.machine.counters().stale, 0);
}

#[test]
fn poison_message_is_redelivered_rarely() {
    let mut world = world(OnDrop::default());
    let end = world.peer.now + 2_000 * MS;
    let mut redeliveries = 0;
    while world.peer.now < end {
        world.drop_one();
        redeliveries += 1;
    }
    assert!(redeliveries <= 6, "{redeliveries} in two seconds");
}

#[test]
fn later_drop_keeps_its_own_delay() {
    let mut world = world(OnDrop::RequeueAfter(1000 * MS));
    let [one, two] = [(); 2].map(|()| world.take());
    world.peer.machine.give_back(&one);
    world.peer.take();
    world.peer.pass(500 * MS);
    world.peer.machine.give_back(&two);
    world.peer.take();
    world.peer.pass(500 * MS);
    let sent = world.peer.take();
    assert_eq!((rejected(&sent), nacks(&sent)), (vec![(1, true)], 0));
}

#[test]
fn kept_delivery_survives_a_new_prefetch_count() {
    let mut world = world(OnDrop::Keep);
    let one = world.take();
    world.peer.machine.give_back(&one);
    world.peer.take();
    world.peer.machine.qos(world.id, 20).unwrap();
    assert_eq!(nacks(&world.peer.serve()), 0);
}

#[test]
fn each_of_several_drops_has_its_delay() {
    let mut world = world(OnDrop::RequeuePaced);
    let taken = [(); 6].map(|()| world.take());
    for delivered in &taken {
        world.peer.machine.give_back(delivered);
    }
    let first = world.peer.take();
    assert_eq!(rejected(&first), [(1, true)]);
    world.peer.pass(100 * MS);
    let sent = world.peer.take();
    assert_eq!((rejected(&sent), nacks(&sent)), (vec![(2, true)], 0));
}

#[test]
fn failing_message_is_paced_among_others() {
    let mut world = world(OnDrop::default());
    let mut delays = Vec::new();
    for _ in 0..5 {
        let good = world.take();
        let settle = Settle::Ack { multiple: false };
        world.peer.machine.settle(&good, settle).unwrap();
        world.peer.take();
        world.redelivered = true;
        delays.push(world.drop_one());
        world.redelivered = false;
    }
    assert_eq!(delays, [100, 200, 400, 800, 1600].map(|ms| ms * MS));
    // It succeeds, and the next one begins again.
    world.redelivered = true;
    let settled = world.take();
    let settle = Settle::Ack { multiple: false };
    world.peer.machine.settle(&settled, settle).unwrap();
    world.peer.take();
    assert_eq!(world.drop_one(), 100 * MS);
}
