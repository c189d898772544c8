//! Losing the connection and dialling again: what is kept for the next one, and what ends with this
//! one.

use crate::error::Error;
use crate::machine::Recovered;
use crate::machine::connection::down::Down;
use crate::machine::connection::{Connection, LAST_OCTETS, State};
use crate::machine::consume::consumers::Consumer;
use crate::machine::deadline::{Deadline, later};
use crate::machine::handshake::Handshake;
use crate::machine::recovery::backoff::{Backoff, Failure};
use crate::machine::recovery::filter::{FilterOutcome, FilterStep};
use crate::machine::recovery::replay::Replay;
use crate::machine::recovery::topology::Topology;
use crate::machine::recovery::{PATIENCE, TIMEOUTS, failed_consumer};
use crate::machine::transmit::heartbeat::Heartbeat;
use crate::machine::transmit::outbox::Outbox;
use crate::machine::{ConnectionState, Counters, Dialling, Notice, Reply};
use crate::options::Options;
use std::time::Instant;

impl Connection {
    /// A connection that has no transport yet: [`poll_dial`](Self::poll_dial) says when to dial.
    /// When it is lost it is dialled again, as the options' [`Recovery`](crate::Recovery) says.
    #[must_use]
    pub fn dialled(now: Instant, options: Options) -> Self {
        let backoff = options.recovery.clone().map(Backoff::new);
        let records = options
            .recovery
            .as_ref()
            .map_or(0, |recovery| recovery.records);
        let republishes = options
            .recovery
            .as_ref()
            .and_then(|recovery| recovery.republish)
            .unwrap_or(0);
        let says_encrypted = options.login.encrypted_transport;
        // Whether the transport is, nobody knows yet.
        let mut connection = Self::new(now, options.encrypted_transport(true));
        connection.says_encrypted = says_encrypted;
        connection.session.recovery.backoff = backoff;
        connection.session.cx.topology = Topology::new(records);
        connection.session.publishing.republishes = republishes;
        if connection.close_reason.is_none() {
            connection.session.cx.out = Outbox::default();
            connection.enter(State::Down(Down {
                retry: Deadline::At(now),
                over: true,
            }));
        }
        connection
    }

    /// Whether the time has come to dial. Asked again, it says no until
    /// [`handle_dialled`](Self::handle_dialled) or
    /// [`handle_dial_failure`](Self::handle_dial_failure) has told what came of it.
    pub fn poll_dial(&mut self, now: Instant) -> Option<Dialling> {
        self.stamp(now);
        let State::Down(down) = &mut self.state else {
            return None;
        };
        if !down.retry.has_passed(now) {
            return None;
        }
        down.retry = Deadline::None;
        self.session.recovery.first_endpoint = self.session.recovery.endpoint;
        Some(Dialling {
            attempt: self
                .session
                .recovery
                .backoff
                .as_ref()
                .map_or(0, |backoff| backoff.attempt),
            first: self.session.recovery.endpoint,
        })
    }

    /// There is a transport to that endpoint, which nobody else reads or somebody may, and the
    /// handshake begins.
    pub fn handle_dialled(&mut self, now: Instant, endpoint: usize, is_private: bool) {
        if !matches!(self.state, State::Down(_)) {
            return;
        }
        self.session.cx.options.login.encrypted_transport = is_private || self.says_encrypted;
        self.session.cx.now = now;
        self.session.recovery.endpoint = endpoint;
        self.session.cx.out = Outbox::default();
        self.session.cx.in_flight_bytes = 0;
        self.session.cx.last_progress = now;
        self.undecodable = false;
        self.heartbeat = Heartbeat::none(now);
        self.session.consuming.reading.start_over();
        self.close_deadline = Deadline::None;
        self.handshake_deadline = later(now, self.session.cx.options.deadlines.handshake);
        let handshake = Handshake::begin(&mut self.session.cx.out);
        self.enter(State::Handshake(handshake));
        self.session.cx.attention = true;
    }

