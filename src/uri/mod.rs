//! AMQP URIs: broker addresses, login, and query parameters.
//!
//! This module only parses and prints text; it uses no sockets, TLS, handshake or options. It
//! splits the text itself, because `url::Url` drops line ends, resolves a virtual host `..` (even
//! as `%2E%2E`), accepts bad escapes, and does not distinguish an empty user name from an absent
//! one. The `url` crate validates the host.
//!
//! Spec: RabbitMQ URI specification and RFC 3986, 3. See `Uri::parse` for the points on which
//! RabbitMQ's clients differ.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

mod address;
mod endpoint;
mod error;
mod mechanism;
mod query;
mod span;
mod tls;
mod value;

pub use endpoint::Endpoint;
pub use error::{UriError, UriPart};
pub use mechanism::AuthMechanism;
pub(crate) use tls::{ServerNameIndication, TlsParameters};

use query::Parameters;
use span::{Encoded, Span};

const DEFAULT_USERNAME: &str = "guest";
const DEFAULT_PASSWORD: &str = "guest";
const DEFAULT_VIRTUAL_HOST: &str = "/";

/// An AMQP URI: `amqp://` or `amqps://`, then `[user[:password]@][host][:port][/vhost][?query]`; or
/// `amqp+unix://[user[:password]@]/path/to/socket[?query]`.
///
/// Omitted parts have the defaults of a freshly installed RabbitMQ: user `guest` with password
/// `guest`, host `localhost`, port 5672 (5671 for `amqps`), virtual host `/`. A URI that spells out
/// a default equals one that omits it.
///
/// There may be several hosts, separated by commas and each with its own port:
/// `amqp://one:5673,two,[::1]`. They are tried in this order. All share the user part, the virtual
/// host and the query.
///
/// A Unix socket, for example of a proxy, has an absolute, percent-encoded path. Its virtual host
/// is the parameter `vhost`, because the path has no place for it.
///
/// # Query parameters
/// | parameter | value |
/// | --- | --- |
/// | `heartbeat` | seconds, 0 to leave it to the broker |
/// | `connection_timeout` | milliseconds for the TCP connect |
/// | `channel_max` | channels, 0 to leave it to the broker |
/// | `frame_max` | bytes, 0 to leave it to the broker |
/// | `auth_mechanism` | a SASL mechanism; may be repeated in order of preference |
/// | `vhost` | the virtual host of a Unix socket |
///
/// The mechanisms are `plain`, `amqplain`, `external`, `rabbit-cr-demo` and `anonymous`.
///
/// Only for `amqps`:
///
/// | parameter | value |
/// | --- | --- |
/// | `cacertfile` | path of a PEM file with the trusted certificates, instead of the system's |
/// | `certfile` | path of a PEM file with the client's certificate |
/// | `keyfile` | path of a PEM file with the client's private key; `certfile` by default |
/// | `password` | the passphrase of `keyfile`; not the login's |
/// | `verify` | `verify_peer`, the default, or `verify_none`, which accepts any certificate |
/// | `server_name_indication` | the name to expect in the certificate; `disable` to send none |
/// | `customize_hostname_check` | `https`, which is always how names are compared |
/// | `fail_if_no_peer_cert` | `true` or `false`; no effect for a client |
///
/// `depth` is refused, because the maximum length of a certificate chain is fixed. With `disable`,
/// the certificate is still checked for the host's name, unlike in Erlang. `cacertfile` and
/// `server_name_indication` are accepted together with `verify_none`, as in RabbitMQ's own
/// examples.
///
/// `Display` and `Debug` omit the login's password and the key's passphrase. Only
/// [`to_string_with_password`] prints them.
///
/// [`to_string_with_password`]: Uri::to_string_with_password
///
/// # Spec
/// RabbitMQ URI specification, and its "URI Query Parameters". Several hosts and Unix sockets are
/// extensions.
///
/// # Examples
/// ```
/// let uri = puka::Uri::parse("amqp://user:passw%23rd@host:10000/v%2fhost?heartbeat=20")?;
/// assert_eq!(uri.password(), "passw#rd");
/// assert_eq!(uri.virtual_host(), "v/host");
/// assert_eq!(uri.heartbeat(), Some(20));
/// assert_eq!(uri.to_string(), "amqp://user@host:10000/v%2Fhost?heartbeat=20");
/// # Ok::<(), puka::UriError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Uri {
    scheme: Scheme,
    username: String,
    password: String,
    /// At least one. A host is decoded, and contains a `:` only if it is an IPv6 address.
    endpoints: Vec<Endpoint>,
    virtual_host: String,
    parameters: Parameters,
}

