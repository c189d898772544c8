//! A replay with faults: refused and missing entities, and losses in between.

use crate::peer::{Peer, channel_close, consume, declare, short, tune};
use crate::restoring::{
    ask, bind, describe, describe_all, dialled, exchange_declare, options, report,
};
use puka::Error;
use puka::machine::ConnectionState;
use puka::protocol::method::{basic, channel, queue};
use std::time::Duration;

#[test]
fn s27_s28_failing_entity_is_reported_and_others_are_restored() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    for name in ["a", "b", "c", "d"] {
        ask(&mut peer, declare(name));
    }
    let (failing, ..) = peer.consumer(&consume("b"));
    let (lives, ..) = peer.consumer(&consume("d"));
    peer.reconnect();
    let first = peer.take();
    assert_eq!(
        describe_all(&first),
        ["queue a", "queue b", "queue c", "queue d"],
        "all of them at once, in order"
    );
    peer.method(1, &channel::OpenOk {});
    let ok = |name| queue::DeclareOk {
        queue: short(name),
        message_count: 0,
        consumer_count: 0,
    };
    peer.method(1, &ok("a"));
    peer.method(
        1,
        &channel_close(406, "PRECONDITION_FAILED - inequivalent arg"),
    );
    let again = peer.take();
    assert_eq!(
        describe_all(&again),
        ["channel.close-ok", "queue c", "queue d"],
        "the entities behind it"
    );
    let number = again.last().unwrap().channel;
    peer.method(number, &channel::OpenOk {});
    peer.method(number, &ok("c"));
    peer.method(number, &ok("d"));
    let consumes = peer.take();
    let of = |name: &str| {
        consumes
            .iter()
            .find(|it| describe(it) == format!("consume {name}"))
            .unwrap()
            .channel
    };
    assert!(matches!(
        peer.machine.state(),
        ConnectionState::Recovering { .. }
    ));
    let (b, d) = (of("b"), of("d"));
    for number in [b, d].into_iter().filter(|it| *it != number) {
        peer.method(number, &channel::OpenOk {});
    }
    peer.method(b, &channel_close(404, "NOT_FOUND - no queue 'b'"));
    let tag = peer.machine.consumer(lives).unwrap().tag().to_owned();
    peer.method(
        d,
        &basic::ConsumeOk {
            consumer_tag: short(&tag),
        },
    );
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    assert!(matches!(
        peer.machine.consumer(failing).and_then(|it| it.ended()),
        Some(puka::Ended::ChannelClosed(Error::NotFound(_)))
    ));
    assert!(!peer.has_ended(lives));
    let report = report(&mut peer, listener);
    let failed: Vec<_> = report.failed.iter().map(|(what, _)| &**what).collect();
    assert_eq!(failed.len(), 2);
    assert_eq!(failed[0], "queue \"b\"");
    assert!(failed[1].starts_with("consumer \"puka."), "{failed:?}");
    assert_eq!((report.entities, report.consumers), (3, 1));
}

#[test]
fn r5_strict_recovery_retries_with_another_connection() {
    let mut peer = Peer::dialled(options(|recovery| recovery.strict(true)));
    ask(&mut peer, declare("q"));
    peer.reconnect();
    peer.take();
    peer.method(1, &channel::OpenOk {});
    peer.method(
        1,
        &channel_close(406, "PRECONDITION_FAILED - inequivalent arg"),
    );
    assert!(peer.machine.is_down());
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
    assert_eq!(describe_all(&peer.serve()), ["queue q"]);
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
}

#[test]
fn r5_exclusive_queue_locked_by_stale_connection_is_retried() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    let mut own = declare("own");
    own.exclusive = true;
    ask(&mut peer, own);
    ask(&mut peer, declare("other"));
    peer.reconnect();
    for _ in 0..3 {
        let sent = peer.take();
        let number = sent
            .iter()
            .find(|it| describe(it) == "queue own")
            .unwrap()
            .channel;
        peer.method(number, &channel::OpenOk {});
        if sent.iter().position(|it| describe(it) == "queue other")
            < sent.iter().position(|it| describe(it) == "queue own")
            && sent.iter().any(|it| describe(it) == "queue other")
        {
            let ok = queue::DeclareOk {
                queue: short("other"),
                message_count: 0,
                consumer_count: 0,
            };
            peer.method(number, &ok);
        }
        peer.method(
            number,
            &channel_close(405, "RESOURCE_LOCKED - cannot obtain exclusive access"),
        );
        assert!(matches!(
            peer.machine.state(),
            ConnectionState::Recovering { .. }
        ));
        peer.pass(Duration::from_millis(500));
    }
    peer.serve();
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    assert_eq!(report(&mut peer, listener).entities, 2);

    // It is not retried for ever.
    peer.reconnect();
    for _ in 0..400 {
        for sent in peer.take() {
            match &*describe(&sent) {
                "queue own" => {
                    peer.method(sent.channel, &channel_close(405, "RESOURCE_LOCKED - still"));
                    break;
                }
                "channel.close-ok" => {}
                _ => peer.feed(&crate::peer::reply_to(&sent).unwrap_or_default()),
            }
        }
        peer.pass(Duration::from_millis(500));
        peer.feed(&crate::peer::raw(8, 0, b""));
        if matches!(peer.machine.state(), ConnectionState::Open) {
            break;
        }
    }
    let report = report(&mut peer, listener);
    assert!(
        matches!(&report.failed[..], [(_, Error::ResourceLocked(_))]),
        "{report:?}"
    );
}

