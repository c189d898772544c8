//! From a host name to a stream.

use futures_lite::FutureExt;
use puka::{Endpoint, Error, Options};
use smol::{Async, Timer};
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Resolves the host and tries each of its addresses in turn, each with its own deadline.
pub(crate) async fn dial(options: &Options) -> Result<Async<TcpStream>, Error> {
    if options.is_tls() {
        return Err(unsupported("amqps is not supported yet: give puka::open a TLS stream"));
    }
    let mut error = None;
    for endpoint in options.endpoints() {
        match dial_endpoint(endpoint, options).await {
            Ok(stream) => return Ok(stream),
            Err(failed) => error = Some(failed),
        }
    }
    Err(error.unwrap_or_else(|| unsupported("there is no endpoint")))
}

async fn dial_endpoint(endpoint: &Endpoint, options: &Options) -> Result<Async<TcpStream>, Error> {
    let Endpoint::Tcp { host, port } = endpoint else {
        return Err(unsupported("Unix sockets are not supported yet: give puka::open a Unix stream"));
    };
    let resolved = smol::net::resolve((&**host, *port));
    let addresses = within("resolving the host", options.resolve_deadline(), resolved).await?;
    dial_in_turn(addresses, options.dial_deadline()).await
}

fn unsupported(why: &str) -> Error {
    Error::InvalidArgument { what: "endpoint", why: why.to_owned() }
}

async fn dial_in_turn(addresses: Vec<SocketAddr>, deadline: Duration) -> Result<Async<TcpStream>, Error> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const SOON: Duration = Duration::from_secs(5);

    fn free_address() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn each_address_is_tried_in_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = vec![free_address(), free_address(), listener.local_addr().unwrap()];
        let stream = smol::block_on(dial_in_turn(addresses, SOON)).unwrap();
        assert_eq!(stream.get_ref().peer_addr().unwrap(), listener.local_addr().unwrap());
        assert!(stream.get_ref().nodelay().unwrap());
    }

    #[test]
    fn when_none_answers_the_last_ones_error_tells() {
        let refused = smol::block_on(dial_in_turn(vec![free_address()], SOON)).unwrap_err();
        assert!(refused.is_connection_broken() && refused.to_string().contains("refused"), "{refused}");
        let none = smol::block_on(dial_in_turn(Vec::new(), SOON)).unwrap_err();
        assert!(none.to_string().contains("no address"), "{none}");
    }

    #[test]
    fn what_takes_too_long_is_a_timeout_that_says_what_it_was() {
        let never = std::future::pending::<io::Result<()>>();
        let late = smol::block_on(within("dialling", Duration::from_millis(1), never)).unwrap_err();
        assert_eq!(late.to_string(), "dialling took longer than 0.001 s");
    }

    #[test]
    fn amqps_is_refused_until_it_can_be_had() {
        let options = Options::from_uri("amqps://localhost").unwrap();
        let refused = smol::block_on(dial(&options)).unwrap_err();
        assert!(matches!(refused, Error::InvalidArgument { what: "endpoint", .. }));
    }
}
