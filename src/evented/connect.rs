//! Connects over sockets that do not block.

use super::connection::Evented;
use super::dial::EndpointDialler;
use super::stream::Stream;
use crate::error::Error;
use crate::options::Options;

/// Connects to the broker in a URI such as `amqp://guest:guest@localhost:5672/%2f`, over a socket
/// that never blocks.
///
/// # Errors
/// As [`connect_with`], and [`Error::Uri`].
pub fn connect(uri: &str) -> Result<Evented<Stream>, Error> {
    connect_with(Options::from_uri(uri)?)
}

/// Connects to a broker over a socket that never blocks, with TLS if the options ask for it.
///
/// This call only begins to connect; [`Client::connect`](crate::Client::connect) waits for the
/// result. All addresses of all endpoints are tried in the order of [`dial`](crate::dial): the next
/// one when one fails, or after 250 ms. Each has at most [`Options::dial_timeout`]. The TLS
/// handshake may take another [`Options::tls_timeout`], and the AMQP handshake has its own timeout.
/// A lost connection is dialled again as [`Recovery`](crate::Recovery) prescribes: see [the
/// module](crate::evented#when-the-connection-is-lost).
///
/// Resolving a host name blocks, because operating systems offer no other way. So every call that
/// dials a host takes as long as the system's resolver: this call, and the calls that drive the
/// connection when they dial the next endpoint. [`Options::resolve_timeout`] is ignored. IP
/// addresses need no resolving. Each attempt also reads the files with certificates and keys again.
///
/// # Errors
/// [`Error::ConnectionBroken`] if no endpoint has an address, or each refuses at once, unless
/// [`Recovery::retry_first_connect`](crate::Recovery::retry_first_connect) retries that;
/// [`Error::CannotConnect`] instead if there were several attempts;
/// [`Error::InvalidArgument`] for options that cannot be used, and for `amqps` without the feature
/// `tls`.
pub fn connect_with(options: Options) -> Result<Evented<Stream>, Error> {
    Evented::dialled(
        Stream::disconnected()?,
        options.clone(),
        EndpointDialler::new(options),
    )
}
