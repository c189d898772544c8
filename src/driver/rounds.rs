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
    Over(Result<(), Error>),
}

impl Polled {
    /// Returns what a future that was polled returns. Wakes its task if more can be done.
    pub(crate) fn into_poll(self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        match self {
            Self::Idle => Poll::Pending,
            Self::Busy => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Over(outcome) => Poll::Ready(outcome),
        }
    }
}

/// A driver, as the poll loop sees it.
pub(crate) trait Rounds {
    /// Returns the time.
    fn now(&mut self) -> Instant;

    /// Starts a poll.
    fn begin_poll(&mut self);

    /// Returns `true` if other tasks should run before more is read.
    fn is_sated(&self) -> bool;

    /// Moves what can be moved, once.
    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn;

    /// Prepares to wait. Returns `false` if there is something to do instead.
    fn rest(&mut self, cx: &mut Context<'_>, interest: Interest) -> bool;

    /// Takes turns until there is nothing to do or other tasks should run.
    fn poll_rounds(&mut self, cx: &mut Context<'_>) -> Polled {
        self.begin_poll();
        for _ in 0..POLL_TURNS {
            if self.is_sated() {
                break;
            }
            let now = self.now();
            match self.turn(cx, now) {
                Turn::Moved => {}
                Turn::Still(interest) => {
                    if self.rest(cx, interest) {
                        return Polled::Idle;
                    }
                }
                Turn::Over(outcome) => return Polled::Over(outcome),
                // This driver does not dial, so there is no next stream.
                Turn::Down => return Polled::Over(Ok(())),
            }
        }
        Polled::Busy
    }
}

/// Handles time for a connection without a stream. Returns what it waits for.
pub(crate) fn tend(link: &Link, now: Instant) -> Interest {
    link.with(|machine| {
        let mut timeout = machine.tend(now);
        if timeout.is_some_and(|timeout| timeout <= now) {
            machine.handle_timeout(now);
            timeout = machine.tend(now);
        }
        let over = machine.is_closed();
        Interest {
            input: false,
            timeout,
            closed: over,
            over,
        }
    })
}

/// Takes a turn for a connection without a stream: waits, unless the connection has ended.
pub(crate) fn turn_without_stream(link: &Link, now: Instant) -> Turn {
    let interest = tend(link, now);
    if interest.over {
        Turn::Over(link.with(|machine| machine.outcome()))
    } else {
        Turn::Still(interest)
    }
}
