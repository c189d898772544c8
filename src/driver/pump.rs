//! The pump moves bytes between a stream and the state machine.
//!
//! It moves what can be moved, and returns what to wait for. It does not wait itself, and has no
//! clock.

use crate::error::{Broken, Error};
use crate::fairness::{POLL_READ_BYTES, READ_WORTH_YIELDING, RESULTS_WORTH_YIELDING};
use crate::link::Link;
use crate::machine::Outgoing;
use crate::protocol::Decoder;
use futures_io::{AsyncRead, AsyncWrite};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

/// The maximum number of pieces in one vectored write.
const PIECES: usize = 128;

/// A stream, and the buffers between it and the state machine. Dropping it before the connection
/// has ended counts as the loss of the connection.
pub(crate) struct Pump<Io> {
    pub(crate) io: Io,
    link: Arc<Link>,
    decoder: Decoder,
    out: Outgoing,
    /// The number of bytes written to the stream and not yet reported to the state machine.
    transmitted: usize,
    /// The counter of the bytes that the stream below has received, and its value at the last read.
    received: Option<(Arc<AtomicUsize>, usize)>,
    unflushed: bool,
    /// The number of bytes read in this poll.
    taken_in: usize,
    /// The stream had nothing to read in this poll, and was not written to since. It wakes the task
    /// when it has data.
    is_read_dry: bool,
    /// The last read of this poll returned less than the buffer has room for, but enough deliveries
    /// or results to let other tasks run.
    has_news: bool,
    /// Why writing has failed. The server may have sent a reason before, so reading goes on.
    write_error: Option<io::Error>,
    finished: bool,
}

/// The input and the timeout that the state machine is waiting for.
#[derive(Clone, Copy)]
pub(crate) struct Interest {
    pub(crate) input: bool,
    pub(crate) timeout: Option<Instant>,
    /// No more input is expected. The stream is to be closed once everything is written.
    pub(crate) closed: bool,
    /// The stream is to be closed at once.
    pub(crate) over: bool,
}

