//! Consumers that the broker ends, and that are restarted on the same connection.

use crate::peer::{Peer, Sent, channel_close, consume, raw, short};
use crate::restoring::options;
use crate::streams::arrives_at;
use puka::machine::{Consume, ConsumerId, Delivered, ListenerId, Notice, Settle};
use puka::protocol::method::{basic, channel};
use puka::protocol::{Method, Table};
use puka::{Broken, Ended, Error, Resubscribe};
use std::collections::VecDeque;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const ACK_TIMEOUT: (u16, &str) = (
    406,
    "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: \
     1800000 ms. This timeout value can be configured, see consumers doc guide to learn more",
);
const NO_QUEUE: (u16, &str) = (404, "NOT_FOUND - no queue 'q' in vhost '/'");
const NODE_DOWN: (u16, &str) = (
    404,
    "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible",
);

/// A client with one consumer.
struct World {
    peer: Peer,
    id: ConsumerId,
    channel: u16,
    tag: String,
    notices: ListenerId,
}

impl World {
    fn new() -> Self {
        Self::with(&consume("q"))
    }

    fn with(terms: &Consume<'_>) -> Self {
        let mut peer = Peer::dialled(options(|recovery| recovery));
        let notices = peer.machine.listen();
        let (id, channel, tag) = peer.consumer(terms);
        Self {
            peer,
            id,
            channel,
            tag,
            notices,
        }
    }

    /// Sends the broker's cancel of the consumer.
    fn cancel(&mut self) {
        let consumer_tag = short(&self.tag);
        self.peer.method(
            self.channel,
            &basic::Cancel {
                consumer_tag,
                nowait: true,
            },
        );
    }

    /// Closes the channel of the consumer.
    fn close(&mut self, (code, text): (u16, &str)) {
        self.peer.method(self.channel, &channel_close(code, text));
    }

    /// Replies to everything, and to `basic.consume` as well. Returns how many were sent.
    fn accept(&mut self) -> usize {
        let sent = self.peer.serve();
        let consumes: Vec<_> = sent.iter().filter(|it| it.is(basic::Consume::ID)).collect();
        self.channel = consumes.last().map_or(self.channel, |it| it.channel);
        consumes.len()
    }

    /// Replies to everything, but refuses each `basic.consume`. Returns how many were sent.
    fn refuse(&mut self, (code, text): (u16, &str)) -> usize {
        crate::refused::refuse(&mut self.peer, (code, text))
    }

    /// Takes one delivery.
    fn take_delivery(&mut self) -> Delivered {
        let mut taken = VecDeque::new();
        self.peer.machine.take_deliveries(self.id, 1, &mut taken);
        taken.pop_front().expect("a delivery is buffered")
    }

    fn ended(&self) -> Option<&Ended> {
        self.peer
            .machine
            .consumer(self.id)
            .and_then(|it| it.ended())
    }

    /// Returns the notices about consumers, as words.
    fn notices(&mut self) -> Vec<&'static str> {
        let notices = std::iter::from_fn(|| self.peer.machine.take_notice(self.notices));
        notices
            .filter_map(|notice| match notice {
                Notice::ConsumerInterrupted { .. } => Some("interrupted"),
                Notice::ConsumerRestored(_) => Some("restored"),
                Notice::ConsumerCancelled(_) => Some("cancelled"),
                _ => None,
            })
            .collect()
    }

    /// Lets time pass, with heartbeats.
    fn pass(&mut self, time: Duration) {
        self.peer.feed(&raw(8, 0, b""));
        self.peer.pass(time);
    }
}

#[test]
fn consumer_survives_a_cancel_by_the_server() {
    let mut world = World::new();
    world.cancel();
    assert_eq!(world.accept(), 1);
    assert!(world.ended().is_none());
    assert_eq!(world.notices(), ["interrupted", "restored"]);
    assert_eq!(world.peer.machine.counters().restarted_consumers, 1);
    world.peer.deliver(world.channel, &world.tag, 1, b"after");
    assert_eq!(world.peer.take_deliveries(world.id).len(), 1);
}

