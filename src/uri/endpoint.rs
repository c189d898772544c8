//! The address of a broker. Nothing is resolved or dialled here.

use std::fmt;
use std::path::PathBuf;

/// The address of a broker. [`Options::endpoints`](crate::Options::endpoints) are tried in order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// A TCP port of a host.
    Tcp {
        /// The host's name or address; an IPv6 address has no brackets.
        host: String,
        /// The port, not 0.
        port: u16,
    },
    /// A Unix socket, which never uses TLS.
    Unix(PathBuf),
}

impl Endpoint {
    /// Creates an endpoint from the name or address of a host, with an IPv6 address without
    /// brackets, and a TCP port.
    #[must_use]
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::Tcp {
            host: host.into(),
            port,
        }
    }

    /// Creates an endpoint from the path of a Unix socket.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::Unix(path.into())
    }
}

impl Default for Endpoint {
    /// Returns `localhost:5672`.
    fn default() -> Self {
        Self::tcp("localhost", 5672)
    }
}

/// Prints `host:5672`, `[::1]:5672`, or the path.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}
