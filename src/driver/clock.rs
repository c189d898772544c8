//! What a driver needs of time.

use std::future::Future;
use std::time::Instant;

/// Tells the time, and wakes up when it has come. Each runtime has one; a test may have one of its own, so that hours pass
/// in a moment.
pub trait Clock {
    /// Resolves when the time has come, or a little later.
    type Sleep: Future<Output = ()>;

    /// The time.
    fn now(&self) -> Instant;

    /// Sleeps until then.
    fn sleep_until(&self, deadline: Instant) -> Self::Sleep;
}

impl<C: Clock + ?Sized> Clock for &C {
    type Sleep = C::Sleep;

    fn now(&self) -> Instant {
        (**self).now()
    }

    fn sleep_until(&self, deadline: Instant) -> C::Sleep {
        (**self).sleep_until(deadline)
    }
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    type Sleep = C::Sleep;

    fn now(&self) -> Instant {
        (**self).now()
    }

    fn sleep_until(&self, deadline: Instant) -> C::Sleep {
        (**self).sleep_until(deadline)
    }
}
