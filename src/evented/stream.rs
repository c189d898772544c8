//! The stream behind `connect`: one socket after the other.

use super::socket::Socket;
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
    pub(super) socket: Socket,
    generation: u64,
}

impl Stream {
    /// One that leads nowhere.
    pub(super) fn nowhere() -> io::Result<Self> {
        Ok(Self { socket: Socket::idle()?, generation: 0 })
    }

    /// Has another socket take the place of the one before.
    pub(super) fn set(&mut self, socket: Socket) {
        self.socket = socket;
        self.generation += 1;
    }

    /// From here on it leads nowhere.
    pub(super) fn hang_up(&mut self) {
        match Socket::idle() {
            Ok(idle) => self.set(idle),
            // Where the system has no descriptor to spare, the one that there is stays for as long.
            Err(_) => self.socket.shut_down(),
        }
    }

    /// Which descriptor it has, counted: the number is another one whenever the descriptor is. The one before is closed.
    ///
    /// The descriptor's own number does not tell, because the system uses those that are free again.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The socket, if it is one of TCP, also below TLS. `None` also while there is none.
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
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.socket.write(octets)
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
