//! Pauses of reading while too many deliveries are buffered: nothing else is delayed for long.

use crate::peer::{
    Peer, Sent, channel_close, consume, declare, deliver, header, method, publish, reply_to,
    shared, short, tag_of,
};
use puka::machine::{Consume, ConsumerId, Reply, Settle};
use puka::protocol::method::{basic, queue};
use puka::protocol::{Method, Properties, Table};
use puka::{Error, Notice, Options, Recovery};
use std::time::Duration;

/// Longer than anything may be delayed by untaken deliveries.
const BOUND: Duration = Duration::from_secs(1);

/// Returns the frames that were written, without settling.
fn names(sent: &[Sent]) -> Vec<String> {
    sent.iter()
        .filter(|sent| !sent.is(basic::Ack::ID))
        .map(Sent::name)
        .collect()
}

/// Returns the prefetch counts that were written.
fn prefetch_counts(sent: &[Sent]) -> Vec<u16> {
    let counts = sent
        .iter()
        .filter(|sent| sent.is(basic::Qos::ID))
        .map(|sent| match sent.method() {
            Method::Basic(basic::Method::Qos(qos)) => qos.prefetch_count,
            other => panic!("{other:?}"),
        });
    counts.collect()
}

#[test]
fn reply_does_not_wait_behind_untaken_deliveries() {
    let mut peer = Peer::open(Options::default().max_buffered_deliveries(10));
    let (id, channel, tag) = peer.consumer(&consume("q"));
    for delivery in 1..=10 {
        peer.deliver(channel, &tag, delivery, b"x");
    }
    assert!(!peer.machine.wants_input());
    let request = peer.machine.request(declare("other")).unwrap();
    assert_eq!(names(&peer.take()), ["2 channel.open", "2 queue.declare"]);
    peer.pass(BOUND);
    assert!(
        peer.machine.wants_input(),
        "the reply is behind the deliveries in the stream"
    );

    // The consumer is throttled: another tag with a prefetch count of 1 replaces it.
    let sent = peer.take();
    assert_eq!(
        names(&sent),
        [
            format!("{channel} basic.qos"),
            format!("{channel} basic.consume")
        ]
    );
    assert_eq!(prefetch_counts(&sent), [1]);
    let throttled = tag_of(&sent[1]);
    // Deliveries in flight arrive, and then the replies.
    for delivery in 11..=15 {
        peer.deliver(channel, &tag, delivery, b"x");
    }
    peer.method(channel, &basic::QosOk {});
    peer.method(
        channel,
        &basic::ConsumeOk {
            consumer_tag: short(&throttled),
        },
    );
    peer.deliver(channel, &throttled, 16, b"x");
    let sent = peer.take();
    assert_eq!(names(&sent), [format!("{channel} basic.cancel")]);
    assert_eq!(tag_of(&sent[0]), tag);
    peer.method(
        channel,
        &basic::CancelOk {
            consumer_tag: short(&tag),
        },
    );
    peer.method(2, &puka::protocol::method::channel::OpenOk {});
    peer.method(
        2,
        &queue::DeclareOk {
            queue: short("other"),
            message_count: 0,
            consumer_count: 0,
        },
    );
    assert!(matches!(
        peer.machine.fetch(request),
        Some(Ok(Reply::Queue(_)))
    ));

    // Nothing is lost, and the order is kept. The consumer has its own terms again once all is
    // taken.
    let taken = peer.take_deliveries(id);
    assert_eq!(
        taken.iter().map(|it| it.tag).collect::<Vec<_>>(),
        (1..=16).collect::<Vec<_>>()
    );
    let sent = peer.take();
    assert_eq!(
        names(&sent),
        [
            format!("{channel} basic.qos"),
            format!("{channel} basic.consume")
        ]
    );
    assert_eq!(prefetch_counts(&sent), [0]);
    let resumed = tag_of(&sent[1]);
    peer.method(channel, &basic::QosOk {});
    peer.method(
        channel,
        &basic::ConsumeOk {
            consumer_tag: short(&resumed),
        },
    );
    assert_eq!(tag_of(&peer.take()[0]), throttled);
    peer.method(
        channel,
        &basic::CancelOk {
            consumer_tag: short(&throttled),
        },
    );
    for delivery in &taken {
        peer.machine
            .settle(delivery, Settle::Ack { multiple: false })
            .unwrap();
    }
    peer.deliver(channel, &resumed, 17, b"x");
    assert_eq!(peer.take_deliveries(id).len(), 1);
    assert!(!peer.has_ended(id) && peer.machine.why_closed().is_none());
}

