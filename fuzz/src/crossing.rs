//! Every interleaving in which both sides close a channel, checked with the observer.

use super::peer::{Peer, method, short};
use puka::Options;
use puka::machine::{Body, Publish};
use puka::protocol::method::{basic, channel, queue};
use puka::protocol::{Properties, TableRef};

/// A frame that the server sends on the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Close,
    CloseOk,
}

use Says::{Close, CloseOk};

impl Says {
    fn bytes(self) -> Vec<u8> {
        let (class_id, method_id) = (0, 0);
        match self {
            Close => {
                let reply_text = short(b"NOT_FOUND");
                method(
                    1,
                    &channel::Close {
                        reply_code: 404,
                        reply_text,
                        class_id,
                        method_id,
                    },
                )
            }
            CloseOk => method(1, &channel::CloseOk {}),
        }
    }
}

fn publish(peer: &mut Peer, exchange: &[u8]) {
    let publish = Publish {
        exchange: short(exchange),
        routing_key: short(b""),
        mandatory: false,
        immediate: false,
        properties: &Properties::NONE,
        headers: None,
        body: Body::from(&b"x"[..]),
    };
    let _promise = peer.machine.publish(&publish).expect("there is capacity");
}

/// Returns the number of `close-ok` that the client has written on channel 1 since the last call.
fn answers(peer: &mut Peer) -> usize {
    peer.unanswered
        .drain(..)
        .filter(|frame| frame.channel == 1 && frame.id() == (20, 41))
        .count()
}

/// Returns a connection that has queued `close` on channel 1, to use another exchange.
fn closing() -> Peer {
    let mut peer = Peer::new(Options::default().publish_channels(1));
    publish(&mut peer, b"a");
    peer.serve();
    peer.feed(&method(
        1,
        &basic::Ack {
            delivery_tag: 1,
            multiple: false,
        },
    ));
    publish(&mut peer, b"b");
    peer
}

/// Checks one interleaving: the observer panics if the client writes on a closed channel. The
/// client writes after the arrivals whose bit is set in `writes`. `early` is what the server sends
/// before it has received the client's close.
fn cross(early: &[Says], late: &[Says], writes: u32, in_one_piece: bool) {
    let mut peer = closing();
    let mut step = 0;
    let mut arrive = |peer: &mut Peer, bytes: &[u8]| {
        peer.feed(bytes);
        if writes >> step & 1 == 1 {
            peer.drain();
        }
        step += 1;
    };
    let bytes = |says: &[Says]| -> Vec<Vec<u8>> {
        let each: Vec<_> = says.iter().map(|says| says.bytes()).collect();
        if in_one_piece {
            vec![each.concat()]
        } else {
            each
        }
    };
    for piece in bytes(early) {
        arrive(&mut peer, &piece);
    }
    peer.drain();
    for piece in bytes(late) {
        arrive(&mut peer, &piece);
    }
    peer.drain();
    let said = [early, late].concat();
    let until_ok = said.iter().take_while(|says| **says == Close).count();
    assert_eq!(answers(&mut peer), usize::from(until_ok > 0), "{said:?}");
    // A frame after `close-ok` is on a channel that is not open.
    let is_wrong = said.len() > until_ok + 1;
    assert_eq!(peer.machine.why_closed().is_some(), is_wrong, "{said:?}");
}

#[test]
fn crossing_close_is_answered_once() {
    let early: [&[Says]; 3] = [&[], &[Close], &[Close, Close]];
    let late: [&[Says]; 9] = [
        &[],
        &[CloseOk],
        &[Close],
        &[Close, CloseOk],
        &[Close, Close, CloseOk],
        &[CloseOk, Close],
        &[Close, CloseOk, Close],
        &[CloseOk, CloseOk],
        &[Close, CloseOk, CloseOk],
    ];
    for early in early {
        for late in late {
            for writes in 0..1 << (early.len() + late.len()) {
                cross(early, late, writes, false);
                cross(early, late, writes, true);
            }
        }
    }
}

#[test]
fn closes_of_the_server_are_answered_once() {
    for writes in [false, true] {
        let mut peer = Peer::new(Options::default().channel_max(1));
        peer.serve();
        for _ in 0..3 {
            let declare = queue::Declare {
                queue: short(b"q"),
                passive: false,
                durable: false,
                exclusive: false,
                auto_delete: false,
                nowait: false,
                arguments: TableRef::EMPTY,
            };
            let _promise = peer.machine.request(declare).expect("there is capacity");
            peer.drain();
            // The reply belongs to the previous channel of this number; the first one has none
            // before it.
            if peer.machine.stats().open_channels > 0 && answers(&mut peer) == 0 {
                peer.feed(&method(1, &channel::OpenOk {}));
            }
            for _ in 0..3 {
                peer.feed(&Close.bytes());
                if writes {
                    peer.drain();
                }
            }
            peer.drain();
            assert_eq!(answers(&mut peer), 1);
            assert!(peer.machine.why_closed().is_none());
        }
    }
}
