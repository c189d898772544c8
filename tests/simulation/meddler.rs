//! The layer that misbehaves on purpose, so that it shows that misbehaviour is noticed.

use crate::frames::{Cutter, Frame};
use crate::plan::{Mischief, Plan};
use crate::random::Random;
use puka::protocol::method::{basic, connection};
use puka::protocol::{ShortStr, frame};

/// Sits on both directions of a connection.
#[derive(Debug)]
pub(crate) struct Meddler {
    mischief: Mischief,
    client: Cutter,
    broker: Cutter,
    random: Random,
    /// A publish that is to be repeated, and how many octets of its body are to come.
    publish: Option<(Vec<u8>, u64)>,
    /// The login is refused: what comes of it.
    refusal: Refusal,
    /// The `channel_max` of the first connection, and what the broker proposes to this one.
    channel_max: (u16, u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    No,
    Yes,
    Done,
}

const BASIC: u16 = 60;

impl Meddler {
    pub(crate) fn new(plan: &Plan, random: Random) -> Self {
        let (client, broker) = (Cutter::default(), Cutter::default());
        let Plan { mischief, .. } = *plan;
        let channel_max = (plan.channel_max(), 0);
        Self { mischief, client, broker, random, publish: None, refusal: Refusal::No, channel_max }
    }

    /// Has the broker refuse the login.
    pub(crate) fn refuse(&mut self) {
        self.refusal = Refusal::Yes;
    }

    pub(crate) fn has_refused(&self) -> bool {
        self.refusal == Refusal::Done
    }

    pub(crate) fn client_sends(&mut self, octets: Vec<u8>) -> Vec<u8> {
        if self.mischief == Mischief::None {
            return octets;
        }
        let frames = self.client.cut(&octets);
        frames.into_iter().flat_map(|frame| self.of_client(frame)).collect()
    }

    pub(crate) fn broker_sends(&mut self, octets: Vec<u8>) -> Vec<u8> {
        if self.mischief == Mischief::None && self.refusal == Refusal::No {
            return octets;
        }
        let frames = self.broker.cut(&octets);
        frames.into_iter().flat_map(|frame| self.of_broker(frame)).collect()
    }

    fn of_client(&mut self, frame: Frame) -> Vec<u8> {
        let method = frame.method();
        let Frame(mut octets) = frame.clone();
        match (self.mischief, method) {
            (Mischief::LostAck, Some((BASIC, 80))) if self.random.chance(20) => Vec::new(),
            (Mischief::LostCancel, Some((BASIC, 30))) if self.random.chance(50) => Vec::new(),
            (Mischief::LateClose, Some((10, 50))) => Vec::new(),
            (Mischief::WideAck, Some((BASIC, 80))) => {
                octets[19] |= 1;
                octets
            }
            (Mischief::EmptyName, Some((BASIC, 70))) if self.random.chance(20) => get_without_name(&frame),
            // The broker hears what it has proposed itself.
            (Mischief::KeptChannelMax, Some((10, 31))) => {
                octets[11..13].copy_from_slice(&self.channel_max.1.to_be_bytes());
                octets
            }
            (Mischief::RepeatedPublish, Some((BASIC, 40))) => {
                self.publish = self.random.chance(20).then_some((octets.clone(), 0));
                octets
            }
            (Mischief::RepeatedPublish, None) if octets[0] != 8 && octets[0] != b'A' => self.repeat(&frame),
            _ => octets,
        }
    }

    fn repeat(&mut self, frame: &Frame) -> Vec<u8> {
        let Some((mut publish, left)) = self.publish.take() else { return frame.0.clone() };
        publish.extend_from_slice(&frame.0);
        let left = frame.body_size().unwrap_or_else(|| left - frame.payload().len() as u64);
        if left > 0 {
            self.publish = Some((publish, left));
            return frame.0.clone();
        }
        [frame.0.clone(), publish].concat()
    }

    fn of_broker(&mut self, frame: Frame) -> Vec<u8> {
        let method = frame.method();
        if self.refusal == Refusal::Done {
            return Vec::new();
        }
        if self.refusal == Refusal::Yes && method == Some((10, 30)) {
            self.refusal = Refusal::Done;
            return refused();
        }
        let Frame(mut octets) = frame;
        match (self.mischief, method) {
            (Mischief::SwappedConfirm, Some((BASIC, number @ (80 | 120)))) if self.random.chance(20) => {
                octets[10] = if number == 80 { 120 } else { 80 };
                octets
            }
            (Mischief::KeptChannelMax, Some((10, 30))) => {
                self.channel_max.1 = u16::from_be_bytes([octets[11], octets[12]]);
                octets[11..13].copy_from_slice(&self.channel_max.0.to_be_bytes());
                octets
            }
            (Mischief::LostConfirm, Some((BASIC, 80))) if self.random.chance(20) => Vec::new(),
            (Mischief::LostReply, Some((50, 11))) if self.random.chance(20) => Vec::new(),
            (Mischief::SwappedReturns, None) if octets[0] == 2 => {
                let stamp = b"x-puka-publish";
                let found = octets.windows(stamp.len()).position(|window| window == stamp);
                if let Some(place) = found {
                    let last = place + stamp.len() + 8;
                    octets[last] = octets[last].saturating_sub(1).max(1);
                }
                octets
            }
            (Mischief::RepeatedOctets, Some((BASIC, _))) if self.random.chance(5) => octets.repeat(2),
            (Mischief::LostOctet, Some(_)) if self.random.chance(2) => {
                octets.pop();
                octets
            }
            (Mischief::ForgottenRedelivery, Some((BASIC, 60))) => {
                let flag = 7 + 4 + 1 + usize::from(octets[11]) + 8;
                octets[flag] = 0;
                octets
            }
            (Mischief::ForgottenRedelivery, Some((BASIC, 71))) => {
                octets[7 + 4 + 8] = 0;
                octets
            }
            _ => octets,
        }
    }
}

/// The same `basic.get`, from the queue last declared on its channel.
fn get_without_name(frame: &Frame) -> Vec<u8> {
    let no_ack = frame.payload().last().is_some_and(|bits| bits & 1 == 1);
    let get = basic::Get { queue: ShortStr::EMPTY, no_ack };
    let mut bytes = Vec::new();
    frame::method(&mut bytes, frame.channel(), u32::MAX, &get).unwrap_or_default();
    bytes
}

/// The frame by which RabbitMQ refuses a login.
fn refused() -> Vec<u8> {
    let close = connection::Close {
        reply_code: 403,
        reply_text: ShortStr::cut("ACCESS_REFUSED - not now"),
        class_id: 0,
        method_id: 0,
    };
    let mut octets = Vec::new();
    frame::method(&mut octets, 0, u32::MAX, &close).unwrap_or_default();
    octets
}
