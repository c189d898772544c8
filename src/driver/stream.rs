//! The driver of an asynchronous byte stream.

use super::Clock;
use crate::error::{Broken, Error};
use crate::link::Link;
use crate::machine::Outgoing;
use crate::protocol::Decoder;
use futures_io::{AsyncRead, AsyncWrite};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// Pieces that one vectored write takes at most.
const PIECES: usize = 128;

/// Rounds in one poll before others have their turn.
const ROUNDS: usize = 64;

/// Octets that one poll takes in before others have their turn, so that what was delivered is dealt with while it is in the
/// processor's cache.
const TURN: usize = 256 << 10;

/// Moves octets between a stream and the connection, for as long as the connection lives.
///
/// Poll it anywhere: spawn it, or race it with what you wait for. It resolves when the connection is closed: to `Ok` when it
/// was closed from this side, else to why. Dropping it drops the stream, and ends what is under way with
/// [`Broken::DriverDropped`].
///
/// One poll moves everything that can be moved, and it sleeps without a timer other than the next deadline.
#[must_use = "nothing is sent or received unless the driver is polled"]
pub struct Driver<Io, C: Clock> {
    io: Io,
    clock: C,
    link: Arc<Link>,
    decoder: Decoder,
    out: Outgoing,
    /// Octets that the stream has taken and the machine does not know of.
    transmitted: usize,
    unflushed: bool,
    /// Octets that came in this poll.
    taken_in: usize,
    /// Why nothing can be written any more. What the server said before may still be there to read.
    write_error: Option<io::Error>,
    sleep: Option<(Instant, Pin<Box<C::Sleep>>)>,
    finished: bool,
}

impl<Io, C: Clock> fmt::Debug for Driver<Io, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("finished", &self.finished).finish_non_exhaustive()
    }
}

/// What the machine wants next.
struct Wishes {
    input: bool,
    timeout: Option<Instant>,
    closed: bool,
    over: bool,
}

impl<Io, C: Clock> Driver<Io, C> {
    pub(crate) fn new(io: Io, clock: C, link: Arc<Link>) -> Self {
        Self {
            io,
            clock,
            link,
            decoder: Decoder::new(),
            out: Outgoing::default(),
            transmitted: 0,
            unflushed: false,
            taken_in: 0,
            write_error: None,
            sleep: None,
            finished: false,
        }
    }

    /// Brings the machine up to date and asks what it wants.
    fn wishes(&mut self, now: Instant) -> Wishes {
        let Self { link, out, transmitted, .. } = self;
        link.with(|machine| {
            match std::mem::take(transmitted) {
                0 => {}
                octets => machine.handle_transmitted(now, octets),
            }
            machine.poll_transmit(now, out);
            let mut timeout = machine.poll_timeout();
            if timeout.is_some_and(|timeout| timeout <= now) {
                machine.handle_timeout(now);
                machine.poll_transmit(now, out);
                timeout = machine.poll_timeout();
            }
            Wishes {
                input: machine.wants_input(),
                timeout,
                closed: machine.is_closed(),
                over: machine.is_over(),
            }
        })
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin, C: Clock> Driver<Io, C> {
    /// Writes what there is. True when the stream took something.
    fn write(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        while !self.out.is_empty() && self.write_error.is_none() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(self.out.pieces()) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            match Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..count]) {
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
        let broken = match Pin::new(&mut self.io).poll_read(cx, self.decoder.space()) {
            Poll::Ready(Ok(0)) => Broken::Eof,
            Poll::Ready(Ok(octets)) => {
                self.decoder.filled(octets);
                self.taken_in += octets;
                let Self { link, decoder, .. } = self;
                link.with(|machine| machine.handle_input(now, decoder));
                return true;
            }
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => return true,
            Poll::Ready(Err(error)) => Broken::Io(error.into()),
            Poll::Pending => match self.write_error.take() {
                Some(error) => Broken::Io(error.into()),
                None => return false,
            },
        };
        self.link.with(|machine| machine.handle_loss(broken));
        true
    }

    /// Whether the time has come that was slept for.
    fn slept(&mut self, cx: &mut Context<'_>, until: Option<Instant>) -> bool {
        let Some(until) = until else {
            self.sleep = None;
            return false;
        };
        // A sleep that ends too early costs a wake-up, a new one at each change costs more.
        if self.sleep.as_ref().is_none_or(|(armed, _)| *armed > until) {
            self.sleep = Some((until, Box::pin(self.clock.sleep_until(until))));
        }
        let slept = self.sleep.as_mut().is_some_and(|(_, sleep)| sleep.as_mut().poll(cx).is_ready());
        if slept {
            self.sleep = None;
        }
        slept
    }

    /// Closes the stream once nothing more is to be written.
    fn finish(&mut self, cx: &mut Context<'_>, over: bool) -> Poll<Result<(), Error>> {
        let closed = Pin::new(&mut self.io).poll_close(cx);
        if closed.is_pending() && !over {
            return Poll::Pending;
        }
        self.finished = true;
        Poll::Ready(self.link.with(|machine| match machine.why_closed() {
            None | Some(Error::Closed) => Ok(()),
            Some(error) => Err(error.clone()),
        }))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin, C: Clock + Unpin> Future for Driver<Io, C> {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.taken_in = 0;
        for _ in 0..ROUNDS {
            if this.taken_in >= TURN {
                break;
            }
            let now = this.clock.now();
            let wishes = this.wishes(now);
            if wishes.over {
                return this.finish(cx, true);
            }
            let mut progress = this.write(cx);
            if wishes.closed && (this.out.is_empty() && !this.unflushed || this.write_error.is_some()) {
                if let Poll::Ready(result) = this.finish(cx, false) {
                    return Poll::Ready(result);
                }
            } else if wishes.input || this.write_error.is_some() && !wishes.closed {
                progress |= this.read(cx, now);
            }
            if !progress && !this.slept(cx, wishes.timeout) && this.link.sleep(cx.waker()) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<Io, C: Clock> Drop for Driver<Io, C> {
    fn drop(&mut self) {
        if !self.finished {
            self.link.with(|machine| machine.handle_loss(Broken::DriverDropped));
        }
    }
}
