//! The pump moves bytes between a stream and the state machine.
//!
//! It moves what can be moved, and returns what to wait for. It does not wait itself, and has no
//! clock.

use crate::error::{Broken, Error};
use crate::fairness::{POLL_READ_BYTES, READ_WORTH_YIELDING, RESULTS_WORTH_YIELDING};
use crate::link::Link;
use crate::machine::{Connection, Outgoing};
use crate::protocol::Decoder;
use futures_io::{AsyncRead, AsyncWrite};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

/// The maximum number of pieces in one vectored write.
const MAX_PIECES: usize = 128;

/// A stream, and the buffers between it and the state machine. Dropping it before the connection
/// has ended counts as the loss of the connection.
pub(crate) struct Pump<Io> {
    pub(crate) io: Io,
    link: Arc<Link>,
    decoder: Decoder,
    out: Outgoing,
    /// The number of bytes written to the stream and not yet reported to the state machine.
    transmitted: usize,
    /// A counter of the bytes that the stream below TLS has received, and its value when it was
    /// last checked.
    received: Option<(Arc<AtomicUsize>, usize)>,
    /// Bytes were written to the stream since it was flushed.
    unflushed: bool,
    /// The number of bytes read in this poll.
    bytes_read: usize,
    /// The last read returned `Pending`, and nothing was written since. The stream wakes the task
    /// when it has data, so it is not read again.
    is_read_pending: bool,
    /// The last read of this poll did not fill the buffer, but brought enough deliveries or results
    /// to let other tasks run.
    has_many_results: bool,
    /// Why writing has failed. Reading continues, because the broker may have sent the reason
    /// before it closed the stream.
    write_error: Option<io::Error>,
    finished: bool,
}

/// The input and the timeout that the state machine is waiting for.
#[derive(Clone, Copy)]
pub(crate) struct Interest {
    pub(crate) input: bool,
    pub(crate) timeout: Option<Instant>,
    /// The stream is to be closed once everything is written. No more input is expected.
    pub(crate) close_when_written: bool,
    /// The stream is to be closed at once.
    pub(crate) close_at_once: bool,
}

/// The result of a turn.
pub(crate) enum Turn {
    /// Something was done, and there may be more to do.
    Progressed,
    /// Nothing can be done before the stream is ready, the deadline is reached or a request is
    /// made.
    Waiting(Interest),
    /// The stream is closed, and another one has to be dialled.
    Redial,
    /// The connection has ended: as requested, or with this error.
    Ended(Result<(), Error>),
}

impl<Io> Pump<Io> {
    pub(crate) fn new(io: Io, link: Arc<Link>) -> Self {
        Self {
            io,
            link,
            decoder: Decoder::new(),
            out: Outgoing::default(),
            transmitted: 0,
            received: None,
            unflushed: false,
            bytes_read: 0,
            is_read_pending: false,
            has_many_results: false,
            write_error: None,
            finished: false,
        }
    }

    /// Discards the buffers and the state of the previous stream, for a new one.
    #[cfg(feature = "evented")]
    pub(crate) fn reset(&mut self) {
        self.decoder = Decoder::new();
        self.out = Outgoing::default();
        self.transmitted = 0;
        self.received = None;
        self.unflushed = false;
        self.bytes_read = 0;
        self.is_read_pending = false;
        self.has_many_results = false;
        self.write_error = None;
        self.finished = false;
    }

    /// Sets the counter of the bytes that the stream below TLS receives. They count as signs of
    /// life of the broker, even if they are only a part of a TLS record.
    pub(crate) fn watch_received(&mut self, counter: Option<Arc<AtomicUsize>>) {
        self.received = counter.map(|counter| {
            let seen = counter.load(Ordering::Relaxed);
            (counter, seen)
        });
    }

    /// Updates the value of the counter. Returns `true` if the stream below TLS has received bytes
    /// since the last call.
    fn check_received(&mut self) -> bool {
        let Some((counter, seen)) = &mut self.received else {
            return false;
        };
        let count = counter.load(Ordering::Relaxed);
        std::mem::replace(seen, count) != count
    }

    /// Starts a poll of the driver.
    pub(crate) fn begin_poll(&mut self) {
        self.bytes_read = 0;
        self.is_read_pending = false;
        self.has_many_results = false;
    }

