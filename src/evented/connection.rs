//! The evented connection: its stream, its state and its callbacks.

use super::callbacks::{CallbackId, Callbacks, Left, Runs};
use super::dialled::{Dialled, Dialler, Underway};
use super::nonblocking::NonBlocking;
use super::waker::ThreadWaker;
use crate::client::{Client, Consumer, Delivery, Handle, WeakHandle};
use crate::driver::{Interest, Polled, Pump, Rounds, Turn, tend};
use crate::error::Error;
use crate::link::Link;
use crate::machine::{Connection, Ended, earlier};
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

/// A connection driven by method calls, from any event loop or none. See the
/// [module](crate::evented) for how.
///
/// It is not `Send`, because its callbacks may own values that are not; its [clients](Self::client)
/// can be used from any thread. It keeps the connection open. Dropping it drops the stream, and
/// completes pending requests with [`Broken::DriverDropped`](crate::Broken::DriverDropped): wait
/// for [`Client::close`] first.
pub struct Evented<S> {
    pump: Pump<NonBlocking<S>>,
    link: Arc<Link>,
    /// Keeps the connection open; `None` in [`run_to_end`](Self::run_to_end), where only the
    /// application's handles do.
    pub(super) handle: Option<Handle>,
    others: WeakHandle,
    /// The dialling state of a stream that is dialled; `None` for a stream of the application.
    dialled: Option<Dialled<S>>,
    callbacks: Callbacks<Self>,
    pub(super) bell: Arc<ThreadWaker>,
    /// The latest known time. It never goes back.
    latest: Instant,
    /// The outcome of the connection, once it has ended.
    pub(super) ended: Option<Result<(), Error>>,
    /// There may be more to move: the last poll ended early, or reading has been resumed.
    more: bool,
    /// The stream accepted no more output in the last poll.
    stuck: bool,
    /// Whether the state machine wanted input when it was last asked.
    reading: bool,
    pub(super) loop_broken: bool,
}

impl<S> fmt::Debug for Evented<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evented")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl<S: Read + Write> Evented<S> {
    /// Creates a connection over a stream that returns `WouldBlock` instead of blocking. The
    /// handshake begins with the first call that moves bytes. The endpoints in the options are
    /// ignored.
    pub fn new(stream: S, options: Options) -> Self {
        let latest = Instant::now();
        Self::over(stream, Connection::new(latest, options), latest)
    }

    /// Creates a connection and begins to dial its stream.
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
        conn.link.with(|machine| {
            if machine.is_closed() {
                machine.outcome()
            } else {
                Ok(())
            }
        })?;
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

    /// Returns a handle to make requests with. It can be cloned and used from any thread.
    #[must_use]
    pub fn client(&self) -> Client {
        // If no handle is left, the connection is closing. Requests of a new handle report that.
        Client::with_handle(
            self.others
                .upgrade()
                .unwrap_or_else(|| Handle::new(self.link.clone())),
        )
    }

    /// Returns the stream.
    pub fn socket(&self) -> &S {
        &self.pump.io.0
    }

    /// Returns the stream, for calls specific to its type. Bytes read or written here are lost to
    /// the connection.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.pump.io.0
    }

    /// Returns `true` if there is a connected stream.
    fn has_stream(&self) -> bool {
        self.dialled.as_ref().is_none_or(Dialled::is_standing)
    }

    /// Returns what dialling is waiting for, if the stream is being dialled.
    fn underway(&self) -> Option<Underway> {
        self.dialled.as_ref().and_then(Dialled::underway)
    }

    /// Moves everything that can be moved.
    pub(super) fn drive(&mut self) -> Result<(), Error> {
        self.bell.clear();
        if self.ended.is_none() {
            // If the stream panics, work may be left.
            self.more = true;
            match self.poll_rounds(&mut Context::from_waker(Waker::noop())) {
                Polled::Busy => return Ok(()),
                Polled::Idle => {}
                Polled::Over(outcome) => {
                    self.ended = Some(outcome);
                    if let Some(dialled) = &mut self.dialled {
                        dialled.hang_up(&mut self.pump.io.0);
                    }
                }
            }
        }
        self.more = false;
        self.outcome()
    }

    fn outcome(&self) -> Result<(), Error> {
        self.ended.clone().unwrap_or(Ok(()))
    }

    /// Returns the error of a timeout: [`Error::ReadingPaused`] if reading is paused.
    pub(super) fn timed_out(&self, what: &'static str, after: Duration) -> Error {
        self.link.with(|machine| machine.timeout_error(what, after))
    }

    /// Returns `true` if there may be more to move, so that there is no need to wait.
    pub(super) fn has_more(&self) -> bool {
        self.more
    }

    /// Returns what to wait for. A later request rings the bell.
    fn interest(&mut self) -> Interest {
        let waker = Waker::from(self.bell.clone());
        loop {
            let now = self.now();
            let interest = if self.has_stream() {
                self.pump.interest(now)
            } else {
                tend(&self.link, now)
            };
            if self.link.prepare_to_sleep(&waker) {
                self.more |= interest.input && !self.reading;
                self.reading = interest.input;
                return interest;
            }
        }
    }

    /// Reads and processes input, and writes the output. Call it when the stream is readable.
    /// Harmless at any other time.
    ///
    /// # Errors
    /// The error that has ended the connection, unless the client closed it. All pending requests
    /// have their results then, so call [`run_any_callbacks`](Self::run_any_callbacks) once more.
    pub fn on_read(&mut self) -> Result<(), Error> {
        self.drive()
    }

    /// Writes the output, and reads and processes input. Call it when the stream is writable.
    /// Harmless at any other time.
    ///
    /// # Errors
    /// As [`on_read`](Self::on_read).
    pub fn on_write(&mut self) -> Result<(), Error> {
        self.drive()
    }

    /// Sends heartbeats, fails what has reached its deadline, and continues unfinished work. Call
    /// it at the [`next_timeout`](Self::next_timeout). Harmless at any other time.
    ///
    /// A `now` later than the system's time is accepted, so that hours can pass at once in a test.
    ///
    /// # Errors
    /// As [`on_read`](Self::on_read).
    pub fn on_timeout(&mut self, now: Instant) -> Result<(), Error> {
        self.latest = self.latest.max(now);
        self.drive()
    }

    /// Returns `true` if the loop should wait until the stream is readable. `false` while the
    /// buffer of deliveries is at the limit in the options, and after the connection has ended.
    pub fn needs_read(&mut self) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let interest = self.interest();
        self.underway()
            .map_or(interest.input, |underway| underway.readable)
    }

    /// Returns `true` if the loop should wait until the stream is writable.
    pub fn needs_write(&mut self) -> bool {
        if self.ended.is_some() {
            return false;
        }
        self.interest();
        self.underway()
            .map_or_else(|| self.pump.has_output(), |underway| underway.writable)
    }

    /// Returns when to call [`on_timeout`](Self::on_timeout) at the latest. This is an instant in
    /// the past if there is something to do at once, callbacks included, and `None` if only the
    /// stream has to be waited for. Call it before each wait.
    pub fn next_timeout(&mut self) -> Option<Instant> {
        self.bell.clear();
        if self.callbacks.has_ready() {
            Some(self.latest)
        } else {
            self.next_deadline()
        }
    }

    /// Returns the same as [`next_timeout`](Self::next_timeout), but ignores callbacks.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        if self.ended.is_some() {
            return None;
        }
        let interest = self.interest();
        let closes = interest.over || interest.closed && !self.pump.has_output();
        let writes = self.pump.has_output() && !self.stuck;
        if self.more || closes || writes {
            return Some(self.latest);
        }
        earlier(
            interest.timeout,
            self.underway().map(|underway| underway.until),
        )
    }

    /// Returns `true` if the connection has ended and its stream is closed. Callbacks may still be
    /// ready to run.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    /// Sets a waker that is called when another thread makes a request, which the application's
    /// event loop cannot notice otherwise. Not needed with a single thread, nor with
    /// [`run`](Self::run) and [`wait`](Self::wait).
    pub fn set_waker(&mut self, waker: Waker) {
        self.bell = Arc::new(ThreadWaker::with_waker(waker));
        self.callbacks.rewire(&self.bell);
        self.interest();
    }

    /// Ends [`run`](Self::run) when the callback that calls this method returns.
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
        let Self {
            dialled,
            pump,
            link,
            ..
        } = self;
        if let Some(dialled) = dialled
            && let Some(turn) = dialled.turn(&mut pump.io.0, link, now)
        {
            if dialled.is_standing() {
                let received = dialled.received(&pump.io.0);
                pump.count(received);
            }
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

    fn rest(&mut self, _: &mut Context<'_>, interest: Interest) -> bool {
        self.reading = interest.input;
        self.stuck = self.pump.has_output();
        true
    }
}

