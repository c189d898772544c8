//! More exchanges than publish channels: each gets its turn and keeps its order.

use crate::peer::{Peer, Sent, ack, channel_close, method, publish, raw, reply_to, tune};
use puka::Options;
use puka::protocol::method::basic;
use puka::protocol::{FrameKind, Method};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A broker that confirms the publishes before the last step, so an exchange that publishes in each
/// step is never idle.
struct World {
    peer: Peer,
    /// The number of publishes of each channel.
    published: BTreeMap<u16, u64>,
    to_confirm: VecDeque<(u16, u64)>,
    /// The bodies that arrived, for each exchange.
    bodies: BTreeMap<String, Vec<String>>,
    exchange: BTreeMap<u16, String>,
    sent: BTreeMap<String, usize>,
}

impl World {
    fn new(channels: u16) -> Self {
        let options = Options::default().publish_channels(channels).heartbeat(0);
        let peer = Peer::open_with(options, tune(0, 0, 0));
        let to_confirm = VecDeque::new();
        let (published, bodies, exchange, sent) = Default::default();
        Self {
            peer,
            published,
            to_confirm,
            bodies,
            exchange,
            sent,
        }
    }

    fn publish(&mut self, exchange: &str) {
        let number = self.sent.entry(exchange.to_owned()).or_default();
        let promise = self
            .peer
            .machine
            .publish(&publish(exchange, number.to_string().as_bytes()))
            .unwrap();
        *number += 1;
        self.peer.machine.abandon(promise);
    }

    /// Publishes to each exchange, confirms what was there before, and lets 10 ms pass.
    fn step(&mut self, busy: &[&str]) {
        let before = self.to_confirm.len();
        busy.iter().for_each(|exchange| self.publish(exchange));
        self.serve();
        for (channel, tag) in self.to_confirm.drain(..before).collect::<Vec<_>>() {
            self.peer.method(channel, &ack(tag, false));
        }
        self.serve();
        self.peer.pass(Duration::from_millis(10));
        assert!(self.peer.machine.why_closed().is_none());
    }

    fn serve(&mut self) {
        loop {
            let sent = self.peer.take();
            if sent.is_empty() {
                return;
            }
            for one in &sent {
                self.look_at(one);
                if let Some(answer) = reply_to(one) {
                    self.peer.feed(&answer);
                }
            }
        }
    }

    fn look_at(&mut self, sent: &Sent) {
        let channel = sent.channel;
        if sent.kind == FrameKind::Body {
            let exchange = self.exchange.get(&channel).unwrap().clone();
            self.bodies
                .entry(exchange)
                .or_default()
                .push(String::from_utf8_lossy(&sent.payload).into());
        } else if sent.name().ends_with("channel.close") {
            // The side that has sent a close drops confirms that cross it.
            self.published.remove(&channel);
            self.to_confirm.retain(|(of, _)| *of != channel);
        } else if sent.is(basic::Publish::ID) {
            let Method::Basic(basic::Method::Publish(it)) = sent.method() else {
                panic!("{sent:?}")
            };
            self.exchange.insert(channel, it.exchange.to_string());
            let count = self.published.entry(channel).or_default();
            *count += 1;
            self.to_confirm.push_back((channel, *count));
        }
    }

    fn arrived(&self, exchange: &str) -> usize {
        self.bodies.get(exchange).map_or(0, Vec::len)
    }

    fn assert_order(&self) {
        for (exchange, bodies) in &self.bodies {
            let expected: Vec<_> = (0..bodies.len()).map(|number| number.to_string()).collect();
            assert_eq!(*bodies, expected, "{exchange}");
        }
    }
}

#[test]
fn exchange_gets_a_channel_among_busy_ones() {
    let mut world = World::new(4);
    let busy = ["a", "b", "c", "d"];
    (0..5).for_each(|_| world.step(&busy));
    world.publish("e");
    let steps = (0..1000)
        .take_while(|_| {
            world.arrived("e") == 0 && {
                world.step(&busy);
                true
            }
        })
        .count();
    assert!((1..=20).contains(&steps), "{steps} steps of 10 ms");
    // An exchange that freed its channel gets one again, and none falls behind.
    (0..100).for_each(|_| world.step(&busy));
    for exchange in busy {
        let waiting = world.sent[exchange] - world.arrived(exchange);
        assert!(
            waiting <= 30,
            "{waiting} publishes to {exchange} are pending"
        );
    }
    world.assert_order();
}

