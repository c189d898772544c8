//! What each method does, a file for each class.

pub(crate) mod basic;
mod binding;
pub(crate) mod channel;
pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod queue;
pub(crate) mod settling;
pub(crate) mod tx;

/// A method that a client has no business to send.
pub(crate) fn unimplemented_method() -> crate::fault::Fault {
    crate::fault::Fault::new(puka::protocol::ReplyCode::COMMAND_INVALID, "unimplemented method")
}
