//! Strict recoveries: a consumer that cannot be restarted fails the attempt and does not end.

use crate::peer::{
    Peer, channel_close, close, consume, declare, method, raw, reply_to, shared, short, tune,
};
use crate::restoring::options;
use puka::machine::{ConnectionState, ConsumerId, Ended, ListenerId, Notice, Reply};
use puka::protocol::FrameKind;
use puka::protocol::Method;
use puka::protocol::method::{basic, connection};
use puka::{Broken, Error};
use std::time::Duration;

const NO_QUEUE: (u16, &str) = (404, "NOT_FOUND - no queue 'q' in vhost '/'");
const LOCKED: (u16, &str) = (
    405,
    "RESOURCE_LOCKED - cannot obtain exclusive access to ..",
);

fn dialled() -> (Peer, ListenerId) {
    let mut peer = Peer::dialled(options(|recovery| recovery.strict(true)));
    let listener = peer.machine.listen();
    (peer, listener)
}

fn is_open(peer: &Peer) -> bool {
    matches!(peer.machine.state(), ConnectionState::Open)
}

/// Serves, and closes the channel over each consume of the queue `q`. Returns how many there were.
fn refuse(peer: &mut Peer, (code, text): (u16, &str)) -> usize {
    let is_it = |it: &Method<'_>| match it {
        Method::Basic(basic::Method::Consume(it)) => it.queue.as_bytes() == b"q",
        _ => false,
    };
    let sent = peer.serve_with(|sent| match sent.kind {
        FrameKind::Method if is_it(&sent.method()) => {
            Some(method(sent.channel, &channel_close(code, text)))
        }
        _ => reply_to(sent),
    });
    let consumes = sent
        .iter()
        .filter(|it| it.kind == FrameKind::Method && is_it(&it.method()));
    consumes.count()
}

fn redial(peer: &mut Peer, channel_max: u16) {
    peer.dial();
    peer.complete_handshake(tune(channel_max, 131_072, 60));
}

