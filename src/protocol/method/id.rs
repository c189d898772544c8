//! The numbers of a method.

/// The class and method numbers with which a method begins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MethodId {
    /// The class, such as 50 for `queue`.
    pub class: u16,
    /// The method within its class, such as 10 for `declare`.
    pub method: u16,
}

impl MethodId {
    /// No method at all: what a close carries whose fault is nobody's request.
    pub const NONE: Self = Self { class: 0, method: 0 };
}
