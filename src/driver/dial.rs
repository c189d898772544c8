//! Dialling: turns endpoints into a stream, in the same way on every runtime.
//!
//! This module knows nothing of AMQP. It sends nothing over the stream except for TLS.

use super::dial_plan::{Address, DialPlan, DialStep};
use super::security::Security;
use super::{Clock, Transport};
use crate::error::Error;
use crate::options::Options;
use futures_lite::FutureExt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::Path;

/// The network functions of a runtime. Timeouts, the order of attempts and the options of sockets
/// are up to [`dial`].
pub trait Dial {
    /// Resolves a host to its addresses, in the order in which they should be tried. The host may
    /// be an IP address itself, an IPv6 address without brackets.
    fn resolve(
        &self,
        host: &str,
        port: u16,
    ) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Opens a TCP connection. Return the stream in a `Transport::from_tcp` (feature `tcp`), and
    /// the options for TCP are applied to its socket. With [`Transport::new`], set `TCP_NODELAY`
    /// here: a request is written in one piece, so Nagle's algorithm would only delay its last
    /// segment.
    fn connect(&self, address: SocketAddr) -> impl Future<Output = io::Result<Transport>> + Send;

    /// Opens a connection to a Unix socket.
    #[cfg(unix)]
    fn connect_unix(&self, path: &Path) -> impl Future<Output = io::Result<Transport>> + Send;
}

/// Dials the [endpoints](Options::endpoints) of the options in turn, and each address of a host in
/// turn. Returns the first stream that connects, with TLS over it if the options ask for that. Pass
/// the stream to [`open`](crate::open).
///
/// Each call reads the files with certificates and keys again.
///
/// # Errors
/// If no endpoint can be reached, the error of the last attempt: [`Error::ConnectionBroken`] with
/// the cause; [`Error::Timeout`] if [resolving](Options::resolve_timeout),
/// [dialling](Options::dial_timeout) or [TLS](Options::tls_timeout) took too long; [`Error::Tls`]
/// if the TLS handshake fails; [`Error::InvalidArgument`] for TLS options that cannot be used.
///
/// # Cancel safety
/// Dropping the future closes the sockets that it has opened.
pub async fn dial(
    dialer: &impl Dial,
    clock: &impl Clock,
    options: &Options,
) -> Result<Transport, Error> {
    dial_from(0, dialer, clock, options)
        .await
        .map(|(stream, _)| stream)
}

/// Dials as [`dial`], beginning at the endpoint with this index. Returns its stream and index.
pub(crate) async fn dial_from(
    first: usize,
    dialer: &impl Dial,
    clock: &impl Clock,
    options: &Options,
) -> Result<(Transport, usize), Error> {
    let security = Security::new(options)?;
    let mut plan = DialPlan::new(options, first, clock.now());
    let mut step = plan.start(clock.now())?;
    loop {
        let failure = match step {
            DialStep::Resolve { host, port } => {
                match within_deadline(clock, &plan, with_name(&plan, dialer.resolve(&host, port)))
                    .await
                {
                    Ok(addresses) => {
                        step = plan.handle_resolved(addresses, clock.now())?;
                        continue;
                    }
                    Err(error) => error,
                }
            }
            DialStep::Connect(address) => {
                match connect(&mut plan, address, &security, dialer, clock, options).await {
                    Ok(stream) => return Ok((stream, plan.endpoint())),
                    Err(error) => error,
                }
            }
        };
        step = plan.next_step(failure, clock.now())?;
    }
}

/// Connects to an address, and performs the TLS handshake if the options ask for it.
async fn connect(
    plan: &mut DialPlan,
    address: Address,
    security: &Security,
    dialer: &impl Dial,
    clock: &impl Clock,
    options: &Options,
) -> Result<Transport, Error> {
    let connecting = with_name(plan, async {
        match address {
            Address::Tcp(address) => {
                let stream = dialer.connect(address).await?;
                stream.configure(options)?;
                Ok(stream)
            }
            #[cfg(unix)]
            Address::Unix(path) => dialer.connect_unix(&path).await,
        }
    });
    let stream = within_deadline(clock, plan, connecting).await?;
    plan.handle_connected(clock.now());
    match plan.host() {
        Some(host) => within_deadline(clock, plan, security.secure(stream, host, options)).await,
        None => Ok(stream.mark_private()),
    }
}

/// Adds the host or address to the error of some work.
async fn with_name<T>(
    plan: &DialPlan,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, Error> {
    work.await.map_err(|error| plan.io_error(&error))
}

/// Waits for some work, and fails at the deadline of the plan's current step.
async fn within_deadline<T>(
    clock: &impl Clock,
    plan: &DialPlan,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let timeout = async {
        clock.sleep_until(plan.deadline()).await;
        Err(plan.timeout_error())
    };
    work.or(timeout).await
}
