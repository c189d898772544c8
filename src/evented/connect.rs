//! From a URI to a client whose socket is connecting.

use super::conn::Evented;
use super::stream::{Address, Stream};
use crate::error::Error;
use crate::options::Options;
use crate::uri::Endpoint;
use std::io;
use std::net::ToSocketAddrs;
use std::time::Instant;

/// A client of the broker that a URI names, such as `amqp://guest:guest@localhost:5672/%2f`, over a socket that never
/// blocks.
///
/// # Errors
/// As [`connect_with`], and [`Error::Uri`].
pub fn connect(uri: &str) -> Result<Evented<Stream>, Error> {
    connect_with(Options::from_uri(uri)?)
}

/// A client of a broker, over a socket that never blocks.
///
/// It only begins to connect; wait for [`Client::connect`](crate::Client::connect) to know how that went. All addresses of
/// all endpoints are tried in turn, each for [`Options::dial_timeout`] at most, and the handshake has its own time after
/// that. A connection that is lost is not dialled again.
///
/// Looking up a host's name is something that operating systems only offer in a way that blocks, so this call takes as long
/// as the system's resolver does. An address instead of a name needs no looking up.
///
/// # Errors
/// [`Error::ConnectionBroken`] when no endpoint has an address, or each is refused at once; [`Error::InvalidArgument`] for
/// `amqps`.
pub fn connect_with(options: Options) -> Result<Evented<Stream>, Error> {
    if options.is_tls() {
        return Err(Error::invalid("uri", "amqps is not supported here: give Evented::new a TLS stream"));
    }
    let stream = Stream::dial(addresses(&options)?, options.dial_deadline(), Instant::now())?;
    Ok(Evented::prepared(stream, options, Stream::go_on))
}

/// All addresses of all endpoints, each with the place of its endpoint. An endpoint that has none is left out, unless it is
/// the last.
fn addresses(options: &Options) -> Result<Vec<(usize, Address)>, Error> {
    let mut addresses = Vec::new();
    let mut failed = None;
    for (place, endpoint) in options.endpoints().iter().enumerate() {
        match endpoint {
            Endpoint::Tcp { host, port } => match (&**host, *port).to_socket_addrs() {
                Ok(found) => addresses.extend(found.map(|address| (place, Address::Tcp(address)))),
                Err(error) => {
                    failed = Some(io::Error::new(error.kind(), format!("{host}: {error}")).into());
                }
            },
            #[cfg(unix)]
            Endpoint::Unix(path) => addresses.push((place, Address::Unix(path.clone()))),
            #[cfg(not(unix))]
            Endpoint::Unix(_) => {
                failed = Some(Error::invalid("endpoints", "this system has no Unix sockets"));
            }
        }
    }
    match failed {
        Some(error) if addresses.is_empty() => Err(error),
        _ => Ok(addresses),
    }
}
