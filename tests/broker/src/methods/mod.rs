//! The effect of each method: a file for each class, and two for settling and for bindings.

pub(crate) mod basic;
mod binding;
pub(crate) mod channel;
pub(crate) mod confirm;
pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod queue;
pub(crate) mod settling;
pub(crate) mod tx;