/// The scheme of a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Amqp,
    Amqps,
    Unix,
}

impl Scheme {
    const ALL: [Self; 3] = [Self::Amqp, Self::Amqps, Self::Unix];

    fn name(self) -> &'static str {
        match self {
            Self::Amqp => "amqp",
            Self::Amqps => "amqps",
            Self::Unix => "amqp+unix",
        }
    }

    fn is_tls(self) -> bool {
        self == Self::Amqps
    }
}

impl Default for Uri {
    /// Returns `amqp://guest:guest@localhost:5672/`, with the virtual host `/`.
    fn default() -> Self {
        Self {
            scheme: Scheme::Amqp,
            username: DEFAULT_USERNAME.to_owned(),
            password: DEFAULT_PASSWORD.to_owned(),
            endpoints: vec![Endpoint::tcp(address::DEFAULT_HOST, default_port(false))],
            virtual_host: DEFAULT_VIRTUAL_HOST.to_owned(),
            parameters: Parameters::default(),
        }
    }
}

impl Uri {
    /// Parses a URI.
    ///
    /// User name, password, host and virtual host are percent-decoded as UTF-8; `+` is a plus sign,
    /// not a space. Unambiguous text is accepted even where RFC 3986 requires an escape: a raw `:`
    /// in the password (the first one ends the user name), a raw `@` in the user part (the last one
    /// ends it), and letters outside ASCII. RabbitMQ's clients differ on these points:
    ///
    /// - `amqp://host/` means the virtual host `/`, as in Puka for Python, pika and Go, because
    ///   users expect that. RabbitMQ's specification says that it means the virtual host with an
    ///   empty name, which few brokers have;
    ///   [`Options::virtual_host`](crate::Options::virtual_host) can set it.
    /// - `amqp://host//` means the virtual host `/`, too, as Celery writes it.
    /// - An empty host or port counts as absent; one of several hosts must not lack both. An empty
    ///   user name or password does not count as absent: `amqp://:@host` logs in with both empty.
    /// - `amqp://user@host` has no password, so the default, `guest`, is used.
    /// - A host name is kept as decoded; an international one is not converted to its ASCII form.
    ///
    /// # Errors
    /// The [`UriError`] contains the fault and its offset, and never the user name or password.
    /// Besides syntax errors, these are refused:
    ///
    /// - white space and control characters that are not encoded, also line ends around the text;
    /// - a virtual host of two segments, and fragments;
    /// - port 0, and IPv6 zones;
    /// - a user name or virtual host of more than 255 bytes;
    /// - query parameters that are unknown, repeated (except `auth_mechanism`), out of range, for
    ///   another scheme, or contradictory;
    /// - a raw `@` after the host, in the query or if there is no user part, because
    ///   `amqp://user:1/2@host` may contain an unescaped password;
    /// - a raw `@` before a comma in the user part, because `amqp://u:p@one,u:p@two` may mean two
    ///   hosts.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if let Some(at) =
            text.find(|character: char| character.is_control() || character.is_whitespace())
        {
            return Err(UriError::WhiteSpace { at });
        }
        let (scheme, rest) = split_scheme(text)?;
        if let Some(at) = rest.find('#') {
            return Err(UriError::Fragment { at });
        }
        let (rest, query) = rest.split('?', UriPart::Query);
        let (authority, path) = rest.split('/', UriPart::VirtualHost);
        let (user, address) = match authority.rsplit('@', UriPart::Host) {
            (user, Some(address)) => (Some(user), address),
            (address, None) => {
                let part = UriPart::Host;
                (None, Span { part, ..address })
            }
        };
        let nameless_path = if user.is_none() { path } else { None };
        if let Some(at) = [nameless_path, query]
            .into_iter()
            .flatten()
            .find_map(|span| span.find('@'))
        {
            return Err(UriError::AmbiguousAt { at });
        }
        user.map_or(Ok(()), refuse_two_users)?;
        let (username, password) = match user.map(|user| user.split(':', UriPart::Password)) {
            Some((username, password)) => (Some(username), password),
            None => (None, None),
        };
        let username =
            username.map_or_else(|| Ok(DEFAULT_USERNAME.to_owned()), Span::decode_name)?;
        let password = password.map_or_else(|| Ok(DEFAULT_PASSWORD.to_owned()), Span::decode)?;
        let (endpoints, virtual_host) = match scheme {
            Scheme::Unix => (vec![address::parse_socket(address, path)?], None),
            Scheme::Amqp | Scheme::Amqps => {
                let endpoints = address::parse_hosts(address, default_port(scheme.is_tls()))?;
                (endpoints, path.map(parse_virtual_host).transpose()?)
            }
        };
        let mut parameters = query.map_or_else(|| Ok(Parameters::default()), Parameters::parse)?;
        refuse_misplaced(&parameters, scheme)?;
        let virtual_host = parameters
            .virtual_host
            .take()
            .or(virtual_host)
            .unwrap_or_else(|| DEFAULT_VIRTUAL_HOST.to_owned());
        Ok(Self {
            scheme,
            username,
            password,
            endpoints,
            virtual_host,
            parameters,
        })
    }

    /// Returns `true` if the scheme is `amqps`: TLS from the first byte.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.scheme.is_tls()
    }

    /// Returns the endpoints, at least one, in the URI's order. A host is decoded and never empty,
    /// `localhost` by default; an IPv6 address has no brackets. A port is never 0; it is 5672 by
    /// default, or 5671 for `amqps`, as assigned by IANA.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Returns the decoded user name, at most 255 bytes. `guest` by default. It may be empty.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// Returns the decoded password. `guest` by default. It may be empty.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Returns the decoded virtual host, at most 255 bytes. `/` by default, also for an empty path.
    /// Never empty.
    #[must_use]
    pub fn virtual_host(&self) -> &str {
        &self.virtual_host
    }

    /// Returns `heartbeat` in seconds; 0 leaves it to the broker. `None` if it is not set.
    #[must_use]
    pub fn heartbeat(&self) -> Option<u16> {
        self.parameters.heartbeat
    }

    /// Returns `connection_timeout`, the limit for the TCP connect, at least one millisecond.
    /// `None` if it is not set.
    ///
    /// In the URI it is a number of milliseconds. 0 is refused, because it means "none" to some
    /// clients and "at once" to others.
    #[must_use]
    pub fn connection_timeout(&self) -> Option<Duration> {
        self.parameters
            .connection_timeout
            .map(|limit| Duration::from_millis(limit.get().into()))
    }

    /// Returns `channel_max`, the highest channel number; 0 leaves it to the broker. `None` if it
    /// is not set.
    #[must_use]
    pub fn channel_max(&self) -> Option<u16> {
        self.parameters.channel_max
    }

    /// Returns `frame_max`, the largest frame in bytes; 0 leaves it to the broker. `None` if it is
    /// not set.
    ///
    /// The value is not checked here, because the smallest allowed one depends on the broker. The
    /// handshake checks it.
    #[must_use]
    pub fn frame_max(&self) -> Option<u32> {
        self.parameters.frame_max
    }

    /// Returns all values of `auth_mechanism`, in the URI's order; empty if it is not set.
    #[must_use]
    pub fn auth_mechanisms(&self) -> &[AuthMechanism] {
        &self.parameters.auth_mechanisms
    }

    /// Returns the query's TLS parameters.
    pub(crate) fn tls_parameters(&self) -> &TlsParameters {
        &self.parameters.tls
    }

    /// Returns the complete URI, **including its passwords**. [`Uri::parse`] parses it to an equal
    /// `Uri`.
    ///
    /// Use it to pass the URI to another program, and `Display` for logs.
    #[must_use]
    pub fn to_string_with_password(&self) -> String {
        self.print(true)
    }

    /// Prints every part, including defaults, except the scheme's default port.
    fn print(&self, with_password: bool) -> String {
        let scheme = self.scheme.name();
        let username = Encoded(&self.username);
        let password = if with_password {
            format!(":{}", Encoded(&self.password))
        } else {
            String::new()
        };
        let virtual_host = Some(self.virtual_host.clone());
        let (path, parameters) = match self.scheme {
            Scheme::Unix => (
                String::new(),
                Parameters {
                    virtual_host,
                    ..self.parameters.clone()
                },
            ),
            _ => (
                format!("/{}", Encoded(&self.virtual_host)),
                self.parameters.clone(),
            ),
        };
        let addresses = address::print(&self.endpoints, default_port(self.is_tls()));
        let query = parameters.print(with_password);
        format!("{scheme}://{username}{password}@{addresses}{path}{query}")
    }
}

