//! What leaves: frames in order, in fair turns, and heartbeats.

pub(crate) mod chunk;
pub(crate) mod heartbeat;
pub(crate) mod outbox;
pub(crate) mod outgoing;
