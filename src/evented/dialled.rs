//! The dialling of a stream: when to dial, and what to wait for meanwhile.

use crate::driver::{Turn, turn_without_stream};
use crate::error::Error;
use crate::link::Link;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

/// The events and the time that a stream being dialled waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Underway {
    /// The latest time to continue.
    pub(super) until: Instant,
    /// Continue earlier if the stream is readable, or writable.
    pub(super) readable: bool,
    pub(super) writable: bool,
}

/// The progress of dialling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The stream is connected to this endpoint. It is private if third parties cannot read it.
    Ready {
        endpoint: usize,
        is_private: bool,
    },
    Underway(Underway),
}

/// Connects a stream to the broker.
pub(super) trait Dialler<S> {
    /// Begins to dial, starting with this endpoint.
    fn begin(&mut self, stream: &mut S, first: usize, now: Instant) -> Result<Progress, Error>;

    /// Continues dialling.
    fn go_on(&mut self, stream: &mut S, now: Instant) -> Result<Progress, Error>;

    /// Closes the stream.
    fn hang_up(&mut self, stream: &mut S);

    /// Returns the counter of the bytes that the stream below has received, if there is one.
    fn received(&self, stream: &S) -> Option<Arc<AtomicUsize>>;
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Waits until it is time to dial.
    Waiting,
    Dialling(Underway),
    Standing,
}

/// A stream that is dialled, and dialled again after a loss.
pub(super) struct Dialled<S> {
    dialler: Box<dyn Dialler<S>>,
    phase: Phase,
}

impl<S> Dialled<S> {
    pub(super) fn new(dialler: impl Dialler<S> + 'static) -> Self {
        Self {
            dialler: Box::new(dialler),
            phase: Phase::Waiting,
        }
    }

    /// Returns `true` if the stream is connected.
    pub(super) fn is_standing(&self) -> bool {
        matches!(self.phase, Phase::Standing)
    }

    /// Returns what dialling is waiting for, if the stream is being dialled.
    pub(super) fn underway(&self) -> Option<Underway> {
        if let Phase::Dialling(underway) = self.phase {
            Some(underway)
        } else {
            None
        }
    }

    /// Returns the counter of the bytes that the stream below has received, if there is one.
    pub(super) fn received(&self, stream: &S) -> Option<Arc<AtomicUsize>> {
        self.dialler.received(stream)
    }

    /// Closes the stream.
    pub(super) fn hang_up(&mut self, stream: &mut S) {
        self.dialler.hang_up(stream);
        self.phase = Phase::Waiting;
    }

    /// Takes a turn without a stream: begins or continues to dial, or waits. Returns `None` if the
    /// stream is connected.
    pub(super) fn turn(&mut self, stream: &mut S, link: &Link, now: Instant) -> Option<Turn> {
        let progress = match self.phase {
            Phase::Standing => return None,
            Phase::Dialling(_) => self.dialler.go_on(stream, now),
            Phase::Waiting => match link.with(|machine| machine.poll_dial(now)) {
                Some(wanted) => self.dialler.begin(stream, wanted.first, now),
                None => return Some(turn_without_stream(link, now)),
            },
        };
        Some(match progress {
            Ok(Progress::Ready {
                endpoint,
                is_private,
            }) => {
                self.phase = Phase::Standing;
                link.with(|machine| machine.handle_dialled(now, endpoint, is_private));
                Turn::Moved
            }
            Ok(Progress::Underway(underway)) => {
                self.phase = Phase::Dialling(underway);
                turn_without_stream(link, now)
            }
            Err(error) => {
                self.hang_up(stream);
                link.handle_dial_failure(now, error);
                Turn::Moved
            }
        })
    }
}
