//! The broker without I/O: bytes and the time are its input, bytes its output.

use crate::config::Config;
use crate::connection::{Connection, Phase};
use crate::ids::{ConnectionId, QueueId};
use crate::state::State;
use crate::timers::Timer;
use crate::{delivery, dispatch, pending_work, removal, stuck_queues};
use bytes::Bytes;
use puka::protocol::method::connection;
use std::time::Instant;

/// The number of unprocessed bytes of a blocked connection above which it should not be read any
/// more.
const MAX_BACKLOG: usize = 64 << 10;

/// An AMQP 0-9-1 broker in memory, without I/O, clock or threads.
///
/// The owner of the transports drives it. After each call that takes the time: send the output of
/// [`poll_transmit`](Self::poll_transmit) for every connection (a call for one client may produce
/// output for others), close the connections that are [`is_closed`](Self::is_closed), and arm a
/// timer for [`poll_timeout`](Self::poll_timeout). The same calls with the same [`Config::seed`]
/// produce the same bytes.
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
    /// Creates a broker with its virtual hosts and the predeclared exchanges.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            state: State::new(config),
        }
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.state.config
    }

    /// Adds a connection whose transport was opened. The client sends first.
    pub fn connect(&mut self, now: Instant) -> ConnectionId {
        let now = self.state.advance_clock(now);
        let id = ConnectionId(self.state.fresh_id());
        let connection = Connection::new(&self.state.config, now);
        self.state.connections.insert(id, connection);
        self.run_pending_work(now, Some(id));
        id
    }

    /// Processes bytes that have arrived, in pieces of any size. The bytes of a blocked connection
    /// are stored instead; check [`wants_input`](Self::wants_input) first to bound them.
    pub fn handle_input(&mut self, now: Instant, id: ConnectionId, bytes: &[u8]) {
        let now = self.state.advance_clock(now);
        dispatch::handle_input(&mut self.state, id, bytes, now);
        self.run_pending_work(now, Some(id));
    }

    /// Reports that a transport is closed, by either side. Removes the connection.
    pub fn handle_eof(&mut self, now: Instant, id: ConnectionId) {
        let now = self.state.advance_clock(now);
        if let Some(connection) = self.state.connections.get_mut(&id) {
            connection.drop_transport();
        }
        removal::clear_connection(&mut self.state, id, now);
        self.state.connections.remove(&id);
        self.state.timers.disarm(Timer::Connection(id));
        self.run_pending_work(now, None);
    }

    /// Returns the bytes to send on a connection, or `None` if there are none for now.
    pub fn poll_transmit(&mut self, id: ConnectionId) -> Option<Bytes> {
        let connection = self.state.connections.get_mut(&id)?;
        let output = connection.take_output();
        self.resume_deliveries(id);
        if output.is_empty() {
            None
        } else {
            Some(output)
        }
    }

    /// Copies bytes to send on a connection into a buffer, as many as fit, and returns their
    /// number. They count as sent.
    pub fn read_output(&mut self, id: ConnectionId, buffer: &mut [u8]) -> usize {
        let Some(connection) = self.state.connections.get_mut(&id) else {
            return 0;
        };
        let count = connection.read_output(buffer);
        self.resume_deliveries(id);
        count
    }

    /// Returns `true` if there are bytes to send on a connection.
    #[must_use]
    pub fn has_output(&self, id: ConnectionId) -> bool {
        self.state
            .connections
            .get(&id)
            .is_some_and(|connection| connection.output_len() > 0)
    }

    /// Returns `true` if a connection should be read from. Back-pressure reaches the client while
    /// it returns `false`: while the connection is blocked, or its unsent output exceeds the limit.
    #[must_use]
    pub fn wants_input(&self, id: ConnectionId) -> bool {
        self.state.connections.get(&id).is_some_and(|connection| {
            let backlog = connection.blocked && connection.decoder.pending().len() >= MAX_BACKLOG;
            !backlog && connection.output_len() < self.state.config.output_limit.saturating_mul(2)
        })
    }

    /// Returns `true` if the transport should be closed once the output of
    /// [`poll_transmit`](Self::poll_transmit) has been sent, and for an unknown or removed
    /// connection.
    #[must_use]
    pub fn is_closed(&self, id: ConnectionId) -> bool {
        self.state
            .connections
            .get(&id)
            .is_none_or(|connection| connection.phase == Phase::Closed)
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout). It may be earlier than the
    /// next deadline, but never later.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.state.timers.next()
    }

    /// Handles everything that is due: heartbeats, handshake timeouts, messages and queues that
    /// expire, delayed confirms.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.state.advance_clock(now);
        while let Some(timer) = self.state.timers.pop_due(now) {
            match timer {
                Timer::Connection(id) => {
                    if let Some(connection) = self.state.connections.get_mut(&id) {
                        connection.handle_timeout(now);
                        if connection.phase == Phase::Closed {
                            removal::clear_connection(&mut self.state, id, now);
                        }
                    }
                    self.arm(id);
                }
                Timer::Channel(id, channel) => {
                    pending_work::send_due_confirms(&mut self.state, id, channel, now)
                }
                Timer::Queue(id) => delivery::handle_timeout(&mut self.state, id, now),
            }
            self.run_pending_work(now, None);
        }
    }

    /// Performs all work that a call has caused, and arms the timer of its connection.
    pub(crate) fn run_pending_work(&mut self, now: Instant, id: Option<ConnectionId>) {
        loop {
            stuck_queues::resume(&mut self.state, now);
            pending_work::run(&mut self.state, now);
            pending_work::send_all_due_confirms(&mut self.state, now);
            if !self.unblock_if_possible(now) {
                break;
            }
        }
        if let Some(id) = id {
            self.arm(id);
        }
    }

    /// Arms the timer of a connection.
    fn arm(&mut self, id: ConnectionId) {
        let deadline = self
            .state
            .connections
            .get(&id)
            .and_then(Connection::deadline);
        if let Some(at) = deadline {
            self.state.timers.arm(Timer::Connection(id), at);
        }
    }

    /// Continues deliveries on a connection if enough of its output was taken.
    fn resume_deliveries(&mut self, id: ConnectionId) {
        let Some((now, _)) = self.state.clock else {
            return;
        };
        let limit = self.state.config.output_limit;
        let Some(connection) = self.state.connections.get_mut(&id) else {
            return;
        };
        if !connection.stalled || connection.output_len() > limit / 2 {
            return;
        }
        connection.stalled = false;
        let queues: Vec<QueueId> = connection
            .channels
            .values()
            .flat_map(crate::channel::Channel::queues)
            .collect();
        self.state.dirty.extend(queues);
        self.run_pending_work(now, Some(id));
    }

    /// Unblocks all connections and processes their input, unless there is an alarm. Returns `true`
    /// if any connection was blocked.
    fn unblock_if_possible(&mut self, now: Instant) -> bool {
        if self.state.alarm().is_some() {
            return false;
        }
        let blocked = self
            .state
            .connections
            .iter()
            .filter(|(_, connection)| connection.blocked);
        let blocked: Vec<ConnectionId> = blocked.map(|(id, _)| *id).collect();
        for &id in &blocked {
            if let Some(connection) = self.state.connections.get_mut(&id) {
                connection.blocked = false;
                connection.last_received = now;
                if connection.has_capability("connection.blocked") {
                    connection.send(now, 0, &connection::Unblocked {});
                }
            }
            dispatch::process_input(&mut self.state, id, now);
            self.arm(id);
        }
        !blocked.is_empty()
    }
}
