//! Why a text is not an AMQP URI: what is wrong and at which octet of the text.
//!
//! Knows no parsing. No error carries the text itself, nor any part of it that could be a user name or a
//! password: only a scheme, the name of a query parameter, and numbers.
//!
//! Spec: RabbitMQ URI specification, "Security Considerations".

use std::fmt;

use thiserror::Error;

/// Why a text is not an AMQP URI. It is always the fault of whoever wrote the text; nothing was sent to a
/// broker.
///
/// `at` counts octets from the start of the text, the first one is 0. No variant holds the password or the
/// user name, so an error may be logged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UriError {
    /// The text does not begin with a scheme and `://`.
    #[error("the URI does not begin with amqp://, amqps:// or amqp+unix://")]
    MissingScheme,
    /// The scheme is none of `amqp`, `amqps` and `amqp+unix`.
    #[error("the URI's scheme is {scheme}, not amqp, amqps or amqp+unix")]
    UnknownScheme {
        /// The scheme that was found.
        scheme: String,
    },
    /// A space or a control character stands in the text, often a line end from a file.
    #[error(
        "octet {at} of the URI is white space or a control character; it must be percent-encoded or \
         removed"
    )]
    WhiteSpace {
        /// Where it stands.
        at: usize,
    },
    /// The text has a `#`. An AMQP URI has no fragment.
    #[error(
        "octet {at} of the URI begins a fragment, which AMQP URIs do not have; a # in a password is \
         written %23"
    )]
    Fragment {
        /// Where the `#` stands.
        at: usize,
    },
    /// An `@` behind the host can be part of a name, or the end of a user part that holds a raw `/` or `?`.
    /// It is refused because one of the two readings would take a password for a name, and show it.
    #[error(
        "the @ at octet {at} of the URI can be read in two ways: a / or ? before it in a password is \
         written %2F or %3F, an @ in a virtual host or query %40"
    )]
    AmbiguousAt {
        /// Where the `@` stands.
        at: usize,
    },
    /// An `@`, then a comma, then another `@`: each of several hosts with a user part of its own, or a
    /// password. All hosts have one user part.
    #[error(
        "the @ at octet {at} of the URI has a comma and another @ behind it: all hosts share one user part, \
         and an @ in a password is written %40"
    )]
    RepeatedUser {
        /// Where the first `@` stands.
        at: usize,
    },
    /// A `%` is not followed by two hexadecimal digits.
    #[error(
        "the % at octet {at} of the URI, in its {part}, is not followed by two hexadecimal digits; a % \
         itself is written %25"
    )]
    BadEscape {
        /// The part it stands in.
        part: UriPart,
        /// Where the `%` stands.
        at: usize,
    },
    /// The octets of a part, percent-decoded, are not UTF-8.
    #[error("the {part} at octet {at} of the URI is not UTF-8 once it is percent-decoded")]
    NotUtf8 {
        /// The part.
        part: UriPart,
        /// Where the part begins.
        at: usize,
    },
    /// A name is too long for the protocol, which counts such names in one octet.
    #[error("the {part} in the URI has {octets} octets, and 255 is the most the protocol can carry")]
    TooLong {
        /// The part.
        part: UriPart,
        /// Its length in octets, percent-decoded.
        octets: usize,
    },
    /// The host is neither a name nor an address.
    #[error(
        "the host at octet {at} of the URI is neither a name nor an address; an IPv6 address stands in \
         brackets, without a zone"
    )]
    BadHost {
        /// Where the host begins.
        at: usize,
    },
    /// The port is not a number from 1 to 65535.
    #[error("the port at octet {at} of the URI is not a number from 1 to 65535")]
    BadPort {
        /// Where the port begins.
        at: usize,
    },
    /// What should name a Unix socket does not: the scheme is followed by an optional user part, and then by
    /// an absolute path.
    #[error(
        "octet {at} of the URI is not where the absolute path of a Unix socket begins, as in \
         amqp+unix:///run/broker?vhost=name"
    )]
    BadSocket {
        /// Where the path should begin.
        at: usize,
    },
    /// The path has more than one segment. A virtual host is one.
    #[error(
        "the / at octet {at} of the URI follows the virtual host, which is one segment; a / inside it \
         is written %2F"
    )]
    NestedVirtualHost {
        /// Where the second `/` stands.
        at: usize,
    },
    /// The query has a parameter that this client does not know. Parameters are never ignored: who wrote one
    /// counts on it.
    #[error("the query parameter {name:?} of the URI is not known to this client, and none is ignored")]
    UnknownParameter {
        /// The parameter's name.
        name: String,
    },
    /// The query has a parameter behind a passphrase that this client does not know. Its name is not told,
    /// since it may be the end of a passphrase with a raw `&`.
    #[error(
        "the query parameter at octet {at} of the URI, behind a password, is not known to this client; a & \
         in a password is written %26"
    )]
    UnknownBehindPassword {
        /// Where the parameter begins.
        at: usize,
    },
    /// The query has a parameter that can't be honoured, or that contradicts the rest of the URI.
    #[error("the query parameter {name} of the URI {why}")]
    RefusedParameter {
        /// The parameter's name.
        name: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The query has a parameter twice that can be given only once.
    #[error("the query parameter {name} of the URI is given more than once")]
    RepeatedParameter {
        /// The parameter's name.
        name: &'static str,
    },
    /// The value of a query parameter is not what the parameter takes.
    #[error("the query parameter {name} at octet {at} of the URI takes {expected}")]
    BadParameter {
        /// The parameter's name.
        name: &'static str,
        /// Where the value begins.
        at: usize,
        /// What the parameter takes, with its unit.
        expected: &'static str,
    },
}

/// A part of an AMQP URI, as errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UriPart {
    /// The user name, before the first `:` of the user part.
    Username,
    /// The password, behind the first `:` of the user part.
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
