//! A non-blocking stream as a polled one: `WouldBlock` becomes `Poll::Pending`.
//!
//! It registers no waker. The caller waits for the stream with the system's calls, and polls again.

use futures_io::{AsyncRead, AsyncWrite};
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A stream that returns `WouldBlock` instead of blocking.
pub(super) struct NonBlocking<S>(pub(super) S);

/// The stream is only used by reference, and never pinned.
impl<S> Unpin for NonBlocking<S> {}

/// Converts `WouldBlock` to `Poll::Pending`.
fn into_poll<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

impl<S: Read> AsyncRead for NonBlocking<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        into_poll(self.0.read(buffer))
    }
}

impl<S: Write> AsyncWrite for NonBlocking<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        into_poll(self.0.write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        into_poll(self.0.write_vectored(pieces))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        into_poll(self.0.flush())
    }

    /// Only flushes. Dropping the stream closes it.
    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        into_poll(self.0.flush())
    }
}
