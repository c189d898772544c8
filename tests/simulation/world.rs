//! A world: a broker, its clients, the network between them and the time, all from one seed.

use crate::checker::MessageChecker;
use crate::observer::Observed;
use crate::paces::Redeliveries;
use crate::plan::Plan;
use crate::publish_observer::id_of_copy;
use crate::random::Random;
use crate::session::Session;
use crate::transport::Transport;
use crate::violation::{Checked, Violation, ensure};
use crate::wire::{End, Read};
use puka_test_broker::Broker;
use puka_test_broker::ConnectionId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The maximum number of polls of all clients in one seed. The longest of 20 000 seeds needs 178
/// 553.
const MAX_POLLS: u64 = 500_000;

/// Everything that a seed simulates.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    /// The virtual time.
    pub(crate) now: Instant,
    start: Instant,
    pub(crate) broker: Broker,
    /// The current session of each client.
    pub(crate) clients: Vec<Option<Session>>,
    /// The number of sessions so far.
    pub(crate) sessions: usize,
    /// The number of transports so far.
    pub(crate) transports: usize,
    /// The number of brokers so far.
    pub(crate) brokers: u64,
    /// The index of the only endpoint at which the broker can be reached.
    pub(crate) broker_endpoint: usize,
    /// Dials fail until this instant.
    pub(crate) unreachable_until: Instant,
    /// The operations have ended, and no more faults are injected.
    pub(crate) faults_stopped: bool,
    pub(crate) checker: MessageChecker,
    /// The random numbers of the network.
    pub(crate) network_random: Random,
    /// A hash of all bytes of the sessions that have ended.
    hash: u64,
    /// The events so far, if a trace was requested.
    pub(crate) trace: Option<Vec<String>>,
    /// Queues with a purge or delete that the broker may execute later: its connection was blocked,
    /// or its channel was waiting for a stuck queue.
    pub(crate) delayed_clears: Vec<String>,
    /// Until when the leaders of queues move, so that the broker cancels each new consumer of them.
    pub(crate) moving_leaders: BTreeMap<String, Instant>,
    pub(crate) redeliveries: Redeliveries,
    /// The broker has an alarm, so it does not read from connections that publish.
    pub(crate) blocked: bool,
    /// The number of injected faults so far.
    pub(crate) faults: usize,
    /// The number of polls so far.
    pub(crate) polls: u64,
}

impl World {
    /// Creates the world of a plan. Its events are recorded if it is `traced`.
    pub(crate) fn new(plan: Plan, traced: bool) -> Self {
        let start = Instant::now();
        let clients = 1 + plan.random(5).below(3);
        Self {
            plan,
            now: start,
            start,
            broker: Broker::new(plan.config()),
            clients: (0..clients).map(|_| None).collect(),
            sessions: 0,
            transports: 0,
            brokers: 1,
            broker_endpoint: 0,
            unreachable_until: start,
            faults_stopped: false,
            checker: MessageChecker::default(),
            network_random: plan.random(6),
            hash: 0,
            trace: traced.then(Vec::new),
            delayed_clears: Vec::new(),
            moving_leaders: BTreeMap::new(),
            redeliveries: Redeliveries::default(),
            blocked: false,
            faults: 0,
            polls: 0,
        }
    }

    /// Returns a hash of all bytes in both directions.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Returns the virtual time that has passed.
    pub(crate) fn time(&self) -> Duration {
        self.now - self.start
    }

    /// Returns the current session of a client. `None` before the first one and after the end of
    /// each one: operations and checks skip such a client.
    pub(crate) fn session(&mut self, client: usize) -> Option<&mut Session> {
        self.clients.get_mut(client)?.as_mut()
    }

