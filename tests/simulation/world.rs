//! A broker, its clients, the network between them and the time, all from one seed.

use crate::checker::{Checked, MessageChecker, Violation, ensure};
use crate::observer::Observed;
use crate::plan::Plan;
use crate::publishes::id_of_copy;
use crate::random::Random;
use crate::session::Session;
use crate::transport::Transport;
use crate::wire::{End, Read};
use puka_test_broker::Broker;
use puka_test_broker::ConnectionId;
use std::time::{Duration, Instant};

/// The maximum number of polls. The longest of 20 000 seeds needs 178 553.
const MAX_ROUNDS: u64 = 500_000;

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Instant,
    start: Instant,
    pub(crate) broker: Broker,
    pub(crate) clients: Vec<Option<Session>>,
    pub(crate) sessions: usize,
    /// The number of transports so far.
    pub(crate) transports: usize,
    /// The number of brokers so far.
    pub(crate) brokers: u64,
    /// The index of the broker's current endpoint.
    pub(crate) home: usize,
    /// Dials fail until this instant.
    pub(crate) away_until: Instant,
    /// Faults have stopped.
    pub(crate) calm: bool,
    pub(crate) checker: MessageChecker,
    /// The random numbers of the network.
    pub(crate) network: Random,
    hash: u64,
    /// The events so far, if a trace was requested.
    pub(crate) trace: Option<Vec<String>>,
    /// Queues that a blocked connection, or a channel waiting for a stuck queue, may have asked to
    /// purge or delete.
    pub(crate) clearing: Vec<String>,
    pub(crate) blocked: bool,
    pub(crate) faults: usize,
    /// The number of polls so far.
    pub(crate) rounds: u64,
}

