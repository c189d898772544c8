//! The incremental decoder: octets in, in pieces of any size, frames out.
//!
//! It owns the buffer that the transport reads into. The buffer grows while reads fill it and is used again for as long
//! as nobody keeps a part of it, so a steady stream of small frames allocates nothing.

use super::super::{ContentHeader, DecodeError};
use super::{
    FRAME_END, FrameHeader, FrameKind, HEADER, INITIAL_FRAME_MAX, OVERHEAD, ProtocolHeader, UNSPLIT_FRAME_MAX,
};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// The size of a fresh buffer, in octets: what an idle connection costs.
const SMALLEST: usize = 4 << 10;

/// The least room that is worth a read, in octets.
const ROOM: usize = 2 << 10;

/// The largest buffer for many small frames, in octets. One that holds a larger frame is as large as that.
const LARGEST: usize = 128 << 10;

/// Buffers of which parts were given away that are kept for their next use: what a consumer may hold that keeps up.
const SHARED: usize = 6;

/// Body frames from so many octets on get a buffer that fits them, so that they can be given away without a copy.
const FITTED: usize = 16 << 10;

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
    /// Buffers of which parts were given away, to be used again when those are gone: they need no zeros then.
    shared: VecDeque<Bytes>,
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
    cut: Cut,
}

/// A frame, and where its payload is in the decoder's buffer.
#[derive(Clone, Copy, Debug)]
struct Cut {
    kind: FrameKind,
    channel: u16,
    from: usize,
    to: usize,
}

/// A method with all of its content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WholeContent<'d> {
    /// From the method's payload to the end of the body, as it came.
    pub(crate) octets: &'d [u8],
    /// Octets of the method's payload.
    pub(crate) method: usize,
    /// Octets of the property list.
    pub(crate) properties: usize,
    /// How many octets come behind it.
    pub(crate) left: usize,
}

impl Frame<'_> {
    /// What it holds.
    #[must_use]
    pub fn kind(&self) -> FrameKind {
        self.cut.kind
    }

    /// The channel it came on.
    #[must_use]
    pub fn channel(&self) -> u16 {
        self.cut.channel
    }

    /// What stands between its first seven octets and its last.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.decoder.buffer.get(self.cut.from..self.cut.to).unwrap_or_default()
    }

    /// This method with its content, when all of it has arrived, with nothing between, and the body is in one frame of at
    /// most so many octets. What is wrong with it shows when its frames are taken one by one.
    #[inline]
    pub(crate) fn with_content(&self, most: u64) -> Option<WholeContent<'_>> {
        let Self { decoder, cut } = self;
        let (properties, left) = decoder.find_content(cut.channel, most)?;
        let end = decoder.end.saturating_sub(left);
        // Without a body, there is only the end of the header's frame.
        let octets = decoder.buffer.get(cut.from..end.saturating_sub(1))?;
        Some(WholeContent { octets, method: cut.to.saturating_sub(cut.from), properties, left })
    }

    /// Goes on behind this method and its content.
    #[inline]
    pub(crate) fn skip_content(&mut self, left: usize) {
        self.decoder.start = self.decoder.end.saturating_sub(left);
    }

    /// The payload, to keep. When it is at least half of the buffer that it was received in it shares that, else it is
    /// copied, so that whoever keeps it holds at most twice its size.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        let Self { decoder, cut: Cut { from, to, .. } } = self;
        let length = to.saturating_sub(from);
        if length < decoder.buffer.len() / 2 {
            return Bytes::copy_from_slice(decoder.buffer.get(from..to).unwrap_or_default());
        }
        // What comes next will most likely be alike.
        let next = decoder.buffer.len().min(LARGEST.saturating_add(ROOM)).max(decoder.needed());
        let whole = decoder.replace_buffer(next).freeze();
        let payload = whole.slice(from..to);
        if decoder.shared.len() == SHARED {
            decoder.shared.pop_front();
        }
        decoder.shared.push_back(whole);
        payload
    }
}

