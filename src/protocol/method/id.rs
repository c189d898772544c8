//! Method numbers.

/// The class and method numbers, with which the payload of a method frame begins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MethodId {
    /// The class, such as 50 for `queue`.
    pub class: u16,
    /// The method within its class, such as 10 for `declare`.
    pub method: u16,
}

impl MethodId {
    /// No method, for a close that no method caused.
    pub const NONE: Self = Self {
        class: 0,
        method: 0,
    };
}
