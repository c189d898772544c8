//! The connection: its states, and the calls that move it from one to the next.
//!
//! ```text
//!  dialled()                   new()
//!      |                         |
//!      v     handle_dialled      v       open-ok                 restored
//!    Down ------------------> Handshake ----------> Restoring -------------> Open
//!      ^                       |  |                     |                    ^ | |
//!      |                       |  +---------------------|--------------------+ | |
//!      |                       |    nothing to restore  |                      | |
//!      +-----------------------+------------------------+----------------------+ |
//!         lost, and the connection recovers                                      |
//!                                                                          close |
//!                                                                                v
//!    Closed <--------------------------- Closing <-------------------------- Draining
//!            close-ok, close or timeout           nothing pending, or timeout
//! ```
//!
//! - Every state leads to `Closed` if the connection is lost and does not recover. It does not
//!   recover without [`Recovery`](crate::Recovery), at a limit of it, or after `close`.
//! - A failed attempt to dial leaves the connection in `Down` if another one is allowed.
//! - If the server violates the protocol, `connection.close` reports that to it. Then `Down`
//!   follows if the connection recovers, else `Closing`.
//! - After `close`, `Down` leads to `Closed` at once. `Handshake` and `Restoring` continue while
//!   promises are pending, and lead to `Draining` instead of `Open`.
//! - `Closed` is final. Its remaining output may be written for a short time.

pub(crate) mod api;
pub(crate) mod closing;
pub(crate) mod connecting;
pub(crate) mod ending;
pub(crate) mod handshaking;
pub(crate) mod lifecycle;
pub(crate) mod recovering;
pub(crate) mod secret_updates;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod timeout;

use crate::error::{Broken, Error};
use crate::machine::connection::lifecycle::Lifecycle;
use crate::machine::connection::state::State;
use crate::machine::context::{Context, Stage};
use crate::machine::recovery::backoff::Backoff;
use crate::machine::recovery::topology::Topology;
use crate::machine::request::capacity::CapacityWaits;
use crate::machine::session::Session;
use crate::machine::{ConsumerId, Dialled, Dialling, FilterOutcome, FilterStep, ListenerId};
use crate::machine::{LoginOutcome, LoginStep, Outgoing, PromiseId};
use crate::options::{Options, Resubscribe};
use crate::protocol::Decoder;
use std::time::Instant;

/// An event for the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A promise has completed: [`Connection::fetch`] returns its outcome. There is no event for a
    /// promise that was complete when it was returned, such as that of a publish without a confirm
    /// or within a transaction.
    Completed(PromiseId),
    /// A consumer has deliveries or has ended. See [`Connection::take_deliveries`] and
    /// [`Consumer::ended`](crate::machine::Consumer::ended).
    Deliveries(ConsumerId),
    /// A listener has notices. See [`Connection::take_notice`].
    Notices(ListenerId),
}

