//! Deliveries that the program never receives: they are requeued once, after the cancel, and never
//! in a loop.

use crate::peer::{Peer, Sent, consume, declare, deliver, method, short, tag_of};
use puka::machine::{Consume, ConsumerId, Reply, Settle};
use puka::protocol::method::{Encode, basic, channel};
use puka::protocol::{FrameKind, Method, Properties, Table};
use puka::{Ended, Error, Options};

const ACK: Settle = Settle::Ack { multiple: false };

/// Returns the methods that were written, with the tag and the flag of each nack and ack.
fn written(sent: &[Sent]) -> Vec<String> {
    let mut all = Vec::new();
    for one in sent.iter().filter(|sent| sent.kind == FrameKind::Method) {
        all.push(match one.method() {
            Method::Basic(basic::Method::Nack(basic::Nack {
                delivery_tag,
                multiple,
                requeue,
            })) => {
                assert!(requeue, "it would be lost");
                format!(
                    "nack {delivery_tag}{}",
                    if multiple { " multiple" } else { "" }
                )
            }
            Method::Basic(basic::Method::Ack(basic::Ack {
                delivery_tag,
                multiple,
            })) => {
                format!(
                    "ack {delivery_tag}{}",
                    if multiple { " multiple" } else { "" }
                )
            }
            other => other.id().to_string(),
        });
    }
    all
}

fn take(peer: &mut Peer) -> Vec<String> {
    written(&peer.take())
}

fn cancel_ok(peer: &mut Peer, channel: u16, tag: &str) {
    peer.method(
        channel,
        &basic::CancelOk {
            consumer_tag: short(tag),
        },
    );
}

/// The server ends a consumer, as RabbitMQ does.
fn server_cancel(peer: &mut Peer, channel: u16, tag: &str) {
    peer.method(
        channel,
        &basic::Cancel {
            consumer_tag: short(tag),
            nowait: true,
        },
    );
}

fn consumer(deliveries: u64) -> (Peer, ConsumerId, u16, String) {
    let mut peer = Peer::open(Options::default());
    let (id, channel, tag) = peer.consumer(&consume("q"));
    for number in 1..=deliveries {
        peer.deliver(channel, &tag, number, b"x");
    }
    (peer, id, channel, tag)
}

/// Returns `true` if a request is sent on this channel.
fn reuses(peer: &mut Peer, channel: u16) -> bool {
    let _request = peer.machine.request(declare("next")).unwrap();
    let sent = peer.take();
    // The number is free once the close has a reply.
    sent.first()
        .is_some_and(|sent| sent.channel == channel && !sent.is(channel::Open::ID))
}

#[test]
fn one_nack_follows_cancel_ok() {
    for is_dropped in [false, true] {
        let (mut peer, id, channel, tag) = consumer(3);
        if is_dropped {
            peer.machine.drop_consumer(id);
        } else {
            let _cancelled = peer.machine.cancel(id).unwrap();
        }
        peer.deliver(channel, &tag, 4, b"late");
        assert_eq!(
            take(&mut peer),
            ["basic.cancel"],
            "the broker would deliver them again"
        );
        peer.deliver(channel, &tag, 5, b"later");
        cancel_ok(&mut peer, channel, &tag);
        assert_eq!(take(&mut peer), ["nack 5 multiple"]);
        assert!(reuses(&mut peer, channel));
    }
}

#[test]
fn nack_does_not_cover_unsettled_deliveries() {
    let (mut peer, id, channel, tag) = consumer(2);
    let unsettled = peer.take_deliveries(id);
    for number in 3..=5 {
        peer.deliver(channel, &tag, number, b"x");
    }
    let _cancelled = peer.machine.cancel(id).unwrap();
    peer.machine.settle(&unsettled[0], ACK).unwrap();
    assert_eq!(take(&mut peer), ["basic.cancel", "ack 1"]);
    cancel_ok(&mut peer, channel, &tag);
    assert_eq!(take(&mut peer), ["nack 3", "nack 4", "nack 5"]);
    assert!(!reuses(&mut peer, channel), "one is unsettled");
    peer.machine.settle(&unsettled[1], ACK).unwrap();
    assert_eq!(take(&mut peer), ["ack 2"]);
    assert!(reuses(&mut peer, channel));
}

