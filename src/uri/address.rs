//! The address part of a URI: hosts with ports, or the path of a socket.
//!
//! It does not include the user part and the virtual host, and resolves nothing.
//!
//! Spec: RFC 3986, 3.2.2 and 3.2.3. Several hosts and Unix sockets are extensions.

use url::Host;

use super::endpoint::Endpoint;
use super::error::{UriError, UriPart};
use super::span::{Encoded, Span};

pub(super) const DEFAULT_HOST: &str = "localhost";

/// Parses one or more hosts, separated by commas, each with its port.
pub(super) fn parse_hosts(address: Span<'_>, default_port: u16) -> Result<Vec<Endpoint>, UriError> {
    let mut endpoints = Vec::new();
    let mut rest = Some(address);
    while let Some(span) = rest {
        let (host, following) = span.split(',', UriPart::Host);
        let is_alone = endpoints.is_empty() && following.is_none();
        if host.text.is_empty() && !is_alone {
            return Err(UriError::BadHost { at: host.at });
        }
        endpoints.push(parse_host_and_port(host, default_port)?);
        rest = following;
    }
    Ok(endpoints)
}

fn parse_host_and_port(address: Span<'_>, default_port: u16) -> Result<Endpoint, UriError> {
    let (host, port) = match address.rsplit(':', UriPart::Port) {
        (host, Some(port)) if !port.text.contains(']') => (host, Some(port)),
        _ => (address, None),
    };
    let host = parse_host(host)?;
    let port = port.map_or(Ok(default_port), |port| parse_port(port, default_port))?;
    Ok(Endpoint::Tcp { host, port })
}

/// Parses a host. RFC 3986, 3.2.2 allows an empty host, which counts as absent. RabbitMQ URI
/// specification: "For the purposes of this section, a zero-length host is treated as absent."
fn parse_host(span: Span<'_>) -> Result<String, UriError> {
    let bracketed = span.text.starts_with('[');
    let host = if bracketed {
        span.text.to_owned()
    } else {
        span.decode()?
    };
    if host.is_empty() {
        return Ok(DEFAULT_HOST.to_owned());
    }
    // `url` accepts some white space and control characters in a decoded name.
    let printable =
        !host.contains(|character: char| character.is_control() || character.is_whitespace());
    match Host::parse_opaque(&host) {
        Ok(Host::Ipv6(address)) if bracketed => Ok(address.to_string()),
        Ok(Host::Domain(_)) if printable => Ok(host),
        _ => Err(UriError::BadHost { at: span.at }),
    }
}

/// Parses a port. An empty port counts as absent: `port = *DIGIT` (RFC 3986, 3.2.3).
fn parse_port(span: Span<'_>, default_port: u16) -> Result<u16, UriError> {
    if span.text.is_empty() {
        return Ok(default_port);
    }
    let digits = span.text.bytes().all(|byte| byte.is_ascii_digit());
    let port = if digits { span.text.parse().ok() } else { None };
    port.filter(|&port| port != 0)
        .ok_or(UriError::BadPort { at: span.at })
}

/// Parses the path of a socket after an empty host. It begins with the `/` that ended the host.
pub(super) fn parse_socket(host: Span<'_>, path: Option<Span<'_>>) -> Result<Endpoint, UriError> {
    let bad = UriError::BadSocket { at: host.at };
    let path = path
        .filter(|path| host.text.is_empty() && !path.text.is_empty())
        .ok_or(bad)?;
    let path = Span {
        part: UriPart::Socket,
        ..path
    };
    let text = path.decode()?;
    if text.contains('\0') {
        return Err(UriError::BadSocket { at: path.at });
    }
    Ok(Endpoint::unix(format!("/{text}")))
}

/// Prints the endpoints as in a URI.
pub(super) fn print(endpoints: &[Endpoint], default_port: u16) -> String {
    let printed: Vec<String> = endpoints
        .iter()
        .map(|endpoint| print_one(endpoint, default_port))
        .collect();
    printed.join(",")
}

fn print_one(endpoint: &Endpoint, default_port: u16) -> String {
    match endpoint {
        Endpoint::Tcp { host, port } => {
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                Encoded(host).to_string()
            };
            if *port == default_port {
                host
            } else {
                format!("{host}:{port}")
            }
        }
        // The path was parsed from text, so it is UTF-8.
        Endpoint::Unix(path) => {
            let path = path.to_string_lossy();
            let segments: Vec<String> = path
                .split('/')
                .map(|segment| Encoded(segment).to_string())
                .collect();
            segments.join("/")
        }
    }
}