#[test]
fn ack_timeout_over_a_restart_is_retried() {
    let mut world = World::new();
    world.cancel();
    assert_eq!(world.refuse(ACK_TIMEOUT), 1);
    assert!(world.ended().is_none());
    world.pass(SECOND);
    assert_eq!(world.accept(), 1);
    assert_eq!(world.notices(), ["interrupted", "restored"]);
}

#[test]
fn interrupted_consumer_keeps_its_prefetch_count() {
    for closes in [false, true] {
        let mut world = World::with(&Consume {
            prefetch_count: 7,
            ..consume("q")
        });
        if closes {
            world.close(ACK_TIMEOUT);
        } else {
            world.cancel();
        }
        let counts: Vec<u16> = (world.peer.serve().iter())
            .filter_map(|frame| match frame.method() {
                Method::Basic(basic::Method::Qos(it)) => Some(it.prefetch_count),
                _ => None,
            })
            .collect();
        assert_eq!(counts, [7], "closes: {closes}");
    }
}

#[test]
fn consumer_survives_the_close_of_its_channel() {
    for close in [
        ACK_TIMEOUT,
        (406, "PRECONDITION_FAILED - unknown delivery tag 7"),
        NODE_DOWN,
    ] {
        let mut world = World::new();
        world.close(close);
        assert_eq!(world.accept(), 1, "{close:?}");
        assert!(world.ended().is_none());
        assert_eq!(world.notices(), ["interrupted", "restored"]);
    }
}

#[test]
fn deliveries_before_a_cancel_can_be_settled() {
    let mut world = World::new();
    world.peer.deliver(world.channel, &world.tag, 1, b"one");
    world.peer.deliver(world.channel, &world.tag, 2, b"two");
    let before = world.channel;
    let taken = world.take_delivery();
    world.cancel();
    assert_eq!(world.accept(), 1);
    assert_ne!(world.channel, before);
    let settle = Settle::Ack { multiple: false };
    world.peer.machine.settle(&taken, settle).unwrap();
    let buffered = world.take_delivery();
    world.peer.machine.settle(&buffered, settle).unwrap();
    assert_eq!(world.peer.machine.counters().stale, 0);
}

#[test]
fn dropped_consumer_returns_deliveries_before_a_cancel() {
    for restarts in [false, true] {
        let mut world = World::new();
        world.peer.deliver(world.channel, &world.tag, 1, b"one");
        let before = world.channel;
        world.cancel();
        if restarts {
            assert_eq!(world.accept(), 1);
        }
        world.peer.machine.drop_consumer(world.id);
        let sent = world.peer.serve();
        let is_returned = |frame: &Sent| {
            frame.channel == before && (frame.is(basic::Nack::ID) || frame.is(basic::Reject::ID))
        };
        assert!(sent.iter().any(is_returned), "restarts: {restarts}");
    }
}

#[test]
fn deliveries_before_an_ack_timeout_are_lost() {
    let mut world = World::new();
    world.peer.deliver(world.channel, &world.tag, 1, b"one");
    world.peer.deliver(world.channel, &world.tag, 2, b"two");
    let taken = world.take_delivery();
    world.close(ACK_TIMEOUT);
    assert_eq!(world.accept(), 1);
    let settle = Settle::Ack { multiple: false };
    assert!(matches!(
        world.peer.machine.settle(&taken, settle),
        Err(Error::Stale)
    ));
    assert!(world.peer.take_deliveries(world.id).is_empty());
    assert_eq!(world.peer.machine.counters().lost_deliveries, 1);
}

#[test]
fn close_after_a_cancel_spares_new_deliveries() {
    let mut world = World::new();
    world.peer.deliver(world.channel, &world.tag, 1, b"old");
    let before = world.channel;
    world.cancel();
    world.accept();
    world.peer.deliver(world.channel, &world.tag, 1, b"new");
    world
        .peer
        .method(before, &channel_close(ACK_TIMEOUT.0, ACK_TIMEOUT.1));
    world.accept();
    let bodies: Vec<_> = world
        .peer
        .take_deliveries(world.id)
        .into_iter()
        .map(|it| it.message.body().to_vec())
        .collect();
    assert_eq!(bodies, [b"new"]);
    assert!(world.ended().is_none());
}

