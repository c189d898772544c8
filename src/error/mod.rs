//! The public error type: the spec's reply codes by name, and the errors that this library detects.

use crate::message::Returned;
use crate::protocol::{EncodeError, MethodId, ProtocolHeader, ReplyCode};
use std::fmt;
use std::io;
use std::sync::Arc;

mod attempts;
mod fault;
mod located;
mod reading_paused;
mod tls;

pub(crate) use attempts::SocketAddress;
pub use attempts::{FailedAttempt, FailedAttempts};
pub use fault::{Fault, Peer};
pub(crate) use located::Located;
pub use reading_paused::ReadingPaused;
pub use tls::{TlsCause, TlsFault};

/// The error of a request, a consumer or the connection.
///
/// An error that closed the connection completes every request that was pending on it. Cloning is
/// cheap, and the text never contains a password.
///
/// `Display` does not repeat the [`source`](std::error::Error::source). A log should contain the
/// chain of sources, too: the source of an [`Unconfirmed`](Self::Unconfirmed), for example, is the
/// reason why there was no confirm.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
// The discriminant has eight bytes. With a discriminant of one byte, the compiler copies a
// `Result` in two parts, and reading both parts at once then waits for the two stores (a failed
// store forwarding). That delayed each move of a delivery.
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
    /// Several attempts to connect failed, each with its own cause. An attempt is one address of an
    /// endpoint, or an endpoint whose host could not be resolved. If there was only one attempt,
    /// its own error is returned instead of this one.
    ///
    /// The text lists all attempts with their causes, so there is no source. The list dereferences
    /// to a slice of the attempts.
    #[error(transparent)]
    CannotConnect(FailedAttempts),
    /// The TLS handshake failed.
    #[error(transparent)]
    Tls(TlsFault),
    /// The broker probably expects TLS on this port, and the options do not use it: it replied to
    /// the protocol header of AMQP with a TLS alert, or closed the transport on port 5671, which is
    /// the port for TLS. Use `amqps://` or [`Options::tls`](crate::Options::tls).
    #[error("port {port} expects TLS: use amqps:// instead of amqp://")]
    TlsExpected {
        /// The port.
        port: u16,
        /// The reply of the broker, or the end of the transport.
        #[source]
        cause: Arc<Error>,
    },
    /// The broker rejected AMQP 0-9-1 and sent the protocol header that it supports.
    #[error("the broker does not speak AMQP 0-9-1; it proposes {0}")]
    UnsupportedProtocol(ProtocolHeader),
    /// The first bytes from the broker are not AMQP.
    #[error("the broker does not speak AMQP: its first bytes are {0}")]
    NotAmqp(String),
    /// The broker offers no SASL mechanism that the options allow.
    #[error("no common SASL mechanism: the broker offers {offered}, the options allow {allowed}")]
    NoMechanism {
        /// The broker's mechanisms, separated by spaces.
        offered: String,
        /// The mechanisms of the options, separated by spaces.
        allowed: String,
    },
    /// The options forbid sending the password over an unencrypted transport
    /// ([`Options::refuse_unencrypted_login`](crate::Options::refuse_unencrypted_login)), and every
    /// mechanism that both sides support would do so. No part of the login was sent.
    #[error("the options forbid sending the password over an unencrypted transport")]
    UnencryptedLogin,
    /// The login could not be made: the source of the credentials failed, or the SASL mechanism
    /// could not answer the broker.
    #[error("cannot log in")]
    CannotLogIn(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The broker closed the transport after the login. Brokers without the capability
    /// `authentication_failure_close` refuse a login in this way.
    #[error("the broker closed the transport after the login, so it probably refused the login")]
    LoginRefused,
    /// The broker ended the connection after a login of more than 4096 bytes. It refused the login,
    /// or the login exceeds the broker's `initial_frame_max`: RabbitMQ's default is 8192 bytes, and
    /// it is 4096 before 4.1. See
    /// [`Options::initial_frame_max`](crate::Options::initial_frame_max).
    #[error(
        "the login of {bytes} bytes was refused, or it exceeds the broker's initial_frame_max \
         (RabbitMQ's default is 8192, and 4096 before 4.1)"
    )]
    LargeLogin {
        /// The size of the largest frame of the login in bytes.
        bytes: usize,
        /// How the broker ended the connection.
        #[source]
        cause: Arc<Error>,
    },
    /// The broker sent limits that AMQP does not allow.
    #[error("the broker proposed {what} of {value}, which AMQP 0-9-1 does not allow")]
    BadTuning {
        /// The name of the limit.
        what: &'static str,
        /// The value that the broker sent.
        value: u32,
    },

    /// The broker did not accept the message, for example because a queue is full.
    #[error("the broker did not accept the message")]
    Nacked,
    /// The broker did not confirm the message before the connection or channel was lost, or before
    /// the deadline. So the outcome is unknown: the broker may have accepted the message or not.
    #[error("the broker did not confirm the message, so the outcome of the publish is unknown")]
    Unconfirmed(#[source] Arc<Error>),
    /// The deadline passed.
    #[error("{what} took longer than {seconds} s", seconds = .after.as_secs_f64())]
    Timeout {
        /// What timed out, such as "the request".
        what: &'static str,
        /// The timeout that passed.
        after: std::time::Duration,
    },
    /// The deadline passed while reading was paused, because too many deliveries are buffered.
    #[error("{0}")]
    ReadingPaused(Arc<ReadingPaused>),
    /// The outgoing capacity is used up, and nothing was sent. A request that is awaited waits for
    /// capacity, and fails with [`Timeout`](Self::Timeout) instead, after
    /// [`Options::request_timeout`](crate::Options::request_timeout).
    #[error("the outgoing capacity is used up")]
    Full,
    /// The delivery, consumer or transaction is stale: it has ended, or its channel or connection
    /// is gone. Nothing was sent. The broker delivers an unsettled message again.
    #[error("the delivery, consumer or transaction is stale: it has ended, or its channel is gone")]
    Stale,
    /// No channel is available. Either consumers, transactions and unsettled messages of
    /// `basic_get` use all channels that [`Options::channel_max`](crate::Options::channel_max) and
    /// the broker allow, or the broker refused a channel, for example because of the user's
    /// `max-channels`. The broker carried out nothing, and the request is not repeated.
    #[error("all channels that channel_max and the broker allow are in use")]
    ChannelLimit,
    /// The broker lists its capabilities, and this one, which the request needs, is not among them.
    /// Nothing was sent, because a broker closes the connection over a method that it does not
    /// know.
    ///
    /// Publishes with confirms need `publisher_confirms`, and calls `direct_reply_to` as well.
    /// Bindings between exchanges need `exchange_exchange_bindings`. A nack of several deliveries
    /// needs `basic.nack`; without it, a nack of one delivery is sent as a reject.
    #[error("the broker does not have the capability {0}")]
    MissingCapability(&'static str),
    /// The client closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// The client closed the connection before all accepted publishes and requests had a reply.
    /// Each of the others has completed with its own error, usually [`Closed`](Self::Closed) if it
    /// was not sent.
    #[error("the connection was closed with {pending} publishes and requests not completed")]
    CloseIncomplete {
        /// The number of publishes and requests without a reply.
        pending: usize,
    },
    /// The broker ended the consumer, usually because its queue was deleted.
    #[error("the broker cancelled the consumer {0:?}")]
    ConsumerCancelled(String),
    /// An argument is not allowed by AMQP, by the broker or by this library. Nothing was sent. The
    /// caller is at fault.
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
    /// The broker closed the transport without `connection.close`.
    #[error("the broker closed the transport")]
    Eof,
    /// Reading, writing or dialling failed.
    #[error(transparent)]
    Io(#[from] Arc<io::Error>),
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
    /// An entity or a consumer could not be restored, and
    /// [`Recovery::strict`](crate::Recovery::strict) does not allow that.
    #[error("recovery is incomplete")]
    NotRestored(#[source] Arc<Error>),
    /// The driver was dropped, usually together with its runtime.
    #[error("the driver was dropped")]
    DriverDropped,
}

impl Error {
    /// Returns the fault that closed the channel or connection, with reply code, text, class and
    /// method. For an [`Unconfirmed`](Self::Unconfirmed) and a [`LargeLogin`](Self::LargeLogin),
    /// this is the fault in the cause.
    ///
    /// It does not look into [`Broken::OutcomeUnknown`] and [`Broken::NotRestored`], whose
    /// [`source`](std::error::Error::source) may have a fault.
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
            Self::Unconfirmed(cause) | Self::LargeLogin { cause, .. } => cause.fault(),
            _ => None,
        }
    }

    /// Returns `true` if the transport was lost: if the error is a
    /// [`ConnectionBroken`](Self::ConnectionBroken), an [`Unconfirmed`](Self::Unconfirmed) or
    /// [`TlsExpected`](Self::TlsExpected) whose cause is one, or a
    /// [`CannotConnect`](Self::CannotConnect) that lists one.
    #[must_use]
    pub fn is_connection_broken(&self) -> bool {
        match self {
            Self::ConnectionBroken(_) => true,
            Self::Unconfirmed(cause) | Self::TlsExpected { cause, .. } => {
                cause.is_connection_broken()
            }
            Self::CannotConnect(failed) => failed.iter().any(|it| it.error.is_connection_broken()),
            _ => false,
        }
    }

    /// Returns `true` if this side has ended the connection.
    pub(crate) fn is_from_this_side(&self) -> bool {
        matches!(
            self,
            Self::Closed | Self::ConnectionBroken(Broken::DriverDropped)
        )
    }

    /// Wraps the error of a publish whose outcome is unknown, unless it is wrapped already.
    pub(crate) fn into_unconfirmed(self) -> Self {
        if matches!(self, Self::Unconfirmed(_)) {
            self
        } else {
            Self::Unconfirmed(self.into())
        }
    }

    /// Returns `true` if the broker reported a fault and named this method as the cause. Repeating
    /// the method would cause the same fault.
    pub(crate) fn names_method(&self, method: MethodId) -> bool {
        !self.is_over_late_method()
            && self
                .fault()
                .is_some_and(|fault| fault.found_by == Peer::Server && fault.method == method)
    }

    /// Returns `true` if the broker reported a fault that a request has caused. Any pending request
    /// may be the cause. A connection that the broker closes for its own reasons, or because an
    /// operator wants it, has the code `CONNECTION_FORCED`.
    ///
    /// AMQProxy begins the text with `UPSTREAM_ERROR` if it has lost or cannot reach its broker,
    /// and closes with the code 0 when it stops.
    pub(crate) fn is_caused_by_request(&self) -> bool {
        let is_own_reason = |fault: &Fault| {
            matches!(fault.code.value(), 0 | 200)
                || fault.code == ReplyCode::CONNECTION_FORCED
                || fault.text.starts_with("UPSTREAM_ERROR")
        };
        !self.is_over_late_method()
            && self
                .fault()
                .is_some_and(|fault| fault.found_by == Peer::Server && !is_own_reason(fault))
    }

    /// Returns `true` if the broker closed the connection over a method on a channel that is not
    /// open. The client uses open channels only, so the broker has closed the channel when the
    /// method was on its way: LavinMQ and AMQProxy then close the connection, and RabbitMQ ignores
    /// the method. What the broker has closed the channel over is the cause, and not the method.
    pub(crate) fn is_over_late_method(&self) -> bool {
        matches!(self, Self::ChannelError(fault) if fault.found_by == Peer::Server)
    }

    /// Returns the error of a login that could not be made.
    pub(crate) fn cannot_log_in(
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::CannotLogIn(cause.into().into())
    }

    /// Returns the error of a round over the endpoints: that of a single attempt itself, else the
    /// list. Without an attempt, no endpoint was given.
    pub(crate) fn of_attempts(mut failed: Vec<FailedAttempt>) -> Self {
        match (failed.pop(), failed.is_empty()) {
            (None, _) => Self::invalid("endpoints", "at least one endpoint is required"),
            (Some(only), true) => only.error,
            (Some(last), false) => {
                failed.push(last);
                Self::CannotConnect(failed.into())
            }
        }
    }

    /// Returns the error of an argument that is refused before anything is sent.
    pub(crate) fn invalid(what: &'static str, why: impl fmt::Display) -> Self {
        Self::InvalidArgument {
            what,
            why: why.to_string(),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::ConnectionBroken(Broken::Io(Arc::new(error)))
    }
}
