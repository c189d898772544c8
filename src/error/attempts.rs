//! Failed attempts to connect, with their endpoints and addresses.

use super::{Broken, Error, Located};
use crate::uri::Endpoint;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// The address of a TCP socket, as plain data for the state machine, which does no I/O.
pub(crate) type SocketAddress = SocketAddr;

/// A failed attempt to connect to an endpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FailedAttempt {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The address; `None` if the host was not resolved, and for a Unix socket.
    pub address: Option<SocketAddr>,
    /// The cause: of resolving, dialling, the TLS handshake or the AMQP handshake.
    pub error: Error,
    /// The index of the endpoint in the options.
    pub(crate) index: usize,
}

impl FailedAttempt {
    /// Returns a failed attempt. The index is that of the endpoint in
    /// [`Options::get_endpoints`](crate::Options::get_endpoints).
    #[must_use]
    pub fn new(
        index: usize,
        endpoint: Endpoint,
        address: Option<SocketAddr>,
        error: Error,
    ) -> Self {
        Self {
            endpoint,
            address,
            error,
            index,
        }
    }
}

/// Prints `endpoint (address): cause`, with the sources of the cause. The address is omitted if the
/// endpoint is that address.
impl fmt::Display for FailedAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.endpoint.to_string();
        f.write_str(&endpoint)?;
        if let Some(address) = self.address.map(|address| address.to_string())
            && address != endpoint
        {
            write!(f, " ({address})")?;
        }
        if let Error::ConnectionBroken(Broken::Io(error)) = &self.error
            && let Some(located) = Located::find(error)
        {
            return write!(f, ": {}", located.text());
        }
        let mut cause: Option<&dyn std::error::Error> = Some(&self.error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// The failed attempts of a round over the endpoints, in the order in which they failed. It
/// dereferences to a slice.
#[derive(Clone, Debug)]
pub struct FailedAttempts(Arc<[FailedAttempt]>);

impl std::ops::Deref for FailedAttempts {
    type Target = [FailedAttempt];

    fn deref(&self) -> &[FailedAttempt] {
        &self.0
    }
}

impl From<Vec<FailedAttempt>> for FailedAttempts {
    fn from(failed: Vec<FailedAttempt>) -> Self {
        Self(failed.into())
    }
}

/// Prints the attempts, separated by semicolons.
impl fmt::Display for FailedAttempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, attempt) in self.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "; " })?;
            attempt.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for FailedAttempts {}