#[test]
fn deleted_queue_ends_its_consumer_at_once() {
    let mut world = World::new();
    world.cancel();
    assert_eq!(world.refuse(NO_QUEUE), 1);
    assert!(matches!(world.ended(), Some(Ended::CancelledByServer)));
    assert_eq!(world.notices(), ["interrupted", "cancelled"]);
}

#[test]
fn first_cause_ends_a_consumer() {
    let mut world = World::new();
    world.close(ACK_TIMEOUT);
    assert_eq!(world.refuse(NO_QUEUE), 1);
    let ended = world.ended();
    assert!(
        matches!(ended, Some(Ended::AckTimeout(Error::PreconditionFailed(_)))),
        "{ended:?}"
    );
}

#[test]
fn ack_timeout_has_a_reason_of_its_own() {
    for (close, is_timeout) in [
        (ACK_TIMEOUT, true),
        // This is LavinMQ's text.
        ((406, "PRECONDITION_FAILED - consumer timeout"), true),
        ((406, "PRECONDITION_FAILED - unknown delivery tag 7"), false),
    ] {
        let mut world = World::with(&Consume {
            resubscribe: Some(Resubscribe::never()),
            ..consume("q")
        });
        world.close(close);
        assert_eq!(
            matches!(world.ended(), Some(Ended::AckTimeout(_))),
            is_timeout
        );
        assert_eq!(world.accept(), 0);
    }
}

#[test]
fn policy_waits_for_a_deleted_queue() {
    let policy = Resubscribe::for_time(60 * SECOND).wait_for_queue(true);
    let mut world = World::with(&Consume {
        resubscribe: Some(policy),
        ..consume("q")
    });
    world.cancel();
    assert_eq!(world.refuse(NO_QUEUE), 1);
    let mut refused = 0;
    for _ in 0..30 {
        world.pass(SECOND);
        refused += world.refuse(NO_QUEUE);
    }
    assert!((4..=10).contains(&refused), "{refused}");
    assert!(world.ended().is_none());
    world.pass(5 * SECOND);
    assert_eq!(world.accept(), 1);
    assert_eq!(world.notices(), ["interrupted", "restored"]);
}

#[test]
fn refusals_end_a_consumer_at_the_limit() {
    let mut world = World::new();
    world.cancel();
    let mut refused = world.refuse(NODE_DOWN);
    let begin = world.peer.now;
    while world.ended().is_none() {
        assert!(world.peer.now < begin + 61 * SECOND);
        world.pass(SECOND / 2);
        refused += world.refuse(NODE_DOWN);
    }
    assert!(world.peer.now >= begin + 60 * SECOND);
    assert!((10..20).contains(&refused), "{refused}");
    assert!(matches!(world.ended(), Some(Ended::CancelledByServer)));
}

#[test]
fn restarts_are_paced_if_the_broker_cancels_again() {
    let mut world = World::new();
    let mut restarts = 0;
    for _ in 0..240 {
        world.cancel();
        restarts += world.accept();
        world.pass(SECOND / 4);
        restarts += world.accept();
    }
    assert!((8..=20).contains(&restarts), "{restarts} in a minute");
    assert!(world.ended().is_none());
}

#[test]
fn stable_consumer_restarts_without_a_delay() {
    let mut world = World::new();
    for _ in 0..3 {
        world.cancel();
        assert_eq!(world.accept(), 1);
        for _ in 0..4 {
            world.pass(15 * SECOND);
            world.accept();
        }
    }
}

#[test]
fn cancelled_interrupted_consumer_ends() {
    for drop in [false, true] {
        let mut world = World::new();
        world.cancel();
        world.refuse(NODE_DOWN);
        if drop {
            world.peer.machine.drop_consumer(world.id);
            assert!(world.peer.machine.consumer(world.id).is_none());
        } else {
            world.peer.machine.cancel(world.id).unwrap();
            assert!(matches!(world.ended(), Some(Ended::Cancelled)));
        }
        world.pass(10 * SECOND);
        assert_eq!(world.accept(), 0);
        assert!(drop || matches!(world.ended(), Some(Ended::Cancelled)));
    }
}

