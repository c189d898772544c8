//! A connection without a transport.

use super::deadline::Deadline;

/// There is no transport.
#[derive(Debug)]
pub(super) struct Down {
    /// When to dial; nothing while it is being dialled.
    pub(super) retry: Deadline,
    /// The octets of the last transport have had their time.
    pub(super) over: bool,
}
