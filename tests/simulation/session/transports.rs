//! The transports of a session: dials, the current transport, abandoned ones, and faults.

use super::Session;
use crate::injector::RefusalKind;
use crate::observer::Observer;
use crate::transport::Transport;
use crate::wire::End;
use puka::Broken;
use puka::machine::{ConnectionState, Outgoing};
use puka::protocol::Decoder;
use std::time::{Duration, Instant};

impl Session {
    /// Records a dial that ends at an instant, with a transport to the endpoint of this index.
    pub(crate) fn begin_dial(&mut self, ends_at: Instant, endpoint: usize) {
        self.dial_ends_at = Some(ends_at);
        self.dialled_endpoint = endpoint;
    }

    /// Returns the endpoint that was dialled last.
    pub(crate) fn dialled_endpoint(&self) -> usize {
        self.dialled_endpoint
    }

    /// Records that a channel of the transport at a position has crashed, for which the broker
    /// closes the connection.
    pub(crate) fn record_crash(&mut self, index: usize, now: Instant) {
        if self
            .transport_at(index)
            .is_some_and(|(_, is_current)| is_current)
        {
            self.expect_break("a channel crashed");
            self.first_crash.get_or_insert(now);
        }
    }

    /// Ends the dial if it is due. Returns `true` if it was.
    pub(crate) fn end_due_dial(&mut self, now: Instant) -> bool {
        let is_due = self.dial_ends_at.is_some_and(|at| at <= now) && !self.finished;
        if is_due {
            self.dial_ends_at = None;
        }
        is_due
    }

    /// Starts to use a transport.
    pub(crate) fn use_transport(&mut self, transport: Transport) {
        self.transports_so_far += 1;
        self.transport = Some(transport);
        self.decoder = Decoder::new();
        self.input_observer = Observer::default();
        self.output = Outgoing::default();
        self.transmitted = 0;
        self.write_error = false;
    }

    /// Abandons the current transport, so that the client can dial again.
    pub(super) fn abandon_transport(&mut self, now: Instant) {
        let Some(mut transport) = self.transport.take() else {
            // Unreachable: the driver abandons a transport only while it has one.
            return;
        };
        transport.up.end(now, End::Eof);
        self.last_starts = std::mem::take(&mut transport.observer.starts);
        self.old_transports.push(transport);
        // It is unknown which settlements and publishes the broker received.
        self.sent_settlements.clear();
        self.unconfirmed.clear();
    }

    /// Makes the peer of the current transport refuse the login.
    pub(crate) fn refuse_login(&mut self, kind: RefusalKind) {
        self.expect_break("a refused login");
        if let Some(transport) = &mut self.transport {
            transport.injector.refuse_login(kind);
        }
    }

    /// Returns the current transport.
    pub(crate) fn transport_mut(&mut self) -> Option<&mut Transport> {
        self.transport.as_mut()
    }

    /// Returns all transports that the broker may still know: the abandoned ones, then the current
    /// one.
    pub(crate) fn transports(&self) -> impl Iterator<Item = &Transport> {
        self.old_transports.iter().chain(&self.transport)
    }

    /// Returns the transport at a position of [`transports`](Self::transports), and whether it is
    /// the current one.
    pub(crate) fn transport_at(&mut self, index: usize) -> Option<(&mut Transport, bool)> {
        let old_transports = self.old_transports.len();
        match self.old_transports.get_mut(index) {
            Some(old) => Some((old, false)),
            None if index == old_transports => {
                self.transport.as_mut().map(|transport| (transport, true))
            }
            None => None,
        }
    }

    /// Forgets the abandoned transports that the broker has dropped.
    pub(crate) fn forget_dropped_transports(&mut self) {
        self.old_transports.retain(|old| !old.broker_gone);
    }

    /// Returns the number of the current transport among those of this session, or `None` while the
    /// connection is down.
    pub(crate) fn transport_number(&self) -> Option<usize> {
        (!self.machine.is_down()).then_some(self.transports_so_far)
    }

    /// Suspends the process. The connection survives a suspension that is shorter than the broker's
    /// patience, because the client writes and reads before it decides whether the broker is
    /// silent.
    pub(crate) fn suspend(&mut self, now: Instant, time: Duration, max_suspension: Duration) {
        let is_awake = self.asleep_until <= now;
        let is_open = matches!(self.machine.state(), ConnectionState::Open) && !self.closing;
        let is_delayed = self.transport.as_ref().is_none_or(|it| it.is_delayed(now));
        if !is_awake || !is_open || is_delayed || time > max_suspension {
            self.expect_break("suspended");
        }
        self.asleep_until = self.asleep_until.max(now + time);
        self.slept += time;
    }

    /// Returns `true` if the process is not suspended.
    pub(crate) fn is_awake(&self, now: Instant) -> bool {
        self.asleep_until <= now
    }

    /// Ends the suspension and all faults of the network. Returns `true` if the current transport
    /// stays silent: only the heartbeat timeout ends such a connection.
    pub(crate) fn stop_faults(&mut self, now: Instant) -> bool {
        self.asleep_until = now;
        for old in &mut self.old_transports {
            old.up.silent = false;
            old.remove_delays(now);
        }
        let Some(transport) = &mut self.transport else {
            return false;
        };
        transport.remove_delays(now);
        if transport.injector.is_withholding() {
            transport.cut(now);
        }
        transport.up.silent
    }

    /// Closes the transport from the client's side, for good.
    pub(super) fn finish(&mut self, now: Instant) {
        self.finished = true;
        self.timer = None;
        self.dial_ends_at = None;
        if let Some(transport) = &mut self.transport {
            transport.up.end(now, End::Eof);
        }
    }

    /// Drops the driver.
    pub(crate) fn drop_driver(&mut self, now: Instant) {
        self.driver_dropped = true;
        self.machine.handle_loss(Broken::DriverDropped);
        self.finish(now);
    }
}
