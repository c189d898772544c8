//! The one public error: the spec's reply codes by name, and what can go wrong without a broker's doing.

use crate::message::Returned;
use crate::protocol::{DecodeError, EncodeError, MethodId, ProtocolHeader, ReplyCode};
use std::fmt;
use std::sync::Arc;

/// What went wrong with a request, a consumer or the connection.
///
/// An error that closed the connection is the answer to everything that was under way on it. It is cheap to clone, and
/// its text never holds a password.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
// What tells the variants apart is a whole word: where it is looked at, the copies of a `Result` are cut, and when that is behind
// one octet, a delivery that is handed out waits in the processor each time that it is moved.
#[repr(u64)]
pub enum Error {
    /// No queue was bound for a mandatory message, which came back (312). The publisher's or the topology's fault.
    #[error("the message came back: {}", .0.reply_text)]
    NoRoute(Arc<Returned>),
    /// No consumer was ready for an immediate message, which came back (313).
    #[error("the message came back: {}", .0.reply_text)]
    NoConsumers(Arc<Returned>),
    /// 311: the content is larger than the broker takes.
    #[error("{0}")]
    ContentTooLarge(Fault),
    /// 403: no permission, or, from `connect`, wrong credentials.
    #[error("{0}")]
    AccessRefused(Fault),
    /// 404: a queue or exchange that does not exist.
    #[error("{0}")]
    NotFound(Fault),
    /// 405: a queue that another connection has for itself.
    #[error("{0}")]
    ResourceLocked(Fault),
    /// 406: a condition of the request does not hold, such as the arguments of a queue that exists.
    #[error("{0}")]
    PreconditionFailed(Fault),
    /// 320: an operator, or the broker's end, closed the connection.
    #[error("{0}")]
    ConnectionForced(Fault),
    /// 402: an unknown virtual host (RabbitMQ says [`NotAllowed`](Self::NotAllowed)).
    #[error("{0}")]
    InvalidPath(Fault),
    /// 501: a malformed frame.
    #[error("{0}")]
    FrameError(Fault),
    /// 502: a malformed field.
    #[error("{0}")]
    SyntaxError(Fault),
    /// 503: a method where it may not stand.
    #[error("{0}")]
    CommandInvalid(Fault),
    /// 504: a channel that is not open.
    #[error("{0}")]
    ChannelError(Fault),
    /// 505: a frame that was not expected.
    #[error("{0}")]
    UnexpectedFrame(Fault),
    /// 506: the broker is out of something.
    #[error("{0}")]
    ResourceError(Fault),
    /// 530: not allowed, whatever the permissions; RabbitMQ's answer to an unknown virtual host.
    #[error("{0}")]
    NotAllowed(Fault),
    /// 540: the broker does not implement it.
    #[error("{0}")]
    NotImplemented(Fault),
    /// 541: the broker's own fault.
    #[error("{0}")]
    InternalError(Fault),
    /// A reply code that the spec does not have.
    #[error("{0}")]
    Other(Fault),

