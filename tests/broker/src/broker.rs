//! The broker without I/O: octets and the time go in, octets come out.

use crate::config::Config;
use crate::connection::{Connection, Phase};
use crate::ids::{ConnectionId, QueueId};
use crate::state::State;
use crate::timers::Timer;
use crate::{delivery, dispatch, quiesce, release, stuck};
use bytes::Bytes;
use puka::protocol::method::connection;
use std::time::Instant;

/// Octets that may wait to be looked at while a connection is blocked, before it should not be read from any more.
const BACKLOG: usize = 64 << 10;

/// An AMQP 0-9-1 broker in memory, without I/O, clock or threads.
///
/// Whoever has the transports feeds it: after each call that takes the time, send what
/// [`poll_transmit`](Self::poll_transmit) gives for every connection (what one client does may concern others), close those
/// that are [`is_closed`](Self::is_closed), and arm a timer for [`poll_timeout`](Self::poll_timeout). The same calls with
/// the same [`Config::seed`] give the same octets.
///
/// ```
/// use puka_test_broker::{Broker, Config};
/// use std::time::Instant;
///
/// let mut broker = Broker::new(Config::default());
/// let now = Instant::now();
/// let connection = broker.connect(now);
/// broker.handle_input(now, connection, b"AMQP\x00\x00\x09\x01");
/// let start = broker.poll_transmit(connection).expect("connection.start");
/// assert_eq!(start[..11], [1, 0, 0, 0, 0, 1, start[6], 0, 10, 0, 10]);
/// ```
#[derive(Debug)]
pub struct Broker {
    pub(crate) state: State,
}

