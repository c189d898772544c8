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
#[derive(Default)]
pub struct Outgoing {
    octets: Vec<u8>,
    /// Octets of `octets` that are written.
    written: usize,
    /// Parts of bodies, each with the place in `octets` that it stands in front of.
    bodies: VecDeque<(usize, Bytes)>,
    body_octets: usize,
}

/// How many octets there are, and not which: the login is among them.
impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").field("len", &self.len()).finish_non_exhaustive()
    }
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

    /// Drops what is written, once it is the larger part.
    fn compact(&mut self) {
        if self.written < KEPT_CAPACITY / 4 || self.written < self.octets.len() / 2 {
            return;
        }
        self.octets.drain(..self.written);
        for (place, _) in &mut self.bodies {
            *place -= self.written;
        }
        self.written = 0;
    }

    /// Moves everything behind what `to` holds; a swap when it holds nothing.
    pub(super) fn move_to(&mut self, to: &mut Self) {
        if to.is_empty() {
            std::mem::swap(self, to);
            return;
        }
        to.compact();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Body;
    use crate::protocol::method::basic;
    use crate::protocol::{Properties, ShortStr};

    fn publish(out: &mut Outgoing, frame_max: u32, body: Body<'_>) -> Result<(), EncodeError> {
        let method = basic::Publish {
            exchange: ShortStr::EMPTY,
            routing_key: ShortStr::literal("q"),
            mandatory: false,
            immediate: false,
        };
        let body_size = body.as_octets().len() as u64;
        out.content(
            1,
            frame_max,
            &method,
            &ContentHeader { body_size, properties: Properties::default() },
            &body,
        )
    }

    fn whole(out: &Outgoing) -> Vec<u8> {
        out.pieces().flatten().copied().collect()
    }

    #[test]
    fn a_large_body_is_written_from_where_it_is_and_reads_the_same() {
        let body: Bytes = (0..20_000_u32).map(|n| n as u8).collect::<Vec<_>>().into();
        let (mut copied, mut shared) = (Outgoing::default(), Outgoing::default());
        publish(&mut copied, 8192, Body::Borrowed(&body)).unwrap();
        publish(&mut shared, 8192, Body::Shared(body.clone())).unwrap();
        assert_eq!(whole(&copied), whole(&shared));
        assert_eq!((copied.pieces().count(), shared.pieces().count()), (1, 7));
        let inside = body.as_ptr_range();
        assert_eq!(shared.pieces().filter(|piece| inside.contains(&piece.as_ptr())).count(), 3);
    }

    #[test]
    fn octets_leave_in_order_whatever_the_transport_takes() {
        let mut expected = Vec::new();
        for step in [1, 2, 7, 100, 4095, 4096, 5000, 1 << 20] {
            let (mut out, mut more) = (Outgoing::default(), Outgoing::default());
            publish(&mut out, 4096, Body::Shared(vec![1; 9000].into())).unwrap();
            publish(&mut more, 4096, Body::Shared(vec![2; 4096].into())).unwrap();
            more.heartbeat();
            let mut taken = Vec::new();
            let mut moved = false;
            while !out.is_empty() || !moved {
                let count = step.min(out.len());
                taken.extend(whole(&out).into_iter().take(count));
                out.advance(count);
                if !moved && taken.len() > 5000 {
                    more.move_to(&mut out);
                    moved = true;
                }
            }
            assert!(more.is_empty());
            if expected.is_empty() {
                expected.clone_from(&taken);
            }
            assert_eq!(taken, expected, "in steps of {step}");
        }
    }

    #[test]
    fn e11_a_content_whose_header_is_too_large_leaves_nothing_behind() {
        let mut out = Outgoing::default();
        let long = "x".repeat(255);
        let text = ShortStr::new(&long).unwrap();
        let properties = Properties { message_id: Some(text), app_id: Some(text), ..Properties::default() };
        let method = basic::Publish { exchange: text, routing_key: text, mandatory: false, immediate: false };
        let written =
            out.content(1, 530, &method, &ContentHeader { body_size: 0, properties }, &Body::Borrowed(b""));
        assert!(matches!(written, Err(EncodeError::FrameTooLarge { limit: 530, .. })));
        assert!(out.is_empty());
    }
}