#[test]
fn pending_acks_leave_before_the_nack() {
    let (mut peer, id, channel, tag) = consumer(2);
    let unsettled = peer.take_deliveries(id);
    peer.deliver(channel, &tag, 3, b"x");
    peer.deliver(channel, &tag, 4, b"x");
    let _cancelled = peer.machine.cancel(id).unwrap();
    assert_eq!(take(&mut peer), ["basic.cancel"]);
    unsettled
        .iter()
        .for_each(|unsettled| peer.machine.settle(unsettled, ACK).unwrap());
    cancel_ok(&mut peer, channel, &tag);
    assert_eq!(take(&mut peer), ["ack 2 multiple", "nack 4 multiple"]);
}

#[test]
fn deliveries_that_a_holder_returns_join_the_nack() {
    // A consumer handle has taken them and not returned them to the program.
    let (mut peer, id, channel, tag) = consumer(2);
    let taken = peer.take_deliveries(id);
    peer.deliver(channel, &tag, 3, b"x");
    taken
        .iter()
        .for_each(|delivered| peer.machine.return_later(delivered));
    peer.machine.drop_consumer(id);
    assert_eq!(take(&mut peer), ["basic.cancel"]);
    cancel_ok(&mut peer, channel, &tag);
    assert_eq!(take(&mut peer), ["nack 3 multiple"]);
    assert!(peer.machine.is_idle());
}

#[test]
fn multiple_ack_leaves_unwanted_deliveries_out() {
    let (mut peer, id, channel, tag) = consumer(3);
    let taken = peer.take_deliveries(id);
    peer.machine.return_later(&taken[0]);
    let cancelled = peer.machine.cancel(id).unwrap();
    peer.machine
        .settle(&taken[2], Settle::Ack { multiple: true })
        .unwrap();
    assert_eq!(take(&mut peer), ["basic.cancel", "ack 3", "ack 2"]);
    cancel_ok(&mut peer, channel, &tag);
    assert_eq!(take(&mut peer), ["nack 1"], "it was not taken");
    assert!(matches!(
        peer.machine.fetch(cancelled),
        Some(Ok(Reply::Cancelled(_)))
    ));
    peer.machine.drop_consumer(id);
    assert!(peer.machine.is_idle());
}

#[test]
fn resized_consumer_waits_for_every_tag() {
    let mut peer = Peer::open(Options::default());
    let (id, channel, old) = peer.consumer(&Consume {
        prefetch_count: 10,
        ..consume("q")
    });
    peer.deliver(channel, &old, 1, b"x");
    let resized = peer.machine.qos(id, 5).unwrap();
    peer.machine.abandon(resized);
    let sent = peer.take();
    let new = tag_of(sent.last().unwrap());
    peer.machine.drop_consumer(id);
    assert_eq!(take(&mut peer), ["basic.cancel"]);
    peer.method(channel, &basic::QosOk {});
    cancel_ok(&mut peer, channel, &old);
    assert!(
        take(&mut peer).is_empty(),
        "it would be delivered to the other tag"
    );
    peer.method(
        channel,
        &basic::ConsumeOk {
            consumer_tag: short(&new),
        },
    );
    peer.deliver(channel, &new, 2, b"x");
    assert_eq!(take(&mut peer), ["basic.cancel"]);
    cancel_ok(&mut peer, channel, &new);
    assert_eq!(take(&mut peer), ["nack 2 multiple"]);
    assert!(peer.machine.is_idle());
}

#[test]
fn stream_deliveries_are_acknowledged() {
    let mut peer = Peer::open(Options::default());
    let mut arguments = Table::new();
    arguments.insert("x-stream-offset", "first").unwrap();
    let terms = Consume {
        arguments: arguments.as_ref(),
        ..consume("q")
    };
    let (id, channel, tag) = peer.consumer(&terms);
    let mut header = Table::new();
    header.insert("x-stream-offset", 7_i64).unwrap();
    let mut properties = Properties::default();
    properties.headers = Some(header.as_ref().into());
    for number in 1..=2 {
        let bytes = [
            method(channel, &deliver(&tag, number)),
            crate::peer::header(channel, 1, properties),
            crate::peer::raw(3, channel, b"x"),
        ];
        peer.feed(&bytes.concat());
        if number == 1 {
            let _cancelled = peer.machine.cancel(id).unwrap();
        }
    }
    assert_eq!(take(&mut peer), ["basic.cancel", "ack 2 multiple"]);
    cancel_ok(&mut peer, channel, &tag);
    assert!(take(&mut peer).is_empty());
}

