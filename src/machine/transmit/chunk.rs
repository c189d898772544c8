//! Whole frames on their way out: small things copied one behind the other, large bodies kept as
//! they are.

use crate::machine::request::arguments::{Body, COPIED_BODY};
use crate::protocol::frame::{self, FRAME_END};
use crate::protocol::method::Encode;
use crate::protocol::{EncodeError, Properties};
use bytes::Bytes;
use std::collections::VecDeque;

/// Octets that may be kept for the next use once they are written.
const KEPT_CAPACITY: usize = 256 << 10;

/// Some frames, in order.
#[derive(Default)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    /// Octets of `octets` that are written.
    written: usize,
    /// Parts of bodies, each with the place in `octets` that it stands in front of.
    bodies: VecDeque<(usize, Bytes)>,
    body_bytes: usize,
}

impl Chunk {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.written + self.body_bytes
    }

    /// The octets in their order.
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

    /// Forgets the first so many octets, which were written. Gives how many more were written than
    /// there are here.
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

    /// Makes a chunk that is written ready for the next use.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_CAPACITY);
        self.written = 0;
        self.bodies.clear();
        self.body_bytes = 0;
    }

    /// Makes room for about so many octets, when small things have made up so many.
    pub(crate) fn expect(&mut self, small: usize, bytes: usize) {
        if small >= 1024 && self.bodies.is_empty() && self.bytes.capacity() < bytes {
            self.bytes.reserve(bytes);
        }
    }

    /// The end of what is copied, to write to.
    #[inline]
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// A method and a content header: both, or nothing.
    #[inline]
    pub(crate) fn content_start(
        &mut self,
        channel: u16,
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

    /// One body frame.
    #[inline]
    pub(crate) fn body_frame(&mut self, channel: u16, body: &Body<'_>, from: usize, to: usize) {
        let part = body.as_octets().get(from..to).unwrap_or_default();
        frame::body_frame_start(&mut self.bytes, channel, part.len() as u32);
        match body.as_bytes() {
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
