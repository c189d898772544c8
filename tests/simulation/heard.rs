//! What a client publishes, as the broker hears it.

use crate::frames::Frame;
use crate::observer::id_of;
use puka::protocol::method::{basic, channel, tx};
use puka::protocol::{ContentHeader, Method, Properties, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A publish that was heard to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) exchange: String,
    pub(crate) copy: u64,
    /// It stands in a line with the others of that number, which are of its channel.
    pub(crate) in_line: Option<usize>,
}

/// A content that has begun.
#[derive(Debug)]
struct Content {
    exchange: String,
    attempt: u64,
    id: Option<u64>,
    in_line: bool,
    /// None before the header.
    left: Option<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Publishes {
    contents: BTreeMap<u16, Content>,
    transactional: BTreeSet<u16>,
    /// How many channels were opened, and by its number which of them a channel is.
    opened: usize,
    turns: BTreeMap<u16, usize>,
    /// A frame that may not stand where it does.
    pub(crate) disorder: Option<String>,
}

impl Publishes {
    pub(crate) fn hear(&mut self, frame: &Frame) -> Option<Heard> {
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
            content.in_line &= header.properties.reply_to.is_none();
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
            in_line,
            ..
        } = self.contents.remove(&number)?;
        let turn = self.turns.get(&number).copied().unwrap_or_default();
        Some(Heard {
            exchange,
            copy: copy_of(id?, attempt),
            in_line: in_line.then_some(turn),
        })
    }

    fn method(&mut self, number: u16, frame: &Frame) {
        let method = Method::decode(frame.payload());
        if self.contents.contains_key(&number) {
            self.disorder = Some(format!("I7: {method:?} in the midst of a content"));
        }
        match method {
            Ok(Method::Basic(basic::Method::Publish(publish))) => {
                let content = Content {
                    exchange: publish.exchange.to_str_lossy().into_owned(),
                    attempt: 0,
                    id: None,
                    in_line: !self.transactional.contains(&number),
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

/// How many times a message was published before, as it says.
pub(crate) fn attempt_of(properties: &Properties<'_>) -> u64 {
    let headers = properties.headers.and_then(|headers| headers.table().ok());
    let attempts =
        headers.and_then(|headers| headers.get("x-puka-republished").and_then(Value::as_i64));
    attempts.unwrap_or(0).unsigned_abs()
}

/// Tells the copies of a message apart that its publisher has sent.
pub(crate) fn copy_of(id: u64, attempt: u64) -> u64 {
    id | attempt << 40
}

/// Which message a copy is of.
pub(crate) fn id_of_copy(copy: u64) -> u64 {
    copy & ((1 << 40) - 1)
}
