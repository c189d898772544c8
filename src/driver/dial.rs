//! From endpoints to a stream: what is the same on every runtime.
//!
//! Knows no AMQP: the stream that it gives has not said a word.

use super::security::Security;
use super::{Clock, Transport};
use crate::error::Error;
use crate::machine::later;
use crate::options::Options;
use crate::uri::Endpoint;
use futures_lite::FutureExt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::Path;
use std::time::Duration;

/// What a runtime offers to those who dial. Deadlines and the order of things are [`dial`]'s.
pub trait Dial {
    /// The addresses of a host, in the order in which they are to be tried. The host may be an address itself, an IPv6 one
    /// without brackets.
    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// A TCP connection, with `TCP_NODELAY`: a request is written whole, so holding back the rest of it for more to come
    /// would only delay it.
    fn connect(&self, address: SocketAddr) -> impl Future<Output = io::Result<Transport>> + Send;

    /// A connection to a Unix socket.
    #[cfg(unix)]
    fn connect_unix(&self, path: &Path) -> impl Future<Output = io::Result<Transport>> + Send;
}

/// Dials the [endpoints](Options::endpoints) of the options in turn, each address of a host in turn, over TLS when the
/// options say so, and gives the first stream that can be had, for [`open`](crate::open).
///
/// Files with certificates and keys are read anew at each call.
///
/// # Errors
/// When none can be had, the last one's: [`Error::ConnectionBroken`] with the cause; [`Error::Timeout`] when
/// [resolving](Options::resolve_timeout), [dialling](Options::dial_timeout) or [TLS](Options::tls_timeout) took longer than
/// it may; [`Error::Tls`], the server's fault; [`Error::InvalidArgument`], the caller's, for TLS options that can't be used.
///
/// # Cancel safety
/// Dropping the future closes what it has opened.
pub async fn dial(dialer: &impl Dial, clock: &impl Clock, options: &Options) -> Result<Transport, Error> {
    dial_from(0, dialer, clock, options).await.map(|(stream, _)| stream)
}

/// The same, but begins with that endpoint, goes round to the one before it, and says which one it is.
pub(crate) async fn dial_from(
    first: usize,
    dialer: &impl Dial,
    clock: &impl Clock,
    options: &Options,
) -> Result<(Transport, usize), Error> {
    let security = Security::new(options)?;
    let dialling = Dialling { dialer, clock, options, security };
    let mut error = Error::invalid("endpoints", "there is none");
    let (before, from_first) = options.endpoints().split_at(first.min(options.endpoints().len()));
    let turn = (first..).zip(from_first).chain((0..).zip(before));
    for (number, endpoint) in turn {
        match dialling.endpoint(endpoint).await {
            Ok(stream) => return Ok((stream, number)),
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

struct Dialling<'a, D, C> {
    dialer: &'a D,
    clock: &'a C,
    options: &'a Options,
    security: Security,
}

impl<D: Dial, C: Clock> Dialling<'_, D, C> {
    async fn endpoint(&self, endpoint: &Endpoint) -> Result<Transport, Error> {
        match endpoint {
            Endpoint::Tcp { host, port } => self.host(host, *port).await,
            #[cfg(unix)]
            Endpoint::Unix(path) => {
                let after = self.options.dial_deadline();
                let dialled = named(endpoint, self.dialer.connect_unix(path));
                within(self.clock, "dialling", after, dialled).await.map(Transport::private)
            }
            #[cfg(not(unix))]
            Endpoint::Unix(_) => Err(Error::invalid("endpoints", "this system has no Unix sockets")),
        }
    }

    async fn host(&self, host: &str, port: u16) -> Result<Transport, Error> {
        let after = self.options.resolve_deadline();
        let resolved = named(&host, self.dialer.resolve(host, port));
        let addresses = within(self.clock, "resolving the host", after, resolved).await?;
        let mut error = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")).into();
        for address in addresses {
            match self.address(address, host).await {
                Ok(stream) => return Ok(stream),
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    async fn address(&self, address: SocketAddr, host: &str) -> Result<Transport, Error> {
        let after = self.options.dial_deadline();
        let dialled = named(&address, self.dialer.connect(address));
        let stream = within(self.clock, "dialling", after, dialled).await?;
        let after = self.options.tls_deadline();
        within(self.clock, "the TLS handshake", after, self.security.secure(stream, host, self.options)).await
    }
}

/// An error says where it happened.
async fn named<T>(
    place: &impl std::fmt::Display,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, Error> {
    work.await.map_err(|error| io::Error::new(error.kind(), format!("{place}: {error}")).into())
}

async fn within<T>(
    clock: &impl Clock,
    what: &'static str,
    after: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let timeout = async {
        clock.sleep_until(later(clock.now(), after)).await;
        Err(Error::Timeout { what, after })
    };
    work.or(timeout).await
}
