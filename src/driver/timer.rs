//! The driver's timer: a sleep until the next deadline.

use super::Clock;
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Instant;

/// A sleep until the next deadline, or an earlier instant. The sleep is replaced only if the
/// deadline is earlier.
pub(super) struct Timer<C: Clock>(Option<(Instant, Pin<Box<C::Sleep>>)>);

impl<C: Clock> Default for Timer<C> {
    fn default() -> Self {
        Self(None)
    }
}

impl<C: Clock> Timer<C> {
    /// Sets the deadline, and returns `true` if the sleep has ended. Otherwise the task is woken
    /// when it ends.
    pub(super) fn poll(
        &mut self,
        clock: &C,
        cx: &mut Context<'_>,
        deadline: Option<Instant>,
    ) -> bool {
        let Some(deadline) = deadline else {
            self.0 = None;
            return false;
        };
        // A sleep that ends too early costs one wake-up. Replacing the sleep at each change of the
        // deadline would cost more.
        let stored = self.0.take().filter(|(end, _)| *end <= deadline);
        let (end, mut sleep) =
            stored.unwrap_or_else(|| (deadline, Box::pin(clock.sleep_until(deadline))));
        // The sleep is moved out while it is polled: it is user code, and a future that panicked
        // must not be polled again.
        let has_ended = sleep.as_mut().poll(cx).is_ready();
        if !has_ended {
            self.0 = Some((end, sleep));
        }
        has_ended
    }
}
