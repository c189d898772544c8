//! The outgoing queue, and the order in which it is written.
//!
//! "A peer SHOULD NOT allow one very busy channel to starve the progress of a less busy channel"
//! (4.3). So there are two queues:
//! - `first` is written in the order of the calls. It takes frames until it has
//!   [`ORDERED_BYTES`].
//! - Further frames go to the queue of their channel. The channels take turns of one large frame
//!   or some small ones.
//!
//! A transfer moves all of `first` and then some turns to the driver. Afterwards `first` is empty
//! and takes frames again, but not those of a channel whose own queue has frames: "Content frames
//! on a specific channel are strictly sequential" (4.2.6). So a channel that was idle overtakes the
//! busy ones, and waits for no more than the bytes that the driver has. The busy ones still make
//! progress, because each transfer includes at least one turn, however large `first` is.

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
    /// The frames that the next transfer moves first.
    first: Chunk,
    /// The frames behind `first`, by channel number. Each chunk is one turn.
    channel_queues: Vec<VecDeque<Chunk>>,
    /// The channels whose queue is not empty; the next one to take a turn is at the front.
    turns: VecDeque<u16>,
    /// The number of bytes in all channel queues.
    queued_bytes: usize,
    /// The frames that are written after everything else.
    last: Chunk,
    /// Empty chunks for reuse while channels take turns.
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

    /// Lets `append` append whole frames of a channel, to `first` or to the channel's queue.
    #[inline]
    fn append<R>(&mut self, channel: u16, append: impl FnOnce(&mut Chunk) -> R) -> R {
        let has_queued = !self.turns.is_empty()
            && self
                .channel_queues
                .get(usize::from(channel))
                .is_some_and(|queue| !queue.is_empty());
        if !has_queued && self.first.len() < ORDERED_BYTES {
            return append(&mut self.first);
        }
        self.append_to_channel_queue(channel, append)
    }

    fn append_to_channel_queue<R>(
        &mut self,
        channel: u16,
        append: impl FnOnce(&mut Chunk) -> R,
    ) -> R {
        let index = usize::from(channel);
        if self.channel_queues.len() <= index {
            self.channel_queues.resize_with(index + 1, VecDeque::new);
        }
        let queue = &mut self.channel_queues[index];
        if queue.is_empty() {
            self.turns.push_back(channel);
        }
        if queue
            .back()
            .is_none_or(|chunk| chunk.len() >= CHANNEL_TURN_BYTES)
        {
            queue.push_back(self.empty_chunks.pop().unwrap_or_default());
        }
        let last = queue.len() - 1;
        let chunk = &mut queue[last];
        let before = chunk.len();
        chunk.reserve_if_growing(CHANNEL_TURN_BYTES);
        let result = append(chunk);
        self.queued_bytes += chunk.len() - before;
        result
    }

    /// Appends bytes of channel 0.
    pub(crate) fn append_bytes(&mut self, bytes: &[u8]) {
        self.append(0, |chunk| chunk.buffer().extend_from_slice(bytes));
    }

    /// Appends a method frame.
    #[inline]
    pub(crate) fn append_method(
        &mut self,
        channel: u16,
        frame_max: u32,
        method: &impl Encode,
    ) -> Result<(), EncodeError> {
        self.append(channel, |chunk| {
            frame::method(chunk.buffer(), channel, frame_max, method)
        })
    }

    /// Appends a method of channel 0 that is written after everything else, because no frame may
    /// follow it.
    pub(crate) fn append_last_method(
        &mut self,
        frame_max: u32,
        method: &impl Encode,
    ) -> Result<(), EncodeError> {
        frame::method(self.last.buffer(), 0, frame_max, method)
    }

    /// Appends a heartbeat.
    pub(crate) fn append_heartbeat(&mut self) {
        self.append(0, |chunk| frame::heartbeat(chunk.buffer()));
    }

    /// Appends a method with its content, or nothing if it cannot be encoded.
    #[inline]
    pub(crate) fn append_content(
        &mut self,
        channel: u16,
        frame_max: u32,
        method: &impl Encode,
        properties: &Properties<'_>,
        body: &Body<'_>,
    ) -> Result<(), EncodeError> {
        let max_payload = (frame_max - OVERHEAD) as usize;
        let size = body.as_bytes().len();
        let first_part = max_payload.min(size);
        self.append(channel, |chunk| {
            chunk.append_content_start(channel, frame_max, method, properties, size)?;
            if first_part > 0 {
                chunk.append_body_frame(channel, body, 0, first_part);
            }
            Ok(())
        })?;
        let mut from = first_part;
        while from < size {
            let to = size.min(from + max_payload);
            self.append(channel, |chunk| {
                chunk.append_body_frame(channel, body, from, to);
            });
            from = to;
        }
        Ok(())
    }

    /// Moves the next frames to `to`, unless the transport has enough unwritten bytes; with `all`,
    /// moves everything. Returns the number of moved bytes.
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
        // At least one channel takes its turn, even if `first` had WRITE_BYTES or more. It can be
        // larger than ORDERED_BYTES by a whole frame, and may be filled again before each transfer.
        while let Some(chunk) = self.take_turn() {
            to.push(chunk);
            if !all && to.len() - before >= WRITE_BYTES {
                break;
            }
        }
        if self.turns.is_empty() && self.last.len() > 0 {
            to.push(std::mem::take(&mut self.last));
        }
        // While channels take turns, each transfer needs several chunks, and reuses those that the
        // driver has written. Otherwise `first` alone needs one, which `to` has, and the memory of
        // the others is freed.
        if self.queued_bytes > 0 {
            self.empty_chunks.extend(to.take_empty_chunk());
        } else {
            self.empty_chunks.clear();
        }
        to.len() - before
    }

    /// Removes and returns the frames of the next turn.
    fn take_turn(&mut self) -> Option<Chunk> {
        let channel = self.turns.pop_front()?;
        let queue = self.channel_queues.get_mut(usize::from(channel))?;
        // The queue of a channel in `turns` exists and is not empty.
        let chunk = queue.pop_front()?;
        if !queue.is_empty() {
            self.turns.push_back(channel);
        }
        self.queued_bytes -= chunk.len();
        Some(chunk)
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
        out.append_content(channel, frame_max, &method, &Properties::default(), &body)
    }

    fn publish(out: &mut Outbox, frame_max: u32, body: Body<'_>) -> Result<(), EncodeError> {
        publish_on(out, 1, frame_max, body)
    }

    fn transferred(out: &mut Outbox) -> Outgoing {
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
            bytes.extend(whole(&transferred(out)));
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
        let (copied, shared) = (transferred(&mut copied), transferred(&mut shared));
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
            let mut to = transferred(&mut out);
            publish(&mut out, 4096, Body::Shared(vec![2; 4096].into())).unwrap();
            out.append_heartbeat();
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
        let written = out.append_content(1, 530, &method, &properties, &Body::Borrowed(b""));
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
                let mut to = transferred(&mut out);
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
        let _first = transferred(&mut out);
        publish_on(&mut out, 2, FRAME_MAX, Body::Borrowed(b"small")).unwrap();
        assert!(
            frames(&whole(&transferred(&mut out)))
                .iter()
                .any(|(_, channel, _)| *channel == 2)
        );
    }

    #[test]
    fn large_frames_do_not_starve_queued_channels() {
        let frame_max = 1 << 20;
        let body = vec![0; 1 << 19];
        let mut out = Outbox::default();
        publish(&mut out, frame_max, Body::Borrowed(&body)).unwrap();
        publish_on(&mut out, 2, frame_max, Body::Borrowed(b"queued")).unwrap();
        for _ in 0..3 {
            if whole(&transferred(&mut out))
                .windows(6)
                .any(|bytes| bytes == b"queued")
            {
                return;
            }
            // The queue of this channel is empty, so its frames go to `first` again.
            publish(&mut out, frame_max, Body::Borrowed(&body)).unwrap();
        }
        panic!("channel 2 has had no turn in three transfers");
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
        out.append_method(2, FRAME_MAX, &channels::CloseOk {})
            .unwrap();
        out.append_method(1, FRAME_MAX, &channels::CloseOk {})
            .unwrap();
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
        out.append_last_method(FRAME_MAX, &connection::CloseOk {})
            .unwrap();
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
                    bytes.extend(whole(&transferred(&mut out)));
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