    /// The transport is gone, with the cause.
    #[error("the connection is broken: {0}")]
    ConnectionBroken(#[source] Broken),
    /// TLS could not be agreed upon.
    #[error("TLS: {0}")]
    Tls(#[source] TlsFault),
    /// The server refused AMQP 0-9-1 and named what it speaks.
    #[error("the server does not speak AMQP 0-9-1; it proposes {0}")]
    UnsupportedProtocol(ProtocolHeader),
    /// What the server sent first is no AMQP at all.
    #[error("the server does not speak AMQP: it began with {0}")]
    NotAmqp(String),
    /// The server offers no SASL mechanism that the options allow.
    #[error("no common SASL mechanism: the server offers {offered}, the options allow {allowed}")]
    NoMechanism {
        /// The server's, separated by spaces.
        offered: String,
        /// Ours, separated by spaces.
        allowed: String,
    },
    /// The options forbid to send the password over a transport that is not encrypted
    /// ([`Options::refuse_unencrypted_login`](crate::Options::refuse_unencrypted_login)), and every mechanism that both
    /// sides have would do that. Nothing was sent of it.
    #[error("the options forbid to send the password over a transport that is not encrypted")]
    UnencryptedLogin,
    /// There is nothing to log in with: the source of the credentials failed, or the mechanism could not answer the server.
    #[error("can't log in: {0}")]
    CannotLogIn(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The server closed the transport in answer to our login: how a server without `authentication_failure_close` says no.
    #[error(
        "the server closed the connection in answer to the login, which most likely means that it refused it"
    )]
    LoginRefused,
    /// The server sent limits that AMQP does not allow.
    #[error("the server proposed {what} of {value}, which AMQP 0-9-1 does not allow")]
    BadTuning {
        /// The name of the limit.
        what: &'static str,
        /// What the server sent.
        value: u32,
    },

    /// The broker took no responsibility for the message, as a queue does that is full.
    #[error("the broker did not accept the message")]
    Nacked,
    /// The connection or the channel went before the broker confirmed the message: whether it has it, nobody can know.
    #[error("whether the broker has the message is unknown: {0}")]
    Unconfirmed(#[source] Arc<Error>),
    /// Nothing came in time.
    #[error("{what} took longer than {seconds} s", seconds = .after.as_secs_f64())]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// The deadline that passed.
        after: std::time::Duration,
    },
    /// The reply did not arrive in time while reading was paused: too many deliveries are buffered.
    #[error("{0}")]
    ReadingPaused(Arc<ReadingPaused>),
    /// The outgoing capacity is used up, so nothing was sent. Awaiting the request waits for
    /// capacity instead, and fails with [`Timeout`](Self::Timeout) after
    /// [`Options::request_timeout`](crate::Options::request_timeout).
    #[error("the outgoing side is full")]
    Full,
    /// The delivery belongs to a channel that is gone: it can't be settled any more, and nothing was sent. The broker
    /// delivers the message again.
    #[error("the delivery can't be settled any more; the broker delivers the message again")]
    Stale,
    /// The channel limit is reached: consumers, transactions or unsettled messages of `basic_get`
    /// use all channels that they may use.
    #[error("the broker allows no more channels")]
    ChannelLimit,
    /// The connection was closed from this side.
    #[error("the connection was closed")]
    Closed,
    /// The broker ended the consumer, most often because its queue was deleted.
    #[error("the broker cancelled the consumer {0:?}")]
    ConsumerCancelled(String),
    /// An argument that AMQP or the broker does not allow, found before anything was sent. The caller's fault.
    #[error("{what}: {why}")]
    InvalidArgument {
        /// Which argument.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The URI is wrong. The caller's fault.
    #[error(transparent)]
    Uri(#[from] crate::uri::UriError),
}

/// What a peer found wrong when it closed a channel or the connection, in the spec's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The reply code.
    pub code: ReplyCode,
    /// The reply text.
    pub text: Arc<str>,
    /// The method at fault; [`MethodId::NONE`] when none is.
    pub method: MethodId,
    /// Who found it.
    pub found_by: Peer,
}

/// The error of a timeout while reading was paused. The reply may be unread behind deliveries that
/// are not taken.
///
/// See [`Options::max_buffered_deliveries`](crate::Options::max_buffered_deliveries) for when
/// reading pauses.
///
/// ```
/// use puka::{Error, Notice, Options};
/// use std::time::Duration;
///
/// let broker = puka_test_broker::Server::new(Default::default());
/// let options = Options::default()
///     .max_buffered_deliveries(1)
///     .request_timeout(Duration::from_secs(1));
/// let (client, driver) = puka::open(broker.connect(), puka_smol::Clock, options);
/// smol::spawn(driver).detach();
/// smol::block_on(async {
///     client.queue_declare("orders").await?;
///     for _ in 0..8 {
///         client.basic_publish("", "orders", vec![0; 1 << 18]).await?;
///     }
///     let mut notices = client.notices();
///     let orders = client.basic_consume("orders").no_ack(true).await?;
///     // The program takes no deliveries, and a consumer without acks can't be throttled.
///     assert!(matches!(notices.next().await, Some(Notice::ReadingPaused { .. })));
///
///     // Reading continues for pending requests until 4 deliveries are buffered.
///     let error = loop {
///         if let Err(error) = client.queue_declare("refunds").await {
///             break error;
///         }
///     };
///     let Error::ReadingPaused(paused) = error else { panic!("{error}") };
///     assert!(paused.deliveries >= 4);
///     drop(orders);
///     client.close().await
/// })?;
/// # Ok::<(), puka::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadingPaused {
    /// What was waited for, such as "the request".
    pub what: &'static str,
    /// The timeout that passed.
    pub after: std::time::Duration,
    /// The number of buffered deliveries of all consumers.
    pub deliveries: usize,
    /// The size of those deliveries in bytes.
    pub bytes: usize,
}

impl fmt::Display for ReadingPaused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, after, deliveries, bytes } = self;
        write!(f, "{what} took longer than {} s; reading is paused: ", after.as_secs_f64())?;
        match *bytes >> 20 {
            0 => write!(f, "{deliveries} deliveries of {bytes} bytes are buffered"),
            mebibytes => write!(f, "{deliveries} deliveries of {mebibytes} MiB are buffered"),
        }
    }
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
            Peer::Client => write!(f, "the server broke the protocol ({}): {}", self.code, self.text)?,
        }
        if self.method != MethodId::NONE {
            write!(f, " ({})", self.method)?;
        }
        Ok(())
    }
}

