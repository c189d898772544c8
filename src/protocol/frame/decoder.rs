//! The incremental decoder: octets in, in pieces of any size, frames out.
//!
//! It owns the buffer that the transport reads into. The buffer grows while reads fill it and is used again for as long
//! as nobody keeps a part of it, so a steady stream of small frames allocates nothing.

use super::super::DecodeError;
use super::{
    FRAME_END, FrameHeader, FrameKind, HEADER, INITIAL_FRAME_MAX, OVERHEAD, ProtocolHeader, UNSPLIT_FRAME_MAX,
};
use bytes::{Bytes, BytesMut};

/// The size of a fresh buffer, in octets: what an idle connection costs.
const SMALLEST: usize = 4 << 10;

/// The least room that is worth a read, in octets.
const ROOM: usize = 2 << 10;

/// The largest buffer for many small frames, in octets. One that holds a larger frame is as large as that.
const LARGEST: usize = 128 << 10;

/// Cuts a stream of octets into frames, whatever pieces it arrives in.
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
    /// All of it is initialised; `start..end` is what was received and not yet decoded.
    buffer: BytesMut,
    start: usize,
    end: usize,
    /// What the next buffer will be, in octets.
    next_size: usize,
    /// The largest payload of a body frame, and that of any other frame.
    body_limit: u32,
    unsplit_limit: u32,
    at_stream_start: bool,
    failed: Option<DecodeError>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// A frame inside the decoder's buffer.
#[derive(Debug)]
pub struct Frame<'d> {
    decoder: &'d mut Decoder,
    kind: FrameKind,
    channel: u16,
    /// Where the payload is in the decoder's buffer.
    from: usize,
    to: usize,
}

impl Frame<'_> {
    /// What it holds.
    #[must_use]
    pub fn kind(&self) -> FrameKind {
        self.kind
    }

    /// The channel it came on.
    #[must_use]
    pub fn channel(&self) -> u16 {
        self.channel
    }

    /// What stands between its first seven octets and its last.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.decoder.buffer.get(self.from..self.to).unwrap_or_default()
    }

    /// The payload, to keep. It is not copied: it shares the buffer that it was received in.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        let Self { decoder, from, to, .. } = self;
        let _consumed = decoder.buffer.split_to(from);
        let payload = decoder.buffer.split_to(to.saturating_sub(from)).freeze();
        decoder.start = decoder.start.saturating_sub(to);
        decoder.end = decoder.end.saturating_sub(to);
        payload
    }
}

impl Decoder {
    /// A decoder at the start of a stream, with the limits that hold before `tune-ok`.
    #[must_use]
    pub fn new() -> Self {
        let limit = INITIAL_FRAME_MAX.saturating_sub(OVERHEAD);
        Self {
            buffer: BytesMut::new(),
            start: 0,
            end: 0,
            next_size: SMALLEST,
            body_limit: limit,
            unsplit_limit: limit,
            at_stream_start: true,
            failed: None,
        }
    }

    /// Sets what was agreed upon: no body frame has more than `frame_max` octets as a whole. Methods and content headers,
    /// which can't be split, may have 1 MiB all the same.
    pub fn set_frame_max(&mut self, frame_max: u32) {
        self.body_limit = frame_max.saturating_sub(OVERHEAD);
        self.unsplit_limit = frame_max.max(UNSPLIT_FRAME_MAX).saturating_sub(OVERHEAD);
    }

