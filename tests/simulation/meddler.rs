//! The layer that misbehaves on purpose, so that it shows that misbehaviour is noticed.

use crate::frames::{Cutter, Frame};
use crate::plan::{Feature, Mischief, Plan};
use crate::random::Random;
use puka::protocol::method::{basic, channel, connection};
use puka::protocol::{ShortStr, frame};
use std::collections::{BTreeMap, BTreeSet};

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
    /// The broker's frames are cut apart from the first on, so that contents can be withheld.
    may_withhold: bool,
    /// Channels that begin a content are silent from its middle on, and those that already are.
    withheld: Option<BTreeSet<u16>>,
    /// The tags of consumers that the broker has cancelled.
    expelled: BTreeSet<Vec<u8>>,
    /// Channels of gets to be settled, and whether their message has arrived.
    gets: BTreeMap<u16, bool>,
    /// Channels that the broker has not opened.
    crowded: BTreeSet<u16>,
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
        let may_withhold = plan.has(Feature::Partial);
        let withheld = (mischief == Mischief::EndlessContent).then(BTreeSet::new);
        let (publish, refusal) = (None, Refusal::No);
        let expelled = BTreeSet::new();
        Self {
            mischief,
            client,
            broker,
            random,
            publish,
            refusal,
            channel_max,
            may_withhold,
            withheld,
            expelled,
            gets: BTreeMap::new(),
            crowded: BTreeSet::new(),
        }
    }

    /// Has the broker refuse the login.
    pub(crate) fn refuse(&mut self) {
        self.refusal = Refusal::Yes;
    }

    /// Has the broker begin contents that it does not end.
    pub(crate) fn withhold(&mut self) {
        self.withheld = Some(BTreeSet::new());
    }

    pub(crate) fn withholds(&self) -> bool {
        self.withheld.is_some()
    }

    pub(crate) fn has_refused(&self) -> bool {
        self.refusal == Refusal::Done
    }

    pub(crate) fn client_sends(&mut self, octets: Vec<u8>) -> Vec<u8> {
        if self.mischief == Mischief::None {
            return octets;
        }
        let frames = self.client.cut(&octets);
        frames
            .into_iter()
            .flat_map(|frame| self.of_client(frame))
            .collect()
    }

    pub(crate) fn broker_sends(&mut self, octets: Vec<u8>) -> Vec<u8> {
        if self.mischief == Mischief::None && self.refusal == Refusal::No && !self.may_withhold {
            return octets;
        }
        let frames = self.broker.cut(&octets);
        frames
            .into_iter()
            .flat_map(|frame| self.of_broker(frame))
            .collect()
    }

    fn of_client(&mut self, frame: Frame) -> Vec<u8> {
        let method = frame.method();
        if self.mischief == Mischief::CrowdedChannels && self.crowds_out(&frame) {
            return Vec::new();
        }
        let Frame(mut octets) = frame.clone();
        match (self.mischief, method) {
            (Mischief::LostAck, Some((BASIC, 80))) if self.random.chance(20) => Vec::new(),
            (Mischief::UnansweredCancel, Some((BASIC, 30 | 31)))
                if self.expelled.contains(tag_of(&octets)) =>
            {
                Vec::new()
            }
            (Mischief::LostCancel, Some((BASIC, 30))) if self.random.chance(50) => Vec::new(),
            (Mischief::LateClose, Some((10, 50))) => Vec::new(),
            (Mischief::WideAck, Some((BASIC, 80))) => {
                octets[19] |= 1;
                octets
            }
            (Mischief::EmptyName, Some((BASIC, 70))) if self.random.chance(20) => {
                get_without_name(&frame)
            }
            // The broker hears what it has proposed itself.
            (Mischief::KeptChannelMax, Some((10, 31))) => {
                octets[11..13].copy_from_slice(&self.channel_max.1.to_be_bytes());
                octets
            }
            (Mischief::OtherName, Some((BASIC, 40))) => {
                if let Some(place) = octets.windows(8).position(|window| window == b"amq.gen-") {
                    octets[place + 8] = b'?';
                }
                octets
            }
            (Mischief::RepeatedPublish, Some((BASIC, 40))) => {
                self.publish = self.random.chance(20).then_some((octets.clone(), 0));
                octets
            }
            (Mischief::RepeatedPublish, None) if octets[0] != 8 && octets[0] != b'A' => {
                self.repeat(&frame)
            }
            _ => octets,
        }
    }

    /// Returns `true` for frames of channels that are opened while five messages of gets are
    /// unsettled.
    fn crowds_out(&mut self, frame: &Frame) -> bool {
        let channel = frame.channel();
        match frame.method() {
            Some((BASIC, 70)) if frame.payload().last().is_some_and(|bits| bits & 1 == 0) => {
                self.gets.insert(channel, false);
            }
            // Settlements, closes, and all that is sent when the channel is used again.
            Some(_) => {
                self.gets.remove(&channel);
            }
            None => {}
        }
        let unsettled = self
            .gets
            .values()
            .filter(|has_arrived| **has_arrived)
            .count();
        if frame.method() == Some((20, 10)) && unsettled >= 5 {
            self.crowded.insert(channel);
        }
        self.crowded.contains(&channel)
    }

    fn repeat(&mut self, frame: &Frame) -> Vec<u8> {
        let Some((mut publish, left)) = self.publish.take() else {
            return frame.0.clone();
        };
        publish.extend_from_slice(&frame.0);
        let left = frame
            .body_size()
            .unwrap_or_else(|| left - frame.payload().len() as u64);
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
        if let Some(withheld) = &mut self.withheld {
            let channel = frame.channel();
            if withheld.contains(&channel) {
                return Vec::new();
            }
            if frame.is_body() {
                withheld.insert(channel);
                return half_of(&frame);
            }
        }
        if method == Some((BASIC, 71))
            && let Some(has_arrived) = self.gets.get_mut(&frame.channel())
        {
            *has_arrived = true;
        }
        let Frame(mut octets) = frame;
        match (self.mischief, method) {
            (Mischief::UnansweredCancel, Some((BASIC, 30))) => {
                self.expelled.insert(tag_of(&octets).to_vec());
                octets
            }
            (Mischief::RefusedForGood, Some((20, 40))) => {
                refused_for_good(&octets).unwrap_or(octets)
            }
            (Mischief::KeptChannel, Some((20, 40))) if is_overdue(&octets) => Vec::new(),
            (Mischief::SwappedConfirm, Some((BASIC, number @ (80 | 120))))
                if self.random.chance(20) =>
            {
                octets[10] = if number == 80 { 120 } else { 80 };
                octets
            }
            (Mischief::KeptChannelMax, Some((10, 30))) => {
                self.channel_max.1 = u16::from_be_bytes([octets[11], octets[12]]);
                octets[11..13].copy_from_slice(&self.channel_max.0.to_be_bytes());
                octets
            }
            (Mischief::WideConfirm, Some((BASIC, 80))) => {
                octets[19] |= 1;
                octets
            }
            (Mischief::LostConfirm, Some((BASIC, 80))) if self.random.chance(20) => Vec::new(),
            (Mischief::LostReply, Some((50, 11))) if self.random.chance(20) => Vec::new(),
            (Mischief::SwappedReturns, None) if octets[0] == 2 => {
                let stamp = b"x-puka-publish";
                let found = octets
                    .windows(stamp.len())
                    .position(|window| window == stamp);
                if let Some(place) = found {
                    let last = place + stamp.len() + 8;
                    octets[last] = octets[last].saturating_sub(1).max(1);
                }
                octets
            }
            (Mischief::RepeatedOctets, Some((BASIC, _))) if self.random.chance(5) => {
                octets.repeat(2)
            }
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

/// Whether the broker closes a channel over a delivery that was not acknowledged in time.
fn is_overdue(bytes: &[u8]) -> bool {
    let text = b"delivery acknowledgement";
    bytes.windows(text.len()).any(|window| window == text)
}

/// The frame by which RabbitMQ closes a channel over a consumer without permission, for one over a
/// queue in exclusive use.
fn refused_for_good(octets: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(octets.get(14..octets.len() - 5)?).ok()?;
    let queue = text
        .strip_prefix("ACCESS_REFUSED - ")?
        .strip_suffix(" in exclusive use")?;
    let text = format!("ACCESS_REFUSED - access to {queue} refused for user 'guest'");
    let close = channel::Close {
        reply_code: 403,
        reply_text: ShortStr::cut(&text),
        class_id: BASIC,
        method_id: 20,
    };
    let number = u16::from_be_bytes([octets[1], octets[2]]);
    let mut bytes = Vec::new();
    frame::method(&mut bytes, number, u32::MAX, &close).unwrap_or_default();
    Some(bytes)
}

/// The consumer tag of a `basic.cancel` or `cancel-ok`.
fn tag_of(frame: &[u8]) -> &[u8] {
    let tag = frame.get(11..).unwrap_or_default();
    tag.split_first()
        .and_then(|(length, tag)| tag.get(..usize::from(*length)))
        .unwrap_or_default()
}

/// A body frame with the first half of another.
fn half_of(frame: &Frame) -> Vec<u8> {
    let half = &frame.payload()[..frame.payload().len() / 2];
    let mut bytes = frame.0[..3].to_vec();
    bytes.extend(u32::try_from(half.len()).unwrap_or_default().to_be_bytes());
    bytes.extend(half);
    bytes.push(0xCE);
    bytes
}

/// The same `basic.get`, from the queue last declared on its channel.
fn get_without_name(frame: &Frame) -> Vec<u8> {
    let no_ack = frame.payload().last().is_some_and(|bits| bits & 1 == 1);
    let get = basic::Get {
        queue: ShortStr::EMPTY,
        no_ack,
    };
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
