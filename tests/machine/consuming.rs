//! Consumers: start, deliveries, and every kind of end.

use crate::peer::{Peer, consume, declare, deliver, header, method, raw, short, tag_of};
use puka::machine::{ConsumerId, Event, Reply};
use puka::protocol::Properties;
use puka::protocol::method::{basic, channel};
use puka::{Ended, Error, Options};

fn bodies(peer: &mut Peer, consumer: ConsumerId) -> Vec<Vec<u8>> {
    peer.take_deliveries(consumer)
        .iter()
        .map(|delivered| delivered.message.body().to_vec())
        .collect()
}

fn count(sent: &[crate::peer::Sent], id: puka::protocol::MethodId) -> usize {
    sent.iter().filter(|sent| sent.is(id)).count()
}

#[test]
fn e41_deliveries_around_consume_ok_are_not_lost() {
    let mut peer = Peer::open(Options::default());
    let promise = peer.machine.consume(&consume("q")).unwrap();
    let sent = peer.take();
    let tag = tag_of(sent.last().unwrap());
    let message = |delivery: u64, body: &[u8]| {
        [
            method(1, &deliver(&tag, delivery)),
            header(1, 1, Properties::default()),
            raw(3, 1, body),
        ]
        .concat()
    };
    let ok = method(
        1,
        &basic::ConsumeOk {
            consumer_tag: short(&tag),
        },
    );
    peer.feed(
        &[
            method(1, &channel::OpenOk {}),
            message(1, b"a"),
            ok,
            message(2, b"b"),
        ]
        .concat(),
    );
    let Some(Ok(Reply::Consumer(id))) = peer.machine.fetch(promise) else {
        panic!("it has started")
    };
    assert_eq!(bodies(&mut peer, id), [b"a", b"b"]);
}

#[test]
fn e41_every_consumer_has_a_tag_of_its_own() {
    let mut peer = Peer::open(Options::default());
    let mut terms = consume("q");
    terms.tag = "orders";
    let mut tags: Vec<_> = (0..50).map(|_| peer.consumer(&terms).2).collect();
    assert!(tags.iter().all(|tag| tag.contains("orders")));
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 50);
}

#[test]
fn e42_server_cancel_ends_consumer_after_its_deliveries() {
    for nowait in [true, false] {
        let mut peer = Peer::open(Options::default());
        let (id, channel, tag) = peer.consumer(&consume("q"));
        peer.deliver(channel, &tag, 1, b"a");
        peer.method(
            channel,
            &basic::Cancel {
                consumer_tag: short(&tag),
                nowait,
            },
        );
        let mut expected = vec![
            format!("{channel} basic.cancel-ok"),
            format!("{channel} basic.cancel"),
        ];
        if nowait {
            expected.remove(0);
        }
        assert_eq!(peer.names(), expected);
        assert!(matches!(
            peer.machine.consumer(id).and_then(|it| it.ended()),
            Some(Ended::CancelledByServer)
        ));
        let delivered = peer.take_deliveries(id).remove(0);
        peer.machine
            .settle(&delivered, puka::machine::Settle::Ack { multiple: false })
            .unwrap();
        assert_eq!(peer.names(), [format!("{channel} basic.ack")]);
        peer.machine.drop_consumer(id);
        assert!(!peer.machine.is_idle(), "the broker has not confirmed it");
        peer.method(
            channel,
            &basic::CancelOk {
                consumer_tag: short(&tag),
            },
        );
        assert!(peer.machine.is_idle());
    }
}

#[test]
fn e42_crossing_cancels_end_cleanly_in_either_order() {
    for server_first in [true, false] {
        let mut peer = Peer::open(Options::default());
        let (id, channel, tag) = peer.consumer(&consume("q"));
        let cancelled = peer.machine.cancel(id).unwrap();
        assert_eq!(peer.names(), [format!("{channel} basic.cancel")]);
        let server = method(
            channel,
            &basic::Cancel {
                consumer_tag: short(&tag),
                nowait: true,
            },
        );
        let ok = method(
            channel,
            &basic::CancelOk {
                consumer_tag: short(&tag),
            },
        );
        peer.feed(&if server_first {
            [server, ok].concat()
        } else {
            [ok, server].concat()
        });
        assert!(
            matches!(peer.machine.fetch(cancelled), Some(Ok(Reply::Cancelled(name)))
                if *name == *tag)
        );
        assert!(peer.has_ended(id));
        peer.machine.drop_consumer(id);
        // A second cancel is no error.
        let again: &[String] = if server_first {
            &[]
        } else {
            &[format!("{channel} basic.cancel")]
        };
        assert_eq!(peer.names(), again);
        assert!(peer.machine.is_idle() && peer.machine.why_closed().is_none());
        // The channel is used again.
        let _request = peer.machine.request(declare("q")).unwrap();
        assert_eq!(peer.names(), [format!("{channel} queue.declare")]);
    }
}

