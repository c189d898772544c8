//! AMQP URIs: where a broker is, who logs in, and what the query asks for.
//!
//! Knows no socket, no TLS, no handshake and no options; it only reads and writes text. The octets of the
//! text are split here and not by `url::Url`, which drops line ends, resolves a virtual host `..` (even as
//! `%2E%2E`) away, passes bad escapes on, and tells no empty user name from an absent one. The `url` crate
//! judges the host.
//!
//! Spec: RabbitMQ URI specification and RFC 3986, 3; where RabbitMQ's clients differ, see `Uri::parse`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

mod address;
mod endpoint;
mod error;
mod mechanism;
mod piece;
mod query;
mod tls;
mod value;

pub use endpoint::Endpoint;
pub use error::{UriError, UriPart};
pub use mechanism::AuthMechanism;
pub(crate) use tls::{ServerNameIndication, TlsParameters};

use piece::{Encoded, Piece};
use query::Parameters;

const DEFAULT_USERNAME: &str = "guest";
const DEFAULT_PASSWORD: &str = "guest";
const DEFAULT_VIRTUAL_HOST: &str = "/";

/// An AMQP URI: `amqp://` or `amqps://`, then `[user[:password]@][host][:port][/vhost][?query]`; or
/// `amqp+unix://[user[:password]@]/path/to/socket[?query]`.
///
/// What the text leaves out has a default, the one of a freshly installed RabbitMQ: user `guest` with
/// password `guest`, host `localhost`, port 5672 (5671 for `amqps`), virtual host `/`. A URI that spells a
/// default out equals one that leaves it out.
///
/// There may be several hosts, separated by commas and each with its own port: `amqp://one:5673,two,[::1]`. They are
/// tried in this order. All share the user part, the virtual host and the query.
///
/// A Unix socket, of a proxy for example, has an absolute path, percent-encoded where need be. Its virtual host is the
/// parameter `vhost`, since the path leaves no room for one.
///
/// # Query parameters
/// | parameter | value |
/// | --- | --- |
/// | `heartbeat` | seconds, 0 to leave it to the broker |
/// | `connection_timeout` | milliseconds for the TCP connect |
/// | `channel_max` | channels, 0 to leave it to the broker |
/// | `frame_max` | octets, 0 to leave it to the broker |
/// | `auth_mechanism` | `plain`, `amqplain`, `external`, `rabbit-cr-demo` or `anonymous`; more than once, the preferred one first |
/// | `vhost` | the virtual host of a Unix socket |
///
/// Only for `amqps`:
///
/// | parameter | value |
/// | --- | --- |
/// | `cacertfile` | path of a PEM file with the certificates to trust, instead of the system's |
/// | `certfile` | path of a PEM file with our certificate |
/// | `keyfile` | path of a PEM file with our private key; `certfile` when it is left out |
/// | `password` | the passphrase of `keyfile`; not the login's |
/// | `verify` | `verify_peer`, the default, or `verify_none`, which accepts any certificate of anybody |
/// | `server_name_indication` | the name that the broker is told, and that its certificate has to be for, instead of the host's; or `disable`, to tell none |
/// | `customize_hostname_check` | `https`, which is how names are compared anyway |
/// | `fail_if_no_peer_cert` | `true` or `false`; of use to servers only |
///
/// `depth` is refused, since the length of a chain of certificates can't be chosen. With `disable` the certificate is
/// still checked for the host's name, unlike in Erlang. `cacertfile` and `server_name_indication` are taken beside
/// `verify_none`, as in RabbitMQ's own examples.
///
/// `Display` prints the URI without its passwords, that of the login and that of the key; `Debug` leaves them out; only
/// [`to_string_with_password`] has them.
///
/// [`to_string_with_password`]: Uri::to_string_with_password
///
/// # Spec
/// RabbitMQ URI specification, and its "URI Query Parameters". Several hosts and Unix sockets are extensions.
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
    /// At least one. A host is decoded, and has a `:` only when it is an IPv6 address.
    endpoints: Vec<Endpoint>,
    virtual_host: String,
    parameters: Parameters,
}

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
    /// `amqp://guest:guest@localhost:5672/`, with the virtual host `/`.
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
    /// Reads a URI.
    ///
    /// User name, password, host and virtual host are percent-decoded, as UTF-8; in them `+` is a plus, not a
    /// space. What can be read in only one way is taken, also where RFC 3986 wants an escape: a raw `:` in
    /// the password (the first one ends the user name), a raw `@` in the user part (the last one ends it),
    /// letters outside ASCII. What RabbitMQ's clients disagree on:
    ///
    /// - `amqp://host/` names the virtual host `/`, as it does in Puka, pika and Go, because that is what
    ///   people mean. RabbitMQ's specification says that it names the one of zero length, which hardly a broker
    ///   has: [`Options::virtual_host`](crate::Options::virtual_host) reaches it.
    /// - An empty host or port is an absent one; one of several hosts can't lack both. An empty user name or
    ///   password is not: `amqp://:@host` logs in with both empty.
    /// - `amqp://user@host` has no password, so it takes the default, `guest`.
    /// - A host stays a name as it was decoded; an international one is not turned into its ASCII form.
    ///
    /// # Errors
    /// The [`UriError`] says what is wrong and where, and never holds user name or password. Besides what the
    /// grammar forbids these are refused: white space and control characters that are not encoded, line ends
    /// around the text included; a virtual host of two segments; fragments; port 0; a user name or virtual
    /// host above 255 octets; IPv6 zones; query parameters that are unknown, repeated (except
    /// `auth_mechanism`), out of range, for another scheme, or against each other; a raw `@` behind the host
    /// if it is in the query or if there is no user part, since `amqp://user:1/2@host` may well mean a
    /// password; and a raw `@` before a comma in the user part, since `amqp://u:p@one,u:p@two` may well mean
    /// two hosts.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if let Some(at) = text.find(|character: char| character.is_control() || character.is_whitespace()) {
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
            (address, None) => (None, Piece { part: UriPart::Host, ..address }),
        };
        let nameless_path = if user.is_none() { path } else { None };
        if let Some(at) = [nameless_path, query].into_iter().flatten().find_map(|piece| piece.find('@')) {
            return Err(UriError::AmbiguousAt { at });
        }
        user.map_or(Ok(()), refuse_two_users)?;
        let (username, password) = match user.map(|user| user.split(':', UriPart::Password)) {
            Some((username, password)) => (Some(username), password),
            None => (None, None),
        };
        let username = username.map_or_else(|| Ok(DEFAULT_USERNAME.to_owned()), Piece::decode_name)?;
        let password = password.map_or_else(|| Ok(DEFAULT_PASSWORD.to_owned()), Piece::decode)?;
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
        Ok(Self { scheme, username, password, endpoints, virtual_host, parameters })
    }

    /// Whether the scheme is `amqps`: TLS from the first octet.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.scheme.is_tls()
    }

    /// Where the brokers listen, at least one, in the URI's order. A host is decoded and never empty, `localhost` by
    /// default; an IPv6 address has no brackets. A port is never 0; it is 5672 by default, or 5671 for `amqps`, as IANA
    /// assigned them.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The user name, decoded, at most 255 octets. Default `guest`. May be empty.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The password, decoded. Default `guest`. May be empty.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The virtual host, decoded, at most 255 octets. Default `/`, also when the URI ends its host
    /// with a bare `/`. Never empty.
    #[must_use]
    pub fn virtual_host(&self) -> &str {
        &self.virtual_host
    }

    /// `heartbeat`, in seconds; 0 leaves it to the broker. `None` when the URI does not say.
    #[must_use]
    pub fn heartbeat(&self) -> Option<u16> {
        self.parameters.heartbeat
    }

    /// `connection_timeout`, the limit for the TCP connect, at least one millisecond. `None` when the URI
    /// does not say.
    ///
    /// In the URI it is a number of milliseconds. There 0 is refused: it means "none" to some clients and "at
    /// once" to others.
    #[must_use]
    pub fn connection_timeout(&self) -> Option<Duration> {
        self.parameters.connection_timeout.map(|limit| Duration::from_millis(limit.get().into()))
    }

    /// `channel_max`, the highest channel number; 0 leaves it to the broker. `None` when the URI does not say.
    #[must_use]
    pub fn channel_max(&self) -> Option<u16> {
        self.parameters.channel_max
    }

    /// `frame_max`, the largest frame in octets; 0 leaves it to the broker. `None` when the URI does not say.
    ///
    /// Whether the protocol allows the value is for the handshake to say, since the smallest one depends on
    /// the broker.
    #[must_use]
    pub fn frame_max(&self) -> Option<u32> {
        self.parameters.frame_max
    }

    /// Every `auth_mechanism`, in the URI's order. Empty when the URI does not say.
    #[must_use]
    pub fn auth_mechanisms(&self) -> &[AuthMechanism] {
        &self.parameters.auth_mechanisms
    }

    /// What the query says about TLS.
    pub(crate) fn tls_parameters(&self) -> &TlsParameters {
        &self.parameters.tls
    }

    /// The whole URI, **with its passwords** readable. [`Uri::parse`] gives an equal `Uri` back.
    ///
    /// For handing it to another program; for people and logs there is `Display`.
    #[must_use]
    pub fn to_string_with_password(&self) -> String {
        self.print(true)
    }

    /// Every part, defaults too, except that a port is left out when it is the scheme's.
    fn print(&self, with_password: bool) -> String {
        let scheme = self.scheme.name();
        let username = Encoded(&self.username);
        let password = if with_password { format!(":{}", Encoded(&self.password)) } else { String::new() };
        let virtual_host = Some(self.virtual_host.clone());
        let (place, parameters) = match self.scheme {
            Scheme::Unix => (String::new(), Parameters { virtual_host, ..self.parameters.clone() }),
            _ => (format!("/{}", Encoded(&self.virtual_host)), self.parameters.clone()),
        };
        let addresses = address::print(&self.endpoints, default_port(self.is_tls()));
        let query = parameters.print(with_password);
        format!("{scheme}://{username}{password}@{addresses}{place}{query}")
    }
}

