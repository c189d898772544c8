//! Channels closed by the broker or by us, their numbers, and requests beyond `channel_max`.

use crate::peer::{Peer, ack, channel_close, consume, declare, method, publish, reply_to};
use puka::machine::Reply;
use puka::protocol::method::{basic, channel, queue};
use puka::{Error, Options};
use std::time::Duration;

fn ok(name: &str) -> queue::DeclareOk<'_> {
    queue::DeclareOk {
        queue: crate::peer::short(name),
        message_count: 0,
        consumer_count: 0,
    }
}

/// Returns a connection with one publish channel, number 1, which is being closed to free it for
/// another exchange.
fn closing_one() -> Peer {
    let mut peer = Peer::open(Options::default().publish_channels(1));
    let first = peer.machine.publish(&publish("a", "x")).unwrap();
    peer.serve();
    peer.method(1, &ack(1, false));
    peer.expect_done(first);
    let _second = peer.machine.publish(&publish("b", "x")).unwrap();
    let sent = peer.take();
    assert_eq!(sent[0].name(), "1 channel.close");
    peer.inbox.extend(sent);
    peer
}

#[test]
fn e26_channel_close_fails_only_its_request() {
    let mut peer = Peer::open(Options::default().request_channels(1).channel_max(1));
    let failed = peer.machine.request(declare("a")).unwrap();
    let next = peer.machine.request(declare("b")).unwrap();
    assert_eq!(peer.names(), ["1 channel.open", "1 queue.declare"]);
    peer.method(1, &channel::OpenOk {});
    peer.method(
        1,
        &channel_close(406, "PRECONDITION_FAILED - inequivalent arg"),
    );
    assert!(matches!(peer.error(failed), Error::PreconditionFailed(_)));
    assert!(peer.is_pending(next));
    assert_eq!(
        peer.names(),
        ["1 channel.close-ok", "1 channel.open", "1 queue.declare"]
    );
    peer.feed(&[method(1, &channel::OpenOk {}), method(1, &ok("b"))].concat());
    assert!(matches!(
        peer.machine.fetch(next),
        Some(Ok(Reply::Queue(_)))
    ));
}

#[test]
fn v04_soft_error_ends_only_one_request() {
    let mut peer = Peer::open(Options::default());
    let (consumer, channel, tag) = peer.consumer(&consume("q"));
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    let failed = peer.machine.request(declare("a")).unwrap();
    let fine = peer.machine.request(declare("b")).unwrap();
    let names: Vec<_> = peer.take().iter().map(|sent| sent.name()).collect();
    assert_eq!(
        names
            .iter()
            .filter(|name| name.ends_with("channel.open"))
            .count(),
        3,
        "{names:?}"
    );
    for number in 2..=4 {
        peer.method(number, &channel::OpenOk {});
    }
    peer.method(2, &puka::protocol::method::confirm::SelectOk {});
    peer.method(3, &channel_close(404, "NOT_FOUND - no queue"));
    peer.method(4, &ok("b"));
    peer.method(2, &ack(1, false));
    peer.deliver(channel, &tag, 1, b"x");
    assert!(matches!(peer.error(failed), Error::NotFound(_)));
    assert!(matches!(
        peer.machine.fetch(fine),
        Some(Ok(Reply::Queue(_)))
    ));
    peer.expect_done(sent);
    assert_eq!(peer.take_deliveries(consumer).len(), 1);
    assert!(peer.machine.why_closed().is_none());
}

#[test]
fn e27_channel_number_is_not_reused_before_close_ok() {
    let mut peer = Peer::open(Options::default().channel_max(1));
    let first = peer.machine.publish(&publish("a", "x")).unwrap();
    peer.serve();
    peer.method(1, &ack(1, false));
    peer.expect_done(first);
    let second = peer.machine.publish(&publish("b", "x")).unwrap();
    assert_eq!(peer.names(), ["1 channel.close"]);
    // Frames before `close-ok` are discarded.
    peer.method(1, &ack(9, true));
    peer.content(1, &crate::peer::deliver("?", 1), b"x");
    peer.method(1, &channel::Flow { active: false });
    assert!(peer.names().is_empty());
    assert!(peer.is_pending(second));
    peer.method(1, &channel::CloseOk {});
    let names = peer.names();
    assert_eq!(
        names[..3],
        ["1 channel.open", "1 confirm.select", "1 basic.publish"],
        "{names:?}"
    );
}

