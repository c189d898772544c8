//! Heartbeats in both directions (spec 4.2.7, RabbitMQ's heartbeats guide).

use crate::machine::deadline::{earlier, later};
use std::time::{Duration, Instant};

/// The heartbeats of a connection.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// The negotiated timeout; `None` without heartbeats.
    timeout: Option<Duration>,
    /// When to send a heartbeat. This and `dead_at` are stored, because they are read several times
    /// as often as they change.
    send_at: Option<Instant>,
    last_received: Instant,
    /// When the server is considered dead: a quarter after the timeout. "If a peer detects no
    /// incoming traffic (i.e. received bytes) for two heartbeat intervals or longer, it should
    /// close the connection" (4.2.7). RabbitMQ sends every half timeout, so the timeout is two
    /// intervals.
    dead_at: Option<Instant>,
    /// The server's silence is measured. "The client should start [..] monitoring heartbeats after
    /// receiving Connection.Open" (4.2.7), that is `open-ok`.
    watching: bool,
    /// The last call came so late that the process or the computer must have been suspended. Bytes
    /// of the server may be unread, so it has been given more time, once.
    has_grace: bool,
    /// Reading was resumed. The silence before was not that of the server, so it is measured from
    /// the next `stamp`.
    was_resumed: bool,
}

impl Heartbeat {
    /// Returns the state before a timeout is negotiated: no heartbeats.
    pub(crate) fn none(now: Instant) -> Self {
        Self {
            timeout: None,
            send_at: None,
            last_received: now,
            dead_at: None,
            watching: false,
            has_grace: false,
            was_resumed: false,
        }
    }

    /// Sets the negotiated timeout. "The client should start sending heartbeats after receiving a
    /// Connection.Tune method" (4.2.7).
    pub(crate) fn set_timeout(&mut self, seconds: u16, now: Instant) {
        self.timeout = (seconds != 0).then(|| Duration::from_secs(seconds.into()));
        self.record_sent(now);
    }

    /// Starts to measure the server's silence.
    pub(crate) fn watch(&mut self, now: Instant) {
        self.watching = true;
        self.restart_silence(now);
    }

    /// Returns the negotiated timeout.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Records that bytes were sent. The next heartbeat is due after half the timeout, as with
    /// RabbitMQ. "Any sent octet is a valid substitute for a heartbeat" (4.2.7).
    pub(crate) fn record_sent(&mut self, now: Instant) {
        self.send_at = self.timeout.map(|timeout| later(now, timeout / 2));
    }

    /// Records that reading continues after a pause. The time is known at the next
    /// [`stamp`](Self::stamp).
    pub(crate) fn record_resumed(&mut self) {
        self.was_resumed = true;
    }

    /// Restarts the measurement of silence if reading was resumed.
    pub(crate) fn stamp(&mut self, now: Instant) {
        if std::mem::take(&mut self.was_resumed) {
            self.record_received(now);
        }
    }

    /// Records that bytes were received. Any byte counts, also a part of a frame: "incoming traffic
    /// (i.e. received bytes)" (4.2.7).
    pub(crate) fn record_received(&mut self, now: Instant) {
        self.restart_silence(now);
        self.has_grace = false;
    }

    /// Restarts the measurement of the server's silence.
    fn restart_silence(&mut self, now: Instant) {
        self.last_received = now;
        let timeout = self.timeout.filter(|_| self.watching);
        self.dead_at = timeout.map(|timeout| later(now, timeout.saturating_add(timeout / 4)));
    }

    /// Returns when a heartbeat is due, or the server is considered dead if that is earlier.
    #[inline]
    pub(crate) fn deadline(&self, reading: bool) -> Option<Instant> {
        if reading {
            earlier(self.send_at, self.dead_at)
        } else {
            self.send_at
        }
    }

    /// Returns `true` if a heartbeat is due.
    #[inline]
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.send_at.is_some_and(|at| at <= now)
    }

    /// Returns how long the server has been silent, if that is too long. Restarts the measurement
    /// while reading is paused. Grants more time, once, if the call comes very late.
    pub(crate) fn silent_for(&mut self, now: Instant, reading: bool) -> Option<Duration> {
        let timeout = self.timeout?;
        if !reading {
            self.restart_silence(now);
            return None;
        }
        let dead_at = self.dead_at.filter(|at| *at <= now)?;
        if !self.has_grace && now > later(dead_at, timeout / 2) {
            self.has_grace = true;
            self.dead_at = Some(later(now, timeout / 4));
            return None;
        }
        Some(now.saturating_duration_since(self.last_received))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(now: Instant, seconds: u16) -> Heartbeat {
        let mut heartbeat = Heartbeat::none(now);
        heartbeat.set_timeout(seconds, now);
        heartbeat.watch(now);
        heartbeat
    }

    #[test]
    fn e49_heartbeat_is_due_at_half_the_timeout() {
        let now = Instant::now();
        let heartbeat = at(now, 1);
        assert_eq!(heartbeat.deadline(true), Some(now + SECOND / 2));
        assert!(!heartbeat.is_due(now + SECOND / 2 - Duration::from_millis(1)));
        assert!(heartbeat.is_due(now + SECOND / 2));
    }

    #[test]
    fn e49_server_is_dead_a_quarter_after_the_timeout() {
        let now = Instant::now();
        let mut heartbeat = at(now, 4);
        assert_eq!(
            heartbeat.silent_for(now + 5 * SECOND - Duration::from_millis(1), true),
            None
        );
        assert_eq!(
            heartbeat.silent_for(now + 5 * SECOND, true),
            Some(5 * SECOND)
        );
    }

    #[test]
    fn e49_late_wake_up_grants_grace_once() {
        let now = Instant::now();
        let mut heartbeat = at(now, 4);
        let late = now + 3600 * SECOND;
        assert_eq!(heartbeat.silent_for(late, true), None);
        assert_eq!(
            heartbeat.silent_for(late + SECOND, true),
            Some(3601 * SECOND)
        );
    }

    #[test]
    fn e46_silence_does_not_count_while_reading_is_paused() {
        let now = Instant::now();
        let mut heartbeat = at(now, 4);
        assert_eq!(heartbeat.silent_for(now + 100 * SECOND, false), None);
        assert_eq!(heartbeat.silent_for(now + 101 * SECOND, true), None);
    }

    #[test]
    fn e49_only_a_very_late_wake_up_grants_grace() {
        let now = Instant::now();
        let late = now + 5 * SECOND + 2 * SECOND;
        assert_eq!(at(now, 4).silent_for(late, true), Some(7 * SECOND));
        let later = late + Duration::from_millis(1);
        assert_eq!(at(now, 4).silent_for(later, true), None);
    }
}