/// A connection without its transport.
///
/// It has roughly four kinds of methods. The driver calls them in this order, again and again:
///
/// 1. Input, prefixed with `handle_`: [`handle_input`](Self::handle_input) while
///    [`wants_input`](Self::wants_input) returns `true`,
///    [`handle_partial_input`](Self::handle_partial_input), [`handle_loss`](Self::handle_loss), and
///    [`handle_timeout`](Self::handle_timeout) when the time that
///    [`poll_timeout`](Self::poll_timeout) returned has come. Handle all available input before a
///    timeout, because the silence of the server is measured there.
/// 2. Steps that run the user's code, with no lock held: [`poll_login`](Self::poll_login) and
///    [`handle_login`](Self::handle_login), [`poll_filter`](Self::poll_filter) and
///    [`handle_filter`](Self::handle_filter). Then the events of [`poll_event`](Self::poll_event),
///    until it returns `None`.
/// 3. Output: [`poll_transmit`](Self::poll_transmit), and
///    [`handle_transmitted`](Self::handle_transmitted) for the written bytes. Afterwards,
///    [`poll_timeout`](Self::poll_timeout) returns when to call again. Without a transport, while
///    [`is_down`](Self::is_down) returns `true`, [`poll_dial`](Self::poll_dial) takes the place of
///    output, followed by [`handle_dialled`](Self::handle_dialled) or
///    [`handle_dial_failure`](Self::handle_dial_failure), and [`tend`](Self::tend) returns when to
///    call again.
/// 4. Requests of the program, such as [`publish`](Self::publish), [`request`](Self::request),
///    [`settle`](Self::settle) and [`close`](Self::close). They may be called at any time and have
///    no `now`. If [`wants_attention`](Self::wants_attention) returns `true` afterwards, a sleeping
///    driver has to continue with the output. Outcomes are taken with [`fetch`](Self::fetch),
///    [`take_deliveries`](Self::take_deliveries) and [`take_notice`](Self::take_notice).
///
/// These methods tell where a connection is in its life:
///
/// | method | for | question |
/// | --- | --- | --- |
/// | [`is_down`](Self::is_down) | drivers | Is a transport to be dialled? |
/// | [`is_closed`](Self::is_closed) | drivers | Has the connection ended, so reading stops? |
/// | [`is_over`](Self::is_over) | drivers | Can the transport be dropped, written or not? |
/// | [`outcome`](Self::outcome) | drivers | What does the driver return at the end? |
/// | [`why_closed`](Self::why_closed) | programs | Why is it closing or closed? |
/// | [`state`](Self::state) | programs | Is it connecting, open, recovering or closed? |
#[derive(Debug)]
pub struct Connection {
    lifecycle: Lifecycle,
    session: Session,
    /// Tasks that wait for capacity.
    waits: CapacityWaits,
}

impl Connection {
    /// Returns a connection that begins its handshake, which must complete within the timeout of
    /// the options.
    #[must_use]
    pub fn new(now: Instant, options: Options) -> Self {
        let refused = options.check().err();
        let mut cx = Context::new(now, Stage::Closed, options);
        let lifecycle = Lifecycle::new(now, &mut cx, refused);
        Self {
            lifecycle,
            session: Session::new(cx),
            waits: CapacityWaits::default(),
        }
    }

    /// Returns a connection that has no transport yet: [`poll_dial`](Self::poll_dial) returns when
    /// to dial. When it is lost it is dialled again, according to the options'
    /// [`Recovery`](crate::Recovery).
    #[must_use]
    pub fn dialled(now: Instant, options: Options) -> Self {
        let backoff = options.recovery.clone().map(Backoff::new);
        let policy = options.recovery.as_ref();
        let records = policy.map(|policy| policy.records);
        let republishes = policy.and_then(|policy| policy.republish).unwrap_or(0);
        let resubscribe = policy.map_or(Resubscribe::never(), |policy| policy.resubscribe);
        let declares_encrypted = options.login.encrypted_transport;
        // It is not known yet whether the transport is encrypted, so the options are checked as if
        // it were.
        let mut connection = Self::new(now, options.encrypted_transport(true));
        let Self {
            lifecycle, session, ..
        } = &mut connection;
        session.recovery.backoff = backoff;
        // Without recovery, nothing is recorded.
        if let Some(records) = records {
            session.cx.topology = Topology::new(records);
        }
        session.publishing.republishes = republishes;
        session.consuming.resubscribe = resubscribe;
        lifecycle.declares_encrypted = declares_encrypted;
        lifecycle.begin_down(&mut session.cx, now);
        connection
    }

    /// Records that bytes arrived, although the decoder has received none yet, as with a part of a
    /// TLS record. "Any sent octet is a valid substitute for a heartbeat" (4.2.7).
    pub fn handle_partial_input(&mut self, now: Instant) {
        self.session.cx.now = now;
        self.session.cx.transmit.heartbeat.record_received(now);
    }