#[test]
fn e42_second_cancel_ok_does_no_harm() {
    // RabbitMQ 3.10 does that when a quorum queue is deleted while its consumer is cancelled.
    let mut peer = Peer::open(Options::default());
    let (id, channel, tag) = peer.consumer(&consume("q"));
    peer.machine.drop_consumer(id);
    assert_eq!(peer.names(), [format!("{channel} basic.cancel")]);
    let ok = method(
        channel,
        &basic::CancelOk {
            consumer_tag: short(&tag),
        },
    );
    let server = method(
        channel,
        &basic::Cancel {
            consumer_tag: short(&tag),
            nowait: true,
        },
    );
    peer.feed(&[&*ok, &server, &ok].concat());
    assert!(peer.machine.why_closed().is_none() && peer.machine.is_idle());
    assert_eq!(
        peer.names(),
        [format!("{channel} basic.cancel")],
        "it wants no reply"
    );
    // Nor while the channel is used for something else.
    let purge = puka::protocol::method::queue::Purge {
        queue: short("q"),
        nowait: false,
    };
    let request = peer.machine.request(purge).unwrap();
    assert_eq!(peer.names(), [format!("{channel} queue.purge")]);
    peer.feed(&ok);
    assert!(peer.is_pending(request) && peer.machine.why_closed().is_none());
}

#[test]
fn e43_consumer_dropped_early_is_cancelled_after_consume_ok() {
    let mut peer = Peer::open(Options::default());
    let promise = peer.machine.consume(&consume("q")).unwrap();
    let sent = peer.take();
    let tag = tag_of(sent.last().unwrap());
    peer.machine.abandon(promise);
    peer.method(1, &channel::OpenOk {});
    assert!(
        peer.names().is_empty(),
        "RabbitMQ 3.10 closes the connection over a cancel right behind its consume"
    );
    peer.method(
        1,
        &basic::ConsumeOk {
            consumer_tag: short(&tag),
        },
    );
    let sent = peer.take();
    assert_eq!(
        sent.iter().map(|sent| sent.name()).collect::<Vec<_>>(),
        ["1 basic.cancel"]
    );
    assert_eq!(tag_of(&sent[0]), tag);
}

#[test]
fn e43_deliveries_before_cancel_ok_are_requeued() {
    let mut peer = Peer::open(Options::default());
    let (id, channel, tag) = peer.consumer(&consume("q"));
    peer.deliver(channel, &tag, 1, b"buffered");
    peer.deliver(channel, &tag, 2, b"buffered");
    let cancelled = peer.machine.cancel(id).unwrap();
    peer.deliver(channel, &tag, 3, b"late");
    assert_eq!(peer.names(), [format!("{channel} basic.cancel")]);
    peer.method(
        channel,
        &basic::CancelOk {
            consumer_tag: short(&tag),
        },
    );
    let sent = peer.take();
    assert_eq!(sent.len(), 1);
    let nack = basic::Nack {
        delivery_tag: 3,
        multiple: true,
        requeue: true,
    };
    assert_eq!(sent[0].method(), nack.into());
    assert!(matches!(
        peer.machine.fetch(cancelled),
        Some(Ok(Reply::Cancelled(_)))
    ));
    assert!(peer.take_deliveries(id).is_empty());
    assert!(matches!(
        peer.machine.consumer(id).and_then(|it| it.ended()),
        Some(Ended::Cancelled)
    ));
}

