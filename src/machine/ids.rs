//! Names of what a user holds: small, `Copy`, and never taken for another.

/// Names a promise. A number is used again, with another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PromiseId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl PromiseId {
    /// A small number, unique among the promises that are not fetched.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// Names a transaction. No two of a connection have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub(crate) u64);

/// Names who listens for notices. No two of a connection have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub(crate) u64);

/// Names a consumer. A number is used again, in another turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId {
    pub(crate) turn: u64,
    pub(crate) index: u32,
}

impl ConsumerId {
    /// A small number, unique among the consumers that are held.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }
}
