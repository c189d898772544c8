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

use url::Host;

mod endpoint;
mod error;
mod piece;
mod query;

pub use endpoint::Endpoint;
pub use error::{UriError, UriPart};
pub use query::AuthMechanism;

use piece::{Encoded, Piece};
use query::Parameters;

const DEFAULT_USERNAME: &str = "guest";
const DEFAULT_PASSWORD: &str = "guest";
const DEFAULT_HOST: &str = "localhost";
const DEFAULT_VIRTUAL_HOST: &str = "/";

/// An AMQP URI: `amqp://` or `amqps://`, then `[user[:password]@][host][:port][/vhost][?query]`.
///
/// What the text leaves out has a default, the one of a freshly installed RabbitMQ: user `guest` with
/// password `guest`, host `localhost`, port 5672 (5671 for `amqps`), virtual host `/`. A URI that spells a
/// default out equals one that leaves it out.
///
/// `Display` prints the URI without its password, `Debug` leaves the password out; only
/// [`to_string_with_password`] has it.
///
/// [`to_string_with_password`]: Uri::to_string_with_password
///
/// # Spec
/// RabbitMQ URI specification.
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
    tls: bool,
    username: String,
    password: String,
    /// At least one. A host is decoded, and has a `:` only when it is an IPv6 address.
    endpoints: Vec<Endpoint>,
    virtual_host: String,
    parameters: Parameters,
}

impl Default for Uri {
    /// `amqp://guest:guest@localhost:5672/`, with the virtual host `/`.
    fn default() -> Self {
        Self {
            tls: false,
            username: DEFAULT_USERNAME.to_owned(),
            password: DEFAULT_PASSWORD.to_owned(),
            endpoints: vec![Endpoint::tcp(DEFAULT_HOST, default_port(false))],
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
    /// - `amqp://host/` names the virtual host `/`, as it does in Puka, pika and Go, because that is what people mean.
    ///   RabbitMQ's specification says that it names the one of zero length, which hardly a broker has:
    ///   [`Options::virtual_host`](crate::Options::virtual_host) reaches it.
    /// - An empty host or port is an absent one. An empty user name or password is not: `amqp://:@host` logs
    ///   in with both empty.
    /// - `amqp://user@host` has no password, so it takes the default, `guest`.
    /// - A host stays a name as it was decoded; an international one is not turned into its ASCII form.
    ///
    /// # Errors
    /// The [`UriError`] says what is wrong and where, and never holds user name or password. Besides what the
    /// grammar forbids these are refused: white space and control characters that are not encoded, line ends
    /// around the text included; a virtual host of two segments; fragments; port 0; a user name or virtual
    /// host above 255 octets; IPv6 zones; query parameters that are unknown, repeated (except
    /// `auth_mechanism`) or out of range; and a raw `@` behind the host if it is in the query or if there is
    /// no user part, since `amqp://user:1/2@host` may well mean a password.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if let Some(at) = text.find(|character: char| character.is_control() || character.is_whitespace()) {
            return Err(UriError::WhiteSpace { at });
        }
        let (tls, rest) = split_scheme(text)?;
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

        let (username, password) = match user.map(|user| user.split(':', UriPart::Password)) {
            Some((username, password)) => (Some(username), password),
            None => (None, None),
        };
        Ok(Self {
            tls,
            username: username.map_or_else(|| Ok(DEFAULT_USERNAME.to_owned()), Piece::decode_name)?,
            password: password.map_or_else(|| Ok(DEFAULT_PASSWORD.to_owned()), Piece::decode)?,
            endpoints: parse_hosts(address, tls)?,
            virtual_host: path.map_or_else(|| Ok(DEFAULT_VIRTUAL_HOST.to_owned()), parse_virtual_host)?,
            parameters: query.map_or_else(|| Ok(Parameters::default()), Parameters::parse)?,
        })
    }

    /// Whether the scheme is `amqps`: TLS from the first octet.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
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

    /// `heartbeat`, in seconds; 0 asks for none. `None` when the URI does not say.
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

    /// `channel_max`, the highest channel number; 0 asks for no limit. `None` when the URI does not say.
    #[must_use]
    pub fn channel_max(&self) -> Option<u16> {
        self.parameters.channel_max
    }

