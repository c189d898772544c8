//! Rewrites the bytes between client and broker. It injects faults of the broker, such as a refused
//! login, and planted faults, with which `planted.rs` proves that the simulation notices bugs.

use crate::frames::{Frame, FrameSplitter};
use crate::plan::{Feature, Plan, PlantedFault};
use crate::random::Random;
use puka::protocol::method::{basic, channel, connection};
use puka::protocol::{ShortStr, frame};
use std::collections::{BTreeMap, BTreeSet};

/// Rewrites the bytes of a connection in both directions.
#[derive(Debug)]
pub(crate) struct FaultInjector {
    planted_fault: PlantedFault,
    client: FrameSplitter,
    broker: FrameSplitter,
    random: Random,
    /// The frames of a publish to repeat, and the missing bytes of its body.
    publish: Option<(Vec<u8>, u64)>,
    /// Whether the broker refuses the login.
    refusal: Refusal,
    /// The `channel_max` of the first connection.
    first_channel_max: u16,
    /// The `channel_max` that the broker has proposed for this connection.
    proposed_channel_max: u16,
    /// The plan may withhold contents. Then the broker's bytes must be split into frames from the
    /// start of the connection.
    may_withhold: bool,
    /// Contents are withheld: the broker begins them and does not end them. These channels have
    /// such a content, and carry nothing more.
    withheld: Option<BTreeSet<u16>>,
    /// The tags of consumers that the broker cancelled.
    cancelled: BTreeSet<Vec<u8>>,
    /// Channels of gets that need an ack, and whether their message has arrived.
    gets: BTreeMap<u16, bool>,
    /// Channels whose `channel.open` was dropped.
    unopened: BTreeSet<u16>,
}

/// How a login is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// The broker does not accept the credentials.
    Login,
    /// The virtual host does not exist.
    VirtualHost,
    /// The peer is an HTTP server.
    Http,
}

impl RefusalKind {
    /// Returns the method of the broker that the refusal replaces.
    fn replaced_method(self) -> (u16, u16) {
        match self {
            Self::Http => (10, 10),
            Self::Login => (10, 30),
            Self::VirtualHost => (10, 41),
        }
    }
}

/// Whether the broker refuses the login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    None,
    /// The broker will refuse the login.
    Pending(RefusalKind),
    /// The broker has refused the login, and sends nothing more.
    Sent,
}

/// The number of the class `basic`.
const BASIC: u16 = 60;

impl FaultInjector {
    pub(crate) fn new(plan: &Plan, random: Random) -> Self {
        let withholds = plan.planted_fault == PlantedFault::EndlessContent;
        Self {
            planted_fault: plan.planted_fault,
            client: FrameSplitter::default(),
            broker: FrameSplitter::default(),
            random,
            publish: None,
            refusal: Refusal::None,
            first_channel_max: plan.channel_max(),
            proposed_channel_max: 0,
            may_withhold: plan.has(Feature::Partial),
            withheld: withholds.then(BTreeSet::new),
            cancelled: BTreeSet::new(),
            gets: BTreeMap::new(),
            unopened: BTreeSet::new(),
        }
    }

    /// Makes the broker refuse the login.
    pub(crate) fn refuse_login(&mut self, kind: RefusalKind) {
        self.refusal = Refusal::Pending(kind);
    }

    /// Makes the broker begin contents without ending them.
    pub(crate) fn withhold(&mut self) {
        self.withheld = Some(BTreeSet::new());
    }

    /// Returns `true` if the broker begins contents without ending them.
    pub(crate) fn is_withholding(&self) -> bool {
        self.withheld.is_some()
    }

    /// Returns `true` if the broker has refused the login.
    pub(crate) fn has_refused_login(&self) -> bool {
        self.refusal == Refusal::Sent
    }

    /// Returns what the broker receives instead of these bytes of the client.
    pub(crate) fn rewrite_client_bytes(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        if self.planted_fault == PlantedFault::None {
            return bytes;
        }
        let frames = self.client.split(&bytes);
        frames
            .into_iter()
            .flat_map(|frame| self.rewrite_client_frame(frame))
            .collect()
    }

