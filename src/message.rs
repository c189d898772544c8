//! Messages: the names of their exchange and routing key, their properties and body.
//!
//! A message with a small body is one allocation. A large body that arrived in one frame is a slice
//! of the read buffer.

use crate::protocol::frame::OVERHEAD;
use crate::protocol::{ContentHeader, DecodeError, Properties, ShortStr, TableRef, WholeContent};
use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// A message that the broker delivered or returned. Cloning copies it, except a body of more than
/// 16 KiB, which is shared.
#[derive(Clone)]
pub struct Message {
    /// Exchange, routing key, property list and a small body, in this order.
    bytes: Box<[u8]>,
    ends: Ends,
    /// A body that is not in `bytes`, because it is large. Boxed, because messages are moved often
    /// and most bodies are small.
    separate_body: Option<Box<SeparateBody>>,
}

/// The offsets in `bytes` at which the exchange, the routing key and the property list end. It is
/// small, because messages are moved often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    exchange: u8,
    routing_key: u16,
    properties: u32,
    /// The parts are stored as received, with the protocol's bytes between them.
    is_from_wire: bool,
}

/// Bytes before a routing key on the wire: its length.
const BEFORE_ROUTING_KEY: usize = 1;

/// Bytes between a routing key and the property list on the wire: the end of a frame, and the
/// beginning of a content header.
const BEFORE_PROPERTIES: usize = OVERHEAD as usize + ContentHeader::PROPERTY_LIST;

/// Bytes between the property list and the body on the wire: the end of a frame, and the beginning
/// of the next.
const BEFORE_BODY: usize = OVERHEAD as usize;

impl Ends {
    /// Returns the ends for an exchange, a routing key and an empty property list.
    pub(crate) fn new(exchange: ShortStr<'_>, routing_key: ShortStr<'_>) -> Self {
        // A short string has at most 255 bytes, so neither cast truncates.
        let (exchange, routing_key) = (exchange.len() as u8, routing_key.len() as u16);
        let routing_key = u16::from(exchange) + routing_key;
        Self {
            exchange,
            routing_key,
            properties: routing_key.into(),
            is_from_wire: false,
        }
    }

    /// Adds a property list of this many bytes. It is part of a frame, so its size fits `u32`.
    pub(crate) fn with_properties(self, bytes: usize) -> Self {
        Self {
            properties: u32::from(self.routing_key).saturating_add(bytes as u32),
            ..self
        }
    }

    /// Returns the number of the protocol's bytes before a part: `bytes` if they are stored, else
    /// 0.
    fn gap(self, bytes: usize) -> usize {
        if self.is_from_wire { bytes } else { 0 }
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

    /// Returns the offset of the body, if there is one.
    pub(crate) fn body(self) -> usize {
        self.properties as usize + self.gap(BEFORE_BODY)
    }
}

/// A body that is not stored after the property list.
#[derive(Clone)]
enum SeparateBody {
    Body(Bytes),
    /// The body had this many bytes, more than are accepted, and was not stored.
    TooLarge(u64),
}

impl Message {
    /// Creates a message from a complete content in the read buffer, which is copied in one piece.
    #[inline]
    pub(crate) fn from_wire(
        exchange: ShortStr<'_>,
        routing_key: ShortStr<'_>,
        content: &WholeContent<'_>,
    ) -> Self {
        // Exchange and routing key are the last arguments of `basic.deliver`.
        let names = exchange.len() + BEFORE_ROUTING_KEY + routing_key.len();
        let bytes = content
            .bytes
            .get(content.method.saturating_sub(names)..)
            .unwrap_or_default();
        let ends = Ends {
            exchange: exchange.len() as u8,
            routing_key: names as u16,
            properties: (names + BEFORE_PROPERTIES + content.properties) as u32,
            is_from_wire: true,
        };
        Self {
            bytes: bytes.into(),
            ends,
            separate_body: None,
        }
    }

    /// Creates a message whose body, if any, is in `bytes` after the property list.
    pub(crate) fn with_inline_body(bytes: Vec<u8>, ends: Ends) -> Self {
        Self {
            bytes: bytes.into(),
            ends,
            separate_body: None,
        }
    }

    /// Creates a message with a large body.
    pub(crate) fn with_body(bytes: Vec<u8>, ends: Ends, body: Bytes) -> Self {
        Self::with_separate_body(bytes, ends, SeparateBody::Body(body))
    }

    /// Creates a message whose body of `size` bytes was too large to be stored.
    pub(crate) fn too_large(bytes: Vec<u8>, ends: Ends, size: u64) -> Self {
        Self::with_separate_body(bytes, ends, SeparateBody::TooLarge(size))
    }

