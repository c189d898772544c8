//! Output: frames in order, fairness between channels, and heartbeats.
//!
//! Frames are encoded into the [`Outbox`], the outgoing queue. When the transport can take more,
//! [`Transmit::poll`] moves some of them to an [`Outgoing`], which the driver owns and writes. Both
//! consist of [`Chunk`](chunk::Chunk)s, buffers of whole frames.

pub(crate) mod chunk;
pub(crate) mod heartbeat;
pub(crate) mod outbox;
pub(crate) mod outgoing;

use crate::machine::Body;
use crate::machine::deadline::later;
use crate::machine::ids::ChannelNumber;
use crate::machine::transmit::heartbeat::Heartbeat;
use crate::machine::transmit::outbox::Outbox;
use crate::machine::transmit::outgoing::Outgoing;
use crate::protocol::method::Encode;
use crate::protocol::{EncodeError, Properties};
use std::time::{Duration, Instant};

/// The largest frame unless the options or the broker set another limit.
const DEFAULT_FRAME_MAX: u32 = 131_072;

/// The output of the connection: the queued frames, and the progress of the transport.
#[derive(Debug)]
pub(crate) struct Transmit {
    outbox: Outbox,
    /// The number of bytes that the driver has and the transport has not accepted.
    in_flight_bytes: usize,
    /// When the transport last accepted bytes.
    last_progress: Instant,
    /// The largest frame that may be sent or received.
    frame_max: u32,
    pub(crate) heartbeat: Heartbeat,
}

impl Transmit {
    /// Returns the output of a new connection. A `frame_max` of 0 means the default.
    pub(crate) fn new(now: Instant, frame_max: u32) -> Self {
        Self {
            outbox: Outbox::default(),
            in_flight_bytes: 0,
            last_progress: now,
            frame_max: if frame_max == 0 {
                DEFAULT_FRAME_MAX
            } else {
                frame_max
            },
            heartbeat: Heartbeat::none(now),
        }
    }

    /// Discards everything and starts over with a new transport.
    pub(crate) fn start_over(&mut self, now: Instant) {
        self.discard_all();
        self.last_progress = now;
        self.heartbeat = Heartbeat::none(now);
    }

    /// Discards the queued frames.
    pub(crate) fn discard_queued(&mut self) {
        self.outbox = Outbox::default();
    }

    /// Discards the queued frames, and those that the driver has.
    pub(crate) fn discard_all(&mut self) {
        self.discard_queued();
        self.in_flight_bytes = 0;
    }

    /// Returns the largest frame that may be sent or received.
    #[inline]
    pub(crate) fn frame_max(&self) -> u32 {
        self.frame_max
    }

    /// Sets the negotiated frame size.
    pub(crate) fn set_frame_max(&mut self, frame_max: u32) {
        self.frame_max = frame_max;
    }

    /// Returns the number of bytes that the transport has not accepted.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.outbox.len() + self.in_flight_bytes
    }

    /// Returns `true` if frames are queued.
    #[inline]
    pub(crate) fn has_queued(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Returns the outgoing queue, for the handshake, in which other frame sizes apply.
    pub(crate) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Queues a method.
    #[inline]
    pub(crate) fn append_method(
        &mut self,
        channel: ChannelNumber,
        method: &impl Encode,
    ) -> Result<(), EncodeError> {
        self.outbox.append_method(channel, self.frame_max, method)
    }

    /// Queues a method of channel 0 that is written after everything else, because no frame may
    /// follow it.
    pub(crate) fn append_last_method(&mut self, method: &impl Encode) -> Result<(), EncodeError> {
        self.outbox.append_last_method(self.frame_max, method)
    }

    /// Queues a method with its content: all of it, or nothing.
    #[inline]
    pub(crate) fn append_content(
        &mut self,
        channel: ChannelNumber,
        method: &impl Encode,
        properties: &Properties<'_>,
        body: &Body<'_>,
    ) -> Result<(), EncodeError> {
        self.outbox
            .append_content(channel, self.frame_max, method, properties, body)
    }

    /// Moves the next queued frames to `out`; with `all`, moves all of them. Returns `true` if any
    /// were moved. Queues a heartbeat first if one is due and no other frame is queued.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        is_connected: bool,
        all: bool,
        out: &mut Outgoing,
    ) -> bool {
        if is_connected && self.heartbeat.is_due(now) && self.outbox.is_empty() {
            self.outbox.append_heartbeat();
        }
        if self.outbox.is_empty() {
            return false;
        }
        if self.in_flight_bytes == 0 {
            self.last_progress = now;
        }
        // This also applies if nothing is moved, because the driver has enough bytes: when they
        // are written, they prove that the client is alive.
        self.heartbeat.record_sent(now);
        let bytes = self.outbox.transfer(self.in_flight_bytes, all, out);
        self.in_flight_bytes += bytes;
        bytes > 0
    }

    /// Records that the transport has accepted bytes.
    pub(crate) fn record_transmitted(&mut self, now: Instant, bytes: usize) {
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
        self.last_progress = now;
    }

    /// Restarts the time in which the transport has to accept bytes.
    pub(crate) fn restart_progress(&mut self, now: Instant) {
        self.last_progress = now;
    }

    /// Returns the time within which the transport has to accept some of the bytes that it has.
    /// Returns `None` if it has none, or without heartbeats.
    #[inline]
    fn stall_timeout(&self) -> Option<Duration> {
        let timeout = self
            .heartbeat
            .timeout()
            .filter(|_| self.in_flight_bytes > 0)?;
        Some(2 * timeout)
    }

    /// Returns when the transport counts as stalled.
    #[inline]
    pub(crate) fn stall_deadline(&self) -> Option<Instant> {
        let timeout = self.stall_timeout()?;
        Some(later(self.last_progress, timeout))
    }

    /// Returns for how long the transport has accepted nothing, if that is too long.
    pub(crate) fn stalled_for(&self, now: Instant) -> Option<Duration> {
        let timeout = self.stall_timeout()?;
        let stalled = now.saturating_duration_since(self.last_progress);
        (stalled >= timeout).then_some(stalled)
    }
}