    /// Returns `true` if other tasks should run before more is read: this poll has read
    /// [`POLL_READ_BYTES`] bytes, or a read that did not fill the buffer has brought many
    /// deliveries or results. Reading at once would usually return nothing, and more data may
    /// arrive while the other tasks run.
    pub(crate) fn should_yield(&self) -> bool {
        self.bytes_read >= POLL_READ_BYTES || self.has_many_results
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Reports what was written to the state machine, takes what is to be written, and returns what
    /// the state machine is waiting for. Does not handle a timeout that has passed;
    /// [`turn`](Self::turn) does.
    pub(crate) fn exchange(&mut self, now: Instant) -> Interest {
        let Self {
            link,
            out,
            transmitted,
            ..
        } = self;
        link.with(|machine| {
            report_transmitted(machine, transmitted, now);
            machine.poll_transmit(now, out);
            Interest {
                input: machine.wants_input(),
                timeout: machine.poll_timeout(),
                close_when_written: machine.is_closed() || machine.is_down(),
                close_at_once: machine.is_over(),
            }
        })
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Pump<Io> {
    /// Writes everything that is ready, and reads once.
    pub(crate) fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let interest = self.exchange(now);
        if interest.close_at_once {
            drop(Pin::new(&mut self.io).poll_close(cx));
            return self.finish();
        }
        // After a pause of the process, the broker's data is still in the socket, and the socket
        // accepts writes again. So the driver reads and writes before it handles the timeout, even
        // if the stream had no data earlier in this poll.
        let is_due = interest.timeout.is_some_and(|timeout| timeout <= now);
        self.is_read_pending &= !is_due;
        let mut has_read = false;
        let mut progress = self.write(cx);
        if interest.close_when_written
            && (self.out.is_empty() && !self.unflushed || self.write_error.is_some())
        {
            if Pin::new(&mut self.io).poll_close(cx).is_ready() {
                return self.finish();
            }
        } else if interest.input || self.write_error.is_some() && !interest.close_when_written {
            progress |= self.read(cx, now);
            has_read = true;
        }
        if is_due {
            self.handle_timeout(now, has_read);
            progress = true;
        }
        if progress {
            Turn::Progressed
        } else {
            Turn::Waiting(interest)
        }
    }

    /// Handles a timeout that has passed. Does nothing if the state machine wants input that this
    /// turn has not read. The next turn reads first.
    fn handle_timeout(&mut self, now: Instant, has_read: bool) {
        let Self {
            link, transmitted, ..
        } = self;
        link.with(|machine| {
            report_transmitted(machine, transmitted, now);
            if has_read || !machine.wants_input() {
                machine.handle_timeout(now);
            }
        });
    }

    /// Writes everything that is ready. Returns `true` if the stream took bytes.
    fn write(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        if self.unflushed || !self.out.is_empty() {
            // A stream that reads while it writes or flushes, as TLS does, may have data now,
            // without waking the task for it.
            self.is_read_pending = false;
        }
        while !self.out.is_empty() && self.write_error.is_none() {
            match poll_write_pieces(Pin::new(&mut self.io), cx, &self.out) {
                Poll::Ready(Ok(0)) => self.write_error = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(bytes)) => {
                    self.out.advance(bytes);
                    self.transmitted += bytes;
                    self.unflushed = true;
                    progress = true;
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => self.write_error = Some(error),
                Poll::Pending => break,
            }
        }
        if self.unflushed && self.out.is_empty() && self.write_error.is_none() {
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {
                    progress = true
                }
                Poll::Ready(Err(error)) => self.write_error = Some(error),
                Poll::Pending => {}
            }
        }
        progress
    }

    /// Reads once. Returns `true` if there was data, or the stream has ended.
    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if self.is_read_pending && self.write_error.is_none() {
            return false;
        }
        let buffer = self.decoder.space();
        let buffer_len = buffer.len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        let has_received = self.check_received();
        let broken = match polled {
            Poll::Ready(Ok(0)) => Broken::Eof,
            Poll::Ready(Ok(bytes)) => {
                self.decoder.filled(bytes);
                self.bytes_read += bytes;
                let Self {
                    link, decoder, out, ..
                } = self;
                let brings_much = link.with(|machine| {
                    let before = machine.stats().buffered_deliveries;
                    machine.handle_input(now, decoder);
                    // Output of the state machine is written before other tasks run, as long as the
                    // stream accepts it.
                    let can_write = out.is_empty() && machine.has_output();
                    let brings_deliveries =
                        bytes > READ_WORTH_YIELDING && machine.stats().buffered_deliveries > before;
                    (brings_deliveries || machine.completed_promises() >= RESULTS_WORTH_YIELDING)
                        && !can_write
                });
                self.has_many_results = brings_much && bytes < buffer_len;
                return true;
            }
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => return true,
            Poll::Ready(Err(error)) => Broken::Io(error.into()),
            Poll::Pending => match self.write_error.take() {
                Some(error) => Broken::Io(error.into()),
                None => {
                    self.is_read_pending = true;
                    if has_received {
                        self.link.with(|machine| machine.handle_partial_input(now));
                    }
                    return false;
                }
            },
        };
        self.link.handle_loss(broken);
        true
    }

    /// Returns the result of the last turn with this stream, which is closed.
    fn finish(&mut self) -> Turn {
        self.finished = true;
        self.link.with(|machine| {
            if machine.is_down() {
                Turn::Redial
            } else {
                Turn::Ended(machine.outcome())
            }
        })
    }
}

/// Reports the number of bytes that were written to the stream, if any.
fn report_transmitted(machine: &mut Connection, transmitted: &mut usize, now: Instant) {
    match std::mem::take(transmitted) {
        0 => {}
        bytes => machine.handle_transmitted(now, bytes),
    }
}

/// Writes as many pieces as the stream accepts in one call.
fn poll_write_pieces(
    io: Pin<&mut impl AsyncWrite>,
    cx: &mut Context<'_>,
    out: &Outgoing,
) -> Poll<io::Result<usize>> {
    let mut pieces = out.pieces();
    // Small frames share one piece, so usually there is only one.
    if let (Some(only), None) = (pieces.next(), pieces.next()) {
        return io.poll_write(cx, only);
    }
    let mut slices = [IoSlice::new(&[]); MAX_PIECES];
    let mut count = 0;
    for (slice, piece) in slices.iter_mut().zip(out.pieces()) {
        *slice = IoSlice::new(piece);
        count += 1;
    }
    io.poll_write_vectored(cx, &slices[..count])
}

impl<Io> Drop for Pump<Io> {
    fn drop(&mut self) {
        // This moves the user's bodies in the buffer to the drop queue. The call of the link below
        // then drops them without the lock.
        self.out = Outgoing::default();
        if self.finished {
            self.link.with(|_| {});
        } else {
            self.link.handle_loss(Broken::DriverDropped);
        }
    }
}

#[cfg(feature = "evented")]
impl<Io> Pump<Io> {
    /// Returns `true` if there is output that the stream has not accepted.
    pub(crate) fn has_output(&self) -> bool {
        !self.out.is_empty() || self.unflushed
    }
}
