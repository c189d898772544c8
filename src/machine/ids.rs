//! Identifiers of what a program uses. They are small and `Copy`. Each kind has a type of its own,
//! and an old identifier is not confused with a new one.

/// The number of a channel in its frames. A variable is named `number` where a
/// [`Channel`](crate::machine::channel::Channel) is in scope as well, and `channel` elsewhere.
pub(crate) type ChannelNumber = u16;

/// Identifies a promise. Its index is reused with another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PromiseId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl PromiseId {
    /// Returns a small number, which is unique among the promises whose result is not fetched.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// Identifies a transaction. It is unique in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub(crate) u64);

/// Identifies a listener for notices. It is unique in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub(crate) u64);

/// Identifies a consumer. Its index is reused with another turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId {
    pub(crate) turn: u64,
    pub(crate) index: u32,
}

impl ConsumerId {
    /// Returns a small number, which is unique among the consumers that are not dropped.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// A channel, distinguished from earlier ones with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChannelIncarnation {
    pub(crate) number: ChannelNumber,
    pub(crate) incarnation: u64,
}