/// Returns a peer with one consumer that has this many deliveries of one byte buffered, at a limit
/// of 10.
fn paused(it: &Consume<'_>, deliveries: u64) -> (Peer, ConsumerId, u16, String) {
    let mut peer = Peer::open(Options::default().max_buffered_deliveries(10));
    let (id, channel, tag) = peer.consumer(it);
    for delivery in 1..=deliveries {
        peer.deliver(channel, &tag, delivery, b"x");
    }
    (peer, id, channel, tag)
}

/// Sends a request, which throttles the consumer. Returns the frames written for it, after replying
/// to all.
fn throttled(peer: &mut Peer) -> Vec<Sent> {
    let request = peer.machine.request(declare("other")).unwrap();
    peer.pass(BOUND);
    let sent = peer.serve();
    assert!(matches!(
        peer.machine.fetch(request),
        Some(Ok(Reply::Queue(_)))
    ));
    sent.into_iter()
        .filter(|sent| !sent.is(queue::Declare::ID))
        .collect()
}

/// Returns the tags of the consumes and of the cancels.
fn tags(sent: &[Sent]) -> (Vec<String>, Vec<String>) {
    let of = |id| sent.iter().filter(|sent| sent.is(id)).map(tag_of).collect();
    (of(basic::Consume::ID), of(basic::Cancel::ID))
}

#[test]
fn idle_client_is_not_throttled() {
    let (mut peer, id, ..) = paused(&consume("q"), 10);
    let listener = peer.machine.listen();
    peer.names();
    peer.pass(20 * BOUND);
    assert!(!peer.machine.wants_input() && peer.names().is_empty());
    // It is reported once.
    let notice = peer.machine.take_notice(listener);
    assert!(
        matches!(
            notice,
            Some(Notice::ReadingPaused {
                deliveries: 10,
                bytes: 330..
            })
        ),
        "{notice:?}"
    );
    assert!(peer.machine.take_notice(listener).is_none());
    // A new request does not have to wait again.
    let _request = peer.machine.request(declare("other")).unwrap();
    peer.pass(Duration::ZERO);
    assert!(peer.machine.wants_input());
    assert_eq!(peer.take_deliveries(id).len(), 10);
}

#[test]
fn short_pause_does_not_throttle() {
    let (mut peer, id, ..) = paused(&consume("q"), 10);
    let listener = peer.machine.listen();
    let request = peer.machine.request(declare("other")).unwrap();
    peer.pass(BOUND / 4);
    assert_eq!(peer.take_deliveries(id).len(), 10);
    peer.pass(BOUND);
    assert!(tags(&peer.serve()).0.is_empty());
    assert!(matches!(
        peer.machine.fetch(request),
        Some(Ok(Reply::Queue(_)))
    ));
    assert!(peer.machine.take_notice(listener).is_none());
}

#[test]
fn second_pause_does_not_stall_again() {
    let (mut peer, id, channel, _) = paused(&consume("q"), 10);
    throttled(&mut peer);
    assert_eq!(peer.take_deliveries(id).len(), 10);
    let (started, _) = tags(&peer.serve());
    (11..=20).for_each(|delivery| peer.deliver(channel, &started[0], delivery, b"x"));
    assert!(!peer.machine.wants_input());
    let _request = peer.machine.request(declare("other")).unwrap();
    peer.pass(Duration::ZERO);
    assert!(peer.machine.wants_input());
    assert_eq!(tags(&peer.serve()).0.len(), 1);
}

