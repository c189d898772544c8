//! The client's end of an in-memory connection, for any executor.

use crate::ids::ConnectionId;
use crate::server::{Guarded, Server};
use futures_io::{AsyncRead, AsyncWrite};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The maximum number of bytes of one write.
const LARGEST_WRITE: usize = 64 << 10;

/// An in-memory connection to the broker of a [`Server`].
///
/// A write is processed at once, so there is nothing to flush. Like over TCP there is
/// back-pressure: if the broker has blocked the connection, or the client does not read its output,
/// writes are limited to a small number of bytes. Dropping the stream drops the connection.
#[derive(Debug)]
pub struct Stream {
    server: Server,
    id: ConnectionId,
}

impl Server {
    /// Connects to the broker. Returns a bidirectional byte stream; dropping or closing it ends the
    /// connection.
    #[must_use]
    pub fn connect(&self) -> Stream {
        let id = self.enter(Guarded::connect);
        Stream {
            server: self.clone(),
            id,
        }
    }
}

impl Stream {
    /// Returns the identifier of the connection in the broker.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Reads through a shared reference, for a connection that is used by two threads.
    pub(crate) fn poll_read_shared(
        &self,
        context: &Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.server.enter(|guarded, _| {
            let count = guarded.broker.read_output(self.id, buffer);
            if count > 0 || buffer.is_empty() || guarded.broker.is_closed(self.id) {
                return Poll::Ready(Ok(count));
            }
            guarded.wait_to_read(self.id, context);
            Poll::Pending
        })
    }

    /// Writes through a shared reference.
    pub(crate) fn poll_write_shared(
        &self,
        context: &Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.server.enter(|guarded, now| {
            if guarded.broker.is_closed(self.id) {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if !guarded.broker.wants_input(self.id) {
                guarded.wait_to_write(self.id, context);
                return Poll::Pending;
            }
            let bytes = bytes.get(..LARGEST_WRITE).unwrap_or(bytes);
            guarded.broker.handle_input(now, self.id, bytes);
            Poll::Ready(Ok(bytes.len()))
        })
    }

    /// Ends the connection.
    pub(crate) fn disconnect(&self) {
        let wakers = self
            .server
            .enter(|guarded, now| guarded.disconnect(self.id, now));
        for waker in wakers {
            waker.wake();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_shared(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_shared(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.disconnect();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.disconnect();
    }
}
