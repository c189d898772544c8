//! The descriptor of the stream, for event loops. Puka for Python calls it `fileno`.

use super::connection::Evented;

#[cfg(unix)]
mod unix {
    use super::Evented;
    use std::io::{Read, Write};
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

    /// Returns the stream's descriptor. With [`connect`](crate::evented::connect) it changes,
    /// within the calls that move bytes, and
    /// [`Stream::generation`](crate::evented::Stream::generation) changes with it. Get it again
    /// before each wait.
    impl<S: Read + Write + AsFd> AsFd for Evented<S> {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.socket().as_fd()
        }
    }

    /// Returns the stream's descriptor. With [`connect`](crate::evented::connect) it changes,
    /// within the calls that move bytes, and
    /// [`Stream::generation`](crate::evented::Stream::generation) changes with it. Get it again
    /// before each wait.
    impl<S: Read + Write + AsRawFd> AsRawFd for Evented<S> {
        fn as_raw_fd(&self) -> RawFd {
            self.socket().as_raw_fd()
        }
    }
}

#[cfg(windows)]
mod windows {
    use super::Evented;
    use std::io::{Read, Write};
    use std::os::windows::io::{AsRawSocket, AsSocket, BorrowedSocket, RawSocket};

    /// Returns the stream's socket. With [`connect`](crate::evented::connect) it changes, within
    /// the calls that move bytes, and [`Stream::generation`](crate::evented::Stream::generation)
    /// changes with it. Get it again before each wait.
    impl<S: Read + Write + AsSocket> AsSocket for Evented<S> {
        fn as_socket(&self) -> BorrowedSocket<'_> {
            self.socket().as_socket()
        }
    }

    /// Returns the stream's socket. With [`connect`](crate::evented::connect) it changes, within
    /// the calls that move bytes, and [`Stream::generation`](crate::evented::Stream::generation)
    /// changes with it. Get it again before each wait.
    impl<S: Read + Write + AsRawSocket> AsRawSocket for Evented<S> {
        fn as_raw_socket(&self) -> RawSocket {
            self.socket().as_raw_socket()
        }
    }
}