#[test]
fn timeouts_report_that_reading_is_paused() {
    // Consumers that a prefetch count does not slow down, or that can't have a second tag.
    let mut offset = Table::new();
    offset.insert("x-stream-offset", "first").unwrap();
    let each = [
        Consume {
            no_ack: true,
            ..consume("q")
        },
        Consume {
            exclusive: true,
            ..consume("q")
        },
        Consume {
            arguments: offset.as_ref(),
            ..consume("q")
        },
    ];
    for it in each {
        let (mut peer, id, channel, tag) = paused(&it, 10);
        let publish = peer.machine.publish(&publish("", "x")).unwrap();
        let call = peer
            .machine
            .call(&crate::peer::publish("", "x"), None)
            .unwrap();
        let request = peer.machine.request(declare("other")).unwrap();
        peer.pass(BOUND);
        assert!(peer.machine.wants_input(), "up to the hard bound");
        let consumed = peer
            .take()
            .iter()
            .any(|it| it.channel == channel && it.is(basic::Consume::ID));
        assert!(!consumed, "{it:?}");
        (11..=40).for_each(|delivery| peer.deliver(channel, &tag, delivery, b"x"));
        assert!(
            !peer.machine.wants_input(),
            "the hard limit is four times the limit"
        );
        peer.pass(60 * BOUND);
        let error = peer.error(request);
        let Error::ReadingPaused(paused) = &error else {
            panic!("{error:?}")
        };
        assert_eq!((paused.what, paused.deliveries), ("the request", 40));
        let bytes = paused.bytes;
        assert_eq!(
            error.to_string(),
            format!(
                "the request took longer than 30 s; reading is paused: 40 deliveries of {bytes} \
                 bytes are buffered"
            )
        );
        for (promise, what) in [(publish, "the confirm"), (call, "the request")] {
            let error = peer.error(promise);
            let cause = if let Error::Unconfirmed(cause) = &error {
                cause
            } else {
                &error
            };
            assert!(
                matches!(cause, Error::ReadingPaused(paused) if paused.what == what),
                "{error:?}"
            );
        }
        assert_eq!(peer.take_deliveries(id).len(), 40);
        assert!(peer.machine.wants_input() && peer.machine.why_closed().is_none());
    }
}

#[test]
fn stream_without_an_offset_is_not_throttled() {
    let (mut peer, _, channel, tag) = paused(&consume("q"), 9);
    let mut headers = Table::new();
    headers.insert("x-stream-offset", 7_i64).unwrap();
    let mut bytes = method(channel, &deliver(&tag, 10));
    let mut properties = Properties::NONE;
    properties.headers = Some(headers.as_ref().into());
    bytes.extend(header(channel, 0, properties));
    peer.feed(&bytes);
    assert!(!peer.machine.wants_input());
    let (started, _) = tags(&throttled(&mut peer));
    assert!(started.is_empty(), "{started:?}");
}

#[test]
fn only_greedy_consumers_are_throttled() {
    let mut peer = Peer::open(Options::default().max_buffered_deliveries(10));
    let (_, greedy, tag) = peer.consumer(&consume("greedy"));
    let (_, modest, modests_tag) = peer.consumer(&consume("modest"));
    (1..=4).for_each(|delivery| peer.deliver(modest, &modests_tag, delivery, b"x"));
    (1..=6).for_each(|delivery| peer.deliver(greedy, &tag, delivery, b"x"));
    let sent = throttled(&mut peer);
    assert_eq!(tags(&sent).1, [tag]);
    // Until it has its share buffered as well, and more arrives.
    (5..=10).for_each(|delivery| peer.deliver(modest, &modests_tag, delivery, b"x"));
    assert_eq!(tags(&peer.serve()).1, [modests_tag]);
}

#[test]
fn drained_consumer_continues_beside_a_full_one() {
    let mut peer = Peer::open(Options::default().max_buffered_deliveries(10));
    let (read, channel, tag) = peer.consumer(&consume("read"));
    let (_, other, others_tag) = peer.consumer(&consume("unread"));
    for delivery in 1..=5 {
        peer.deliver(channel, &tag, delivery, b"x");
        peer.deliver(other, &others_tag, delivery, b"x");
    }
    let (started, cancelled) = tags(&throttled(&mut peer));
    assert_eq!(cancelled, [tag, others_tag]);
    peer.deliver(other, &started[1], 6, b"x");
    assert_eq!(peer.take_deliveries(read).len(), 5);
    let sent = peer.serve();
    assert_eq!(prefetch_counts(&sent), [0]);
    assert_eq!(tags(&sent).1, started[..1]);
}

