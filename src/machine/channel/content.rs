//! Assembling a message from its method, its content header and its body frames (spec 4.2.6).

use crate::error::Fault;
use crate::machine::ids::{ChannelNumber, ConsumerId};
use crate::machine::request::pending::PendingRequest;
use crate::message::{Ends, Message};
use crate::protocol::method::MethodId;
use crate::protocol::{ContentHeader, Frame, ReplyCode, ShortStr, Value};
use bytes::Bytes;

/// Bodies up to this many bytes are stored together with the rest of the message: the copy costs
/// less than keeping the larger read buffer alive.
pub(crate) const INLINE_BODY: u64 = 16 << 10;

/// The largest number of consecutive empty body frames. "The content body can be split into as many
/// frames as needed" (4.2.6.2), so they are legal, but no broker sends them.
const EMPTY_FRAMES: u32 = 1024;

/// A delivered message with what is needed to settle it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Delivered {
    /// The message.
    pub message: Message,
    /// The delivery tag.
    pub tag: u64,
    pub(crate) settled: Settled,
    /// The index of its queue among the queues of its consumer.
    pub source: u32,
    /// The connection epoch of the delivery.
    pub(crate) epoch: u32,
    /// The incarnation of the channel. Only the same incarnation can settle the delivery.
    pub(crate) incarnation: u64,
    pub(crate) channel: ChannelNumber,
    /// The broker may have delivered it before.
    pub redelivered: bool,
    /// The consumer reads from an offset of a stream.
    pub(crate) by_offset: bool,
}

/// Whether a delivery is settled. It has four bytes, because an `Option` or a `Result` of a
/// delivery stores its discriminant in this field. The compiler splits copies of a delivery at that
/// field, which costs less for four bytes than for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Settled {
    No,
    Yes,
}

impl From<bool> for Settled {
    fn from(is_settled: bool) -> Self {
        if is_settled { Self::Yes } else { Self::No }
    }
}

/// A message from `basic.get`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Got {
    /// The message with what is needed to settle it.
    pub delivered: Delivered,
    /// The number of messages left in the queue.
    pub message_count: u32,
}

impl Delivered {
    /// Returns `true` if it is settled, or needs no ack.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled == Settled::Yes
    }

    /// Marks it as settled, so that it is not settled twice.
    pub(crate) fn set_settled(&mut self) {
        self.settled = Settled::Yes;
    }

    fn stream_offset_header(&self) -> Option<Value<'_>> {
        self.message.headers().ok()?.get(STREAM_OFFSET)
    }

    /// Returns its offset in a stream, from a header.
    pub(crate) fn stream_offset(&self) -> Option<i64> {
        self.stream_offset_header()?.as_i64()
    }

    /// Returns `true` if it has a header with its offset in a stream.
    pub(crate) fn has_stream_offset(&self) -> bool {
        self.stream_offset_header().is_some()
    }

    /// Returns `true` if it is from a stream. A queue may have messages that were copied from a
    /// stream with their headers, and a consumer of a queue may pass an offset, but hardly both.
    pub(crate) fn is_of_stream(&self) -> bool {
        self.by_offset && self.has_stream_offset()
    }
}

/// The argument of consumers with their first offset in a stream, and the header of deliveries with
/// theirs.
pub(crate) const STREAM_OFFSET: &str = "x-stream-offset";

/// The recipient of a delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipient {
    pub(crate) consumer: ConsumerId,
    /// The index of the queue among those of the consumer.
    pub(crate) source: u32,
    /// The queue is read from an offset of a stream.
    pub(crate) by_offset: bool,
}

/// What a content is received for: the method that it follows.
#[derive(Debug)]
pub(crate) enum Purpose {
    Deliver {
        recipient: Option<Recipient>,
        tag: u64,
        redelivered: bool,
    },
    Got {
        request: PendingRequest,
        no_ack: bool,
        tag: u64,
        redelivered: bool,
        message_count: u32,
    },
    Returned {
        code: u16,
        text: Box<str>,
    },
}

/// A partly received message.
#[derive(Debug)]
pub(crate) struct Assembly {
    pub(crate) purpose: Purpose,
    /// The exchange, the routing key, the property list once the header has arrived, and a small
    /// body.
    bytes: Vec<u8>,
    ends: Ends,
    body: PartialBody,
    /// The number of bytes of the body that have not arrived.
    left: u64,
    /// The number of consecutive empty body frames.
    empty_frames: u32,
}

/// The received part of a body.
#[derive(Debug)]
enum PartialBody {
    /// The content header has not arrived.
    Unknown,
    /// The body is at the end of [`Assembly::bytes`].
    Inline,
    /// The body is in one frame, or its first frame has not arrived.
    Whole(Bytes),
    /// The body is in several frames.
    Parts(Vec<u8>),
    /// The body has this size and is dropped.
    TooLarge(u64),
}

impl Assembly {
    /// Returns the assembly after the method. Its fields are stored in `buffer` until the size of
    /// the message is known.
    #[inline]
    pub(crate) fn new(
        purpose: Purpose,
        exchange: ShortStr<'_>,
        routing_key: ShortStr<'_>,
        buffer: &mut Vec<u8>,
    ) -> Self {
        let mut bytes = std::mem::take(buffer);
        bytes.clear();
        bytes.extend_from_slice(exchange.as_bytes());
        bytes.extend_from_slice(routing_key.as_bytes());
        let ends = Ends::new(exchange, routing_key);
        Self {
            purpose,
            bytes,
            ends,
            body: PartialBody::Unknown,
            left: 0,
            empty_frames: 0,
        }
    }

