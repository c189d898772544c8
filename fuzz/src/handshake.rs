//! A server that sends anything, in each state of the handshake.

use super::input::Input;
use super::peer::{Peer, method, short, start, start_of};
use puka::protocol::TableRef;
use puka::protocol::method::{channel, connection};
use puka::{AuthMechanism, Error, Options};
use std::time::Duration;

/// This byte and the next seven are replaced by messages of a server.
const FIRST_SAID: u8 = 0xF0;

fn options(choice: usize) -> Options {
    let options = Options::default().heartbeat(30);
    match choice {
        0 => options,
        1 => options.auth_mechanisms(&[AuthMechanism::RabbitCrDemo, AuthMechanism::Plain]),
        2 => options.refuse_unencrypted_login(true),
        _ => {
            let options = options.frame_max(0).channel_max(0).heartbeat(0);
            options.auth_mechanisms(&[AuthMechanism::Amqplain])
        }
    }
}

/// The outcome of a connection, and the frames that it has written: type and payload.
type Course = (String, Vec<(u8, Vec<u8>)>);

/// Runs a handshake up to a state, then sends the bytes in pieces of this size.
fn run(choice: usize, state: usize, bytes: &[u8], piece: usize) -> Course {
    let mut peer = Peer::new(options(choice));
    peer.dishonest = true;
    let connected = peer.machine.connect();
    peer.drain();
    let tune = connection::Tune {
        channel_max: 2047,
        frame_max: 131_072,
        heartbeat: 60,
    };
    let before = [start(), method(0, &tune), method(0, &connection::OpenOk {})];
    before.iter().take(state).for_each(|bytes| peer.feed(bytes));
    for part in bytes.chunks(piece) {
        peer.feed(part);
    }
    peer.drain();
    let written: Vec<_> = peer
        .unanswered
        .drain(..)
        .map(|frame| (frame.kind, frame.payload))
        .collect();
    let outcome = match peer.machine.why_closed() {
        // This error contains the bytes received so far, which depend on the pieces.
        Some(Error::NotAmqp(_)) => "not AMQP".to_owned(),
        why => format!("{why:?} {:?}", peer.machine.outcome()),
    };
    assert!(
        !outcome.contains("guest"),
        "the outcome contains the password: {outcome}"
    );
    // The connection ends in time in any case when the server sends nothing more.
    let closed = peer.machine.close();
    peer.pass(Duration::from_secs(120), false);
    assert!(peer.machine.is_over(), "{:?}", peer.machine);
    for promise in [connected, closed] {
        assert!(
            peer.machine.fetch(promise).is_some(),
            "a promise has no result"
        );
    }
    assert!(peer.machine.is_idle() && peer.machine.poll_timeout().is_none());
    (outcome, written)
}

/// Returns a message that a server sends in some state, usually not this one.
fn said(number: usize) -> Vec<u8> {
    match number {
        0 => start_of(TableRef::EMPTY, b"RABBIT-CR-DEMO"),
        1 => start_of(TableRef::EMPTY, b"AMQPLAIN"),
        2 => method(
            0,
            &connection::Secure {
                challenge: b"Please tell me your password",
            },
        ),
        3 => method(
            0,
            &connection::Tune {
                channel_max: 0,
                frame_max: 0,
                heartbeat: 0,
            },
        ),
        4 => method(0, &connection::OpenOk {}),
        5 => {
            let (reply_text, class_id, method_id) = (short(b"ACCESS_REFUSED"), 10, 31);
            method(
                0,
                &connection::Close {
                    reply_code: 403,
                    reply_text,
                    class_id,
                    method_id,
                },
            )
        }
        6 => method(0, &connection::CloseOk {}),
        _ => method(1, &channel::OpenOk {}),
    }
}

/// Returns the bytes, with a few values replaced by messages of a server, which random bytes would
/// never form.
fn spelt_out(bytes: &[u8]) -> Vec<u8> {
    let mut left = 16;
    let mut out = Vec::new();
    for byte in bytes {
        match byte.checked_sub(FIRST_SAID) {
            Some(number @ 0..8) if left > 0 => {
                left -= 1;
                out.extend(said(number.into()));
            }
            _ => out.push(*byte),
        }
    }
    out
}

/// Arbitrary bytes of the server in each state of the handshake. Any split has the same
/// outcome, except for replies that were not written before the server turned out not to speak
/// AMQP.
pub fn handshake(data: &[u8]) {
    let mut input = Input::new(data);
    let (choice, state) = (input.below(4), input.below(4));
    let piece = 1 + input.below(32);
    let bytes = spelt_out(input.rest());
    let (whole, written) = run(choice, state, &bytes, usize::MAX);
    let (cut, written_meanwhile) = run(choice, state, &bytes, piece);
    assert_eq!(cut, whole, "pieces of {piece}");
    let mut all = written_meanwhile.iter();
    assert!(
        written.iter().all(|frame| all.any(|other| other == frame)),
        "{written:?}, {written_meanwhile:?}"
    );
}