    /// Adds an event to the trace.
    pub(crate) fn note(&mut self, client: usize, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let at = self.now - self.start;
            trace.push(format!(
                "{:>10.3} ms  client {client}  {}",
                at.as_secs_f64() * 1000.0,
                what()
            ));
        }
    }

    /// Advances the time, and performs everything that is due meanwhile.
    pub(crate) fn run_for(&mut self, time: Duration) -> Checked {
        let until = self.now + time;
        loop {
            self.run_until_idle()?;
            let next = self.next_event().filter(|next| *next <= until);
            let Some(next) = next else { break };
            self.now = next.max(self.now);
        }
        self.now = until;
        self.check_interrupted()?;
        self.check_deadlines()
    }

    /// Returns when something is due next.
    fn next_event(&self) -> Option<Instant> {
        let transports = self
            .clients
            .iter()
            .flatten()
            .flat_map(Session::transports)
            .flat_map(|transport| {
                let broker = transport.connection;
                let readable = if transport.broker_gone || !self.broker.wants_input(broker) {
                    None
                } else {
                    transport.up.readable_at()
                };
                let writable = if !transport.broker_gone && self.broker.has_output(broker) {
                    transport.down.writable_at()
                } else {
                    None
                };
                [readable, writable]
            });
        let sessions = self
            .clients
            .iter()
            .flatten()
            .map(|session| session.next_poll(self.now));
        sessions
            .chain(transports)
            .chain([self.broker.poll_timeout()])
            .flatten()
            .min()
    }

    /// Performs everything that is due now.
    pub(crate) fn run_until_idle(&mut self) -> Checked {
        loop {
            self.polls += 1;
            ensure(self.polls <= MAX_POLLS, || {
                "the world does not become idle".into()
            })?;
            let mut progress = false;
            for client in 0..self.clients.len() {
                let now = self.now;
                let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut) else {
                    continue;
                };
                if session.next_poll(now).is_some_and(|at| at <= now) {
                    if let Some(dialling) = session.drive(now, &mut self.network_random)? {
                        self.dial(client, dialling)?;
                    }
                    progress = true;
                    self.handle_events(client)?;
                    self.complete_dial(client)?;
                }
                progress |= self.move_bytes(client)?;
            }
            if self
                .broker
                .poll_timeout()
                .is_some_and(|timeout| timeout <= self.now)
            {
                self.broker.handle_timeout(self.now);
                progress = true;
            }
            if !progress {
                break;
            }
        }
        Ok(())
    }

    /// Returns a transport of a client that the broker may still know.
    pub(crate) fn transport(&mut self, client: usize, index: usize) -> Option<&mut Transport> {
        self.session(client)?
            .transport_at(index)
            .map(|(transport, _)| transport)
    }

    /// Returns the number of transports of a client that the broker may still know.
    fn transport_count(&self, client: usize) -> usize {
        self.clients
            .get(client)
            .and_then(Option::as_ref)
            .map_or(0, |session| session.transports().count())
    }

    /// Moves the bytes of a client between the network and the broker. Returns `true` if there was
    /// any progress.
    fn move_bytes(&mut self, client: usize) -> Checked<bool> {
        let mut progress = false;
        for index in 0..self.transport_count(client) {
            progress |= self.move_bytes_of_transport(client, index)?;
        }
        if let Some(session) = self.session(client) {
            session.forget_dropped_transports();
        }
        Ok(progress)
    }

    /// Moves the bytes of one transport. Returns `true` if there was any progress.
    fn move_bytes_of_transport(&mut self, client: usize, index: usize) -> Checked<bool> {
        let mut progress = false;
        let now = self.now;
        while let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut)
            && let Some((transport, _)) = session.transport_at(index)
        {
            if transport.broker_gone || !self.broker.wants_input(transport.connection) {
                break;
            }
            match transport.up.read(now, 64 << 10, &mut self.network_random) {
                Read::Bytes(bytes) => {
                    let observed = transport.observer.observe_client_bytes(&bytes);
                    self.broker.handle_input(now, transport.connection, &bytes);
                    self.checker.sync(&self.broker)?;
                    self.handle_observed(client, index, observed)?;
                }
                Read::Ended(_) => self.end_broker_side(client, index)?,
                Read::Nothing => break,
            }
            progress = true;
        }
        progress |= self.take_broker_output(client, index, false)?;
        if let Some(transport) = self
            .clients
            .get_mut(client)
            .and_then(Option::as_mut)
            .and_then(|it| it.transport_at(index))
            && !transport.0.broker_gone
            && self.broker.is_closed(transport.0.connection)
            && !self.broker.has_output(transport.0.connection)
        {
            transport.0.down.end(now, End::Eof);
            self.end_broker_side(client, index)?;
            progress = true;
        }
        Ok(progress)
    }

    /// Takes the broker's output for a transport, as much as the network accepts. Discards it if
    /// the client no longer receives it; with `discard`, in any case. Returns `true` if there was
    /// output.
    fn take_broker_output(&mut self, client: usize, index: usize, discard: bool) -> Checked<bool> {
        let mut progress = false;
        let now = self.now;
        while let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut) {
            let finished = session.is_finished();
            let Some((transport, is_current)) = session.transport_at(index) else {
                break;
            };
            if transport.broker_gone || !self.broker.has_output(transport.connection) {
                break;
            }
            let mut buffer = [0; 4096];
            let is_lost = discard || finished || !is_current || transport.down.has_ended();
            let capacity = if is_lost {
                buffer.len()
            } else {
                transport.down.capacity(now, &mut self.network_random)
            };
            let bytes = self
                .broker
                .read_output(transport.connection, &mut buffer[..capacity.min(4096)]);
            if bytes == 0 {
                break;
            }
            progress = true;
            let bytes = &buffer[..bytes];
            let observed = transport.observer.observe_broker_bytes(bytes);
            if !is_lost {
                let bytes = transport.injector.rewrite_broker_bytes(bytes.to_vec());
                if transport.injector.has_refused_login() {
                    transport.silence_upwards();
                }
                if !bytes.is_empty() && transport.down.send(now, bytes, &mut self.network_random) {
                    transport.cut(now);
                }
            }
            session.hash_broker_bytes(bytes);
            self.handle_observed(client, index, observed)?;
        }
        Ok(progress)
    }

    /// Ends a transport at the broker's side, after taking all of its output.
    pub(crate) fn end_broker_side(&mut self, client: usize, index: usize) -> Checked {
        self.take_broker_output(client, index, true)?;
        let now = self.now;
        let Some(transport) = self.transport(client, index) else {
            return Ok(());
        };
        transport.broker_gone = true;
        transport.up.end(now, End::Reset);
        transport.down.end(now, End::Eof);
        let broker: ConnectionId = transport.connection;
        self.broker.handle_eof(now, broker);
        Ok(())
    }

    /// Ends all transports of a client at the broker's side.
    pub(crate) fn end_all_broker_sides(&mut self, client: usize) -> Checked {
        for index in 0..self.transport_count(client) {
            if self
                .transport(client, index)
                .is_some_and(|transport| !transport.broker_gone)
            {
                self.end_broker_side(client, index)?;
            }
        }
        Ok(())
    }

    /// Takes the broker's output for every client, before the broker is dropped.
    pub(crate) fn take_all_output(&mut self) -> Checked {
        for client in 0..self.clients.len() {
            for index in 0..self.transport_count(client) {
                self.take_broker_output(client, index, true)?;
            }
        }
        Ok(())
    }

    /// Records and checks what a transport has carried.
    fn handle_observed(&mut self, client: usize, index: usize, observed: Vec<Observed>) -> Checked {
        let now = self.now;
        for observed in observed {
            match observed {
                Observed::Consumes { queue, tag } => {
                    self.cancel_restarted(&queue);
                    if let Some(transport) = self.transport(client, index) {
                        transport.starts.record(&tag, now)?;
                    }
                }
                Observed::Redelivered(copy) => self.redeliveries.record(copy, now)?,
                Observed::Publishes(received) => {
                    if let Some(transport) = self.transport(client, index)
                        && let Some(misplaced) = transport.observer.publishes.misplaced_frame.take()
                    {
                        return Err(Violation(misplaced));
                    }
                    if let Some(session) = self.session(client) {
                        session.check_not_returned(received.copy)?;
                    }
                    let transport = self
                        .transport(client, index)
                        .map_or(0, |transport| transport.number);
                    self.checker.record_received_publish(transport, &received)?;
                }
                Observed::ClearsQueue(queue) => {
                    self.checker.allow_all_missing(&queue);
                    if self.blocked || !self.checker.stuck_queues.is_empty() {
                        self.delayed_clears.push(queue);
                    }
                }
                Observed::SentWithoutAck { queue, copy } => {
                    self.checker.allow_missing(&queue, copy)
                }
                Observed::Returned(copy) => self.checker.record_return(id_of_copy(copy))?,
                Observed::ChannelClosed(text) => {
                    let is_expected = !text.contains("unknown delivery tag");
                    ensure(is_expected, || {
                        format!("I6: a tag that is unknown to the broker: {text}")
                    })?;
                    self.note(client, || format!("the broker closes a channel: {text}"));
                }
                Observed::Closed { code, text } => {
                    let has_crashed = text.contains("has crashed");
                    let exceeds_limit = code == 530 && text.contains("user limit");
                    if exceeds_limit && let Some(session) = self.session(client) {
                        session.expect_break("a limit of channels");
                    }
                    if has_crashed && let Some(session) = self.session(client) {
                        session.record_crash(index, now);
                    }
                    let is_expected = exceeds_limit
                        || code == 320
                        || code == 541 && (text.contains("by chance") || has_crashed);
                    ensure(is_expected, || {
                        format!("I6: the broker closes the connection: {code} {text}")
                    })?;
                }
                Observed::EmptyQueueName(method) => {
                    return Err(Violation(format!(
                        "{method} reached the broker with an empty queue name"
                    )));
                }
                Observed::ChannelAboveLimit {
                    channel,
                    channel_max,
                } => {
                    return Err(Violation(format!(
                        "channel {channel} was opened, and the channel_max is {channel_max}"
                    )));
                }
                Observed::Opened => {}
                Observed::CloseOk => {
                    if self
                        .session(client)
                        .and_then(|it| it.transport_at(index))
                        .is_some_and(|it| it.1)
                    {
                        self.handle_all_received(client)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks a session from which the broker has received everything.
    fn handle_all_received(&mut self, client: usize) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let sent = session.take_sent();
        for id in sent.unconfirmed {
            self.checker.check_received(id)?;
        }
        // The broker has not processed the acks of a channel that waits for a stuck queue.
        if self.checker.stuck_queues.is_empty() {
            for settlement in &sent.settlements {
                self.checker.record_received_settlement(settlement)?;
            }
        }
        Ok(())
    }

    /// Ends the broker's alarm, so that it processes the input of blocked connections.
    pub(crate) fn unblock(&mut self) -> Checked {
        self.blocked = false;
        self.broker.unblock(self.now);
        self.checker.sync(&self.broker)?;
        self.record_delayed_clears();
        Ok(())
    }

    /// Allows messages to be missing from the queues of delayed purges and deletes, some of which
    /// the broker has just executed.
    pub(crate) fn record_delayed_clears(&mut self) {
        for queue in &self.delayed_clears {
            self.checker.allow_all_missing(queue);
        }
        if !self.blocked && self.checker.stuck_queues.is_empty() {
            self.delayed_clears.clear();
        }
    }

    /// Ends a session, and checks that nothing of it is left.
    pub(crate) fn end_session(&mut self, client: usize) -> Checked {
        self.end_all_broker_sides(client)?;
        let Some(session) = self.clients.get_mut(client).and_then(Option::take) else {
            return Ok(());
        };
        session.check_end()?;
        self.hash = self.hash.rotate_left(9) ^ session.bytes_hash();
        session.drop_everything()
    }
}
