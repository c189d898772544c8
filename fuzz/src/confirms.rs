//! Confirms of any publishes in any order, against a map of the unconfirmed ones.

use super::input::Input;
use super::peer::{Peer, method, short};
use puka::machine::{Body, PromiseId, Publish, Reply};
use puka::protocol::method::basic;
use puka::protocol::{Properties, frame};
use puka::{Error, Options};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Open,
    Acked,
    Nacked,
    Returned,
    Late,
    /// The connection was closed because of a confirm without a publish.
    Unconfirmed,
}

/// The expected state of each publish, by its number from 1.
#[derive(Debug, Default)]
struct Model {
    promises: Vec<(PromiseId, Expected)>,
    /// The unconfirmed publishes, each with the bytes of its content header.
    pending: BTreeMap<u64, Vec<u8>>,
}

impl Model {
    fn settle(&mut self, tag: u64, expected: Expected) {
        let (_, state) = &mut self.promises[tag as usize - 1];
        if *state == Expected::Open {
            *state = expected;
        }
    }

    fn expect_all(&mut self, expected: Expected) {
        (1..=self.promises.len() as u64).for_each(|tag| self.settle(tag, expected));
    }

    /// Settles the confirmed publishes. Returns `false` if there is none.
    fn confirm(&mut self, tag: u64, multiple: bool, expected: Expected) -> bool {
        let sent = self.promises.len() as u64;
        if tag > sent || !multiple && !self.pending.contains_key(&tag) {
            return false;
        }
        let last = if tag == 0 { sent } else { tag };
        let confirmed: Vec<u64> = if multiple {
            self.pending.range(..=last).map(|(tag, _)| *tag).collect()
        } else {
            vec![tag]
        };
        for tag in confirmed {
            self.pending.remove(&tag);
            self.settle(tag, expected);
        }
        true
    }

    fn check(&self, peer: &mut Peer, fetched: &mut [bool]) {
        for ((promise, expected), fetched) in self.promises.iter().zip(fetched) {
            if *fetched {
                continue;
            }
            let outcome = peer.machine.fetch(*promise);
            *fetched = outcome.is_some();
            let is_right = match (&outcome, expected) {
                (None, Expected::Open)
                | (Some(Ok(Reply::Done)), Expected::Acked)
                | (Some(Err(Error::Nacked)), Expected::Nacked)
                | (Some(Err(Error::NoRoute(_))), Expected::Returned) => true,
                (Some(Err(Error::Unconfirmed(why))), Expected::Late) => {
                    matches!(**why, Error::Timeout { .. })
                }
                (Some(Err(Error::Unconfirmed(_))), Expected::Unconfirmed) => true,
                _ => false,
            };
            assert!(is_right, "expected {expected:?}, found {outcome:?}");
        }
    }
}

/// Each publish has the outcome that a naive map predicts, and a confirm without a publish
/// closes the connection.
pub fn confirms(data: &[u8]) {
    let mut input = Input::new(data);
    let mut peer = Peer::new(Options::default().recovery(None).heartbeat(0));
    peer.serve();
    let (mut model, mut fetched) = (Model::default(), Vec::new());
    let mut broken = false;
    while !input.is_empty() && !broken && model.promises.len() < 5000 {
        // Before the first publish there is no channel on which anything could be confirmed.
        let choice = if model.promises.is_empty() {
            1
        } else {
            input.below(8)
        };
        let channel = peer.observer.channels().last().copied().unwrap_or(1);
        let (tag, multiple) = (pick(&mut input, &model), input.flag());
        match choice {
            0..=2 => {
                let count = if choice == 0 {
                    1 + 8 * input.below(40)
                } else {
                    1
                };
                for _ in 0..count {
                    publish(&mut peer, &mut model, &mut fetched, multiple);
                }
            }
            3 | 4 => {
                broken = !model.confirm(tag, multiple, Expected::Acked);
                peer.feed(&method(
                    channel,
                    &basic::Ack {
                        delivery_tag: tag,
                        multiple,
                    },
                ));
            }
            5 => {
                broken = !model.confirm(tag, multiple, Expected::Nacked);
                peer.feed(&method(
                    channel,
                    &basic::Nack {
                        delivery_tag: tag,
                        multiple,
                        requeue: false,
                    },
                ));
            }
            6 => {
                if let Some(header) = model.pending.get(&tag).filter(|header| header.len() > 30) {
                    peer.feed(&returned(channel, header));
                    model.settle(tag, Expected::Returned);
                }
            }
            _ if input.below(16) == 0 => {
                // Short enough that the server does not count as lost.
                peer.feed(&super::peer::raw(8, 0, b""));
                peer.pass(Duration::from_secs(40), false);
                model.expect_all(Expected::Late);
            }
            _ => {}
        }
        if broken {
            model.expect_all(Expected::Unconfirmed);
            assert!(
                matches!(peer.machine.why_closed(), Some(Error::CommandInvalid(_))),
                "{tag}"
            );
        }
        model.check(&mut peer, &mut fetched);
    }
    peer.lose();
    model.expect_all(Expected::Unconfirmed);
    model.check(&mut peer, &mut fetched);
    assert!(peer.machine.is_idle());
}

/// Returns the number of a pending publish, or one near it.
fn pick(input: &mut Input<'_>, model: &Model) -> u64 {
    let sent = model.promises.len() as u64;
    let place = input.short();
    match input.below(8) {
        0 => u64::from(place) % (sent + 2),
        1 => 0,
        _ => {
            let from = u64::from(place) % (sent + 1);
            let next = model
                .pending
                .range(from..)
                .next()
                .or_else(|| model.pending.first_key_value());
            next.map_or(0, |(tag, _)| *tag)
        }
    }
}

fn publish(peer: &mut Peer, model: &mut Model, fetched: &mut Vec<bool>, mandatory: bool) {
    let publish = Publish {
        exchange: short(b""),
        routing_key: short(b"key"),
        mandatory,
        immediate: false,
        properties: &Properties::NONE,
        headers: None,
        body: Body::from(&b"x"[..]),
    };
    let promise = peer.machine.publish(&publish).expect("there is capacity");
    if model.promises.is_empty() {
        peer.serve();
    }
    peer.drain();
    model.promises.push((promise, Expected::Open));
    fetched.push(false);
    // The last header written; `serve` has answered what was written before it.
    let header = peer.unanswered.drain(..).rfind(|frame| frame.kind == 2);
    let tag = model.promises.len() as u64;
    model
        .pending
        .insert(tag, header.map(|frame| frame.payload).unwrap_or_default());
}

fn returned(channel: u16, header: &[u8]) -> Vec<u8> {
    let it = basic::Return {
        reply_code: 312,
        reply_text: short(b"NO_ROUTE"),
        exchange: short(b""),
        routing_key: short(b"key"),
    };
    let mut bytes = method(channel, &it);
    bytes.extend(super::peer::raw(2, channel, header));
    frame::body(&mut bytes, channel, 4096, b"x");
    bytes
}
