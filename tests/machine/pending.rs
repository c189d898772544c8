//! The outcome of pending work after a loss: deliveries, publishes, and requests.

use crate::peer::{Peer, ack, consume, declare, method, publish, short, tune};
use crate::recovering::{dialled, options, replied};
use puka::machine::{Notice, Reply, Settle};
use puka::protocol::method::{basic, channel, queue};
use puka::protocol::{ContentHeader, Value};
use puka::{Broken, Error};

#[test]
fn r4_stale_deliveries_cannot_be_settled() {
    let mut peer = dialled();
    let (consumer, number, tag) = peer.consumer(&consume("q"));
    peer.deliver(number, &tag, 1, b"old");
    let old = peer.take_deliveries(consumer).remove(0);
    peer.reconnect();
    peer.serve();
    peer.deliver(1, &tag, 1, b"new");
    let new = peer.take_deliveries(consumer).remove(0);
    for how in [
        Settle::Ack { multiple: true },
        Settle::Reject { requeue: true },
    ] {
        assert!(matches!(peer.machine.settle(&old, how), Err(Error::Stale)));
    }
    assert!(peer.names().is_empty(), "nothing is sent");
    peer.machine
        .settle(&new, Settle::Ack { multiple: false })
        .unwrap();
    assert_eq!(peer.names(), ["1 basic.ack"]);
}

