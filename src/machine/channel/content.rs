//! Putting a message together from its method, its content header and its body frames (spec 4.2.6).

use crate::error::Fault;
use crate::machine::ids::ConsumerId;
use crate::machine::request::pending::PendingRequest;
use crate::message::{Ends, Message};
use crate::protocol::method::MethodId;
use crate::protocol::{ContentHeader, Frame, ReplyCode, ShortStr};
use bytes::Bytes;

/// Bodies up to so many octets are kept in one piece with the rest of the message: the copy costs
/// less than the larger buffer that they would hold on to.
pub(crate) const INLINE_BODY: u64 = 16 << 10;

/// Body frames without an octet that may follow one another. They are legal, and no broker sends
/// them.
const EMPTY_FRAMES: u32 = 1024;

/// A message that a channel brought, with what settles it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Delivered {
    /// The message.
    pub message: Message,
    /// Its number on the channel.
    pub tag: u64,
    pub(crate) settled: Settled,
    /// Which of the queues of its consumer it is from.
    pub source: u32,
    /// Which connection brought it.
    pub(crate) epoch: u32,
    /// The channel, of which only that incarnation can settle it.
    pub(crate) incarnation: u64,
    pub(crate) channel: u16,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// Whether its consumer said from which offset of a stream it reads.
    pub(crate) by_offset: bool,
}

/// Whether a delivery is settled. An `Option` or a `Result` of a delivery says in here which it is,
/// and where that is looked at its copies are cut: behind four octets that costs less than behind
/// one.
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

/// A message that was got.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Got {
    /// The message, with what settles it.
    pub delivered: Delivered,
    /// Messages left in the queue.
    pub message_count: u32,
}

impl Delivered {
    /// Whether there is nothing to settle, because it needs no ack.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled == Settled::Yes
    }

    /// Its holder has settled it, and does not do that twice.
    pub(crate) fn set_settled(&mut self) {
        self.settled = Settled::Yes;
    }

    /// Returns `true` if it says which offset of a stream it is from.
    pub(crate) fn has_stream_offset(&self) -> bool {
        self.message
            .headers()
            .is_ok_and(|headers| headers.get(STREAM_OFFSET).is_some())
    }

    /// Whether it is from a stream. A queue may have messages that were copied from one, headers
    /// and all, and who consumes it may have said an offset, but hardly both.
    pub(crate) fn is_of_stream(&self) -> bool {
        self.by_offset && self.has_stream_offset()
    }
}

/// The argument of consumers that read a stream, and the header of what they are delivered.
pub(crate) const STREAM_OFFSET: &str = "x-stream-offset";

/// For whom a delivery is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipient {
    pub(crate) consumer: ConsumerId,
    /// Which of its queues it is from.
    pub(crate) source: u32,
    /// Whether that one is read from an offset of a stream.
    pub(crate) by_offset: bool,
}

/// What a content is for.
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

/// A message of which parts are still to come.
#[derive(Debug)]
pub(crate) struct Assembly {
    pub(crate) purpose: Purpose,
    /// Exchange and routing key, then, with the header, the property list, then the body if it is
    /// small.
    bytes: Vec<u8>,
    ends: Ends,
    body: PartialBody,
    left: u64,
    empty_frames: u32,
}

#[derive(Debug)]
enum PartialBody {
    /// The content header is still to come.
    Unknown,
    Inline,
    /// It came, or will come, in one piece.
    Whole(Bytes),
    Parts(Vec<u8>),
    TooLarge(u64),
}

impl Assembly {
    /// Begins with what the method says. `spare` is a place for it until the size of the message is
    /// known.
    #[inline]
    pub(crate) fn new(
        purpose: Purpose,
        exchange: ShortStr<'_>,
        routing_key: ShortStr<'_>,
        buffer: &mut Vec<u8>,
    ) -> Self {
        let mut bytes = std::mem::take(buffer);
        bytes.clear();
        bytes.extend_from_slice(exchange.as_octets());
        bytes.extend_from_slice(routing_key.as_octets());
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

    /// Takes the content header, and gives back the spare place: the message is one allocation.
    /// True when it is whole.
    pub(crate) fn header(
        &mut self,
        payload: &[u8],
        max_size: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, Fault> {
        if !matches!(self.body, PartialBody::Unknown) {
            return Err(unexpected("a content header inside a content"));
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

    /// Takes a body frame. True when the message is whole.
    pub(crate) fn body(&mut self, frame: Frame<'_>) -> Result<bool, Fault> {
        let size = frame.payload().len() as u64;
        if matches!(self.body, PartialBody::Unknown) || self.left == 0 {
            return Err(unexpected("a body frame without a content header"));
        }
        if size > self.left {
            return Err(Fault::by_client(
                ReplyCode::FRAME_ERROR,
                format!("a body frame of {size} bytes where {} were left", self.left),
                MethodId::NONE,
            ));
        }
        self.empty_frames = if size == 0 { self.empty_frames + 1 } else { 0 };
        if self.empty_frames > EMPTY_FRAMES {
            return Err(unexpected("body frames without an octet, again and again"));
        }
        let whole = self.left == size;
        match &mut self.body {
            PartialBody::Inline => self.bytes.extend_from_slice(frame.payload()),
            PartialBody::Whole(body) if whole => *body = frame.into_payload(),
            PartialBody::Whole(_) => self.body = PartialBody::Parts(frame.payload().to_vec()),
            PartialBody::Parts(parts) => {
                // Never ahead of what has arrived, and never more than the body has.
                let room = self.left.min((parts.len() as u64).max(size)) as usize;
                if parts.capacity() - parts.len() < size as usize {
                    parts.reserve_exact(room.max(size as usize));
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

    /// The message, once it is whole.
    #[inline]
    pub(crate) fn finish(&mut self) -> Message {
        let bytes = std::mem::take(&mut self.bytes);
        match std::mem::replace(&mut self.body, PartialBody::Unknown) {
            PartialBody::Whole(body) => Message::with_body(bytes, self.ends, body),
            PartialBody::Parts(parts) => Message::with_body(bytes, self.ends, parts.into()),
            PartialBody::TooLarge(size) => Message::too_large(bytes, self.ends, size),
            PartialBody::Inline | PartialBody::Unknown => Message::inline(bytes, self.ends),
        }
    }
}

fn unexpected(what: &str) -> Fault {
    Fault::by_client(ReplyCode::UNEXPECTED_FRAME, what, MethodId::NONE)
}
