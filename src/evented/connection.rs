//! The evented connection: its stream, its state and its callbacks.

use super::callbacks::{AfterPanic, AfterRun, CallbackId, Callbacks};
use super::dial_state::{DialInterest, DialState, StreamDialler};
use super::nonblocking::NonBlocking;
use super::waker::ThreadWaker;
use crate::client::{Client, Consumer, Delivery, Handle, WeakHandle};
use crate::driver::{Interest, PollLoop, Polled, Pump, Turn, handle_time_without_stream};
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

/// A connection that is driven by method calls, from any event loop or none. The
/// [module](crate::evented) describes the three ways.
///
/// It is not `Send`, because its callbacks may own values that are not. Its [clients](Self::client)
/// can be used from any thread. The connection stays open as long as this value exists. Dropping it
/// drops the stream, and completes pending requests with
/// [`Broken::DriverDropped`](crate::Broken::DriverDropped), so wait for [`Client::close`] first.
pub struct Evented<S> {
    pump: Pump<NonBlocking<S>>,
    link: Arc<Link>,
    /// Keeps the connection open; `None` in [`run_to_end`](Self::run_to_end), where only the
    /// application's handles do.
    pub(super) handle: Option<Handle>,
    /// A weak reference to the handle that all clients share, to create more of them.
    weak_handle: WeakHandle,
    /// The dialling state of a stream that is dialled; `None` for a stream of the application.
    dial_state: Option<DialState<S>>,
    callbacks: Callbacks<Self>,
    pub(super) thread_waker: Arc<ThreadWaker>,
    /// The latest known time, which never goes back.
    latest_time: Instant,
    /// The outcome of the connection, once it has ended.
    pub(super) ended: Option<Result<(), Error>>,
    /// There may be more to move at once: the last poll ended early, or reading was resumed.
    may_have_work: bool,
    /// The stream accepted no more output in the last poll.
    is_write_blocked: bool,
    /// The state machine wanted input when it was last asked.
    wants_input: bool,
    /// A callback has called [`loop_break`](Self::loop_break).
    pub(super) break_requested: bool,
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
        Self::with_machine(stream, Connection::new(latest, options), latest)
    }

    /// Creates a connection and begins to dial its stream.
    pub(super) fn dialled(
        stream: S,
        options: Options,
        dialler: impl StreamDialler<S> + 'static,
    ) -> Result<Self, Error> {
        let latest = Instant::now();
        let mut conn = Self {
            dial_state: Some(DialState::new(dialler)),
            ..Self::with_machine(stream, Connection::dialled(latest, options), latest)
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

    /// Creates a connection over a stream with this state machine.
    fn with_machine(stream: S, machine: Connection, latest: Instant) -> Self {
        let link = Link::new(machine);
        let handle = Handle::new(link.clone());
        Self {
            pump: Pump::new(NonBlocking(stream), link.clone()),
            link,
            weak_handle: handle.downgrade(),
            handle: Some(handle),
            dial_state: None,
            callbacks: Callbacks::new(),
            thread_waker: Arc::default(),
            latest_time: latest,
            ended: None,
            may_have_work: true,
            is_write_blocked: false,
            wants_input: true,
            break_requested: false,
        }
    }

    /// Returns a handle to make requests with. It can be cloned and used from any thread.
    #[must_use]
    pub fn client(&self) -> Client {
        // If no handle is left, the connection is closing. Requests of a new handle report that.
        Client::with_handle(
            self.weak_handle
                .upgrade()
                .unwrap_or_else(|| Handle::new(self.link.clone())),
        )
    }

    /// Returns the stream.
    pub fn socket(&self) -> &S {
        &self.pump.io.0
    }

    /// Returns the stream, for calls that only its type has. Do not read or write: the connection
    /// would miss these bytes and fail.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.pump.io.0
    }

    /// Returns `true` if there is a connected stream.
    fn has_stream(&self) -> bool {
        self.dial_state.as_ref().is_none_or(DialState::is_connected)
    }

    /// Returns what dialling waits for, or `None` if the stream is not being dialled.
    fn dial_interest(&self) -> Option<DialInterest> {
        self.dial_state.as_ref().and_then(DialState::dial_interest)
    }

    /// Moves everything that can be moved. Returns the error that has ended the connection.
    pub(super) fn drive(&mut self) -> Result<(), Error> {
        self.thread_waker.clear();
        if self.ended.is_none() {
            // Set before the poll, because work may be left if the stream panics.
            self.may_have_work = true;
            match self.poll_turns(&mut Context::from_waker(Waker::noop())) {
                Polled::Busy => return Ok(()),
                Polled::Idle => {}
                Polled::Ended(outcome) => {
                    self.ended = Some(outcome);
                    if let Some(dial_state) = &mut self.dial_state {
                        dial_state.disconnect(&mut self.pump.io.0);
                    }
                }
            }
        }
        self.may_have_work = false;
        self.outcome()
    }

    fn outcome(&self) -> Result<(), Error> {
        self.ended.clone().unwrap_or(Ok(()))
    }

    /// Returns the error of a timeout: [`Error::ReadingPaused`] if reading is paused.
    pub(super) fn timed_out(&self, what: &'static str, after: Duration) -> Error {
        self.link.with(|machine| machine.timeout_error(what, after))
    }

    /// Returns `true` if there may be more to move at once, so the loop should not wait.
    pub(super) fn may_have_work(&self) -> bool {
        self.may_have_work
    }

    /// Takes output from the state machine, and returns what to wait for. A later request calls the
    /// thread waker.
    fn update_interest(&mut self) -> Interest {
        let waker = Waker::from(self.thread_waker.clone());
        loop {
            let now = self.now();
            let interest = if self.has_stream() {
                self.pump.exchange(now)
            } else {
                handle_time_without_stream(&self.link, now)
            };
            if self.link.prepare_to_sleep(&waker) {
                // Reading was resumed. Data that arrived during the pause causes no other event in
                // an edge-triggered loop.
                self.may_have_work |= interest.input && !self.wants_input;
                self.wants_input = interest.input;
                return interest;
            }
        }
    }

    /// Reads and processes input, and writes the output. Call it when the stream is readable.
    /// Harmless at any other time.
    ///
    /// [`on_write`](Self::on_write) does the same. Both exist because event loops report the two
    /// events separately. Each moves bytes in both directions, because TLS may have to write before
    /// it can read.
    ///
    /// # Errors
    /// The error that has ended the connection, unless the client closed it. All pending requests
    /// then have their results, so call [`run_any_callbacks`](Self::run_any_callbacks) once more.
    pub fn on_read(&mut self) -> Result<(), Error> {
        self.drive()
    }

    /// Writes the output, and reads and processes input. Call it when the stream is writable.
    /// Harmless at any other time. [`on_read`](Self::on_read) does the same.
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
        self.latest_time = self.latest_time.max(now);
        self.drive()
    }

    /// Returns `true` if the loop should wait until the stream is readable. Returns `false` while
    /// the buffer of deliveries is full, and after the connection has ended.
    pub fn needs_read(&mut self) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let interest = self.update_interest();
        self.dial_interest()
            .map_or(interest.input, |dial_interest| dial_interest.readable)
    }

    /// Returns `true` if the loop should wait until the stream is writable.
    pub fn needs_write(&mut self) -> bool {
        if self.ended.is_some() {
            return false;
        }
        // This also takes the output, which `has_output` below needs. What the state machine waits
        // for is not needed here.
        self.update_interest();
        self.dial_interest().map_or_else(
            || self.pump.has_output(),
            |dial_interest| dial_interest.writable,
        )
    }

    /// Returns when to call [`on_timeout`](Self::on_timeout) at the latest. Returns the time of the
    /// last call, which is past, if there is something to do at once, such as a callback to run,
    /// and `None` if there is no deadline. Call it before each wait.
    pub fn next_timeout(&mut self) -> Option<Instant> {
        self.thread_waker.clear();
        if self.callbacks.has_ready() {
            Some(self.latest_time)
        } else {
            self.next_deadline()
        }
    }

    /// Returns the same as [`next_timeout`](Self::next_timeout), but ignores callbacks.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        if self.ended.is_some() {
            return None;
        }
        let interest = self.update_interest();
        let can_close =
            interest.close_at_once || interest.close_when_written && !self.pump.has_output();
        let can_write = self.pump.has_output() && !self.is_write_blocked;
        if self.may_have_work || can_close || can_write {
            return Some(self.latest_time);
        }
        earlier(
            interest.timeout,
            self.dial_interest()
                .map(|dial_interest| dial_interest.deadline),
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
        self.thread_waker = Arc::new(ThreadWaker::with_waker(waker));
        self.callbacks.set_thread_waker(&self.thread_waker);
        // Stores the new waker for later requests.
        self.update_interest();
    }

    /// Ends [`run`](Self::run) when the callback that calls this method returns.
    pub fn loop_break(&mut self) {
        self.break_requested = true;
    }
}

