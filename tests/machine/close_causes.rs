//! Errors that close the connection while several requests are pending: only the cause fails, and
//! the others are repeated.

use crate::peer::{Peer, close, consume, declare, publish, short};
use crate::recovering::{complete_handshake, dialled, replied};
use puka::machine::{ConnectionState, Notice, Reply};
use puka::protocol::method::{basic, channel, connection, queue, tx};
use puka::{Broken, Error};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// RabbitMQ does not always name the method over which it closes: then class and method are 0.
fn close_over(class_id: u16, method_id: u16) -> connection::Close<'static> {
    connection::Close {
        class_id,
        method_id,
        ..close(541, "INTERNAL_ERROR")
    }
}

fn reconnect(peer: &mut Peer) {
    peer.dial();
    complete_handshake(peer);
}

#[test]
fn hard_error_completes_only_its_own_request() {
    let mut peer = dialled();
    let (got, poison) = (peer.get(), peer.machine.request(declare("poison")).unwrap());
    let consumed = peer.machine.consume(&consume("waits")).unwrap();
    peer.take();
    peer.method(
        0,
        &connection::Close {
            class_id: 50,
            method_id: 10,
            ..close(503, "COMMAND_INVALID")
        },
    );
    assert!(matches!(peer.error(poison), Error::CommandInvalid(_)));
    reconnect(&mut peer);
    let sent = peer.serve();
    assert!(
        !sent.iter().any(|it| it.is(queue::Declare::ID)),
        "it is not repeated"
    );
    assert!(matches!(replied(&mut peer, consumed), Reply::Consumer(_)));
    let channel = sent
        .iter()
        .find(|it| it.is(basic::Get::ID))
        .unwrap()
        .channel;
    peer.method(channel, &basic::GetEmpty {});
    assert!(matches!(replied(&mut peer, got), Reply::Delivery(None)));

    let poison = peer.machine.consume(&consume("poison")).unwrap();
    peer.take();
    peer.method(0, &close_over(60, 20));
    assert!(matches!(peer.error(poison), Error::InternalError(_)));
}

#[test]
fn requests_repeated_one_by_one_reveal_the_cause() {
    for over in [close_over(0, 0), close_over(50, 10)] {
        let mut peer = dialled();
        let names = ["a", "b", "poison", "c"];
        let promises = names.map(|name| peer.machine.request(declare(name)).unwrap());
        peer.take();
        peer.method(0, &over);
        reconnect(&mut peer);
        // Each is sent alone, after the reply to the one before.
        for name in ["a", "b", "poison", "c"] {
            let declares: Vec<_> = peer
                .take()
                .into_iter()
                .filter(|it| it.is(queue::Declare::ID))
                .collect();
            assert_eq!(declares.len(), 1, "{name}");
            let channel = declares[0].channel;
            if name == "poison" {
                peer.method(0, &over);
                reconnect(&mut peer);
            } else {
                if matches!(name, "a" | "c") {
                    peer.method(channel, &channel::OpenOk {});
                }
                let ok = queue::DeclareOk {
                    queue: short(name),
                    message_count: 0,
                    consumer_count: 0,
                };
                peer.method(channel, &ok);
            }
            if name == "poison" {
                // The declared entities are restored first.
                for _ in 0..2 {
                    let sent = peer.take();
                    let opened = sent
                        .iter()
                        .find(|it| it.is(channel::Open::ID))
                        .map(|it| it.channel);
                    opened
                        .into_iter()
                        .for_each(|number| peer.method(number, &channel::OpenOk {}));
                    for it in sent
                        .iter()
                        .filter(|it| it.is(queue::Declare::ID))
                        .collect::<Vec<_>>()
                    {
                        let ok = queue::DeclareOk {
                            queue: short("x"),
                            message_count: 0,
                            consumer_count: 0,
                        };
                        peer.method(it.channel, &ok);
                    }
                }
                break;
            }
        }
        let outcomes = promises.map(|promise| peer.machine.fetch(promise));
        assert!(
            matches!(outcomes[2], Some(Err(Error::InternalError(_)))),
            "{outcomes:?}"
        );
        for place in [0, 1, 3] {
            assert!(
                matches!(outcomes[place], Some(Ok(Reply::Queue(_)))),
                "{outcomes:?}"
            );
        }
    }
}

