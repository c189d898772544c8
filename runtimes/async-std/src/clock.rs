//! The clock of async-std.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

/// The clock of async-std's reactor, for [`puka::open`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

/// A sleep that [`Clock`] returns.
pub struct Sleep(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").finish_non_exhaustive()
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl puka::Clock for Clock {
    type Sleep = Sleep;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        let sleep = async_std::task::sleep(
            self.coalesced(deadline)
                .saturating_duration_since(Instant::now()),
        );
        Sleep(Box::pin(sleep))
    }
}
