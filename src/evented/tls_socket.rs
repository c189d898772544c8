//! TLS over a socket that does not block.

use super::nonblocking::NonBlocking;
use crate::error::Error;
use crate::tls::TlsStream;
use crate::tls::rustls::ClientConfig;
use crate::tls::rustls::pki_types::ServerName;
use futures_io::{AsyncRead, AsyncWrite};
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Waker};

/// A TLS session over a socket. Its drop sends `close_notify` if that is possible without blocking.
#[derive(Debug)]
pub(super) struct TlsSocket(TlsStream<NonBlocking<TcpStream>>);

impl TlsSocket {
    /// Returns a session before its handshake.
    pub(super) fn new(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        TlsStream::new(NonBlocking(socket), config, name).map(Self)
    }

    /// Continues the TLS handshake. Returns `true` once it is complete.
    pub(super) fn continue_handshake(&mut self) -> Result<bool, Error> {
        match self
            .0
            .poll_handshake(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(done) => done.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    /// Returns `true` if the session waits until the socket is writable.
    pub(super) fn wants_write(&self) -> bool {
        self.0.wants_write()
    }

    /// Returns the counter of the bytes that were received below TLS.
    pub(super) fn received_counter(&self) -> Arc<AtomicUsize> {
        self.0.received_counter()
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.0.io().0
    }

    /// Polls without a waker, and returns `WouldBlock` if the result is pending.
    fn poll_once<T>(
        &mut self,
        poll: impl FnOnce(
            Pin<&mut TlsStream<NonBlocking<TcpStream>>>,
            &mut Context<'_>,
        ) -> Poll<io::Result<T>>,
    ) -> io::Result<T> {
        match poll(
            Pin::new(&mut self.0),
            &mut Context::from_waker(Waker::noop()),
        ) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Read for TlsSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.poll_once(|stream, cx| stream.poll_read(cx, buffer))
    }
}

impl Write for TlsSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.poll_once(|stream, cx| stream.poll_write(cx, bytes))
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.poll_once(|stream, cx| stream.poll_write_vectored(cx, pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.poll_once(AsyncWrite::poll_flush)
    }
}

impl Drop for TlsSocket {
    fn drop(&mut self) {
        if !self.0.is_handshaking() {
            drop(self.poll_once(AsyncWrite::poll_close));
        }
    }
}
