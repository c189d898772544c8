//! The incremental decoder: converts a stream of bytes, received in pieces of any size, to frames.
//!
//! It owns the buffer that the transport reads into. The buffer grows while reads fill it, and is
//! reused while no payload shares it, so a steady stream of small frames allocates nothing.

use super::super::{ContentHeader, DecodeError};
use super::{
    FRAME_END, FrameHeader, FrameKind, HEADER, INITIAL_FRAME_MAX, OVERHEAD, ProtocolHeader,
    UNSPLIT_FRAME_MAX,
};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// The initial buffer size in bytes, which is the cost of an idle connection.
const MIN_BUFFER: usize = 4 << 10;

/// The smallest free space in the buffer that is worth a read, in bytes.
const MIN_FREE: usize = 2 << 10;

/// The largest buffer for many small frames, in bytes. A larger frame gets a buffer of its size.
const MAX_SMALL_FRAME_BUFFER: usize = 128 << 10;

/// The number of shared buffers that are stored for reuse. It suffices for a consumer that keeps
/// up.
const MAX_SHARED_BUFFERS: usize = 6;

/// Body frames of at least this many bytes get a buffer of their size, so that the payload can be
/// shared without a copy.
const MIN_FITTED: usize = 16 << 10;

/// A decoder that splits a stream of bytes into frames, independent of the pieces it arrives in.
///
/// ```
/// use puka::protocol::{Decoder, FrameKind};
/// let mut decoder = Decoder::new();
/// decoder.extend(&[8, 0, 0, 0, 0]);
/// assert!(decoder.next_frame()?.is_none());
/// decoder.extend(&[0, 0, 0xCE]);
/// assert_eq!(decoder.next_frame()?.map(|frame| frame.kind()), Some(FrameKind::Heartbeat));
/// # Ok::<(), puka::protocol::DecodeError>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    /// Fully initialised. `start..end` has been received and not yet decoded.
    buffer: BytesMut,
    start: usize,
    end: usize,
    /// Buffers that payloads share. They are reused when those payloads are dropped, which saves
    /// zeroing.
    shared: VecDeque<Bytes>,
    /// The size of the next buffer in bytes.
    next_size: usize,
    /// The largest payload of a body frame, and of any other frame.
    body_limit: u32,
    unsplit_limit: u32,
    at_stream_start: bool,
    error: Option<DecodeError>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// A frame in the decoder's buffer.
#[derive(Debug)]
pub struct Frame<'d> {
    decoder: &'d mut Decoder,
    found: FoundFrame,
}

/// The kind and channel of a frame, and the range of its payload in the decoder's buffer.
#[derive(Clone, Copy, Debug)]
struct FoundFrame {
    kind: FrameKind,
    channel: u16,
    from: usize,
    to: usize,
}

/// A method with its complete content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WholeContent<'d> {
    /// The received bytes from the method's payload to the end of the body.
    pub(crate) bytes: &'d [u8],
    /// The size of the method's payload in bytes.
    pub(crate) method: usize,
    /// The size of the property list in bytes.
    pub(crate) properties: usize,
    /// The number of received bytes after it.
    pub(crate) left: usize,
}