/// Checks that the attempt has failed because it was not complete.
fn failed_strictly(peer: &mut Peer, listener: ListenerId) -> Error {
    assert!(peer.machine.is_down());
    let mut cause = None;
    while let Some(notice) = peer.machine.take_notice(listener) {
        match notice {
            Notice::Retrying { cause: it, .. } => cause = Some(it),
            Notice::Recovered(report) => panic!("{report:?}"),
            _ => {}
        }
    }
    match cause {
        Some(Error::ConnectionBroken(Broken::NotRestored(cause))) => (*cause).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn r5_strict_recovery_retries_a_deleted_queue() {
    let (mut peer, listener) = dialled();
    let (id, ..) = peer.consumer(&consume("q"));
    let (other, ..) = peer.consumer(&consume("other"));
    peer.machine.handle_loss(Broken::Eof);
    for _ in 0..3 {
        redial(&mut peer, 2047);
        assert_eq!(refuse(&mut peer, NO_QUEUE), 1);
        let cause = failed_strictly(&mut peer, listener);
        assert!(matches!(cause, Error::NotFound(_)), "{cause}");
    }
    redial(&mut peer, 2047);
    peer.serve();
    assert!(is_open(&peer) && !peer.has_ended(id) && !peer.has_ended(other));
    let notices = std::iter::from_fn(|| peer.machine.take_notice(listener));
    let reports: Vec<_> = notices
        .filter_map(|notice| match notice {
            Notice::Recovered(report) => Some((report.consumers, report.failed.len())),
            _ => None,
        })
        .collect();
    assert_eq!(reports, [(2, 0)]);
}

#[test]
fn r5_temporary_refusals_first_take_their_retries() {
    let (mut peer, listener) = dialled();
    let (id, ..) = peer.consumer(&consume("q"));
    peer.reconnect();
    let start = peer.now;
    let mut retries = 0;
    while !peer.machine.is_down() {
        retries += refuse(&mut peer, LOCKED);
        assert!(peer.machine.is_down() || is_open(&peer));
        peer.feed(&raw(8, 0, b""));
        peer.pass(Duration::from_millis(100));
    }
    assert!(retries > 30 && !peer.has_ended(id), "{retries}");
    // Three heartbeat timeouts.
    assert_eq!((peer.now - start).as_secs(), 180);
    while peer.machine.take_notice(listener).is_some() {}
    redial(&mut peer, 2047);
    peer.serve();
    assert!(is_open(&peer) && !peer.has_ended(id));
}

#[test]
fn r5_strict_recovery_restores_every_queue_of_a_consumer() {
    let (mut peer, listener) = dialled();
    let promise = peer
        .machine
        .consume_multi(&[consume("a"), consume("q")], &shared(5))
        .unwrap();
    peer.serve();
    let Some(Ok(Reply::Consumer(id))) = peer.machine.fetch(promise) else {
        panic!()
    };
    peer.reconnect();
    refuse(&mut peer, NO_QUEUE);
    failed_strictly(&mut peer, listener);
    redial(&mut peer, 2047);
    peer.serve();
    assert!(is_open(&peer) && !peer.has_ended(id));
    assert_eq!(peer.machine.consumer(id).unwrap().ended_queues().count(), 0);
}

#[test]
fn r5_strict_recovery_needs_enough_channels() {
    let (mut peer, listener) = dialled();
    let ids: Vec<ConsumerId> = (0..3).map(|_| peer.consumer(&consume("q")).0).collect();
    peer.machine.handle_loss(Broken::Eof);
    redial(&mut peer, 4);
    peer.serve();
    let cause = failed_strictly(&mut peer, listener);
    assert!(matches!(cause, Error::ChannelLimit), "{cause}");
    redial(&mut peer, 5);
    peer.serve();
    assert!(is_open(&peer) && ids.iter().all(|id| !peer.has_ended(*id)));
}

#[test]
fn r5_hard_error_ends_nothing_of_a_strict_recovery() {
    let (mut peer, _) = dialled();
    let declared = peer.machine.request(declare("q")).unwrap();
    peer.serve();
    assert!(matches!(peer.machine.fetch(declared), Some(Ok(_))));
    let (id, ..) = peer.consumer(&consume("q"));
    peer.machine.handle_loss(Broken::Eof);
    for (class_id, method_id) in [(50, 10), (0, 0), (60, 20), (0, 0), (60, 20)] {
        redial(&mut peer, 2047);
        let sent = peer.take();
        if class_id == 60 {
            sent.iter()
                .filter_map(reply_to)
                .for_each(|it| peer.feed(&it));
            assert!(peer.take().iter().any(|it| it.is(basic::Consume::ID)));
        }
        let over = connection::Close {
            class_id,
            method_id,
            ..close(541, "INTERNAL_ERROR")
        };
        peer.method(0, &over);
        assert!(peer.machine.is_down() && !peer.has_ended(id));
    }
    let listener = peer.machine.listen();
    redial(&mut peer, 2047);
    peer.serve();
    let report =
        std::iter::from_fn(|| peer.machine.take_notice(listener)).find_map(|notice| match notice {
            Notice::Recovered(report) => Some(report),
            _ => None,
        });
    let report = report.unwrap();
    assert_eq!(
        (report.entities, report.consumers, report.failed.len()),
        (1, 1, 0)
    );
}

#[test]
fn r5_consumer_that_is_not_used_fails_no_recovery() {
    let (mut peer, _) = dialled();
    let (id, ..) = peer.consumer(&consume("q"));
    peer.reconnect();
    let number = peer.take().last().unwrap().channel;
    let cancel = peer.machine.cancel(id).unwrap();
    peer.method(number, &channel_close(NO_QUEUE.0, NO_QUEUE.1));
    peer.serve();
    assert!(is_open(&peer));
    let ended = peer.machine.consumer(id).and_then(|it| it.ended());
    assert!(
        matches!(ended, Some(Ended::ChannelClosed(Error::NotFound(_)))),
        "{ended:?}"
    );
    assert!(matches!(peer.error(cancel), Error::NotFound(_)));
}

#[test]
fn r5_consumer_that_the_broker_ended_fails_no_recovery() {
    let (mut peer, _) = dialled();
    let (id, number, tag) = peer.consumer(&consume("q"));
    peer.reconnect();
    peer.serve();
    let cancelled = basic::Cancel {
        consumer_tag: short(&tag),
        nowait: true,
    };
    peer.method(number, &cancelled);
    peer.pass(Duration::from_millis(500));
    assert_eq!(refuse(&mut peer, NO_QUEUE), 1);
    assert!(is_open(&peer));
    let ended = peer.machine.consumer(id).and_then(|it| it.ended());
    assert!(matches!(ended, Some(Ended::CancelledByServer)), "{ended:?}");
}
