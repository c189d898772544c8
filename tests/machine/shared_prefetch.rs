//! The prefetch count that the queues of a consumer share.

use crate::peer::{Peer, Sent, consume, short, tag_of};
use puka::machine::{
    Consume, ConsumerId, ConsumerSettings, Delivered, Event, Outgoing, Reply, Settle,
};
use puka::protocol::Method;
use puka::protocol::method::basic;
use puka::{Error, Options, Resubscribe};

/// A consumer of the queues `a` and `b`.
struct Pair {
    peer: Peer,
    id: ConsumerId,
    channel: u16,
    tags: Vec<String>,
    /// The last delivery tag.
    delivered: u64,
}

impl Pair {
    fn new(prefetch_count: u16) -> Self {
        Self::with(ConsumerSettings {
            prefetch_count,
            resubscribe: Some(Resubscribe::never()),
            ..ConsumerSettings::default()
        })
    }

    fn with(settings: ConsumerSettings) -> Self {
        Self::of([consume("a"), consume("b")], settings)
    }

    fn of(queues: [Consume<'_>; 2], settings: ConsumerSettings) -> Self {
        let mut peer = Peer::open(Options::default());
        let promise = peer.machine.consume_multi(&queues, &settings).unwrap();
        let sent = peer.serve();
        let Some(Ok(Reply::Consumer(id))) = peer.machine.fetch(promise) else {
            panic!("the consumer has not started")
        };
        let channel = sent.iter().find(|it| it.is(basic::Consume::ID));
        Self {
            id,
            channel: channel.unwrap().channel,
            tags: tags(&sent),
            delivered: 0,
            peer,
        }
    }

    /// Delivers messages from one of the queues.
    fn deliver(&mut self, queue: usize, messages: u64) {
        for _ in 0..messages {
            self.delivered += 1;
            let tag = self.tags[queue].clone();
            self.peer
                .deliver(self.channel, &tag, self.delivered, b"body");
        }
    }

    fn take(&mut self) -> Vec<Delivered> {
        self.peer.take_deliveries(self.id)
    }

    /// Returns `true` if an event announces deliveries.
    fn is_announced(&mut self) -> bool {
        let id = self.id;
        let mut events = std::iter::from_fn(|| self.peer.machine.poll_event());
        events.any(|event| matches!(event, Event::Deliveries(of) if of == id))
    }
}

/// Returns the tags that were consumed with.
fn tags(sent: &[Sent]) -> Vec<String> {
    let consumes = sent.iter().filter(|it| it.is(basic::Consume::ID));
    consumes.map(tag_of).collect()
}

/// Returns the prefetch counts, each with `global`.
fn prefetch_counts(sent: &[Sent]) -> Vec<(u16, bool)> {
    let counts = sent.iter().filter(|it| it.is(basic::Qos::ID));
    counts
        .map(|it| match it.method() {
            Method::Basic(basic::Method::Qos(qos)) => (qos.prefetch_count, qos.global),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn shared_count_limits_all_queues_together() {
    let mut pair = Pair::new(3);
    pair.deliver(0, 2);
    pair.deliver(1, 3);
    let taken = pair.take();
    assert_eq!(taken.len(), 3);
    assert!(pair.take().is_empty());
    let ack = Settle::Ack { multiple: false };
    pair.peer.machine.settle(&taken[1], ack).unwrap();
    assert_eq!(pair.take().len(), 1);
    let ack_all = Settle::Ack { multiple: true };
    pair.peer.machine.settle(&taken[2], ack_all).unwrap();
    assert_eq!(pair.take().len(), 1);
}

#[test]
fn one_queue_can_use_the_whole_count() {
    let mut pair = Pair::new(3);
    pair.deliver(1, 3);
    assert_eq!(pair.take().len(), 3);
}

#[test]
fn count_of_the_broker_is_that_of_each_queue() {
    let mut peer = Peer::open(Options::default());
    let queues = [consume("a"), consume("b")];
    let _promise = peer
        .machine
        .consume_multi(&queues, &crate::peer::shared(7))
        .unwrap();
    let sent = peer.serve();
    assert_eq!(prefetch_counts(&sent), [(7, false)]);
    assert_eq!(tags(&sent).len(), 2);
}

#[test]
fn settling_announces_a_withheld_delivery() {
    let nack = Settle::Nack {
        multiple: false,
        requeue: true,
    };
    let reject = Settle::Reject { requeue: false };
    for how in [Settle::Ack { multiple: false }, nack, reject] {
        let mut pair = Pair::new(1);
        pair.deliver(0, 1);
        pair.deliver(1, 1);
        let taken = pair.take();
        while pair.is_announced() {}
        assert!(pair.take().is_empty());
        pair.peer.machine.settle(&taken[0], how).unwrap();
        let now = pair.peer.now;
        let machine = &mut pair.peer.machine;
        machine.poll_transmit(now, &mut Outgoing::default());
        assert!(pair.is_announced(), "{how:?}");
        assert_eq!(pair.take().len(), 1);
    }
}

#[test]
fn dropped_delivery_counts_until_it_is_requeued() {
    let mut pair = Pair::new(1);
    pair.deliver(0, 1);
    let first = pair.take().remove(0);
    pair.peer.machine.give_back(&first);
    pair.peer.take();
    pair.deliver(0, 1);
    let second = pair.take().remove(0);
    pair.deliver(1, 1);
    assert!(pair.take().is_empty());
    // The second dropped delivery in a row is requeued after 100 ms.
    pair.peer.machine.give_back(&second);
    assert!(pair.take().is_empty());
    pair.peer.pass(std::time::Duration::from_millis(100));
    assert_eq!(pair.take().len(), 1);
}

#[test]
fn ended_consumer_returns_what_was_withheld() {
    let mut pair = Pair::new(1);
    pair.deliver(0, 1);
    pair.deliver(1, 1);
    assert_eq!(pair.take().len(), 1);
    for tag in pair.tags.clone() {
        let cancel = basic::Cancel {
            consumer_tag: short(&tag),
            nowait: true,
        };
        pair.peer.method(pair.channel, &cancel);
    }
    assert!(pair.peer.has_ended(pair.id));
    assert_eq!(pair.take().len(), 1);
}

#[test]
fn deliveries_without_acks_are_not_withheld() {
    let mut pair = Pair::with(ConsumerSettings {
        prefetch_count: 1,
        no_ack: true,
        ..ConsumerSettings::default()
    });
    pair.deliver(0, 2);
    pair.deliver(1, 2);
    assert_eq!(pair.take().len(), 4);
}

#[test]
fn changed_count_replaces_that_of_each_queue() {
    for after in [1, 9, 0] {
        let mut pair = Pair::new(3);
        pair.deliver(0, 3);
        pair.deliver(1, 3);
        assert_eq!(pair.take().len(), 3);
        let changed = pair.peer.machine.qos(pair.id, after).unwrap();
        let sent = pair.peer.serve();
        assert_eq!(prefetch_counts(&sent), [(after, false)]);
        assert_eq!(tags(&sent).len(), 2);
        let cancelled = sent.iter().filter(|it| it.is(basic::Cancel::ID));
        assert_eq!(cancelled.count(), 2);
        pair.peer.expect_done(changed);
        assert_eq!(pair.take().len(), if after == 1 { 0 } else { 3 });
    }
}

#[test]
fn shared_count_of_an_exclusive_consumer_is_fixed() {
    let exclusive = Consume {
        exclusive: true,
        ..consume("a")
    };
    let mut pair = Pair::of([exclusive, consume("b")], crate::peer::shared(3));
    let changed = pair.peer.machine.qos(pair.id, 5);
    assert!(matches!(changed, Err(Error::InvalidArgument { .. })));
}