impl Fault {
    /// What the server said.
    pub(crate) fn by_server(code: u16, text: &str, method: MethodId) -> Self {
        Self { code: code.into(), text: text.into(), method, found_by: Peer::Server }
    }

    /// What this library found wrong with the server.
    pub(crate) fn by_client(code: ReplyCode, text: impl Into<String>, method: MethodId) -> Self {
        Self { code, text: text.into().into(), method, found_by: Peer::Client }
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        let method = if let DecodeError::UnknownMethod(method) = error { method } else { MethodId::NONE };
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
        Self::InvalidArgument { what: "the request", why: error.to_string() }
    }
}

/// How the transport went.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// The server closed the transport without a word.
    #[error("the server closed the transport")]
    Eof,
    /// Reading, writing or dialling failed.
    #[error(transparent)]
    Io(#[from] Arc<std::io::Error>),
    /// The transport was lost right after both sides had agreed on a small `frame_max`. RabbitMQ
    /// since 4.1 closes the transport of clients that ask for less than 8192 bytes
    /// ([`Options::frame_max`](crate::Options::frame_max)).
    #[error(
        "transport lost after agreeing on frame_max {frame_max}; RabbitMQ since 4.1 requires at least 8192"
    )]
    SmallFrameMax {
        /// The negotiated `frame_max` in bytes.
        frame_max: u32,
        /// The cause of the loss.
        #[source]
        cause: Arc<Broken>,
    },
    /// No octet came for longer than the negotiated heartbeat allows.
    #[error("the server gave no sign of life for {seconds} s", seconds = .0.as_secs_f64())]
    HeartbeatMissed(std::time::Duration),
    /// The transport took no octet for too long.
    #[error("the transport took no octet for {seconds} s", seconds = .0.as_secs_f64())]
    WriteStalled(std::time::Duration),
    /// The connection went before the answer came, so whether it was carried out nobody can know, with why it went.
    #[error("whether it was carried out is unknown: {0}")]
    OutcomeUnknown(#[source] Arc<Error>),
    /// What the connection had before it was lost could not be brought back, as
    /// [`Recovery::strict`](crate::Recovery::strict) wants it.
    #[error("the connection could not be recovered whole: {0}")]
    NotRestored(#[source] Arc<Error>),
    /// The driver was dropped, most often with its runtime.
    #[error("the driver was dropped")]
    DriverDropped,
}

/// Why there is no TLS with a server, with the error of the TLS library, which is also the source.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TlsFault {
    /// The certificate is for another name than the one that was dialled, or that the options expect.
    WrongName(TlsCause),
    /// The certificate, or one above it, has expired.
    Expired(TlsCause),
    /// Nobody who is trusted has signed the certificate: it is self-signed, or its authority is missing in the options.
    UnknownIssuer(TlsCause),
    /// Something else is wrong with the certificate.
    BadCertificate(TlsCause),
    /// The server does not speak TLS: most often it is `amqps` on a port for plain AMQP.
    NotTls(TlsCause),
    /// The server speaks no TLS of version 1.2 or later.
    OldVersion(TlsCause),
    /// The server ended the handshake; it may want a certificate of ours, or another one.
    Refused(TlsCause),
    /// Anything else.
    Other(TlsCause),
}

