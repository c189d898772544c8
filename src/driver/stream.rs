//! The driver of an asynchronous byte stream.

use super::Clock;
use super::alarm::Alarm;
use super::pump::{Pump, ROUNDS, Turn};
use crate::error::Error;
use crate::link::Link;
use futures_io::{AsyncRead, AsyncWrite};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

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

impl<Io: AsyncRead + AsyncWrite + Unpin, C: Clock + Unpin> Future for Driver<Io, C> {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.pump.begin_poll();
        for _ in 0..ROUNDS {
            if this.pump.is_sated() {
                break;
            }
            let now = this.clock.now();
            match this.pump.turn(cx, now) {
                Turn::Moved => {}
                Turn::Still(wishes) => {
                    let Driver { alarm, clock, pump } = &mut *this;
                    if !alarm.has_rung(clock, cx, wishes.timeout) && pump.link().sleep(cx.waker()) {
                        return Poll::Pending;
                    }
                }
                Turn::Over(result) => return Poll::Ready(result),
                // It can't be dialled, so there is no next one.
                Turn::Down => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
