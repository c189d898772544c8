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
    octets: Vec<u8>,
    /// Octets of `octets` that are written.
    written: usize,
    /// Parts of bodies, each with the place in `octets` that it stands in front of.
    bodies: VecDeque<(usize, Bytes)>,
    body_octets: usize,
}

impl Chunk {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.octets.len() - self.written + self.body_octets
    }

    /// The octets in their order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut from = self.written;
        let last = self.octets.len();
        let bodies = self
            .bodies
            .iter()
            .map(|(place, body)| (*place, body.as_ref()));
        bodies
            .chain([(last, &[][..])])
            .flat_map(move |(place, body)| {
                let head = self.octets.get(from..place).unwrap_or_default();
                from = place;
                [head, body]
            })
            .filter(|piece| !piece.is_empty())
    }

    /// Forgets the first so many octets, which were written. Gives how many more were written than
    /// there are here.
    pub(crate) fn advance(&mut self, mut octets: usize) -> usize {
        while octets > 0 {
            let next = self
                .bodies
                .front()
                .map_or(self.octets.len(), |(place, _)| *place);
            let head = (next - self.written).min(octets);
            self.written += head;
            octets -= head;
            if self.written < next {
                break;
            }
            let Some((_, body)) = self.bodies.front_mut() else {
                break;
            };
            let part = body.len().min(octets);
            let _ = body.split_to(part);
            self.body_octets -= part;
            octets -= part;
            if body.is_empty() {
                self.bodies.pop_front();
            }
        }
        octets
    }

    /// Makes a chunk that is written ready for the next use.
    pub(crate) fn clear(&mut self) {
        self.octets.clear();
        self.octets.shrink_to(KEPT_CAPACITY);
        self.written = 0;
        self.bodies.clear();
        self.body_octets = 0;
    }

    /// Makes room for about so many octets, when small things have made up so many.
    pub(crate) fn expect(&mut self, small: usize, octets: usize) {
        if small >= 1024 && self.bodies.is_empty() && self.octets.capacity() < octets {
            self.octets.reserve(octets);
        }
    }

    /// The end of what is copied, to write to.
    #[inline]
    pub(crate) fn octets(&mut self) -> &mut Vec<u8> {
        &mut self.octets
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
        let start = self.octets.len();
        frame::method(&mut self.octets, channel, frame_max, method)?;
        let written = frame::content_header_of(
            &mut self.octets,
            channel,
            frame_max,
            body_size as u64,
            properties,
        );
        if written.is_err() {
            self.octets.truncate(start);
        }
        written
    }

    /// One body frame.
    #[inline]
    pub(crate) fn body_frame(&mut self, channel: u16, body: &Body<'_>, from: usize, to: usize) {
        let part = body.as_octets().get(from..to).unwrap_or_default();
        frame::body_frame_start(&mut self.octets, channel, part.len() as u32);
        match body.as_bytes() {
            Some(body) if body.len() >= COPIED_BODY => {
                self.body_octets += part.len();
                self.bodies
                    .push_back((self.octets.len(), body.slice(from..to)));
            }
            _ => self.octets.extend_from_slice(part),
        }
        self.octets.push(FRAME_END);
    }
}
