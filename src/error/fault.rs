//! The reason that `channel.close` and `connection.close` report.

use crate::protocol::{DecodeError, MethodId, ReplyCode};
use std::fmt;
use std::sync::Arc;

/// A reason to close a channel or the connection, with the fields of `channel.close` and
/// `connection.close`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The reply code.
    pub code: ReplyCode,
    /// The reply text.
    pub text: Arc<str>,
    /// The method that caused the fault, or [`MethodId::NONE`].
    pub method: MethodId,
    /// The side that found the fault, and therefore closed the channel or connection.
    pub found_by: Peer,
}

/// One of the two sides of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// This library.
    Client,
    /// The broker.
    Server,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.code.name().unwrap_or_default();
        match self.found_by {
            // RabbitMQ's texts begin with the name of the code.
            Peer::Server if !name.is_empty() && self.text.starts_with(name) => {
                write!(f, "{} {}", self.code.value(), self.text)?;
            }
            Peer::Server => write!(f, "{}: {}", self.code, self.text)?,
            Peer::Client => write!(
                f,
                "the broker violated the protocol ({}): {}",
                self.code, self.text
            )?,
        }
        if self.method != MethodId::NONE {
            write!(f, " ({})", self.method)?;
        }
        Ok(())
    }
}

impl Fault {
    /// Returns a fault that the broker reported.
    pub(crate) fn reported_by_broker(code: u16, text: &str, method: MethodId) -> Self {
        Self {
            code: code.into(),
            text: text.into(),
            method,
            found_by: Peer::Server,
        }
    }

    /// Returns a fault of the broker that this library found.
    pub(crate) fn found_in_broker(
        code: ReplyCode,
        text: impl Into<String>,
        method: MethodId,
    ) -> Self {
        Self {
            code,
            text: text.into().into(),
            method,
            found_by: Peer::Client,
        }
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        let method = if let DecodeError::UnknownMethod(method) = error {
            method
        } else {
            MethodId::NONE
        };
        Self::found_in_broker(error.reply_code(), error.to_string(), method)
    }
}