impl Frame<'_> {
    /// Returns the kind of the frame.
    #[must_use]
    pub fn kind(&self) -> FrameKind {
        self.found.kind
    }

    /// Returns the channel of the frame.
    #[must_use]
    pub fn channel(&self) -> u16 {
        self.found.channel
    }

    /// Returns the bytes between the frame's header and its end.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.decoder
            .buffer
            .get(self.found.from..self.found.to)
            .unwrap_or_default()
    }

    /// Returns this method with its content. Returns `None` unless all of the content was received,
    /// without other frames in between, and its body is one frame of at most `most` bytes. Returns
    /// `None` for a malformed content, too: decoding its frames one by one then finds the error.
    #[inline]
    pub(crate) fn with_content(&self, most: u64) -> Option<WholeContent<'_>> {
        let Self { decoder, found } = self;
        let (properties, left) = decoder.find_content(found.channel, most)?;
        let end = decoder.end.saturating_sub(left);
        // Without a body, only the end of the header's frame follows.
        let bytes = decoder.buffer.get(found.from..end.saturating_sub(1))?;
        Some(WholeContent {
            bytes,
            method: found.to.saturating_sub(found.from),
            properties,
            left,
        })
    }

    /// Continues after this method and its content.
    #[inline]
    pub(crate) fn skip_content(&mut self, left: usize) {
        self.decoder.start = self.decoder.end.saturating_sub(left);
    }

    /// Returns the payload. If it is at least half of the buffer, it shares the buffer; otherwise
    /// it is copied. So a stored payload uses at most twice its size.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        let Self {
            decoder,
            found: FoundFrame { from, to, .. },
        } = self;
        let length = to.saturating_sub(from);
        if length < decoder.buffer.len() / 2 {
            return Bytes::copy_from_slice(decoder.buffer.get(from..to).unwrap_or_default());
        }
        // The next frames are probably of a similar size.
        let next = decoder
            .buffer
            .len()
            .min(MAX_SMALL_FRAME_BUFFER.saturating_add(MIN_FREE))
            .max(decoder.needed());
        let whole = decoder.replace_buffer(next).freeze();
        let payload = whole.slice(from..to);
        if decoder.shared.len() == MAX_SHARED_BUFFERS {
            decoder.shared.pop_front();
        }
        decoder.shared.push_back(whole);
        payload
    }
}

/// Returns the payload of a complete frame of this kind on this channel, and the bytes after the
/// frame.
#[inline]
fn split_frame(bytes: &[u8], kind: FrameKind, channel: u16, limit: u32) -> Option<(&[u8], &[u8])> {
    let (found_kind, found_channel, size) = FrameHeader::fields(*bytes.first_chunk()?);
    if found_kind != kind.number() || found_channel != channel || size > limit {
        return None;
    }
    let (payload, rest) = bytes
        .get(HEADER..)?
        .split_at_checked(usize::try_from(size).ok()?)?;
    let (&FRAME_END, rest) = rest.split_first()? else {
        return None;
    };
    Some((payload, rest))
}

impl Decoder {
    /// Creates a decoder for the start of a stream, with the limits that apply before `tune-ok`.
    #[must_use]
    pub fn new() -> Self {
        let limit = INITIAL_FRAME_MAX.saturating_sub(OVERHEAD);
        Self {
            buffer: BytesMut::new(),
            start: 0,
            end: 0,
            shared: VecDeque::new(),
            next_size: MIN_BUFFER,
            body_limit: limit,
            unsplit_limit: limit,
            at_stream_start: true,
            error: None,
        }
    }

    /// Sets the negotiated limit: a body frame has at most `frame_max` bytes in total. Methods and
    /// content headers, which cannot be split, may have up to 1 MiB regardless.
    pub fn set_frame_max(&mut self, frame_max: u32) {
        self.body_limit = frame_max.saturating_sub(OVERHEAD);
        self.unsplit_limit = frame_max.max(UNSPLIT_FRAME_MAX).saturating_sub(OVERHEAD);
    }

