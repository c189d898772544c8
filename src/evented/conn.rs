//! The connection in hand: its stream, and what is to be done about it.

use super::bell::Bell;
use super::callbacks::{CallbackId, Callbacks, Left, Runs};
use super::dialled::{Dialled, Dialler, Underway};
use super::nonblocking::NonBlocking;
use crate::client::{Client, Consumer, Delivery, Handle, WeakHandle};
use crate::driver::{Polled, Pump, Rounds, Turn, Wishes, tend};
use crate::error::Error;
use crate::link::Link;
use crate::machine::{Connection, Ended};
use crate::options::Options;
use futures_lite::Stream as _;
use std::fmt;
use std::future::Future;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

/// A connection that is driven by hand, from any event loop or none. See the [module](crate::evented) for how.
///
/// It stays on the thread that made it, because callbacks may hold what can't be sent to another; its
/// [clients](Self::client) can be used by any thread. It keeps the connection open. Dropping it drops the stream, and ends what is under way with
/// [`Broken::DriverDropped`](crate::Broken::DriverDropped): wait for [`Client::close`] before.
pub struct Evented<S> {
    pump: Pump<NonBlocking<S>>,
    link: Arc<Link>,
    /// Keeps the connection open, unless that is left to the others.
    pub(super) handle: Option<Handle>,
    others: WeakHandle,
    /// What there is of a stream that is dialled.
    dialled: Option<Dialled<S>>,
    callbacks: Callbacks<Self>,
    pub(super) bell: Arc<Bell>,
    /// The latest time that is known: it never goes back.
    latest: Instant,
    /// How the connection has ended.
    pub(super) ended: Option<Result<(), Error>>,
    /// There was more to be moved, or to be read again, when others had their turn.
    more: bool,
    /// The stream took no more of what there is to write.
    stuck: bool,
    /// Whether reading was wished for when last asked.
    reading: bool,
    pub(super) loop_broken: bool,
}

