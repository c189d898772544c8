//! The sockets of smol.

use puka::Transport;
use smol::Async;
use std::io;
use std::net::{SocketAddr, TcpStream};

/// A dialer that opens sockets of smol's reactor, for [`puka::dial`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Dialer;

impl puka::Dial for Dialer {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        smol::net::resolve((host, port)).await
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Transport> {
        Ok(Transport::from_tcp(
            Async::<TcpStream>::connect(address).await?,
        ))
    }

    #[cfg(unix)]
    async fn connect_unix(&self, path: &std::path::Path) -> io::Result<Transport> {
        Ok(Transport::new(
            Async::<std::os::unix::net::UnixStream>::connect(path).await?,
        ))
    }
}
