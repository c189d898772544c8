//! The states of a connection, each with its own data and deadlines.

use crate::machine::context::Stage;
use crate::machine::deadline::{Deadline, later};
use crate::machine::handshake::Handshake;
use std::time::{Duration, Instant};

/// The longest time for writing the remaining output once no more input is accepted.
const LAST_BYTES_TIMEOUT: Duration = Duration::from_secs(1);

/// The state of a connection. Its discriminant has a byte of its own, because it is read at every
/// step.
#[derive(Debug)]
#[repr(u8)]
pub(crate) enum State {
    /// There is no transport. The next one is dialled after a delay, or is being dialled.
    Down(Down),
    /// The handshake on a new transport is pending.
    Handshake(Handshaking),
    /// Topology and consumers of the lost connection are being restored.
    Restoring,
    /// Requests are written and input is handled.
    Open,
    /// The program has asked to close the connection, and pending promises may still complete. The
    /// deadline is passed on to `Closing`. That of `Draining` itself is in
    /// [`Closing`](crate::machine::connection::closing::Closing).
    Draining(Deadline),
    /// `connection.close` is sent, and all input but `close` and `close-ok` is discarded. At the
    /// deadline, the connection closes without `close-ok`.
    Closing(Deadline),
    /// No more input is accepted. At the deadline, the remaining output is discarded. `None` means
    /// that the transport can be dropped at once.
    Closed(Deadline),
}

impl State {
    /// Returns the state in which the handshake begins.
    pub(crate) fn handshake(handshake: Handshake, now: Instant, timeout: Duration) -> Self {
        Self::Handshake(Handshaking {
            handshake,
            deadline: later(now, timeout),
        })
    }

    /// Returns the closed state with a short deadline for the remaining output.
    pub(crate) fn closed(timeout: Duration) -> Self {
        Self::Closed(Deadline::In(LAST_BYTES_TIMEOUT.min(timeout)))
    }

    /// Returns the state without its data.
    pub(crate) fn stage(&self) -> Stage {
        match self {
            Self::Down(_) => Stage::Down,
            Self::Handshake(_) => Stage::Handshake,
            Self::Restoring => Stage::Restoring,
            Self::Open => Stage::Open,
            Self::Draining(_) => Stage::Draining,
            Self::Closing(_) => Stage::Closing,
            Self::Closed(_) => Stage::Closed,
        }
    }

    /// Returns `true` if there is a transport from which input is accepted.
    #[inline]
    pub(crate) fn has_transport(&self) -> bool {
        !matches!(self, Self::Closed(_) | Self::Down(_))
    }

    /// Returns `true` if the connection is not open yet, or not open again after a loss.
    pub(crate) fn is_before_open(&self) -> bool {
        matches!(self, Self::Down(_) | Self::Handshake(_) | Self::Restoring)
    }

    /// Returns `true` if the frame size is negotiated.
    #[inline]
    pub(crate) fn is_tuned(&self) -> bool {
        !matches!(self, Self::Handshake(it) if !it.handshake.is_tuned())
    }

    /// Returns `true` if the server has sent nothing yet.
    pub(crate) fn is_at_start(&self) -> bool {
        matches!(self, Self::Handshake(it) if it.handshake.is_at_start())
    }

    /// Returns `true` if the transport can be dropped.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Down(down) => down.is_over(),
            Self::Closed(deadline) => matches!(deadline, Deadline::None),
            _ => false,
        }
    }

    /// Returns the deadline of the state if it has started.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Down(down) => down.last_bytes.instant(),
            Self::Handshake(it) => Some(it.deadline),
            Self::Restoring | Self::Open => None,
            Self::Draining(deadline) | Self::Closing(deadline) | Self::Closed(deadline) => {
                deadline.instant()
            }
        }
    }

    /// Starts the deadlines that were set without a clock.
    #[inline]
    pub(crate) fn stamp(&mut self, now: Instant) {
        match self {
            Self::Down(down) => {
                down.retry.stamp(now);
                down.last_bytes.stamp(now);
            }
            Self::Handshake(_) | Self::Restoring | Self::Open => {}
            Self::Draining(deadline) | Self::Closing(deadline) | Self::Closed(deadline) => {
                deadline.stamp(now);
            }
        }
    }
}

/// The data of a connection without a transport.
#[derive(Debug)]
pub(crate) struct Down {
    /// When to dial, or `None` while a transport is being dialled.
    retry: Deadline,
    /// When the last transport is dropped, which is before the next one is dialled. `None` if it
    /// can be dropped now.
    last_bytes: Deadline,
}

impl Down {
    /// Returns the data of a connection that has had no transport and is dialled at once.
    pub(crate) fn first(now: Instant) -> Self {
        Self {
            retry: Deadline::At(now),
            last_bytes: Deadline::None,
        }
    }

    /// Returns the data of a connection that has lost its transport and is dialled after a delay.
    pub(crate) fn after(delay: Duration) -> Self {
        Self {
            retry: Deadline::In(delay),
            last_bytes: Deadline::In(LAST_BYTES_TIMEOUT),
        }
    }

    /// Returns `true` if it is time to dial, and records that a transport is being dialled.
    pub(crate) fn begin_if_due(&mut self, now: Instant) -> bool {
        let is_due = self.retry.has_passed(now);
        if is_due {
            self.retry = Deadline::None;
        }
        is_due
    }

    /// Returns when to dial, or `None` while a transport is being dialled.
    pub(crate) fn retries_at(&self) -> Option<Instant> {
        self.retry.instant()
    }

    /// Allows the last transport to be dropped if its deadline has passed.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.last_bytes.has_passed(now) {
            self.last_bytes = Deadline::None;
        }
    }

    /// Returns `true` if the last transport can be dropped.
    fn is_over(&self) -> bool {
        matches!(self.last_bytes, Deadline::None)
    }
}

/// A pending handshake and its deadline.
#[derive(Debug)]
pub(crate) struct Handshaking {
    pub(crate) handshake: Handshake,
    pub(crate) deadline: Instant,
}
