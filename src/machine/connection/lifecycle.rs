//! The state of the connection, and the methods that depend only on it.

use crate::error::Error;
use crate::machine::connection::closing::Closing;
use crate::machine::connection::connecting::Connecting;
use crate::machine::connection::secret_updates::SecretUpdates;
use crate::machine::connection::state::{Down, State};
use crate::machine::context::Context;
use crate::machine::handshake::Handshake;
use crate::machine::recovery::Recovering;
use crate::machine::session::Session;
use crate::machine::{ConnectionState, PromiseId};
use crate::options::Options;
use crate::protocol::ShortStr;
use std::time::Instant;

/// The lowest bound of queued output, in bytes, at which reading stops. Replies to a peer that does
/// not read must fit below it, even if the options set a lower limit.
const MIN_OUTGOING_LIMIT: usize = 64 << 10;

/// The state of the connection, from the first attempt to dial until it is closed.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    pub(crate) state: State,
    /// The reason why the connection is closing or closed.
    pub(crate) close_reason: Option<Error>,
    pub(crate) closing: Closing,
    pub(crate) connecting: Connecting,
    pub(crate) secret_updates: SecretUpdates,
    /// A decode error occurred; the rest of the stream cannot be parsed.
    pub(crate) is_undecodable: bool,
    /// The options declare that no other program can read the transport.
    pub(crate) declares_encrypted: bool,
}

impl Lifecycle {
    /// Returns a lifecycle that begins its handshake, or a closed one if the options were
    /// `refused`.
    pub(crate) fn new(now: Instant, cx: &mut Context, refused: Option<Error>) -> Self {
        let mut lifecycle = Self {
            state: State::Closed(Default::default()),
            close_reason: refused,
            closing: Closing::default(),
            connecting: Connecting::default(),
            secret_updates: SecretUpdates::default(),
            is_undecodable: false,
            declares_encrypted: cx.options.login.encrypted_transport,
        };
        if lifecycle.close_reason.is_none() {
            lifecycle.begin_handshake(cx, now);
        }
        lifecycle
    }

    /// Enters the `Down` state to dial at once, unless the options are refused.
    pub(crate) fn begin_down(&mut self, cx: &mut Context, now: Instant) {
        if self.close_reason.is_none() {
            cx.transmit.discard_queued();
            self.enter(cx, State::Down(Down::first(now)));
        }
    }

    /// Begins the handshake on a new transport.
    pub(crate) fn begin_handshake(&mut self, cx: &mut Context, now: Instant) {
        let handshake = Handshake::begin(cx.transmit.outbox());
        let timeout = cx.options.timeouts.handshake;
        self.enter(cx, State::handshake(handshake, now, timeout));
    }

    /// Enters a state, and stores its stage in the context, where the other parts read it.
    pub(crate) fn enter(&mut self, cx: &mut Context, state: State) {
        cx.stage = state.stage();
        self.state = state;
    }

    /// Enters the `Draining` state with the rest of the close timeout.
    pub(crate) fn begin_draining(&mut self, cx: &mut Context) {
        let deadline = self.closing.time_left(cx.options.timeouts.close);
        self.enter(cx, State::Draining(deadline));
    }

    /// Returns an error unless requests are accepted.
    #[inline]
    pub(crate) fn check_open(&self, recovery: &Recovering) -> Result<(), Error> {
        match (&self.state, &self.close_reason) {
            (_, Some(error)) => Err(error.clone()),
            (State::Closing(_) | State::Closed(_), None) => Err(Error::Closed),
            _ if self.closing.has_begun() => Err(Error::Closed),
            _ => self
                .fail_fast_error(recovery)
                .map_or(Ok(()), |error| Err(error.clone())),
        }
    }

    /// Returns the error with which requests fail while the connection is not open, if the options
    /// make them fail.
    #[inline]
    pub(crate) fn fail_fast_error<'r>(&self, recovery: &'r Recovering) -> Option<&'r Error> {
        recovery
            .fails_fast()
            .filter(|_| self.state.is_before_open())
    }

    /// Returns `true` if input should be read.
    pub(crate) fn wants_input(&self, session: &Session) -> bool {
        // During the handshake and while the connection closes, there are no deliveries to bound.
        let has_no_deliveries = self.closing.has_begun()
            || matches!(self.state, State::Handshake(_) | State::Closing(_));
        // This bounds the replies to a peer that sends without end and never reads.
        let limit = session.cx.options.limits.outgoing_bytes;
        let max = limit.saturating_mul(2).max(MIN_OUTGOING_LIMIT);
        (session.consuming.reading.is_on() || has_no_deliveries)
            && session.cx.transmit.len() < max
            && !self.is_undecodable
            && self.state.has_transport()
    }

    /// Returns the state as the program sees it.
    pub(crate) fn report(&self, recovery: &Recovering) -> ConnectionState {
        match (&self.state, &self.close_reason) {
            (_, Some(error)) => ConnectionState::Closed(error.clone()),
            (State::Closed(_), None) => ConnectionState::Closed(Error::Closed),
            (State::Open | State::Draining(_) | State::Closing(_), None) => ConnectionState::Open,
            (State::Down(down), None) => recovery.report(down.retries_at()),
            (State::Handshake(_) | State::Restoring, None) => recovery.report(None),
        }
    }

    /// Opens a promise that completes when the connection is open.
    pub(crate) fn connect(&mut self, cx: &mut Context) -> PromiseId {
        let promise = cx.promises.open();
        match &self.close_reason {
            Some(error) => cx.complete(promise, Err(error.clone())),
            None if !self.state.is_before_open() => Connecting::complete_one(cx, promise),
            None if self.closing.has_begun() => cx.complete(promise, Err(Error::Closed)),
            None => self.connecting.add(cx, promise),
        }
        promise
    }

    /// Sends another secret for the login, if the connection is open.
    pub(crate) fn update_secret(
        &mut self,
        session: &mut Session,
        new_secret: &[u8],
        reason: ShortStr<'_>,
    ) -> Result<PromiseId, Error> {
        self.check_open(&session.recovery)?;
        if !matches!(self.state, State::Open) {
            return Err(Error::invalid(
                "update_secret",
                "the connection is not open yet",
            ));
        }
        if !session.has_capacity_to_request() {
            return Err(Error::Full);
        }
        self.secret_updates
            .send(&mut session.cx, new_secret, reason)
    }

    /// Sets whether the login may show a password: no other program can read the transport, or the
    /// options declare that.
    pub(crate) fn set_private(&self, options: &mut Options, is_private: bool) {
        options.login.encrypted_transport = is_private || self.declares_encrypted;
    }
}