/// The error of the TLS library below a [`TlsFault`].
pub type TlsCause = Arc<dyn std::error::Error + Send + Sync>;

impl TlsFault {
    /// Returns the error of the TLS library.
    pub(crate) fn cause(&self) -> &TlsCause {
        self.parts().1
    }

    fn parts(&self) -> (&'static str, &TlsCause) {
        match self {
            Self::WrongName(cause) => ("the server's certificate is for another name", cause),
            Self::Expired(cause) => ("the server's certificate has expired", cause),
            Self::UnknownIssuer(cause) => {
                ("nobody who is trusted has signed the server's certificate", cause)
            }
            Self::BadCertificate(cause) => ("the server's certificate is no good", cause),
            Self::NotTls(cause) => ("the server does not speak TLS on this port", cause),
            Self::OldVersion(cause) => ("the server speaks no TLS of version 1.2 or later", cause),
            Self::Refused(cause) => ("the server refused", cause),
            Self::Other(cause) => ("no handshake", cause),
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, cause) = self.parts();
        write!(f, "{text} ({cause})")
    }
}

impl std::error::Error for TlsFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&**self.parts().1)
    }
}

impl Error {
    /// The fault that a peer found, with reply code, text, class and method.
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

    /// Whether the transport went, be it the error itself or the cause of an [`Unconfirmed`](Self::Unconfirmed).
    #[must_use]
    pub fn is_connection_broken(&self) -> bool {
        match self {
            Self::ConnectionBroken(_) => true,
            Self::Unconfirmed(cause) => cause.is_connection_broken(),
            _ => false,
        }
    }

    /// Returns the error of a message that the broker may have all the same.
    pub(crate) fn into_unconfirmed(self) -> Self {
        if matches!(self, Self::Unconfirmed(_)) { self } else { Self::Unconfirmed(self.into()) }
    }

    /// Whether the server closed the connection over a method of that kind, so that repeating it would have it do so again.
    pub(crate) fn blames(&self, method: MethodId) -> bool {
        self.fault().is_some_and(|fault| fault.found_by == Peer::Server && fault.method == method)
    }

    /// Whether the server closed the connection over something that was done, and not because it, or an operator, wanted to:
    /// what was under way may be what it was.
    pub(crate) fn is_a_verdict(&self) -> bool {
        self.fault()
            .is_some_and(|fault| fault.found_by == Peer::Server && fault.code != ReplyCode::CONNECTION_FORCED)
    }

    /// A timeout while reading is paused over that many buffered deliveries.
    pub(crate) fn reading_paused(
        what: &'static str,
        after: std::time::Duration,
        deliveries: usize,
        bytes: usize,
    ) -> Self {
        Self::ReadingPaused(ReadingPaused { what, after, deliveries, bytes }.into())
    }

    pub(crate) fn cannot_log_in(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::CannotLogIn(cause.into().into())
    }

    /// An argument that is refused before anything is sent.
    pub(crate) fn invalid(what: &'static str, why: impl fmt::Display) -> Self {
        Self::InvalidArgument { what, why: why.to_string() }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::ConnectionBroken(Broken::Io(Arc::new(error)))
    }
}
