//! The driver of an asynchronous byte stream.

use super::Clock;
use super::alarm::Alarm;
use super::pump::{Pump, Turn, Wishes};
use super::rounds::{Polled, Rounds};
use crate::error::Error;
use crate::link::Link;
use futures_io::{AsyncRead, AsyncWrite};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// Moves octets between a stream and the connection, for as long as the connection lives.
///
/// Poll it anywhere: spawn it, or race it with what you wait for. It resolves when the connection is closed: to `Ok` when it
/// was closed from this side, else to why. Dropping it drops the stream, and ends what is under way with
/// [`Broken::DriverDropped`](crate::Broken::DriverDropped).
///
/// One poll moves what can be moved, but when several KiB came, deliveries among it, or the answers to many promises,
/// whoever takes them has its turn before the stream is asked for more. It sleeps without a timer other than the next deadline.
#[must_use = "nothing is sent or received unless the driver is polled"]
pub struct Driver<Io, C: Clock> {
    pump: Pump<Io>,
    clock: C,
    alarm: Alarm<C>,
}

impl<Io, C: Clock> fmt::Debug for Driver<Io, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("finished", &self.pump.is_finished()).finish_non_exhaustive()
    }
}

impl<Io, C: Clock> Driver<Io, C> {
    pub(crate) fn new(io: Io, clock: C, link: Arc<Link>) -> Self {
        Self { pump: Pump::new(io, link), clock, alarm: Alarm::default() }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin, C: Clock> Rounds for Driver<Io, C> {
    fn now(&mut self) -> Instant {
        self.clock.now()
    }

    fn begin_poll(&mut self) {
        self.pump.begin_poll();
    }

    fn is_sated(&self) -> bool {
        self.pump.is_sated()
    }

    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        self.pump.turn(cx, now)
    }

    fn rest(&mut self, cx: &mut Context<'_>, wishes: Wishes) -> bool {
        let Self { alarm, clock, pump } = self;
        !alarm.has_rung(clock, cx, wishes.timeout) && pump.link().sleep(cx.waker())
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin, C: Clock + Unpin> Future for Driver<Io, C> {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut().poll_rounds(cx) {
            Polled::Idle => Poll::Pending,
            Polled::Busy => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Polled::Over(outcome) => Poll::Ready(outcome),
        }
    }
}
