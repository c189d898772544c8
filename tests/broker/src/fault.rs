//! Faults of a client, and the broker's reply (spec 1.2, "Constants").

use puka::protocol::{DecodeError, ReplyCode, ShortStr};
use std::fmt;

/// The reason why a method or a frame is refused. A soft reply code closes the channel, a hard one
/// the connection.
#[derive(Debug)]
pub(crate) enum Fault {
    /// A close with this code and text.
    Reply(ReplyCode, String),
    /// The transport is dropped without a frame.
    Silent,
}

/// The result of handling a method.
pub(crate) type Outcome = Result<(), Fault>;

impl Fault {
    /// Creates a fault with a text in RabbitMQ's format `NAME_WITH_UNDERSCORES - why`.
    pub(crate) fn new(code: ReplyCode, why: impl fmt::Display) -> Self {
        Self::Reply(
            code,
            format!("{} - {why}", code.name().unwrap_or("UNKNOWN")),
        )
    }

    /// Returns the fault of a request that does not fit the state or the declared properties (406).
    pub(crate) fn precondition(why: impl fmt::Display) -> Self {
        Self::new(ReplyCode::PRECONDITION_FAILED, why)
    }

    /// Returns the fault of a request for which the client has no permission (403).
    pub(crate) fn refused(why: impl fmt::Display) -> Self {
        Self::new(ReplyCode::ACCESS_REFUSED, why)
    }

    /// Returns the fault of a request that the broker does not support (540).
    pub(crate) fn not_implemented(why: impl fmt::Display) -> Self {
        Self::new(ReplyCode::NOT_IMPLEMENTED, why)
    }

    /// Returns the fault of a method that a client must not send at all, or not on this channel
    /// (503).
    pub(crate) fn command_invalid() -> Self {
        Self::new(ReplyCode::COMMAND_INVALID, "unimplemented method")
    }

    /// Returns the fault of a queue that does not exist (404).
    pub(crate) fn no_queue(vhost: &str, name: &str) -> Self {
        Self::new(
            ReplyCode::NOT_FOUND,
            format_args!("no queue '{name}' in vhost '{vhost}'"),
        )
    }

    /// Returns the fault of an exchange that does not exist (404).
    pub(crate) fn no_exchange(vhost: &str, name: &str) -> Self {
        Self::new(
            ReplyCode::NOT_FOUND,
            format_args!("no exchange '{name}' in vhost '{vhost}'"),
        )
    }

    /// Returns the fault of an error in the broker itself (541).
    pub(crate) fn internal(why: impl fmt::Display) -> Self {
        Self::new(ReplyCode::INTERNAL_ERROR, why)
    }

    /// Returns RabbitMQ's reaction to a frame or method that cannot be decoded.
    pub(crate) fn undecodable(error: DecodeError) -> Self {
        match error {
            // An unknown method or an invalid table crashes RabbitMQ's reader process, so no close
            // frame is sent.
            DecodeError::UnknownMethod(_)
            | DecodeError::BadTable { .. }
            | DecodeError::UnknownFieldTag { .. }
            | DecodeError::NestingTooDeep { .. } => Self::Silent,
            // A heartbeat on another channel is an unexpected frame.
            DecodeError::HeartbeatChannel(_) => Self::new(ReplyCode::UNEXPECTED_FRAME, error),
            error => Self::new(ReplyCode::FRAME_ERROR, error),
        }
    }
}

/// Decodes a short string of a method without content, which RabbitMQ requires to be UTF-8.
pub(crate) fn text<'a>(field: ShortStr<'a>) -> Result<&'a str, Fault> {
    field
        .as_str()
        .ok_or_else(|| Fault::new(ReplyCode::FRAME_ERROR, "a short string is not valid UTF-8"))
}
