//! The sockets of async-std.

use async_std::net::{TcpStream, ToSocketAddrs};
use puka::Transport;
use std::io;
use std::net::SocketAddr;

/// A dialer that opens sockets of async-std's reactor, for [`puka::dial`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Dialer;

impl puka::Dial for Dialer {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs().await?.collect())
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Transport> {
        Ok(Transport::from_tcp(TcpStream::connect(address).await?))
    }

    #[cfg(unix)]
    async fn connect_unix(&self, path: &std::path::Path) -> io::Result<Transport> {
        Ok(Transport::new(
            async_std::os::unix::net::UnixStream::connect(path).await?,
        ))
    }
}
