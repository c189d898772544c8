//! Requests that time out on their channel, and gets that keep their channel.

use crate::peer::{
    Peer, channel_close, consume, declare, get_ok, method, publish, reply_to, short, tune,
};
use puka::machine::{Delivered, PromiseId, Reply, Settle};
use puka::protocol::method::{basic, channel, queue};
use puka::{Error, Options, Recovery};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Returns a connection with a pool of this many channels and no heartbeats.
fn pool_of(channels: u16) -> Peer {
    Peer::open_with(
        Options::default().request_channels(channels).heartbeat(0),
        tune(2047, 0, 0),
    )
}

fn ok(name: &str) -> queue::DeclareOk<'_> {
    queue::DeclareOk {
        queue: short(name),
        message_count: 0,
        consumer_count: 0,
    }
}

fn count(names: &[String], name: &str) -> usize {
    names.iter().filter(|sent| sent.ends_with(name)).count()
}

fn timed_out(peer: &mut Peer, promise: PromiseId) {
    assert!(matches!(
        peer.error(promise),
        Error::Timeout {
            what: "the request",
            ..
        }
    ));
}

fn declared(peer: &mut Peer) {
    let request = peer.machine.request(declare("q")).unwrap();
    peer.serve();
    assert!(matches!(
        peer.machine.fetch(request),
        Some(Ok(Reply::Queue(_)))
    ));
}

#[test]
fn stuck_gets_hold_up_no_other_request() {
    let mut peer = pool_of(4);
    let gets = [(); 4].map(|()| peer.get());
    let waiting = peer.machine.request(declare("waits")).unwrap();
    peer.pass(30 * SECOND);
    gets.into_iter().for_each(|get| timed_out(&mut peer, get));
    timed_out(&mut peer, waiting);
    let names = peer.names();
    assert_eq!(
        (
            count(&names, "channel.open"),
            count(&names, "channel.close")
        ),
        (4, 4),
        "{names:?}"
    );
    let next = peer.machine.request(declare("next")).unwrap();
    assert_eq!(peer.names(), ["5 channel.open", "5 queue.declare"]);
    peer.feed(&[method(5, &channel::OpenOk {}), method(5, &ok("next"))].concat());
    assert!(matches!(
        peer.machine.fetch(next),
        Some(Ok(Reply::Queue(_)))
    ));
    peer.pass(60 * SECOND);
    assert!(peer.names().is_empty(), "each channel is closed once");
}

#[test]
fn late_message_of_a_get_stays_unsettled() {
    for has_begun in [false, true] {
        let mut peer = pool_of(4);
        let get = peer.get();
        peer.take();
        peer.method(1, &channel::OpenOk {});
        if has_begun {
            peer.method(1, &get_ok(1));
        }
        peer.pass(30 * SECOND);
        timed_out(&mut peer, get);
        assert_eq!(peer.names(), ["1 channel.close"]);
        if has_begun {
            peer.feed(&crate::peer::header(
                1,
                0,
                puka::protocol::Properties::default(),
            ));
        } else {
            peer.content(1, &get_ok(1), b"late");
        }
        peer.method(1, &channel::CloseOk {});
        assert!(
            peer.names().is_empty(),
            "closing its channel has requeued it"
        );
        assert!(peer.machine.is_idle() && peer.machine.why_closed().is_none());
    }
}

#[test]
fn late_reply_is_still_recorded() {
    let options = Options::default()
        .recovery(Recovery::default())
        .heartbeat(0);
    let mut peer = Peer::dialled(options);
    let request = peer.machine.request(declare("late")).unwrap();
    peer.take();
    peer.pass(30 * SECOND);
    timed_out(&mut peer, request);
    let late = [
        method(1, &channel::OpenOk {}),
        method(1, &ok("late")),
        method(1, &channel::CloseOk {}),
    ];
    peer.feed(&late.concat());
    peer.take();
    peer.reconnect();
    assert_eq!(
        count(&peer.names(), "queue.declare"),
        1,
        "the broker has it, so it is declared again"
    );
}

#[test]
fn refusal_that_crosses_the_close_is_answered_once() {
    let mut peer = pool_of(4);
    let request = peer.machine.request(declare("q")).unwrap();
    peer.pass(30 * SECOND);
    timed_out(&mut peer, request);
    peer.take();
    for _ in 0..2 {
        peer.method(1, &channel_close(404, "NOT_FOUND"));
    }
    assert_eq!(peer.names(), ["1 channel.close-ok"]);
    peer.method(1, &channel::CloseOk {});
    assert_eq!(peer.machine.stats().open_channels, 0);
    assert!(peer.machine.is_idle());
}

