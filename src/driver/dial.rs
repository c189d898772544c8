//! From endpoints to a stream: what is the same on every runtime.
//!
//! Knows no AMQP: the stream that it gives has not said a word.

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
                match within(clock, &plan, named(&plan, dialer.resolve(&host, port))).await {
                    Ok(addresses) => {
                        step = plan.resolved(addresses, clock.now())?;
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
        step = plan.failed(failure, clock.now())?;
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
    let connecting = named(plan, async {
        match address {
            Address::Tcp(address) => dialer.connect(address).await,
            #[cfg(unix)]
            Address::Unix(path) => dialer.connect_unix(&path).await,
        }
    });
    let stream = within(clock, plan, connecting).await?;
    match plan.connected(clock.now()).map(str::to_owned) {
        Some(host) => within(clock, plan, security.secure(stream, &host, options)).await,
        None => Ok(stream.private()),
    }
}

/// Adds the host or address to the error.
async fn named<T>(plan: &DialPlan, work: impl Future<Output = io::Result<T>>) -> Result<T, Error> {
    work.await.map_err(|error| plan.io_error(&error))
}

/// Fails at the deadline of the plan's current step.
async fn within<T>(
    clock: &impl Clock,
    plan: &DialPlan,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let timeout = async {
        clock.sleep_until(plan.deadline()).await;
        Err(plan.timed_out())
    };
    work.or(timeout).await
}
