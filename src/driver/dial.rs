//! Dialling: turns endpoints into a stream, in the same way on every runtime.
//!
//! This module knows nothing of AMQP. It sends nothing over the stream except for TLS.

use super::addresses::Addresses;
use super::dial_plan::{Address, AttemptId, DialPlan, DialStep};
use super::security::Security;
use super::{Clock, Transport};
use crate::error::Error;
use crate::machine::{Dialled, Dialling};
use crate::options::Options;
use futures_lite::FutureExt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;

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
    ///
    /// If an address does not answer, several calls are pending at once. The futures of those that
    /// do not win are dropped.
    fn connect(&self, address: SocketAddr) -> impl Future<Output = io::Result<Transport>> + Send;

    /// Opens a connection to a Unix socket.
    #[cfg(unix)]
    fn connect_unix(&self, path: &Path) -> impl Future<Output = io::Result<Transport>> + Send;
}

/// Dials the [endpoints](Options::endpoints) of the options. Returns the first stream that
/// connects, with TLS over it if the options ask for that. Pass the stream to
/// [`open`](crate::open).
///
/// The endpoints are tried in their order, each with all addresses of its host. IPv6 and IPv4
/// addresses take turns. The next attempt begins when one fails, or 250 ms after the last one has
/// begun (RFC 8305, "happy eyeballs"), and the earlier ones continue. So an address that does not
/// answer delays the connection by 250 ms and not by its timeout. The first TCP connection that is
/// established wins, and the others are dropped. If its TLS handshake fails, dialling continues
/// with the addresses that have not failed.
///
/// Each call reads the files with certificates and keys again.
///
/// # Errors
/// If no endpoint can be reached, the error of the attempt if there was only one:
/// [`Error::ConnectionBroken`] with the cause; [`Error::Timeout`] if
/// [resolving](Options::resolve_timeout), [dialling](Options::dial_timeout) or
/// [TLS](Options::tls_timeout) took too long; [`Error::Tls`] if the TLS handshake fails. Otherwise
/// [`Error::CannotConnect`], which lists the attempts. [`Error::InvalidArgument`] for TLS options
/// that cannot be used.
///
/// # Cancel safety
/// Dropping the future closes the sockets that it has opened.
pub async fn dial(
    dialer: &impl Dial,
    clock: &impl Clock,
    options: &Options,
) -> Result<Transport, Error> {
    let dialling = Dialling::default();
    match dial_from(&dialling, Addresses::new(), dialer, clock, options).await {
        Ok((stream, _)) => Ok(stream),
        Err(Error::CannotConnect(failed)) => Err(Error::of_attempts(failed.to_vec())),
        Err(error) => Err(error),
    }
}

/// Dials as [`dial`], with the endpoints of `dialling`, and the preferred addresses first. The
/// error of failed attempts is always a list, which names their endpoints.
pub(crate) async fn dial_from(
    dialling: &Dialling,
    preferred: Addresses,
    dialer: &impl Dial,
    clock: &impl Clock,
    options: &Options,
) -> Result<(Transport, Dialled), Error> {
    let security = Security::new(options)?;
    let mut plan = DialPlan::new(options, dialling, preferred, clock.now());
    let mut steps = Vec::new();
    loop {
        let now = clock.now();
        while let Some(expired) = plan.poll_expired(now) {
            steps.retain(|(id, _)| *id != expired);
        }
        while let Some((id, step)) = plan.poll_step(now) {
            steps.push((id, Box::pin(carry_out(step, dialer, options))));
        }
        if plan.is_over() {
            return Err(plan.into_error());
        }
        let Some((id, outcome)) = next_outcome(&mut steps, clock, &plan).await else {
            continue;
        };
        match outcome {
            Ok(Outcome::Resolved(addresses)) => {
                plan.handle_resolved(id, addresses, clock.now());
            }
            Ok(Outcome::Connected(stream)) => {
                steps.clear();
                plan.handle_connected(id, clock.now());
                match secure(id, &plan, &security, stream, clock, options).await {
                    Some(Ok(stream)) => {
                        let is_private = stream.is_private();
                        // Unreachable: the attempt is pending until it is removed here.
                        let dialled = plan.take_dialled(id, is_private);
                        return Ok((stream, dialled.unwrap_or(Dialled::new(0, is_private))));
                    }
                    Some(Err(error)) => plan.handle_failure(id, error, clock.now()),
                    // The loop finds that it has expired.
                    None => {}
                }
            }
            Err(error) => plan.handle_io_error(id, &error, clock.now()),
        }
    }
}

/// The outcome of a step.
enum Outcome {
    Resolved(Vec<SocketAddr>),
    Connected(Transport),
}

/// Resolves a host, or connects to an address.
async fn carry_out(step: DialStep, dialer: &impl Dial, options: &Options) -> io::Result<Outcome> {
    let stream = match step {
        DialStep::Resolve { host, port } => {
            return dialer.resolve(&host, port).await.map(Outcome::Resolved);
        }
        DialStep::Connect(Address::Tcp(address)) => {
            let stream = dialer.connect(address).await?;
            stream.configure(options)?;
            stream
        }
        #[cfg(unix)]
        DialStep::Connect(Address::Unix(path)) => dialer.connect_unix(&path).await?.mark_private(),
    };
    Ok(Outcome::Connected(stream))
}

/// Waits for the outcome of one of the steps, or until the plan has something to do. The number of
/// steps is small, so all of them are polled when one wakes the task.
async fn next_outcome<F: Future<Output = io::Result<Outcome>>>(
    steps: &mut Vec<(AttemptId, Pin<Box<F>>)>,
    clock: &impl Clock,
    plan: &DialPlan,
) -> Option<(AttemptId, F::Output)> {
    let first = poll_fn(|cx| {
        for index in 0..steps.len() {
            let (id, step) = &mut steps[index];
            if let Poll::Ready(outcome) = step.as_mut().poll(cx) {
                let id = *id;
                drop(steps.remove(index));
                return Poll::Ready(Some((id, outcome)));
            }
        }
        Poll::Pending
    });
    first.or(deadline(clock, plan)).await
}

/// Performs the TLS handshake, if the options ask for it. Returns `None` if it takes too long.
async fn secure(
    id: AttemptId,
    plan: &DialPlan,
    security: &Security,
    stream: Transport,
    clock: &impl Clock,
    options: &Options,
) -> Option<Result<Transport, Error>> {
    let Some(host) = plan.tls_host(id) else {
        return Some(Ok(stream));
    };
    let securing = async { Some(security.secure(stream, host, options).await) };
    securing.or(deadline(clock, plan)).await
}

/// Sleeps until the plan has something to do.
async fn deadline<T>(clock: &impl Clock, plan: &DialPlan) -> Option<T> {
    if let Some(deadline) = plan.deadline() {
        clock.sleep_until(deadline).await;
    }
    None
}
