//! A consumer as data, which waits for its channel.

use super::PromiseId;
use super::consumers::Terms;

/// A consumer that waits for its channel.
#[derive(Debug)]
pub(super) struct WaitingConsume {
    pub(super) promise: PromiseId,
    pub(super) sources: Vec<Terms>,
    pub(super) no_ack: bool,
    pub(super) prefetch_count: u16,
    /// The prefetch count is one for all queues together.
    pub(super) shares_prefetch_count: bool,
    /// As in [`WaitingRequest`](super::requested::WaitingRequest).
    pub(super) is_suspected: bool,
}

impl WaitingConsume {
    pub(super) fn octets(&self) -> usize {
        self.sources.iter().map(Terms::octets).sum()
    }
}
