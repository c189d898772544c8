//! The broker without I/O: octets and the time go in, octets come out.

use crate::config::Config;
use crate::connection::{Connection, Phase};
use crate::ids::{ConnectionId, QueueId};
use crate::state::State;
use crate::timers::Timer;
use crate::vhost::VHost;
use crate::view::{ExchangeView, Published, QueueView, QueuedMessage};
use crate::{delivery, dispatch, quiesce, release};
use bytes::Bytes;
use puka::protocol::method::connection;
use puka::protocol::{ReplyCode, ShortStr};
use std::sync::Arc;
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
    state: State,
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
    fn settle(&mut self, now: Instant, id: Option<ConnectionId>) {
        loop {
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

/// What a test can look at.
impl Broker {
    /// A queue.
    #[must_use]
    pub fn queue(&self, vhost: &str, name: &str) -> Option<QueueView> {
        let id = self.state.vhosts.get(vhost)?.queues.get(name)?;
        self.view(*id)
    }

    /// All queues, by virtual host and name.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueView> {
        let ids = self.state.vhosts.values().flat_map(|vhost| vhost.queues.values());
        ids.filter_map(|id| self.view(*id)).collect()
    }

    fn view(&self, id: QueueId) -> Option<QueueView> {
        let queue = self.state.queues.get(&id)?;
        let message = |entry: &crate::queue::Entry| QueuedMessage {
            exchange: entry.message.exchange.to_string(),
            routing_key: entry.message.routing_keys.first().cloned().unwrap_or_default(),
            body: entry.message.body.clone(),
            redelivered: entry.redelivered,
            property_list: entry.message.property_list().clone(),
        };
        Some(QueueView {
            vhost: queue.vhost.to_string(),
            name: queue.name.to_string(),
            durable: queue.durable,
            exclusive: queue.owner.is_some(),
            auto_delete: queue.auto_delete,
            ready: queue.ready().map(message).collect(),
            unacked: queue.unacked,
            consumers: queue.consumers.len(),
        })
    }

    /// All exchanges but the default one, by virtual host and name.
    #[must_use]
    pub fn exchanges(&self) -> Vec<ExchangeView> {
        let vhosts = self.state.vhosts.iter();
        let all =
            vhosts.flat_map(|(vhost, found)| found.exchanges.values().map(move |exchange| (vhost, exchange)));
        all.map(|(vhost, exchange)| ExchangeView {
            vhost: vhost.to_string(),
            name: exchange.name.to_string(),
            kind: exchange.kind.name().to_string(),
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            internal: exchange.internal,
            bindings: exchange.bindings.len(),
        })
        .collect()
    }

    /// The messages that were accepted, oldest first, as many as [`Config::published_log`] keeps. What a queue refused
    /// (and a nack answered) is not among them.
    pub fn published(&self) -> impl Iterator<Item = &Published> {
        self.state.published.iter()
    }

    /// The connections whose transport is not gone.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionId> {
        self.state.connections.keys().copied().collect()
    }

    /// How many channels of a connection are open, those included that the broker has closed and the client has not yet
    /// agreed.
    #[must_use]
    pub fn channels(&self, id: ConnectionId) -> usize {
        self.state.connections.get(&id).map_or(0, |connection| connection.channels.len())
    }

    /// Octets of all messages that are held.
    #[must_use]
    pub fn memory_used(&self) -> usize {
        self.state.memory.used()
    }
}

/// What an operator, or bad luck, can do.
impl Broker {
    /// Closes a connection with a reply code and a text, such as 320 and `CONNECTION_FORCED - maintenance`.
    pub fn close_connection(&mut self, now: Instant, id: ConnectionId, code: ReplyCode, text: &str) {
        let now = self.state.tell_time(now);
        if let Some(connection) = self.state.connections.get_mut(&id)
            && connection.phase == Phase::Running
        {
            let close = connection::Close {
                reply_code: code.value(),
                reply_text: ShortStr::cut(text),
                class_id: 0,
                method_id: 0,
            };
            connection.send_close(now, &close);
            release::release_connection(&mut self.state, id, now);
        }
        self.settle(now, Some(id));
    }

    /// Drops a transport without a word, as a cut cable does. What waits to be sent is still given.
    pub fn drop_connection(&mut self, now: Instant, id: ConnectionId) {
        let now = self.state.tell_time(now);
        if let Some(connection) = self.state.connections.get_mut(&id) {
            connection.drop_transport();
        }
        release::release_connection(&mut self.state, id, now);
        self.settle(now, None);
    }

    /// Raises an alarm, such as `low on memory`: a connection that publishes from now on gets `connection.blocked`, and
    /// nothing it sends is processed any more.
    pub fn block(&mut self, reason: &str) {
        self.state.alarm = Some(reason.to_string());
    }

    /// Ends the alarm: what the blocked connections have sent meanwhile is processed.
    pub fn unblock(&mut self, now: Instant) {
        let now = self.state.tell_time(now);
        self.state.alarm = None;
        self.settle(now, None);
    }

    /// Deletes a queue as an operator does, whosever it is. Its consumers are told. Gives whether there was one.
    pub fn delete_queue(&mut self, now: Instant, vhost: &str, name: &str) -> bool {
        let now = self.state.tell_time(now);
        let id = self.state.vhosts.get(vhost).and_then(|found| found.queues.get(name)).copied();
        if let Some(id) = id {
            release::delete_queue(&mut self.state, id, now);
        }
        self.settle(now, None);
        id.is_some()
    }

    /// The broker dies and comes back: transports drop without a word, durable exchanges and queues stay, and in them the
    /// persistent messages.
    pub fn restart(&mut self, now: Instant) {
        let now = self.state.tell_time(now);
        for id in self.connections() {
            if let Some(connection) = self.state.connections.get_mut(&id) {
                connection.drop_transport();
                drop(connection.take_output());
            }
            release::release_connection(&mut self.state, id, now);
        }
        let transient = self.state.queues.values().filter(|queue| !queue.durable).map(|queue| queue.id);
        let transient: Vec<QueueId> = transient.collect();
        for id in transient {
            release::delete_queue(&mut self.state, id, now);
        }
        let names: Vec<(Arc<str>, Arc<str>)> = self
            .state
            .vhosts
            .iter()
            .flat_map(|(vhost, found)| transient_exchanges(found).map(|name| (Arc::clone(vhost), name)))
            .collect();
        for (vhost, name) in names {
            release::delete_exchange(&mut self.state, &vhost, &name);
        }
        for queue in self.state.queues.values_mut() {
            queue.retain_persistent();
        }
        self.state.dead.clear();
        self.settle(now, None);
    }
}

fn transient_exchanges(vhost: &VHost) -> impl Iterator<Item = Arc<str>> {
    vhost.exchanges.values().filter(|exchange| !exchange.durable).map(|exchange| Arc::clone(&exchange.name))
}
