//! What time does to the connection: deadlines, heartbeats, transports that stall.

use crate::error::{Broken, Error};
use crate::machine::connection::{Connection, State};
use crate::machine::deadline::{earlier, later};
use crate::machine::recovery::replay::Replay;
use crate::machine::request::capacity::Ticket;
use std::time::{Duration, Instant};

impl Connection {
    /// Handles the timeout that [`poll_timeout`](Self::poll_timeout) returned. Read and write once
    /// before this call: a server is not silent if its bytes have not been read yet.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.stamp(now);
        match self.state {
            _ if self.drain_deadline.has_passed(now) => self.expire_draining(),
            State::Handshake(_) if self.handshake_deadline <= now => {
                self.lose(Error::Timeout {
                    what: "the handshake",
                    after: self.session.cx.options.deadlines.handshake,
                });
            }
            State::Restoring if self.restores_for_too_long(now) => {
                let after = self.session.cx.options.deadlines.request;
                self.lose(Error::Timeout {
                    what: "recovering",
                    after,
                });
            }
            State::Closing | State::Closed if self.close_deadline.has_passed(now) => {
                self.end_closing(Err(Error::Timeout {
                    what: "closing",
                    after: self.session.cx.options.deadlines.close,
                }));
            }
            _ => {}
        }
        if matches!(self.state, State::Closed) {
            return;
        }
        self.expire_down(now);
        if let Some(replay) = &mut self.session.recovery.replay
            && replay.handle_timeout(now)
        {
            self.session.recovery.continue_replay(&mut self.session.cx);
        }
        match self.state {
            State::Down(_) => {
                self.expire(now);
                return;
            }
            State::Open => self.session.consuming.resubscription.handle_timeout(now),
            _ => {}
        }
        if let Some(silence) = self.heartbeat.silent_for(now, self.wants_input()) {
            self.lose(Error::ConnectionBroken(Broken::HeartbeatMissed(silence)));
        } else if let Some(stalled) = self.stalled_for(now) {
            self.lose(Error::ConnectionBroken(Broken::WriteStalled(stalled)));
        }
        self.expire(now);
        if self
            .session
            .consuming
            .expire_pause(&mut self.session.cx, now)
        {
            self.resume_reading();
        }
        self.proceed();
    }

    /// Whether answers to what is declared again can come: not while nobody takes the deliveries
    /// that there are.
    fn waits_for_answers(&self) -> bool {
        matches!(self.state, State::Restoring) && self.session.consuming.reading.is_on()
    }

    fn restores_for_too_long(&self, now: Instant) -> bool {
        self.waits_for_answers() && self.session.recovery.restore_deadline.has_passed(now)
    }

    /// Answers the promises whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Instant) {
        let mut expired = false;
        while let Some((promise, after)) = self.session.cx.promises.expired(now) {
            let timeout = self.session.consuming.timed_out("the request", after);
            let error = self
                .session
                .transactions
                .of_unknown_outcome(promise, timeout);
            self.session.cx.complete(promise, Err(error));
            self.count_incomplete(1);
            expired = true;
        }
        if expired {
            self.session.drop_expired();
            self.session
                .publishing
                .publishers
                .forget_completed_calls(&self.session.cx.promises);
            self.session.requests.close_overdue(&mut self.session.cx);
            self.session
                .transactions
                .fail_overdue_transactions(&mut self.session.cx, &mut self.session.consuming);
        }
        let after = self.session.cx.options.deadlines.request;
        let mut late = Vec::new();
        self.session
            .publishing
            .publishers
            .expire(now, |promise| late.push(promise));
        self.count_incomplete(late.len());
        for promise in late {
            let timeout = self.session.consuming.timed_out("the confirm", after);
            self.session
                .cx
                .complete(promise, Err(Error::Unconfirmed(timeout.into())));
        }
        self.waits.expire(now);
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

    /// Returns an error if the timeout of a wait for capacity has passed.
    pub(crate) fn check_wait(&self, ticket: Ticket, what: &'static str) -> Result<(), Error> {
        if self.waits.has_expired(ticket) {
            return Err(self
                .session
                .consuming
                .timed_out(what, self.session.cx.options.deadlines.request));
        }
        Ok(())
    }

    /// Returns the next wait for capacity whose timeout has passed, so that its task is woken.
    pub(crate) fn poll_expired_wait(&mut self) -> Option<Ticket> {
        self.waits.poll_expired()
    }

    /// For how long the transport has taken no octet, if that is too long. A broker that has
    /// blocked us does not read.
    fn stalled_for(&self, now: Instant) -> Option<Duration> {
        let timeout = self.heartbeat.timeout()?;
        let stalled = now.saturating_duration_since(self.session.cx.last_progress);
        (self.session.cx.in_flight_bytes > 0
            && self.session.publishing.blocked.is_none()
            && stalled >= 2 * timeout)
            .then_some(stalled)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called at the latest. Ask after
    /// [`poll_transmit`](Self::poll_transmit), which starts the clock for what is new.
    #[must_use]
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let closing = earlier(self.close_deadline.instant(), self.drain_deadline.instant());
        if matches!(self.state, State::Closed) {
            return closing;
        }
        let asked = earlier(self.session.cx.promises.deadline(), self.waits.deadline());
        let of_state = match self.state {
            State::Down(_) => return earlier(self.down_deadline(), asked),
            State::Handshake(_) => Some(self.handshake_deadline),
            State::Restoring if self.waits_for_answers() => {
                self.session.recovery.restore_deadline.instant()
            }
            State::Open => self.session.consuming.resubscription.deadline(),
            _ => None,
        };
        let stall = self.heartbeat.timeout().filter(|_| {
            self.session.cx.in_flight_bytes > 0 && self.session.publishing.blocked.is_none()
        });
        // One after the other: iterating over an array of them took 110 instructions more, and a
        // request pays for it twice.
        let mut earliest = earlier(closing, of_state);
        earliest = earlier(earliest, asked);
        earliest = earlier(earliest, self.heartbeat.deadline(self.wants_input()));
        earliest = earlier(
            earliest,
            stall.map(|timeout| later(self.session.cx.last_progress, 2 * timeout)),
        );
        earliest = earlier(earliest, self.session.publishing.publishers.deadline());
        earliest = earlier(
            earliest,
            self.session.consuming.pause_deadline(&self.session.cx),
        );
        earlier(
            earliest,
            self.session
                .recovery
                .replay
                .as_ref()
                .and_then(Replay::deadline),
        )
    }

    /// Starts the deadlines of what came without the time.
    pub(crate) fn stamp(&mut self, now: Instant) {
        self.session.cx.now = now;
        let timeout = self.session.cx.options.deadlines.request;
        self.session.cx.promises.stamp(now);
        self.session.publishing.publishers.stamp(now, timeout);
        self.waits.stamp(now, timeout);
        self.heartbeat.stamp(now);
        self.drain_deadline.stamp(now);
        self.close_deadline.stamp(now);
        self.session.recovery.restore_deadline.stamp(now);
        self.session.consuming.reading.stamp(now);
        if let Some(replay) = &mut self.session.recovery.replay {
            replay.stamp(now);
        }
        self.session.consuming.resubscription.stamp(now);
        self.stamp_down(now);
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
