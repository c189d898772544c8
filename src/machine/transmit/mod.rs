//! Output: frames in order, fairness between channels, and heartbeats.

pub(crate) mod chunk;
pub(crate) mod heartbeat;
pub(crate) mod outbox;
pub(crate) mod outgoing;