#[test]
fn server_cancel_is_confirmed_before_channel_reuse() {
    for nowait in [true, false] {
        let (mut peer, id, channel, tag) = consumer(1);
        peer.method(
            channel,
            &basic::Cancel {
                consumer_tag: short(&tag),
                nowait,
            },
        );
        let answers = if nowait {
            vec!["basic.cancel"]
        } else {
            vec!["basic.cancel-ok", "basic.cancel"]
        };
        assert_eq!(take(&mut peer), answers);
        assert!(matches!(
            peer.machine.consumer(id).and_then(|it| it.ended()),
            Some(Ended::CancelledByServer)
        ));
        let unsettled = peer.take_deliveries(id).remove(0);
        peer.machine.settle(&unsettled, ACK).unwrap();
        assert_eq!(take(&mut peer), ["ack 1"]);
        // RabbitMQ 4.3 continues to deliver until it has our cancel.
        for number in 2..=4 {
            peer.deliver(channel, &tag, number, b"x");
        }
        assert!(take(&mut peer).is_empty());
        assert!(!reuses(&mut peer, channel));
        cancel_ok(&mut peer, channel, &tag);
        assert_eq!(take(&mut peer), ["nack 4 multiple", "channel.close"]);
    }
}

#[test]
fn timed_out_delivery_fails_no_later_request() {
    for settles_late in [false, true] {
        let (mut peer, id, channel, tag) = consumer(2);
        let unsettled = peer.take_deliveries(id);
        server_cancel(&mut peer, channel, &tag);
        if !settles_late {
            unsettled
                .iter()
                .for_each(|unsettled| peer.machine.settle(unsettled, ACK).unwrap());
        }
        take(&mut peer);
        cancel_ok(&mut peer, channel, &tag);
        unsettled
            .iter()
            .filter(|_| settles_late)
            .for_each(|unsettled| peer.machine.settle(unsettled, ACK).unwrap());
        peer.machine.drop_consumer(id);
        assert_eq!(
            take(&mut peer).last().map(String::as_str),
            Some("channel.close")
        );
        // RabbitMQ 4.3 closes the channel itself over the second delivery.
        assert!(!reuses(&mut peer, channel));
    }
}

#[test]
fn settled_channel_is_reused_after_server_cancel() {
    let (mut peer, id, channel, tag) = consumer(1);
    let unsettled = peer.take_deliveries(id).remove(0);
    peer.machine.settle(&unsettled, ACK).unwrap();
    assert_eq!(take(&mut peer), ["ack 1"]);
    server_cancel(&mut peer, channel, &tag);
    take(&mut peer);
    cancel_ok(&mut peer, channel, &tag);
    assert!(reuses(&mut peer, channel));
}

#[test]
fn consumer_dropped_after_server_cancel_awaits_cancel_ok() {
    let (mut peer, id, channel, tag) = consumer(2);
    server_cancel(&mut peer, channel, &tag);
    peer.machine.drop_consumer(id);
    assert_eq!(take(&mut peer), ["basic.cancel"]);
    cancel_ok(&mut peer, channel, &tag);
    assert_eq!(take(&mut peer), ["nack 2 multiple", "channel.close"]);
    peer.method(channel, &channel::CloseOk {});
    assert!(peer.machine.is_idle());
}

#[test]
fn consumer_dropped_after_cancel_ok_returns_at_once() {
    let (mut peer, id, channel, tag) = consumer(2);
    server_cancel(&mut peer, channel, &tag);
    assert_eq!(take(&mut peer), ["basic.cancel"]);
    cancel_ok(&mut peer, channel, &tag);
    assert!(take(&mut peer).is_empty(), "they can still be taken");
    peer.machine.drop_consumer(id);
    assert_eq!(take(&mut peer), ["nack 2 multiple", "channel.close"]);
    peer.method(channel, &channel::CloseOk {});
    assert!(peer.machine.is_idle());
}