    /// `frame_max`, the largest frame in octets; 0 asks for no limit. `None` when the URI does not say.
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

    /// The whole URI, **with the password** readable. [`Uri::parse`] gives an equal `Uri` back.
    ///
    /// For handing it to another program; for people and logs there is `Display`.
    #[must_use]
    pub fn to_string_with_password(&self) -> String {
        self.print(&format!(":{}", Encoded(&self.password)))
    }

    /// Every part, defaults too, except that a port is left out when it is the scheme's.
    fn print(&self, password: &str) -> String {
        let scheme = if self.tls { "amqps" } else { "amqp" };
        let username = Encoded(&self.username);
        let hosts: Vec<_> = self.endpoints.iter().map(|endpoint| self.print_endpoint(endpoint)).collect();
        let hosts = hosts.join(",");
        let virtual_host = Encoded(&self.virtual_host);
        format!("{scheme}://{username}{password}@{hosts}/{virtual_host}{}", self.parameters)
    }

    fn print_endpoint(&self, endpoint: &Endpoint) -> String {
        match endpoint {
            Endpoint::Tcp { host, port } => {
                let host = if host.contains(':') { format!("[{host}]") } else { Encoded(host).to_string() };
                if *port == default_port(self.tls) { host } else { format!("{host}:{port}") }
            }
            Endpoint::Unix(path) => path.display().to_string(),
        }
    }
}

impl FromStr for Uri {
    type Err = UriError;

    /// The same as [`Uri::parse`].
    fn from_str(text: &str) -> Result<Self, UriError> {
        Self::parse(text)
    }
}

/// The URI without its password, as `amqp://user@host/vhost`. Parsed again, it differs in the password only.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.print(""))
    }
}

/// Every part but the password.
impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uri")
            .field("tls", &self.tls)
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

/// Whether the scheme asks for TLS, and what follows `://`. Schemes are compared without case (RFC 3986,
/// 3.1).
fn split_scheme(text: &str) -> Result<(bool, Piece<'_>), UriError> {
    let (scheme, rest) = text.split_once("://").ok_or(UriError::MissingScheme)?;
    let rest = Piece { part: UriPart::Username, at: text.len() - rest.len(), text: rest };
    if scheme.eq_ignore_ascii_case("amqp") {
        return Ok((false, rest));
    }
    if scheme.eq_ignore_ascii_case("amqps") {
        return Ok((true, rest));
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

fn parse_hosts(address: Piece<'_>, tls: bool) -> Result<Vec<Endpoint>, UriError> {
    let (host, port) = match address.rsplit(':', UriPart::Port) {
        (host, Some(port)) if !port.text.contains(']') => (host, Some(port)),
        _ => (address, None),
    };
    let host = parse_host(host)?;
    let port = port.map_or(Ok(default_port(tls)), |port| parse_port(port, tls))?;
    Ok(vec![Endpoint::Tcp { host, port }])
}

/// "For the purposes of this section, a zero-length host is treated as absent."
fn parse_host(piece: Piece<'_>) -> Result<String, UriError> {
    let bracketed = piece.text.starts_with('[');
    let host = if bracketed { piece.text.to_owned() } else { piece.decode()? };
    if host.is_empty() {
        return Ok(DEFAULT_HOST.to_owned());
    }
    // `url` takes some white space and control characters in a decoded name.
    let printable = !host.contains(|character: char| character.is_control() || character.is_whitespace());
    match Host::parse_opaque(&host) {
        Ok(Host::Ipv6(address)) if bracketed => Ok(address.to_string()),
        Ok(Host::Domain(_)) if printable => Ok(host),
        _ => Err(UriError::BadHost { at: piece.at }),
    }
}

/// An empty port is an absent one: `port = *DIGIT` (RFC 3986, 3.2.3).
fn parse_port(piece: Piece<'_>, tls: bool) -> Result<u16, UriError> {
    if piece.text.is_empty() {
        return Ok(default_port(tls));
    }
    let digits = piece.text.bytes().all(|octet| octet.is_ascii_digit());
    let port = if digits { piece.text.parse().ok() } else { None };
    port.filter(|&port| port != 0).ok_or(UriError::BadPort { at: piece.at })
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
mod properties;
#[cfg(test)]
mod tests;