impl Broker {
    /// A broker with its virtual hosts, the predeclared exchanges, and nothing else.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { state: State::new(config) }
    }

    /// How it was set up.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.state.config
    }

    /// A transport was opened. The client speaks first.
    pub fn connect(&mut self, now: Instant) -> ConnectionId {
        let now = self.state.tell_time(now);
        let id = ConnectionId(self.state.fresh_id());
        let connection = Connection::new(&self.state.config, now);
        self.state.connections.insert(id, connection);
        self.settle(now, Some(id));
        id
    }

    /// Octets arrived, in a piece of any size. They are processed at once, but for those of a connection that is blocked:
    /// they are kept, so look at [`wants_input`](Self::wants_input) first to bound them.
    pub fn handle_input(&mut self, now: Instant, id: ConnectionId, octets: &[u8]) {
        let now = self.state.tell_time(now);
        dispatch::receive(&mut self.state, id, octets, now);
        self.settle(now, Some(id));
    }

    /// The transport is gone, from either side. The connection is forgotten.
    pub fn handle_eof(&mut self, now: Instant, id: ConnectionId) {
        let now = self.state.tell_time(now);
        if let Some(connection) = self.state.connections.get_mut(&id) {
            connection.drop_transport();
        }
        release::release_connection(&mut self.state, id, now);
        self.state.connections.remove(&id);
        self.state.timers.disarm(Timer::Connection(id));
        self.settle(now, None);
    }

    /// Octets to send on a connection; `None` when there are none for now.
    pub fn poll_transmit(&mut self, id: ConnectionId) -> Option<Bytes> {
        let connection = self.state.connections.get_mut(&id)?;
        let output = connection.take_output();
        self.resume(id);
        if output.is_empty() { None } else { Some(output) }
    }

    /// Copies octets to send on a connection into a buffer, as many as fit, and gives how many that are. They count as sent.
    pub fn read_output(&mut self, id: ConnectionId, buffer: &mut [u8]) -> usize {
        let Some(connection) = self.state.connections.get_mut(&id) else { return 0 };
        let count = connection.read_output(buffer);
        self.resume(id);
        count
    }

    /// Whether there are octets to send on a connection.
    #[must_use]
    pub fn has_output(&self, id: ConnectionId) -> bool {
        self.state.connections.get(&id).is_some_and(|connection| connection.output_len() > 0)
    }

    /// Whether a connection should be read from. It should not while it is blocked, or while far too much waits to be sent
    /// on it, so that back-pressure reaches the client.
    #[must_use]
    pub fn wants_input(&self, id: ConnectionId) -> bool {
        self.state.connections.get(&id).is_some_and(|connection| {
            let backlog = connection.blocked && connection.decoder.pending().len() >= BACKLOG;
            !backlog && connection.output_len() < self.state.config.output_limit.saturating_mul(2)
        })
    }

    /// Whether the broker wants the transport closed, after what [`poll_transmit`](Self::poll_transmit) gives has been
    /// sent. True for a connection that is unknown or forgotten.
    #[must_use]
    pub fn is_closed(&self, id: ConnectionId) -> bool {
        self.state.connections.get(&id).is_none_or(|connection| connection.phase == Phase::Closed)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), which may be earlier than something is due, never later.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.state.timers.next()
    }

    /// Does what is due: heartbeats, handshakes that take too long, messages and queues that expire, delayed confirms.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.state.tell_time(now);
        while let Some(timer) = self.state.timers.pop_due(now) {
            match timer {
                Timer::Connection(id) => {
                    if let Some(connection) = self.state.connections.get_mut(&id) {
                        connection.handle_timeout(now);
                        if connection.phase == Phase::Closed {
                            release::release_connection(&mut self.state, id, now);
                        }
                    }
                    self.arm(id);
                }
                Timer::Channel(id, channel) => quiesce::confirm(&mut self.state, id, channel, now),
                Timer::Queue(id) => delivery::handle_timeout(&mut self.state, id, now),
            }
            self.settle(now, None);
        }
    }

    /// Lets all that moves come to rest, and sets the timer of the connection that something was done with.
    pub(crate) fn settle(&mut self, now: Instant, id: Option<ConnectionId>) {
        loop {
            stuck::resume(&mut self.state, now);
            quiesce::quiesce(&mut self.state, now);
            quiesce::confirm_all(&mut self.state, now);
            if !self.unblock_if_possible(now) {
                break;
            }
        }
        if let Some(id) = id {
            self.arm(id);
        }
    }

    fn arm(&mut self, id: ConnectionId) {
        let deadline = self.state.connections.get(&id).and_then(Connection::deadline);
        if let Some(at) = deadline {
            self.state.timers.arm(Timer::Connection(id), at);
        }
    }

    /// Output was taken: consumers that had to wait for that go on.
    fn resume(&mut self, id: ConnectionId) {
        let Some((now, _)) = self.state.clock else { return };
        let limit = self.state.config.output_limit;
        let Some(connection) = self.state.connections.get_mut(&id) else { return };
        if !connection.stalled || connection.output_len() > limit / 2 {
            return;
        }
        connection.stalled = false;
        let queues: Vec<QueueId> =
            connection.channels.values().flat_map(crate::channel::Channel::queues).collect();
        self.state.dirty.extend(queues);
        self.settle(now, Some(id));
    }

    /// Without an alarm, the connections that were blocked are processed further. Gives whether there were any.
    fn unblock_if_possible(&mut self, now: Instant) -> bool {
        if self.state.alarm().is_some() {
            return false;
        }
        let blocked = self.state.connections.iter().filter(|(_, connection)| connection.blocked);
        let blocked: Vec<ConnectionId> = blocked.map(|(id, _)| *id).collect();
        for &id in &blocked {
            if let Some(connection) = self.state.connections.get_mut(&id) {
                connection.blocked = false;
                connection.last_received = now;
                if connection.has_capability("connection.blocked") {
                    connection.send(now, 0, &connection::Unblocked {});
                }
            }
            dispatch::process(&mut self.state, id, now);
            self.arm(id);
        }
        !blocked.is_empty()
    }
}
