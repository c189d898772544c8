//! How long something took, by the clock and of this process's CPU.

use crate::work::Sample;
use puka_benches::cpu;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    cpu: Duration,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), cpu: cpu() }
    }

    pub(crate) fn is_before(&self, time: Duration) -> bool {
        self.start.elapsed() < time
    }

    pub(crate) fn stop(self, messages: u64) -> Sample {
        Sample { messages, time: self.start.elapsed(), cpu: cpu() - self.cpu }
    }
}
