//! The poll loop, which is the same for every driver.

use super::pump::{Interest, Turn};
use crate::error::Error;
use crate::fairness::POLL_TURNS;
use crate::link::Link;
use std::task::{Context, Poll};
use std::time::Instant;

/// The result of a poll.
pub(crate) enum Polled {
    /// Nothing can be done before the stream is ready, the deadline is reached or a request is
    /// made.
    Idle,
    /// More can be done, but other tasks should run first.
    Busy,
    /// The connection has ended: as requested, or with this error.
    Ended(Result<(), Error>),
}

impl Polled {
    /// Converts the result to that of a future. Wakes its task if more can be done.
    pub(crate) fn into_poll(self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        match self {
            Self::Idle => Poll::Pending,
            Self::Busy => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Ended(outcome) => Poll::Ready(outcome),
        }
    }
}

/// The poll loop of a driver, and the methods that it needs.
pub(crate) trait PollLoop {
    /// Returns the time.
    fn now(&mut self) -> Instant;

    /// Starts a poll.
    fn begin_poll(&mut self);

    /// Returns `true` if other tasks should run before more is read.
    fn should_yield(&self) -> bool;

    /// Takes one turn: writes everything that is ready, and reads once; or continues to dial.
    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn;

    /// Stores the wakers and sets the timer. Returns `false` if there is something to do instead.
    fn prepare_to_wait(&mut self, cx: &mut Context<'_>, interest: Interest) -> bool;

    /// Takes turns until there is nothing to do or other tasks should run.
    fn poll_turns(&mut self, cx: &mut Context<'_>) -> Polled {
        self.begin_poll();
        for _ in 0..POLL_TURNS {
            if self.should_yield() {
                break;
            }
            let now = self.now();
            match self.turn(cx, now) {
                Turn::Progressed => {}
                Turn::Waiting(interest) => {
                    if self.prepare_to_wait(cx, interest) {
                        return Polled::Idle;
                    }
                }
                Turn::Ended(outcome) => return Polled::Ended(outcome),
                // Unreachable: only a connection that dials asks for another stream, and its driver
                // dials in `turn`.
                Turn::Redial => return Polled::Ended(Ok(())),
            }
        }
        Polled::Busy
    }
}

/// Handles the deadlines of a connection without a stream. Returns what the state machine waits
/// for.
pub(crate) fn handle_time_without_stream(link: &Link, now: Instant) -> Interest {
    link.with(|machine| {
        let mut timeout = machine.tend(now);
        if timeout.is_some_and(|timeout| timeout <= now) {
            machine.handle_timeout(now);
            timeout = machine.tend(now);
        }
        let is_closed = machine.is_closed();
        Interest {
            input: false,
            timeout,
            close_when_written: is_closed,
            close_at_once: is_closed,
        }
    })
}

/// Takes a turn of a connection without a stream: handles its deadlines.
pub(crate) fn turn_without_stream(link: &Link, now: Instant) -> Turn {
    let interest = handle_time_without_stream(link, now);
    if interest.close_at_once {
        Turn::Ended(link.with(|machine| machine.outcome()))
    } else {
        Turn::Waiting(interest)
    }
}
