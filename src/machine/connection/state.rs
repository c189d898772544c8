//! The states of a connection, each with its own data and deadlines.

use crate::machine::context::Stage;
use crate::machine::deadline::{Deadline, later};
use crate::machine::handshake::Handshake;
use std::time::{Duration, Instant};

/// How long the last bytes may take to be written once no more input is accepted.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// The state of a connection. Its discriminant has a byte of its own, because it is read at every
/// step.
#[derive(Debug)]
#[repr(u8)]
pub(crate) enum State {
    /// There is no transport, and another is to be dialled.
    Down(Down),
    Handshake(Handshaking),
    /// Everything that the connection had before it was lost is restored.
    Restoring,
    Open,
    /// The program has asked to close the connection, and what is pending may still complete. The
    /// deadline is that of the next state.
    Draining(Deadline),
    /// `connection.close` is sent; everything but `close` and `close-ok` is discarded. At the
    /// deadline, `close-ok` is no longer waited for.
    Closing(Deadline),
    /// No more input is accepted. At the deadline, the remaining output is discarded.
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

    /// Returns the state of a closed connection whose remaining output has a short time.
    pub(crate) fn closed(timeout: Duration) -> Self {
        Self::Closed(Deadline::In(LAST_BYTES.min(timeout)))
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

    /// Returns `true` if there is a transport, from which input is accepted.
    #[inline]
    pub(crate) fn has_transport(&self) -> bool {
        !matches!(self, Self::Closed(_) | Self::Down(_))
    }

    /// Returns `true` before the connection is open.
    pub(crate) fn is_away(&self) -> bool {
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

    /// Returns the deadline of the state.
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

    /// Starts the deadlines that were set without the time.
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

/// A connection without a transport.
#[derive(Debug)]
pub(crate) struct Down {
    /// When to dial; `None` while it is being dialled.
    retry: Deadline,
    /// When the last transport is dropped, which is before the next one is dialled; `None` if it
    /// is.
    last_bytes: Deadline,
}

impl Down {
    /// Returns a connection that has had no transport, and is to be dialled at once.
    pub(crate) fn first(now: Instant) -> Self {
        Self {
            retry: Deadline::At(now),
            last_bytes: Deadline::None,
        }
    }

    /// Returns a connection that has lost its transport, and is to be dialled after a delay.
    pub(crate) fn after(delay: Duration) -> Self {
        Self {
            retry: Deadline::In(delay),
            last_bytes: Deadline::In(LAST_BYTES),
        }
    }

    /// Returns `true`, once, if it is time to dial.
    pub(crate) fn poll(&mut self, now: Instant) -> bool {
        let is_due = self.retry.has_passed(now);
        if is_due {
            self.retry = Deadline::None;
        }
        is_due
    }

    /// Returns when to dial; `None` while it is being dialled.
    pub(crate) fn retries_at(&self) -> Option<Instant> {
        self.retry.instant()
    }

    /// Drops the last transport if its time is over.
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

/// A handshake, and when it has to be complete.
#[derive(Debug)]
pub(crate) struct Handshaking {
    pub(crate) handshake: Handshake,
    pub(crate) deadline: Instant,
}
