//! What the errors of the broker have shown about it.

/// What the errors of the broker have shown about it, beyond its properties. It stays known when
/// the connection is lost: the cost of learning it again is a connection.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// The broker does not implement the flag `immediate` of a publish.
    pub(crate) refuses_immediate: bool,
}
