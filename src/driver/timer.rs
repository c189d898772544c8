//! The driver's timer: a sleep until the next deadline.

use super::Clock;
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Instant;

/// The driver's timer. It replaces its sleep only if the next deadline is earlier.
pub(super) struct Alarm<C: Clock>(Option<(Instant, Pin<Box<C::Sleep>>)>);

impl<C: Clock> Default for Alarm<C> {
    fn default() -> Self {
        Self(None)
    }
}

impl<C: Clock> Alarm<C> {
    /// Returns `true` if the deadline, or an earlier one for which the timer was armed, has passed.
    /// Otherwise the task is woken when it passes.
    pub(super) fn has_rung(
        &mut self,
        clock: &C,
        cx: &mut Context<'_>,
        until: Option<Instant>,
    ) -> bool {
        let Some(until) = until else {
            self.0 = None;
            return false;
        };
        // A sleep that ends too early costs one wake-up. Replacing the sleep at each change of the
        // deadline would cost more.
        let armed = self.0.take().filter(|(armed, _)| *armed <= until);
        let (at, mut sleep) = armed.unwrap_or_else(|| (until, Box::pin(clock.sleep_until(until))));
        // The sleep is moved out while it is polled: it is user code, and a future that panicked
        // must not be polled again.
        let rings = sleep.as_mut().poll(cx).is_ready();
        if !rings {
            self.0 = Some((at, sleep));
        }
        rings
    }
}