#[test]
fn e27_crossing_channel_closes_are_answered_with_close_ok() {
    let mut peer = closing_one();
    peer.inbox.clear();
    peer.method(1, &channel_close(404, "NOT_FOUND"));
    assert_eq!(peer.names(), ["1 channel.close-ok"]);
    peer.method(1, &channel::CloseOk {});
    assert!(peer.machine.why_closed().is_none());
    assert_eq!(peer.machine.stats().open_channels, 1);
}

#[test]
fn e27_repeated_crossing_close_is_answered_once() {
    let mut peer = closing_one();
    peer.inbox.clear();
    for _ in 0..3 {
        peer.method(1, &channel_close(404, "NOT_FOUND"));
    }
    assert_eq!(
        peer.names(),
        ["1 channel.close-ok"],
        "after it the server does not know the channel"
    );
    peer.method(1, &channel::CloseOk {});
    assert_eq!(peer.machine.stats().open_channels, 1);
}

#[test]
fn e28_frames_behind_the_servers_channel_close_are_discarded() {
    // The close of a channel overtakes RabbitMQ's deliveries, which arrive until the number is
    // opened again.
    let mut peer = Peer::open(Options::default().channel_max(1));
    let (_, channel, tag) = peer.consumer(&crate::peer::consume("q"));
    peer.method(channel, &channel_close(404, "NOT_FOUND"));
    peer.deliver(channel, &tag, 1, b"late");
    assert_eq!(peer.names(), [format!("{channel} channel.close-ok")]);
    let got = peer.get();
    assert_eq!(
        peer.names(),
        [
            format!("{channel} channel.open"),
            format!("{channel} basic.get")
        ]
    );
    peer.deliver(channel, &tag, 2, b"later still");
    peer.method(channel, &channel::OpenOk {});
    peer.method(channel, &basic::GetEmpty {});
    assert!(matches!(
        peer.machine.fetch(got),
        Some(Ok(Reply::Delivery(None)))
    ));
    assert!(peer.names().is_empty() && peer.machine.why_closed().is_none());
}

