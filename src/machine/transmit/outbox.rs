//! The outgoing queue, and the order in which it is written.
//!
//! A short queue is written in the order in which it was filled. Beyond that, frames are queued by
//! channel, and the channels take turns of one large or some small frames, so that neither a large
//! body nor an unlimited publisher delays the others: "A peer SHOULD NOT allow one very busy
//! channel to starve the progress of a less busy channel" (4.3). On one channel, the order is that
//! of the calls, and "Content frames on a specific channel are strictly sequential" (4.2.6).

use crate::fairness::{CHANNEL_TURN_BYTES, ORDERED_BYTES, UNWRITTEN_BYTES, WRITE_BYTES};
use crate::machine::Body;
use crate::machine::transmit::chunk::Chunk;
use crate::machine::transmit::outgoing::Outgoing;
use crate::protocol::frame::{self, OVERHEAD};
use crate::protocol::method::Encode;
use crate::protocol::{EncodeError, Properties};
use std::collections::VecDeque;

/// The outgoing queue.
#[derive(Default)]
pub(crate) struct Outbox {
    /// The frames that are written first.
    first: Chunk,
    /// The queued frames by channel.
    lanes: Vec<VecDeque<Chunk>>,
    /// The channels with queued frames; the next one is at the front.
    turns: VecDeque<u16>,
    /// The number of bytes in all lanes.
    queued_bytes: usize,
    /// The frames that are written after everything else.
    last: Chunk,
    /// Empty chunks for reuse.
    empty_chunks: Vec<Chunk>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Outbox {
    /// Returns the number of queued bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.queued_bytes + self.last.len()
    }

    /// Returns `true` if nothing is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends to the frames of a channel.
    #[inline]
    fn write<R>(&mut self, channel: u16, write: impl FnOnce(&mut Chunk) -> R) -> R {
        let waits = !self.turns.is_empty()
            && self
                .lanes
                .get(usize::from(channel))
                .is_some_and(|lane| !lane.is_empty());
        if !waits && self.first.len() < ORDERED_BYTES {
            return write(&mut self.first);
        }
        self.write_to_lane(channel, write)
    }

    /// Appends to the lane of a channel.
    fn write_to_lane<R>(&mut self, channel: u16, write: impl FnOnce(&mut Chunk) -> R) -> R {
        let place = usize::from(channel);
        if self.lanes.len() <= place {
            self.lanes.resize_with(place + 1, VecDeque::new);
        }
        let mut none = VecDeque::new();
        let lane = self.lanes.get_mut(place).unwrap_or(&mut none);
        if lane.is_empty() {
            self.turns.push_back(channel);
        }
        if lane
            .back()
            .is_none_or(|chunk| chunk.len() >= CHANNEL_TURN_BYTES)
        {
            lane.push_back(self.empty_chunks.pop().unwrap_or_default());
        }
        let mut nowhere = Chunk::default();
        let chunk = lane.back_mut().unwrap_or(&mut nowhere);
        let before = chunk.len();
        chunk.expect(before, CHANNEL_TURN_BYTES);
        let result = write(chunk);
        self.queued_bytes += chunk.len() - before;
        result
    }

