//! The public error type: the spec's reply codes by name, and the errors that this library detects.

use crate::message::Returned;
use crate::protocol::{DecodeError, EncodeError, MethodId, ProtocolHeader, ReplyCode};
use std::fmt;
use std::sync::Arc;

mod reading_paused;
mod tls;

pub use reading_paused::ReadingPaused;
pub use tls::{TlsCause, TlsFault};

/// The error of a request, a consumer or the connection.
///
/// An error that closed the connection completes every request that was pending on it. Cloning is
/// cheap, and the text never contains a password.
///
/// `Display` does not repeat the [`source`](std::error::Error::source). To log the cause of an
/// [`Unconfirmed`](Self::Unconfirmed), for example, print the chain of sources or use `Debug`.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
// The discriminant is a whole word. With a one-byte discriminant, copies of a `Result` are split
// when it is inspected, and each move of a delivery then stalls on store forwarding.
#[repr(u64)]
pub enum Error {
    /// 312: no queue is bound for a mandatory message, which the broker returned. The publisher or
    /// the topology is at fault.
    #[error("message returned: {}", .0.reply_text)]
    NoRoute(Arc<Returned>),
    /// 313: no consumer was ready for an immediate message, which the broker returned.
    #[error("message returned: {}", .0.reply_text)]
    NoConsumers(Arc<Returned>),
    /// 311: the content is larger than the broker accepts.
    #[error("{0}")]
    ContentTooLarge(Fault),
    /// 403: permission is missing, or `connect` used wrong credentials.
    #[error("{0}")]
    AccessRefused(Fault),
    /// 404: the queue or exchange does not exist.
    #[error("{0}")]
    NotFound(Fault),
    /// 405: the queue is exclusive to another connection.
    #[error("{0}")]
    ResourceLocked(Fault),
    /// 406: a precondition of the request does not hold, for example the arguments differ from
    /// those of the existing queue.
    #[error("{0}")]
    PreconditionFailed(Fault),
    /// 320: an operator or the broker's shutdown closed the connection.
    #[error("{0}")]
    ConnectionForced(Fault),
    /// 402: the virtual host is unknown (RabbitMQ sends [`NotAllowed`](Self::NotAllowed)).
    #[error("{0}")]
    InvalidPath(Fault),
    /// 501: a malformed frame.
    #[error("{0}")]
    FrameError(Fault),
    /// 502: a malformed field.
    #[error("{0}")]
    SyntaxError(Fault),
    /// 503: a method that is not valid in this state.
    #[error("{0}")]
    CommandInvalid(Fault),
    /// 504: the channel is not open.
    #[error("{0}")]
    ChannelError(Fault),
    /// 505: an unexpected frame.
    #[error("{0}")]
    UnexpectedFrame(Fault),
    /// 506: the broker lacks a resource, such as memory.
    #[error("{0}")]
    ResourceError(Fault),
    /// 530: not allowed, regardless of permissions. RabbitMQ's reply to an unknown virtual host.
    #[error("{0}")]
    NotAllowed(Fault),
    /// 540: the broker does not implement the method.
    #[error("{0}")]
    NotImplemented(Fault),
    /// 541: an internal error of the broker.
    #[error("{0}")]
    InternalError(Fault),
    /// A reply code that the spec does not define.
    #[error("{0}")]
    Other(Fault),

