//! The connection as a whole: what comes in, what goes out, what time does to it.

pub(crate) mod api;
pub(crate) mod closing;
pub(crate) mod down;
pub(crate) mod handshaking;
pub(crate) mod inspection;
pub(crate) mod listening;
pub(crate) mod recovering;
pub(crate) mod timeout;

use crate::error::Error;
use crate::machine::connection::down::Down;
use crate::machine::context::{Context, Stage};
use crate::machine::deadline::{Deadline, later};
use crate::machine::handshake::Handshake;
use crate::machine::promises::Completion;
use crate::machine::request::capacity::CapacityWaits;
use crate::machine::session::Session;
use crate::machine::transmit::heartbeat::Heartbeat;
use crate::machine::transmit::outbox::Outbox;
use crate::machine::{ConsumerId, ListenerId, Outgoing, PromiseId, Reply};
use crate::options::Options;
use crate::protocol::Decoder;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Something that whoever waits should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A promise is answered: [`Connection::fetch`] gives the answer. It is not told of one that
    /// was answered when it was given out, as that of a publish without a confirm or within a
    /// transaction may be.
    Answered(PromiseId),
    /// A consumer has deliveries, or has ended: [`Connection::take_deliveries`],
    /// [`Connection::ended`].
    Deliveries(ConsumerId),
    /// A listener has notices: [`Connection::take_notice`].
    Notices(ListenerId),
}

/// Which it is has an octet of its own, because it is asked at every step.
#[derive(Debug)]
#[repr(u8)]
enum State {
    /// There is no transport, and another is to be dialled.
    Down(Down),
    Handshake(Handshake),
    /// Everything that the connection had before it was lost is brought back.
    Restoring,
    Open,
    /// The program has asked to close the connection, and what is pending may still complete.
    Draining,
    /// `connection.close` is sent; everything but `close` and `close-ok` is discarded.
    Closing,
    /// Nothing more comes in. What is left to go out is on its way.
    Closed,
}

impl State {
    fn stage(&self) -> Stage {
        match self {
            Self::Down(_) => Stage::Down,
            Self::Handshake(_) => Stage::Handshake,
            Self::Restoring => Stage::Restoring,
            Self::Open => Stage::Open,
            Self::Draining => Stage::Draining,
            Self::Closing => Stage::Closing,
            Self::Closed => Stage::Closed,
        }
    }
}

/// A connection without its transport.
#[derive(Debug)]
pub struct Connection {
    state: State,
    session: Session,
    /// Why it is closing or closed.
    close_reason: Option<Error>,
    /// Listeners have received the last notice.
    is_closed_told: bool,
    /// The options say that nobody reads the transport, whatever it is.
    says_encrypted: bool,
    /// A decode error occurred; the rest of the stream cannot be parsed.
    undecodable: bool,
    heartbeat: Heartbeat,
    handshake_deadline: Instant,
    /// When pending requests are no longer waited for while closing.
    drain_deadline: Deadline,
    /// When `close-ok` and the last bytes are no longer waited for.
    close_deadline: Deadline,
    /// Promises of `update_secret`, in the order of the requests.
    updating_secret: VecDeque<PromiseId>,
    /// Promises that complete when the connection is open.
    connecting: Vec<PromiseId>,
    /// The number of entries at which abandoned ones are removed.
    most_connecting: usize,
    /// Promises that complete when the connection is closed.
    closing: Vec<PromiseId>,
    /// The number of promises that a close could not wait for.
    incomplete: usize,
    /// Tasks that wait for capacity.
    waits: CapacityWaits,
}

/// How long the last octets may take once nothing more comes in.
const LAST_OCTETS: Duration = Duration::from_secs(1);

/// Octets that may wait to be written whatever the options say.
const LEAST_OUTGOING: usize = 64 << 10;

impl Connection {
    /// A connection that begins its handshake, which has to be done in the time that the options
    /// say.
    #[must_use]
    pub fn new(now: Instant, options: Options) -> Self {
        let mut out = Outbox::default();
        let refused = options.check().err();
        let state = match refused {
            Some(_) => State::Closed,
            None => State::Handshake(Handshake::begin(&mut out)),
        };
        Self {
            close_reason: refused,
            is_closed_told: false,
            says_encrypted: options.login.encrypted_transport,
            undecodable: false,
            heartbeat: Heartbeat::none(now),
            handshake_deadline: later(now, options.deadlines.handshake),
            drain_deadline: Deadline::None,
            close_deadline: Deadline::None,
            updating_secret: VecDeque::new(),
            connecting: Vec::new(),
            most_connecting: 0,
            closing: Vec::new(),
            incomplete: 0,
            waits: CapacityWaits::default(),
            session: Session::new(Context::new(now, state.stage(), out, options)),
            state,
        }
    }