#[test]
fn e43_no_ack_deliveries_are_returned_after_cancel() {
    let mut peer = Peer::open(Options::default());
    let mut terms = consume("q");
    terms.no_ack = true;
    let (id, channel, tag) = peer.consumer(&terms);
    peer.deliver(channel, &tag, 1, b"a");
    let _cancelled = peer.machine.cancel(id).unwrap();
    peer.deliver(channel, &tag, 2, b"b");
    peer.method(
        channel,
        &basic::CancelOk {
            consumer_tag: short(&tag),
        },
    );
    assert_eq!(
        peer.names(),
        [format!("{channel} basic.cancel")],
        "there is nothing to reject"
    );
    assert_eq!(bodies(&mut peer, id), [b"a", b"b"]);
    assert!(matches!(
        peer.machine.consumer(id).and_then(|it| it.ended()),
        Some(Ended::Cancelled)
    ));
}

#[test]
fn e43_two_cancels_send_one_and_are_both_answered() {
    let mut peer = Peer::open(Options::default());
    let (id, ..) = peer.consumer(&consume("q"));
    let promises = [
        peer.machine.cancel(id).unwrap(),
        peer.machine.cancel(id).unwrap(),
    ];
    let sent = peer.serve();
    assert_eq!(count(&sent, basic::Cancel::ID), 1);
    for promise in promises {
        assert!(matches!(
            peer.machine.fetch(promise),
            Some(Ok(Reply::Cancelled(_)))
        ));
    }
    assert!(matches!(peer.machine.cancel(id), Err(Error::Stale)));
}

#[test]
fn e44_delivery_for_an_unknown_tag_closes_its_channel() {
    let mut peer = Peer::open(Options::default());
    let (id, channel, tag) = peer.consumer(&consume("q"));
    let _cancelled = peer.machine.cancel(id).unwrap();
    peer.serve();
    peer.deliver(channel, &tag, 1, b"recently cancelled");
    assert_eq!(peer.names(), [format!("{channel} channel.close")]);
    peer.deliver(channel, "unknown", 2, b"never known");
    assert!(peer.names().is_empty());
    assert!(peer.machine.why_closed().is_none());
}

#[test]
fn e28_channel_close_ends_its_consumer_with_the_error() {
    let mut peer = Peer::open(Options::default());
    let (id, channel, tag) = peer.consumer(&consume("q"));
    peer.deliver(channel, &tag, 1, b"a");
    let cancelling = peer.machine.qos(id, 5).unwrap();
    peer.method(channel, &crate::peer::channel_close(404, "NOT_FOUND"));
    assert!(matches!(peer.error(cancelling), Error::NotFound(_)));
    assert!(
        bodies(&mut peer, id).is_empty(),
        "the broker delivers it again"
    );
    assert!(matches!(
        peer.machine.consumer(id).and_then(|it| it.ended()),
        Some(Ended::ChannelClosed(Error::NotFound(_)))
    ));
}

#[test]
fn v02_dropped_consumer_is_cancelled_and_requeues_its_deliveries() {
    let mut peer = Peer::open(Options::default());
    let (id, channel, tag) = peer.consumer(&consume("q"));
    peer.deliver(channel, &tag, 1, b"a");
    let held = peer.take_deliveries(id).remove(0);
    peer.deliver(channel, &tag, 2, b"b");
    peer.machine.drop_consumer(id);
    let sent = peer.serve();
    assert_eq!(
        (
            count(&sent, basic::Nack::ID),
            count(&sent, basic::Cancel::ID)
        ),
        (1, 1)
    );
    assert!(!peer.machine.is_idle(), "one is unsettled");
    peer.machine
        .settle(&held, puka::machine::Settle::Ack { multiple: false })
        .unwrap();
    assert_eq!(peer.names(), [format!("{channel} basic.ack")]);
    assert!(peer.machine.is_idle());
}

#[test]
fn tag_of_another_channels_consumer_is_unknown() {
    let mut peer = Peer::open(Options::default());
    let (one, channel, tag) = peer.consumer(&consume("one"));
    let (other, _, others) = peer.consumer(&consume("other"));
    let unknown_tags = [
        others.as_str(),
        "",
        "puka",
        "puka.",
        "puka.0",
        "puka..x",
        "puka.999",
        "puka.18446744073709551617",
    ];
    for (tag, number) in unknown_tags.into_iter().zip(1..) {
        peer.deliver(channel, tag, number, b"unwanted");
        assert!(peer.names().is_empty(), "{tag}: it would come again");
        peer.method(
            channel,
            &basic::Cancel {
                consumer_tag: short(tag),
                nowait: true,
            },
        );
        assert_eq!(peer.names(), [format!("{channel} basic.cancel")], "{tag}");
        assert!(!peer.has_ended(one), "{tag}");
    }
    peer.deliver(channel, &tag, 100, b"its own");
    assert_eq!(bodies(&mut peer, one), [b"its own"]);
    assert!(bodies(&mut peer, other).is_empty());
}

