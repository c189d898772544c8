//! Losing the connection, dialling again, and restoring topology and consumers.

use crate::error::Error;
use crate::machine::connection::lifecycle::Lifecycle;
use crate::machine::connection::state::{Down, State};
use crate::machine::context::Stage;
use crate::machine::session::Session;
use crate::machine::{Dialled, Dialling, Recovered};
use std::time::Instant;

impl Lifecycle {
    /// Returns what to dial, if it is time to dial and the last attempt has ended.
    pub(crate) fn poll_dial(&mut self, session: &mut Session, now: Instant) -> Option<Dialling> {
        // The driver may ask in any state, and only this one dials.
        let State::Down(down) = &mut self.state else {
            return None;
        };
        down.begin_if_due(now)
            .then(|| session.recovery.begin_dialling())
    }

    /// Begins the handshake on a new transport.
    pub(crate) fn handle_dialled(&mut self, session: &mut Session, now: Instant, dialled: Dialled) {
        let cx = &mut session.cx;
        self.set_private(&mut cx.options, dialled.is_private);
        cx.now = now;
        session.recovery.round.record_dialled(dialled);
        cx.transmit.start_over(now);
        self.is_undecodable = false;
        session.consuming.reading.start_over();
        self.begin_handshake(cx, now);
        cx.attention = true;
    }

    /// Enters the `Down` state after a loss or a failed attempt, if the connection is dialled
    /// again, and keeps the work that the next transport can continue.
    ///
    /// # Errors
    /// The error with which the caller closes the connection, if it is not dialled again: `error`
    /// itself, or a list with the other failed attempts of the round over the endpoints.
    pub(crate) fn go_down(
        &mut self,
        session: &mut Session,
        error: Error,
        in_handshake: bool,
    ) -> Result<(), Error> {
        // The stage is read and not the state, which is `Closed` while a handshake handles a method
        // (`take_handshake`).
        let (stage, counters) = (session.cx.stage, &mut session.cx.counters);
        match stage {
            Stage::Open | Stage::Draining => counters.lost += 1,
            Stage::Down | Stage::Handshake | Stage::Restoring
                if !matches!(error, Error::Closed) =>
            {
                counters.failed_attempts += 1;
            }
            _ => {}
        }
        let is_closing = self.closing.has_begun() || matches!(self.state, State::Closing(_));
        if is_closing || self.close_reason.is_some() || error.is_from_this_side() {
            return Err(error);
        }
        let error = session.recovery.round.record(&session.cx, error);
        // Without recovery, or when its limits are reached, the loss is final.
        let Some(delay) = session
            .recovery
            .plan_attempt(&mut session.cx, &error, in_handshake)
        else {
            return Err(error);
        };
        self.enter(&mut session.cx, State::Down(Down::after(delay)));
        session.cx.attention = true;
        session.suspend(&error);
        self.secret_updates.suspend(&mut session.cx, &error);
        if let Some(error) = self.fail_fast_error(&session.recovery).cloned() {
            session.fail_all_queued(&error);
        }
        Ok(())
    }

    /// Begins to restore topology and consumers. Without recovery, opens the connection at once.
    pub(crate) fn restore(&mut self, session: &mut Session) {
        let Session {
            cx,
            consuming,
            recovery,
            ..
        } = session;
        if recovery.plan_restoration(cx, consuming) {
            self.enter(cx, State::Restoring);
            recovery.continue_replay(cx);
        } else {
            let report = Recovered {
                epoch: cx.epoch,
                ..Recovered::default()
            };
            self.become_open(session, report);
        }
    }

    /// Opens the connection, once everything that can be restored is restored.
    pub(crate) fn become_open(&mut self, session: &mut Session, report: Recovered) {
        let cx = &mut session.cx;
        self.enter(cx, State::Open);
        if self.closing.has_begun() {
            self.begin_draining(cx);
        }
        cx.attention = true;
        session.recovery.finish(cx, &mut session.consuming, report);
        self.connecting.complete(cx);
    }
}
