//! Channels that are reserved for consumers that were refused temporarily.

use crate::peer::{Peer, channel_close, consume, method, reply_to, tune};
use puka::machine::{Consume, ConsumerId, Reply};
use puka::protocol::method::{basic, tx};
use puka::protocol::{FrameKind, Method};
use puka::{Broken, Options, Recovery};
use std::time::Duration;

fn exclusive(queue: &str) -> Consume<'_> {
    Consume {
        exclusive: true,
        ..consume(queue)
    }
}

/// Serves as a broker does on which another connection has an exclusive consumer of `q`.
fn refuse_q(peer: &mut Peer) {
    let text = "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use";
    peer.serve_with(|sent| match sent.kind {
        FrameKind::Method if is_consume_of_q(&sent.method()) => {
            Some(method(sent.channel, &channel_close(403, text)))
        }
        _ => reply_to(sent),
    });
}

fn is_consume_of_q(method: &Method<'_>) -> bool {
    matches!(method, Method::Basic(basic::Method::Consume(it)) if it.queue.as_bytes() == b"q")
}

/// Returns a client with at most `max` channels, whose consumer of `q` was refused after a loss.
fn refused(max: u16) -> (Peer, ConsumerId) {
    let mut peer = Peer::undialled(
        Options::default()
            .heartbeat(0)
            .recovery(Recovery::default().seed(7)),
    );
    peer.dial();
    peer.complete_handshake(tune(max, 131_072, 0));
    let (id, ..) = peer.consumer(&exclusive("q"));
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.complete_handshake(tune(max, 131_072, 0));
    refuse_q(&mut peer);
    assert!(!peer.has_ended(id));
    (peer, id)
}

#[test]
fn reservation_ends_with_cancel() {
    let (mut peer, id) = refused(3);
    let cancel = peer.machine.cancel(id).unwrap();
    assert!(matches!(
        peer.machine.fetch(cancel),
        Some(Ok(Reply::Cancelled(_)))
    ));
    peer.serve();
    peer.consumer(&consume("other"));
}

#[test]
fn reservation_ends_with_drop() {
    let (mut peer, id) = refused(3);
    peer.machine.drop_consumer(id);
    peer.serve();
    peer.consumer(&consume("other"));
}

#[test]
fn cancel_of_a_refused_consumer_starts_a_queued_one() {
    let (mut peer, id) = refused(4);
    let tx = peer.machine.transaction().unwrap();
    peer.serve_with(|sent| {
        if sent.name().ends_with("tx.select") {
            Some(method(sent.channel, &tx::SelectOk {}))
        } else {
            reply_to(sent)
        }
    });
    assert!(matches!(
        peer.machine.fetch(tx),
        Some(Ok(Reply::Transaction(_)))
    ));
    let other = peer.machine.consume(&consume("other")).unwrap();
    peer.serve();
    assert!(peer.is_pending(other));
    let _ = peer.machine.cancel(id).unwrap();
    peer.serve();
    peer.pass(Duration::from_secs(29));
    peer.serve();
    assert!(matches!(
        peer.machine.fetch(other),
        Some(Ok(Reply::Consumer(_)))
    ));
}

#[test]
fn channel_freed_by_an_ack_starts_a_refused_consumer() {
    for with_bad in [false, true] {
        let (mut peer, _id) = refused(5);
        let mut held = Vec::new();
        for _ in 0..3 {
            let (other, number, tag) = peer.consumer(&consume("other"));
            peer.deliver(number, &tag, 1, b"x");
            held.extend(peer.take_deliveries(other));
            peer.machine.cancel(other).unwrap();
            peer.serve_with(|sent| {
                if sent.is(basic::Cancel::ID) {
                    Some(method(
                        sent.channel,
                        &basic::CancelOk {
                            consumer_tag: crate::peer::short(&crate::peer::tag_of(sent)),
                        },
                    ))
                } else {
                    reply_to(sent)
                }
            });
        }
        peer.pass(Duration::from_millis(500));
        assert!(peer.names().is_empty(), "no channel");
        peer.machine
            .settle(&held[0], puka::machine::Settle::Ack { multiple: false })
            .unwrap();
        if with_bad {
            let bad = peer.machine.request(basic::Get {
                queue: puka::protocol::ShortStr::EMPTY,
                no_ack: false,
            });
            assert!(bad.is_err());
        }
        let names = peer.names();
        assert!(
            names.iter().any(|it| it.ends_with("basic.consume")),
            "{with_bad} {names:?}"
        );
    }
}
