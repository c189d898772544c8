//! The state of a stream that is dialled: when to dial, and what to wait for meanwhile.

use crate::driver::{Turn, turn_without_stream};
use crate::error::Error;
use crate::link::Link;
use crate::machine::{Dialled, Dialling};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

/// The events and the deadline that dialling waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DialInterest {
    /// Continue at this time at the latest.
    pub(super) deadline: Instant,
    /// Continue earlier if the stream is readable, or writable.
    pub(super) readable: bool,
    pub(super) writable: bool,
}

/// The progress of dialling.
#[derive(Debug)]
pub(super) enum Progress {
    /// The stream is connected.
    Ready(Dialled),
    Pending(DialInterest),
}

/// Connects a stream to the broker.
pub(super) trait StreamDialler<S> {
    /// Begins to dial.
    fn begin(
        &mut self,
        stream: &mut S,
        dialling: &Dialling,
        now: Instant,
    ) -> Result<Progress, Error>;

    /// Continues dialling.
    fn continue_dialling(&mut self, stream: &mut S, now: Instant) -> Result<Progress, Error>;

    /// Closes the stream.
    fn disconnect(&mut self, stream: &mut S);

    /// Returns the counter of the bytes that the stream below has received, if there is one.
    fn received_counter(&self, stream: &S) -> Option<Arc<AtomicUsize>>;
}

/// The phase of a stream that is dialled.
#[derive(Clone, Copy, Debug)]
enum ConnectPhase {
    /// Waits until it is time to dial.
    Waiting,
    Dialling(DialInterest),
    Connected,
}

/// The state of a stream that is dialled, and dialled again after a loss.
pub(super) struct DialState<S> {
    dialler: Box<dyn StreamDialler<S>>,
    phase: ConnectPhase,
}

impl<S> DialState<S> {
    pub(super) fn new(dialler: impl StreamDialler<S> + 'static) -> Self {
        Self {
            dialler: Box::new(dialler),
            phase: ConnectPhase::Waiting,
        }
    }

    /// Returns `true` if the stream is connected.
    pub(super) fn is_connected(&self) -> bool {
        matches!(self.phase, ConnectPhase::Connected)
    }

    /// Returns what dialling waits for, or `None` if the stream is not being dialled.
    pub(super) fn dial_interest(&self) -> Option<DialInterest> {
        if let ConnectPhase::Dialling(dial_interest) = self.phase {
            Some(dial_interest)
        } else {
            None
        }
    }

    /// Returns the counter of the bytes that the stream below has received, if there is one.
    pub(super) fn received_counter(&self, stream: &S) -> Option<Arc<AtomicUsize>> {
        self.dialler.received_counter(stream)
    }

    /// Closes the stream.
    pub(super) fn disconnect(&mut self, stream: &mut S) {
        self.dialler.disconnect(stream);
        self.phase = ConnectPhase::Waiting;
    }

    /// Takes a turn without a stream: begins or continues to dial, or waits. Returns `None` if the
    /// stream is connected.
    pub(super) fn turn(&mut self, stream: &mut S, link: &Link, now: Instant) -> Option<Turn> {
        let progress = match self.phase {
            ConnectPhase::Connected => return None,
            ConnectPhase::Dialling(_) => self.dialler.continue_dialling(stream, now),
            ConnectPhase::Waiting => match link.with(|machine| machine.poll_dial(now)) {
                Some(wanted) => self.dialler.begin(stream, &wanted, now),
                None => return Some(turn_without_stream(link, now)),
            },
        };
        Some(match progress {
            Ok(Progress::Ready(dialled)) => {
                self.phase = ConnectPhase::Connected;
                link.handle_dialled(now, dialled);
                Turn::Progressed
            }
            Ok(Progress::Pending(dial_interest)) => {
                self.phase = ConnectPhase::Dialling(dial_interest);
                turn_without_stream(link, now)
            }
            Err(error) => {
                self.disconnect(stream);
                link.handle_dial_failure(now, error);
                Turn::Progressed
            }
        })
    }
}
