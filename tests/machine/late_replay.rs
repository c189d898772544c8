//! Entities that a recovery could not restore for now, and that are declared again later.

use crate::peer::{Peer, Sent, channel_close, close, consume, declare, method, raw, reply_to};
use crate::restoring::{ask, bind, describe, describe_all, dialled};
use puka::Broken;
use puka::machine::{ConnectionState, ListenerId, Notice};
use puka::protocol::MethodId;
use puka::protocol::method::{basic, connection, queue};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const LOCKED: (u16, &str) = (
    405,
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'",
);
const NODE_DOWN: (u16, &str) = (
    404,
    "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible",
);
const INEQUIVALENT: (u16, &str) = (
    406,
    "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/'",
);

/// How the broker treats the declaration and the bindings of the queue `q`.
#[derive(Clone, Copy)]
enum Treatment {
    Accept,
    /// Closes the channel.
    Refuse((u16, &'static str)),
    /// Closes the connection.
    Close(u16, u16),
}

/// A client with the queue `q`, a binding and a consumer of it, and the queue `other`.
struct World {
    peer: Peer,
    notices: ListenerId,
    treatment: Treatment,
    connections: usize,
}

impl World {
    fn new() -> Self {
        Self::with(dialled())
    }

    fn with(mut peer: Peer) -> Self {
        let notices = peer.machine.listen();
        for name in ["other", "q"] {
            ask(&mut peer, declare(name));
        }
        ask(&mut peer, bind("q", "amq.direct", "key"));
        Self {
            peer,
            notices,
            treatment: Treatment::Accept,
            connections: 0,
        }
    }

    /// Loses the connection. From now on, the broker treats `q` like this.
    fn lose(&mut self, treatment: Treatment) {
        self.treatment = treatment;
        self.peer.machine.handle_loss(Broken::Eof);
    }

    /// Connects again until the connection is open. The broker closes it over each request for
    /// which `is_cause` is `true`. Requests of the kind `dependent` name `queue`, which does not
    /// exist.
    fn reconnect_without(
        &mut self,
        queue: &str,
        is_cause: impl Fn(&Sent) -> bool,
        dependent: MethodId,
    ) {
        let missing = format!("NOT_FOUND - no queue '{queue}' in vhost '/'");
        for _ in 0..8 {
            if self.peer.machine.is_down() {
                self.peer.reconnect();
            }
            self.peer.serve_with(|sent| {
                if sent.is(dependent) {
                    Some(method(sent.channel, &channel_close(404, &missing)))
                } else if is_cause(sent) {
                    Some(internal_error_over(50, 10))
                } else {
                    reply_to(sent)
                }
            });
            if self.is_open() {
                break;
            }
        }
    }

    /// Lets time pass, with heartbeats, replies and new connections. Returns what was written, as
    /// words.
    fn pass(&mut self, time: Duration) -> Vec<String> {
        let end = self.peer.now + time;
        let mut all = Vec::new();
        loop {
            if self.peer.machine.is_down() {
                self.connections += 1;
                self.peer.reconnect();
            }
            let treatment = self.treatment;
            let sent = self.peer.serve_with(|sent| match treatment {
                Treatment::Refuse((code, text)) if is_of_q(sent) => {
                    Some(method(sent.channel, &channel_close(code, text)))
                }
                Treatment::Close(class_id, method_id) if is_of_q(sent) => {
                    Some(internal_error_over(class_id, method_id))
                }
                _ => reply_to(sent),
            });
            let is_entity = |it: &String| {
                ["queue ", "bind ", "consume "]
                    .iter()
                    .any(|word| it.starts_with(word))
            };
            all.extend(describe_all(&sent).into_iter().filter(is_entity));
            if self.peer.now >= end {
                return all;
            }
            if !self.peer.machine.is_down() {
                self.peer.feed(&raw(8, 0, b""));
                self.peer.pass(SECOND / 2);
            }
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.peer.machine.state(), ConnectionState::Open)
    }

    /// Returns what the last recovery did not restore, and what was restored later.
    fn failed_and_restored(&mut self) -> (Vec<String>, Vec<String>) {
        let (mut failed, mut restored) = (Vec::new(), Vec::new());
        while let Some(notice) = self.peer.machine.take_notice(self.notices) {
            match notice {
                Notice::Recovered(it) => {
                    failed = it.failed.iter().map(|(what, _)| what.to_string()).collect();
                }
                Notice::EntityRestored(what) => restored.push(what.to_string()),
                _ => {}
            }
        }
        (failed, restored)
    }
}

/// Returns the close of the connection over a method.
fn internal_error_over(class_id: u16, method_id: u16) -> Vec<u8> {
    let over = connection::Close {
        class_id,
        method_id,
        ..close(541, "INTERNAL_ERROR")
    };
    method(0, &over)
}

/// Returns `true` for a declaration or binding of `q`.
fn is_of_q(sent: &Sent) -> bool {
    let names_q = |sent: &Sent| {
        let words = describe(sent);
        words == "queue q" || words.starts_with("bind q ")
    };
    (sent.is(queue::Declare::ID) || sent.is(queue::Bind::ID)) && names_q(sent)
}

#[test]
fn connection_opens_without_a_locked_queue() {
    let mut world = World::new();
    world.lose(Treatment::Refuse(LOCKED));
    world.pass(4 * SECOND);
    assert!(world.is_open());
    let (failed, restored) = world.failed_and_restored();
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert_eq!(failed[0], "queue \"q\"");
    assert!(restored.is_empty());

    world.pass(60 * SECOND);
    world.treatment = Treatment::Accept;
    let sent = world.pass(31 * SECOND);
    assert_eq!(sent, ["queue q", "bind q to amq.direct by key"]);
    let (_, restored) = world.failed_and_restored();
    assert_eq!(restored, failed);
    assert!(world.pass(120 * SECOND).is_empty(), "each is restored once");
}

#[test]
fn temporary_refusals_are_retried_at_a_slow_pace() {
    for refusal in [LOCKED, NODE_DOWN] {
        let mut world = World::new();
        world.lose(Treatment::Refuse(refusal));
        world.pass(5 * SECOND);
        let in_a_minute = world.pass(60 * SECOND).len();
        assert!((4..=14).contains(&in_a_minute), "{in_a_minute}");
        let later = world.pass(600 * SECOND).len();
        assert!((30..=44).contains(&later), "{later}");
        assert!(world.is_open());
        assert_eq!(world.connections, 1);
    }
}

#[test]
fn final_refusal_is_not_retried() {
    let mut world = World::new();
    world.lose(Treatment::Refuse(INEQUIVALENT));
    world.pass(5 * SECOND);
    let (failed, _) = world.failed_and_restored();
    assert_eq!(failed[0], "queue \"q\"");
    assert!(world.pass(600 * SECOND).is_empty());
}

#[test]
fn step_that_closed_the_connection_is_retried_later() {
    for (class_id, method_id) in [(50, 10), (0, 0)] {
        let mut world = World::new();
        world.lose(Treatment::Close(class_id, method_id));
        for _ in 0..20 {
            world.pass(Duration::ZERO);
        }
        assert!(world.is_open());
        let before = world.connections;
        assert!(before <= 5, "{before}");
        let (failed, _) = world.failed_and_restored();
        assert!(failed.contains(&"queue \"q\"".to_owned()), "{failed:?}");
        world.treatment = Treatment::Accept;
        world.pass(11 * SECOND);
        let (_, restored) = world.failed_and_restored();
        assert!(restored.contains(&"queue \"q\"".to_owned()), "{restored:?}");
        assert_eq!(world.connections, before);
    }
}

#[test]
fn binding_of_a_quarantined_queue_is_restored_later() {
    let mut world = World::new();
    world.lose(Treatment::Close(50, 10));
    world.reconnect_without("q", is_of_q, queue::Bind::ID);
    assert!(world.is_open());
    let (failed, _) = world.failed_and_restored();
    assert_eq!(failed.len(), 2, "{failed:?}");
    world.treatment = Treatment::Accept;
    world.pass(11 * SECOND);
    let (_, mut restored) = world.failed_and_restored();
    restored.sort();
    assert_eq!(restored.len(), 2, "{restored:?}");
}

#[test]
fn step_that_closes_connections_is_paced() {
    for (class_id, method_id) in [(50, 10), (0, 0)] {
        let mut world = World::new();
        world.lose(Treatment::Close(class_id, method_id));
        world.pass(60 * SECOND);
        assert!(world.connections <= 12, "{}", world.connections);
        let before = world.connections;
        world.pass(600 * SECOND);
        assert!(
            world.connections <= before + 20,
            "{}",
            world.connections - before
        );
        assert!(world.is_open());
        // It is given up for this connection.
        let before = world.connections;
        world.pass(600 * SECOND);
        assert_eq!(world.connections, before);
    }
}

#[test]
fn deleted_entity_is_not_restored_later() {
    let mut world = World::new();
    world.lose(Treatment::Refuse(LOCKED));
    world.pass(4 * SECOND);
    world.treatment = Treatment::Accept;
    let deleted = world.peer.machine.request(queue::Delete {
        queue: crate::peer::short("q"),
        if_unused: false,
        if_empty: false,
        nowait: false,
    });
    world.peer.serve();
    assert!(matches!(
        world.peer.machine.fetch(deleted.unwrap()),
        Some(Ok(_))
    ));
    assert_eq!(world.pass(60 * SECOND), [""; 0]);
}

#[test]
fn consumer_waits_for_a_queue_restored_later() {
    let mut world = World::new();
    let (id, ..) = world.peer.consumer(&consume("q"));
    world.lose(Treatment::Close(50, 10));
    // The queue does not exist, because it was not declared.
    world.reconnect_without("q", is_of_q, basic::Consume::ID);
    assert!(world.is_open());
    assert!(!world.peer.has_ended(id));
    world.treatment = Treatment::Accept;
    let sent = world.pass(20 * SECOND);
    assert!(sent.contains(&"queue q".to_owned()), "{sent:?}");
    assert!(sent.contains(&"consume q".to_owned()), "{sent:?}");
    assert!(!world.peer.has_ended(id));
}

#[test]
fn late_step_without_a_reply_is_sent_again() {
    let mut world = World::new();
    world.lose(Treatment::Refuse(LOCKED));
    world.pass(4 * SECOND);
    let mut sent = 0;
    for _ in 0..200 {
        world.peer.feed(&raw(8, 0, b""));
        world.peer.pass(SECOND / 2);
        let all = world
            .peer
            .serve_with(|sent| (!is_of_q(sent)).then(|| reply_to(sent)).flatten());
        sent += all.iter().filter(|it| is_of_q(it)).count();
    }
    assert!((2..=5).contains(&sent), "{sent}");
    assert!(world.is_open());
}

#[test]
fn binding_of_a_renamed_queue_is_restored_later() {
    let mut peer = dialled();
    let notices = peer.machine.listen();
    let mut own = declare("");
    own.exclusive = true;
    peer.machine.request(own).unwrap();
    peer.serve_naming("first");
    let bound = peer
        .machine
        .request(bind("first", "amq.direct", "key"))
        .unwrap();
    peer.serve();
    assert!(matches!(peer.machine.fetch(bound), Some(Ok(_))));
    peer.machine.handle_loss(Broken::Eof);
    let mut world = World {
        peer,
        notices,
        treatment: Treatment::Accept,
        connections: 0,
    };
    let is_declared = |sent: &Sent| sent.is(queue::Declare::ID);
    world.reconnect_without("first", is_declared, queue::Bind::ID);
    assert!(world.is_open());
    let (failed, _) = world.failed_and_restored();
    assert_eq!(failed.len(), 2, "{failed:?}");
    for _ in 0..120 {
        world.peer.feed(&raw(8, 0, b""));
        world.peer.pass(SECOND / 2);
        world.peer.serve_with(|sent| {
            if sent.is(queue::Bind::ID) && describe(sent).starts_with("bind first ") {
                return Some(method(sent.channel, &channel_close(404, "NOT_FOUND")));
            }
            let second = queue::DeclareOk {
                queue: crate::peer::short("second"),
                message_count: 0,
                consumer_count: 0,
            };
            let is_declare = sent.is(queue::Declare::ID);
            let renamed = is_declare.then(|| method(sent.channel, &second));
            renamed.or_else(|| reply_to(sent))
        });
    }
    let (_, restored) = world.failed_and_restored();
    assert_eq!(restored.len(), 2, "{restored:?}");
    assert_eq!(restored[0], "queue \"second\"");
}

#[test]
fn consumer_of_a_refused_queue_waits() {
    for refusal in [
        (
            506,
            "RESOURCE_ERROR - Stream coordinator unavailable for queue 'q' in vhost '/'",
        ),
        LOCKED,
    ] {
        let mut world = World::new();
        let (id, ..) = world.peer.consumer(&consume("q"));
        world.lose(Treatment::Refuse(refusal));
        let end = world.peer.now + 5 * SECOND;
        while world.peer.now < end {
            if world.peer.machine.is_down() {
                world.peer.reconnect();
            }
            world.peer.serve_with(|sent| {
                if sent.is(basic::Consume::ID) {
                    return Some(method(
                        sent.channel,
                        &channel_close(404, "NOT_FOUND - no queue 'q' in vhost '/'"),
                    ));
                }
                if is_of_q(sent) {
                    return Some(method(sent.channel, &channel_close(refusal.0, refusal.1)));
                }
                reply_to(sent)
            });
            world.peer.feed(&raw(8, 0, b""));
            world.peer.pass(SECOND / 2);
        }
        assert!(world.is_open());
        let ended = world
            .peer
            .machine
            .consumer(id)
            .and_then(|it| it.ended())
            .cloned();
        assert!(ended.is_none(), "{refusal:?}: {ended:?}");
    }
}

#[test]
fn strict_recovery_retries_a_locked_queue() {
    let strict = crate::restoring::options(|recovery| recovery.strict(true));
    let mut world = World::with(Peer::dialled(strict));
    world.lose(Treatment::Refuse(LOCKED));
    world.pass(400 * SECOND);
    assert!(!world.is_open());
    assert!(
        (2..=5).contains(&world.connections),
        "{}",
        world.connections
    );
    world.treatment = Treatment::Accept;
    world.pass(60 * SECOND);
    assert!(world.is_open());
}