/// Replies to a replay, but reports that the entity with this description is missing.
fn serve_without(peer: &mut Peer, missing: &str) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let sent = peer.take();
        if sent.is_empty() {
            return all;
        }
        let mut closed = None;
        all.extend(
            describe_all(&sent)
                .into_iter()
                .filter(|describe| describe != "channel.close-ok"),
        );
        for one in sent
            .iter()
            .filter(|one| describe(one) != "channel.close-ok")
        {
            if closed == Some(one.channel) {
            } else if describe(one) == missing {
                peer.method(one.channel, &channel_close(404, "NOT_FOUND - gone again"));
                closed = Some(one.channel);
            } else {
                peer.feed(&crate::peer::reply_to(one).unwrap_or_default());
            }
        }
    }
}

#[test]
fn entity_auto_deleted_after_replay_is_declared_again() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    ask(&mut peer, exchange_declare("x"));
    ask(&mut peer, declare("q"));
    ask(&mut peer, declare(""));
    ask(&mut peer, bind("q", "x", "k"));
    let (consumer, ..) = peer.consumer(&consume("q"));
    for missing in ["bind q to x by k", "consume q"] {
        peer.reconnect();
        serve_without(&mut peer, missing);
        assert!(
            matches!(peer.machine.state(), ConnectionState::Recovering { .. }),
            "{missing}"
        );
        peer.pass(Duration::from_millis(500));
        let again = describe_all(&peer.serve());
        assert_eq!(
            again,
            ["exchange x", "queue q", "bind q to x by k", "consume q"],
            "{missing}"
        );
        assert!(
            matches!(peer.machine.state(), ConnectionState::Open),
            "{missing}"
        );
        let report = report(&mut peer, listener);
        assert!(report.failed.is_empty(), "{report:?}");
        assert_eq!((report.entities, report.consumers), (4, 1));
        assert!(!peer.has_ended(consumer));
    }
}

#[test]
fn s28_entity_missing_every_time_is_finally_reported() {
    for (missing, failures) in [("bind q to x by k", 1), ("consume q", 1)] {
        let mut peer = dialled();
        let listener = peer.machine.listen();
        ask(&mut peer, exchange_declare("x"));
        ask(&mut peer, declare("q"));
        ask(&mut peer, bind("q", "x", "k"));
        let (consumer, ..) = peer.consumer(&consume("q"));
        peer.reconnect();
        let mut tries = 0;
        while !matches!(peer.machine.state(), ConnectionState::Open) {
            tries += serve_without(&mut peer, missing)
                .iter()
                .filter(|describe| *describe == missing)
                .count();
            peer.pass(Duration::from_millis(500));
        }
        assert_eq!(tries, 4, "{missing}");
        assert_eq!(
            report(&mut peer, listener).failed.len(),
            failures,
            "{missing}"
        );
        assert_eq!(peer.has_ended(consumer), missing == "consume q");
    }
}

#[test]
fn s29_stalled_recovery_is_torn_down() {
    let mut peer = dialled();
    let (consumer, ..) = peer.consumer(&consume("q"));
    peer.reconnect();
    peer.take();
    peer.method(1, &channel::OpenOk {});
    for _ in 0..31 {
        peer.pass(Duration::from_secs(1));
        peer.feed(&crate::peer::raw(8, 0, b""));
    }
    assert!(peer.machine.is_down(), "{:?}", peer.machine.state());
    // A late outcome is discarded.
    let tag = peer.machine.consumer(consumer).unwrap().tag().to_owned();
    peer.method(
        1,
        &basic::ConsumeOk {
            consumer_tag: short(&tag),
        },
    );
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
    peer.serve();
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
    assert!(!peer.has_ended(consumer));
}

#[test]
fn s12_connection_lost_during_recovery_recovers() {
    for cut in 0..6 {
        let mut peer = dialled();
        ask(&mut peer, declare("q"));
        ask(&mut peer, exchange_declare("x"));
        ask(&mut peer, bind("q", "x", "key"));
        let (consumer, ..) = peer.consumer(&consume("q"));
        peer.reconnect();
        let mut answered = 0;
        'cut: loop {
            for sent in peer.take() {
                if answered == cut {
                    break 'cut;
                }
                if let Some(answer) = crate::peer::reply_to(&sent) {
                    peer.feed(&answer);
                    answered += 1;
                }
            }
        }
        peer.reconnect();
        let again = describe_all(&peer.serve());
        assert_eq!(
            again,
            ["exchange x", "queue q", "bind q to x by key", "consume q"],
            "cut behind {cut}"
        );
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
        assert!(!peer.has_ended(consumer));
    }
}