    /// A place to read into, never empty. Say how much of it was filled with [`filled`](Self::filled).
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        let room = self.buffer.len().saturating_sub(self.end);
        let missing = self.missing();
        // A frame gets the room that it lacks. More than that, to make reads worth their call, only when what has been
        // decoded since the last move pays for the next one: however small the pieces, an octet is moved a few times.
        let paid_for = self.start >= self.pending().len();
        if room < missing.clamp(1, ROOM) || (room < ROOM && paid_for) {
            self.make_room(missing);
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// Octets that the frame lacks that has begun; 0 when it lacks none, or is wrong.
    fn missing(&self) -> usize {
        let pending = self.pending();
        let Some(header) = pending.first_chunk::<HEADER>() else {
            return HEADER.saturating_sub(pending.len());
        };
        match FrameHeader::decode(*header) {
            Ok(header) if header.size <= self.limit(header.kind) => {
                let whole = usize::try_from(header.size.saturating_add(OVERHEAD)).unwrap_or(usize::MAX);
                whole.saturating_sub(pending.len())
            }
            _ => 0,
        }
    }

    /// Makes room for what is missing of a frame and some more, but at most for about as much again as has arrived.
    fn make_room(&mut self, missing: usize) {
        let pending = self.pending().len();
        // Whole frames, which nobody has decoded yet, are doubled.
        let wanted = if missing == 0 { pending } else { missing };
        let size = pending.saturating_add(wanted.min(pending.max(LARGEST))).saturating_add(ROOM);
        if size <= self.buffer.len() && self.next_size <= self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
        } else {
            let mut fresh = BytesMut::zeroed(size.max(self.next_size));
            if let Some(place) = fresh.get_mut(..pending) {
                place.copy_from_slice(self.pending());
            }
            self.buffer = fresh;
        }
        self.start = 0;
        self.end = pending;
    }

    /// Says that so many octets of the [`space`](Self::space) were filled.
    pub fn filled(&mut self, octets: usize) {
        let end = self.end.saturating_add(octets).min(self.buffer.len());
        if end == self.buffer.len() {
            self.next_size = self.buffer.len().saturating_mul(2).clamp(SMALLEST, LARGEST);
        }
        self.end = end;
    }

    /// Takes octets from elsewhere, by copying them.
    pub fn extend(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let space = self.space();
            let count = space.len().min(octets.len());
            let Some((head, rest)) = octets.split_at_checked(count) else { return };
            if let Some(place) = space.get_mut(..count) {
                place.copy_from_slice(head);
            }
            self.filled(count);
            octets = rest;
        }
    }

    /// Octets received and not yet decoded.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    fn limit(&self, kind: FrameKind) -> u32 {
        if kind == FrameKind::Body { self.body_limit } else { self.unsplit_limit }
    }

    /// The next whole frame; `None` until more octets arrive.
    ///
    /// A frame is refused by its first seven octets where they show that it is wrong, so nothing is kept for it.
    ///
    /// # Errors
    /// What is wrong with the frame. From then on it is the answer to every call: there is no way to find the next frame.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.cut() {
            Ok(Some((kind, channel, from, to))) => Ok(Some(Frame { decoder: self, kind, channel, from, to })),
            Ok(None) => Ok(None),
            Err(error) => {
                self.failed = Some(error);
                Err(error)
            }
        }
    }

    fn cut(&mut self) -> Result<Option<(FrameKind, u16, usize, usize)>, DecodeError> {
        if self.at_stream_start && self.pending().first() == Some(&b'A') {
            return self.cut_protocol_header();
        }
        let Some(&kind) = self.pending().first() else { return Ok(None) };
        if !matches!(kind, 1 | 2 | 3 | 8) {
            return Err(DecodeError::UnknownFrameType(kind));
        }
        let Some(header) = self.pending().first_chunk::<HEADER>() else { return Ok(None) };
        let FrameHeader { kind, channel, size } = FrameHeader::decode(*header)?;
        let limit = self.limit(kind);
        if size > limit {
            return Err(DecodeError::FrameTooLarge { size, limit });
        }
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let Some(&end) = self.pending().get(HEADER.saturating_add(length)) else { return Ok(None) };
        if end != FRAME_END {
            return Err(DecodeError::FrameEnd { found: end });
        }
        let from = self.start.saturating_add(HEADER);
        let to = from.saturating_add(length);
        self.start = to.saturating_add(1);
        self.at_stream_start = false;
        Ok(Some((kind, channel, from, to)))
    }

    fn cut_protocol_header(&mut self) -> Result<Option<(FrameKind, u16, usize, usize)>, DecodeError> {
        let pending = self.pending();
        let whole = ProtocolHeader::AMQP_0_9_1.to_octets();
        let begun = pending.get(..4).unwrap_or(pending);
        if !whole.starts_with(begun) {
            return Err(DecodeError::UnknownFrameType(b'A'));
        }
        if pending.len() < whole.len() {
            return Ok(None);
        }
        let from = self.start;
        self.start = from.saturating_add(whole.len());
        self.at_stream_start = false;
        Ok(Some((FrameKind::ProtocolHeader, 0, from, self.start)))
    }
}