impl FromStr for Uri {
    type Err = UriError;

    /// The same as [`Uri::parse`].
    fn from_str(text: &str) -> Result<Self, UriError> {
        Self::parse(text)
    }
}

/// The URI without its passwords, as `amqp://user@host/vhost`. Parsed again, it differs in them only.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.print(false))
    }
}

/// Every part but the passwords.
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

/// 5672 and 5671: IANA, and "The amqps URI scheme" in RabbitMQ's specification.
fn default_port(tls: bool) -> u16 {
    if tls { 5671 } else { 5672 }
}

/// The scheme, and what follows `://`. Schemes are compared without case (RFC 3986, 3.1).
fn split_scheme(text: &str) -> Result<(Scheme, Piece<'_>), UriError> {
    let (scheme, rest) = text.split_once("://").ok_or(UriError::MissingScheme)?;
    let rest = Piece { part: UriPart::Username, at: text.len() - rest.len(), text: rest };
    if let Some(known) = Scheme::ALL.into_iter().find(|known| scheme.eq_ignore_ascii_case(known.name())) {
        return Ok((known, rest));
    }
    // Only what is a scheme is shown; anything else may be the end of a user part.
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|character| character.is_ascii_alphanumeric() || "+-.".contains(character));
    Err(if is_scheme {
        UriError::UnknownScheme { scheme: scheme.to_owned() }
    } else {
        UriError::MissingScheme
    })
}

