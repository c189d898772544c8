//! Decodes the publishes of a client, as the broker receives them.

use crate::frames::Frame;
use crate::observer::id_of;
use puka::protocol::method::{basic, channel, tx};
use puka::protocol::{ContentHeader, Method, Properties, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A completely received publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceivedPublish {
    pub(crate) exchange: String,
    pub(crate) copy: u64,
    /// The channel, if the publish must keep its order there. Channels are counted in the order in
    /// which they were opened, because their numbers are reused.
    pub(crate) ordered_channel: Option<usize>,
}

/// A content that is arriving.
#[derive(Debug)]
struct Content {
    exchange: String,
    attempt: u64,
    id: Option<u64>,
    is_ordered: bool,
    /// The missing bytes of the body; `None` before the header.
    missing: Option<u64>,
}

/// The decoder of the publishes on one transport.
#[derive(Debug, Default)]
pub(crate) struct PublishObserver {
    /// The content that is arriving, by channel number.
    contents: BTreeMap<u16, Content>,
    /// The numbers of the channels with a transaction.
    transactional: BTreeSet<u16>,
    /// The number of channels opened so far.
    opened: usize,
    /// The value of `opened` after each channel was opened, by channel number.
    opening_order: BTreeMap<u16, usize>,
    /// The description of a frame that is not allowed at its position.
    pub(crate) misplaced_frame: Option<String>,
}

impl PublishObserver {
    /// Decodes a frame of the client. Returns the publish that it completes.
    pub(crate) fn observe(&mut self, frame: &Frame) -> Option<ReceivedPublish> {
        let number = frame.channel();
        if frame.is_method() {
            self.observe_method(number, frame);
            return None;
        }
        let content = self.contents.get_mut(&number)?;
        if frame.is_header() {
            let header = ContentHeader::decode(frame.payload()).ok()?;
            content.missing = Some(header.body_size);
            content.attempt = attempt_of(&header.properties);
            content.is_ordered &= header.properties.reply_to.is_none();
        } else if frame.is_body() {
            content.id = content.id.or(id_of(frame.payload()));
            let missing = content.missing.unwrap_or_default();
            content.missing = Some(missing.saturating_sub(frame.payload().len() as u64));
        }
        if content.missing != Some(0) {
            return None;
        }
        let Content {
            exchange,
            attempt,
            id,
            is_ordered,
            ..
        } = self.contents.remove(&number)?;
        let channel = self.opening_order.get(&number).copied();
        Some(ReceivedPublish {
            exchange,
            copy: copy_of(id?, attempt),
            ordered_channel: channel.filter(|_| is_ordered),
        })
    }

    /// Decodes a method of the client.
    fn observe_method(&mut self, number: u16, frame: &Frame) {
        let method = Method::decode(frame.payload());
        if self.contents.contains_key(&number) {
            self.misplaced_frame = Some(format!("I7: {method:?} inside a content"));
        }
        match method {
            Ok(Method::Basic(basic::Method::Publish(publish))) => {
                let content = Content {
                    exchange: publish.exchange.to_str_lossy().into_owned(),
                    attempt: 0,
                    id: None,
                    is_ordered: !self.transactional.contains(&number),
                    missing: None,
                };
                self.contents.insert(number, content);
            }
            Ok(Method::Tx(tx::Method::Select(_))) => drop(self.transactional.insert(number)),
            Ok(Method::Channel(channel::Method::Open(_))) => {
                self.transactional.remove(&number);
                self.opened += 1;
                self.opening_order.insert(number, self.opened);
            }
            _ => {}
        }
    }
}

/// Returns how often a message was published before, according to its header.
pub(crate) fn attempt_of(properties: &Properties<'_>) -> u64 {
    let headers = properties.headers.and_then(|headers| headers.table().ok());
    let attempts =
        headers.and_then(|headers| headers.get("x-puka-republished").and_then(Value::as_i64));
    attempts.unwrap_or(0).unsigned_abs()
}

/// Returns the number of one copy of a message. The first copy has the id of the message, and each
/// republish makes another copy.
pub(crate) fn copy_of(id: u64, attempt: u64) -> u64 {
    id | attempt << 40
}

/// Returns the id of a copy's message.
pub(crate) fn id_of_copy(copy: u64) -> u64 {
    copy & ((1 << 40) - 1)
}