    /// The transport was lost, with the cause.
    #[error(transparent)]
    ConnectionBroken(Broken),
    /// The TLS handshake failed.
    #[error(transparent)]
    Tls(TlsFault),
    /// The server rejected AMQP 0-9-1 and sent the protocol header that it supports.
    #[error("the server does not speak AMQP 0-9-1; it proposes {0}")]
    UnsupportedProtocol(ProtocolHeader),
    /// The first bytes from the server are not AMQP.
    #[error("the server does not speak AMQP: its first bytes are {0}")]
    NotAmqp(String),
    /// The server offers no SASL mechanism that the options allow.
    #[error("no common SASL mechanism: the server offers {offered}, the options allow {allowed}")]
    NoMechanism {
        /// The server's mechanisms, separated by spaces.
        offered: String,
        /// The mechanisms of the options, separated by spaces.
        allowed: String,
    },
    /// The options forbid sending the password over an unencrypted transport
    /// ([`Options::refuse_unencrypted_login`](crate::Options::refuse_unencrypted_login)), and every
    /// mechanism that both sides support would do so. No part of the login was sent.
    #[error("the options forbid sending the password over an unencrypted transport")]
    UnencryptedLogin,
    /// There is no login to send: the source of the credentials failed, or the mechanism could not
    /// answer the server.
    #[error("cannot log in")]
    CannotLogIn(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The server closed the transport after the login. Servers without the capability
    /// `authentication_failure_close` refuse a login in this way.
    #[error("the server closed the transport after the login, so it probably refused the login")]
    LoginRefused,
    /// The server sent limits that AMQP does not allow.
    #[error("the server proposed {what} of {value}, which AMQP 0-9-1 does not allow")]
    BadTuning {
        /// The name of the limit.
        what: &'static str,
        /// The value that the server sent.
        value: u32,
    },

    /// The broker did not accept the message, for example because a queue is full.
    #[error("the broker did not accept the message")]
    Nacked,
    /// The connection or channel was lost before the broker confirmed the message, so the outcome
    /// is unknown.
    #[error("the outcome of the publish is unknown")]
    Unconfirmed(#[source] Arc<Error>),
    /// The deadline passed.
    #[error("{what} took longer than {seconds} s", seconds = .after.as_secs_f64())]
    Timeout {
        /// What timed out, such as "the request".
        what: &'static str,
        /// The timeout that passed.
        after: std::time::Duration,
    },
    /// The reply did not arrive in time while reading was paused: too many deliveries are buffered.
    #[error("{0}")]
    ReadingPaused(Arc<ReadingPaused>),
    /// The outgoing capacity is used up, so nothing was sent. Awaiting the request waits for
    /// capacity instead, and fails with [`Timeout`](Self::Timeout) after
    /// [`Options::request_timeout`](crate::Options::request_timeout).
    #[error("the outgoing capacity is used up")]
    Full,
    /// The delivery is stale: its channel or connection is gone, and nothing was sent. The broker
    /// delivers the message again.
    #[error("the delivery is stale and cannot be settled; the broker delivers the message again")]
    Stale,
    /// The channel limit is reached: consumers, transactions or unsettled messages of `basic_get`
    /// use all channels that they may use.
    #[error("the broker allows no more channels")]
    ChannelLimit,
    /// The client closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// The client closed the connection before everything that it had accepted was completed. Each
    /// of these publishes and requests has completed with an error of its own, usually
    /// [`Closed`](Self::Closed) if it was not sent.
    #[error("the connection was closed with {pending} publishes and requests not completed")]
    CloseIncomplete {
        /// The number of publishes and requests without a reply.
        pending: usize,
    },
    /// The broker ended the consumer, usually because its queue was deleted.
    #[error("the broker cancelled the consumer {0:?}")]
    ConsumerCancelled(String),
    /// AMQP or the broker does not allow the argument. Nothing was sent. The caller is at fault.
    #[error("{what}: {why}")]
    InvalidArgument {
        /// The name of the argument.
        what: &'static str,
        /// The reason.
        why: String,
    },
    /// The URI is invalid. The caller is at fault.
    #[error(transparent)]
    Uri(#[from] crate::uri::UriError),
}

/// The fault for which a peer closed a channel or the connection, in the spec's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The reply code.
    pub code: ReplyCode,
    /// The reply text.
    pub text: Arc<str>,
    /// The method that caused the fault, or [`MethodId::NONE`].
    pub method: MethodId,
    /// The side that found the fault.
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
                "the server violated the protocol ({}): {}",
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
    /// Returns a fault that the server reported.
    pub(crate) fn by_server(code: u16, text: &str, method: MethodId) -> Self {
        Self {
            code: code.into(),
            text: text.into(),
            method,
            found_by: Peer::Server,
        }
    }

    /// Returns a fault of the server that this library found.
    pub(crate) fn by_client(code: ReplyCode, text: impl Into<String>, method: MethodId) -> Self {
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
        Self::by_client(error.reply_code(), error.to_string(), method)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault.code {
            ReplyCode::CONTENT_TOO_LARGE => Self::ContentTooLarge(fault),
            ReplyCode::CONNECTION_FORCED => Self::ConnectionForced(fault),
            ReplyCode::INVALID_PATH => Self::InvalidPath(fault),
            ReplyCode::ACCESS_REFUSED => Self::AccessRefused(fault),
            ReplyCode::NOT_FOUND => Self::NotFound(fault),
            ReplyCode::RESOURCE_LOCKED => Self::ResourceLocked(fault),
            ReplyCode::PRECONDITION_FAILED => Self::PreconditionFailed(fault),
            ReplyCode::FRAME_ERROR => Self::FrameError(fault),
            ReplyCode::SYNTAX_ERROR => Self::SyntaxError(fault),
            ReplyCode::COMMAND_INVALID => Self::CommandInvalid(fault),
            ReplyCode::CHANNEL_ERROR => Self::ChannelError(fault),
            ReplyCode::UNEXPECTED_FRAME => Self::UnexpectedFrame(fault),
            ReplyCode::RESOURCE_ERROR => Self::ResourceError(fault),
            ReplyCode::NOT_ALLOWED => Self::NotAllowed(fault),
            ReplyCode::NOT_IMPLEMENTED => Self::NotImplemented(fault),
            ReplyCode::INTERNAL_ERROR => Self::InternalError(fault),
            _ => Self::Other(fault),
        }
    }
}

impl From<EncodeError> for Error {
    fn from(error: EncodeError) -> Self {
        Self::InvalidArgument {
            what: "the request",
            why: error.to_string(),
        }
    }
}

/// The reason why the transport was lost.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// The server closed the transport without `connection.close`.
    #[error("the server closed the transport")]
    Eof,
    /// Reading, writing or dialling failed.
    #[error(transparent)]
    Io(#[from] Arc<std::io::Error>),
    /// The transport was lost immediately after the negotiation of a small `frame_max`. RabbitMQ
    /// 4.1 and later closes the transport of clients that ask for less than 8192 bytes
    /// ([`Options::frame_max`](crate::Options::frame_max)).
    #[error(
        "transport lost after negotiating frame_max {frame_max}; \
         RabbitMQ since 4.1 requires at least 8192"
    )]
    SmallFrameMax {
        /// The negotiated `frame_max` in bytes.
        frame_max: u32,
        /// The cause of the loss.
        #[source]
        cause: Arc<Broken>,
    },
    /// No byte was received for longer than the negotiated heartbeat allows.
    #[error("missed heartbeats: nothing received for {seconds} s", seconds = .0.as_secs_f64())]
    HeartbeatMissed(std::time::Duration),
    /// The transport accepted no byte for too long.
    #[error(
        "write stalled: the transport accepted no bytes for {seconds} s",
        seconds = .0.as_secs_f64()
    )]
    WriteStalled(std::time::Duration),
    /// The connection was lost before the reply arrived, so it is unknown whether the request was
    /// carried out. Contains the cause of the loss.
    #[error("the outcome of the request is unknown")]
    OutcomeUnknown(#[source] Arc<Error>),
    /// Part of the topology could not be restored, and
    /// [`Recovery::strict`](crate::Recovery::strict) does not allow that.
    #[error("recovery is incomplete")]
    NotRestored(#[source] Arc<Error>),
    /// The driver was dropped, usually together with its runtime.
    #[error("the driver was dropped")]
    DriverDropped,
}

impl Error {
    /// Returns the fault that a peer found, with reply code, text, class and method.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::ContentTooLarge(fault)
            | Self::AccessRefused(fault)
            | Self::NotFound(fault)
            | Self::ResourceLocked(fault)
            | Self::PreconditionFailed(fault)
            | Self::ConnectionForced(fault)
            | Self::InvalidPath(fault)
            | Self::FrameError(fault)
            | Self::SyntaxError(fault)
            | Self::CommandInvalid(fault)
            | Self::ChannelError(fault)
            | Self::UnexpectedFrame(fault)
            | Self::ResourceError(fault)
            | Self::NotAllowed(fault)
            | Self::NotImplemented(fault)
            | Self::InternalError(fault)
            | Self::Other(fault) => Some(fault),
            Self::Unconfirmed(cause) => cause.fault(),
            _ => None,
        }
    }

    /// Returns `true` if the transport was lost: for the error itself and for the cause of an
    /// [`Unconfirmed`](Self::Unconfirmed).
    #[must_use]
    pub fn is_connection_broken(&self) -> bool {
        match self {
            Self::ConnectionBroken(_) => true,
            Self::Unconfirmed(cause) => cause.is_connection_broken(),
            _ => false,
        }
    }

    /// Wraps the error of a publish whose outcome is unknown, unless it is wrapped already.
    pub(crate) fn into_unconfirmed(self) -> Self {
        if matches!(self, Self::Unconfirmed(_)) {
            self
        } else {
            Self::Unconfirmed(self.into())
        }
    }

    /// Returns `true` if the server closed the connection because of such a method. Repeating the
    /// method would close the connection again.
    pub(crate) fn blames(&self, method: MethodId) -> bool {
        self.fault()
            .is_some_and(|fault| fault.found_by == Peer::Server && fault.method == method)
    }

    /// Returns `true` if the server closed the connection because of a request, and not by its own
    /// or an operator's decision. Any request that was pending may be the cause.
    pub(crate) fn is_a_verdict(&self) -> bool {
        self.fault().is_some_and(|fault| {
            fault.found_by == Peer::Server && fault.code != ReplyCode::CONNECTION_FORCED
        })
    }

    /// Returns the error of a timeout while reading is paused over buffered deliveries.
    pub(crate) fn reading_paused(
        what: &'static str,
        after: std::time::Duration,
        deliveries: usize,
        bytes: usize,
    ) -> Self {
        Self::ReadingPaused(
            ReadingPaused {
                what,
                after,
                deliveries,
                bytes,
            }
            .into(),
        )
    }

    pub(crate) fn cannot_log_in(
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::CannotLogIn(cause.into().into())
    }

    /// Returns the error of an argument that is refused before anything is sent.
    pub(crate) fn invalid(what: &'static str, why: impl fmt::Display) -> Self {
        Self::InvalidArgument {
            what,
            why: why.to_string(),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::ConnectionBroken(Broken::Io(Arc::new(error)))
    }
}