impl FromStr for Uri {
    type Err = UriError;

    /// Parses a URI, as [`Uri::parse`].
    fn from_str(text: &str) -> Result<Self, UriError> {
        Self::parse(text)
    }
}

/// Prints the URI without its passwords, as `amqp://user@host/vhost`. When parsed, it differs only
/// in the passwords.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.print(false))
    }
}

/// Omits the passwords.
impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uri")
            .field("scheme", &self.scheme)
            .field("username", &self.username)
            .field("endpoints", &self.endpoints)
            .field("virtual_host", &self.virtual_host)
            .field("parameters", &self.parameters)
            .finish_non_exhaustive()
    }
}

/// Returns the port that is assigned by IANA, and in "The amqps URI scheme" of RabbitMQ's
/// specification.
fn default_port(tls: bool) -> u16 {
    if tls { 5671 } else { 5672 }
}

/// Splits off the scheme. Returns it and the text after `://`. RFC 3986, 3.1: "schemes are
/// case-insensitive".
fn split_scheme(text: &str) -> Result<(Scheme, Span<'_>), UriError> {
    let (scheme, rest) = text.split_once("://").ok_or(UriError::MissingScheme)?;
    let rest = Span {
        part: UriPart::Username,
        at: text.len() - rest.len(),
        text: rest,
    };
    if let Some(known) = Scheme::ALL
        .into_iter()
        .find(|known| scheme.eq_ignore_ascii_case(known.name()))
    {
        return Ok((known, rest));
    }
    // The error shows the text only if it is a valid scheme. Other text may be the end of a user
    // part.
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "+-.".contains(character));
    Err(if is_scheme {
        UriError::UnknownScheme {
            scheme: scheme.to_owned(),
        }
    } else {
        UriError::MissingScheme
    })
}