impl World {
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
            home: 0,
            away_until: start,
            calm: false,
            checker: MessageChecker::default(),
            network: plan.random(6),
            hash: 0,
            trace: traced.then(Vec::new),
            clearing: Vec::new(),
            blocked: false,
            faults: 0,
            rounds: 0,
        }
    }

    /// Returns a hash of all bytes in both directions.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Returns the time that has passed.
    pub(crate) fn time(&self) -> Duration {
        self.now - self.start
    }

    pub(crate) fn session(&mut self, client: usize) -> Option<&mut Session> {
        self.clients.get_mut(client)?.as_mut()
    }

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

    /// Advances time.
    pub(crate) fn run_for(&mut self, time: Duration) -> Checked {
        let until = self.now + time;
        loop {
            self.run_until_idle()?;
            let next = self.next_event().filter(|next| *next <= until);
            let Some(next) = next else { break };
            self.now = next.max(self.now);
        }
        self.now = until;
        self.check_deadlines()
    }

    fn next_event(&self) -> Option<Instant> {
        let transports = self
            .clients
            .iter()
            .flatten()
            .flat_map(Session::transports)
            .flat_map(|transport| {
                let broker = transport.broker;
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
            .map(|session| session.due(self.now));
        sessions
            .chain(transports)
            .chain([self.broker.poll_timeout()])
            .flatten()
            .min()
    }

    /// Performs everything that is due now.
    pub(crate) fn run_until_idle(&mut self) -> Checked {
        loop {
            self.rounds += 1;
            ensure(self.rounds <= MAX_ROUNDS, || {
                "the world does not become idle".into()
            })?;
            let mut progress = false;
            for client in 0..self.clients.len() {
                let now = self.now;
                let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut) else {
                    continue;
                };
                if session.due(now).is_some_and(|due| due <= now) {
                    if let Some(dialling) = session.drive(now, &mut self.network)? {
                        self.dial(client, dialling);
                    }
                    progress = true;
                    self.events(client)?;
                    self.dialled(client)?;
                }
                progress |= self.serve(client)?;
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

    pub(crate) fn transport(&mut self, client: usize, place: usize) -> Option<&mut Transport> {
        self.session(client)?
            .transport_at(place)
            .map(|(transport, _)| transport)
    }

    fn places(&self, client: usize) -> usize {
        self.clients
            .get(client)
            .and_then(Option::as_ref)
            .map_or(0, |session| session.old_transports.len() + 1)
    }

    /// Moves bytes between the network and the broker.
    fn serve(&mut self, client: usize) -> Checked<bool> {
        let mut progress = false;
        for place in 0..self.places(client) {
            progress |= self.serve_transport(client, place)?;
        }
        if let Some(session) = self.session(client) {
            session.old_transports.retain(|old| !old.broker_gone);
        }
        Ok(progress)
    }

    fn serve_transport(&mut self, client: usize, place: usize) -> Checked<bool> {
        let mut progress = false;
        let now = self.now;
        while let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut)
            && let Some((transport, _)) = session.transport_at(place)
        {
            if transport.broker_gone || !self.broker.wants_input(transport.broker) {
                break;
            }
            match transport.up.read(now, 64 << 10, &mut self.network) {
                Read::Bytes(bytes) => {
                    let observed = transport.observer.client_sent(&bytes);
                    self.broker.handle_input(now, transport.broker, &bytes);
                    self.checker.sync(&self.broker)?;
                    self.observed(client, place, observed)?;
                }
                Read::Ended(_) => self.forget(client, place)?,
                Read::Nothing => break,
            }
            progress = true;
        }
        progress |= self.answer(client, place, false)?;
        if let Some(transport) = self
            .clients
            .get_mut(client)
            .and_then(Option::as_mut)
            .and_then(|it| it.transport_at(place))
            && !transport.0.broker_gone
            && self.broker.is_closed(transport.0.broker)
            && !self.broker.has_output(transport.0.broker)
        {
            transport.0.down.end(now, End::Eof);
            self.forget(client, place)?;
            progress = true;
        }
        Ok(progress)
    }

    /// Takes the broker's output for a client; with `all`, even if the client no longer receives
    /// it.
    fn answer(&mut self, client: usize, place: usize, all: bool) -> Checked<bool> {
        let mut progress = false;
        let now = self.now;
        while let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut) {
            let finished = session.finished;
            let Some((transport, is_current)) = session.transport_at(place) else {
                break;
            };
            if transport.broker_gone || !self.broker.has_output(transport.broker) {
                break;
            }
            let mut buffer = [0; 4096];
            let lost = all || finished || !is_current || transport.down.has_ended();
            let room = if lost {
                buffer.len()
            } else {
                transport.down.room(now, &mut self.network)
            };
            let bytes = self
                .broker
                .read_output(transport.broker, &mut buffer[..room.min(4096)]);
            if bytes == 0 {
                break;
            }
            progress = true;
            let bytes = &buffer[..bytes];
            let observed = transport.observer.broker_sent(bytes);
            if !lost {
                let bytes = transport.injector.broker_sends(bytes.to_vec());
                if transport.injector.has_refused() {
                    transport.silence_upwards();
                }
                if !bytes.is_empty() && transport.down.send(now, bytes, &mut self.network) {
                    transport.cut(now);
                }
            }
            session.hash(bytes);
            self.observed(client, place, observed)?;
        }
        Ok(progress)
    }

    /// Records that the broker's end of the transport is gone.
    pub(crate) fn forget(&mut self, client: usize, place: usize) -> Checked {
        self.answer(client, place, true)?;
        let now = self.now;
        let Some(transport) = self.transport(client, place) else {
            return Ok(());
        };
        transport.broker_gone = true;
        transport.up.end(now, End::Reset);
        transport.down.end(now, End::Eof);
        let broker: ConnectionId = transport.broker;
        self.broker.handle_eof(now, broker);
        Ok(())
    }

    /// Records that the broker's ends of all transports are gone.
    pub(crate) fn forget_all(&mut self, client: usize) -> Checked {
        for place in 0..self.places(client) {
            if self
                .transport(client, place)
                .is_some_and(|transport| !transport.broker_gone)
            {
                self.forget(client, place)?;
            }
        }
        Ok(())
    }

    /// Takes the broker's output for every client before the broker is dropped.
    pub(crate) fn take_all_output(&mut self) -> Checked {
        for client in 0..self.clients.len() {
            for place in 0..self.places(client) {
                self.answer(client, place, true)?;
            }
        }
        Ok(())
    }

    fn observed(&mut self, client: usize, place: usize, observed: Vec<Observed>) -> Checked {
        for observed in observed {
            match observed {
                Observed::Publishes(received) => {
                    if let Some(transport) = self.transport(client, place)
                        && let Some(disorder) = transport.observer.publishes.disorder.take()
                    {
                        return Err(Violation(disorder));
                    }
                    if let Some(session) = self.session(client) {
                        session.may_publish(received.copy)?;
                    }
                    let transport = self
                        .transport(client, place)
                        .map_or(0, |transport| transport.number);
                    self.checker.received_publish(transport, &received)?;
                }
                Observed::Clears(queue) => {
                    self.checker.clear(&queue);
                    if self.blocked || !self.checker.stuck.is_empty() {
                        self.clearing.push(queue);
                    }
                }
                Observed::Left { queue, copy } => self.checker.allow_missing(&queue, copy),
                Observed::Returned(copy) => self.checker.returned(id_of_copy(copy))?,
                Observed::ChannelClosed(text) => {
                    let fair = !text.contains("unknown delivery tag");
                    ensure(fair, || {
                        format!("I6: a tag that is unknown to the broker: {text}")
                    })?;
                    self.note(client, || format!("the broker closes a channel: {text}"));
                }
                Observed::Closed { code, text } => {
                    let fair = code == 320 || code == 541 && text.contains("by chance");
                    ensure(fair, || {
                        format!("I6: the broker closes the connection: {code} {text}")
                    })?;
                }
                Observed::Nameless(method) => {
                    return Err(Violation(format!(
                        "{method} reached the broker with an empty queue name"
                    )));
                }
                Observed::Beyond { channel, most } => {
                    let text =
                        format!("channel {channel} was opened, and the channel_max is {most}");
                    return Err(Violation(text));
                }
                Observed::Opened => {}
                Observed::CloseOk => {
                    if self
                        .session(client)
                        .and_then(|it| it.transport_at(place))
                        .is_some_and(|it| it.1)
                    {
                        self.all_arrived(client)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Records that the broker has received everything from a session.
    fn all_arrived(&mut self, client: usize) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let unconfirmed = std::mem::take(&mut session.unconfirmed);
        let broken = std::mem::take(&mut session.broken_consumers);
        let settled = std::mem::take(&mut session.settled);
        unconfirmed
            .into_iter()
            .try_for_each(|id| self.checker.arrived(id))?;
        // A channel that waits for a stuck queue has not processed the acks behind that.
        let all_received = self.checker.stuck.is_empty();
        for (consumer, settled) in settled {
            if all_received && consumer.is_none_or(|consumer| !broken.contains(&consumer)) {
                self.checker.settled(&settled)?;
            }
        }
        Ok(())
    }

    /// Makes the broker read the input that it had left.
    pub(crate) fn unblock(&mut self) -> Checked {
        self.blocked = false;
        self.broker.unblock(self.now);
        self.checker.sync(&self.broker)?;
        self.clear_again();
        Ok(())
    }

    /// Clears the queues of delayed purges and deletes that were executed.
    pub(crate) fn clear_again(&mut self) {
        for queue in &self.clearing {
            self.checker.clear(queue);
        }
        if !self.blocked && self.checker.stuck.is_empty() {
            self.clearing.clear();
        }
    }

    /// Records the end of a session.
    pub(crate) fn end_session(&mut self, client: usize) -> Checked {
        self.forget_all(client)?;
        let Some(session) = self.clients.get_mut(client).and_then(Option::take) else {
            return Ok(());
        };
        self.hash = self.hash.rotate_left(9) ^ session.hash;
        session.drop_everything()
    }
}
