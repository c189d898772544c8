//! Timeouts of the connection: deadlines, heartbeats and stalled transports.

use crate::error::{Broken, Error};
use crate::machine::connection::Connection;
use crate::machine::connection::state::State;
use crate::machine::consume::dropping::requeue_due;
use crate::machine::deadline::earlier;
use crate::machine::recovery::refused_consumers::restart_overdue;
use crate::machine::request::capacity::Ticket;
use std::time::{Duration, Instant};

impl Connection {
    /// Handles the timeout that [`poll_timeout`](Self::poll_timeout) returned. Read and write once
    /// before this call: a server is not silent if its bytes have not been read yet.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.stamp(now);
        self.lifecycle.handle_timeout(&mut self.session, now);
        if self.is_closed() {
            return;
        }
        if let State::Down(down) = &mut self.lifecycle.state {
            down.expire(now);
        }
        self.session.continue_delayed_replay(now);
        if self.is_down() {
            self.expire(now);
            return;
        }
        if matches!(self.lifecycle.state, State::Open) {
            self.session.consuming.restarts.handle_timeout(now);
            restart_overdue(&mut self.session.cx, &mut self.session.consuming);
            let (cx, recovery) = (&mut self.session.cx, &mut self.session.recovery);
            recovery.continue_late_replay(cx);
        }
        if let Some(broken) = self.broken_transport(now) {
            let error = Error::ConnectionBroken(broken);
            self.lifecycle.lose(&mut self.session, error);
        }
        self.expire(now);
        requeue_due(&mut self.session.cx, &mut self.session.consuming, now);
        self.session.expire_pause(now);
        self.proceed();
    }

    /// Returns the cause if the transport has delivered or accepted no bytes for too long.
    fn broken_transport(&mut self, now: Instant) -> Option<Broken> {
        let wants_input = self.wants_input();
        let heartbeat = &mut self.session.cx.transmit.heartbeat;
        if let Some(silence) = heartbeat.silent_for(now, wants_input) {
            return Some(Broken::HeartbeatMissed(silence));
        }
        self.session.stalled_for(now).map(Broken::WriteStalled)
    }

    /// Completes the promises and the waits for capacity whose deadline has passed.
    fn expire(&mut self, now: Instant) {
        let incomplete = self.session.expire(now);
        self.lifecycle.closing.count_incomplete(incomplete);
        self.waits.expire(now);
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout) at the latest. Call it after
    /// [`poll_transmit`](Self::poll_transmit), which starts the deadlines of new work.
    #[must_use]
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let state = &self.lifecycle.state;
        let of_state = earlier(state.deadline(), self.lifecycle.closing.deadline());
        if self.is_closed() {
            return of_state;
        }
        let of_requests = earlier(self.session.cx.promises.deadline(), self.waits.deadline());
        let earliest = earlier(of_state, of_requests);
        if self.is_down() {
            return earliest;
        }
        let wants_input = self.wants_input();
        earlier(earliest, self.session.deadline(wants_input))
    }

    /// Starts the deadlines of new work, and returns when to call
    /// [`handle_timeout`](Self::handle_timeout) or [`poll_dial`](Self::poll_dial) at the latest. It
    /// replaces [`poll_transmit`](Self::poll_transmit) while there is no transport.
    pub fn tend(&mut self, now: Instant) -> Option<Instant> {
        self.session.cx.attention = false;
        self.stamp(now);
        let timeout = self.poll_timeout();
        match &self.lifecycle.state {
            State::Down(down) => earlier(down.retries_at(), timeout),
            _ => timeout,
        }
    }

    /// Returns the error for a timeout that has passed: [`Error::ReadingPaused`] if reading is
    /// paused, else [`Error::Timeout`].
    pub(crate) fn timeout_error(&self, what: &'static str, after: Duration) -> Error {
        self.session.consuming.timeout_error(what, after)
    }

    /// Begins a wait for capacity. Its timeout is that of a request.
    pub(crate) fn begin_wait(&mut self) -> Ticket {
        self.session.cx.attention = true;
        self.waits.begin()
    }

    /// Ends a wait for capacity.
    pub(crate) fn end_wait(&mut self, ticket: Ticket) {
        self.waits.end(ticket);
    }

    /// Returns an error if the timeout of a wait for capacity has passed. `what` names the wait.
    pub(crate) fn check_wait(&self, ticket: Ticket, what: &'static str) -> Result<(), Error> {
        if self.waits.has_expired(ticket) {
            let after = self.session.cx.options.timeouts.request;
            return Err(self.timeout_error(what, after));
        }
        Ok(())
    }

    /// Returns the next wait for capacity whose timeout has passed, so that the caller wakes its
    /// task.
    pub(crate) fn poll_expired_wait(&mut self) -> Option<Ticket> {
        self.waits.poll_expired()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    #[test]
    fn an_ended_wait_has_no_deadline() {
        let (now, timeout) = (Instant::now(), Duration::from_secs(5));
        let mut connection = Connection::new(now, Options::default().request_timeout(timeout));
        let before = connection.poll_timeout();
        let ticket = connection.begin_wait();
        connection.stamp(now);
        assert_eq!(connection.poll_timeout(), Some(now + timeout));
        connection.end_wait(ticket);
        assert_eq!(connection.poll_timeout(), before);
    }
}
