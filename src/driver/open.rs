//! The driver of an asynchronous byte stream.

use super::Clock;
use super::poll_loop::PollLoop;
use super::pump::{Interest, Pump, Turn};
use super::timer::Timer;
use crate::error::Error;
use crate::link::Link;
use futures_io::{AsyncRead, AsyncWrite};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// A future that moves bytes between a stream and the connection, until the connection ends.
///
/// Poll it on any executor: spawn it, or race it against the work of the client. It resolves when
/// the connection is closed: to `Ok` if the client closed it, otherwise to the error. Dropping it
/// drops the stream, and completes pending requests with
/// [`Broken::DriverDropped`](crate::Broken::DriverDropped).
///
/// One poll moves everything that can be moved. It ends early after a read of several KiB with
/// deliveries, or of the results of many promises, so that the tasks which wait for them run before
/// more is read. The only timer is one for the next deadline.
#[must_use = "nothing is sent or received unless the driver is polled"]
pub struct Driver<Io, C: Clock> {
    pump: Pump<Io>,
    clock: C,
    timer: Timer<C>,
}

impl<Io, C: Clock> fmt::Debug for Driver<Io, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("finished", &self.pump.is_finished())
            .finish_non_exhaustive()
    }
}

impl<Io, C: Clock> Driver<Io, C> {
    pub(crate) fn new(io: Io, clock: C, link: Arc<Link>) -> Self {
        Self {
            pump: Pump::new(io, link),
            clock,
            timer: Timer::default(),
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin, C: Clock> PollLoop for Driver<Io, C> {
    fn now(&mut self) -> Instant {
        self.clock.now()
    }

    fn begin_poll(&mut self) {
        self.pump.begin_poll();
    }

    fn should_yield(&self) -> bool {
        self.pump.should_yield()
    }

    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        self.pump.turn(cx, now)
    }

    fn prepare_to_wait(&mut self, cx: &mut Context<'_>, interest: Interest) -> bool {
        let Self { timer, clock, pump } = self;
        !timer.poll(clock, cx, interest.timeout) && pump.link().prepare_to_sleep(cx.waker())
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin, C: Clock + Unpin> Future for Driver<Io, C> {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_turns(cx).into_poll(cx)
    }
}