#[test]
fn unanswered_requests_use_few_channels() {
    let mut peer = pool_of(4);
    let mut sent = Vec::new();
    for _ in 0..50 {
        let requests: Vec<_> = (0..8)
            .map(|_| peer.machine.request(declare("q")).unwrap())
            .collect();
        peer.pass(30 * SECOND);
        requests
            .into_iter()
            .for_each(|request| timed_out(&mut peer, request));
        sent.extend(peer.take());
    }
    let names: Vec<_> = sent.iter().map(crate::peer::Sent::name).collect();
    assert_eq!(
        (
            count(&names, "channel.open"),
            count(&names, "channel.close")
        ),
        (16, 16)
    );
    // The broker continues and replies to everything.
    sent.iter()
        .filter_map(reply_to)
        .for_each(|answer| peer.feed(&answer));
    declared(&mut peer);
    assert_eq!(peer.machine.stats().open_channels, 1);
}

#[test]
fn overdue_channels_leave_numbers_for_others() {
    let options = Options::default().request_channels(8).heartbeat(0);
    let mut peer = Peer::open_with(options, tune(16, 0, 0));
    for _ in 0..8 {
        for _ in 0..16 {
            peer.machine.request(declare("q")).unwrap();
        }
        peer.pass(30 * SECOND);
    }
    assert_eq!(peer.machine.stats().open_channels, 12, "a quarter is left");
    peer.take();
    let _published = peer.machine.publish(&publish("other", "x")).unwrap();
    assert_eq!(count(&peer.names(), "basic.publish"), 1);
}

/// Gets messages until no more may stay unsettled.
fn get_until_limit(peer: &mut Peer) -> Vec<Delivered> {
    let mut unsettled = Vec::new();
    loop {
        let get = peer.get();
        if let Some(refused) = peer.machine.fetch(get) {
            assert!(matches!(refused, Err(Error::ChannelLimit)), "{refused:?}");
            return unsettled;
        }
        let channel = peer.serve().last().unwrap().channel;
        peer.content(channel, &get_ok(1), b"x");
        let Some(Ok(Reply::Delivery(Some(got)))) = peer.machine.fetch(get) else {
            panic!("no message")
        };
        unsettled.push(got.delivered);
    }
}

#[test]
fn unsettled_gets_leave_channels_for_other_requests() {
    for (numbers, most) in [(3, 1), (4, 2), (10, 7), (20, 16), (2047, 1790)] {
        let mut peer = Peer::open(Options::default().channel_max(numbers));
        let unsettled = get_until_limit(&mut peer);
        assert_eq!(unsettled.len(), most, "{numbers} channels");
        declared(&mut peer);
        let _published = peer.machine.publish(&publish("other", "x")).unwrap();
        assert_eq!(
            count(&peer.names(), "basic.publish"),
            1,
            "{numbers} channels"
        );
        if numbers >= 10 {
            peer.consumer(&consume("q"));
        }
        peer.machine
            .settle(&unsettled[0], Settle::Ack { multiple: false })
            .unwrap();
        if numbers < 10 {
            peer.get_message(2, b"another");
        }
    }
}

#[test]
fn few_channels_still_get_one_message() {
    for numbers in [1, 2] {
        let mut peer = Peer::open(Options::default().channel_max(numbers));
        assert_eq!(get_until_limit(&mut peer).len(), 1, "{numbers} channels");
    }
}

#[test]
fn consumers_leave_one_channel_for_a_get() {
    let mut peer = Peer::open(Options::default().channel_max(10));
    for _ in 0..8 {
        peer.consumer(&consume("q"));
    }
    assert_eq!(get_until_limit(&mut peer).len(), 1);
    declared(&mut peer);
}

#[test]
fn get_waits_for_a_possibly_empty_get() {
    let mut peer = Peer::open(Options::default().channel_max(4));
    let gets = [(); 3].map(|()| peer.get());
    let names: Vec<_> = peer.serve().iter().map(crate::peer::Sent::name).collect();
    assert_eq!(count(&names, "basic.get"), 2);
    peer.method(1, &basic::GetEmpty {});
    assert!(matches!(
        peer.machine.fetch(gets[0]),
        Some(Ok(Reply::Delivery(None)))
    ));
    assert_eq!(count(&peer.names(), "basic.get"), 1);
    for (number, get) in [(1, gets[2]), (2, gets[1])] {
        peer.content(number, &get_ok(1), b"x");
        assert!(matches!(
            peer.machine.fetch(get),
            Some(Ok(Reply::Delivery(Some(_))))
        ));
    }
}

#[test]
fn gets_without_acknowledgement_are_not_limited() {
    let mut peer = Peer::open(Options::default().channel_max(4));
    let _held = get_until_limit(&mut peer);
    let get = peer
        .machine
        .request(basic::Get {
            queue: short("q"),
            no_ack: true,
        })
        .unwrap();
    let channel = peer.serve().last().unwrap().channel;
    peer.content(channel, &get_ok(1), b"x");
    assert!(matches!(
        peer.machine.fetch(get),
        Some(Ok(Reply::Delivery(Some(_))))
    ));
}
