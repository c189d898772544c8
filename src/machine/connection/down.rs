//! A connection without a transport.

use crate::machine::deadline::Deadline;

/// There is no transport.
#[derive(Debug)]
pub(crate) struct Down {
    /// When to dial; nothing while it is being dialled.
    pub(crate) retry: Deadline,
    /// The octets of the last transport have had their time.
    pub(crate) over: bool,
}
