//! A consumer as data, which waits for its channel.

use crate::machine::PromiseId;
use crate::machine::consume::consumers::Terms;

/// A consumer that waits for its channel.
#[derive(Debug)]
pub(crate) struct WaitingConsume {
    pub(crate) promise: PromiseId,
    pub(crate) sources: Vec<Terms>,
    pub(crate) no_ack: bool,
    pub(crate) prefetch_count: u16,
    /// The prefetch count is one for all queues together.
    pub(crate) shares_prefetch_count: bool,
    /// As in [`PendingRequest`](super::requested::PendingRequest).
    pub(crate) is_suspected: bool,
}

impl WaitingConsume {
    pub(crate) fn octets(&self) -> usize {
        self.sources.iter().map(Terms::octets).sum()
    }
}
