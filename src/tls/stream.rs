//! TLS over a byte stream, through rustls.

use super::fault::handshake_error;
use crate::error::{Broken, Error, TlsFault};
use futures_io::{AsyncRead, AsyncWrite};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

/// The read size in bytes: the maximum size of a TLS record, so that a record takes one system
/// call.
const READ_SIZE: usize = 18 << 10;

/// A TLS session over a byte stream. Returned by [`connect`](super::connect).
///
/// The end of the stream without a TLS `close_notify` counts as a normal end, because AMQP detects
/// truncation: it has its own close, and each frame carries its size.
pub struct TlsStream<Io> {
    io: Io,
    session: ClientConnection,
    /// Received bytes. rustls has consumed those before `consumed`.
    buffer: Vec<u8>,
    consumed: usize,
    /// The number of received bytes, including those of an incomplete record.
    received: Arc<AtomicUsize>,
    eof: bool,
    sent_close_notify: bool,
}

impl<Io> fmt::Debug for TlsStream<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("version", &self.session.protocol_version())
            .field("handshaking", &self.session.is_handshaking())
            .finish_non_exhaustive()
    }
}

/// Adapts the stream to the blocking `Write` that rustls expects.
struct Writer<'a, 'cx, Io> {
    io: &'a mut Io,
    cx: &'a mut Context<'cx>,
}

/// Converts `Poll::Pending` to `WouldBlock`.
fn into_io_result<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Converts `WouldBlock` to `Poll::Pending`.
fn into_poll<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

impl<Io: AsyncWrite + Unpin> Write for Writer<'_, '_, Io> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        into_io_result(Pin::new(&mut *self.io).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        into_io_result(Pin::new(&mut *self.io).poll_write_vectored(self.cx, pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> TlsStream<Io> {
    /// Performs the handshake.
    pub(crate) async fn connect(
        io: Io,
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        let mut stream = Self::new(io, config, name)?;
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    /// Creates a session before its handshake.
    pub(crate) fn new(
        io: Io,
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        let session = ClientConnection::new(config, name)?;
        let (buffer, received) = (Vec::new(), Arc::default());
        Ok(Self {
            io,
            session,
            buffer,
            consumed: 0,
            received,
            eof: false,
            sent_close_notify: false,
        })
    }

    /// Returns the counter of the received bytes. It distinguishes a silent broker from one that is
    /// sending a record: [`AsyncRead`] returns nothing of a record until it is complete.
    pub(crate) fn received_counter(&self) -> Arc<AtomicUsize> {
        self.received.clone()
    }

    /// Returns the underlying stream.
    #[cfg(feature = "evented")]
    pub(crate) fn io(&self) -> &Io {
        &self.io
    }

    /// Returns `true` if the handshake is not complete.
    #[cfg(feature = "evented")]
    pub(crate) fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Returns `true` if it waits until the underlying stream is writable.
    #[cfg(feature = "evented")]
    pub(crate) fn wants_write(&self) -> bool {
        self.session.wants_write()
    }

    /// Continues the handshake.
    pub(crate) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while self.session.is_handshaking() {
            match self.poll_transmit(cx) {
                Poll::Ready(Ok(())) => ready!(Pin::new(&mut self.io).poll_flush(cx))?,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {}
            }
            if self.session.is_handshaking() {
                ready!(self.poll_receive(cx)).map_err(handshake_error)?;
                if self.eof && self.session.is_handshaking() {
                    return Poll::Ready(Err(Error::ConnectionBroken(Broken::Eof)));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the bytes that rustls has to send.
    fn poll_transmit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            let mut writer = Writer {
                io: &mut self.io,
                cx,
            };
            match into_poll(self.session.write_tls(&mut writer)) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, and passes bytes to rustls.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.consumed == self.buffer.len() && !self.eof {
            self.consumed = 0;
            self.buffer.resize(READ_SIZE, 0);
            let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, &mut self.buffer) else {
                // Freed, so that an idle connection has no buffer.
                self.buffer = Vec::new();
                return Poll::Pending;
            };
            self.buffer.truncate(*read.as_ref().unwrap_or(&0));
            let count = read?;
            self.eof = count == 0;
            self.received.fetch_add(count, Ordering::Relaxed);
        }
        let mut unread = self.buffer.get(self.consumed..).unwrap_or_default();
        self.consumed += self.session.read_tls(&mut unread)?;
        let processed = self.session.process_new_packets();
        // Sends an alert about the error, or the reply to a key update. If it cannot be sent now,
        // the next write tries again.
        if self.session.wants_write()
            && let Poll::Ready(Ok(())) = self.poll_transmit(cx)
        {
            let _: Poll<io::Result<()>> = Pin::new(&mut self.io).poll_flush(cx);
        }
        processed
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, TlsFault::from(error)))?;
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            match this.session.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(0));
                }
                result => return Poll::Ready(result),
            }
            ready!(this.poll_receive(cx))?;
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<Io> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // Nothing more is accepted while earlier bytes cannot be written, to bound rustls's buffer.
        ready!(this.poll_transmit(cx))?;
        let bytes = this.session.writer().write_vectored(pieces)?;
        match this.poll_transmit(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(bytes)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_transmit(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.sent_close_notify {
            this.sent_close_notify = true;
            this.session.send_close_notify();
        }
        ready!(this.poll_transmit(cx))?;
        Pin::new(&mut this.io).poll_close(cx)
    }
}