#[test]
fn request_beside_a_pending_publish_is_repeated() {
    // The close may be over the publish, or over the `channel.open` in front of it.
    for over in [close_over(0, 0), close_over(20, 10)] {
        let mut peer = dialled();
        let published = peer.machine.publish(&publish("", "x")).unwrap();
        let declared = peer.machine.request(declare("q")).unwrap();
        peer.take();
        peer.method(0, &over);
        assert!(matches!(peer.error(published), Error::Unconfirmed(_)));
        assert!(peer.is_pending(declared));
        reconnect(&mut peer);
        peer.serve();
        assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
    }
}

#[test]
fn request_beside_a_pending_commit_is_repeated() {
    let mut peer = dialled();
    let begun = peer.machine.transaction().unwrap();
    peer.take();
    peer.method(1, &channel::OpenOk {});
    peer.method(1, &tx::SelectOk {});
    let Reply::Transaction(transaction) = replied(&mut peer, begun) else {
        panic!()
    };
    let committed = peer.machine.commit(transaction).unwrap();
    let declared = peer.machine.request(declare("q")).unwrap();
    peer.take();
    peer.method(0, &close_over(0, 0));
    assert!(matches!(peer.error(committed), Error::Unconfirmed(_)));
    assert!(peer.is_pending(declared));
    reconnect(&mut peer);
    peer.serve();
    assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
}

#[test]
fn consumers_starting_beside_a_poisoned_one_survive() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    let consumers = ["a", "poison", "b"].map(|queue| peer.consumer(&consume(queue)).0);
    peer.machine.handle_loss(Broken::Eof);
    let mut losses = 0;
    reconnect(&mut peer);
    while !matches!(peer.machine.state(), ConnectionState::Open) {
        for sent in peer.take() {
            let is_poison = |it: basic::Consume<'_>| it.queue.as_bytes() == b"poison";
            match sent.kind {
                _ if peer.machine.is_down() => {}
                puka::protocol::FrameKind::Method => match sent.method() {
                    puka::protocol::Method::Basic(basic::Method::Consume(it)) if is_poison(it) => {
                        losses += 1;
                        peer.method(0, &close_over(60, 20));
                    }
                    _ => {
                        if let Some(answer) = crate::peer::reply_to(&sent) {
                            peer.feed(&answer);
                        }
                    }
                },
                _ => {}
            }
        }
        if peer.machine.is_down() {
            reconnect(&mut peer);
        }
    }
    assert_eq!(losses, 2);
    let ended = consumers.map(|id| peer.has_ended(id));
    assert_eq!(ended, [false; 3]);
    let report = std::iter::from_fn(|| peer.machine.take_notice(listener)).last();
    assert!(
        matches!(&report, Some(Notice::Recovered(it)) if it.consumers == 2 && it.failed.len() == 1),
        "{report:?}"
    );
}

#[test]
fn second_unnamed_close_quarantines_a_restarted_consumer() {
    // A node that fails closes every connection like this, so the first close proves nothing.
    for (closes, is_quarantined) in [(1, false), (2, true)] {
        let mut peer = dialled();
        let listener = peer.machine.listen();
        let id = peer.consumer(&consume("q")).0;
        peer.machine.handle_loss(Broken::Eof);
        for _ in 0..closes {
            reconnect(&mut peer);
            assert!(peer.names().contains(&"1 basic.consume".into()));
            peer.method(0, &close_over(0, 0));
        }
        reconnect(&mut peer);
        peer.serve();
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
        assert!(!peer.has_ended(id));
        let report = std::iter::from_fn(|| peer.machine.take_notice(listener)).last();
        let Some(Notice::Recovered(report)) = report else {
            panic!("{report:?}");
        };
        assert_eq!(report.failed.len(), usize::from(is_quarantined));
        peer.pass(5 * SECOND);
        let restarts = peer
            .serve()
            .iter()
            .filter(|it| it.is(basic::Consume::ID))
            .count();
        assert_eq!(restarts, usize::from(is_quarantined));
    }
}

