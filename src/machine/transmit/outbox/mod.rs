//! The outgoing queue, and the order in which it is written.
//!
//! "A peer SHOULD NOT allow one very busy channel to starve the progress of a less busy channel"
//! (4.3). So there are two kinds of queues:
//! - `first` is written in the order of the calls. It takes frames until it has
//!   [`ORDERED_BYTES`].
//! - Further frames go to the queue of their channel. The channels take turns of one large frame
//!   or some small ones.
//!
//! A transfer moves all of `first` and then some turns to the driver. Afterwards `first` takes
//! frames again, except from channels whose own queue is not empty: "Content frames on a specific
//! channel are strictly sequential" (4.2.6). So an idle channel overtakes the busy ones, and waits
//! only for the bytes that the driver already has. The busy ones still make progress, because each
//! transfer includes at least one turn, however large `first` is.

use crate::fairness::{CHANNEL_TURN_BYTES, ORDERED_BYTES, UNWRITTEN_BYTES, WRITE_BYTES};
use crate::machine::Body;
use crate::machine::ids::ChannelNumber;
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
    turns: VecDeque<ChannelNumber>,
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
    fn append<R>(&mut self, channel: ChannelNumber, append: impl FnOnce(&mut Chunk) -> R) -> R {
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
        channel: ChannelNumber,
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
        channel: ChannelNumber,
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
        channel: ChannelNumber,
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

    /// Moves the next frames to `to`. Returns the number of moved bytes. Moves nothing while the
    /// driver has [`UNWRITTEN_BYTES`]. With `all`, moves everything, whatever the driver has.
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
        // driver has written. Otherwise one spare chunk is enough, and `to` has it. The others are
        // freed.
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
mod tests;
