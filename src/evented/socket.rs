//! Non-blocking sockets of every kind, connecting or connected.

#[cfg(feature = "tls")]
use super::tls_socket::TlsSocket;
use crate::driver::{Address, configure};
use crate::error::Error;
use crate::options::Options;
use socket2::{Domain, SockAddr, Type};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::fd::OwnedFd;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// A non-blocking socket.
#[derive(Debug)]
pub(super) enum Socket {
    /// A placeholder while there is no connection: an event loop needs a descriptor.
    Placeholder(socket2::Socket),
    Tcp(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsSocket>),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    /// Returns a socket that is never ready. It is a datagram socket, because the system reports an
    /// unconnected stream socket as hung up.
    pub(super) fn placeholder() -> io::Result<Self> {
        socket2::Socket::new(Domain::IPV4, Type::DGRAM, None).map(Self::Placeholder)
    }

    /// Creates a socket that connects to the address, without blocking.
    pub(super) fn begin_connect(address: &Address, options: &Options) -> io::Result<Self> {
        let (domain, target) = match address {
            Address::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
            #[cfg(unix)]
            Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let socket = socket2::Socket::new(domain, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let connecting = socket.connect(&target);
        match address {
            Address::Tcp(_) => {
                if let Err(error) = connecting
                    && !is_connecting(&error)
                {
                    return Err(error);
                }
                configure(&socket, options)?;
                Ok(Self::Tcp(socket.into()))
            }
            // A Unix socket connects at once or fails.
            #[cfg(unix)]
            Address::Unix(_) => connecting.map(|()| Self::Unix(OwnedFd::from(socket).into())),
        }
    }

    /// Returns `true` if the socket is connected, `false` while it is connecting.
    pub(super) fn is_connected(&self) -> io::Result<bool> {
        let Some(socket) = self.tcp() else {
            // A Unix socket was connected when it was created.
            return Ok(true);
        };
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        match socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Continues the TLS handshake, if there is one. Returns `true` once it is complete.
    pub(super) fn continue_handshake(&mut self) -> Result<bool, Error> {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(tls_socket) => tls_socket.continue_handshake(),
            _ => Ok(true),
        }
    }

    /// Returns `true` if the TLS handshake waits until the socket is writable.
    pub(super) fn wants_write(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(tls_socket) => tls_socket.wants_write(),
            _ => false,
        }
    }

    /// Shuts down both directions of the socket.
    pub(super) fn shut_down(&self) {
        match self {
            Self::Placeholder(_) => {}
            #[cfg(unix)]
            Self::Unix(socket) => drop(socket.shutdown(Shutdown::Both)),
            other => drop(other.tcp().map(|socket| socket.shutdown(Shutdown::Both))),
        }
    }

    /// Returns `true` if third parties cannot read the stream: it is TLS or a Unix socket.
    pub(super) fn is_private(&self) -> bool {
        !matches!(self, Self::Tcp(_) | Self::Placeholder(_))
    }

    /// Returns the counter of the bytes that were received below TLS; `None` without TLS.
    pub(super) fn received_counter(&self) -> Option<Arc<AtomicUsize>> {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(tls_socket) => Some(tls_socket.received_counter()),
            _ => None,
        }
    }

    /// Returns the TCP socket, also the one below TLS.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(socket) => Some(socket),
            #[cfg(feature = "tls")]
            Self::Tls(tls_socket) => Some(tls_socket.socket()),
            _ => None,
        }
    }
}

/// Returns `true` if the error means that the socket is still connecting.
fn is_connecting(error: &io::Error) -> bool {
    let in_progress = rustix::io::Errno::INPROGRESS.raw_os_error();
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(in_progress)
}

/// Evaluates the same expression for each kind of socket.
macro_rules! for_each_kind {
    ($stream:expr, $socket:ident => $call:expr) => {
        match $stream {
            Self::Placeholder(_) => Err(io::ErrorKind::NotConnected.into()),
            Self::Tcp($socket) => $call,
            #[cfg(feature = "tls")]
            Self::Tls($socket) => $call,
            #[cfg(unix)]
            Self::Unix($socket) => $call,
        }
    };
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for_each_kind!(self, socket => socket.read(buffer))
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for_each_kind!(self, socket => socket.write(bytes))
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        for_each_kind!(self, socket => socket.write_vectored(pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        for_each_kind!(self, socket => socket.flush())
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Placeholder(socket) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
            #[cfg(feature = "tls")]
            Self::Tls(tls_socket) => tls_socket.socket().as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

#[cfg(windows)]
impl std::os::windows::io::AsSocket for Socket {
    fn as_socket(&self) -> std::os::windows::io::BorrowedSocket<'_> {
        match self {
            Self::Placeholder(socket) => socket.as_socket(),
            Self::Tcp(socket) => socket.as_socket(),
            #[cfg(feature = "tls")]
            Self::Tls(tls_socket) => tls_socket.socket().as_socket(),
        }
    }
}
