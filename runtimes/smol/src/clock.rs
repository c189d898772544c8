//! The clock of smol.

use smol::Timer;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

/// The clock of smol's reactor, for [`puka::open`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

/// A sleep that [`Clock`] returns.
#[derive(Debug)]
pub struct Sleep(Timer);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(|_| ())
    }
}

impl puka::Clock for Clock {
    type Sleep = Sleep;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep(Timer::at(self.coalesced(deadline)))
    }
}