    /// Appends bytes of the connection.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.write(0, |chunk| chunk.buffer().extend_from_slice(bytes));
    }

    /// Appends a method frame.
    #[inline]
    pub(crate) fn method(
        &mut self,
        channel: u16,
        frame_max: u32,
        method: &impl Encode,
    ) -> Result<(), EncodeError> {
        self.write(channel, |chunk| {
            frame::method(chunk.buffer(), channel, frame_max, method)
        })
    }

    /// Appends a method of the connection that is written after everything else, because nothing
    /// may follow it.
    pub(crate) fn last_method(
        &mut self,
        frame_max: u32,
        method: &impl Encode,
    ) -> Result<(), EncodeError> {
        frame::method(self.last.buffer(), 0, frame_max, method)
    }

    /// Appends a heartbeat.
    pub(crate) fn heartbeat(&mut self) {
        self.write(0, |chunk| frame::heartbeat(chunk.buffer()));
    }

    /// Appends a method with its content, or nothing if it cannot be encoded.
    #[inline]
    pub(crate) fn content(
        &mut self,
        channel: u16,
        frame_max: u32,
        method: &impl Encode,
        properties: &Properties<'_>,
        body: &Body<'_>,
    ) -> Result<(), EncodeError> {
        let room = (frame_max - OVERHEAD) as usize;
        let size = body.as_bytes().len();
        let first = room.min(size);
        self.write(channel, |chunk| {
            chunk.content_start(channel, frame_max, method, properties, size)?;
            if first > 0 {
                chunk.body_frame(channel, body, 0, first);
            }
            Ok(())
        })?;
        let mut from = first;
        while from < size {
            let to = size.min(from + room);
            self.write(channel, |chunk| chunk.body_frame(channel, body, from, to));
            from = to;
        }
        Ok(())
    }

    /// Moves the next frames to `to`, unless the transport has enough unwritten bytes; with `all`,
    /// moves everything. Returns the number of bytes.
    pub(crate) fn transfer(
        &mut self,
        in_flight_bytes: usize,
        all: bool,
        to: &mut Outgoing,
    ) -> usize {
        if self.is_empty() || in_flight_bytes >= UNWRITTEN_BYTES && !all {
            return 0;
        }
        let before = to.len();
        if self.first.len() > 0 {
            let next = to
                .take_empty_chunk()
                .or_else(|| self.empty_chunks.pop())
                .unwrap_or_default();
            to.push(std::mem::replace(&mut self.first, next));
        }
        while all || to.len() - before < WRITE_BYTES {
            let Some(channel) = self.turns.pop_front() else {
                break;
            };
            let Some(lane) = self.lanes.get_mut(usize::from(channel)) else {
                continue;
            };
            let Some(chunk) = lane.pop_front() else {
                continue;
            };
            if !lane.is_empty() {
                self.turns.push_back(channel);
            }
            self.queued_bytes -= chunk.len();
            to.push(chunk);
        }
        if self.turns.is_empty() && self.last.len() > 0 {
            to.push(std::mem::take(&mut self.last));
        }
        if self.queued_bytes > 0 {
            self.empty_chunks.extend(to.take_empty_chunk());
        } else {
            self.empty_chunks.clear();
        }
        to.len() - before
    }
}

#[cfg(test)]
#[cfg(not(miri))] // It takes hours.
mod tests {
    use super::*;
    use crate::protocol::method::{basic, channel as channels, connection};
    use crate::protocol::{ContentHeader, Decoder, FrameKind, Method, MethodId, ShortStr};
    use bytes::Bytes;
    use proptest::prelude::*;

    const FRAME_MAX: u32 = 131_072;

    fn publish_on(
        out: &mut Outbox,
        channel: u16,
        frame_max: u32,
        body: Body<'_>,
    ) -> Result<(), EncodeError> {
        let method = basic::Publish {
            exchange: ShortStr::EMPTY,
            routing_key: ShortStr::literal("q"),
            mandatory: false,
            immediate: false,
        };
        out.content(channel, frame_max, &method, &Properties::default(), &body)
    }

    fn publish(out: &mut Outbox, frame_max: u32, body: Body<'_>) -> Result<(), EncodeError> {
        publish_on(out, 1, frame_max, body)
    }

    fn given(out: &mut Outbox) -> Outgoing {
        let mut to = Outgoing::default();
        out.transfer(0, false, &mut to);
        to
    }

    fn whole(out: &Outgoing) -> Vec<u8> {
        out.pieces().flatten().copied().collect()
    }