#[test]
fn e28_settling_deliveries_of_closed_channels_sends_nothing() {
    let mut peer = Peer::open(Options::default());
    let (consumer, channel, tag) = peer.consumer(&consume("q"));
    peer.deliver(channel, &tag, 1, b"x");
    let delivered = peer.take_deliveries(consumer).remove(0);
    peer.method(
        channel,
        &channel_close(406, "PRECONDITION_FAILED - timeout"),
    );
    assert_eq!(peer.names(), [format!("{channel} channel.close-ok")]);
    let settled = peer
        .machine
        .settle(&delivered, puka::machine::Settle::Ack { multiple: false });
    assert!(matches!(settled, Err(Error::Stale)));
    assert!(peer.names().is_empty());
    match peer.machine.consumer(consumer).and_then(|it| it.ended()) {
        Some(puka::Ended::ChannelClosed(Error::PreconditionFailed(_))) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn e28_v08_reused_channel_number_receives_no_old_acks() {
    let mut peer = Peer::open(Options::default().channel_max(1).request_channels(1));
    let old = peer.get_message(1, b"old");
    peer.method(1, &channel_close(406, "PRECONDITION_FAILED"));
    peer.serve();
    let new = peer.get_message(1, b"new");
    let settled = peer
        .machine
        .settle(&old, puka::machine::Settle::Ack { multiple: true });
    assert!(matches!(settled, Err(Error::Stale)));
    peer.machine.give_back(&old);
    assert!(peer.names().is_empty());
    peer.machine
        .settle(&new, puka::machine::Settle::Ack { multiple: false })
        .unwrap();
    assert_eq!(peer.names(), ["1 basic.ack"]);
}

#[test]
fn refused_reopening_of_a_channel_fails_its_request() {
    let mut peer = Peer::open(Options::default().channel_max(1).request_channels(1));
    let first = peer.machine.request(declare("first")).unwrap();
    peer.serve_with(|it| it.is(channel::Open::ID).then(|| reply_to(it))?);
    peer.method(1, &channel_close(403, "ACCESS_REFUSED"));
    assert!(matches!(peer.error(first), Error::AccessRefused(_)));
    let second = peer.machine.request(declare("second")).unwrap();
    assert_eq!(
        peer.names(),
        ["1 channel.close-ok", "1 channel.open", "1 queue.declare"]
    );
    peer.method(1, &channel_close(405, "RESOURCE_LOCKED"));
    assert!(matches!(peer.error(second), Error::ResourceLocked(_)));
    assert_eq!(peer.names(), ["1 channel.close-ok"]);
}

#[test]
fn e29_lowest_free_number_is_used_first() {
    let mut peer = Peer::open(Options::default().channel_max(4));
    for _ in 0..4 {
        let _request = peer.machine.request(declare("q")).unwrap();
    }
    peer.names();
    let mut opened = Vec::new();
    for number in [3, 1, 4, 2] {
        peer.feed(
            &[
                method(number, &channel::OpenOk {}),
                method(number, &channel_close(404, "?")),
            ]
            .concat(),
        );
    }
    peer.names();
    for _ in 0..4 {
        let _request = peer.machine.request(declare("q")).unwrap();
        opened.extend(
            peer.take()
                .iter()
                .filter(|sent| sent.is(channel::Open::ID))
                .map(|sent| sent.channel),
        );
    }
    assert_eq!(opened, [1, 2, 3, 4]);
}

#[test]
fn e29_channel_without_close_ok_keeps_its_number() {
    let mut peer = closing_one();
    peer.pass(Duration::from_secs(29));
    for _ in 0..10 {
        let _promise = peer.machine.request(declare("q")).unwrap();
    }
    let mut sent = peer.take();
    sent.retain(|sent| sent.is(channel::Open::ID));
    assert!(
        sent.len() >= 10 && sent.iter().all(|sent| sent.channel != 1),
        "{sent:?}"
    );
}

#[test]
fn s60_consumers_leave_channels_for_requests_and_publishes() {
    let mut peer = Peer::open(Options::default().channel_max(4));
    let mut promises = Vec::new();
    for round in 0..6 {
        // A request in between leaves a channel in the pool, which the next consumer could use.
        let request = peer.machine.request(declare("q")).unwrap();
        promises.push(peer.machine.consume(&consume("q")).unwrap());
        peer.serve();
        assert!(
            matches!(peer.machine.fetch(request), Some(Ok(Reply::Queue(_)))),
            "round {round}"
        );
    }
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    let names: Vec<_> = peer.serve().iter().map(|sent| sent.name()).collect();
    assert!(
        names.iter().any(|name| name.ends_with("basic.publish")),
        "{names:?}"
    );
    assert!(peer.is_pending(sent));
    let started = promises
        .into_iter()
        .filter_map(|promise| peer.machine.fetch(promise))
        .filter(Result::is_ok);
    assert_eq!(started.count(), 2, "the others are queued");
}

#[test]
fn s60_consumer_without_channel_closes_no_publish_channel() {
    let mut peer = Peer::open(Options::default().channel_max(4));
    let _consumers = [peer.consumer(&consume("a")), peer.consumer(&consume("b"))];
    let sent = peer.machine.publish(&publish("", "x")).unwrap();
    peer.serve();
    peer.method(3, &ack(1, false));
    peer.expect_done(sent);
    let refused = peer.machine.consume(&consume("c")).unwrap();
    let names = peer.names();
    assert!(matches!(peer.error(refused), Error::ChannelLimit));
    assert!(
        names.is_empty(),
        "two channels are reserved for requests and publishes: {names:?}"
    );
}

#[test]
fn s60_one_publish_that_waits_closes_one_idle_channel() {
    let mut peer = Peer::open(Options::default().channel_max(2));
    for (number, exchange) in [(1, "a"), (2, "b")] {
        let sent = peer.machine.publish(&publish(exchange, "x")).unwrap();
        peer.serve();
        peer.method(number, &ack(1, false));
        peer.expect_done(sent);
    }
    let _waiting = peer.machine.publish(&publish("c", "x")).unwrap();
    assert_eq!(peer.names(), ["1 channel.close"]);
    for _ in 0..3 {
        peer.feed(&crate::peer::raw(8, 0, b""));
    }
    assert!(
        peer.names().is_empty(),
        "only close-ok of the first is missing"
    );
}

#[test]
fn s60_requests_beyond_channel_max_are_queued() {
    let mut peer = Peer::open(Options::default().request_channels(3));
    let promises: Vec<_> = (0..100)
        .map(|_| peer.machine.request(declare("q")).unwrap())
        .collect();
    let sent = peer.take();
    assert_eq!(
        sent.iter()
            .filter(|sent| sent.is(queue::Declare::ID))
            .count(),
        3
    );
    peer.inbox.extend(sent);
    peer.serve();
    for promise in promises {
        assert!(matches!(
            peer.machine.fetch(promise),
            Some(Ok(Reply::Queue(_)))
        ));
    }
    assert_eq!(peer.machine.stats().open_channels, 3);
}

#[test]
fn a12_channels_that_the_server_invents_are_not_opened() {
    for number in [1, 2, 2048, 65_535] {
        let mut peer = Peer::open(Options::default());
        peer.method(number, &channel::OpenOk {});
        assert!(matches!(peer.close_reason(), Error::ChannelError(_)));
        assert_eq!(peer.machine.stats().open_channels, 0);
    }
}

#[test]
fn e48_publishes_to_many_exchanges_replace_idle_channels_first() {
    let mut peer = Peer::open(Options::default().publish_channels(3));
    for round in 0..20 {
        let exchange = format!("e{round}");
        let promise = peer.machine.publish(&publish(&exchange, "x")).unwrap();
        let mut served = Vec::new();
        loop {
            let sent = peer.take();
            if sent.is_empty() {
                break;
            }
            sent.iter()
                .filter_map(reply_to)
                .for_each(|bytes| peer.feed(&bytes));
            served.extend(sent);
        }
        let number = served
            .iter()
            .find(|sent| sent.is(basic::Publish::ID))
            .unwrap()
            .channel;
        peer.method(number, &ack(1, false));
        peer.expect_done(promise);
        assert!(
            peer.machine.stats().open_channels <= 4,
            "{}",
            peer.machine.stats().open_channels
        );
    }
}

#[test]
fn settled_get_frees_a_channel_for_a_publish() {
    let mut peer = Peer::open_with(Options::default(), crate::peer::tune(3, 0, 0));
    let _consumer = peer.consumer(&consume("q"));
    let unsettled = peer.get_message(1, b"x");
    let _stuck = peer.machine.request(declare("stuck")).unwrap();
    assert_eq!(peer.names(), ["3 channel.open", "3 queue.declare"]);
    let publishing = peer.machine.publish(&publish("", "x")).unwrap();
    assert!(peer.serve().is_empty(), "there is no channel");
    peer.machine
        .settle(&unsettled, puka::machine::Settle::Ack { multiple: false })
        .unwrap();
    let sent = peer.serve();
    assert!(
        sent.iter().any(|sent| sent.is(basic::Publish::ID)),
        "{sent:?}"
    );
    peer.method(2, &ack(1, false));
    peer.expect_done(publishing);
}