    /// Returns what the client receives instead of these bytes of the broker.
    pub(crate) fn rewrite_broker_bytes(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        if self.planted_fault == PlantedFault::None
            && self.refusal == Refusal::None
            && !self.may_withhold
        {
            return bytes;
        }
        let frames = self.broker.split(&bytes);
        frames
            .into_iter()
            .flat_map(|frame| self.rewrite_broker_frame(frame))
            .collect()
    }

    /// Returns what the broker receives instead of this frame of the client.
    fn rewrite_client_frame(&mut self, frame: Frame) -> Vec<u8> {
        let method = frame.method();
        if self.planted_fault == PlantedFault::CrowdedChannels && self.track_gets(&frame) {
            return Vec::new();
        }
        let Frame(mut bytes) = frame.clone();
        match (self.planted_fault, method) {
            (PlantedFault::LostAck, Some((BASIC, 80))) if self.random.chance(20) => Vec::new(),
            (PlantedFault::UnansweredCancel, Some((BASIC, 30 | 31)))
                if self.cancelled.contains(tag_of(&bytes)) =>
            {
                Vec::new()
            }
            (PlantedFault::LostCancel, Some((BASIC, 30))) if self.random.chance(50) => Vec::new(),
            (PlantedFault::LateClose, Some((10, 50))) => Vec::new(),
            (PlantedFault::WideAck, Some((BASIC, 80))) => {
                bytes[19] |= 1;
                bytes
            }
            (PlantedFault::EmptyName, Some((BASIC, 70))) if self.random.chance(20) => {
                get_without_name(&frame)
            }
            // The broker must not notice that the client uses another value.
            (PlantedFault::KeptChannelMax, Some((10, 31))) => {
                bytes[11..13].copy_from_slice(&self.proposed_channel_max.to_be_bytes());
                bytes
            }
            (PlantedFault::OtherName, Some((BASIC, 40))) => {
                if let Some(start) = bytes.windows(8).position(|window| window == b"amq.gen-") {
                    bytes[start + 8] = b'?';
                }
                bytes
            }
            (PlantedFault::RepeatedPublish, Some((BASIC, 40))) => {
                self.publish = self.random.chance(20).then_some((bytes.clone(), 0));
                bytes
            }
            (PlantedFault::RepeatedPublish, None) if bytes[0] != 8 && bytes[0] != b'A' => {
                self.repeat_publish(&frame)
            }
            _ => bytes,
        }
    }

    /// Tracks the channels with an unsettled message of a `basic.get`. Returns `true` if the frame
    /// must be dropped, because its channel was opened while five such messages were unsettled.
    fn track_gets(&mut self, frame: &Frame) -> bool {
        let channel = frame.channel();
        match frame.method() {
            Some((BASIC, 70)) if frame.payload().last().is_some_and(|bits| bits & 1 == 0) => {
                self.gets.insert(channel, false);
            }
            // Settlements, closes, and everything that is sent when the channel is reused.
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
            self.unopened.insert(channel);
        }
        self.unopened.contains(&channel)
    }

    /// Returns a frame of a content. If it ends a publish to repeat, the publish follows once more.
    fn repeat_publish(&mut self, frame: &Frame) -> Vec<u8> {
        let Some((mut publish, missing)) = self.publish.take() else {
            return frame.0.clone();
        };
        publish.extend_from_slice(&frame.0);
        let missing = frame
            .body_size()
            .unwrap_or_else(|| missing - frame.payload().len() as u64);
        if missing > 0 {
            self.publish = Some((publish, missing));
            return frame.0.clone();
        }
        [frame.0.clone(), publish].concat()
    }