/// Closes the connection over each restart of the queue `q`, for this time. Returns the number of
/// connections.
fn close_over_restarts(peer: &mut Peer, over: connection::Close<'_>, time: Duration) -> usize {
    let (end, mut connections) = (peer.now + time, 0);
    while peer.now < end {
        if peer.machine.is_down() {
            connections += 1;
            reconnect(peer);
        }
        peer.serve_with(|sent| {
            let is_restart = sent.is(basic::Consume::ID);
            let reply = is_restart.then(|| crate::peer::method(0, &over));
            reply.or_else(|| crate::peer::reply_to(sent))
        });
        if !peer.machine.is_down() {
            peer.pass(SECOND / 2);
        }
    }
    connections
}

#[test]
fn restart_that_closes_connections_is_paced() {
    for over in [close_over(60, 20), close_over(0, 0)] {
        let mut peer = dialled();
        let id = peer.consumer(&consume("q")).0;
        peer.machine.handle_loss(Broken::Eof);
        let connections = close_over_restarts(&mut peer, over, 60 * SECOND);
        assert!((3..=7).contains(&connections), "{connections} in a minute");
        assert!(!peer.has_ended(id));
        // The broker accepts it later.
        for _ in 0..60 {
            if peer.machine.is_down() {
                reconnect(&mut peer);
            }
            peer.serve();
            peer.pass(SECOND);
        }
        assert!(peer.machine.consumer(id).is_some() && !peer.has_ended(id));
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
    }
}

#[test]
fn restart_that_closes_connections_ends_at_the_limit() {
    let mut peer = dialled();
    let id = peer.consumer(&consume("q")).0;
    peer.machine.handle_loss(Broken::Eof);
    close_over_restarts(&mut peer, close_over(60, 20), 240 * SECOND);
    assert!(peer.has_ended(id));
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
}

#[test]
fn step_that_closes_the_connection_is_skipped() {
    // The number of closes before the step is identified.
    for (over, closes) in [(close_over(50, 10), 1), (close_over(0, 0), 2)] {
        let mut peer = dialled();
        let listener = peer.machine.listen();
        for name in ["a", "poison", "z"] {
            let declared = peer.machine.request(declare(name)).unwrap();
            peer.serve();
            assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
        }
        peer.reconnect();
        for _ in 0..closes {
            peer.take();
            peer.method(1, &channel::OpenOk {});
            peer.method(
                1,
                &queue::DeclareOk {
                    queue: short("a"),
                    message_count: 0,
                    consumer_count: 0,
                },
            );
            peer.take();
            peer.method(0, &over);
            reconnect(&mut peer);
        }
        peer.serve();
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
        let report = std::iter::from_fn(|| peer.machine.take_notice(listener)).last();
        match report {
            Some(Notice::Recovered(report)) => {
                assert_eq!(report.entities, 2);
                assert_eq!(&*report.failed[0].0, "queue \"poison\"");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn unimplemented_request_is_answered_and_not_repeated() {
    for (code, class_id, method_id) in [(540, 0, 0), (540, 50, 30), (541, 0, 0), (541, 50, 30)] {
        let mut peer = dialled();
        let (consumer, ..) = peer.consumer(&consume("q"));
        let purge = queue::Purge {
            queue: short("stream"),
            nowait: false,
        };
        let purged = peer.machine.request(purge).unwrap();
        assert!(peer.take().iter().any(|it| it.is(queue::Purge::ID)));
        let over = connection::Close {
            class_id,
            method_id,
            ..close(code, "NOT_IMPLEMENTED - purge of a stream")
        };
        peer.method(0, &over);
        let error = peer.error(purged);
        let is_it = match code {
            540 => matches!(error, Error::NotImplemented(_)),
            _ => matches!(error, Error::InternalError(_)),
        };
        assert!(is_it, "{error:?}");
        reconnect(&mut peer);
        let sent = peer.serve();
        assert!(!sent.iter().any(|it| it.is(queue::Purge::ID)), "{sent:?}");
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
        assert!(!peer.has_ended(consumer));
    }
}
