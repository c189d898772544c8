//! From a URI to a client whose socket is connecting.

use super::conn::Evented;
use super::stream::Stream;
use crate::error::Error;
use crate::options::Options;
use crate::uri::Endpoint;
use std::net::{SocketAddr, ToSocketAddrs};
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
/// It only begins to connect; wait for [`Client::connect`](crate::Client::connect) to know how that went. The addresses of
/// the host are tried in turn, each for [`Options::dial_timeout`] at most, and the handshake has its own time after that.
///
/// Looking up a host's name is something that operating systems only offer in a way that blocks, so this call takes as long
/// as the system's resolver does. An address instead of a name needs no looking up.
///
/// # Errors
/// [`Error::ConnectionBroken`] when the host has no address, or each is refused at once; [`Error::InvalidArgument`] for
/// `amqps`.
pub fn connect_with(options: Options) -> Result<Evented<Stream>, Error> {
    let stream = Stream::dial(addresses(&options)?, options.dial_deadline(), Instant::now())?;
    Ok(Evented::prepared(stream, options, Stream::go_on))
}

fn addresses(options: &Options) -> Result<Vec<SocketAddr>, Error> {
    if options.is_tls() {
        return Err(Error::invalid("uri", "amqps is not supported here: give Evented::new a TLS stream"));
    }
    let mut addresses = Vec::new();
    for endpoint in options.endpoints() {
        match endpoint {
            Endpoint::Tcp { host, port } => addresses.extend((host.as_str(), *port).to_socket_addrs()?),
            Endpoint::Unix(_) => {
                return Err(Error::invalid("endpoints", "give Evented::new a Unix socket"));
            }
        }
    }
    Ok(addresses)
}