    /// Returns space to read into, never empty. Report the number of bytes with
    /// [`filled`](Self::filled).
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            // The common case: everything received was decoded.
            if self.buffer.len() >= MIN_FREE {
                return &mut self.buffer;
            }
        }
        let free = self.buffer.len().saturating_sub(self.end);
        let missing = self.missing();
        // A frame gets the space that it lacks. More space makes reads worth their call, but the
        // pending bytes have to be moved for it. So it is made only if as many bytes were decoded
        // since the last move. Each byte is then moved only a few times, however small the received
        // pieces are.
        let may_move = self.start >= self.pending().len();
        if free < missing.clamp(1, MIN_FREE) || (free < MIN_FREE && may_move) {
            self.make_space(missing);
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// Returns the number of bytes that the current frame lacks; 0 if it is complete or malformed.
    fn missing(&self) -> usize {
        let pending = self.pending().len();
        let Some(header_bytes) = self.header_bytes() else {
            return HEADER.saturating_sub(pending);
        };
        match FrameHeader::decode(header_bytes) {
            Ok(header) if header.size <= self.limit(header.kind) => {
                let whole =
                    usize::try_from(header.size.saturating_add(OVERHEAD)).unwrap_or(usize::MAX);
                whole.saturating_sub(pending)
            }
            _ => 0,
        }
    }

    /// Returns the buffer size that the current frame needs, if it is a large one and incomplete.
    fn needed(&self) -> usize {
        let pending = self.pending().len();
        // Bounded as in `make_space`: the announced size of a frame alone must not allocate a
        // buffer.
        let missing = self.missing().min(pending.max(MAX_SMALL_FRAME_BUFFER));
        let whole = pending.saturating_add(missing);
        if whole < MIN_FITTED {
            0
        } else {
            whole.saturating_add(MIN_FREE)
        }
    }

    /// Makes space for the rest of a frame and a little more, but for at most about as many bytes
    /// as have arrived.
    fn make_space(&mut self, missing: usize) {
        let pending = self.pending().len();
        // If only complete frames are pending, the space is doubled.
        let wanted = if missing == 0 { pending } else { missing };
        let size = pending
            .saturating_add(wanted.min(pending.max(MAX_SMALL_FRAME_BUFFER)))
            .saturating_add(MIN_FREE);
        if size <= self.buffer.len() && self.next_size <= self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.start = 0;
            self.end = pending;
        } else {
            let fits = missing > 0 && pending.saturating_add(missing) >= MIN_FITTED;
            self.replace_buffer(if fits { size } else { size.max(self.next_size) });
        }
    }

    /// Moves the bytes that were not decoded to another buffer. Returns the previous buffer.
    fn replace_buffer(&mut self, size: usize) -> BytesMut {
        let size = size.max(self.pending().len().saturating_add(1));
        let mut fresh = self.buffer_of(size);
        let pending = self.pending();
        let count = pending.len();
        if let Some(target) = fresh.get_mut(..count) {
            target.copy_from_slice(pending);
        }
        self.start = 0;
        self.end = count;
        std::mem::replace(&mut self.buffer, fresh)
    }

    /// Returns a buffer of at least this size and less than twice as large: a shared buffer that no
    /// payload uses any more, or a new one.
    fn buffer_of(&mut self, size: usize) -> BytesMut {
        let fits =
            |shared: &Bytes| shared.len() >= size && shared.len() / 2 < size && shared.is_unique();
        let found = self
            .shared
            .iter()
            .position(fits)
            .and_then(|index| self.shared.remove(index));
        found
            .and_then(|shared| shared.try_into_mut().ok())
            .unwrap_or_else(|| BytesMut::zeroed(size))
    }

    /// Reports that this many bytes of the [`space`](Self::space) were filled.
    pub fn filled(&mut self, bytes: usize) {
        let end = self.end.saturating_add(bytes).min(self.buffer.len());
        if end == self.buffer.len() {
            self.next_size = self
                .buffer
                .len()
                .saturating_mul(2)
                .clamp(MIN_BUFFER, MAX_SMALL_FRAME_BUFFER);
        }
        self.end = end;
    }

    /// Copies bytes into the decoder.
    pub fn extend(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.space();
            let count = space.len().min(bytes.len());
            let Some((head, rest)) = bytes.split_at_checked(count) else {
                // Unreachable: the count is at most the length.
                return;
            };
            if let Some(target) = space.get_mut(..count) {
                target.copy_from_slice(head);
            }
            self.filled(count);
            bytes = rest;
        }
    }

    /// Returns the bytes that were received and not yet decoded.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    fn limit(&self, kind: FrameKind) -> u32 {
        if kind == FrameKind::Body {
            self.body_limit
        } else {
            self.unsplit_limit
        }
    }

    /// Returns the next complete frame, or `None` until more bytes arrive.
    ///
    /// A frame is refused after its first seven bytes if they are invalid, so no memory is used for
    /// it.
    ///
    /// # Errors
    /// A [`DecodeError`] if the frame is malformed. All later calls return the same error, because
    /// the start of the next frame is unknown.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, DecodeError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        match self.find_frame() {
            Ok(Some(found)) => Ok(Some(Frame {
                decoder: self,
                found,
            })),
            Ok(None) => Ok(None),
            Err(error) => {
                self.error = Some(error);
                Err(error)
            }
        }
    }

    /// Finds a complete content at the start of the pending bytes. Returns the size of its property
    /// list and the number of bytes after it.
    #[inline]
    fn find_content(&self, channel: u16, most: u64) -> Option<(usize, usize)> {
        let (header, rest) = split_frame(
            self.pending(),
            FrameKind::Header,
            channel,
            self.unsplit_limit,
        )?;
        let (size, properties) = ContentHeader::check(header).ok()?;
        let (body, rest) = match size {
            0 => (&[][..], rest),
            _ => split_frame(rest, FrameKind::Body, channel, self.body_limit)?,
        };
        if size > most || u64::try_from(body.len()) != Ok(size) {
            return None;
        }
        Some((properties.len(), rest.len()))
    }

    /// Returns the bytes of the frame header, and one more byte, which is ignored. Returns `None`
    /// if the header is incomplete.
    #[inline]
    fn header_bytes(&self) -> Option<[u8; HEADER + 1]> {
        if let Some(bytes) = self.pending().first_chunk() {
            return Some(*bytes);
        }
        let mut bytes = [0; HEADER + 1];
        let [header @ .., _] = &mut bytes;
        *header = *self.pending().first_chunk()?;
        Some(bytes)
    }

    /// Finds the next complete frame, and moves behind it. Returns `None` if it is incomplete.
    #[inline(always)]
    fn find_frame(&mut self) -> Result<Option<FoundFrame>, DecodeError> {
        let Some(header_bytes) = self.header_bytes().filter(|_| !self.at_stream_start) else {
            return self.find_early_frame();
        };
        let FrameHeader {
            kind,
            channel,
            size,
        } = FrameHeader::decode(header_bytes)?;
        let limit = self.limit(kind);
        if size > limit {
            return Err(DecodeError::FrameTooLarge { size, limit });
        }
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        // The sums cannot overflow: the limit leaves room for the bytes around a payload.
        let Some(&end) = self.pending().get(HEADER.wrapping_add(length)) else {
            return Ok(None);
        };
        // Spec 4.2.3: "When a peer reads a frame it MUST check that the frame-end is valid before
        // attempting to decode the frame."
        if end != FRAME_END {
            return Err(DecodeError::FrameEnd { found: end });
        }
        let from = self.start.wrapping_add(HEADER);
        let to = from.wrapping_add(length);
        self.start = to.wrapping_add(1);
        Ok(Some(FoundFrame {
            kind,
            channel,
            from,
            to,
        }))
    }

    /// Handles the start of the stream and incomplete frame headers.
    #[cold]
    fn find_early_frame(&mut self) -> Result<Option<FoundFrame>, DecodeError> {
        let Some(&kind) = self.pending().first() else {
            return Ok(None);
        };
        if self.at_stream_start && kind == b'A' {
            return self.find_protocol_header();
        }
        if !matches!(kind, 1 | 2 | 3 | 8) {
            return Err(DecodeError::UnknownFrameType(kind));
        }
        if self.pending().len() < HEADER {
            return Ok(None);
        }
        self.at_stream_start = false;
        self.find_frame()
    }

    fn find_protocol_header(&mut self) -> Result<Option<FoundFrame>, DecodeError> {
        let pending = self.pending();
        let whole = ProtocolHeader::AMQP_0_9_1.to_bytes();
        let header_bytes = pending.get(..4).unwrap_or(pending);
        if !whole.starts_with(header_bytes) {
            return Err(DecodeError::UnknownFrameType(b'A'));
        }
        if pending.len() < whole.len() {
            return Ok(None);
        }
        let from = self.start;
        self.start = from.saturating_add(whole.len());
        self.at_stream_start = false;
        Ok(Some(FoundFrame {
            kind: FrameKind::ProtocolHeader,
            channel: 0,
            from,
            to: self.start,
        }))
    }
}
