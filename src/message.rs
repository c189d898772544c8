//! A message as data: where it was published to, its properties, its body.
//!
//! It is one allocation when the body is small. A large body that came in one frame is a slice of what was read.

use crate::protocol::frame::OVERHEAD;
use crate::protocol::{ContentHeader, DecodeError, Properties, ShortStr, TableRef, WholeContent};
use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// A message that a broker delivered or returned. A clone copies it, but shares a body of more than 16 KiB.
#[derive(Clone)]
pub struct Message {
    /// Exchange, routing key, property list and, when it is small, the body, in this order.
    octets: Box<[u8]>,
    ends: Ends,
    /// A large body. Boxed, because a message is moved often, and most bodies are small.
    apart: Option<Box<Apart>>,
}

/// Where the exchange, the routing key and the property list end. Small, because messages are moved often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    exchange: u8,
    routing_key: u16,
    properties: u32,
    /// Whether the parts stand as they came, with what AMQP has between them.
    as_it_came: bool,
}

/// What AMQP has in front of a routing key: its length.
const BEFORE_ROUTING_KEY: usize = 1;

/// What it has between a routing key and the property list: the end of a frame, and the beginning of a content header.
const BEFORE_PROPERTIES: usize = OVERHEAD as usize + ContentHeader::PROPERTY_LIST;

/// What it has between the property list and the body: the end of a frame, and the beginning of another.
const BEFORE_BODY: usize = OVERHEAD as usize;

impl Ends {
    /// Of an exchange and a routing key of so many octets, and no properties yet.
    pub(crate) fn new(exchange: ShortStr<'_>, routing_key: ShortStr<'_>) -> Self {
        // A short string has 255 octets at most.
        let (exchange, routing_key) = (exchange.len() as u8, routing_key.len() as u16);
        let routing_key = u16::from(exchange) + routing_key;
        Self { exchange, routing_key, properties: routing_key.into(), as_it_came: false }
    }

    /// With a property list of so many octets, which is part of a frame.
    pub(crate) fn with_properties(self, octets: usize) -> Self {
        Self { properties: u32::from(self.routing_key).saturating_add(octets as u32), ..self }
    }

    /// What stands in front of something, if it came with it.
    fn gap(self, octets: usize) -> usize {
        if self.as_it_came { octets } else { 0 }
    }

    fn exchange(self) -> Range<usize> {
        0..self.exchange.into()
    }

    fn routing_key(self) -> Range<usize> {
        usize::from(self.exchange) + self.gap(BEFORE_ROUTING_KEY)..self.routing_key.into()
    }

    fn properties(self) -> Range<usize> {
        usize::from(self.routing_key) + self.gap(BEFORE_PROPERTIES)..self.properties as usize
    }

    /// Where the body begins, if there is one.
    pub(crate) fn body(self) -> usize {
        self.properties as usize + self.gap(BEFORE_BODY)
    }
}

/// A body that does not stand behind the property list.
#[derive(Clone)]
enum Apart {
    Body(Bytes),
    /// It had so many octets, more than are accepted, and was not kept.
    TooLarge(u64),
}

impl Message {
    /// A message with all of its content, which is copied in one piece.
    #[inline]
    pub(crate) fn as_it_came(
        exchange: ShortStr<'_>,
        routing_key: ShortStr<'_>,
        content: &WholeContent<'_>,
    ) -> Self {
        // These two are the last that a `deliver` has, and nothing comes behind them.
        let names = exchange.len() + BEFORE_ROUTING_KEY + routing_key.len();
        let octets = content.octets.get(content.method.saturating_sub(names)..).unwrap_or_default();
        let ends = Ends {
            exchange: exchange.len() as u8,
            routing_key: names as u16,
            properties: (names + BEFORE_PROPERTIES + content.properties) as u32,
            as_it_came: true,
        };
        Self { octets: octets.into(), ends, apart: None }
    }

    /// A message whose body, if any, stands in `octets` behind the property list.
    pub(crate) fn inline(octets: Vec<u8>, ends: Ends) -> Self {
        Self { octets: octets.into(), ends, apart: None }
    }

    pub(crate) fn with_body(octets: Vec<u8>, ends: Ends, body: Bytes) -> Self {
        Self::with_apart(octets, ends, Apart::Body(body))
    }

    pub(crate) fn too_large(octets: Vec<u8>, ends: Ends, size: u64) -> Self {
        Self::with_apart(octets, ends, Apart::TooLarge(size))
    }