/// The result of a turn.
pub(crate) enum Turn {
    /// Bytes were moved, and there may be more.
    Moved,
    /// Nothing can be done before the stream is ready, the deadline is reached or a request is
    /// made.
    Still(Interest),
    /// The stream is closed, and another one has to be dialled.
    Down,
    /// The connection has ended: as requested, or with this error.
    Over(Result<(), Error>),
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
            taken_in: 0,
            is_read_dry: false,
            has_news: false,
            write_error: None,
            finished: false,
        }
    }

    /// Resets the state for a new stream, which has nothing to do with the old one.
    #[cfg(feature = "evented")]
    pub(crate) fn start_over(&mut self) {
        self.decoder = Decoder::new();
        self.out = Outgoing::default();
        self.transmitted = 0;
        self.received = None;
        self.unflushed = false;
        self.taken_in = 0;
        self.is_read_dry = false;
        self.has_news = false;
        self.write_error = None;
        self.finished = false;
    }

    /// Counts the bytes that the stream below receives as signs of life.
    pub(crate) fn count(&mut self, received: Option<Arc<AtomicUsize>>) {
        self.received = received.map(|counter| {
            let seen = counter.load(Ordering::Relaxed);
            (counter, seen)
        });
    }

    /// Returns `true` if the stream below has received bytes since the last call.
    fn has_received(&mut self) -> bool {
        let Some((counter, seen)) = &mut self.received else {
            return false;
        };
        let count = counter.load(Ordering::Relaxed);
        std::mem::replace(seen, count) != count
    }

    /// Starts a poll of the driver.
    pub(crate) fn begin_poll(&mut self) {
        self.taken_in = 0;
        self.is_read_dry = false;
        self.has_news = false;
    }

    /// Returns `true` if other tasks should run: this poll has read [`POLL_READ_BYTES`] bytes, or a
    /// short read that brought many deliveries or results. More data may arrive until these are
    /// processed, which saves the read that would return nothing.
    pub(crate) fn is_sated(&self) -> bool {
        self.taken_in >= POLL_READ_BYTES || self.has_news
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Exchanges state with the state machine: reports what was written, takes what is to be
    /// written, and returns what the state machine is waiting for. [`turn`](Self::turn) handles a
    /// timeout that has passed.
    pub(crate) fn interest(&mut self, now: Instant) -> Interest {
        let Self {
            link,
            out,
            transmitted,
            ..
        } = self;
        link.with(|machine| {
            match std::mem::take(transmitted) {
                0 => {}
                bytes => machine.handle_transmitted(now, bytes),
            }
            machine.poll_transmit(now, out);
            Interest {
                input: machine.wants_input(),
                timeout: machine.poll_timeout(),
                closed: machine.is_closed() || machine.is_down(),
                over: machine.is_over(),
            }
        })
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Pump<Io> {
    /// Writes everything that is ready, and reads once.
    pub(crate) fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let interest = self.interest(now);
        if interest.over {
            drop(Pin::new(&mut self.io).poll_close(cx));
            return self.finish();
        }
        // After a pause of the process, the server's data is still in the socket, and the socket
        // accepts writes again. So the driver reads and writes before it judges the server's
        // silence, even if the stream had no data earlier in this poll.
        let is_due = interest.timeout.is_some_and(|timeout| timeout <= now);
        self.is_read_dry &= !is_due;
        let mut has_read = false;
        let mut progress = self.write(cx);
        if interest.closed && (self.out.is_empty() && !self.unflushed || self.write_error.is_some())
        {
            if Pin::new(&mut self.io).poll_close(cx).is_ready() {
                return self.finish();
            }
        } else if interest.input || self.write_error.is_some() && !interest.closed {
            progress |= self.read(cx, now);
            has_read = true;
        }
        if is_due {
            self.expire(now, has_read);
            progress = true;
        }
        if progress {
            Turn::Moved
        } else {
            Turn::Still(interest)
        }
    }

    /// Handles a timeout that has passed. If the state machine wants input and the stream was not
    /// read in this turn, the next turn reads first.
    fn expire(&mut self, now: Instant, has_read: bool) {
        let Self {
            link, transmitted, ..
        } = self;
        link.with(|machine| {
            match std::mem::take(transmitted) {
                0 => {}
                bytes => machine.handle_transmitted(now, bytes),
            }
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
            self.is_read_dry = false;
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
        if self.is_read_dry && self.write_error.is_none() {
            return false;
        }
        let space = self.decoder.space();
        let room = space.len();
        let polled = Pin::new(&mut self.io).poll_read(cx, space);
        let has_received = self.has_received();
        let broken = match polled {
            Poll::Ready(Ok(0)) => Broken::Eof,
            Poll::Ready(Ok(bytes)) => {
                self.decoder.filled(bytes);
                self.taken_in += bytes;
                let Self {
                    link, decoder, out, ..
                } = self;
                let is_much = link.with(|machine| {
                    let before = machine.stats().buffered_deliveries;
                    machine.handle_input(now, decoder);
                    // Output of the state machine is written before other tasks run, as long as the
                    // stream accepts it.
                    let keeps_up = out.is_empty() && machine.has_output();
                    let delivers =
                        bytes > READ_WORTH_YIELDING && machine.stats().buffered_deliveries > before;
                    (delivers || machine.completed_promises() >= RESULTS_WORTH_YIELDING)
                        && !keeps_up
                });
                self.has_news = is_much && bytes < room;
                return true;
            }
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => return true,
            Poll::Ready(Err(error)) => Broken::Io(error.into()),
            Poll::Pending => match self.write_error.take() {
                Some(error) => Broken::Io(error.into()),
                None => {
                    self.is_read_dry = true;
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

    fn finish(&mut self) -> Turn {
        self.finished = true;
        self.link.with(|machine| {
            if machine.is_down() {
                Turn::Down
            } else {
                Turn::Over(machine.outcome())
            }
        })
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
    let mut slices = [IoSlice::new(&[]); PIECES];
    let mut count = 0;
    for (slice, piece) in slices.iter_mut().zip(out.pieces()) {
        *slice = IoSlice::new(piece);
        count += 1;
    }
    io.poll_write_vectored(cx, &slices[..count])
}

impl<Io> Drop for Pump<Io> {
    fn drop(&mut self) {
        // The link's next call drops the user's bodies that the buffer contains, without the lock.
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
