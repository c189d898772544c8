//! The pump: octets from a stream into the machine, and from the machine into it.
//!
//! It moves what can be moved and says what is left to wait for. It does not wait, and knows no clock.

use crate::error::{Broken, Error};
use crate::link::Link;
use crate::machine::Outgoing;
use crate::protocol::Decoder;
use futures_io::{AsyncRead, AsyncWrite};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// Pieces that one vectored write takes at most.
const PIECES: usize = 128;

/// Octets that one poll takes in before others have their turn, so that what was delivered is dealt with while it is in the
/// processor's cache.
const TURN: usize = 256 << 10;

/// Octets with deliveries among them that are worth others' turn: more than TLS gives at a time of what it has in hand.
const WORTH_A_TURN: usize = 4 << 10;

/// Answers that are. Few are not: who waits for them would wait for whatever else runs there.
const ANSWERS_WORTH_A_TURN: usize = 64;

/// A stream, and what is between it and the machine. Dropped before the end, it is the loss of the connection.
pub(crate) struct Pump<Io> {
    pub(crate) io: Io,
    link: Arc<Link>,
    decoder: Decoder,
    out: Outgoing,
    /// Octets that the stream has taken and the machine does not know of.
    transmitted: usize,
    unflushed: bool,
    /// Octets that came in this poll.
    taken_in: usize,
    /// The stream had nothing to read in this poll, and was not written to since: it calls when it has.
    is_read_dry: bool,
    /// In this poll it gave less than there was room for, and that is much for others to deal with.
    has_news: bool,
    /// Why nothing can be written any more. What the server said before may still be there to read.
    write_error: Option<io::Error>,
    finished: bool,
}

/// What the machine wants next.
#[derive(Clone, Copy)]
pub(crate) struct Wishes {
    pub(crate) input: bool,
    pub(crate) timeout: Option<Instant>,
    /// Nothing more comes in; the stream is to be closed as soon as everything is written.
    pub(crate) closed: bool,
    /// The stream is to be closed as it is.
    pub(crate) over: bool,
}

