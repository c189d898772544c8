//! Violations: facts that must never occur.

/// The description of a fact that must never occur.
#[derive(Clone, Debug)]
pub(crate) struct Violation(pub(crate) String);

pub(crate) type Checked<T = ()> = Result<T, Violation>;

/// Returns a violation with this description unless a condition holds.
pub(crate) fn ensure(holds: bool, description: impl FnOnce() -> String) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(Violation(description()))
    }
}