    /// Records that bytes arrived of which the decoder has none yet, such as a part of a TLS
    /// record. "Any sent octet is a valid substitute for a heartbeat" (4.2.7).
    pub fn handle_partial_input(&mut self, now: Instant) {
        self.session.cx.now = now;
        self.heartbeat.received(now);
    }

    /// Takes in what the decoder has. Call it when octets came, also when they make no whole frame:
    /// they are a sign of life.
    pub fn handle_input(&mut self, now: Instant, decoder: &mut Decoder) {
        self.handle_partial_input(now);
        while !self.undecodable && !matches!(self.state, State::Closed | State::Down(_)) {
            let was_open = matches!(self.state, State::Open);
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    if let Err(error) = self.receive(now, frame) {
                        self.fail(error);
                    }
                    if !was_open && let Some(frame_max) = self.decoder_frame_max() {
                        decoder.set_frame_max(frame_max);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    self.undecodable = true;
                    self.fail_undecodable(error, decoder.pending());
                }
            }
        }
        self.proceed();
    }

    /// Gives what is to be written next, behind what `out` holds. True when there was something. It
    /// gives little at a time, so that what is asked for meanwhile does not stand behind all there
    /// is: ask again when it is written.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Outgoing) -> bool {
        self.stamp(now);
        self.session.cx.attention = false;
        if self.session.cx.may_start {
            self.proceed();
        }
        self.session.consuming.flush_acks(&mut self.session.cx);
        if self.heartbeat.is_due(now)
            && self.session.cx.out.is_empty()
            && !matches!(self.state, State::Closed | State::Down(_))
        {
            self.session.cx.out.heartbeat();
        }
        if self.session.cx.out.is_empty() {
            return false;
        }
        if self.session.cx.in_flight_bytes == 0 {
            self.session.cx.last_progress = now;
        }
        // Also when it has enough in its hands: they are the sign of life.
        self.heartbeat.sent(now);
        let octets = self.session.cx.out.transfer(
            self.session.cx.in_flight_bytes,
            self.is_closed() || self.is_down(),
            out,
        );
        self.session.cx.in_flight_bytes += octets;
        octets > 0
    }

    /// Tells that the transport has taken so many of the octets it was given.
    pub fn handle_transmitted(&mut self, now: Instant, octets: usize) {
        self.session.cx.in_flight_bytes = self.session.cx.in_flight_bytes.saturating_sub(octets);
        self.session.cx.last_progress = now;
        self.session.cx.attention |= !self.session.cx.out.is_empty();
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) has something, acknowledgements that are
    /// still gathered apart.
    pub(crate) fn has_output(&self) -> bool {
        !self.session.cx.out.is_empty()
    }

    /// Whether to read. Not while too many deliveries wait to be taken.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        // What comes then is no delivery, or is dropped.
        let closing =
            self.is_closing() || matches!(self.state, State::Handshake(_) | State::Closing);
        // A peer that asks and asks and never reads our answers is not listened to either.
        let most = self
            .session
            .cx
            .options
            .limits
            .outgoing_octets
            .saturating_mul(2)
            .max(LEAST_OUTGOING);
        let answers_leave = self.session.cx.out.len() + self.session.cx.in_flight_bytes < most;
        let has_transport = !matches!(self.state, State::Closed | State::Down(_));
        (self.session.consuming.reading.is_on() || closing)
            && answers_leave
            && !self.undecodable
            && has_transport
    }

    /// Asks to be told when the connection is open.
    pub fn connect(&mut self) -> PromiseId {
        let promise = self.session.cx.promises.open();
        match (&self.state, &self.close_reason) {
            (_, Some(error)) => {
                let error = error.clone();
                self.session.cx.complete(promise, Err(error));
            }
            (State::Down(_) | State::Handshake(_) | State::Restoring, None)
                if self.is_closing() =>
            {
                self.session.cx.complete(promise, Err(Error::Closed));
            }
            (State::Down(_) | State::Handshake(_) | State::Restoring, None) => {
                self.forget_abandoned_connects();
                self.connecting.push(promise);
            }
            (_, None) => {
                let server = Box::new(self.session.cx.server.clone());
                self.session
                    .cx
                    .complete(promise, Ok(Reply::Connected(server)));
            }
        }
        promise
    }

    /// Fetches the answer to a promise, once.
    #[inline]
    pub fn fetch(&mut self, promise: PromiseId) -> Option<Result<Reply, Error>> {
        self.fetch_completion(promise).map(Completion::into_outcome)
    }

    /// The same, to be looked at later.
    #[inline]
    pub(crate) fn fetch_completion(&mut self, promise: PromiseId) -> Option<Completion> {
        self.session.cx.promises.fetch(promise)
    }

    /// Tells that nobody waits for that promise any more. What it asked for is done all the same; a
    /// message that it gets goes back to its queue, a consumer that it starts is cancelled.
    #[inline]
    pub fn abandon(&mut self, promise: PromiseId) {
        if let Some(reply) = self.session.cx.promises.abandon(promise) {
            self.session.dispose(reply);
            // A consumer that was not fetched may have had all buffered deliveries.
            self.proceed_if_needed();
        }
    }

    /// Completes abandoned promises of `connect`. Otherwise a program that calls it again and again
    /// while there is no broker would add promises without limit. It runs when their number has
    /// doubled since the last time, so each call looks at two of them on average.
    fn forget_abandoned_connects(&mut self) {
        if self.connecting.len() < self.most_connecting {
            return;
        }
        let promises = &self.session.cx.promises;
        let (wanted, abandoned) = std::mem::take(&mut self.connecting)
            .into_iter()
            .partition(|it| promises.is_wanted(*it));
        self.connecting = wanted;
        self.most_connecting = 2 * self.connecting.len().max(8);
        let abandoned: Vec<PromiseId> = abandoned;
        for promise in abandoned {
            self.session.cx.complete(promise, Ok(Reply::Done));
        }
    }

    fn check_open(&self) -> Result<(), Error> {
        match (&self.state, &self.close_reason) {
            (_, Some(error)) => Err(error.clone()),
            (State::Closing | State::Closed, None) => Err(Error::Closed),
            _ if self.is_closing() => Err(Error::Closed),
            _ => self.fails_fast().map_or(Ok(()), |error| Err(error.clone())),
        }
    }

    /// Returns an error unless another request is accepted.
    fn check_to_request(&self) -> Result<(), Error> {
        self.check_open()?;
        if self.has_room_to_request() {
            Ok(())
        } else {
            Err(Error::Full)
        }
    }

    /// The limit that holds for what is received, once it is agreed upon.
    fn decoder_frame_max(&self) -> Option<u32> {
        let is_tuned = !matches!(&self.state, State::Handshake(handshake) if !handshake.is_tuned());
        is_tuned.then_some(self.session.cx.frame_max)
    }

    fn enter(&mut self, state: State) {
        self.session.cx.stage = state.stage();
        self.state = state;
    }

    /// Starts the queued work that can start. Nothing else starts any.
    fn proceed(&mut self) {
        self.session.cx.may_start = false;
        while let Some(reply) = self.session.cx.disposal.pop_front() {
            self.session.dispose(reply);
        }
        // This comes first, because it may open the connection, and pending requests can then start
        // at once.
        if let Some(report) = self.session.recovery.restore_consumers(
            &mut self.session.cx,
            &mut self.session.publishing,
            &mut self.session.consuming,
        ) {
            self.become_open(report);
        }
        self.session.start_queued();
        self.proceed_closing();
        if self.session.consuming.update_reading(&mut self.session.cx) {
            self.resume_reading();
        }
    }

    /// Starts queued work for which a channel has become free, and resumes reading if the
    /// deliveries that were taken allow it.
    fn proceed_if_needed(&mut self) {
        if self.session.cx.may_start || self.session.consuming.reading.depends_on_taking() {
            self.proceed();
        }
    }

    /// Restarts the deadlines that do not run while reading is paused.
    fn resume_reading(&mut self) {
        self.session.cx.attention = true;
        if matches!(self.state, State::Restoring) {
            self.session.recovery.restore_deadline =
                Deadline::In(self.session.cx.options.deadlines.request);
        }
        self.heartbeat.resume();
    }
}