impl<S: Read + Write> PollLoop for Evented<S> {
    fn now(&mut self) -> Instant {
        self.latest_time = self.latest_time.max(Instant::now());
        self.latest_time
    }

    fn begin_poll(&mut self) {
        self.pump.begin_poll();
    }

    fn should_yield(&self) -> bool {
        self.pump.should_yield()
    }

    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let Self {
            dial_state,
            pump,
            link,
            ..
        } = self;
        if let Some(dial_state) = dial_state
            && let Some(turn) = dial_state.turn(&mut pump.io.0, link, now)
        {
            if dial_state.is_connected() {
                let received = dial_state.received_counter(&pump.io.0);
                pump.watch_received(received);
            }
            return turn;
        }
        match (pump.turn(cx, now), dial_state) {
            (Turn::Redial, Some(dial_state)) => {
                dial_state.disconnect(&mut pump.io.0);
                pump.reset();
                Turn::Progressed
            }
            (turn, _) => turn,
        }
    }

    fn prepare_to_wait(&mut self, _: &mut Context<'_>, interest: Interest) -> bool {
        self.wants_input = interest.input;
        self.is_write_blocked = self.pump.has_output();
        true
    }
}

impl<S: Read + Write + 'static> Evented<S> {
    /// Registers a callback to run once when a promise, or any other future, is ready. It runs in
    /// [`run`](Self::run) or [`run_any_callbacks`](Self::run_any_callbacks), never inside this
    /// call.
    ///
    /// The callback receives the connection and may call any method of it.
    ///
    /// A panic of the callback or the future is passed on to the caller of these methods. The
    /// callback is removed, because a future must not be polled after a panic. The connection and
    /// the other callbacks stay intact.
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
            Poll::Ready(AfterRun::Remove)
        };
        self.callbacks
            .add(&self.thread_waker, AfterPanic::Remove, Box::new(step))
    }

    /// Registers a callback, as [`on`](Self::on). This is its name in Puka for Python.
    pub fn set_callback<F: Future + 'static>(
        &mut self,
        promise: F,
        callback: impl FnOnce(&mut Self, F::Output) + 'static,
    ) -> CallbackId {
        self.on(promise, callback)
    }

    /// Registers a callback to run with every delivery of a consumer, and a last time with the
    /// reason when the consumer has ended. [`off`](Self::off) cancels the consumer.
    ///
    /// The callback runs as described at [`on`](Self::on), but is not removed after a panic: it
    /// receives the next delivery.
    pub fn on_each(
        &mut self,
        mut consumer: Consumer,
        mut callback: impl FnMut(&mut Self, Result<Delivery, Ended>) + 'static,
    ) -> CallbackId {
        // The callback may panic when it receives the end, and then runs once more.
        let mut has_reported_end = false;
        let step = move |conn: &mut Self, cx: &mut Context<'_>| {
            let next = ready!(Pin::new(&mut consumer).poll_next(cx));
            if let Some(Ok(delivery)) = next {
                callback(conn, Ok(delivery));
                return Poll::Ready(AfterRun::RunAgain);
            }
            if let Some(ended) = consumer.ended()
                && !has_reported_end
            {
                has_reported_end = true;
                callback(conn, Err(ended.clone()));
            }
            Poll::Ready(AfterRun::Remove)
        };
        self.callbacks
            .add(&self.thread_waker, AfterPanic::RunAgain, Box::new(step))
    }

    /// Removes a callback, and drops it with its promise or consumer. That discards the result of a
    /// promise, and cancels a consumer. Returns `false` if the callback was not registered any
    /// more, because it had run for the last time or was removed.
    pub fn off(&mut self, callback: CallbackId) -> bool {
        let was_registered = self.callbacks.is_registered(callback);
        drop(self.callbacks.remove(callback));
        was_registered
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
            Ok(Poll::Ready(AfterRun::Remove)) => drop(self.callbacks.remove(task.id)),
            Ok(Poll::Ready(AfterRun::RunAgain)) => {
                drop(self.callbacks.put_back(task));
                waker.wake();
            }
            Ok(Poll::Pending) => drop(self.callbacks.put_back(task)),
            Err(panic) => {
                match task.after_panic {
                    // Dropping the callback may panic, too. The first panic is the one to report.
                    AfterPanic::Remove => {
                        drop(self.callbacks.remove(task.id));
                        drop(catch_unwind(AssertUnwindSafe(|| drop(task))));
                    }
                    AfterPanic::RunAgain => {
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
