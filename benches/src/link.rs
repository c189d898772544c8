//! The null broker as a stream in memory. It accepts every write at once, so nothing of the kernel
//! is measured.

use crate::Null;
use futures_io::{AsyncRead, AsyncWrite};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A stream with the null broker at its other end.
#[derive(Debug, Default)]
pub struct InMemory {
    null: Null,
    reader: Option<Waker>,
    /// The number of reads that returned bytes.
    pub reads: usize,
    /// The number of writes.
    pub writes: usize,
}

impl AsyncRead for InMemory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let pending = this.null.pending();
        if pending.is_empty() {
            if this.null.is_closed() {
                return Poll::Ready(Ok(0));
            }
            this.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = into.len().min(pending.len());
        into[..count].copy_from_slice(&pending[..count]);
        this.null.wrote(count);
        this.reads += 1;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for InMemory {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes += 1;
        self.null.take(bytes);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes += 1;
        for piece in pieces {
            self.null.take(piece);
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
