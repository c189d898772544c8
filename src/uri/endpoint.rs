//! Where a broker listens.
//!
//! Knows no resolving and no dialling.

use std::fmt;
use std::path::PathBuf;

/// Where a broker listens. [`Options::endpoints`](crate::Options::endpoints) are tried in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// A TCP port of a host.
    Tcp {
        /// The host's name or address, an IPv6 address without brackets.
        host: String,
        /// The port, not 0.
        port: u16,
    },
    /// A Unix socket, which is never spoken to over TLS.
    Unix(PathBuf),
}

impl Endpoint {
    /// A TCP port of a host: its name or address, an IPv6 address without brackets.
    #[must_use]
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::Tcp { host: host.into(), port }
    }

    /// A Unix socket.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::Unix(path.into())
    }
}

/// For people: `host:5672`, `[::1]:5672`, or the path.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}
