//! A stream that is dialled, and dialled again when it is lost: the connection without it.

use crate::driver::{Turn, turn_without_stream};
use crate::error::Error;
use crate::link::Link;
use std::time::Instant;

/// What is waited for while a stream is being had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Underway {
    /// When it is to be gone on with at the latest.
    pub(super) until: Instant,
    /// Before that when it is readable, and when it is writable.
    pub(super) readable: bool,
    pub(super) writable: bool,
}

/// How far a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It stands, leads to that endpoint, and may be such that nobody else can read it.
    Ready {
        endpoint: usize,
        is_private: bool,
    },
    Underway(Underway),
}

/// Has a stream lead to the broker.
pub(super) trait Dialler<S> {
    /// Begins with that endpoint.
    fn begin(&mut self, stream: &mut S, first: usize, now: Instant) -> Result<Progress, Error>;

    /// Goes on with what was begun.
    fn go_on(&mut self, stream: &mut S, now: Instant) -> Result<Progress, Error>;

    /// Has the stream lead nowhere.
    fn hang_up(&mut self, stream: &mut S);
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Until it is time to dial.
    Waiting,
    Dialling(Underway),
    Standing,
}

/// Dials when it is time to.
pub(super) struct Dialled<S> {
    dialler: Box<dyn Dialler<S>>,
    phase: Phase,
}

impl<S> Dialled<S> {
    pub(super) fn new(dialler: impl Dialler<S> + 'static) -> Self {
        Self { dialler: Box::new(dialler), phase: Phase::Waiting }
    }

    /// Whether there is a stream to move octets over.
    pub(super) fn is_standing(&self) -> bool {
        matches!(self.phase, Phase::Standing)
    }

    /// What is waited for while a stream is being had.
    pub(super) fn underway(&self) -> Option<Underway> {
        if let Phase::Dialling(underway) = self.phase { Some(underway) } else { None }
    }

    /// The stream is of no use any more.
    pub(super) fn hang_up(&mut self, stream: &mut S) {
        self.dialler.hang_up(stream);
        self.phase = Phase::Waiting;
    }

    /// Does what there is to do without a stream, once; nothing when there is one.
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
            Ok(Progress::Ready { endpoint, is_private }) => {
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
