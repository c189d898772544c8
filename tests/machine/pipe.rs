//! A scripted stream and a manual clock, for the driver.

use crate::peer::{method, rabbitmq, reply_to, start, tune};
use futures_lite::{AsyncRead, AsyncWrite};
use puka::protocol::method::connection;
use puka::protocol::{Decoder, FrameKind};
use puka::{Client, Clock, Driver, Error};
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// The result of a read.
#[derive(Debug)]
pub(crate) enum Read {
    Bytes(Vec<u8>),
    Error(io::ErrorKind),
    /// An error of the stream itself.
    OwnError(io::Error),
    Eof,
}

/// What a stream does next, and what was done with it.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// The results of the next reads.
    pub(crate) reads: VecDeque<Read>,
    /// The bytes that were written and not taken by the test.
    pub(crate) written: Vec<u8>,
    /// The maximum number of bytes that one write accepts.
    pub(crate) max_write: Option<usize>,
    /// Writes return `Pending`.
    pub(crate) stalled: bool,
    /// Writes fail with this error.
    pub(crate) write_error: Option<io::ErrorKind>,
    /// The number of next writes that fail with `Interrupted`.
    pub(crate) interruptions: usize,
    /// The errors of the next flushes.
    pub(crate) flush_errors: VecDeque<io::ErrorKind>,
    /// A close returns `Pending`.
    pub(crate) close_is_pending: bool,
    /// The driver has closed the stream.
    pub(crate) closed: bool,
    /// The number of slices of each write.
    pub(crate) writes: Vec<usize>,
    /// The number of writes of one slice without `poll_write_vectored`.
    pub(crate) plain_writes: usize,
    /// The number of reads.
    pub(crate) polled_reads: usize,
    /// The number of flushes.
    pub(crate) flushes: usize,
    /// A client that publishes when a read finds nothing, as another thread may.
    pub(crate) publisher: Option<Client>,
    /// Input that appears after the next write, without a wake.
    pub(crate) read_with_write: Option<Vec<u8>>,
    /// Flushes that return `Pending`, each with the input that appears because of it.
    pub(crate) stuck_flushes: VecDeque<Vec<u8>>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// A stream whose other end is the test.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pipe(Arc<Mutex<Script>>);

