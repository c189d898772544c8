//! The sockets of tokio.

use crate::stream::Stream;
use puka::Transport;
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// A dialer that opens sockets of the current tokio runtime, for [`puka::dial`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Dialer;

impl puka::Dial for Dialer {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Transport> {
        Ok(Transport::from_tcp(Stream::new(
            TcpStream::connect(address).await?,
        )))
    }

    #[cfg(unix)]
    async fn connect_unix(&self, path: &std::path::Path) -> io::Result<Transport> {
        Ok(Transport::new(Stream::new(
            tokio::net::UnixStream::connect(path).await?,
        )))
    }
}
