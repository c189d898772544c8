//! What the errors of the broker have shown about it.

/// What the errors of the broker have shown about it, beyond its properties. It stays known when
/// the connection is lost: the cost of learning it again is a connection.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// The broker does not implement the flag `immediate` of a publish.
    pub(crate) refuses_immediate: bool,
    /// The broker closes the connection over a method that was on its way when the broker closed
    /// its channel. It ignores publishes.
    pub(crate) closes_over_late_methods: bool,
}
