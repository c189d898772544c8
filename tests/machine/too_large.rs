//! Messages that the broker refuses because of their size, among others in flight.

use crate::peer::{Peer, ack, channel_close, publish};
use puka::machine::PromiseId;
use puka::protocol::method::{basic, channel, confirm};
use puka::{Error, Options};
use std::time::Duration;

const LARGE: usize = 10_000;

/// Returns an open connection, with a publish that the broker has accepted, and a publish of each
/// size in flight on the same channel.
fn in_flight<const N: usize>(sizes: [usize; N]) -> (Peer, [PromiseId; N]) {
    let mut peer = Peer::open(Options::default());
    let first = peer.machine.publish(&publish("", "x")).unwrap();
    peer.take();
    peer.method(1, &channel::OpenOk {});
    for _ in 0..2 {
        peer.method(1, &confirm::SelectOk {});
    }
    peer.method(1, &ack(1, false));
    peer.expect_done(first);
    let promises = sizes.map(|size| {
        let body = vec![b'm'; size];
        peer.machine.publish(&publish("", &body)).unwrap()
    });
    peer.take();
    (peer, promises)
}

fn refuse(peer: &mut Peer, (code, name): (u16, &str), size: usize) {
    let text = format!(
        "{name} - message size {size} is larger than configured max size {}",
        LARGE - 1
    );
    peer.method(1, &channel_close(code, &text));
}

const TOO_LARGE: (u16, &str) = (406, "PRECONDITION_FAILED");

#[test]
fn only_publish_of_the_size_fails_with_the_error() {
    for code in [TOO_LARGE, (311, "CONTENT_TOO_LARGE")] {
        let (mut peer, promises) = in_flight([5, LARGE, LARGE + 1, LARGE - 1]);
        refuse(&mut peer, code, LARGE);
        let errors = promises.map(|promise| peer.error(promise));
        for (index, error) in errors.iter().enumerate() {
            let is_refused = matches!(
                error,
                Error::PreconditionFailed(_) | Error::ContentTooLarge(_)
            );
            assert_eq!(is_refused, index == 1, "{index} {error:?}");
            assert!(
                is_refused || matches!(error, Error::Unconfirmed(_)),
                "{error:?}"
            );
        }
    }
}

#[test]
fn one_of_two_equal_sizes_is_not_guessed() {
    let (mut peer, promises) = in_flight([LARGE, 5, LARGE]);
    refuse(&mut peer, TOO_LARGE, LARGE);
    for promise in promises {
        assert!(matches!(peer.error(promise), Error::Unconfirmed(_)));
    }
    // A confirmed publish with that size is not in the way.
    let (mut peer, promises) = in_flight([LARGE, 5, LARGE]);
    peer.method(1, &ack(2, false));
    peer.expect_done(promises[0]);
    refuse(&mut peer, TOO_LARGE, LARGE);
    assert!(matches!(peer.error(promises[1]), Error::Unconfirmed(_)));
    assert!(matches!(
        peer.error(promises[2]),
        Error::PreconditionFailed(_)
    ));
}

#[test]
fn size_of_no_publish_changes_nothing() {
    let (mut peer, promises) = in_flight([LARGE, LARGE + 1]);
    refuse(&mut peer, TOO_LARGE, LARGE + 2);
    for promise in promises {
        assert!(matches!(peer.error(promise), Error::Unconfirmed(_)));
    }
}

#[test]
fn overdue_publish_may_have_the_size() {
    let (mut peer, [overdue]) = in_flight([LARGE]);
    for _ in 0..7 {
        peer.feed(&crate::peer::raw(8, 0, b""));
        peer.pass(Duration::from_secs(5));
    }
    assert!(matches!(peer.error(overdue), Error::Unconfirmed(_)));
    let body = vec![b'm'; LARGE];
    let later = [5, LARGE].map(|size| peer.machine.publish(&publish("", &body[..size])).unwrap());
    peer.take();
    refuse(&mut peer, TOO_LARGE, LARGE);
    for promise in later {
        assert!(matches!(peer.error(promise), Error::Unconfirmed(_)));
    }
}

/// RabbitMQ's default since 4.0.
const RABBITMQ_4: usize = 16 << 20;

fn publish_of(peer: &mut Peer, size: usize) -> Result<PromiseId, Error> {
    peer.machine.publish(&publish("", vec![b'm'; size]))
}

#[test]
fn default_is_the_limit_of_rabbitmq_4() {
    let mut peer = Peer::open(Options::default());
    let refused = publish_of(&mut peer, RABBITMQ_4 + 1);
    assert!(
        matches!(refused, Err(Error::InvalidArgument { what: "body", .. })),
        "{refused:?}"
    );
    assert!(peer.names().is_empty());
    assert!(publish_of(&mut peer, RABBITMQ_4).is_ok());
}

#[test]
fn own_limit_may_exceed_that_of_rabbitmq_4() {
    let mut peer = Peer::open(Options::default().max_message_size(32 << 20));
    assert!(publish_of(&mut peer, RABBITMQ_4 + 1).is_ok());
}

#[test]
fn publish_queued_before_the_handshake_is_checked_after_it() {
    let mut peer = Peer::new(Options::default().max_outgoing_bytes(64 << 20));
    let large = publish_of(&mut peer, RABBITMQ_4 + 1).unwrap();
    let small = peer.machine.publish(&publish("", "x")).unwrap();
    peer.complete_handshake(crate::peer::tune(2047, 131_072, 60));
    let sent = peer.serve();
    assert!(matches!(
        peer.error(large),
        Error::InvalidArgument { what: "body", .. }
    ));
    let publishes = sent.iter().filter(|sent| sent.is(basic::Publish::ID));
    assert_eq!(publishes.count(), 1);
    peer.method(1, &ack(1, false));
    peer.expect_done(small);
}
