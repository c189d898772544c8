//! TLS over any byte stream, through rustls: feature `tls`.
//!
//! [`dial`](crate::dial) uses it if the options enable TLS. Over a stream of your own, [`connect`]
//! performs the handshake, and [`open`](crate::open) accepts the resulting [`TlsStream`]. To use
//! [`rustls`] directly, for example over a blocking socket of `std`, combine [`client_config`],
//! [`server_name`] and [`handshake_error`]:
//!
//! ```no_run
//! # fn main() -> Result<(), puka::Error> {
//! use puka::tls::rustls::{ClientConnection, StreamOwned};
//!
//! let options = puka::Options::from_uri("amqps://broker.example/")?;
//! let session = ClientConnection::new(
//!     puka::tls::client_config(&options)?,
//!     puka::tls::server_name(&options, "broker.example")?,
//! )?;
//! let socket = std::net::TcpStream::connect("broker.example:5671")?;
//! let mut stream = StreamOwned::new(session, socket);
//! while stream.conn.is_handshaking() {
//!     stream.conn.complete_io(&mut stream.sock).map_err(puka::tls::handshake_error)?;
//! }
//! # Ok(())
//! # }
//! ```

mod authority;
mod config;
mod fault;
mod source;
mod stream;

pub use config::{client_config, server_name};
pub use fault::handshake_error;
pub use rustls;
pub use stream::TlsStream;

use crate::error::Error;
use crate::options::Options;
use futures_io::{AsyncRead, AsyncWrite};

/// Performs the TLS handshake over a stream that is connected to this host, with the TLS options or
/// their defaults.
///
/// It has no timeout; [`dial`](crate::dial) has one.
///
/// # Errors
/// [`Error::Tls`] if the handshake fails; [`Error::ConnectionBroken`] if the stream ends or
/// fails; [`Error::InvalidArgument`] if the options are invalid.
///
/// # Cancel safety
/// Dropping the future drops the stream.
pub async fn connect<Io>(stream: Io, options: &Options, host: &str) -> Result<TlsStream<Io>, Error>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    TlsStream::connect(stream, client_config(options)?, server_name(options, host)?).await
}
