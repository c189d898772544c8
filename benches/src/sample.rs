//! How long something took, by the clock and of this process's CPU.

use crate::cpu;
use std::time::{Duration, Instant};

/// From when on something is measured.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    cpu: Duration,
}

impl Clock {
    /// From now on.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now(), cpu: cpu() }
    }

    /// Whether it has not been so long yet.
    #[must_use]
    pub fn is_before(&self, time: Duration) -> bool {
        self.start.elapsed() < time
    }

    /// What so many messages took.
    #[must_use]
    pub fn stop(self, messages: u64) -> Sample {
        Sample { messages, time: self.start.elapsed(), cpu: cpu() - self.cpu }
    }
}

/// What one run came to.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// How many there were.
    pub messages: u64,
    /// How long they took.
    pub time: Duration,
    /// How much of the processor this process used for them.
    pub cpu: Duration,
}

impl Sample {
    /// Messages a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.time.as_secs_f64()
    }

    /// Nanoseconds of the processor a message.
    #[must_use]
    pub fn cost(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.messages as f64
    }
}

/// The one in the middle.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