    fn with_apart(octets: Vec<u8>, ends: Ends, apart: Apart) -> Self {
        Self { octets: octets.into(), ends, apart: Some(apart.into()) }
    }

    fn part(&self, range: Range<usize>) -> &[u8] {
        self.octets.get(range).unwrap_or_default()
    }

    /// The exchange it was published to; empty for the default one. U+FFFD stands for what is not UTF-8.
    #[must_use]
    pub fn exchange(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.part(self.ends.exchange()))
    }

    /// The routing key it was published with. U+FFFD stands for what is not UTF-8.
    #[must_use]
    pub fn routing_key(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.routing_key_octets())
    }

    /// The routing key as it came.
    #[must_use]
    pub fn routing_key_octets(&self) -> &[u8] {
        self.part(self.ends.routing_key())
    }

    /// The properties. They are decoded at each call, without an allocation.
    #[must_use]
    pub fn properties(&self) -> Properties<'_> {
        // The list was decoded once when it arrived, and refused there if need be.
        Properties::decode(self.part(self.ends.properties())).unwrap_or_default()
    }

    /// The headers; an empty table when there are none.
    ///
    /// # Errors
    /// What is wrong with them, which is the fault of who published the message and concerns no other.
    pub fn headers(&self) -> Result<TableRef<'_>, DecodeError> {
        self.properties().headers.map_or(Ok(TableRef::EMPTY), |headers| headers.table())
    }

    /// The body; empty when it was [too large](Self::too_large_body) to be kept.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        match self.apart.as_deref() {
            None => self.part(self.ends.body()..self.octets.len()),
            Some(Apart::Body(body)) => body,
            Some(Apart::TooLarge(_)) => &[],
        }
    }

    /// The body, to keep apart from the message: without a copy when it is large. One of 16 KiB or less, which the message has in
    /// one piece with the rest of it, is copied.
    #[must_use]
    pub fn body_bytes(&self) -> Bytes {
        match self.apart.as_deref() {
            None => Bytes::copy_from_slice(self.body()),
            Some(Apart::Body(body)) => body.clone(),
            Some(Apart::TooLarge(_)) => Bytes::new(),
        }
    }

    /// How many octets the body had, if that was more than [`Options::max_message_size`](crate::Options::max_message_size)
    /// and it was therefore not kept.
    #[must_use]
    pub fn too_large_body(&self) -> Option<u64> {
        match self.apart.as_deref() {
            Some(Apart::TooLarge(size)) => Some(*size),
            _ => None,
        }
    }

    /// Octets that it holds in memory, for bounding buffers.
    pub(crate) fn octets(&self) -> usize {
        let apart = if let Some(Apart::Body(body)) = self.apart.as_deref() { body.len() } else { 0 };
        self.octets.len().saturating_add(apart)
    }

    /// The same message without a header that was put there on its way out.
    pub(crate) fn without_header(&self, name: &str) -> Self {
        let mut properties = self.properties();
        let Ok(headers) = self.headers() else { return self.clone() };
        let mut rest = crate::protocol::Table::new();
        for (found, value) in headers {
            if found.as_octets() != name.as_bytes() && rest.push(found, value).is_err() {
                return self.clone();
            }
        }
        properties.headers = (!rest.is_empty()).then(|| rest.as_ref().into());
        let names = [self.ends.exchange(), self.ends.routing_key()].map(|name| self.part(name));
        let [exchange, routing_key] = names.map(|name| ShortStr::from_octets(name).unwrap_or_default());
        let mut octets = names.concat();
        let before = octets.len();
        properties.encode_list(&mut octets);
        let ends = Ends::new(exchange, routing_key).with_properties(octets.len() - before);
        match self.apart.as_deref() {
            None => {
                octets.extend_from_slice(self.body());
                Self::inline(octets, ends)
            }
            Some(apart) => Self::with_apart(octets, ends, apart.clone()),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("exchange", &self.exchange())
            .field("routing_key", &self.routing_key())
            .field("properties", &self.properties())
            .field("body", &format_args!("{} octets", self.body().len()))
            .finish()
    }
}

/// A message that came back because it could not be routed.
#[derive(Clone, Debug)]
pub struct Returned {
    /// 312 when no queue was bound for it, 313 when no consumer was ready.
    pub reply_code: crate::protocol::ReplyCode,
    /// The broker's words.
    pub reply_text: String,
    /// The message, whole.
    pub message: Message,
}
