//! Octets on their way out: small things copied one behind the other, large bodies kept as they are.

use crate::protocol::frame::{self, FRAME_END};
use crate::protocol::method::Encode;
use crate::protocol::{ContentHeader, EncodeError};
use bytes::Bytes;
use std::collections::VecDeque;

/// Bodies from so many octets on are not copied but written from where they are: about where a copy begins to cost more
/// than another piece in a vectored write.
const COPIED_BODY: usize = 4 << 10;

/// Octets that may be kept for the next use once they are written.
const KEPT_CAPACITY: usize = 256 << 10;

/// What waits to be written, in order.
#[derive(Debug, Default)]
pub struct Outgoing {
    octets: Vec<u8>,
    /// Octets of `octets` that are written.
    written: usize,
    /// Parts of bodies, each with the place in `octets` that it stands in front of.
    bodies: VecDeque<(usize, Bytes)>,
    body_octets: usize,
}

impl Outgoing {
    /// How many octets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.octets.len() - self.written + self.body_octets
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The octets in their order, in pieces that a vectored write takes.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut from = self.written;
        let last = self.octets.len();
        let bodies = self.bodies.iter().map(|(place, body)| (*place, body.as_ref()));
        bodies
            .chain([(last, &[][..])])
            .flat_map(move |(place, body)| {
                let head = self.octets.get(from..place).unwrap_or_default();
                from = place;
                [head, body]
            })
            .filter(|piece| !piece.is_empty())
    }

    /// Forgets the first so many octets, which were written.
    pub fn advance(&mut self, mut octets: usize) {
        while octets > 0 {
            let next = self.bodies.front().map_or(self.octets.len(), |(place, _)| *place);
            let head = (next - self.written).min(octets);
            self.written += head;
            octets -= head;
            if self.written < next {
                break;
            }
            let Some((_, body)) = self.bodies.front_mut() else { break };
            let part = body.len().min(octets);
            let _ = body.split_to(part);
            self.body_octets -= part;
            octets -= part;
            if body.is_empty() {
                self.bodies.pop_front();
            }
        }
        if self.is_empty() {
            self.octets.clear();
            self.octets.shrink_to(KEPT_CAPACITY);
            self.written = 0;
        }
    }

    /// Moves everything behind what `to` holds; a swap when it holds nothing.
    pub(super) fn move_to(&mut self, to: &mut Self) {
        if to.is_empty() {
            std::mem::swap(self, to);
            return;
        }
        let offset = to.octets.len();
        to.octets.extend_from_slice(self.octets.get(self.written..).unwrap_or_default());
        let written = self.written;
        to.bodies.extend(self.bodies.drain(..).map(|(place, body)| (place - written + offset, body)));
        to.body_octets += std::mem::take(&mut self.body_octets);
        self.octets.clear();
        self.written = 0;
    }

    /// Octets as they are.
    pub(super) fn octets(&mut self, octets: &[u8]) {
        self.octets.extend_from_slice(octets);
    }

    /// A method frame.
    #[inline]
    pub(super) fn method(
        &mut self,
        channel: u16,
        frame_max: u32,
        method: &impl Encode,
    ) -> Result<(), EncodeError> {
        frame::method(&mut self.octets, channel, frame_max, method)
    }

    /// A heartbeat.
    pub(super) fn heartbeat(&mut self) {
        frame::heartbeat(&mut self.octets);
    }

    /// A method with its content: all of it, or nothing.
    #[inline]
    pub(super) fn content(
        &mut self,
        channel: u16,
        frame_max: u32,
        method: &impl Encode,
        header: &ContentHeader<'_>,
        body: &super::Body<'_>,
    ) -> Result<(), EncodeError> {
        let start = self.octets.len();
        frame::method(&mut self.octets, channel, frame_max, method)?;
        if let Err(error) = frame::content_header(&mut self.octets, channel, frame_max, header) {
            self.octets.truncate(start);
            return Err(error);
        }
        match body {
            super::Body::Shared(body) if body.len() >= COPIED_BODY => {
                let mut body = body.clone();
                let room = (frame_max - frame::OVERHEAD) as usize;
                while !body.is_empty() {
                    let part = body.split_to(room.min(body.len()));
                    frame::body_frame_start(&mut self.octets, channel, part.len() as u32);
                    self.body_octets += part.len();
                    self.bodies.push_back((self.octets.len(), part));
                    self.octets.push(FRAME_END);
                }
            }
            body => frame::body(&mut self.octets, channel, frame_max, body.as_octets()),
        }
        Ok(())
    }
}