    /// Handles the content header. Returns `true` if the message is complete. The message is a
    /// single allocation, so the content of `buffer` is copied, and `buffer` is returned.
    pub(crate) fn header(
        &mut self,
        payload: &[u8],
        max_size: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, Fault> {
        // "no two content frames from the same channel may be mixed or overlapped" (4.2.6).
        if !matches!(self.body, PartialBody::Unknown) {
            return Err(unexpected("content header inside a content"));
        }
        let (body_size, list) = ContentHeader::check(payload)?;
        let inline = if body_size <= INLINE_BODY {
            body_size as usize
        } else {
            0
        };
        let mut bytes = Vec::with_capacity(self.bytes.len() + list.len() + inline);
        bytes.extend_from_slice(&self.bytes);
        bytes.extend_from_slice(list);
        *buffer = std::mem::replace(&mut self.bytes, bytes);
        self.ends = self.ends.with_properties(list.len());
        self.left = body_size;
        self.body = match body_size {
            size if size > max_size => PartialBody::TooLarge(size),
            size if size <= INLINE_BODY => PartialBody::Inline,
            _ => PartialBody::Whole(Bytes::new()),
        };
        Ok(body_size == 0)
    }

    /// Handles a body frame. Returns `true` if the message is complete.
    pub(crate) fn body(&mut self, frame: Frame<'_>) -> Result<bool, Fault> {
        let size = frame.payload().len() as u64;
        // "Exactly one content header frame", then "Optionally, one or more content body frames"
        // (4.2.6).
        if matches!(self.body, PartialBody::Unknown) || self.left == 0 {
            return Err(unexpected("body frame without a content header"));
        }
        // "The body size is a 64-bit value that defines the total size of the content body, that
        // is, the sum of the body sizes for the following content body frames" (4.2.6.1).
        if size > self.left {
            return Err(Fault::found_in_broker(
                ReplyCode::FRAME_ERROR,
                format!(
                    "body frame exceeds the body: expected at most {} bytes, got {size}",
                    self.left
                ),
                MethodId::NONE,
            ));
        }
        self.empty_frames = if size == 0 { self.empty_frames + 1 } else { 0 };
        if self.empty_frames > EMPTY_FRAMES {
            return Err(unexpected("too many consecutive empty body frames"));
        }
        let is_whole = self.left == size;
        match &mut self.body {
            PartialBody::Inline => self.bytes.extend_from_slice(frame.payload()),
            PartialBody::Whole(body) if is_whole => *body = frame.into_payload(),
            PartialBody::Whole(_) => self.body = PartialBody::Parts(frame.payload().to_vec()),
            PartialBody::Parts(parts) => {
                // Reserved capacity never exceeds what has arrived or what is missing, so a false
                // body size in the header cannot make us allocate much.
                let capacity = self.left.min((parts.len() as u64).max(size)) as usize;
                if parts.capacity() - parts.len() < size as usize {
                    parts.reserve_exact(capacity.max(size as usize));
                }
                parts.extend_from_slice(frame.payload());
            }
            PartialBody::Unknown | PartialBody::TooLarge(_) => {}
        }
        self.left -= size;
        Ok(self.left == 0)
    }

    /// Returns the size in memory, in bytes, from the content header on. Reserved capacity counts.
    pub(crate) fn size(&self) -> usize {
        match &self.body {
            PartialBody::Unknown => 0,
            PartialBody::Parts(parts) => self.bytes.capacity().saturating_add(parts.capacity()),
            PartialBody::Inline | PartialBody::Whole(_) | PartialBody::TooLarge(_) => {
                self.bytes.capacity()
            }
        }
    }

    /// Drops the body as if it exceeded the limit, and ignores the rest of it. A second call drops
    /// the properties.
    pub(crate) fn drain(&mut self) {
        let end = self.ends.body();
        let received = match &self.body {
            PartialBody::Unknown => return,
            PartialBody::TooLarge(_) => {
                self.ends = self.ends.with_properties(0);
                self.bytes.truncate(self.ends.body());
                self.bytes.shrink_to_fit();
                return;
            }
            PartialBody::Inline => self.bytes.len().saturating_sub(end),
            PartialBody::Whole(body) => body.len(),
            PartialBody::Parts(parts) => parts.len(),
        };
        self.body = PartialBody::TooLarge(self.left.saturating_add(received as u64));
        self.bytes.truncate(end);
        self.bytes.shrink_to_fit();
    }

    /// Returns the message when it is complete.
    #[inline]
    pub(crate) fn finish(&mut self) -> Message {
        let bytes = std::mem::take(&mut self.bytes);
        match std::mem::replace(&mut self.body, PartialBody::Unknown) {
            PartialBody::Whole(body) => Message::with_body(bytes, self.ends, body),
            PartialBody::Parts(parts) => Message::with_body(bytes, self.ends, parts.into()),
            PartialBody::TooLarge(size) => Message::too_large(bytes, self.ends, size),
            PartialBody::Inline | PartialBody::Unknown => {
                Message::with_inline_body(bytes, self.ends)
            }
        }
    }
}

/// Returns the error of a frame that is out of order. "A peer that receives an incomplete or
/// badly-formatted content MUST raise a connection exception with reply code 505 (unexpected
/// frame)" (4.2.6).
fn unexpected(what: &str) -> Fault {
    Fault::found_in_broker(ReplyCode::UNEXPECTED_FRAME, what, MethodId::NONE)
}
