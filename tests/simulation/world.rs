//! A broker, its clients, the network between them and the time, all from one seed.

use crate::heard::id_of_copy;
use crate::ledger::{Checked, Ledger, Violation, ensure};
use crate::line::Line;
use crate::observer::Said;
use crate::plan::Plan;
use crate::random::Random;
use crate::session::Session;
use crate::wire::{End, Read};
use puka_test_broker::Broker;
use puka_test_broker::ConnectionId;
use std::time::{Duration, Instant};

/// How often everybody is asked at most, in all. Of twenty thousand seeds the longest asks 178 553
/// times.
const MOST_ROUNDS: u64 = 500_000;

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Instant,
    start: Instant,
    pub(crate) broker: Broker,
    pub(crate) clients: Vec<Option<Session>>,
    pub(crate) sessions: usize,
    /// How many transports there were.
    pub(crate) lines: usize,
    /// How many brokers there were.
    pub(crate) brokers: u64,
    /// At which of its endpoints the broker is.
    pub(crate) home: usize,
    /// Nobody can be dialled until then.
    pub(crate) away_until: Instant,
    /// Nothing breaks any more.
    pub(crate) calm: bool,
    pub(crate) ledger: Ledger,
    /// What the network draws from.
    pub(crate) network: Random,
    hash: u64,
    /// What has happened, if somebody wants to read it.
    pub(crate) trace: Option<Vec<String>>,
    /// Queues that a blocked connection, or a channel that waits for a stuck queue, may have asked
    /// to clear.
    pub(crate) clearing: Vec<String>,
    pub(crate) blocked: bool,
    pub(crate) faults: usize,
    /// How often everybody was asked whether there is something to do.
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
            lines: 0,
            brokers: 1,
            home: 0,
            away_until: start,
            calm: false,
            ledger: Ledger::default(),
            network: plan.random(6),
            hash: 0,
            trace: traced.then(Vec::new),
            clearing: Vec::new(),
            blocked: false,
            faults: 0,
            rounds: 0,
        }
    }

    /// A fingerprint of all octets in both directions.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The time that has passed.
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

    /// Lets time pass.
    pub(crate) fn run_for(&mut self, time: Duration) -> Checked {
        let until = self.now + time;
        loop {
            self.come_to_rest()?;
            let next = self.next_event().filter(|next| *next <= until);
            let Some(next) = next else { break };
            self.now = next.max(self.now);
        }
        self.now = until;
        self.check_deadlines()
    }

    fn next_event(&self) -> Option<Instant> {
        let lines = self
            .clients
            .iter()
            .flatten()
            .flat_map(Session::lines)
            .flat_map(|line| {
                let broker = line.broker;
                let heard = if line.broker_gone || !self.broker.wants_input(broker) {
                    None
                } else {
                    line.up.readable_at()
                };
                let said = if !line.broker_gone && self.broker.has_output(broker) {
                    line.down.writable_at()
                } else {
                    None
                };
                [heard, said]
            });
        let sessions = self
            .clients
            .iter()
            .flatten()
            .map(|session| session.due(self.now));
        sessions
            .chain(lines)
            .chain([self.broker.poll_timeout()])
            .flatten()
            .min()
    }

    /// Does what is to be done now.
    pub(crate) fn come_to_rest(&mut self) -> Checked {
        loop {
            self.rounds += 1;
            ensure(self.rounds <= MOST_ROUNDS, || {
                "nothing comes to rest".into()
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

    pub(crate) fn line(&mut self, client: usize, place: usize) -> Option<&mut Line> {
        self.session(client)?.line_at(place).map(|(line, _)| line)
    }

    fn places(&self, client: usize) -> usize {
        self.clients
            .get(client)
            .and_then(Option::as_ref)
            .map_or(0, |session| session.ghosts.len() + 1)
    }

    /// Moves octets between the network and the broker.
    fn serve(&mut self, client: usize) -> Checked<bool> {
        let mut progress = false;
        for place in 0..self.places(client) {
            progress |= self.serve_line(client, place)?;
        }
        if let Some(session) = self.session(client) {
            session.ghosts.retain(|ghost| !ghost.broker_gone);
        }
        Ok(progress)
    }

    fn serve_line(&mut self, client: usize, place: usize) -> Checked<bool> {
        let mut progress = false;
        let now = self.now;
        while let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut)
            && let Some((line, _)) = session.line_at(place)
        {
            if line.broker_gone || !self.broker.wants_input(line.broker) {
                break;
            }
            match line.up.read(now, 64 << 10, &mut self.network) {
                Read::Octets(octets) => {
                    let said = line.observer.client_says(&octets);
                    self.broker.handle_input(now, line.broker, &octets);
                    self.ledger.sync(&self.broker)?;
                    self.said(client, place, said)?;
                }
                Read::Ended(_) => self.forget(client, place)?,
                Read::Nothing => break,
            }
            progress = true;
        }
        progress |= self.answer(client, place, false)?;
        if let Some(line) = self
            .clients
            .get_mut(client)
            .and_then(Option::as_mut)
            .and_then(|it| it.line_at(place))
            && !line.0.broker_gone
            && self.broker.is_closed(line.0.broker)
            && !self.broker.has_output(line.0.broker)
        {
            line.0.down.end(now, End::Eof);
            self.forget(client, place)?;
            progress = true;
        }
        Ok(progress)
    }

    /// Takes what the broker has to say to a client; with `all` even what nobody receives any more.
    fn answer(&mut self, client: usize, place: usize, all: bool) -> Checked<bool> {
        let mut progress = false;
        let now = self.now;
        while let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut) {
            let finished = session.finished;
            let Some((line, is_current)) = session.line_at(place) else {
                break;
            };
            if line.broker_gone || !self.broker.has_output(line.broker) {
                break;
            }
            let mut buffer = [0; 4096];
            let lost = all || finished || !is_current || line.down.has_ended();
            let room = if lost {
                buffer.len()
            } else {
                line.down.room(now, &mut self.network)
            };
            let octets = self
                .broker
                .read_output(line.broker, &mut buffer[..room.min(4096)]);
            if octets == 0 {
                break;
            }
            progress = true;
            let octets = &buffer[..octets];
            let said = line.observer.broker_says(octets);
            if !lost {
                let octets = line.meddler.broker_sends(octets.to_vec());
                if line.meddler.has_refused() {
                    line.silence_upwards();
                }
                if !octets.is_empty() && line.down.send(now, octets, &mut self.network) {
                    line.cut(now);
                }
            }
            session.hash(octets);
            self.said(client, place, said)?;
        }
        Ok(progress)
    }

    /// The broker's end of the transport is gone.
    pub(crate) fn forget(&mut self, client: usize, place: usize) -> Checked {
        self.answer(client, place, true)?;
        let now = self.now;
        let Some(line) = self.line(client, place) else {
            return Ok(());
        };
        line.broker_gone = true;
        line.up.end(now, End::Reset);
        line.down.end(now, End::Eof);
        let broker: ConnectionId = line.broker;
        self.broker.handle_eof(now, broker);
        Ok(())
    }

    /// The broker's ends of all transports are gone.
    pub(crate) fn forget_all(&mut self, client: usize) -> Checked {
        for place in 0..self.places(client) {
            if self
                .line(client, place)
                .is_some_and(|line| !line.broker_gone)
            {
                self.forget(client, place)?;
            }
        }
        Ok(())
    }

    /// Takes what every client is about to be sent out of the broker's hands, before it drops it.
    pub(crate) fn hear_all(&mut self) -> Checked {
        for client in 0..self.clients.len() {
            for place in 0..self.places(client) {
                self.answer(client, place, true)?;
            }
        }
        Ok(())
    }

    fn said(&mut self, client: usize, place: usize, said: Vec<Said>) -> Checked {
        for said in said {
            match said {
                Said::Publishes(heard) => {
                    if let Some(line) = self.line(client, place)
                        && let Some(disorder) = line.observer.publishes.disorder.take()
                    {
                        return Err(Violation(disorder));
                    }
                    if let Some(session) = self.session(client) {
                        session.may_publish(heard.copy)?;
                    }
                    let line = self.line(client, place).map_or(0, |line| line.number);
                    self.ledger.heard(line, &heard)?;
                }
                Said::Clears(queue) => {
                    self.ledger.clear(&queue);
                    if self.blocked || !self.ledger.stuck.is_empty() {
                        self.clearing.push(queue);
                    }
                }
                Said::Left { queue, copy } => self.ledger.excuse(&queue, copy),
                Said::Returned(copy) => self.ledger.returned(id_of_copy(copy))?,
                Said::ChannelClosed(text) => {
                    let fair = !text.contains("unknown delivery tag");
                    ensure(fair, || {
                        format!("I6: a tag that the broker does not know: {text}")
                    })?;
                    self.note(client, || format!("the broker closes a channel: {text}"));
                }
                Said::Closed { code, text } => {
                    let fair = code == 320 || code == 541 && text.contains("by chance");
                    ensure(fair, || {
                        format!("I6: the broker closes the connection: {code} {text}")
                    })?;
                }
                Said::Nameless(method) => {
                    return Err(Violation(format!(
                        "{method} reached the broker with an empty queue name"
                    )));
                }
                Said::Beyond { channel, most } => {
                    let text =
                        format!("channel {channel} was opened, and the channel_max is {most}");
                    return Err(Violation(text));
                }
                Said::Opened => {}
                Said::CloseOk => {
                    if self
                        .session(client)
                        .and_then(|it| it.line_at(place))
                        .is_some_and(|it| it.1)
                    {
                        self.all_arrived(client)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The broker has heard everything that a session had to say.
    fn all_arrived(&mut self, client: usize) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let unconfirmed = std::mem::take(&mut session.unconfirmed);
        let broken = std::mem::take(&mut session.broken_consumers);
        let settled = std::mem::take(&mut session.settled);
        unconfirmed
            .into_iter()
            .try_for_each(|id| self.ledger.arrived(id))?;
        // A channel that waits for a stuck queue has not processed the acks behind that.
        let all_heard = self.ledger.stuck.is_empty();
        for (consumer, settled) in settled {
            if all_heard && consumer.is_none_or(|consumer| !broken.contains(&consumer)) {
                self.ledger.settled(&settled)?;
            }
        }
        Ok(())
    }

    /// The broker reads again what it had to leave.
    pub(crate) fn unblock(&mut self) -> Checked {
        self.blocked = false;
        self.broker.unblock(self.now);
        self.ledger.sync(&self.broker)?;
        self.clear_again();
        Ok(())
    }

    /// Some of what was asked to be cleared, and had to wait, was cleared.
    pub(crate) fn clear_again(&mut self) {
        for queue in &self.clearing {
            self.ledger.clear(queue);
        }
        if !self.blocked && self.ledger.stuck.is_empty() {
            self.clearing.clear();
        }
    }

    /// A session is over.
    pub(crate) fn bury(&mut self, client: usize) -> Checked {
        self.forget_all(client)?;
        let Some(session) = self.clients.get_mut(client).and_then(Option::take) else {
            return Ok(());
        };
        self.hash = self.hash.rotate_left(9) ^ session.hash;
        session.bury()
    }
}