impl<S> fmt::Debug for Evented<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evented").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl<S: Read + Write> Evented<S> {
    /// A connection over a stream that says `WouldBlock` instead of waiting. The handshake begins with the first call
    /// that moves octets. Of the options, the endpoint does not matter here.
    pub fn new(stream: S, options: Options) -> Self {
        let latest = Instant::now();
        Self::over(stream, Connection::new(latest, options), latest)
    }

    /// A connection whose stream is dialled, which begins at once.
    pub(super) fn dialled(
        stream: S,
        options: Options,
        dialler: impl Dialler<S> + 'static,
    ) -> Result<Self, Error> {
        let latest = Instant::now();
        let mut conn = Self {
            dialled: Some(Dialled::new(dialler)),
            ..Self::over(stream, Connection::dialled(latest, options), latest)
        };
        conn.turn(&mut Context::from_waker(Waker::noop()), latest);
        conn.link.with(|machine| if machine.is_closed() { machine.outcome() } else { Ok(()) })?;
        Ok(conn)
    }

    fn over(stream: S, machine: Connection, latest: Instant) -> Self {
        let link = Link::new(machine);
        let handle = Handle::new(link.clone());
        Self {
            pump: Pump::new(NonBlocking(stream), link.clone()),
            link,
            others: handle.downgrade(),
            handle: Some(handle),
            dialled: None,
            callbacks: Callbacks::new(),
            bell: Arc::default(),
            latest,
            ended: None,
            more: true,
            stuck: false,
            reading: true,
            loop_broken: false,
        }
    }

    /// A handle to ask with. Clone it for whoever has something to ask, on any thread.
    #[must_use]
    pub fn client(&self) -> Client {
        // When none is left, the connection is closing, and that is what another will say.
        Client::with_handle(self.others.upgrade().unwrap_or_else(|| Handle::new(self.link.clone())))
    }

    /// The stream.
    pub fn socket(&self) -> &S {
        &self.pump.io.0
    }

    /// The stream, for what its kind needs. Octets that are read or written here are lost to the connection.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.pump.io.0
    }

    /// Whether there is a stream to move octets over.
    fn has_stream(&self) -> bool {
        self.dialled.as_ref().is_none_or(Dialled::is_standing)
    }

    /// What is waited for while a stream is being had.
    fn underway(&self) -> Option<Underway> {
        self.dialled.as_ref().and_then(Dialled::underway)
    }

    /// Moves what can be moved.
    pub(super) fn drive(&mut self) -> Result<(), Error> {
        self.bell.clear();
        // If the stream panics, work may be left.
        self.more = true;
        if self.ended.is_none() {
            match self.poll_rounds(&mut Context::from_waker(Waker::noop())) {
                Polled::Idle => self.more = false,
                Polled::Busy => {}
                Polled::Over(outcome) => {
                    self.ended = Some(outcome);
                    if let Some(dialled) = &mut self.dialled {
                        dialled.hang_up(&mut self.pump.io.0);
                    }
                }
            }
        }
        self.more &= self.ended.is_none();
        self.outcome()
    }

    fn outcome(&self) -> Result<(), Error> {
        self.ended.clone().unwrap_or(Ok(()))
    }

    /// Returns the error of a timeout: [`Error::ReadingPaused`] if reading is paused.
    pub(super) fn timed_out(&self, what: &'static str, after: Duration) -> Error {
        self.link.with(|machine| machine.timed_out(what, after))
    }

    /// Whether there may be more to be moved, so that there is nothing to wait for.
    pub(super) fn has_more(&self) -> bool {
        self.more
    }

    /// What there is to wait for. Whoever asks for something from here on rings the bell.
    fn wishes(&mut self) -> Wishes {
        let waker = Waker::from(self.bell.clone());
        loop {
            let now = self.now();
            let wishes = if self.has_stream() { self.pump.wishes(now) } else { tend(&self.link, now) };
            if self.link.sleep(&waker) {
                self.more |= wishes.input && !self.reading;
                self.reading = wishes.input;
                return wishes;
            }
        }
    }

    /// To be called when the stream can be read from. Takes in what has come, and writes what there is to say to it.
    /// Harmless at any other time.
    ///
    /// # Errors
    /// Why the connection has ended, unless it was closed from this side. Everything that was under way has its answer
    /// then, so [`run_any_callbacks`](Self::run_any_callbacks) once more.
    pub fn on_read(&mut self) -> Result<(), Error> {
        self.drive()
    }

    /// To be called when the stream can be written to. Writes what there is, and takes in what has come meanwhile.
    /// Harmless at any other time.
    ///
    /// # Errors
    /// As [`on_read`](Self::on_read).
    pub fn on_write(&mut self) -> Result<(), Error> {
        self.drive()
    }

    /// To be called when the time has come that [`next_timeout`](Self::next_timeout) said. Sends heartbeats, gives up what
    /// takes too long, and goes on with what was left. Harmless at any other time.
    ///
    /// A time that is later than the system's is believed, so that a test can have hours pass in a moment.
    ///
    /// # Errors
    /// As [`on_read`](Self::on_read).
    pub fn on_timeout(&mut self, now: Instant) -> Result<(), Error> {
        self.latest = self.latest.max(now);
        self.drive()
    }

    /// Whether to wait until the stream can be read from. Not while as many deliveries wait to be taken as the options
    /// allow, nor once the connection has ended.
    pub fn needs_read(&mut self) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let wishes = self.wishes();
        self.underway().map_or(wishes.input, |underway| underway.readable)
    }

    /// Whether to wait until the stream can be written to.
    pub fn needs_write(&mut self) -> bool {
        if self.ended.is_some() {
            return false;
        }
        self.wishes();
        self.underway().map_or_else(|| self.pump.has_output(), |underway| underway.writable)
    }

    /// When to call [`on_timeout`](Self::on_timeout) at the latest; a time that has passed when there is something left to
    /// do at once, callbacks included. `None` when there is nothing but the stream to wait for. Ask before each wait.
    pub fn next_timeout(&mut self) -> Option<Instant> {
        self.bell.clear();
        if self.callbacks.has_ready() { Some(self.latest) } else { self.next_deadline() }
    }

    /// The same, but for callbacks.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        if self.ended.is_some() {
            return None;
        }
        let wishes = self.wishes();
        let closes = wishes.over || wishes.closed && !self.pump.has_output();
        let writes = self.pump.has_output() && !self.stuck;
        if self.more || closes || writes {
            return Some(self.latest);
        }
        [wishes.timeout, self.underway().map(|underway| underway.until)].into_iter().flatten().min()
    }

    /// Whether the connection has ended, and the stream with it. Callbacks may still be ready to be run.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    /// Has another loop woken when there is something to do that it can't know of, because another thread has asked for
    /// it. A loop of one thread, or one of ours, needs none.
    pub fn set_waker(&mut self, waker: Waker) {
        self.bell = Arc::new(Bell::with_waker(waker));
        self.callbacks.rewire(&self.bell);
        self.wishes();
    }

    /// Ends [`run`](Self::run) when the callback that calls it returns.
    pub fn loop_break(&mut self) {
        self.loop_broken = true;
    }
}

impl<S: Read + Write> Rounds for Evented<S> {
    fn now(&mut self) -> Instant {
        self.latest = self.latest.max(Instant::now());
        self.latest
    }

    fn begin_poll(&mut self) {
        self.pump.begin_poll();
    }

