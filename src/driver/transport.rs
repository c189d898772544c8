//! A type-erased byte stream.

use crate::options::Options;
use futures_io::{AsyncRead, AsyncWrite};
use std::any::Any;
use std::fmt;
use std::io::{self, IoSlice};
#[cfg(all(feature = "tcp", unix))]
use std::os::fd::{AsFd as AsSocket, BorrowedFd as BorrowedSocket};
#[cfg(all(feature = "tcp", windows))]
use std::os::windows::io::{AsSocket, BorrowedSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};

/// A type-erased byte stream: TCP, a Unix socket, or TLS over either. [`dial`](crate::dial) returns
/// one.
pub struct Transport {
    io: Box<dyn Io>,
    private: bool,
    /// The counter of the bytes that the stream below TLS has received.
    received: Option<Arc<AtomicUsize>>,
    /// Returns the socket of the stream; `None` unless it was created from one.
    #[cfg(feature = "tcp")]
    socket: Option<fn(&dyn Any) -> Option<BorrowedSocket<'_>>>,
}

/// A stream, as `Any` to find its socket.
trait Io: AsyncRead + AsyncWrite + Unpin + Send + Any {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

impl Transport {
    /// Wraps a stream that third parties can read, such as TCP.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self {
            io: Box::new(stream),
            private: false,
            received: None,
            #[cfg(feature = "tcp")]
            socket: None,
        }
    }

    /// Wraps a TCP stream. [`dial`](crate::dial) and [`connect`](crate::connect) set `TCP_NODELAY`,
    /// [keepalive](crate::Options::tcp_keepalive) and the [user
    /// timeout](crate::Options::tcp_user_timeout) of its socket.
    #[cfg(feature = "tcp")]
    pub fn from_tcp<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + AsSocket + 'static,
    {
        Self {
            socket: Some(|stream| stream.downcast_ref::<S>().map(borrow_socket)),
            ..Self::new(stream)
        }
    }

    /// Returns the socket of a stream from [`from_tcp`](Self::from_tcp). Below TLS, the socket
    /// cannot be reached.
    #[cfg(feature = "tcp")]
    #[must_use]
    pub fn socket(&self) -> Option<BorrowedSocket<'_>> {
        let io: &dyn Any = &*self.io;
        self.socket.and_then(|socket| socket(io))
    }

    /// Applies the options for TCP to a stream from `from_tcp`.
    pub(super) fn configure(&self, options: &Options) -> io::Result<()> {
        #[cfg(feature = "tcp")]
        if let Some(socket) = self.socket() {
            return super::tcp::configure(&socket2::SockRef::from(&socket), options);
        }
        let _ = options;
        Ok(())
    }

    /// Marks the stream as private: it is encrypted, or does not leave the machine.
    pub(crate) fn mark_private(self) -> Self {
        Self {
            private: true,
            ..self
        }
    }

    /// Adds the counter of the bytes that the stream below TLS has received.
    #[cfg(feature = "tls")]
    pub(crate) fn with_received_counter(self, received: Arc<AtomicUsize>) -> Self {
        Self {
            received: Some(received),
            ..self
        }
    }

    /// Returns the counter of the bytes that the stream below TLS has received, if there is one.
    pub(crate) fn received_counter(&self) -> Option<Arc<AtomicUsize>> {
        self.received.clone()
    }

    /// Returns `true` if third parties cannot read the stream: it is TLS or a Unix socket.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.private
    }
}

#[cfg(all(feature = "tcp", unix))]
fn borrow_socket(stream: &impl AsSocket) -> BorrowedSocket<'_> {
    stream.as_fd()
}

#[cfg(all(feature = "tcp", windows))]
fn borrow_socket(stream: &impl AsSocket) -> BorrowedSocket<'_> {
    stream.as_socket()
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("private", &self.private)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, pieces)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}
