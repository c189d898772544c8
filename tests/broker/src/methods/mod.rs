//! The effect of each method, one file for each class.

pub(crate) mod basic;
mod binding;
pub(crate) mod channel;
pub(crate) mod confirm;
pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod queue;
pub(crate) mod settling;
pub(crate) mod tx;