#[test]
fn r7_stale_buffered_deliveries_are_dropped_and_counted() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    let mut it = consume("q");
    it.prefetch_count = 10;
    let (consumer, number, tag) = peer.consumer(&it);
    let mut unacked = consume("free");
    unacked.no_ack = true;
    let (free, free_number, free_tag) = peer.consumer(&unacked);
    for delivery in 1..=3 {
        peer.deliver(number, &tag, delivery, b"old");
        peer.deliver(free_number, &free_tag, delivery, b"kept");
    }
    peer.reconnect();
    let sent: Vec<_> = peer.serve();
    let names: Vec<_> = sent.iter().map(crate::peer::Sent::name).collect();
    assert_eq!(
        names,
        [
            "1 channel.open",
            "1 basic.qos",
            "1 basic.consume",
            "2 channel.open",
            "2 basic.consume"
        ]
    );
    assert_eq!(crate::peer::tag_of(&sent[2]), tag, "the tag is kept");
    peer.deliver(1, &tag, 1, b"new");
    let bodies: Vec<_> = peer
        .take_deliveries(consumer)
        .iter()
        .map(|it| it.message.body().to_vec())
        .collect();
    assert_eq!(bodies, [b"new"]);
    assert_eq!(
        peer.machine.consumer(consumer).unwrap().lost_deliveries(),
        3
    );
    assert_eq!(
        peer.take_deliveries(free).len(),
        3,
        "no-ack deliveries are not lost"
    );
    let received: Vec<_> = std::iter::from_fn(|| peer.machine.take_notice(listener)).collect();
    match &received[..] {
        [
            Notice::Disconnected(_),
            Notice::Retrying { .. },
            Notice::Recovered(report),
        ] => {
            assert_eq!(
                (report.epoch, report.consumers, report.lost_deliveries),
                (2, 2, 3)
            );
            assert!(report.failed.is_empty());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn r8_sent_publishes_become_unconfirmed_and_unsent_ones_wait() {
    let mut peer = dialled();
    let sent = peer.machine.publish(&publish("", "sent")).unwrap();
    peer.serve();
    peer.machine.handle_loss(Broken::Eof);
    match peer.error(sent) {
        Error::Unconfirmed(cause) => {
            assert!(matches!(*cause, Error::ConnectionBroken(Broken::Eof)))
        }
        other => panic!("{other:?}"),
    }
    let waits = peer.machine.publish(&publish("", "waits")).unwrap();
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
    let names: Vec<_> = peer.serve().iter().map(crate::peer::Sent::name).collect();
    assert!(names.contains(&"1 body 5".to_owned()), "{names:?}");
    peer.method(1, &ack(1, false));
    peer.expect_done(waits);
    assert!(peer.machine.is_idle());
}

#[test]
fn publish_stopped_by_flow_leaves_after_a_loss() {
    let mut peer = dialled();
    let first = peer.machine.publish(&publish("", "1")).unwrap();
    peer.serve();
    peer.method(1, &ack(1, false));
    peer.expect_done(first);
    peer.method(1, &channel::Flow { active: false });
    let stopped = peer.machine.publish(&publish("", "2")).unwrap();
    // The attempt fails.
    peer.method(1, &channel::Flow { active: false });
    assert!(!peer.serve().iter().any(|sent| sent.is(basic::Publish::ID)));
    peer.reconnect();
    assert!(peer.serve().iter().any(|sent| sent.is(basic::Publish::ID)));
    peer.method(1, &ack(1, false));
    peer.expect_done(stopped);
}

#[test]
fn r8_at_least_once_republishes_in_order_and_reports() {
    let mut peer = Peer::dialled(options(|recovery| recovery.republish_unconfirmed(2)));
    let promises: Vec<_> = (0..4)
        .map(|n| peer.machine.publish(&publish("", vec![n; 5])).unwrap())
        .collect();
    peer.serve();
    peer.method(1, &ack(2, false));
    peer.expect_done(promises[1]);
    let republished = |peer: &mut Peer| {
        let sent = peer.serve();
        let headers = sent.iter().filter(|it| it.name().contains("header"));
        let attempts: Vec<_> = headers
            .map(|it| {
                let header = ContentHeader::decode(&it.payload).unwrap();
                let headers = header
                    .properties
                    .headers
                    .map(|headers| headers.table().unwrap());
                headers
                    .and_then(|headers| headers.get("x-puka-republished"))
                    .and_then(Value::as_i64)
            })
            .collect();
        let bodies = sent
            .iter()
            .filter(|it| it.name().contains("body"))
            .map(|it| it.payload[0]);
        (bodies.collect::<Vec<_>>(), attempts)
    };
    peer.machine.handle_loss(Broken::Eof);
    let new = peer.machine.publish(&publish("", vec![9; 5])).unwrap();
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
    assert_eq!(
        republished(&mut peer),
        (vec![0, 2, 3, 9], vec![Some(1), Some(1), Some(1), None])
    );
    peer.method(1, &ack(1, true));
    peer.expect_done(promises[0]);
    peer.reconnect();
    assert_eq!(
        republished(&mut peer),
        (vec![2, 3, 9], vec![Some(2), Some(2), Some(1)])
    );
    // Two attempts were allowed.
    peer.reconnect();
    assert!(matches!(peer.error(promises[2]), Error::Unconfirmed(_)));
    assert_eq!(republished(&mut peer), (vec![9], vec![Some(2)]));
    assert!(matches!(peer.error(promises[3]), Error::Unconfirmed(_)));
    peer.method(1, &ack(1, false));
    peer.expect_done(new);
    assert!(peer.machine.is_idle());
}

#[test]
fn republished_message_never_fails_for_certain() {
    type Refusal = fn(&mut Peer);
    let refusals: [(Refusal, bool); 4] = [
        (
            |peer| {
                peer.method(
                    1,
                    &crate::peer::channel_close(404, "NOT_FOUND - no exchange 'x'"),
                )
            },
            true,
        ),
        (
            |peer| {
                peer.method(
                    1,
                    &basic::Nack {
                        delivery_tag: 1,
                        multiple: false,
                        requeue: false,
                    },
                )
            },
            true,
        ),
        (
            |peer| {
                let mut stamp = puka::protocol::Table::new();
                stamp.insert("x-puka-publish", 1).unwrap();
                let mut properties = puka::protocol::Properties::default();
                properties.headers = Some(stamp.as_ref().into());
                let returned = basic::Return {
                    reply_code: 312,
                    reply_text: short("NO_ROUTE"),
                    exchange: short("x"),
                    routing_key: short("key"),
                };
                peer.feed(&[method(1, &returned), crate::peer::header(1, 0, properties)].concat());
            },
            true,
        ),
        (|peer| peer.method(1, &ack(1, false)), false),
    ];
    for (place, (refuse, fails)) in refusals.into_iter().enumerate() {
        let mut peer = Peer::dialled(options(|recovery| recovery.republish_unconfirmed(2)));
        let message = puka::machine::Publish {
            mandatory: true,
            ..publish("x", "")
        };
        let promise = peer.machine.publish(&message).unwrap();
        peer.serve();
        peer.reconnect();
        peer.serve();
        refuse(&mut peer);
        if fails {
            let error = peer.error(promise);
            let is_reported = matches!(
                &error,
                Error::Unconfirmed(cause)
                    if matches!(**cause, Error::NotFound(_) | Error::Nacked | Error::NoRoute(_))
            );
            assert!(is_reported, "{place}: {error:?}");
            assert_eq!(peer.machine.counters().unconfirmed, 1, "{place}");
        } else {
            peer.expect_done(promise);
        }
        // The first attempt of another publish is certain again.
        let promise = peer.machine.publish(&publish("gone", "")).unwrap();
        let channel = peer
            .serve()
            .iter()
            .find(|it| it.is(basic::Publish::ID))
            .unwrap()
            .channel;
        peer.method(
            channel,
            &crate::peer::channel_close(404, "NOT_FOUND - no exchange 'gone'"),
        );
        assert!(matches!(peer.error(promise), Error::NotFound(_)), "{place}");
    }
}

#[test]
fn r9_only_repeatable_requests_are_repeated() {
    let mut peer = dialled();
    let declared = peer.machine.request(declare("q")).unwrap();
    let got = peer.get();
    let no_ack = peer
        .machine
        .request(basic::Get {
            queue: short("q"),
            no_ack: true,
        })
        .unwrap();
    let purged = peer
        .machine
        .request(queue::Purge {
            queue: short("q"),
            nowait: false,
        })
        .unwrap();
    let delete = queue::Delete {
        queue: short("q"),
        if_unused: false,
        if_empty: false,
        nowait: false,
    };
    let deleted = peer.machine.request(delete).unwrap();
    let unnamed = peer.machine.request(declare("")).unwrap();
    let mut own = declare("");
    own.exclusive = true;
    let own = peer.machine.request(own).unwrap();
    peer.take();
    peer.reconnect();
    for promise in [no_ack, purged, deleted, unnamed] {
        let error = peer.error(promise);
        assert!(
            matches!(error, Error::ConnectionBroken(Broken::OutcomeUnknown(_))),
            "{error:?}"
        );
    }
    let names: Vec<_> = peer.serve().iter().map(crate::peer::Sent::name).collect();
    let again: Vec<_> = names
        .iter()
        .filter(|name| !name.contains("channel.open"))
        .collect();
    assert_eq!(again, ["1 queue.declare", "2 basic.get", "3 queue.declare"]);
    assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
    assert!(matches!(replied(&mut peer, own), Reply::Queue(_)));
    peer.method(2, &basic::GetEmpty {});
    assert!(matches!(replied(&mut peer, got), Reply::Delivery(None)));
}