#[test]
fn exchanges_that_wait_are_served_in_turn() {
    let mut world = World::new(1);
    world.step(&["a"]);
    world.step(&["a", "b"]);
    world.step(&["a", "b", "c"]);
    let all = ["a", "b", "c"];
    let mut order = vec!["a"];
    let mut before = all.map(|exchange| world.arrived(exchange));
    for _ in 0..200 {
        world.step(&all);
        let now = all.map(|exchange| world.arrived(exchange));
        for (place, exchange) in all.iter().enumerate() {
            if now[place] > before[place] && order.last() != Some(exchange) {
                order.push(exchange);
            }
        }
        before = now;
    }
    assert!(order.len() >= 12, "{order:?}");
    let expected: Vec<_> = all.into_iter().cycle().take(order.len()).collect();
    assert_eq!(order, expected);
    world.assert_order();
}

#[test]
fn overdue_publish_does_not_keep_its_channel() {
    let mut world = World::new(1);
    world.publish("stuck");
    world.serve();
    world.publish("other");
    world.peer.pass(Duration::from_secs(29));
    assert_eq!(world.arrived("other"), 0);
    let mut times = 0;
    while world.arrived("other") == 0 && times < 5 {
        world.publish("other");
        world.peer.pass(Duration::from_secs(1));
        world.serve();
        times += 1;
    }
    assert!(times <= 4, "the deadline of the first is 32 s");
}

#[test]
fn unneeded_room_leaves_a_channel_in_use() {
    let mut world = World::new(1);
    (0..5).for_each(|_| world.step(&["a"]));
    // The waiting publish gives up before its turn comes.
    let mut waits = publish("b", "0");
    waits.mandatory = true;
    let promise = world
        .peer
        .machine
        .call(&waits, Some(Duration::from_millis(105)))
        .unwrap();
    (0..11).for_each(|_| world.step(&["a"]));
    world.peer.machine.abandon(promise);
    let before = world.arrived("a");
    (0..5).for_each(|_| world.step(&["a"]));
    assert!(
        world.arrived("a") >= before + 5,
        "{} of {before} and 5",
        world.arrived("a")
    );
    world.assert_order();
}

#[test]
fn stopped_channel_frees_no_capacity() {
    let mut world = World::new(1);
    world.step(&["a"]);
    world.step(&[]);
    world.peer.feed(&method(
        1,
        &puka::protocol::method::channel::Flow { active: false },
    ));
    world.publish("a");
    world.publish("b");
    (0..20).for_each(|_| world.step(&[]));
    assert_eq!((world.arrived("a"), world.arrived("b")), (1, 0));
    world.peer.feed(&method(
        1,
        &puka::protocol::method::channel::Flow { active: true },
    ));
    (0..20).for_each(|_| world.step(&[]));
    assert_eq!((world.arrived("a"), world.arrived("b")), (2, 1));
}

#[test]
fn flow_stops_only_its_own_exchange() {
    let mut world = World::new(4);
    world.step(&["a", "b"]);
    world.peer.feed(&method(
        1,
        &puka::protocol::method::channel::Flow { active: false },
    ));
    (0..3).for_each(|_| world.step(&["a", "b", "c"]));
    assert_eq!(
        (world.arrived("a"), world.arrived("b"), world.arrived("c")),
        (1, 4, 3)
    );
    world.peer.feed(&method(
        1,
        &puka::protocol::method::channel::Flow { active: true },
    ));
    world.serve();
    assert_eq!(world.arrived("a"), 4);
    world.assert_order();
}

