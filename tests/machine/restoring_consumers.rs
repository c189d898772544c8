//! The replay of consumers and the requests that wait for it.

use crate::peer::{Peer, consume, tune};
use crate::restoring::{describe_all, dialled, options};
use puka::machine::{ConnectionState, Reply};
use puka::protocol::Method;
use puka::protocol::method::basic;
use puka::{Broken, Error, Options};

#[test]
fn s30_s31_hundred_consumers_keep_prefetch_counts_and_tags() {
    let mut peer = dialled();
    let mut started = Vec::new();
    for count in 1..=100 {
        let mut it = consume("q");
        (it.prefetch_count, it.tag) = (count, "same");
        started.push(peer.consumer(&it));
    }
    let (raised, ..) = started[0];
    let resized = peer.machine.qos(raised, 7).unwrap();
    peer.serve();
    peer.expect_done(resized);
    peer.reconnect();
    let sent = peer.serve();
    let counts: Vec<_> = sent
        .iter()
        .filter_map(|it| match it.method() {
            Method::Basic(basic::Method::Qos(qos)) => Some(qos.prefetch_count),
            _ => None,
        })
        .collect();
    assert_eq!(
        counts,
        std::iter::once(7).chain(2..=100).collect::<Vec<_>>()
    );
    let tags: Vec<_> = sent
        .iter()
        .filter(|it| it.is(basic::Consume::ID))
        .map(crate::peer::tag_of)
        .collect();
    assert_eq!(
        tags,
        started
            .iter()
            .map(|(_, _, tag)| tag.clone())
            .collect::<Vec<_>>()
    );
    assert!(started.iter().all(|(id, ..)| { !peer.has_ended(*id) }));
}

#[test]
fn consumers_beyond_a_lowered_channel_max_end_alone() {
    let mut peer = dialled();
    let consumers: Vec<_> = (0..5).map(|_| peer.consumer(&consume("q")).0).collect();
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.complete_handshake(tune(4, 131_072, 60));
    peer.serve();
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    let ended: Vec<_> = consumers.iter().map(|id| peer.has_ended(*id)).collect();
    assert_eq!(ended, [false, false, true, true, true]);
    assert!(matches!(
        peer.machine
            .consumer(consumers[4])
            .and_then(|it| it.ended()),
        Some(puka::Ended::ChannelClosed(Error::ChannelLimit))
    ));
}

/// Runs a test on a stack too small for a recursion over thousands of consumers.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(test)
        .unwrap()
        .join()
        .unwrap();
}

/// Returns a connection with this many consumers, and their ids.
fn with_consumers(options: Options, count: usize) -> (Peer, Vec<puka::machine::ConsumerId>) {
    let mut peer = Peer::undialled(options.channel_max(u16::MAX));
    peer.dial();
    peer.complete_handshake(tune(u16::MAX, 131_072, 60));
    let consumers = (0..count).map(|_| peer.consumer(&consume("q")).0).collect();
    (peer, consumers)
}

#[test]
fn falling_channel_max_ends_consumers_without_recursion() {
    on_a_small_stack(|| {
        let (mut peer, consumers) = with_consumers(options(|recovery| recovery), 10_000);
        peer.machine.handle_loss(Broken::Eof);
        peer.dial();
        peer.complete_handshake(tune(3, 131_072, 60));
        peer.serve();
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
        let ended = consumers
            .iter()
            .filter(|id| {
                peer.machine
                    .consumer(**id)
                    .and_then(|it| it.ended())
                    .is_some()
            })
            .count();
        assert_eq!(ended, 9_999);
    });
}

#[test]
fn abandoned_replies_are_disposed_of_one_after_another() {
    on_a_small_stack(|| {
        let mut peer = dialled();
        let promises: Vec<_> = (0..1_000)
            .map(|_| peer.machine.consume(&consume("q")).unwrap())
            .collect();
        for promise in promises {
            peer.machine.abandon(promise);
        }
        let started = peer.serve();
        let cancelled = started
            .iter()
            .filter(|sent| sent.is(basic::Cancel::ID))
            .count();
        assert!(cancelled > 0 && peer.machine.is_idle(), "{cancelled}");
    });
}

#[test]
fn requests_to_a_recovering_consumer_are_carried_out() {
    let mut peer = dialled();
    let (resized, ..) = peer.consumer(&crate::peer::consume("resized"));
    let (cancelled, ..) = peer.consumer(&crate::peer::consume("cancelled"));
    let (late, ..) = peer.consumer(&crate::peer::consume("late"));
    peer.machine.handle_loss(Broken::Eof);
    let qos = peer.machine.qos(resized, 5).unwrap();
    let cancel = peer.machine.cancel(cancelled).unwrap();
    let recovered = peer.machine.recover(resized).unwrap();
    peer.expect_done(recovered);
    assert!(
        matches!(peer.machine.fetch(cancel), Some(Ok(Reply::Cancelled(_)))),
        "it is already removed"
    );
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
    let sent = peer.take();
    assert_eq!(
        describe_all(&sent),
        ["basic.qos", "consume resized", "consume late"]
    );
    let cancel = peer.machine.cancel(late).unwrap();
    for one in &sent {
        if let Some(answer) = crate::peer::reply_to(one) {
            peer.feed(&answer);
        }
    }
    peer.serve();
    peer.expect_done(qos);
    assert!(matches!(
        peer.machine.fetch(cancel),
        Some(Ok(Reply::Cancelled(_)))
    ));
}