#[test]
fn server_cancel_before_consume_ok_is_answered_afterwards() {
    let mut peer = Peer::open(Options::default());
    let promise = peer.machine.consume(&consume("q")).unwrap();
    let tag = tag_of(peer.take().last().unwrap());
    peer.method(1, &channel::OpenOk {});
    server_cancel(&mut peer, 1, &tag);
    assert!(matches!(peer.error(promise), Error::ConsumerCancelled(_)));
    assert!(
        take(&mut peer).is_empty(),
        "RabbitMQ 3.10 would close the connection"
    );
    peer.method(
        1,
        &basic::ConsumeOk {
            consumer_tag: short(&tag),
        },
    );
    assert_eq!(take(&mut peer), ["basic.cancel"]);
    peer.deliver(1, &tag, 1, b"x");
    cancel_ok(&mut peer, 1, &tag);
    assert_eq!(take(&mut peer), ["nack 1"]);
    assert!(peer.machine.is_idle());
}

#[test]
fn delivery_without_consumer_closes_an_unused_channel() {
    let (mut peer, id, channel, tag) = consumer(0);
    peer.machine.drop_consumer(id);
    peer.serve();
    peer.deliver(channel, &tag, 1, b"x");
    assert_eq!(
        take(&mut peer),
        ["channel.close"],
        "it would be delivered again after a requeue"
    );
    peer.method(channel, &channel::CloseOk {});
    assert!(peer.machine.is_idle() && peer.machine.stats().open_channels == 0);
    assert!(!reuses(&mut peer, channel));
}

#[test]
fn delivery_without_consumer_closes_channel_after_request() {
    let mut peer = Peer::open(Options::default());
    let declared = peer.machine.request(declare("q")).unwrap();
    peer.take();
    peer.method(1, &channel::OpenOk {});
    peer.deliver(1, "unknown", 1, b"x");
    assert!(take(&mut peer).is_empty());
    let ok = puka::protocol::method::queue::DeclareOk {
        queue: short("q"),
        message_count: 0,
        consumer_count: 0,
    };
    peer.method(1, &ok);
    assert!(matches!(
        peer.machine.fetch(declared),
        Some(Ok(Reply::Queue(_)))
    ));
    assert_eq!(take(&mut peer), ["channel.close"]);
}

#[test]
fn delivery_without_consumer_is_never_settled() {
    let (mut peer, id, channel, tag) = consumer(1);
    peer.deliver(channel, "unknown", 2, b"unwanted");
    peer.deliver(channel, &tag, 3, b"x");
    for delivered in peer.take_deliveries(id) {
        peer.machine.settle(&delivered, ACK).unwrap();
    }
    assert_eq!(
        take(&mut peer),
        ["ack 1", "ack 3"],
        "an ack of several would cover the delivery without a consumer"
    );
    peer.deliver(channel, &tag, 4, b"x");
    peer.machine.drop_consumer(id);
    assert_eq!(take(&mut peer), ["basic.cancel"]);
    cancel_ok(&mut peer, channel, &tag);
    assert_eq!(
        take(&mut peer),
        ["channel.close"],
        "the broker requeues all of them"
    );
    assert!(peer.machine.is_idle());
}

#[test]
fn delivery_without_consumer_leaves_others_valid() {
    let (mut peer, id, channel, tag) = consumer(1);
    let unsettled = peer.take_deliveries(id).remove(0);
    peer.machine.drop_consumer(id);
    peer.serve();
    peer.deliver(channel, &tag, 2, b"unwanted");
    assert!(take(&mut peer).is_empty());
    peer.machine.settle(&unsettled, ACK).unwrap();
    let mut sent = take(&mut peer);
    sent.sort();
    assert_eq!(sent, ["ack 1", "channel.close"]);
}

#[test]
fn late_deliveries_without_end_are_returned_in_batches() {
    let (mut peer, id, channel, tag) = consumer(0);
    peer.machine.drop_consumer(id);
    assert_eq!(take(&mut peer), ["basic.cancel"]);
    for number in 1..=150_000 {
        peer.deliver(channel, &tag, number, b"");
    }
    let sent = take(&mut peer);
    assert!(
        sent.len() == 2 && sent.iter().all(|sent| sent.ends_with("multiple")),
        "{sent:?}"
    );
    cancel_ok(&mut peer, channel, &tag);
    assert_eq!(take(&mut peer), ["nack 150000 multiple"]);
}

#[test]
fn endless_deliveries_without_consumer_break_the_connection() {
    let (mut peer, _, channel, _) = consumer(0);
    for number in 1..=5000 {
        if peer.machine.why_closed().is_none() {
            peer.deliver(channel, "unknown", number, b"");
        }
    }
    assert!(
        matches!(peer.close_reason(), Error::CommandInvalid(_)),
        "{:?}",
        peer.close_reason()
    );
}