/// Refuses an `@` before a comma, which may end the user part of the first of several hosts.
fn refuse_two_users(user: Span<'_>) -> Result<(), UriError> {
    match (user.find('@'), user.text.split_once('@')) {
        (Some(at), Some((_, behind))) if behind.contains(',') => Err(UriError::RepeatedUser { at }),
        _ => Ok(()),
    }
}

/// Refuses parameters that belong to another scheme.
fn refuse_misplaced(parameters: &Parameters, scheme: Scheme) -> Result<(), UriError> {
    let refused = |name, why| Err(UriError::RefusedParameter { name, why });
    if parameters.virtual_host.is_some() && scheme != Scheme::Unix {
        return refused(
            "vhost",
            "is for amqp+unix; with a host, the virtual host is the path",
        );
    }
    match parameters.tls.pairs().next() {
        Some((name, _)) if !scheme.is_tls() => {
            refused(name, "is a TLS parameter, which only amqps has")
        }
        _ => Ok(()),
    }
}

/// Parses the path of a URI. RabbitMQ URI specification: "The vhost is a single segment."
fn parse_virtual_host(span: Span<'_>) -> Result<String, UriError> {
    match span.find('/') {
        // `//` after the host. Two empty segments mean nothing else.
        Some(_) if span.text == "/" => Ok(DEFAULT_VIRTUAL_HOST.to_owned()),
        Some(at) => Err(UriError::NestedVirtualHost { at }),
        None if span.text.is_empty() => Ok(DEFAULT_VIRTUAL_HOST.to_owned()),
        None => span.decode_name(),
    }
}

#[cfg(test)]
mod extensions;
#[cfg(test)]
#[cfg(not(miri))] // Takes hours under Miri.
mod properties;
#[cfg(test)]
mod tests;
