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

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// A stream that fails with this error, and counts its flushes.
    struct Failing(io::ErrorKind, usize);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.1 += 1;
            Err(self.0.into())
        }
    }

    #[test]
    fn only_would_block_is_pending() {
        let mut cx = Context::from_waker(Waker::noop());
        for (kind, is_pending) in [
            (io::ErrorKind::WouldBlock, true),
            (io::ErrorKind::BrokenPipe, false),
        ] {
            let mut stream = NonBlocking(Failing(kind, 0));
            let write = Pin::new(&mut stream).poll_write(&mut cx, b"x");
            assert_eq!(write.is_pending(), is_pending);
            let flush = Pin::new(&mut stream).poll_flush(&mut cx);
            assert_eq!(flush.is_pending(), is_pending);
            let close = Pin::new(&mut stream).poll_close(&mut cx);
            assert_eq!(close.is_pending(), is_pending);
            assert_eq!(stream.0.1, 2, "closing flushes as well");
        }
    }
}
