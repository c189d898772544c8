//! AMQProxy: it completes the handshake itself, shares the connections to its broker among clients,
//! and passes errors on without a method.

use crate::peer::{Peer, Sent, close, consume, declare, lavinmq, tune};
use crate::recovering::{options, replied};
use puka::machine::{ConnectionState, Notice, Reply};
use puka::protocol::Table;
use puka::protocol::method::connection;
use puka::{Broken, Error};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn properties() -> Table {
    let mut properties = lavinmq();
    properties.insert("product", "AMQProxy").unwrap();
    properties
}

/// Completes the handshake with the proxy, which proposes these limits.
fn connect(peer: &mut Peer) {
    peer.dial();
    peer.complete_handshake_with(&properties(), tune(65_535, 131_072, 0));
}

fn dialled() -> Peer {
    let mut peer = Peer::undialled(options(|recovery| recovery));
    connect(&mut peer);
    peer
}

/// Returns the closes of a proxy that has no broker or stops.
fn closes() -> [connection::Close<'static>; 3] {
    [
        close(500, "UPSTREAM_ERROR"),
        close(503, "UPSTREAM_ERROR - Error connecting to 'broker:5672'"),
        close(0, "AMQProxy shutdown"),
    ]
}

#[test]
fn recovery_waits_for_the_broker_behind_a_proxy() {
    for over in closes() {
        let mut peer = dialled();
        let listener = peer.machine.listen();
        for name in ["a", "b"] {
            let declared = peer.machine.request(declare(name)).unwrap();
            peer.serve();
            assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
        }
        let id = peer.consumer(&consume("a")).0;
        peer.machine.handle_loss(Broken::Eof);
        // The proxy has no broker for ten minutes. It replies to nothing, or to the first methods.
        let (end, mut attempts) = (peer.now + 600 * SECOND, 0);
        while peer.now < end {
            connect(&mut peer);
            if attempts % 2 == 0 {
                let is_open = |it: &Sent| it.name().ends_with("channel.open");
                peer.serve_with(|it| is_open(it).then(|| crate::peer::reply_to(it))?);
            }
            peer.method(0, &over);
            attempts += 1;
        }
        assert!((15..200).contains(&attempts), "{attempts}");
        connect(&mut peer);
        peer.serve();
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
        assert!(!peer.has_ended(id));
        let report = std::iter::from_fn(|| peer.machine.take_notice(listener)).last();
        let Some(Notice::Recovered(report)) = report else {
            panic!("{report:?}");
        };
        let restored = (report.entities, report.consumers, report.failed.len());
        assert_eq!(restored, (2, 1, 0), "{over:?}");
    }
}

#[test]
fn request_is_repeated_until_the_proxy_has_a_broker() {
    for over in closes() {
        let mut peer = dialled();
        let declared = peer.machine.request(declare("q")).unwrap();
        for _ in 0..3 {
            peer.take();
            peer.method(0, &over);
            assert!(peer.is_pending(declared));
            connect(&mut peer);
        }
        peer.serve();
        assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
    }
}

#[test]
fn error_behind_a_proxy_is_still_the_requests() {
    let mut peer = dialled();
    let declared = peer.machine.request(declare("q")).unwrap();
    peer.take();
    peer.method(0, &close(540, "NOT_IMPLEMENTED"));
    assert!(matches!(peer.error(declared), Error::NotImplemented(_)));
}
