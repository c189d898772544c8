//! A sleep until the next deadline, made anew only when that comes earlier.

use super::Clock;
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Instant;

/// What a driver sleeps by.
pub(super) struct Alarm<C: Clock>(Option<(Instant, Pin<Box<C::Sleep>>)>);

impl<C: Clock> Default for Alarm<C> {
    fn default() -> Self {
        Self(None)
    }
}

impl<C: Clock> Alarm<C> {
    /// Whether the time has come, or an earlier one that was slept for. If not, the task is woken when it has.
    pub(super) fn has_rung(&mut self, clock: &C, cx: &mut Context<'_>, until: Option<Instant>) -> bool {
        let Some(until) = until else {
            self.0 = None;
            return false;
        };
        // A sleep that ends too early costs a wake-up, a new one at each change costs more.
        if self.0.as_ref().is_none_or(|(armed, _)| *armed > until) {
            self.0 = Some((until, Box::pin(clock.sleep_until(until))));
        }
        let rings = self.0.as_mut().is_some_and(|(_, sleep)| sleep.as_mut().poll(cx).is_ready());
        if rings {
            self.0 = None;
        }
        rings
    }
}