#[test]
fn prefetch_count_of_its_own_is_kept() {
    // A second tag would allow more unsettled deliveries than the count.
    for prefetch_count in [1, 19, 20, u16::MAX] {
        let (mut peer, id, _, _) = paused(
            &Consume {
                prefetch_count,
                ..consume("q")
            },
            10,
        );
        let sent = throttled(&mut peer);
        let (started, cancelled) = tags(&sent);
        assert!(
            started.is_empty() && cancelled.is_empty(),
            "{prefetch_count}"
        );
        assert!(
            peer.machine.wants_input(),
            "reading continues for the deliveries in flight"
        );
        peer.take_deliveries(id);
        assert!(prefetch_counts(&peer.serve()).is_empty());
    }
}

#[test]
fn unsettled_deliveries_hold_back_the_prefetch_count() {
    let (mut peer, id, _, _) = paused(&consume("q"), 10);
    let (throttled, _) = tags(&throttled(&mut peer));
    assert_eq!(throttled.len(), 1);
    let resized = peer.machine.qos(id, 10).unwrap();
    peer.expect_done(resized);
    let taken = peer.take_deliveries(id);
    assert!(
        prefetch_counts(&peer.serve()).is_empty(),
        "10 of 10 are unsettled"
    );
    peer.machine
        .settle(&taken[0], Settle::Ack { multiple: false })
        .unwrap();
    assert_eq!(prefetch_counts(&peer.serve()), [10]);
}

#[test]
fn all_queues_of_a_consumer_are_throttled() {
    for prefetch_count in [0, u16::MAX] {
        let mut peer = Peer::open(Options::default().max_buffered_deliveries(10));
        let promise = peer
            .machine
            .consume_multi(&[consume("a"), consume("b")], &shared(prefetch_count));
        let (tags_before, _) = tags(&peer.serve());
        let Some(Ok(Reply::Consumer(id))) = peer.machine.fetch(promise.unwrap()) else {
            panic!("started")
        };
        for delivery in 1..=10 {
            peer.deliver(
                1,
                &tags_before[usize::from(delivery % 2 == 0)],
                delivery,
                b"x",
            );
        }
        let sent = throttled(&mut peer);
        assert_eq!(prefetch_counts(&sent), [1]);
        let (started, cancelled) = tags(&sent);
        assert_eq!((started.len(), cancelled), (2, tags_before));
        assert_eq!(peer.take_deliveries(id).len(), 10);
        let sent = peer.serve();
        assert_eq!(prefetch_counts(&sent), [prefetch_count]);
        assert_eq!(tags(&sent).1, started);
    }
}

#[test]
fn throttled_queues_get_the_last_prefetch_count() {
    for (before, after) in [(0, 50), (u16::MAX, 0), (u16::MAX, 50)] {
        let mut peer = Peer::open(Options::default().max_buffered_deliveries(10));
        let queues = [consume("a"), consume("b")];
        let promise = peer
            .machine
            .consume_multi(&queues, &shared(before))
            .unwrap();
        let (started, _) = tags(&peer.serve());
        let Some(Ok(Reply::Consumer(id))) = peer.machine.fetch(promise) else {
            panic!("started")
        };
        (1..=10).for_each(|delivery| peer.deliver(1, &started[0], delivery, b"x"));
        throttled(&mut peer);
        let changed = peer.machine.qos(id, after).unwrap();
        peer.expect_done(changed);
        assert_eq!(peer.take_deliveries(id).len(), 10);
        assert_eq!(
            prefetch_counts(&peer.serve()).last(),
            Some(&after),
            "{before}"
        );
    }
}

