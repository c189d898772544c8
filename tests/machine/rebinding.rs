//! Bindings after a loss: which are the same, and to which queues they lead.

use crate::peer::{Peer, Sent, channel_close, consume, declare, raw, reply_to, short};
use crate::restoring::{
    ask, bind, describe_all, dialled, dialled_without_resubscribing, exchange_declare, report,
    unbind,
};
use puka::machine::ConnectionState;
use puka::protocol::method::{basic, queue};
use puka::protocol::{Method, Table};
use std::time::Duration;

fn table(entries: &[(&str, i32)]) -> Table {
    let mut table = Table::new();
    entries
        .iter()
        .for_each(|(name, value)| table.insert(name, *value).unwrap());
    table
}

/// Returns the arguments of the bindings that were sent.
fn bound(sent: &[Sent]) -> Vec<Table> {
    let methods = sent
        .iter()
        .filter(|sent| sent.is(queue::Bind::ID))
        .map(Sent::method);
    let arguments = methods.map(|method| match method {
        Method::Queue(queue::Method::Bind(bind)) => bind.arguments.to_table(),
        other => panic!("{other:?}"),
    });
    arguments.collect()
}

/// Returns a connection with a queue and bindings with these arguments, of which one was removed
/// with other arguments, after a loss.
fn unbound(bindings: &[&Table], removed: &Table) -> Vec<Table> {
    let mut peer = dialled();
    ask(&mut peer, declare("q"));
    for arguments in bindings {
        ask(
            &mut peer,
            queue::Bind {
                arguments: arguments.as_ref(),
                ..bind("q", "amq.headers", "")
            },
        );
    }
    ask(
        &mut peer,
        queue::Unbind {
            arguments: removed.as_ref(),
            ..unbind("q", "amq.headers", "")
        },
    );
    peer.reconnect();
    bound(&peer.serve())
}

#[test]
fn unbind_may_order_its_arguments_differently() {
    let binding = table(&[("b", 1), ("a", 2), ("b", 3)]);
    assert!(unbound(&[&binding], &table(&[("a", 2), ("b", 1), ("b", 3)])).is_empty());
    // Entries of the same name have an order.
    assert_eq!(
        unbound(&[&binding], &table(&[("a", 2), ("b", 3), ("b", 1)])).len(),
        1
    );
}

#[test]
fn bindings_with_other_arguments_are_different_bindings() {
    let (one, other) = (table(&[("a", 1)]), table(&[("a", 2)]));
    assert!(unbound(&[&other, &other], &other).is_empty());
    assert_eq!(unbound(&[&one, &other, &other], &one), [other]);
}

#[test]
fn binding_to_a_recreated_queue_is_restored() {
    let mut peer = dialled();
    for _ in 0..2 {
        ask(&mut peer, exchange_declare("x"));
        ask(&mut peer, declare("q"));
        ask(&mut peer, bind("q", "x", "key"));
    }
    ask(
        &mut peer,
        queue::Delete {
            queue: short("q"),
            if_unused: false,
            if_empty: false,
            nowait: false,
        },
    );
    ask(&mut peer, declare("q"));
    ask(&mut peer, bind("q", "x", "key"));
    peer.reconnect();
    assert_eq!(
        describe_all(&peer.serve()),
        ["exchange x", "queue q", "bind q to x by key"]
    );
}

/// Serves a recovery, and refuses this many declares of queues. Returns what was sent.
fn serve_refusing(peer: &mut Peer, mut refusals: usize, code: u16, text: &str) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..30 {
        let sent = peer.take();
        for one in &sent {
            if one.is(queue::Declare::ID) && refusals > 0 {
                refusals -= 1;
                peer.method(one.channel, &channel_close(code, text));
            } else {
                peer.feed(&reply_to(one).unwrap_or_default());
            }
        }
        all.extend(
            describe_all(&sent)
                .into_iter()
                .filter(|name| name != "channel.close-ok"),
        );
        peer.pass(Duration::from_millis(100));
        peer.feed(&raw(8, 0, b""));
    }
    assert!(
        matches!(peer.machine.state(), ConnectionState::Open),
        "{all:?}"
    );
    all
}

#[test]
fn locked_queue_is_bound_once_it_is_free() {
    let mut peer = dialled();
    ask(
        &mut peer,
        queue::Declare {
            exclusive: true,
            ..declare("own")
        },
    );
    ask(&mut peer, bind("own", "amq.direct", "key"));
    let (consumer, ..) = peer.consumer(&consume("own"));
    peer.reconnect();
    let sent = serve_refusing(
        &mut peer,
        3,
        405,
        "RESOURCE_LOCKED - cannot obtain exclusive access",
    );
    let then = ["queue own", "bind own to amq.direct by key", "consume own"];
    assert_eq!(sent, [&["queue own"; 3][..], &then].concat());
    assert!(!peer.has_ended(consumer));
}

#[test]
fn queue_declared_differently_is_still_bound() {
    let mut peer = dialled();
    let listener = peer.machine.listen();
    ask(&mut peer, declare("q"));
    ask(&mut peer, bind("q", "amq.direct", "key"));
    let (consumer, ..) = peer.consumer(&consume("q"));
    peer.reconnect();
    let sent = serve_refusing(
        &mut peer,
        1,
        406,
        "PRECONDITION_FAILED - inequivalent arg 'x-expires'",
    );
    assert_eq!(
        sent,
        ["queue q", "bind q to amq.direct by key", "consume q"]
    );
    assert!(!peer.has_ended(consumer));
    assert_eq!(report(&mut peer, listener).failed.len(), 1);
}

#[test]
fn queue_with_another_consumer_is_not_forgotten() {
    let mut peer = dialled_without_resubscribing();
    ask(
        &mut peer,
        queue::Declare {
            exclusive: true,
            ..declare("q")
        },
    );
    ask(&mut peer, bind("q", "amq.direct", "key"));
    let consumers = [(); 2].map(|()| peer.consumer(&consume("q")));
    let cancel = |peer: &mut Peer, n: usize| {
        let (_, number, tag) = &consumers[n];
        peer.method(
            *number,
            &basic::Cancel {
                consumer_tag: short(tag),
                nowait: true,
            },
        );
        peer.serve();
    };
    cancel(&mut peer, 0);
    peer.reconnect();
    assert_eq!(
        describe_all(&peer.serve()),
        ["queue q", "bind q to amq.direct by key", "consume q"]
    );
    // The broker cancels all consumers of a deleted queue.
    let channel = 2;
    assert!(
        peer.machine
            .consumer(consumers[1].0)
            .and_then(|it| it.ended())
            .is_none()
    );
    peer.method(
        channel,
        &basic::Cancel {
            consumer_tag: short(&consumers[1].2),
            nowait: true,
        },
    );
    peer.serve();
    assert!(
        peer.machine
            .consumer(consumers[1].0)
            .and_then(|it| it.ended())
            .is_some()
    );
    peer.reconnect();
    assert!(describe_all(&peer.serve()).is_empty());
}