    /// Returns what the client receives instead of this frame of the broker.
    fn rewrite_broker_frame(&mut self, frame: Frame) -> Vec<u8> {
        let method = frame.method();
        if self.refusal == Refusal::Sent {
            return Vec::new();
        }
        if let Refusal::Pending(kind) = self.refusal
            && method == Some(kind.replaced_method())
        {
            self.refusal = Refusal::Sent;
            return refusal(kind);
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
        let Frame(mut bytes) = frame;
        match (self.planted_fault, method) {
            (PlantedFault::UnansweredCancel, Some((BASIC, 30))) => {
                self.cancelled.insert(tag_of(&bytes).to_vec());
                bytes
            }
            (PlantedFault::RefusedForGood, Some((20, 40))) => {
                refusal_for_good(&bytes).unwrap_or(bytes)
            }
            (PlantedFault::KeptChannel, Some((20, 40))) if is_overdue(&bytes) => Vec::new(),
            (PlantedFault::SwappedConfirm, Some((BASIC, number @ (80 | 120))))
                if self.random.chance(20) =>
            {
                bytes[10] = if number == 80 { 120 } else { 80 };
                bytes
            }
            (PlantedFault::KeptChannelMax, Some((10, 30))) => {
                self.proposed_channel_max = u16::from_be_bytes([bytes[11], bytes[12]]);
                bytes[11..13].copy_from_slice(&self.first_channel_max.to_be_bytes());
                bytes
            }
            (PlantedFault::WideConfirm, Some((BASIC, 80))) => {
                bytes[19] |= 1;
                bytes
            }
            (PlantedFault::LostConfirm, Some((BASIC, 80))) if self.random.chance(20) => Vec::new(),
            (PlantedFault::LostReply, Some((50, 11))) if self.random.chance(20) => Vec::new(),
            (PlantedFault::SwappedReturns, None) if bytes[0] == 2 => {
                let stamp = b"x-puka-publish";
                let found = bytes
                    .windows(stamp.len())
                    .position(|window| window == stamp);
                if let Some(start) = found {
                    let last = start + stamp.len() + 8;
                    bytes[last] = bytes[last].saturating_sub(1).max(1);
                }
                bytes
            }
            (PlantedFault::RepeatedBytes, Some((BASIC, _))) if self.random.chance(5) => {
                bytes.repeat(2)
            }
            (PlantedFault::LostByte, Some(_)) if self.random.chance(2) => {
                bytes.pop();
                bytes
            }
            (PlantedFault::ForgottenRedelivery, Some((BASIC, 60))) => {
                let flag = 7 + 4 + 1 + usize::from(bytes[11]) + 8;
                bytes[flag] = 0;
                bytes
            }
            (PlantedFault::ForgottenRedelivery, Some((BASIC, 71))) => {
                bytes[7 + 4 + 8] = 0;
                bytes
            }
            _ => bytes,
        }
    }
}

/// Returns `true` for a channel close over a delivery that was not acknowledged in time.
fn is_overdue(bytes: &[u8]) -> bool {
    let text = b"delivery acknowledgement";
    bytes.windows(text.len()).any(|window| window == text)
}

/// Returns RabbitMQ's close over a consumer without permission, for a close over a queue in
/// exclusive use. Returns `None` for any other close.
fn refusal_for_good(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes.get(14..bytes.len() - 5)?).ok()?;
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
    let number = u16::from_be_bytes([bytes[1], bytes[2]]);
    let mut bytes = Vec::new();
    frame::method(&mut bytes, number, u32::MAX, &close).unwrap_or_default();
    Some(bytes)
}

/// Returns the consumer tag of a `basic.cancel` or `cancel-ok`.
fn tag_of(frame: &[u8]) -> &[u8] {
    let tag = frame.get(11..).unwrap_or_default();
    tag.split_first()
        .and_then(|(length, tag)| tag.get(..usize::from(*length)))
        .unwrap_or_default()
}

/// Returns a body frame with the first half of another.
fn half_of(frame: &Frame) -> Vec<u8> {
    let half = &frame.payload()[..frame.payload().len() / 2];
    let mut bytes = frame.0[..3].to_vec();
    bytes.extend(u32::try_from(half.len()).unwrap_or_default().to_be_bytes());
    bytes.extend(half);
    bytes.push(0xCE);
    bytes
}

/// Returns the same `basic.get`, from the queue last declared on its channel.
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

/// Returns the bytes with which a peer refuses a login.
fn refusal(kind: RefusalKind) -> Vec<u8> {
    let (code, text, class_id, method_id) = match kind {
        RefusalKind::Http => return b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        RefusalKind::Login => (403, "ACCESS_REFUSED - not now", 0, 0),
        RefusalKind::VirtualHost => (530, "NOT_ALLOWED - vhost / not found", 10, 40),
    };
    let close = connection::Close {
        reply_code: code,
        reply_text: ShortStr::cut(text),
        class_id,
        method_id,
    };
    let mut bytes = Vec::new();
    frame::method(&mut bytes, 0, u32::MAX, &close).unwrap_or_default();
    bytes
}
