//! The stream of `connect`: a sequence of sockets.

use super::socket::Socket;
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;

/// The stream of a client from [`connect`](super::connect): a non-blocking TCP or Unix socket, with
/// TLS over it if the options ask for it.
///
/// Each address that is tried gets a new socket, also after the connection was lost. While several
/// addresses are tried at once, the stream has the socket of the first of them, and a timer looks
/// at the others. Between attempts there is no socket, and the stream has a descriptor that is
/// never ready.
#[derive(Debug)]
pub struct Stream {
    pub(super) socket: Socket,
    generation: u64,
}

impl Stream {
    /// Returns a stream without a connection.
    pub(super) fn disconnected() -> io::Result<Self> {
        Ok(Self {
            socket: Socket::placeholder()?,
            generation: 0,
        })
    }

    /// Replaces the socket.
    pub(super) fn set(&mut self, socket: Socket) {
        self.socket = socket;
        self.generation += 1;
    }

    /// Closes the socket, and replaces it by a placeholder.
    pub(super) fn disconnect(&mut self) {
        match Socket::placeholder() {
            Ok(idle) => self.set(idle),
            // Without a free descriptor for a placeholder, the old socket stays open, but is shut
            // down.
            Err(_) => self.socket.shut_down(),
        }
    }

    /// Returns a number that changes whenever the descriptor changes. The previous descriptor is
    /// closed.
    ///
    /// The descriptor itself does not show a change, because the system reuses the numbers of
    /// closed descriptors.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the TCP socket, also the one below TLS; `None` for a Unix socket, and while there is
    /// no connection.
    #[must_use]
    pub fn tcp(&self) -> Option<&TcpStream> {
        self.socket.tcp()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

#[cfg(unix)]
mod descriptor {
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

    impl AsFd for super::Stream {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.socket.as_fd()
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
            self.socket.as_socket()
        }
    }

    impl AsRawSocket for super::Stream {
        fn as_raw_socket(&self) -> RawSocket {
            self.as_socket().as_raw_socket()
        }
    }
}