/// An `@` before a comma may be the end of a user part of the first of several hosts.
fn refuse_two_users(user: Piece<'_>) -> Result<(), UriError> {
    match (user.find('@'), user.text.split_once('@')) {
        (Some(at), Some((_, behind))) if behind.contains(',') => Err(UriError::RepeatedUser { at }),
        _ => Ok(()),
    }
}

/// Refuses parameters that another scheme has.
fn refuse_misplaced(parameters: &Parameters, scheme: Scheme) -> Result<(), UriError> {
    let refused = |name, why| Err(UriError::RefusedParameter { name, why });
    if parameters.virtual_host.is_some() && scheme != Scheme::Unix {
        return refused("vhost", "is for amqp+unix; with a host, it stands in the path");
    }
    match parameters.tls.pairs().next() {
        Some((name, _)) if !scheme.is_tls() => refused(name, "is about TLS, which only amqps has"),
        _ => Ok(()),
    }
}

/// "The vhost is a single segment."
fn parse_virtual_host(piece: Piece<'_>) -> Result<String, UriError> {
    match piece.find('/') {
        Some(at) => Err(UriError::NestedVirtualHost { at }),
        None if piece.text.is_empty() => Ok(DEFAULT_VIRTUAL_HOST.to_owned()),
        None => piece.decode_name(),
    }
}

#[cfg(test)]
mod beyond;
#[cfg(test)]
#[cfg(not(miri))] // It takes hours.
mod properties;
#[cfg(test)]
mod tests;