/// The payload of a whole frame of that kind on that channel, and what comes behind the frame.
#[inline]
fn split_frame(octets: &[u8], kind: FrameKind, channel: u16, limit: u32) -> Option<(&[u8], &[u8])> {
    let (found, on, size) = FrameHeader::fields(*octets.first_chunk()?);
    if found != kind.number() || on != channel || size > limit {
        return None;
    }
    let (payload, rest) = octets.get(HEADER..)?.split_at_checked(usize::try_from(size).ok()?)?;
    let (&FRAME_END, rest) = rest.split_first()? else { return None };
    Some((payload, rest))
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
            shared: VecDeque::new(),
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
            // As most often: all that came was decoded.
            if self.buffer.len() >= ROOM {
                return &mut self.buffer;
            }
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
        let pending = self.pending().len();
        let Some(begun) = self.begun() else {
            return HEADER.saturating_sub(pending);
        };
        match FrameHeader::decode(begun) {
            Ok(header) if header.size <= self.limit(header.kind) => {
                let whole = usize::try_from(header.size.saturating_add(OVERHEAD)).unwrap_or(usize::MAX);
                whole.saturating_sub(pending)
            }
            _ => 0,
        }
    }

    /// Octets of the buffer that the frame which has begun needs, if it is a large one and more of it is to come.
    fn needed(&self) -> usize {
        let pending = self.pending().len();
        // Bounded as in `make_room`: a frame's size alone must not allocate a buffer.
        let missing = self.missing().min(pending.max(LARGEST));
        let whole = pending.saturating_add(missing);
        if whole < FITTED { 0 } else { whole.saturating_add(ROOM) }
    }

    /// Makes room for what is missing of a frame and some more, but at most for about as much again as has arrived.
    fn make_room(&mut self, missing: usize) {
        let pending = self.pending().len();
        // Whole frames, which nobody has decoded yet, are doubled.
        let wanted = if missing == 0 { pending } else { missing };
        let size = pending.saturating_add(wanted.min(pending.max(LARGEST))).saturating_add(ROOM);
        if size <= self.buffer.len() && self.next_size <= self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.start = 0;
            self.end = pending;
        } else {
            let fits = missing > 0 && pending.saturating_add(missing) >= FITTED;
            self.replace_buffer(if fits { size } else { size.max(self.next_size) });
        }
    }

    /// Goes on in another buffer with what was received and not decoded. Gives the one before.
    fn replace_buffer(&mut self, size: usize) -> BytesMut {
        let size = size.max(self.pending().len().saturating_add(1));
        let mut fresh = self.buffer_of(size);
        let pending = self.pending();
        let count = pending.len();
        if let Some(place) = fresh.get_mut(..count) {
            place.copy_from_slice(pending);
        }
        self.start = 0;
        self.end = count;
        std::mem::replace(&mut self.buffer, fresh)
    }

    /// A buffer of at least so many octets, and less than twice as many: one that was given away and has come back, or
    /// another.
    fn buffer_of(&mut self, size: usize) -> BytesMut {
        let fits = |kept: &Bytes| kept.len() >= size && kept.len() / 2 < size && kept.is_unique();
        let found = self.shared.iter().position(fits).and_then(|place| self.shared.remove(place));
        found.and_then(|kept| kept.try_into_mut().ok()).unwrap_or_else(|| BytesMut::zeroed(size))
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
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.cut() {
            Ok(Some(cut)) => Ok(Some(Frame { decoder: self, cut })),
            Ok(None) => Ok(None),
            Err(error) => {
                self.failed = Some(error);
                Err(error)
            }
        }
    }

    /// A whole content at the start of what was received: octets of its property list, and how many come behind it.
    #[inline]
    fn find_content(&self, channel: u16, most: u64) -> Option<(usize, usize)> {
        let (header, rest) = split_frame(self.pending(), FrameKind::Header, channel, self.unsplit_limit)?;
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

    /// The seven octets in front of the payload, and one that does not count; `None` when there are fewer.
    #[inline]
    fn begun(&self) -> Option<[u8; HEADER + 1]> {
        if let Some(octets) = self.pending().first_chunk() {
            return Some(*octets);
        }
        let mut octets = [0; HEADER + 1];
        let [header @ .., _] = &mut octets;
        *header = *self.pending().first_chunk()?;
        Some(octets)
    }

    #[inline(always)]
    fn cut(&mut self) -> Result<Option<Cut>, DecodeError> {
        let Some(begun) = self.begun().filter(|_| !self.at_stream_start) else {
            return self.cut_early();
        };
        let FrameHeader { kind, channel, size } = FrameHeader::decode(begun)?;
        let limit = self.limit(kind);
        if size > limit {
            return Err(DecodeError::FrameTooLarge { size, limit });
        }
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        // None of these sums is too large: within the limit there is room for the octets around a payload.
        let Some(&end) = self.pending().get(HEADER.wrapping_add(length)) else { return Ok(None) };
        if end != FRAME_END {
            return Err(DecodeError::FrameEnd { found: end });
        }
        let from = self.start.wrapping_add(HEADER);
        let to = from.wrapping_add(length);
        self.start = to.wrapping_add(1);
        Ok(Some(Cut { kind, channel, from, to }))
    }

    /// When the stream has just begun, or there is not all of what stands in front of a payload.
    #[cold]
    fn cut_early(&mut self) -> Result<Option<Cut>, DecodeError> {
        let Some(&kind) = self.pending().first() else { return Ok(None) };
        if self.at_stream_start && kind == b'A' {
            return self.cut_protocol_header();
        }
        if !matches!(kind, 1 | 2 | 3 | 8) {
            return Err(DecodeError::UnknownFrameType(kind));
        }
        if self.pending().len() < HEADER {
            return Ok(None);
        }
        self.at_stream_start = false;
        self.cut()
    }

    fn cut_protocol_header(&mut self) -> Result<Option<Cut>, DecodeError> {
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
        Ok(Some(Cut { kind: FrameKind::ProtocolHeader, channel: 0, from, to: self.start }))
    }
}
