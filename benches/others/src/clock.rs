//! How long something took, by the clock and of this process's CPU.

use crate::work::Sample;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    cpu: Duration,
}

/// How much of the processor this process has used, all threads and the kernel's part together.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), cpu: cpu() }
    }

    pub(crate) fn stop(self, messages: u64) -> Sample {
        Sample { messages, time: self.start.elapsed(), cpu: cpu() - self.cpu }
    }
}
