//! The publishes of a client, as the broker receives them.

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
    /// The channel, by its order of opening, if the publish must keep its order there.
    pub(crate) ordered_channel: Option<usize>,
}

/// A content that has begun.
#[derive(Debug)]
struct Content {
    exchange: String,
    attempt: u64,
    id: Option<u64>,
    is_ordered: bool,
    /// `None` before the header.
    left: Option<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Publishes {
    contents: BTreeMap<u16, Content>,
    transactional: BTreeSet<u16>,
    /// The number of channels opened so far; `turns` maps channel numbers to this count.
    opened: usize,
    turns: BTreeMap<u16, usize>,
    /// The description of a frame that is not allowed at its position.
    pub(crate) disorder: Option<String>,
}

impl Publishes {
    pub(crate) fn read(&mut self, frame: &Frame) -> Option<ReceivedPublish> {
        let number = frame.channel();
        if frame.is_method() {
            self.method(number, frame);
            return None;
        }
        let content = self.contents.get_mut(&number)?;
        if frame.is_header() {
            let header = ContentHeader::decode(frame.payload()).ok()?;
            content.left = Some(header.body_size);
            content.attempt = attempt_of(&header.properties);
            content.is_ordered &= header.properties.reply_to.is_none();
        } else if frame.is_body() {
            content.id = content.id.or(id_of(frame.payload()));
            let left = content.left.unwrap_or_default();
            content.left = Some(left.saturating_sub(frame.payload().len() as u64));
        }
        if content.left != Some(0) {
            return None;
        }
        let Content {
            exchange,
            attempt,
            id,
            is_ordered,
            ..
        } = self.contents.remove(&number)?;
        let turn = self.turns.get(&number).copied().unwrap_or_default();
        Some(ReceivedPublish {
            exchange,
            copy: copy_of(id?, attempt),
            ordered_channel: is_ordered.then_some(turn),
        })
    }

    fn method(&mut self, number: u16, frame: &Frame) {
        let method = Method::decode(frame.payload());
        if self.contents.contains_key(&number) {
            self.disorder = Some(format!("I7: {method:?} inside a content"));
        }
        match method {
            Ok(Method::Basic(basic::Method::Publish(publish))) => {
                let content = Content {
                    exchange: publish.exchange.to_str_lossy().into_owned(),
                    attempt: 0,
                    id: None,
                    is_ordered: !self.transactional.contains(&number),
                    left: None,
                };
                self.contents.insert(number, content);
            }
            Ok(Method::Tx(tx::Method::Select(_))) => drop(self.transactional.insert(number)),
            Ok(Method::Channel(channel::Method::Open(_))) => {
                self.transactional.remove(&number);
                self.opened += 1;
                self.turns.insert(number, self.opened);
            }
            _ => {}
        }
    }
}

/// Returns the number of earlier publishes of a message, according to its header.
pub(crate) fn attempt_of(properties: &Properties<'_>) -> u64 {
    let headers = properties.headers.and_then(|headers| headers.table().ok());
    let attempts =
        headers.and_then(|headers| headers.get("x-puka-republished").and_then(Value::as_i64));
    attempts.unwrap_or(0).unsigned_abs()
}

/// Returns an id for one copy of a message, of those that its publisher has sent.
pub(crate) fn copy_of(id: u64, attempt: u64) -> u64 {
    id | attempt << 40
}

/// Returns the id of a copy's message.
pub(crate) fn id_of_copy(copy: u64) -> u64 {
    copy & ((1 << 40) - 1)
}
