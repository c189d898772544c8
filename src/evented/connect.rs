//! From a URI to a client whose socket is connecting.

use super::conn::Evented;
use super::dialling::Endpoints;
use super::stream::Stream;
use crate::error::Error;
use crate::options::Options;

/// A client of the broker that a URI names, such as `amqp://guest:guest@localhost:5672/%2f`, over a socket that never
/// blocks.
///
/// # Errors
/// As [`connect_with`], and [`Error::Uri`].
pub fn connect(uri: &str) -> Result<Evented<Stream>, Error> {
    connect_with(Options::from_uri(uri)?)
}

/// A client of a broker, over a socket that never blocks, with TLS if the options say so.
///
/// It only begins to connect; wait for [`Client::connect`](crate::Client::connect) to know how that went. All addresses of
/// all endpoints are tried in turn, each for [`Options::dial_timeout`] at most; TLS has [`Options::tls_timeout`] after that,
/// and the handshake its own time. When the connection is lost it is dialled again, as [`Recovery`](crate::Recovery) says:
/// see [the module](crate::evented#when-the-connection-is-lost).
///
/// Looking up a host's name is something that operating systems only offer in a way that blocks, so whichever call dials a
/// host takes as long as the system's resolver does: this one, and those that drive the connection when they go on to
/// the next endpoint or dial again. [`Options::resolve_timeout`] does not matter here. An address instead of a name needs no
/// looking up. Files with certificates and keys are read anew each time, too.
///
/// # Errors
/// [`Error::ConnectionBroken`] when no endpoint has an address, or each is refused at once, unless
/// [`Recovery::first_connect`](crate::Recovery::first_connect) has it tried again; [`Error::InvalidArgument`] for options that
/// can't be used, and for `amqps` when the feature `tls` is off.
pub fn connect_with(options: Options) -> Result<Evented<Stream>, Error> {
    Evented::dialled(Stream::nowhere()?, options.clone(), Endpoints::new(options))
}