    /// Handles the frames that the decoder has. Call it when bytes arrive, even if they complete no
    /// frame, because they prove that the peer is alive.
    pub fn handle_input(&mut self, now: Instant, decoder: &mut Decoder) {
        self.handle_partial_input(now);
        let Self {
            lifecycle, session, ..
        } = self;
        while !lifecycle.is_undecodable && lifecycle.state.has_transport() {
            let was_open = matches!(lifecycle.state, State::Open);
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    if let Err(error) = lifecycle.receive(session, now, frame) {
                        lifecycle.fail(session, error);
                    }
                    if !was_open && lifecycle.state.is_tuned() {
                        decoder.set_frame_max(session.cx.transmit.frame_max());
                    }
                }
                Ok(None) => break,
                Err(error) => lifecycle.fail_undecodable(session, error, decoder.pending()),
            }
        }
        self.proceed();
    }

    /// Appends the next part of the output to `out`. Returns `true` if it appended anything. The
    /// part is small, so that later requests do not wait for all earlier output. Call it again when
    /// the part is written.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Outgoing) -> bool {
        self.stamp(now);
        self.session.cx.attention = false;
        self.proceed_if_queued();
        let Session { cx, consuming, .. } = &mut self.session;
        consuming.flush_acks(cx);
        let is_connected = self.lifecycle.state.has_transport();
        cx.transmit.poll(now, is_connected, !is_connected, out)
    }

    /// Records that the transport has accepted this many bytes of the output.
    pub fn handle_transmitted(&mut self, now: Instant, bytes: usize) {
        let cx = &mut self.session.cx;
        cx.transmit.record_transmitted(now, bytes);
        cx.attention |= cx.transmit.has_queued();
    }

    /// Returns `true` if frames are queued for [`poll_transmit`](Self::poll_transmit).
    /// Acknowledgements that are still collected do not count.
    pub(crate) fn has_output(&self) -> bool {
        self.session.cx.transmit.has_queued()
    }

    /// Returns `true` if input should be read. Returns `false` while too many deliveries are
    /// buffered.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.lifecycle.wants_input(&self.session)
    }

    /// Returns what to dial, if it is time to dial. Afterwards, it returns `None` until
    /// [`handle_dialled`](Self::handle_dialled) or
    /// [`handle_dial_failure`](Self::handle_dial_failure) has reported the outcome.
    pub fn poll_dial(&mut self, now: Instant) -> Option<Dialling> {
        self.stamp(now);
        self.lifecycle.poll_dial(&mut self.session, now)
    }

    /// Begins the handshake on a new transport.
    pub fn handle_dialled(&mut self, now: Instant, dialled: Dialled) {
        if self.is_down() {
            self.lifecycle
                .handle_dialled(&mut self.session, now, dialled);
        }
    }

    /// Handles a failed attempt to dial. An error that lists attempts
    /// ([`Error::CannotConnect`]) names the endpoint and address of each. Any other error is that
    /// of [`Dialling::first`].
    pub fn handle_dial_failure(&mut self, now: Instant, error: Error) {
        if self.is_down() {
            self.session.cx.now = now;
            self.lifecycle.handle_dial_failure(&mut self.session, error);
            self.proceed();
        }
    }

    /// Handles the end of the transport, or of its input: the server closed it, it failed, or the
    /// driver was dropped.
    pub fn handle_loss(&mut self, cause: Broken) {
        self.lifecycle.handle_loss(&mut self.session, cause);
    }

    /// Returns the next step of the login that runs the user's code, to be run with no lock held.
    /// Pass the outcome to [`handle_login`](Self::handle_login). Returns `None` unless
    /// [`Options::credentials_from`](crate::Options::credentials_from) or
    /// [`Options::custom_mechanism`](crate::Options::custom_mechanism) is set. Call it after
    /// [`handle_input`](Self::handle_input).
    pub fn poll_login(&mut self) -> Option<LoginStep> {
        self.lifecycle.poll_login()
    }

    /// Handles the outcome of a [`LoginStep`].
    pub fn handle_login(&mut self, outcome: LoginOutcome) {
        self.lifecycle.handle_login(&mut self.session, outcome);
    }

    /// Returns the entities to pass to the user's filter, to be run with no lock held. Pass the
    /// outcome to [`handle_filter`](Self::handle_filter). Returns `None` unless
    /// [`Recovery::filter`](crate::Recovery::filter) is set. Call it after any call that takes a
    /// `now`.
    pub fn poll_filter(&mut self) -> Option<FilterStep> {
        self.session.recovery.filtering.take()
    }

    /// Handles the outcome of a [`FilterStep`].
    pub fn handle_filter(&mut self, outcome: FilterOutcome) {
        let Session { cx, recovery, .. } = &mut self.session;
        if recovery.handle_filter(cx, outcome) {
            self.proceed();
        }
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        let Session { cx, consuming, .. } = &mut self.session;
        if let Some(promise) = cx.promises.poll_completed() {
            return Some(Event::Completed(promise));
        }
        if let Some(consumer) = consuming.consumers.poll_announcement() {
            return Some(Event::Deliveries(consumer));
        }
        cx.notices.poll_announcement().map(Event::Notices)
    }

    /// Returns `true` if [`poll_event`](Self::poll_event), [`poll_login`](Self::poll_login) or
    /// [`poll_filter`](Self::poll_filter) may return something.
    #[must_use]
    pub fn has_event(&self) -> bool {
        self.session.has_event() || matches!(self.lifecycle.state, State::Handshake(_))
    }

    /// Returns the number of completed promises that [`poll_event`](Self::poll_event) has not
    /// returned.
    pub(crate) fn completed_promises(&self) -> usize {
        self.session.cx.promises.completed()
    }

    /// Returns `true` if the connection has no transport, and dials one. The last transport can be
    /// closed when its output is written.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(self.lifecycle.state, State::Down(_))
    }

    /// Returns an error unless requests are accepted.
    #[inline]
    fn check_open(&self) -> Result<(), Error> {
        self.lifecycle.check_open(&self.session.recovery)
    }

    /// Returns an error unless another request would be accepted.
    fn check_to_request(&self) -> Result<(), Error> {
        self.check_open()?;
        if self.session.has_capacity_to_request() {
            Ok(())
        } else {
            Err(Error::Full)
        }
    }

    /// Starts the queued work that can start. This is the only place that starts queued work.
    ///
    /// `handle_input`, `handle_timeout`, `handle_dial_failure`, `handle_filter` and `close` call it
    /// themselves. The other methods call it if
    ///
    /// - the call has queued a request, a consumer or a transaction, or freed a channel: it has set
    ///   [`Context::may_start`], and ends with [`proceed_if_queued`](Self::proceed_if_queued);
    /// - the call may have taken buffered deliveries, so that reading may resume: it ends with
    ///   [`proceed_if_needed`](Self::proceed_if_needed), which checks `may_start`, too.
    ///
    /// The calls that only write do neither: `qos`, `publish_in`, `get_in`, `commit`, `rollback`
    /// and `update_secret`. `drop_transaction` closes a channel, but its number is free only after
    /// `close-ok`, whose arrival calls `proceed`. Publishes are queued only if they have to wait
    /// for input.
    fn proceed(&mut self) {
        let Self {
            lifecycle, session, ..
        } = self;
        session.dispose_unwanted();
        // This comes before the queued work, because it may open the connection, and that work can
        // then start at once.
        if let Some(report) = session.restore_consumers() {
            lifecycle.become_open(session, report);
        }
        if let Some(error) = session.consuming.restarts.take_failure() {
            lifecycle.fail(session, error);
        }
        session.start_queued();
        lifecycle.proceed_closing(session);
        session.update_reading();
    }

    /// Calls [`proceed`](Self::proceed) if work was queued or a channel has become free.
    #[inline]
    fn proceed_if_queued(&mut self) {
        if self.session.cx.may_start {
            self.proceed();
        }
    }

    /// Calls [`proceed`](Self::proceed) as [`proceed_if_queued`](Self::proceed_if_queued) does, and
    /// also if taking deliveries may let reading resume.
    #[inline]
    fn proceed_if_needed(&mut self) {
        if self.session.cx.may_start || self.session.consuming.reading.depends_on_taking() {
            self.proceed();
        }
    }

    /// Starts the deadlines that were set by calls without a clock. See
    /// [`Deadline`](crate::machine::deadline::Deadline).
    fn stamp(&mut self, now: Instant) {
        self.session.stamp(now);
        let timeout = self.session.cx.options.timeouts.request;
        self.waits.stamp(now, timeout);
        self.lifecycle.closing.stamp(now);
        self.lifecycle.state.stamp(now);
    }
}