#[test]
fn consume_ok_with_another_tag_completes_no_consume() {
    let mut peer = Peer::open(Options::default());
    let (_, _, others) = peer.consumer(&consume("one"));
    let _promise = peer.machine.consume(&consume("other")).unwrap();
    let number = peer.take().last().unwrap().channel;
    peer.method(number, &channel::OpenOk {});
    peer.method(
        number,
        &basic::ConsumeOk {
            consumer_tag: short(&others),
        },
    );
    assert!(matches!(peer.close_reason(), Error::CommandInvalid(_)));
}

#[test]
fn deliveries_ends_and_notices_are_events() {
    let mut peer = Peer::open(Options::default());
    let (id, channel, tag) = peer.consumer(&consume("q"));
    let listener = peer.machine.listen();
    let events = |peer: &mut Peer| -> Vec<Event> {
        std::iter::from_fn(|| peer.machine.poll_event()).collect()
    };
    events(&mut peer);
    for tag_number in 1..=2 {
        peer.deliver(channel, &tag, tag_number, b"x");
        assert!(matches!(events(&mut peer)[..], [Event::Deliveries(of)] if of == id));
        peer.take_deliveries(id);
    }
    peer.method(channel, &crate::peer::channel_close(404, "NOT_FOUND"));
    let closing_events = events(&mut peer);
    assert!(
        closing_events
            .iter()
            .any(|event| matches!(event, Event::Deliveries(of) if *of == id))
    );
    assert!(
        closing_events
            .iter()
            .any(|event| matches!(event, Event::Notices(of) if *of == listener))
    );
}

#[test]
fn connection_with_an_ended_consumer_is_busy() {
    let mut peer = Peer::open(Options::default());
    let (id, ..) = peer.consumer(&consume("q"));
    assert!(!peer.machine.is_idle());
    let cancelled = peer.machine.cancel(id).unwrap();
    peer.serve();
    assert!(
        peer.machine
            .fetch(cancelled)
            .is_some_and(|outcome| outcome.is_ok())
    );
    assert!(
        !peer.machine.is_idle(),
        "its handle may still be asked for the end"
    );
    peer.machine.drop_consumer(id);
    assert!(peer.machine.is_idle());
}

#[test]
fn several_deliveries_cause_one_event() {
    let mut peer = Peer::open(Options::default());
    let (consumer, channel, tag) = peer.consumer(&consume("q"));
    peer.pump();
    for number in 1..=3 {
        peer.deliver(channel, &tag, number, b"x");
    }
    let events = std::iter::from_fn(|| peer.machine.poll_event());
    let of_it = |event: &Event| matches!(event, Event::Deliveries(id) if *id == consumer);
    assert_eq!(events.filter(of_it).count(), 1);
    assert_eq!(peer.take_deliveries(consumer).len(), 3);
}

#[test]
fn arguments_leave_a_frame_room_for_long_names() {
    let mut peer = Peer::open_with(Options::default(), crate::peer::tune(0, 4096, 0));
    let mut largest = 0;
    for size in 3000..4096 {
        let mut arguments = puka::protocol::Table::new();
        arguments.insert("x", "x".repeat(size).as_str()).unwrap();
        let it = puka::machine::Consume {
            arguments: arguments.as_ref(),
            ..consume("q")
        };
        if peer.machine.consume(&it).is_err() {
            break;
        }
        let sent = peer.serve();
        let started = sent.iter().find(|sent| sent.is(basic::Consume::ID));
        largest = started.unwrap().payload.len();
    }
    // The queue and the tag may have 255 bytes each after a recovery.
    let with_names = largest + 2 * 255;
    assert!((4000..=4096).contains(&with_names), "{with_names} bytes");
}

#[test]
fn e44_strays_beyond_the_limit_are_answered_by_503() {
    let mut peer = Peer::open(Options::default());
    let (_, channel, _) = peer.consumer(&consume("q"));
    for number in 1..=4096 {
        peer.deliver(channel, "stray", number, b"");
    }
    assert!(peer.machine.why_closed().is_none());
    peer.deliver(channel, "stray", 4097, b"");
    assert!(matches!(peer.close_reason(), Error::CommandInvalid(_)));
}
