//! The errors of parsing an AMQP URI, each with the byte of the text where it was found.
//!
//! No error contains the text or a part of it that may be a user name or password: only a scheme,
//! the name of a query parameter, and numbers.
//!
//! Spec: RabbitMQ URI specification, "Security Considerations".

use std::fmt;

use thiserror::Error;

/// The reason why a text is not an AMQP URI. The author of the text is at fault; nothing was sent
/// to a broker.
///
/// `at` is an offset in bytes from the start of the text. No variant contains the password or the
/// user name, so an error may be logged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UriError {
    /// The text does not begin with a scheme and `://`.
    #[error("the URI does not begin with amqp://, amqps:// or amqp+unix://")]
    MissingScheme,
    /// The scheme is not `amqp`, `amqps` or `amqp+unix`.
    #[error("unknown URI scheme {scheme}, expected amqp, amqps or amqp+unix")]
    UnknownScheme {
        /// The scheme that was found.
        scheme: String,
    },
    /// The text contains a space or a control character, often a line end from a file.
    #[error(
        "byte {at} of the URI is white space or a control character; it must be percent-encoded or \
         removed"
    )]
    WhiteSpace {
        /// The offset of the character.
        at: usize,
    },
    /// The text has a `#`. An AMQP URI has no fragment.
    #[error(
        "byte {at} of the URI begins a fragment, which AMQP URIs do not have; a # in a password is \
         written %23"
    )]
    Fragment {
        /// The offset of the `#`.
        at: usize,
    },
    /// An `@` after the host is part of a name, or the end of a user part that contains a raw `/`
    /// or `?`. It is refused because the wrong interpretation would print a password as a name.
    #[error(
        "the @ at byte {at} of the URI is ambiguous: a / or ? before it in a password is \
         written %2F or %3F, an @ in a virtual host or query %40"
    )]
    AmbiguousAt {
        /// The offset of the `@`.
        at: usize,
    },
    /// An `@`, then a comma, then another `@`: either several hosts, each with a user part, or a
    /// password. All hosts share one user part.
    #[error(
        "the @ at byte {at} of the URI has a comma and another @ after it: all hosts share one \
         user part, and an @ in a password is written %40"
    )]
    RepeatedUser {
        /// The offset of the first `@`.
        at: usize,
    },
    /// A `%` is not followed by two hexadecimal digits.
    #[error(
        "the % at byte {at} of the URI, in its {part}, is not followed by two hexadecimal digits; \
         a % itself is written %25"
    )]
    BadEscape {
        /// The part that contains it.
        part: UriPart,
        /// The offset of the `%`.
        at: usize,
    },
    /// A part is not UTF-8 after percent-decoding.
    #[error("the {part} at byte {at} of the URI is not UTF-8 after percent-decoding")]
    NotUtf8 {
        /// The part.
        part: UriPart,
        /// The offset of the part.
        at: usize,
    },
    /// A name is too long for the protocol, which stores the length of such names in one byte.
    #[error("the {part} in the URI must have at most 255 bytes, got {bytes}")]
    TooLong {
        /// The part.
        part: UriPart,
        /// Its length in bytes after percent-decoding.
        bytes: usize,
    },
    /// The host is neither a name nor an address.
    #[error(
        "the host at byte {at} of the URI is neither a name nor an address; an IPv6 address \
         requires brackets, and must have no zone"
    )]
    BadHost {
        /// The offset of the host.
        at: usize,
    },
    /// The port is not a number from 1 to 65535.
    #[error("the port at byte {at} of the URI is not a number from 1 to 65535")]
    BadPort {
        /// The offset of the port.
        at: usize,
    },
    /// The text does not name a Unix socket: an absolute path must follow the scheme and the
    /// optional user part.
    #[error(
        "expected the absolute path of a Unix socket at byte {at} of the URI, as in \
         amqp+unix:///run/broker?vhost=name"
    )]
    BadSocket {
        /// The offset at which the path should begin.
        at: usize,
    },
    /// The path has more than one segment. A virtual host is a single segment.
    #[error(
        "the / at byte {at} of the URI follows the virtual host, which is a single segment; a / \
         inside it is written %2F"
    )]
    NestedVirtualHost {
        /// The offset of the second `/`.
        at: usize,
    },
    /// The query has an unknown parameter. Parameters are never ignored, because their author
    /// relies on them.
    #[error("unknown query parameter {name:?} in the URI")]
    UnknownParameter {
        /// The parameter's name.
        name: String,
    },
    /// The query has an unknown parameter after a passphrase. The error does not contain its name,
    /// because it may be the end of a passphrase with a raw `&`.
    #[error(
        "unknown query parameter at byte {at} of the URI, after a password; a & in a password is \
         written %26"
    )]
    UnknownBehindPassword {
        /// The offset of the parameter.
        at: usize,
    },
    /// The query has a parameter that is not supported or contradicts the rest of the URI.
    #[error("the query parameter {name} of the URI {why}")]
    RefusedParameter {
        /// The parameter's name.
        name: &'static str,
        /// The reason.
        why: &'static str,
    },
    /// The query repeats a parameter that may be given only once.
    #[error("the query parameter {name} of the URI is given more than once")]
    RepeatedParameter {
        /// The parameter's name.
        name: &'static str,
    },
    /// The value of a query parameter is invalid.
    #[error(
        "invalid value of the query parameter {name} at byte {at} of the URI, expected {expected}"
    )]
    BadParameter {
        /// The parameter's name.
        name: &'static str,
        /// The offset of the value.
        at: usize,
        /// The expected values, with their unit.
        expected: &'static str,
    },
}

/// A part of an AMQP URI, as named in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UriPart {
    /// The user name, before the first `:` of the user part.
    Username,
    /// The password, after the first `:` of the user part.
    Password,
    /// The host name or address.
    Host,
    /// The port.
    Port,
    /// The path of a Unix socket.
    Socket,
    /// The virtual host, the only segment of the path.
    VirtualHost,
    /// The query: names and values of parameters.
    Query,
}

impl fmt::Display for UriPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Username => "user name",
            Self::Password => "password",
            Self::Host => "host",
            Self::Port => "port",
            Self::Socket => "socket's path",
            Self::VirtualHost => "virtual host",
            Self::Query => "query",
        })
    }
}
