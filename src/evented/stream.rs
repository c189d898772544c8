//! The stream behind `connect`: one socket after the other.

use super::socket::Socket;
use socket2::{Domain, Type};
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;

/// The stream of a client from [`connect`](super::connect): a TCP or Unix socket that does not block, with TLS over it if
/// the options say so.
///
/// While it is connecting, another socket takes its place whenever the next address is tried, and again when the connection
/// is lost. While there is none, because a connection that was lost is to be dialled only later, it has a descriptor that is
/// never ready.
#[derive(Debug)]
pub struct Stream {
    socket: Option<Socket>,
    /// It is neither connected nor bound, so nothing ever happens to it.
    idle: socket2::Socket,
    generation: u64,
}

impl Stream {
    /// One that leads nowhere.
    pub(super) fn nowhere() -> io::Result<Self> {
        // One of TCP would count as one whose peer has hung up.
        let idle = socket2::Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        Ok(Self { socket: None, idle, generation: 0 })
    }

    /// Has another socket take the place of the one before.
    pub(super) fn set(&mut self, socket: impl Into<Option<Socket>>) {
        self.socket = socket.into();
        self.generation += 1;
    }

    /// The socket that there is.
    pub(super) fn socket(&self) -> io::Result<&Socket> {
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn socket_mut(&mut self) -> io::Result<&mut Socket> {
        self.socket.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Which descriptor it has, counted: the number is another one whenever the descriptor is, which is closed by then.
    ///
    /// The system gives a number that is free again to the next descriptor, so that the number alone does not tell.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The socket, if it is one of TCP, also below TLS. `None` also while there is none.
    #[must_use]
    pub fn tcp(&self) -> Option<&TcpStream> {
        self.socket.as_ref().and_then(Socket::tcp)
    }
}

#[cfg(feature = "tls")]
mod securing {
    use super::{Socket, Stream};
    use crate::error::Error;
    use crate::evented::secured::Secured;
    use crate::tls::rustls::ClientConfig;
    use crate::tls::rustls::pki_types::ServerName;
    use std::sync::Arc;

    impl Stream {
        /// Begins to speak TLS over a socket of TCP.
        pub(in crate::evented) fn secure(
            &mut self,
            config: Arc<ClientConfig>,
            name: ServerName<'static>,
        ) -> Result<(), Error> {
            match self.socket.take() {
                Some(Socket::Tcp(socket)) => {
                    self.socket = Some(Socket::Tls(Secured::new(socket, config, name)?.into()));
                }
                other => self.socket = other,
            }
            Ok(())
        }

        /// The session over its socket, if there is one.
        pub(in crate::evented) fn secured(&mut self) -> Option<&mut Secured> {
            if let Some(Socket::Tls(secured)) = &mut self.socket { Some(secured) } else { None }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket_mut()?.read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.socket_mut()?.write(octets)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket_mut()?.write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket_mut()?.flush()
    }
}

#[cfg(unix)]
mod descriptor {
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

    impl AsFd for super::Stream {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.socket.as_ref().map_or_else(|| self.idle.as_fd(), AsFd::as_fd)
        }
    }

    impl AsRawFd for super::Stream {
        fn as_raw_fd(&self) -> RawFd {
            self.as_fd().as_raw_fd()
        }
    }
}

#[cfg(windows)]
mod descriptor {
    use std::os::windows::io::{AsRawSocket, AsSocket, BorrowedSocket, RawSocket};

    impl AsSocket for super::Stream {
        fn as_socket(&self) -> BorrowedSocket<'_> {
            self.socket.as_ref().map_or_else(|| self.idle.as_socket(), AsSocket::as_socket)
        }
    }

    impl AsRawSocket for super::Stream {
        fn as_raw_socket(&self) -> RawSocket {
            self.as_socket().as_raw_socket()
        }
    }
}
