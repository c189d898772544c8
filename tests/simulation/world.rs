//! A broker, its clients, the network between them and the time, all from one seed.

use crate::ledger::{Checked, Ledger, ensure};
use crate::observer::Said;
use crate::plan::Plan;
use crate::random::Random;
use crate::session::Session;
use crate::wire::{End, Read};
use puka_test_broker::Broker;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Instant,
    start: Instant,
    pub(crate) broker: Broker,
    pub(crate) clients: Vec<Option<Session>>,
    pub(crate) sessions: usize,
    pub(crate) ledger: Ledger,
    /// What the network draws from.
    network: Random,
    hash: u64,
    /// What has happened, if somebody wants to read it.
    pub(crate) trace: Option<Vec<String>>,
    /// Queues that a blocked connection may have asked to be cleared.
    clearing: Vec<String>,
    pub(crate) blocked: bool,
    pub(crate) faults: usize,
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
            ledger: Ledger::default(),
            network: plan.random(6),
            hash: 0,
            trace: traced.then(Vec::new),
            clearing: Vec::new(),
            blocked: false,
            faults: 0,
        }
    }

    /// A fingerprint of all octets in both directions.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn session(&mut self, client: usize) -> Option<&mut Session> {
        self.clients.get_mut(client)?.as_mut()
    }

    pub(crate) fn note(&mut self, client: usize, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let at = self.now - self.start;
            trace.push(format!("{:>10.3} ms  client {client}  {}", at.as_secs_f64() * 1000.0, what()));
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
        let sessions = self.clients.iter().flatten().flat_map(|session| {
            let broker = session.broker;
            let heard = if session.broker_gone || !self.broker.wants_input(broker) {
                None
            } else {
                session.up.readable_at()
            };
            let said = if self.broker.has_output(broker) { session.down.writable_at() } else { None };
            [session.due(self.now), heard, said]
        });
        sessions.chain([self.broker.poll_timeout()]).flatten().min()
    }

    /// Does what is to be done now.
    pub(crate) fn come_to_rest(&mut self) -> Checked {
        for round in 0_u32.. {
            ensure(round < 1_000_000, || "nothing comes to rest".into())?;
            let mut progress = false;
            for client in 0..self.clients.len() {
                let now = self.now;
                let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut) else { continue };
                if session.due(now).is_some_and(|due| due <= now) {
                    session.drive(now, &mut self.network)?;
                    progress = true;
                    self.events(client)?;
                }
                progress |= self.serve(client)?;
            }
            if self.broker.poll_timeout().is_some_and(|timeout| timeout <= self.now) {
                self.broker.handle_timeout(self.now);
                progress = true;
            }
            if !progress {
                break;
            }
        }
        Ok(())
    }

    /// Moves octets between the network and the broker.
    fn serve(&mut self, client: usize) -> Checked<bool> {
        let mut progress = false;
        let now = self.now;
        while let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut) {
            if session.broker_gone || !self.broker.wants_input(session.broker) {
                break;
            }
            match session.up.read(now, 64 << 10, &mut self.network) {
                Read::Octets(octets) => {
                    let said = session.observer.client_says(&octets);
                    self.broker.handle_input(now, session.broker, &octets);
                    self.ledger.sync(&self.broker)?;
                    self.said(client, said)?;
                }
                Read::Ended(_) => self.forget(client)?,
                Read::Nothing => break,
            }
            progress = true;
        }
        progress |= self.answer(client, false)?;
        if let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut)
            && !session.broker_gone
            && self.broker.is_closed(session.broker)
            && !self.broker.has_output(session.broker)
        {
            session.down.end(now, End::Eof);
            self.forget(client)?;
            progress = true;
        }
        Ok(progress)
    }

    /// Takes what the broker has to say to a client; with `all` even what nobody receives any more.
    fn answer(&mut self, client: usize, all: bool) -> Checked<bool> {
        let mut progress = false;
        let now = self.now;
        while let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut)
            && self.broker.has_output(session.broker)
        {
            let mut buffer = [0; 4096];
            let lost = all || session.finished || session.down.has_ended();
            let room = if lost { buffer.len() } else { session.down.room(now, &mut self.network) };
            let octets = self.broker.read_output(session.broker, &mut buffer[..room.min(4096)]);
            if octets == 0 {
                break;
            }
            progress = true;
            let octets = &buffer[..octets];
            session.hash(octets);
            let said = session.observer.broker_says(octets);
            if !lost {
                let octets = session.meddler.broker_sends(octets.to_vec());
                if !octets.is_empty() && session.down.send(now, octets, &mut self.network) {
                    session.cut(now);
                }
            }
            self.said(client, said)?;
        }
        Ok(progress)
    }

    /// The broker's end of the transport is gone.
    pub(crate) fn forget(&mut self, client: usize) -> Checked {
        self.answer(client, true)?;
        let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut) else { return Ok(()) };
        session.broker_gone = true;
        self.broker.handle_eof(self.now, session.broker);
        session.up.end(self.now, End::Reset);
        session.down.end(self.now, End::Eof);
        Ok(())
    }

    /// Takes what every client is about to be sent out of the broker's hands, before it drops it.
    pub(crate) fn hear_all(&mut self) -> Checked {
        for client in 0..self.clients.len() {
            self.answer(client, true)?;
        }
        Ok(())
    }

    fn said(&mut self, client: usize, said: Vec<Said>) -> Checked {
        for said in said {
            match said {
                Said::Clears(queue) => {
                    self.ledger.clear(&queue);
                    if self.blocked {
                        self.clearing.push(queue);
                    }
                }
                Said::Left { queue, id } => self.ledger.excuse(&queue, id),
                Said::Returned(id) => self.ledger.returned(id)?,
                Said::ChannelClosed(text) => {
                    let fair = !text.contains("unknown delivery tag");
                    ensure(fair, || format!("I6: a tag that the broker does not know: {text}"))?;
                    self.note(client, || format!("the broker closes a channel: {text}"));
                }
                Said::Closed { code, text } => {
                    ensure(code == 320, || format!("I6: the broker closes the connection: {code} {text}"))?;
                }
                Said::CloseOk => {
                    if let Some(session) = self.session(client) {
                        session.clean = true;
                    }
                    self.acknowledgements_arrived(client)?;
                }
            }
        }
        Ok(())
    }

    /// The broker has heard everything that a session had to say.
    fn acknowledgements_arrived(&mut self, client: usize) -> Checked {
        let Some(session) = self.session(client) else { return Ok(()) };
        let broken = std::mem::take(&mut session.broken_consumers);
        for (consumer, settled) in std::mem::take(&mut session.settled) {
            if consumer.is_none_or(|consumer| !broken.contains(&consumer)) {
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
        for queue in std::mem::take(&mut self.clearing) {
            self.ledger.clear(&queue);
        }
        Ok(())
    }

    /// A session is over.
    pub(crate) fn bury(&mut self, client: usize) -> Checked {
        let broker_gone = self.session(client).is_none_or(|session| session.broker_gone);
        if !broker_gone {
            self.forget(client)?;
        }
        let Some(session) = self.clients.get_mut(client).and_then(Option::take) else { return Ok(()) };
        self.hash = self.hash.rotate_left(9) ^ session.hash;
        session.bury()
    }
}
