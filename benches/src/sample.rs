//! Durations, by the clock and of this process's processor time.

use crate::cpu;
use std::time::{Duration, Instant};

/// The start of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    cpu: Duration,
}

impl Clock {
    /// Starts a measurement.
    #[must_use]
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            cpu: cpu(),
        }
    }

    /// Returns `true` if less than this time has passed.
    #[must_use]
    pub fn is_before(&self, time: Duration) -> bool {
        self.start.elapsed() < time
    }

    /// Ends the measurement of this many messages.
    #[must_use]
    pub fn stop(self, messages: u64) -> Sample {
        Sample {
            messages,
            time: self.start.elapsed(),
            cpu: cpu() - self.cpu,
        }
    }
}

/// The result of one run.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The number of messages.
    pub messages: u64,
    /// The elapsed time.
    pub time: Duration,
    /// The processor time of this process.
    pub cpu: Duration,
}

impl Sample {
    /// Returns the messages a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.time.as_secs_f64()
    }

    /// Returns the processor time of a message, in nanoseconds.
    #[must_use]
    pub fn cost(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.messages as f64
    }
}

/// Returns the median.
///
/// # Panics
/// If there are no figures.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