    fn with_separate_body(bytes: Vec<u8>, ends: Ends, body: SeparateBody) -> Self {
        Self {
            bytes: bytes.into(),
            ends,
            separate_body: Some(body.into()),
        }
    }

    fn part(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// Returns the exchange of the publish; empty for the default exchange. Invalid UTF-8 is
    /// replaced by U+FFFD.
    #[must_use]
    pub fn exchange(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.part(self.ends.exchange()))
    }

    /// Returns the routing key of the publish. Invalid UTF-8 is replaced by U+FFFD.
    #[must_use]
    pub fn routing_key(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.routing_key_bytes())
    }

    /// Returns the routing key as received.
    #[must_use]
    pub fn routing_key_bytes(&self) -> &[u8] {
        self.part(self.ends.routing_key())
    }

    /// Returns the properties. Each call decodes them, without allocating.
    #[must_use]
    pub fn properties(&self) -> Properties<'_> {
        // Decoding cannot fail: the list was validated when it arrived.
        Properties::decode(self.part(self.ends.properties())).unwrap_or_default()
    }

    /// Returns the headers; an empty table if there are none.
    ///
    /// # Errors
    /// A [`DecodeError`] if the headers are malformed. The publisher of the message is at fault,
    /// and no other message is affected.
    pub fn headers(&self) -> Result<TableRef<'_>, DecodeError> {
        self.properties()
            .headers
            .map_or(Ok(TableRef::EMPTY), |headers| headers.table())
    }

    /// Returns the body; empty if it was [too large](Self::too_large_body) to be stored.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        match self.separate_body.as_deref() {
            None => self.part(self.ends.body()..self.bytes.len()),
            Some(SeparateBody::Body(body)) => body,
            Some(SeparateBody::TooLarge(_)) => &[],
        }
    }

    /// Returns the body for use without the message. A body of more than 16 KiB is shared. A
    /// smaller one, which is stored with the rest of the message, is copied.
    #[must_use]
    pub fn body_bytes(&self) -> Bytes {
        match self.separate_body.as_deref() {
            None => Bytes::copy_from_slice(self.body()),
            Some(SeparateBody::Body(body)) => body.clone(),
            Some(SeparateBody::TooLarge(_)) => Bytes::new(),
        }
    }

    /// Returns the size of the body in bytes, if it exceeded
    /// [`Options::max_message_size`](crate::Options::max_message_size) and was not stored.
    #[must_use]
    pub fn too_large_body(&self) -> Option<u64> {
        match self.separate_body.as_deref() {
            Some(SeparateBody::TooLarge(size)) => Some(*size),
            _ => None,
        }
    }

    /// Returns the message's size in memory in bytes, for bounding buffers.
    pub(crate) fn bytes(&self) -> usize {
        let separate = if let Some(SeparateBody::Body(body)) = self.separate_body.as_deref() {
            body.len()
        } else {
            0
        };
        self.bytes.len().saturating_add(separate)
    }

    /// Returns a copy without a header, which the library added to the publish. If the headers are
    /// malformed, the copy has all of them.
    pub(crate) fn without_header(&self, name: &str) -> Self {
        let mut properties = self.properties();
        let Ok(headers) = self.headers() else {
            return self.clone();
        };
        let mut others = crate::protocol::Table::new();
        for (found, value) in headers {
            if found.as_bytes() != name.as_bytes() && others.push(found, value).is_err() {
                return self.clone();
            }
        }
        properties.headers = (!others.is_empty()).then(|| others.as_ref().into());
        let names = [self.ends.exchange(), self.ends.routing_key()].map(|name| self.part(name));
        let [exchange, routing_key] =
            names.map(|name| ShortStr::from_bytes(name).unwrap_or_default());
        let mut bytes = names.concat();
        let before = bytes.len();
        properties.encode_list(&mut bytes);
        let ends = Ends::new(exchange, routing_key).with_properties(bytes.len() - before);
        match self.separate_body.as_deref() {
            None => {
                bytes.extend_from_slice(self.body());
                Self::with_inline_body(bytes, ends)
            }
            Some(body) => Self::with_separate_body(bytes, ends, body.clone()),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("exchange", &self.exchange())
            .field("routing_key", &self.routing_key())
            .field("properties", &self.properties())
            .field("body", &format_args!("{} bytes", self.body().len()))
            .finish()
    }
}

/// A message that the broker returned because it could not be routed.
#[derive(Clone, Debug)]
pub struct Returned {
    /// 312 if no queue was bound for it, 313 if no consumer was ready.
    pub reply_code: crate::protocol::ReplyCode,
    /// The broker's reason.
    pub reply_text: String,
    /// The complete message.
    pub message: Message,
}
