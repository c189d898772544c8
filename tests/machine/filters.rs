//! Filters and modes select the entities that are restored.

use crate::peer::{Peer, declare};
use crate::restoring::{ask, bind, describe_all, exchange_declare, options, report};
use puka::machine::ConnectionState;
use puka::protocol::method::{exchange, queue};
use puka::{Broken, Entity, Error, RecoverTopology, Recovery};

#[test]
fn s26_filter_and_mode_select_restored_entities() {
    let declare_all = |peer: &mut Peer| {
        for durable in [true, false] {
            let (queue, exchange) = if durable { ("dq", "dx") } else { ("tq", "tx") };
            ask(
                peer,
                queue::Declare {
                    durable,
                    ..declare(queue)
                },
            );
            ask(
                peer,
                exchange::Declare {
                    durable,
                    ..exchange_declare(exchange)
                },
            );
        }
        for (queue, exchange) in [("dq", "dx"), ("dq", "tx"), ("tq", "dx"), ("tq", "tx")] {
            ask(peer, bind(queue, exchange, "key"));
        }
    };
    let back = |recovery: Recovery| {
        let mut peer = Peer::dialled(options(|_| recovery.seed(7)));
        declare_all(&mut peer);
        peer.reconnect();
        describe_all(&peer.serve())
    };
    assert_eq!(back(Recovery::default()).len(), 8);
    assert_eq!(
        back(Recovery::default().topology(RecoverTopology::Transient)),
        [
            "exchange tx",
            "queue tq",
            "bind dq to tx by key",
            "bind tq to dx by key",
            "bind tq to tx by key"
        ]
    );
    assert!(back(Recovery::default().topology(RecoverTopology::Nothing)).is_empty());
    let filtered = Recovery::default().filter(|entity| {
        !matches!(
            entity,
            Entity::Queue("tq") | Entity::QueueBinding { queue: "tq", .. }
        )
    });
    assert_eq!(
        back(filtered),
        [
            "exchange dx",
            "exchange tx",
            "queue dq",
            "bind dq to dx by key",
            "bind dq to tx by key"
        ]
    );
}

/// Returns a connection with an exchange, a queue that is bound to it, and a filter.
fn filtered(filter: impl Fn(&Entity<'_>) -> bool + Send + Sync + 'static) -> Peer {
    let mut peer = Peer::dialled(options(|recovery| recovery.filter(filter)));
    ask(&mut peer, exchange_declare("x"));
    ask(&mut peer, declare("q"));
    ask(&mut peer, bind("q", "x", "key"));
    peer
}

#[test]
fn filter_runs_outside_of_the_machine() {
    let mut peer = filtered(|entity| !matches!(entity, Entity::Queue(_)));
    peer.runs_filters = false;
    peer.reconnect();
    let mut sent = Vec::new();
    for _ in 0..3 {
        assert!(peer.machine.has_event());
        let step = peer.machine.poll_filter().expect("the filter is due");
        assert!(peer.machine.poll_filter().is_none(), "once");
        assert!(peer.names().is_empty(), "nothing is declared meanwhile");
        // Any other call may come before the outcome.
        peer.machine.request(declare("late")).unwrap();
        peer.machine.handle_filter(step.run());
        sent.extend(describe_all(&peer.serve()));
    }
    assert_eq!(sent[..2], ["exchange x", "bind q to x by key"]);
    assert!(matches!(peer.machine.state(), ConnectionState::Open));
}

#[test]
fn outcome_of_a_lost_connection_is_ignored() {
    let mut peer = filtered(|_| false);
    peer.runs_filters = false;
    peer.reconnect();
    let stale = peer.machine.poll_filter().unwrap().run();
    peer.reconnect();
    peer.machine.handle_filter(stale);
    assert!(matches!(
        peer.machine.state(),
        ConnectionState::Recovering { .. }
    ));
    let step = peer
        .machine
        .poll_filter()
        .expect("the filter is due for each connection");
    peer.machine.handle_loss(Broken::Eof);
    peer.machine.handle_filter(step.run());
    assert!(peer.machine.is_down() && peer.machine.poll_filter().is_none());
}

#[test]
fn entity_whose_filter_panics_is_declared() {
    let mut peer = filtered(|entity| match entity {
        Entity::Queue(_) => panic!("the filter panics"),
        _ => true,
    });
    let listener = peer.machine.listen();
    peer.reconnect();
    assert_eq!(
        describe_all(&peer.serve()),
        ["exchange x", "queue q", "bind q to x by key"]
    );
    let report = report(&mut peer, listener);
    let (what, error) = &report.failed[0];
    assert_eq!((&**what, report.failed.len()), ("filter", 1));
    assert!(
        matches!(error, Error::InvalidArgument { what: "filter", .. }),
        "{error:?}"
    );
}
