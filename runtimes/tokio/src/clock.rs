//! The clock of tokio.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

/// The clock of the current tokio runtime, for [`puka::open`]. If a test has paused tokio's clock,
/// it is paused for puka too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

/// A sleep that [`Clock`] returns.
#[derive(Debug)]
pub struct Sleep(Pin<Box<tokio::time::Sleep>>);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl puka::Clock for Clock {
    type Sleep = Sleep;

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep(Box::pin(tokio::time::sleep_until(
            self.coalesced(deadline).into(),
        )))
    }
}