#[test]
fn queues_of_a_throttled_consumer_are_cancelled_together() {
    let mut peer = Peer::open(Options::default().max_buffered_deliveries(10));
    let _promise = peer
        .machine
        .consume_multi(&[consume("a"), consume("b")], &shared(0))
        .unwrap();
    let (before, _) = tags(&peer.serve());
    (1..=10).for_each(|delivery| peer.deliver(1, &before[0], delivery, b"x"));
    let _request = peer.machine.request(declare("other")).unwrap();
    peer.pass(BOUND);
    let (started, _) = tags(&peer.take());
    peer.method(1, &basic::QosOk {});
    peer.method(
        1,
        &basic::ConsumeOk {
            consumer_tag: short(&started[0]),
        },
    );
    assert!(
        tags(&peer.take()).1.is_empty(),
        "the other queue has not started again"
    );
    peer.method(
        1,
        &basic::ConsumeOk {
            consumer_tag: short(&started[1]),
        },
    );
    assert_eq!(tags(&peer.take()).1, before);
}

#[test]
fn throttled_consumer_can_be_ended_in_every_way() {
    for way in 0..4 {
        // Once while the second tag starts, once after it has started.
        for is_answered in [false, true] {
            let (mut peer, id, channel, tag) = paused(&consume("q"), 10);
            let _request = peer.machine.request(declare("other")).unwrap();
            peer.pass(BOUND);
            let mut tag = tag;
            if is_answered {
                tag = tags(&peer.serve()).0.remove(0);
            }
            match way {
                0 => drop(peer.machine.cancel(id).unwrap()),
                1 => peer.machine.drop_consumer(id),
                2 => peer.method(
                    channel,
                    &basic::Cancel {
                        consumer_tag: short(&tag),
                        nowait: true,
                    },
                ),
                _ => peer.method(channel, &channel_close(404, "NOT_FOUND")),
            }
            peer.serve();
            if way == 2 && !is_answered {
                assert!(!peer.has_ended(id), "the second tag is starting");
                peer.machine.drop_consumer(id);
                peer.serve();
            }
            assert!(peer.machine.wants_input() || way == 2);
            assert!(peer.has_ended(id) || way != 0 && way != 3, "{way}");
            peer.take_deliveries(id);
            assert!(
                peer.machine.why_closed().is_none(),
                "{:?}",
                peer.machine.why_closed()
            );
        }
    }
}

#[test]
fn throttled_consumer_keeps_its_prefetch_count() {
    // After a loss, a change of the count and a `recover`.
    for is_answered in [false, true] {
        let recovery = Recovery::default().seed(7);
        let mut peer = Peer::dialled(
            Options::default()
                .max_buffered_deliveries(10)
                .recovery(recovery),
        );
        let (id, channel, tag) = peer.consumer(&consume("q"));
        (1..=10).for_each(|delivery| peer.deliver(channel, &tag, delivery, b"x"));
        let _request = peer.machine.request(declare("other")).unwrap();
        peer.pass(BOUND);
        if is_answered {
            peer.serve();
        }
        let changed = peer.machine.qos(id, 50).unwrap();
        peer.expect_done(changed);
        peer.reconnect();
        let sent = peer.serve();
        assert_eq!(prefetch_counts(&sent), [50]);
        assert_eq!(tags(&sent), (vec![tag], vec![]));
        assert!(
            peer.take_deliveries(id).is_empty(),
            "they will be delivered again"
        );
    }
    let (mut peer, id, channel, _) = paused(&consume("q"), 10);
    throttled(&mut peer);
    let recovered = peer.machine.recover(id).unwrap();
    let sent = peer.take();
    peer.method(channel, &basic::RecoverOk {});
    sent.iter()
        .filter_map(reply_to)
        .for_each(|bytes| peer.feed(&bytes));
    peer.serve();
    peer.expect_done(recovered);
    assert_eq!(prefetch_counts(&sent), [0]);
    assert!(peer.take_deliveries(id).is_empty());
}

#[test]
fn recovery_does_not_wait_behind_untaken_deliveries() {
    let options = Options::default()
        .max_buffered_deliveries(10)
        .recovery(Recovery::default().seed(7));
    let mut peer = Peer::dialled(options);
    let (_, channel, tag) = peer.consumer(&Consume {
        no_ack: true,
        ..consume("q")
    });
    (1..=10).for_each(|delivery| peer.deliver(channel, &tag, delivery, b"x"));
    peer.reconnect();
    peer.take();
    assert!(!peer.machine.wants_input());
    peer.pass(BOUND);
    assert!(peer.machine.wants_input());
}