    /// No transport could be had.
    pub fn handle_dial_failure(&mut self, now: Instant, error: Error) {
        if !matches!(self.state, State::Down(_)) {
            return;
        }
        self.session.cx.now = now;
        if !self.go_down(&error, false) {
            self.finish(error);
        }
        self.proceed();
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called at the latest, for a
    /// connection that has no transport and so nothing to transmit.
    pub fn tend(&mut self, now: Instant) -> Option<Instant> {
        self.session.cx.attention = false;
        self.stamp(now);
        let timeout = self.poll_timeout();
        let State::Down(down) = &self.state else {
            return timeout;
        };
        down.retry.instant().into_iter().chain(timeout).min()
    }

    /// Whether there is no transport, and another is to be dialled. The last one can be closed when
    /// what there is to write is written.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(self.state, State::Down(_))
    }

    /// How the connection is.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        match (&self.state, &self.close_reason) {
            (_, Some(error)) => ConnectionState::Closed(error.clone()),
            (State::Closed, None) => ConnectionState::Closed(Error::Closed),
            (State::Open | State::Draining | State::Closing, None) => ConnectionState::Open,
            (State::Down(down), None) => self.recovering(down.retry.instant()),
            (State::Handshake(_) | State::Restoring, None) => self.recovering(None),
        }
    }

    /// What has happened to the connection since it was made.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let lost_deliveries =
            self.session.cx.counters.lost_deliveries + self.session.consuming.consumers.lost;
        Counters {
            lost_deliveries,
            ..self.session.cx.counters
        }
    }

    fn recovering(&self, next_at: Option<Instant>) -> ConnectionState {
        let attempt = self
            .session
            .recovery
            .backoff
            .as_ref()
            .map_or(0, |backoff| backoff.attempt);
        match &self.session.recovery.loss_cause {
            Some(cause) => ConnectionState::Recovering {
                attempt,
                cause: cause.clone(),
                next_at,
            },
            None => ConnectionState::Connecting,
        }
    }

    /// When the last transport, if it is still there, has had its time. Not before it is closed
    /// another can be dialled.
    pub(crate) fn down_deadline(&self) -> Option<Instant> {
        let State::Down(down) = &self.state else {
            return None;
        };
        if down.over {
            None
        } else {
            self.close_deadline.instant()
        }
    }

    pub(crate) fn stamp_down(&mut self, now: Instant) {
        if let State::Down(down) = &mut self.state {
            down.retry.stamp(now);
        }
    }

    /// The last transport had its time to take the last octets.
    pub(crate) fn expire_down(&mut self, now: Instant) {
        if let State::Down(down) = &mut self.state {
            down.over |= self.close_deadline.has_passed(now);
        }
    }

    pub(crate) fn is_down_and_over(&self) -> bool {
        matches!(&self.state, State::Down(down) if down.over)
    }

    /// Whether requests fail at once, as there is no connection and somebody wants it so: with why.
    pub(crate) fn fails_fast(&self) -> Option<&Error> {
        let fails = self
            .session
            .recovery
            .backoff
            .as_ref()
            .is_some_and(|backoff| backoff.policy.fails_fast);
        let is_away = matches!(
            self.state,
            State::Down(_) | State::Handshake(_) | State::Restoring
        );
        self.session
            .recovery
            .loss_cause
            .as_ref()
            .filter(|_| fails && is_away)
    }

    /// The connection is lost. True when it is to be dialled again: then everything that can wait
    /// does.
    pub(crate) fn go_down(&mut self, error: &Error, in_handshake: bool) -> bool {
        match self.state {
            State::Open | State::Draining => self.session.cx.counters.lost += 1,
            State::Down(_) | State::Handshake(_) | State::Restoring
                if !matches!(error, Error::Closed) =>
            {
                self.session.cx.counters.failed_attempts += 1;
            }
            _ => {}
        }
        let was_closing = self.is_closing() || matches!(self.state, State::Closing);
        let endpoints = self.session.cx.options.get_endpoints().len();
        let Some(backoff) = self
            .session
            .recovery
            .backoff
            .as_mut()
            .filter(|_| !was_closing && self.close_reason.is_none())
        else {
            return false;
        };
        let stood = matches!(self.state, State::Open);
        let was_usable = matches!(self.state, State::Open | State::Restoring);
        let handshake = in_handshake.then_some((
            self.session.recovery.first_endpoint,
            self.session.recovery.endpoint,
        ));
        let failure = Failure {
            error,
            handshake,
            endpoints,
        };
        let Some(delay) = backoff.after(&failure, self.session.cx.now) else {
            return false;
        };
        let (attempt, has_been_open) = (backoff.attempt, backoff.has_been_open());
        self.session.cx.epoch += u32::from(was_usable);
        if stood {
            self.session
                .cx
                .notices
                .notify(&Notice::Disconnected(error.clone()));
        }
        self.session.cx.notices.notify(&Notice::Retrying {
            attempt,
            cause: error.clone(),
            delay,
        });
        if in_handshake || !stood {
            // What this broker does not do, another may.
            self.session.recovery.endpoint =
                (self.session.recovery.endpoint + 1) % endpoints.max(1);
        }
        self.enter(State::Down(Down {
            retry: Deadline::In(delay),
            over: false,
        }));
        if has_been_open {
            self.session
                .recovery
                .loss_cause
                .get_or_insert_with(|| error.clone());
        }
        self.close_deadline = Deadline::In(LAST_OCTETS);
        self.session.cx.attention = true;
        self.session.suspend(error);
        for promise in std::mem::take(&mut self.updating_secret) {
            self.session.cx.complete(promise, Err(error.clone()));
        }
        if let Some(error) = self.fails_fast().cloned() {
            self.session.fail_waiting(&error);
        }
        true
    }
    /// The handshake is done. The connection is open as soon as everything is back.
    pub(crate) fn restore(&mut self) {
        let Some(backoff) = &self.session.recovery.backoff else {
            self.become_open(Recovered {
                epoch: self.session.cx.epoch,
                ..Recovered::default()
            });
            return;
        };
        let attempts = backoff.attempt;
        let patience = self
            .heartbeat
            .timeout()
            .map_or(PATIENCE, |timeout| TIMEOUTS * timeout);
        let report = Recovered {
            epoch: self.session.cx.epoch,
            attempts,
            ..Recovered::default()
        };
        self.session.recovery.replay = Some(Replay::new(patience, report));
        self.session
            .consuming
            .resubscription
            .begin(self.session.consuming.consumers.ids(), patience);
        self.session.recovery.restore_deadline =
            Deadline::In(self.session.cx.options.deadlines.request);
        self.enter(State::Restoring);
        self.session.recovery.continue_replay(&mut self.session.cx);
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
        let FilterOutcome {
            wanted,
            panicked,
            epoch,
        } = outcome;
        // The connection may be lost meanwhile. The filter then runs again for the next one.
        let Some(replay) = self
            .session
            .recovery
            .replay
            .as_mut()
            .filter(|_| epoch == self.session.cx.epoch)
        else {
            return;
        };
        replay.filtered(wanted);
        if let Some(entity) = panicked {
            let error = Error::invalid(
                "filter",
                format!("panicked for {entity}, which is declared again"),
            );
            self.session
                .recovery
                .quarantine
                .failed
                .push(("filter".into(), error));
        }
        self.session.recovery.restore_deadline =
            Deadline::In(self.session.cx.options.deadlines.request);
        self.session.cx.attention = true;
        self.session.recovery.continue_replay(&mut self.session.cx);
        self.proceed();
    }

    /// Everything is back that can be had.
    pub(crate) fn become_open(&mut self, mut report: Recovered) {
        self.enter(State::Open);
        if self.is_closing() {
            self.begin_draining();
        }
        self.session.cx.counters.opened += 1;
        self.session.recovery.restore_deadline = Deadline::None;
        self.session.cx.attention = true;
        if let Some(backoff) = &mut self.session.recovery.backoff {
            backoff.opened(self.session.cx.now);
        }
        report.lost_deliveries = std::mem::take(&mut self.session.consuming.consumers.lost);
        self.session.cx.counters.lost_deliveries += report.lost_deliveries;
        report.failed.extend(self.session.recovery.quarantine.end());
        report
            .failed
            .append(&mut self.session.consuming.resubscription.failed);
        for (id, error) in self.session.consuming.resubscription.refused() {
            let tag = self
                .session
                .consuming
                .consumers
                .get(id)
                .map_or("", Consumer::tag);
            report.failed.push(failed_consumer(tag, error));
        }
        if self.session.recovery.loss_cause.take().is_some() {
            self.session
                .cx
                .notices
                .notify(&Notice::Recovered(report.into()));
        }
        for promise in std::mem::take(&mut self.connecting) {
            let server = Box::new(self.session.cx.server.clone());
            self.session
                .cx
                .complete(promise, Ok(Reply::Connected(server)));
        }
    }
}