impl<S: Read + Write + 'static> Evented<S> {
    /// Registers a callback to run once when a promise, or any other future, is ready. It runs in
    /// [`run`](Self::run) or [`run_any_callbacks`](Self::run_any_callbacks), never inside this
    /// call.
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

    /// An alias of [`on`](Self::on), by Puka's name.
    pub fn set_callback<F: Future + 'static>(
        &mut self,
        promise: F,
        callback: impl FnOnce(&mut Self, F::Output) + 'static,
    ) -> CallbackId {
        self.on(promise, callback)
    }

    /// Registers a callback to run with every delivery of a consumer, and a last time with the
    /// reason when the consumer has ended. [`off`](Self::off) cancels the consumer. Otherwise as
    /// [`on`](Self::on), except that the callback stays registered after a panic and receives the
    /// next delivery.
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
            if let Some(ended) = consumer
                .ended()
                .filter(|_| !std::mem::replace(&mut over, true))
            {
                callback(conn, Err(ended.clone()));
            }
            Poll::Ready(Left::Nothing)
        };
        self.callbacks
            .add(&self.bell, Runs::AgainAfterPanic, Box::new(step))
    }

    /// Removes a callback, and drops it with its promise or consumer: the result of a promise is
    /// discarded, a consumer is cancelled. Returns `false` if the callback had already run for the
    /// last time.
    pub fn off(&mut self, callback: CallbackId) -> bool {
        let known = self.callbacks.is_known(callback);
        drop(self.callbacks.forget(callback));
        known
    }

    /// Runs all ready callbacks, including those that become ready meanwhile. Does not wait, and
    /// moves no bytes.
    pub fn run_any_callbacks(&mut self) {
        while self.run_callback() {}
    }

    /// Runs one callback, if one is ready. Returns `true` if it did.
    pub(super) fn run_callback(&mut self) -> bool {
        let Some(mut task) = self.callbacks.take_ready() else {
            return false;
        };
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

    /// Returns `true` if a callback is ready.
    pub(super) fn has_ready_callback(&mut self) -> bool {
        self.callbacks.has_ready()
    }
}