/// Counts the wakes of a driver.
#[derive(Debug, Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wakes {
    /// Returns the number of wakes so far.
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Pipe {
    /// Locks the script, for the test to read or change it.
    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    /// Takes the bytes that were written since the last call.
    pub(crate) fn take_written(&self) -> Vec<u8> {
        std::mem::take(&mut self.script().written)
    }

    /// Takes the frames that were written since the last call.
    pub(crate) fn frames(&self) -> Vec<crate::peer::Sent> {
        let mut decoder = Decoder::new();
        decoder.set_frame_max(1 << 24);
        decoder.extend(&self.take_written());
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next_frame().unwrap() {
            let (kind, channel) = (frame.kind(), frame.channel());
            frames.push(crate::peer::Sent {
                kind,
                channel,
                payload: frame.payload().to_vec(),
            });
        }
        assert!(decoder.pending().is_empty());
        frames
    }

    /// Feeds bytes of the server.
    pub(crate) fn feed(&self, bytes: &[u8]) {
        self.read(Read::Bytes(bytes.to_vec()));
    }

    /// Appends the result of a read, and wakes the reader.
    pub(crate) fn read(&self, read: Read) {
        let waker = {
            let mut script = self.script();
            script.reads.push_back(read);
            script.reader.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Lets the stream accept bytes again.
    pub(crate) fn unstall(&self) {
        let waker = {
            let mut script = self.script();
            script.stalled = false;
            script.writer.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Polls a driver once.
    pub(crate) fn poll(&self, driver: &mut Driver<Self, ManualClock>) -> Option<Result<(), Error>> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(driver).poll(&mut cx) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    /// Polls a driver once, with a waker that counts.
    pub(crate) fn poll_with(
        &self,
        driver: &mut Driver<Self, ManualClock>,
        wakes: &Arc<Wakes>,
    ) -> Option<Result<(), Error>> {
        let waker = Waker::from(wakes.clone());
        match Pin::new(driver).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    /// Performs the handshake, as RabbitMQ would.
    pub(crate) fn open(&self, driver: &mut Driver<Self, ManualClock>) {
        self.open_with(driver, tune(2047, 131_072, 60));
    }

    /// Performs the handshake with these limits of the server.
    pub(crate) fn open_with(&self, driver: &mut Driver<Self, ManualClock>, tune: connection::Tune) {
        self.feed(&start(&rabbitmq(), b"PLAIN"));
        self.feed(&method(0, &tune));
        self.feed(&method(0, &connection::OpenOk {}));
        assert!(self.poll(driver).is_none());
        self.take_written();
    }

    /// Replies to the driver's output until it writes nothing more. Returns the names of what it
    /// wrote.
    pub(crate) fn serve(&self, driver: &mut Driver<Self, ManualClock>) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let _ = self.poll(driver);
            let frames = self.frames();
            if frames.is_empty() {
                return names;
            }
            frames
                .iter()
                .filter_map(reply_to)
                .for_each(|bytes| self.feed(&bytes));
            names.extend(
                frames
                    .iter()
                    .filter(|sent| sent.kind != FrameKind::Heartbeat)
                    .map(crate::peer::Sent::name),
            );
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut script = self.script();
        script.polled_reads += 1;
        match script.reads.pop_front() {
            Some(Read::Bytes(mut bytes)) => {
                let count = bytes.len().min(into.len());
                into[..count].copy_from_slice(&bytes[..count]);
                bytes.drain(..count);
                if !bytes.is_empty() {
                    script.reads.push_front(Read::Bytes(bytes));
                }
                Poll::Ready(Ok(count))
            }
            Some(Read::Error(kind)) => Poll::Ready(Err(kind.into())),
            Some(Read::OwnError(error)) => Poll::Ready(Err(error)),
            Some(Read::Eof) => {
                script.reads.push_front(Read::Eof);
                Poll::Ready(Ok(0))
            }
            None => {
                script.reader = Some(cx.waker().clone());
                let publisher = script.publisher.take();
                drop(script);
                if let Some(client) = publisher {
                    drop(client.basic_publish("", "q", "x").send());
                }
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.script().plain_writes += 1;
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut script = self.script();
        if let Some(kind) = script.write_error {
            return Poll::Ready(Err(kind.into()));
        }
        if script.interruptions > 0 {
            script.interruptions -= 1;
            return Poll::Ready(Err(io::ErrorKind::Interrupted.into()));
        }
        if script.stalled {
            script.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        script.writes.push(slices.len());
        let read = script.read_with_write.take();
        script.reads.extend(read.map(Read::Bytes));
        let mut capacity = script.max_write.unwrap_or(usize::MAX);
        let mut taken = 0;
        for slice in slices {
            let count = slice.len().min(capacity);
            script.written.extend_from_slice(&slice[..count]);
            capacity -= count;
            taken += count;
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut script = self.script();
        script.flushes += 1;
        if let Some(kind) = script.flush_errors.pop_front() {
            return Poll::Ready(Err(kind.into()));
        }
        let Some(bytes) = script.stuck_flushes.pop_front() else {
            return Poll::Ready(Ok(()));
        };
        script.reads.extend(
            Some(bytes)
                .filter(|bytes| !bytes.is_empty())
                .map(Read::Bytes),
        );
        Poll::Pending
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut script = self.script();
        if script.close_is_pending {
            return Poll::Pending;
        }
        script.closed = true;
        Poll::Ready(Ok(()))
    }
}

/// The state of a clock.
#[derive(Debug)]
struct Time {
    now: Instant,
    /// The pending sleeps: their deadlines and wakers.
    sleepers: Vec<(Instant, Waker)>,
    /// The deadlines of all sleeps so far.
    deadlines: Vec<Instant>,
}

/// A clock that advances only when the test advances it.
#[derive(Clone, Debug)]
pub(crate) struct ManualClock(Arc<Mutex<Time>>);

impl Default for ManualClock {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Time {
            now: Instant::now(),
            sleepers: Vec::new(),
            deadlines: Vec::new(),
        })))
    }
}

impl ManualClock {
    /// Advances the time, and wakes the sleeps that are due.
    pub(crate) fn pass(&self, time: Duration) {
        let mut due = Vec::new();
        {
            let mut clock = self.0.lock().unwrap();
            clock.now += time;
            let now = clock.now;
            clock.sleepers.retain(|(at, waker)| {
                if *at <= now {
                    due.push(waker.clone());
                }
                *at > now
            });
        }
        due.into_iter().for_each(Waker::wake);
    }

    /// Returns the deadlines of all sleeps so far.
    pub(crate) fn deadlines(&self) -> Vec<Instant> {
        self.0.lock().unwrap().deadlines.clone()
    }
}

/// A sleep until a deadline.
#[derive(Debug)]
pub(crate) struct Sleep(ManualClock, Instant);

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut clock = self.0.0.lock().unwrap();
        if clock.now >= self.1 {
            return Poll::Ready(());
        }
        // A proper timer stores only the last waker of each sleep.
        clock
            .sleepers
            .retain(|(at, waker)| *at != self.1 || !waker.will_wake(cx.waker()));
        clock.sleepers.push((self.1, cx.waker().clone()));
        Poll::Pending
    }
}

impl Clock for ManualClock {
    type Sleep = Sleep;

    fn now(&self) -> Instant {
        self.0.lock().unwrap().now
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        self.0.lock().unwrap().deadlines.push(deadline);
        Sleep(self.clone(), deadline)
    }
}