    /// Returns what a fast transport receives, over all calls.
    fn all(out: &mut Outbox) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !out.is_empty() {
            bytes.extend(whole(&given(out)));
        }
        bytes
    }

    /// Returns the frames: kind, channel, payload.
    fn frames(bytes: &[u8]) -> Vec<(FrameKind, u16, Vec<u8>)> {
        let mut decoder = Decoder::new();
        decoder.set_frame_max(FRAME_MAX);
        decoder.extend(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next_frame().unwrap() {
            frames.push((frame.kind(), frame.channel(), frame.payload().to_vec()));
        }
        assert!(decoder.pending().is_empty());
        frames
    }

    #[test]
    fn large_body_is_shared_and_reads_the_same() {
        let body: Bytes = (0..20_000_u32).map(|n| n as u8).collect::<Vec<_>>().into();
        let (mut copied, mut shared) = (Outbox::default(), Outbox::default());
        publish(&mut copied, 8192, Body::Borrowed(&body)).unwrap();
        publish(&mut shared, 8192, Body::Shared(body.clone())).unwrap();
        let (copied, shared) = (given(&mut copied), given(&mut shared));
        assert_eq!(whole(&copied), whole(&shared));
        assert_eq!((copied.pieces().count(), shared.pieces().count()), (1, 7));
        let inside = body.as_ptr_range();
        assert_eq!(
            shared
                .pieces()
                .filter(|piece| inside.contains(&piece.as_ptr()))
                .count(),
            3
        );
    }

    #[test]
    fn bytes_keep_their_order_for_any_write_size() {
        let mut expected = Vec::new();
        for step in [1, 2, 7, 100, 4095, 4096, 5000, 1 << 20] {
            let mut out = Outbox::default();
            publish(&mut out, 4096, Body::Shared(vec![1; 9000].into())).unwrap();
            let mut to = given(&mut out);
            publish(&mut out, 4096, Body::Shared(vec![2; 4096].into())).unwrap();
            out.heartbeat();
            let mut taken = Vec::new();
            while !to.is_empty() || !out.is_empty() {
                let count = step.min(to.len());
                taken.extend(whole(&to).into_iter().take(count));
                to.advance(count);
                if taken.len() > 5000 {
                    out.transfer(to.len(), false, &mut to);
                }
            }
            if expected.is_empty() {
                expected.clone_from(&taken);
            }
            assert_eq!(taken, expected, "in steps of {step}");
        }
    }

    #[test]
    fn e11_too_large_header_writes_nothing() {
        let mut out = Outbox::default();
        let long = "x".repeat(255);
        let text = ShortStr::new(&long).unwrap();
        let properties = Properties {
            message_id: Some(text),
            app_id: Some(text),
            ..Properties::default()
        };
        let method = basic::Publish {
            exchange: text,
            routing_key: text,
            mandatory: false,
            immediate: false,
        };
        let written = out.content(1, 530, &method, &properties, &Body::Borrowed(b""));
        assert!(matches!(
            written,
            Err(EncodeError::FrameTooLarge { limit: 530, .. })
        ));
        assert!(out.is_empty());
    }

    #[test]
    fn e48_small_publish_overtakes_a_64_mib_body() {
        for body in [
            Body::Shared(vec![0; 64 << 20].into()),
            Body::Borrowed(&vec![0; 64 << 20]),
        ] {
            let mut out = Outbox::default();
            publish_on(&mut out, 1, FRAME_MAX, body).unwrap();
            for _ in 0..100 {
                // The transport is in the middle of what it has.
                let mut to = given(&mut out);
                to.advance(to.len() - 1000);
                publish_on(&mut out, 2, FRAME_MAX, Body::Borrowed(b"small")).unwrap();
                let ahead = to.len();
                out.transfer(to.len(), false, &mut to);
                to.advance(ahead);
                let frames = frames(&whole(&to));
                let place = frames.iter().position(|(_, channel, _)| *channel == 2);
                assert!(place.is_some_and(|place| place <= 2), "{place:?}");
            }
        }
    }

    #[test]
    fn e48_busy_publisher_does_not_starve_other_channels() {
        let mut out = Outbox::default();
        for _ in 0..100_000 {
            publish_on(&mut out, 1, FRAME_MAX, Body::Borrowed(&[0; 100])).unwrap();
        }
        let _first = given(&mut out);
        publish_on(&mut out, 2, FRAME_MAX, Body::Borrowed(b"small")).unwrap();
        assert!(
            frames(&whole(&given(&mut out)))
                .iter()
                .any(|(_, channel, _)| *channel == 2)
        );
    }

    #[test]
    fn method_follows_the_content_on_its_channel() {
        let mut out = Outbox::default();
        publish_on(
            &mut out,
            1,
            FRAME_MAX,
            Body::Shared(vec![0; 1 << 20].into()),
        )
        .unwrap();
        out.method(2, FRAME_MAX, &channels::CloseOk {}).unwrap();
        out.method(1, FRAME_MAX, &channels::CloseOk {}).unwrap();
        let frames = frames(&all(&mut out));
        let body = frames
            .iter()
            .rposition(|(kind, ..)| *kind == FrameKind::Body)
            .unwrap();
        let of = |wanted: u16| {
            frames
                .iter()
                .rposition(|(_, channel, _)| *channel == wanted)
                .unwrap()
        };
        assert!(of(2) < body && of(1) == frames.len() - 1 && body < of(1));
    }

    #[test]
    fn last_method_is_written_last() {
        let mut out = Outbox::default();
        out.last_method(FRAME_MAX, &connection::CloseOk {}).unwrap();
        for channel in 1..4 {
            publish_on(
                &mut out,
                channel,
                FRAME_MAX,
                Body::Shared(vec![0; 1 << 20].into()),
            )
            .unwrap();
        }
        let frames = frames(&all(&mut out));
        let last = frames
            .last()
            .map(|(_, channel, payload)| (*channel, Method::decode(payload).unwrap().id()));
        assert_eq!(last, Some((0, connection::CloseOk::ID)));
    }

    #[test]
    fn draining_transfers_everything_at_once() {
        let mut out = Outbox::default();
        publish_on(
            &mut out,
            1,
            FRAME_MAX,
            Body::Shared(vec![0; 4 << 20].into()),
        )
        .unwrap();
        let mut to = Outgoing::default();
        let bytes = out.transfer(1 << 20, true, &mut to);
        assert!(out.is_empty() && bytes == to.len() && bytes > 4 << 20);
    }

    proptest! {
        /// The body of each message contains its number.
        #[test]
        fn contents_of_a_channel_are_whole_and_ordered(
            steps in prop::collection::vec((1..5_u16, 0..40_000_usize, any::<bool>()), 1..60),
        ) {
            let mut out = Outbox::default();
            let mut bytes = Vec::new();
            for (number, (channel, size, gives)) in steps.iter().enumerate() {
                let body = Body::Shared(vec![number as u8; *size].into());
                publish_on(&mut out, *channel, 4096, body).unwrap();
                if *gives {
                    bytes.extend(whole(&given(&mut out)));
                }
            }
            bytes.extend(all(&mut out));
            let frames = frames(&bytes);
            for channel in 1..5 {
                let mut expected = steps.iter().enumerate().filter(|(_, (on, ..))| *on == channel);
                let mut left = 0;
                let mut number = 0;
                for (kind, _, payload) in frames.iter().filter(|(_, on, _)| *on == channel) {
                    match kind {
                        FrameKind::Method => {
                            prop_assert_eq!(left, 0);
                            let id = Method::decode(payload).unwrap().id();
                            prop_assert_eq!(id, MethodId { class: 60, method: 40 });
                        }
                        FrameKind::Header => {
                            let (next, (_, size, _)) = expected.next().unwrap();
                            number = next;
                            left = *size;
                            let header = ContentHeader::decode(payload).unwrap();
                            prop_assert_eq!(header.body_size, left as u64);
                        }
                        _ => {
                            prop_assert!(payload.iter().all(|byte| *byte == number as u8));
                            left -= payload.len();
                        }
                    }
                }
                prop_assert!(left == 0 && expected.next().is_none());
            }
        }
    }
}