/// What a turn came to.
pub(crate) enum Turn {
    /// Something was moved, and there may be more.
    Moved,
    /// There is nothing to be done before the stream is ready, the time has come, or somebody asks for something.
    Still(Wishes),
    /// The stream is closed, and another is to be dialled.
    Down,
    /// The connection has ended: as was asked for here, or over this error.
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
            unflushed: false,
            taken_in: 0,
            is_read_dry: false,
            has_news: false,
            write_error: None,
            finished: false,
        }
    }

    /// The stream has been replaced by another, which has to do with nothing that was before.
    #[cfg(feature = "evented")]
    pub(crate) fn start_over(&mut self) {
        self.decoder = Decoder::new();
        self.out = Outgoing::default();
        self.transmitted = 0;
        self.unflushed = false;
        self.taken_in = 0;
        self.is_read_dry = false;
        self.has_news = false;
        self.write_error = None;
        self.finished = false;
    }

    /// A poll begins, by whoever is to be woken.
    pub(crate) fn begin_poll(&mut self) {
        self.taken_in = 0;
        self.is_read_dry = false;
        self.has_news = false;
    }

    /// Whether others should have their turn: so much has come in this poll, or most likely all there was, and deliveries or
    /// answers among it. Until they are dealt with more may have come, and the stream need not say that it has nothing.
    pub(crate) fn is_sated(&self) -> bool {
        self.taken_in >= TURN || self.has_news
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Writes and reads back the state machine's state: what it wants next. [`turn`](Self::turn)
    /// handles a timeout that has passed.
    pub(crate) fn wishes(&mut self, now: Instant) -> Wishes {
        let Self { link, out, transmitted, .. } = self;
        link.with(|machine| {
            match std::mem::take(transmitted) {
                0 => {}
                octets => machine.handle_transmitted(now, octets),
            }
            machine.poll_transmit(now, out);
            Wishes {
                input: machine.wants_input(),
                timeout: machine.poll_timeout(),
                closed: machine.is_closed() || machine.is_down(),
                over: machine.is_over(),
            }
        })
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Pump<Io> {
    /// Writes what there is and reads once.
    pub(crate) fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let wishes = self.wishes(now);
        if wishes.over {
            drop(Pin::new(&mut self.io).poll_close(cx));
            return self.finish();
        }
        // After a pause of the process, the server's data is still in the socket, and the socket
        // accepts writes again. So the driver reads and writes before it judges the server's
        // silence, even if the stream had no data earlier in this poll.
        let is_due = wishes.timeout.is_some_and(|timeout| timeout <= now);
        self.is_read_dry &= !is_due;
        let mut has_read = false;
        let mut progress = self.write(cx);
        if wishes.closed && (self.out.is_empty() && !self.unflushed || self.write_error.is_some()) {
            if Pin::new(&mut self.io).poll_close(cx).is_ready() {
                return self.finish();
            }
        } else if wishes.input || self.write_error.is_some() && !wishes.closed {
            progress |= self.read(cx, now);
            has_read = true;
        }
        if is_due {
            self.expire(now, has_read);
            progress = true;
        }
        if progress { Turn::Moved } else { Turn::Still(wishes) }
    }

    /// Handles a timeout that has passed. If the state machine wants input and the stream was not
    /// read in this turn, the next turn reads first.
    fn expire(&mut self, now: Instant, has_read: bool) {
        let Self { link, transmitted, .. } = self;
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

    /// Writes what there is. True when the stream took something.
    fn write(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        if self.unflushed || !self.out.is_empty() {
            // A stream that reads as it writes or flushes, as TLS may, can have something now and does not call.
            self.is_read_dry = false;
        }
        while !self.out.is_empty() && self.write_error.is_none() {
            match poll_write_pieces(Pin::new(&mut self.io), cx, &self.out) {
                Poll::Ready(Ok(0)) => self.write_error = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(octets)) => {
                    self.out.advance(octets);
                    self.transmitted += octets;
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
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => progress = true,
                Poll::Ready(Err(error)) => self.write_error = Some(error),
                Poll::Pending => {}
            }
        }
        progress
    }

    /// Reads once. True when something came, or the stream has come to its end.
    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if self.is_read_dry && self.write_error.is_none() {
            return false;
        }
        let space = self.decoder.space();
        let room = space.len();
        let broken = match Pin::new(&mut self.io).poll_read(cx, space) {
            Poll::Ready(Ok(0)) => Broken::Eof,
            Poll::Ready(Ok(octets)) => {
                self.decoder.filled(octets);
                self.taken_in += octets;
                let Self { link, decoder, out, .. } = self;
                let is_much = link.with(|machine| {
                    let before = machine.buffered_deliveries();
                    machine.handle_input(now, decoder);
                    // What there is to say is not kept waiting by whoever takes them, as long as the stream takes it.
                    let keeps_up = out.is_empty() && machine.has_output();
                    let delivers = octets > WORTH_A_TURN && machine.buffered_deliveries() > before;
                    (delivers || machine.untold_answers() >= ANSWERS_WORTH_A_TURN) && !keeps_up
                });
                self.has_news = is_much && octets < room;
                return true;
            }
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => return true,
            Poll::Ready(Err(error)) => Broken::Io(error.into()),
            Poll::Pending => match self.write_error.take() {
                Some(error) => Broken::Io(error.into()),
                None => {
                    self.is_read_dry = true;
                    return false;
                }
            },
        };
        self.link.handle_loss(broken);
        true
    }

    fn finish(&mut self) -> Turn {
        self.finished = true;
        self.link.with(|machine| if machine.is_down() { Turn::Down } else { Turn::Over(machine.outcome()) })
    }
}

/// Writes as much as the stream takes at once.
fn poll_write_pieces(
    io: Pin<&mut impl AsyncWrite>,
    cx: &mut Context<'_>,
    out: &Outgoing,
) -> Poll<io::Result<usize>> {
    let mut pieces = out.pieces();
    // Small frames stand in one piece, so most often there is no other.
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
        // The link's next call drops the user's bodies in it, without the lock.
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
    /// Whether there is something that the stream has not taken.
    pub(crate) fn has_output(&self) -> bool {
        !self.out.is_empty() || self.unflushed
    }
}
