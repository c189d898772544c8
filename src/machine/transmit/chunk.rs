//! Whole frames to write: small parts are copied into one buffer, large bodies are shared.

use crate::machine::ids::ChannelNumber;
use crate::machine::request::arguments::{Body, COPIED_BODY};
use crate::protocol::frame::{self, FRAME_END};
use crate::protocol::method::Encode;
use crate::protocol::{EncodeError, Properties};
use bytes::Bytes;
use std::collections::VecDeque;

/// The largest capacity in bytes that a written chunk keeps for reuse.
const REUSED_CAPACITY: usize = 256 << 10;

/// A sequence of whole frames.
#[derive(Default)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    /// The number of written bytes of `bytes`.
    written: usize,
    /// Parts of bodies, each with its position in `bytes`.
    bodies: VecDeque<(usize, Bytes)>,
    /// The number of unwritten bytes of `bodies`.
    body_bytes: usize,
}

impl Chunk {
    /// Returns the number of unwritten bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.written + self.body_bytes
    }

    /// Returns the unwritten bytes in order, without empty pieces.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut from = self.written;
        let last = self.bytes.len();
        let bodies = self
            .bodies
            .iter()
            .map(|(place, body)| (*place, body.as_ref()));
        bodies
            .chain([(last, &[][..])])
            .flat_map(move |(place, body)| {
                let head = self.bytes.get(from..place).unwrap_or_default();
                from = place;
                [head, body]
            })
            .filter(|piece| !piece.is_empty())
    }

    /// Removes up to `bytes` written bytes. Returns the rest of `bytes`, which the next chunk
    /// contains.
    pub(crate) fn advance(&mut self, mut bytes: usize) -> usize {
        while bytes > 0 {
            let next = self
                .bodies
                .front()
                .map_or(self.bytes.len(), |(place, _)| *place);
            let head = (next - self.written).min(bytes);
            self.written += head;
            bytes -= head;
            if self.written < next {
                break;
            }
            let Some((_, body)) = self.bodies.front_mut() else {
                break;
            };
            let part = body.len().min(bytes);
            let _ = body.split_to(part);
            self.body_bytes -= part;
            bytes -= part;
            if body.is_empty() {
                self.bodies.pop_front();
            }
        }
        bytes
    }

    /// Empties a written chunk for reuse.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(REUSED_CAPACITY);
        self.written = 0;
        self.bodies.clear();
        self.body_bytes = 0;
    }

    /// Reserves capacity for a chunk of `bytes` bytes if the chunk has a kilobyte of small frames
    /// already, so more are likely. Otherwise the buffer would grow step by step.
    pub(crate) fn reserve_if_growing(&mut self, bytes: usize) {
        if self.len() >= 1024 && self.bodies.is_empty() && self.bytes.capacity() < bytes {
            self.bytes.reserve(bytes);
        }
    }

    /// Returns the buffer to which frames are appended.
    #[inline]
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Appends a method and a content header. Appends nothing if either cannot be encoded.
    #[inline]
    pub(crate) fn append_content_start(
        &mut self,
        channel: ChannelNumber,
        frame_max: u32,
        method: &impl Encode,
        properties: &Properties<'_>,
        body_size: usize,
    ) -> Result<(), EncodeError> {
        let start = self.bytes.len();
        frame::method(&mut self.bytes, channel, frame_max, method)?;
        let written = frame::content_header_of(
            &mut self.bytes,
            channel,
            frame_max,
            body_size as u64,
            properties,
        );
        if written.is_err() {
            self.bytes.truncate(start);
        }
        written
    }

    /// Appends a body frame with the bytes `from..to` of the body. "The content body can be split
    /// into as many frames as needed" (4.2.6.2).
    #[inline]
    pub(crate) fn append_body_frame(
        &mut self,
        channel: ChannelNumber,
        body: &Body<'_>,
        from: usize,
        to: usize,
    ) {
        let part = body.as_bytes().get(from..to).unwrap_or_default();
        frame::body_frame_start(&mut self.bytes, channel, part.len() as u32);
        match body.as_shared() {
            Some(body) if body.len() >= COPIED_BODY => {
                self.body_bytes += part.len();
                self.bodies
                    .push_back((self.bytes.len(), body.slice(from..to)));
            }
            _ => self.bytes.extend_from_slice(part),
        }
        self.bytes.push(FRAME_END);
    }
}