#[test]
fn stuck_exchange_delays_no_turns() {
    for is_stopped in [false, true] {
        let mut world = World::new(4);
        world.publish("stuck");
        world.serve();
        world.to_confirm.clear();
        if is_stopped {
            world
                .peer
                .method(1, &puka::protocol::method::channel::Flow { active: false });
        }
        let busy = ["b", "c", "d"];
        (0..20).for_each(|_| world.step(&busy));
        world.publish("e");
        (0..100).for_each(|_| world.step(&busy));
        assert_eq!(
            world.arrived("e"),
            1,
            "it waits for a publish that is never confirmed"
        );
        world.assert_order();
    }
}

#[test]
fn stopped_channel_that_closes_frees_its_publishes() {
    let mut world = World::new(4);
    world.step(&["a"]);
    world.step(&[]);
    world
        .peer
        .method(1, &puka::protocol::method::channel::Flow { active: false });
    world.publish("a");
    // The attempt fails.
    world
        .peer
        .method(1, &puka::protocol::method::channel::Flow { active: false });
    world.step(&[]);
    assert_eq!(world.arrived("a"), 1);
    world.peer.method(1, &channel_close(406, ""));
    world.published.clear();
    world.step(&[]);
    assert_eq!(world.arrived("a"), 2);
}

#[test]
fn publish_follows_overdue_ones_to_its_exchange() {
    let mut world = World::new(2);
    world.publish("stuck");
    world.serve();
    world.to_confirm.clear();
    world.peer.pass(Duration::from_secs(35));
    world.step(&["busy"]);
    world.step(&[]);
    // The channel with the overdue publish is being replaced, and its `close-ok` is still to come.
    world.publish("other");
    world.publish("stuck");
    let sent = world.peer.take();
    assert!(sent.iter().any(|one| one.name() == "1 channel.close"));
    sent.iter().for_each(|one| world.look_at(one));
    assert_eq!((world.arrived("other"), world.arrived("stuck")), (1, 1));
    for answer in sent.iter().filter_map(reply_to) {
        world.peer.feed(&answer);
    }
    (0..3).for_each(|_| world.step(&[]));
    assert_eq!(world.arrived("stuck"), 2);
    world.assert_order();
}

#[test]
fn exchange_stopped_while_it_waits_resumes_later() {
    let mut world = World::new(1);
    world.publish("a");
    world.serve();
    world.to_confirm.clear();
    (0..11).for_each(|_| world.step(&[]));
    // The channel is to be replaced, and its exchange waits behind another one that gives up.
    let timeout = Some(Duration::from_millis(50));
    let promise = world
        .peer
        .machine
        .call(&publish("b", "0"), timeout)
        .unwrap();
    world.peer.feed(&raw(8, 0, b""));
    world.publish("a");
    world.peer.feed(&raw(8, 0, b""));
    world.serve();
    assert_eq!(world.arrived("a"), 1);
    world
        .peer
        .method(1, &puka::protocol::method::channel::Flow { active: false });
    (0..11).for_each(|_| world.step(&[]));
    world.peer.machine.abandon(promise);
    assert_eq!(world.arrived("a"), 1);
    world
        .peer
        .method(1, &puka::protocol::method::channel::Flow { active: true });
    world.step(&[]);
    assert_eq!(world.arrived("a"), 2);
}

#[test]
fn idle_channels_make_room_at_once() {
    let mut world = World::new(2);
    world.step(&["a", "b"]);
    world.step(&[]);
    world.publish("c");
    world.publish("d");
    let sent = world.peer.take();
    sent.iter().for_each(|one| world.look_at(one));
    assert_eq!(
        (world.arrived("c"), world.arrived("d")),
        (1, 1),
        "no close-ok has arrived"
    );
}

#[test]
fn resumed_exchange_does_not_wait_behind_others() {
    let mut world = World::new(2);
    world.step(&["a", "busy"]);
    world
        .peer
        .method(1, &puka::protocol::method::channel::Flow { active: false });
    world.publish("b");
    world.publish("a");
    world.serve();
    assert_eq!((world.arrived("a"), world.arrived("b")), (1, 0));
    world
        .peer
        .method(1, &puka::protocol::method::channel::Flow { active: true });
    world.serve();
    assert_eq!((world.arrived("a"), world.arrived("b")), (2, 0));
}