    fn is_sated(&self) -> bool {
        self.pump.is_sated()
    }

    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let Self { dialled, pump, link, .. } = self;
        if let Some(dialled) = dialled
            && let Some(turn) = dialled.turn(&mut pump.io.0, link, now)
        {
            return turn;
        }
        match (pump.turn(cx, now), dialled) {
            (Turn::Down, Some(dialled)) => {
                dialled.hang_up(&mut pump.io.0);
                pump.start_over();
                Turn::Moved
            }
            (turn, _) => turn,
        }
    }

    fn rest(&mut self, _: &mut Context<'_>, wishes: Wishes) -> bool {
        self.reading = wishes.input;
        self.stuck = self.pump.has_output();
        true
    }
}

impl<S: Read + Write + 'static> Evented<S> {
    /// Has a callback run, once, when a promise is answered, or any future is ready. It runs in [`run`](Self::run) or
    /// [`run_any_callbacks`](Self::run_any_callbacks), never inside this call.
    ///
    /// The callback receives the connection and may call any method of it. A panic of the callback
    /// is passed on to the caller of these methods; the connection and the other callbacks stay
    /// intact. So is a panic of the future, and the callback is removed, because a future must not
    /// be polled after a panic.
    #[doc(alias = "set_callback")]
    pub fn on<F: Future + 'static>(
        &mut self,
        promise: F,
        callback: impl FnOnce(&mut Self, F::Output) + 'static,
    ) -> CallbackId {
        let mut promise = Box::pin(promise);
        let mut callback = Some(callback);
        let step = move |conn: &mut Self, cx: &mut Context<'_>| {
            let output = ready!(promise.as_mut().poll(cx));
            if let Some(callback) = callback.take() {
                callback(conn, output);
            }
            Poll::Ready(Left::Nothing)
        };
        self.callbacks.add(&self.bell, Runs::Once, Box::new(step))
    }

    /// The same as [`on`](Self::on), by Puka's name.
    pub fn set_callback<F: Future + 'static>(
        &mut self,
        promise: F,
        callback: impl FnOnce(&mut Self, F::Output) + 'static,
    ) -> CallbackId {
        self.on(promise, callback)
    }

    /// Has a callback run with every delivery of a consumer, and with the reason when it has ended, which is the last time.
    /// [`off`](Self::off) cancels it. What is said of callbacks at [`on`](Self::on) holds here, too; after a panic the next
    /// delivery is the next to come.
    pub fn on_each(
        &mut self,
        mut consumer: Consumer,
        mut callback: impl FnMut(&mut Self, Result<Delivery, Ended>) + 'static,
    ) -> CallbackId {
        let mut over = false;
        let step = move |conn: &mut Self, cx: &mut Context<'_>| {
            let next = ready!(Pin::new(&mut consumer).poll_next(cx));
            if let Some(Ok(delivery)) = next {
                callback(conn, Ok(delivery));
                return Poll::Ready(Left::More);
            }
            if let Some(ended) = consumer.ended().filter(|_| !std::mem::replace(&mut over, true)) {
                callback(conn, Err(ended.clone()));
            }
            Poll::Ready(Left::Nothing)
        };
        self.callbacks.add(&self.bell, Runs::AgainAfterPanic, Box::new(step))
    }

    /// Takes a callback back. It is dropped with what it waits for: a promise's answer is absorbed, a consumer is
    /// cancelled. False when it has run for the last time already.
    pub fn off(&mut self, callback: CallbackId) -> bool {
        let known = self.callbacks.is_known(callback);
        drop(self.callbacks.forget(callback));
        known
    }

    /// Runs the callbacks whose time has come, those included that become ready meanwhile. Does not wait, and moves no
    /// octets.
    pub fn run_any_callbacks(&mut self) {
        while self.run_callback() {}
    }

    /// Runs one callback, if one is ready.
    pub(super) fn run_callback(&mut self) -> bool {
        let Some(mut task) = self.callbacks.take_ready() else { return false };
        let waker = task.waker.clone();
        let mut cx = Context::from_waker(&waker);
        match catch_unwind(AssertUnwindSafe(|| (task.step)(self, &mut cx))) {
            Ok(Poll::Ready(Left::Nothing)) => drop(self.callbacks.forget(task.id)),
            Ok(Poll::Ready(Left::More)) => {
                drop(self.callbacks.put_back(task));
                waker.wake();
            }
            Ok(Poll::Pending) => drop(self.callbacks.put_back(task)),
            Err(panic) => {
                match task.runs {
                    // Dropping the callback may panic, too. The first panic is the one to report.
                    Runs::Once => {
                        drop(self.callbacks.forget(task.id));
                        drop(catch_unwind(AssertUnwindSafe(|| drop(task))));
                    }
                    Runs::AgainAfterPanic => {
                        drop(self.callbacks.put_back(task));
                        waker.wake();
                    }
                }
                resume_unwind(panic);
            }
        }
        true
    }

    /// Whether a callback is ready.
    pub(super) fn has_ready_callback(&mut self) -> bool {
        self.callbacks.has_ready()
    }
}
