//! From a host name to a stream.

use futures_lite::FutureExt;
use puka::{Error, Options};
use smol::{Async, Timer};
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Resolves the host and tries each of its addresses in turn, each with its own deadline.
pub(crate) async fn dial(options: &Options) -> Result<Async<TcpStream>, Error> {
    let uri = options.uri();
    if uri.is_tls() {
        let why = "amqps is not supported yet: give puka::open a TLS stream".to_owned();
        return Err(Error::InvalidArgument { what: "uri", why });
    }
    let deadline = options.dial_deadline();
    let addresses =
        within("resolving the host", deadline, smol::net::resolve((uri.host(), uri.port()))).await?;
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the host has no address").into();
    for address in addresses {
        match within("dialling", deadline, connect(address)).await {
            Ok(stream) => return Ok(stream),
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

async fn connect(address: SocketAddr) -> io::Result<Async<TcpStream>> {
    let stream = Async::<TcpStream>::connect(address).await?;
    // A request is written whole, so holding back the rest of it for more to come would only delay it.
    stream.get_ref().set_nodelay(true)?;
    Ok(stream)
}

async fn within<T>(
    what: &'static str,
    after: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, Error> {
    let work = async { work.await.map_err(Error::from) };
    let timeout = async {
        Timer::after(after).await;
        Err(Error::Timeout { what, after })
    };
    work.or(timeout).await
}