#[test]
fn loss_restarts_an_interrupted_consumer() {
    let mut world = World::new();
    world.cancel();
    world.refuse(NODE_DOWN);
    world.peer.machine.handle_loss(Broken::Eof);
    world.peer.dial();
    world
        .peer
        .complete_handshake(crate::peer::tune(2047, 131_072, 60));
    assert_eq!(world.accept(), 1);
    assert!(world.ended().is_none());
    assert_eq!(world.notices(), ["interrupted", "restored"]);
}

#[test]
fn close_of_the_connection_ends_an_interrupted_consumer() {
    let mut world = World::new();
    world.cancel();
    world.refuse(NODE_DOWN);
    world.peer.machine.close();
    world.accept();
    assert!(
        matches!(world.ended(), Some(Ended::ConnectionBroken(Error::Closed))),
        "{:?}",
        world.ended()
    );
}

#[test]
fn interrupted_stream_continues_behind_the_last_delivery() {
    let mut arguments = Table::new();
    arguments.insert("x-stream-offset", "first").unwrap();
    let mut world = World::with(&Consume {
        arguments: arguments.as_ref(),
        prefetch_count: 10,
        ..consume("q")
    });
    for offset in 0..3 {
        let number = offset as u64 + 1;
        arrives_at(
            &mut world.peer,
            world.channel,
            &world.tag,
            number,
            Some(offset),
        );
    }
    let _taken = world.take_delivery();
    world.cancel();
    let sent = world.peer.serve();
    assert_eq!(offsets(&sent), [1]);
    assert!(world.peer.take_deliveries(world.id).is_empty());
}

#[test]
fn requests_go_on_while_a_consumer_waits() {
    let mut world = World::new();
    world.cancel();
    world.refuse(NODE_DOWN);
    let declared = world
        .peer
        .machine
        .request(crate::peer::declare("other"))
        .unwrap();
    world.refuse(NODE_DOWN);
    assert!(matches!(world.peer.machine.fetch(declared), Some(Ok(_))));
}

#[test]
fn changes_of_a_shared_count_all_complete() {
    let mut peer = Peer::dialled(options(|recovery| recovery));
    let settings = crate::peer::shared(5);
    let promise = peer
        .machine
        .consume_multi(&[consume("q")], &settings)
        .unwrap();
    let sent = peer.serve();
    let started = sent
        .iter()
        .find(|sent| sent.is(basic::Consume::ID))
        .unwrap();
    let (channel, tag) = (started.channel, crate::peer::tag_of(started));
    let Some(Ok(puka::machine::Reply::Consumer(id))) = peer.machine.fetch(promise) else {
        panic!()
    };
    peer.method(channel, &channel_close(ACK_TIMEOUT.0, ACK_TIMEOUT.1));
    // consume is sent, not answered
    let sent = peer.serve_with(|it| {
        if it.is(basic::Consume::ID) {
            None
        } else {
            crate::peer::reply_to(it)
        }
    });
    let one = peer.machine.qos(id, 7).unwrap();
    let two = peer.machine.qos(id, 9).unwrap();
    for it in sent.iter().filter(|it| it.is(basic::Consume::ID)) {
        let reply = crate::peer::reply_to(it).unwrap();
        peer.feed(&reply);
    }
    peer.serve();
    let _ = tag;
    peer.expect_done(two);
    peer.expect_done(one);
}

