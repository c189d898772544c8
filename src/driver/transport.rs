//! A type-erased byte stream.

use futures_io::{AsyncRead, AsyncWrite};
use std::fmt;
use std::io::{self, IoSlice};
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
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Transport {
    /// Wraps a stream that third parties can read, such as TCP.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self {
            io: Box::new(stream),
            private: false,
            received: None,
        }
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