#[test]
fn ack_multiple_covers_earlier_channels() {
    let mut world = World::new();
    world.peer.deliver(world.channel, &world.tag, 1, b"before");
    let first = world.take_delivery();
    world.cancel();
    assert_eq!(world.accept(), 1);
    world.peer.deliver(world.channel, &world.tag, 1, b"after");
    let second = world.take_delivery();
    world
        .peer
        .machine
        .settle(&second, Settle::Ack { multiple: true })
        .unwrap();
    let sent = world.peer.serve();
    let acks: Vec<_> = sent
        .iter()
        .filter(|it| it.is(basic::Ack::ID))
        .map(|it| it.channel)
        .collect();
    let again = world
        .peer
        .machine
        .settle(&first, Settle::Ack { multiple: false });
    assert!(again.is_err(), "acks on {acks:?}, first is still unsettled");
}

#[test]
fn failed_ack_multiple_leaves_earlier_channels() {
    let mut world = World::new();
    world.peer.deliver(world.channel, &world.tag, 1, b"before");
    let first = world.take_delivery();
    world.cancel();
    assert_eq!(world.accept(), 1);
    world.peer.deliver(world.channel, &world.tag, 1, b"after");
    let second = world.take_delivery();
    let machine = &mut world.peer.machine;
    let ack = |multiple| Settle::Ack { multiple };
    machine.settle(&second, ack(false)).unwrap();
    let again = machine.settle(&second, ack(true));
    assert!(matches!(again, Err(Error::Stale)), "{again:?}");
    machine.settle(&first, ack(false)).unwrap();
}

#[test]
fn waiting_for_a_queue_outlasts_a_loss() {
    let policy = Resubscribe::for_time(Duration::from_secs(3600)).wait_for_queue(true);
    let mut world = World::with(&Consume {
        resubscribe: Some(policy),
        ..consume("q")
    });
    world.cancel();
    world.refuse(NO_QUEUE);
    assert!(world.ended().is_none());
    world.peer.machine.handle_loss(Broken::Eof);
    world.peer.reconnect();
    let begin = world.peer.now;
    while world.ended().is_none() && world.peer.now < begin + 1000 * SECOND {
        world.refuse(NO_QUEUE);
        world.pass(SECOND);
    }
    assert!(
        world.ended().is_none(),
        "ended {:?} after {:?}",
        world.ended(),
        world.peer.now - begin
    );
}

/// Returns the offsets at which streams are consumed.
fn offsets(sent: &[Sent]) -> Vec<i64> {
    let consumes = sent.iter().filter(|frame| frame.is(basic::Consume::ID));
    consumes
        .filter_map(|frame| match frame.method() {
            Method::Basic(basic::Method::Consume(it)) => {
                it.arguments.get("x-stream-offset")?.as_i64()
            }
            _ => None,
        })
        .collect()
}

/// Returns the channels on which deliveries were returned.
fn nacked(sent: &[Sent]) -> Vec<u16> {
    let nacks = sent.iter().filter(|it| it.is(basic::Nack::ID));
    nacks.map(|it| it.channel).collect()
}

#[test]
fn end_returns_deliveries_of_earlier_channels() {
    for (is_restarted, drop) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut world = World::new();
        world.peer.deliver(world.channel, &world.tag, 1, b"before");
        let before = world.channel;
        world.cancel();
        if is_restarted {
            world.accept();
        } else {
            world.refuse(NODE_DOWN);
        }
        if drop {
            world.peer.machine.drop_consumer(world.id);
        } else {
            world.peer.machine.cancel(world.id).unwrap();
        }
        assert_eq!(nacked(&world.peer.serve()), [before]);
    }
}

#[test]
fn recover_requeues_deliveries_of_earlier_channels() {
    for is_restarted in [false, true] {
        let mut world = World::new();
        world.peer.deliver(world.channel, &world.tag, 1, b"taken");
        world
            .peer
            .deliver(world.channel, &world.tag, 2, b"buffered");
        let taken = world.take_delivery();
        let before = world.channel;
        world.cancel();
        if is_restarted {
            world.accept();
        } else {
            world.refuse(NODE_DOWN);
        }
        let recovered = world.peer.machine.recover(world.id).unwrap();
        assert_eq!(nacked(&world.peer.serve()), [before]);
        if is_restarted {
            world.peer.method(world.channel, &basic::RecoverOk {});
        }
        world.peer.expect_done(recovered);
        assert!(world.peer.take_deliveries(world.id).is_empty());
        let settle = Settle::Ack { multiple: false };
        assert!(world.peer.machine.settle(&taken, settle).is_err());
    }
}

#[test]
fn wait_for_queue_ends_with_the_policy() {
    for (time, is_lost) in [(6, true), (600, true), (600, false)] {
        let policy = Resubscribe::for_time(time * SECOND).wait_for_queue(true);
        let mut world = World::with(&Consume {
            resubscribe: Some(policy),
            ..consume("q")
        });
        world.cancel();
        world.refuse(NO_QUEUE);
        let begin = world.peer.now;
        if is_lost {
            world.peer.machine.handle_loss(Broken::Eof);
            world.peer.reconnect();
        }
        while world.ended().is_none() && world.peer.now < begin + 700 * SECOND {
            world.refuse(NO_QUEUE);
            world.pass(SECOND);
        }
        let waited = (world.peer.now - begin).as_secs();
        let time = u64::from(time);
        assert!(
            (time..=time + 10).contains(&waited),
            "{waited} s of {time} s"
        );
    }
}

#[test]
fn replaced_stream_is_read_from_its_beginning() {
    let mut arguments = Table::new();
    arguments.insert("x-stream-offset", "next").unwrap();
    let mut world = World::with(&Consume {
        arguments: arguments.as_ref(),
        prefetch_count: 10,
        resubscribe: Some(Resubscribe::default().wait_for_queue(true)),
        ..consume("q")
    });
    arrives_at(&mut world.peer, world.channel, &world.tag, 1, Some(41));
    let _taken = world.take_delivery();
    world.cancel();
    assert_eq!(world.refuse(NO_QUEUE), 1);
    world.pass(SECOND);
    let sent = world.peer.serve();
    assert_eq!(offsets(&sent), [0]);
}

#[test]
fn got_message_does_not_settle_earlier_deliveries() {
    let mut world = World::new();
    // The first channel is free again after its only delivery is settled, and a get uses it.
    world.peer.deliver(world.channel, &world.tag, 1, b"one");
    let one = world.take_delivery();
    world.cancel();
    world.accept();
    let ack = Settle::Ack { multiple: false };
    world.peer.machine.settle(&one, ack).unwrap();
    world.peer.serve();
    // A second channel has a buffered delivery.
    world
        .peer
        .deliver(world.channel, &world.tag, 1, b"buffered");
    world.cancel();
    world.pass(SECOND);
    world.accept();
    let got = world.peer.get_message(1, b"got");
    let all = Settle::Ack { multiple: true };
    world.peer.machine.settle(&got, all).unwrap();
    world.peer.serve();
    let buffered = world.take_delivery();
    world.peer.machine.settle(&buffered, ack).unwrap();
}

#[test]
fn restart_without_a_reply_is_repeated() {
    let mut world = World::new();
    world.cancel();
    let begin = world.peer.now;
    let (mut restarts, mut closes) = (0, 0);
    while world.ended().is_none() && world.peer.now < begin + 200 * SECOND {
        let sent = world.peer.serve_with(|sent| {
            let is_restart = sent.is(basic::Consume::ID);
            (!is_restart).then(|| crate::peer::reply_to(sent)).flatten()
        });
        restarts += sent.iter().filter(|it| it.is(basic::Consume::ID)).count();
        closes += sent.iter().filter(|it| it.is(channel::Close::ID)).count();
        world.pass(SECOND);
    }
    assert!((2..=3).contains(&restarts), "{restarts}");
    closes += world
        .peer
        .take()
        .iter()
        .filter(|it| it.is(channel::Close::ID))
        .count();
    assert_eq!(closes, restarts);
    assert!(matches!(world.ended(), Some(Ended::CancelledByServer)));
    assert!(world.peer.now < begin + 95 * SECOND);
    let declared = crate::peer::declare("other");
    let declared = world.peer.machine.request(declared).unwrap();
    world.peer.serve();
    assert!(matches!(world.peer.machine.fetch(declared), Some(Ok(_))));
}
