//! One seed from its beginning to its end, when nothing may be left.

use crate::ledger::{Checked, Violation, ensure};
use crate::plan::{Feature, Plan};
use crate::session::Session;
use crate::world::World;
use puka::machine::{ConnectionState, Settle};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// What came of a seed.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    /// A fingerprint of all octets.
    pub(crate) hash: u64,
    pub(crate) trace: Vec<String>,
    pub(crate) handed: usize,
    pub(crate) answered: usize,
    pub(crate) faults: usize,
    pub(crate) lines: usize,
    /// How long it took, in its own time.
    pub(crate) time: Duration,
}

/// Runs a seed.
pub(crate) fn run(plan: Plan, traced: bool) -> Outcome {
    let mut world = World::new(plan, traced);
    let result = catch_unwind(AssertUnwindSafe(|| world.live()));
    let violation = match result {
        Ok(checked) => checked.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or(panic.downcast_ref::<&str>().copied())
                .unwrap_or("?");
            Some(Violation(format!("a panic: {text}")))
        }
    };
    Outcome {
        violation,
        hash: world.hash(),
        trace: world.trace.take().unwrap_or_default(),
        handed: world.ledger.handed,
        answered: world.ledger.confirmed,
        faults: world.faults,
        lines: world.lines,
        time: world.time(),
    }
}

impl World {
    fn live(&mut self) -> Checked {
        for number in 0..self.plan.ops {
            self.operate(number)?;
        }
        self.finish()
    }

    /// Lets everything come to its end, where nothing may be left.
    pub(crate) fn finish(&mut self) -> Checked {
        self.calm_down()?;
        self.stand()?;
        if !self.ledger.stuck.is_empty() {
            // A stuck queue delays no other request, unless it has all channels: the broker does
            // not even close them.
            let has_few =
                self.plan.has(Feature::FewChannels) || self.plan.has(Feature::FewerChannels);
            if !has_few {
                self.prove_all()?;
            }
            self.release_all()?;
            self.run_for(Duration::from_secs(2))?;
        }
        self.check_consumers()?;
        self.come_back()?;
        self.prove_all()?;
        for client in 0..self.clients.len() {
            self.let_go(client, 80)?;
        }
        self.end()
    }

    /// The faults stop. What was under way finds its end.
    fn calm_down(&mut self) -> Checked {
        self.note(0, || "the faults stop".into());
        self.calm = true;
        self.away_until = self.now;
        let mut is_silent = false;
        if self.blocked {
            self.unblock()?;
        }
        if self.plan.has(Feature::Recover) {
            // What they were to have back from such a queue can't be.
            self.release_all()?;
        }
        for session in self.clients.iter_mut().flatten() {
            session.asleep_until = self.now;
            for ghost in &mut session.ghosts {
                ghost.up.silent = false;
                ghost.calm(self.now);
            }
            if let Some(line) = &mut session.line {
                line.calm(self.now);
                if line.meddler.withholds() {
                    line.cut(self.now);
                }
                is_silent |= line.up.silent;
            }
        }
        if is_silent && self.plan.has(Feature::Recover) {
            // Until it is noticed that nobody says a word.
            self.run_for(Duration::from_secs(150))?;
        }
        let time = self.plan.request_timeout().mul_f32(2.3);
        if !self.plan.has(Feature::SmallBounds) {
            return self.run_for(time);
        }
        // What is full of deliveries that nobody takes does not read on, and can't come to stand.
        for _ in 0..20 {
            self.run_for(time / 20)?;
            self.take_everything()?;
        }
        Ok(())
    }

    fn take_everything(&mut self) -> Checked {
        for client in 0..self.clients.len() {
            let Some(session) = self.session(client) else {
                continue;
            };
            for id in session.consumers.keys().copied().collect::<Vec<_>>() {
                while self.take_from(client, id, 100)? {}
            }
        }
        Ok(())
    }

    fn prove_all(&mut self) -> Checked {
        (0..self.clients.len()).try_for_each(|client| self.prove(client))
    }

    /// A sound connection does what it is asked for.
    fn prove(&mut self, client: usize) -> Checked {
        if self
            .session(client)
            .is_none_or(|session| !session.is_sound())
        {
            return Ok(());
        }
        // With few channels they may all be taken by what the application holds.
        self.let_go(client, 100)?;
        self.run_for(Duration::from_secs(2))?;
        if self
            .session(client)
            .is_none_or(|session| !session.is_sound())
            || self.plan.has(Feature::TinyReads)
        {
            return Ok(());
        }
        self.note(client, || "proves that it works".into());
        self.probe(client)?;
        if self.plan.has(Feature::Hoard) {
            self.probe_hoarding(client)
        } else {
            Ok(())
        }
    }

    /// What recovers has come to stand, and nobody waits for anything.
    fn stand(&mut self) -> Checked {
        for client in 0..self.clients.len() {
            // Strictly, it never stands when it wants what somebody has deleted, or has declared
            // otherwise.
            let differ = [
                Feature::OutsideDelete,
                Feature::Churn,
                Feature::Volatile,
                Feature::Wrong,
            ];
            let may_never =
                self.plan.has(Feature::Strict) && differ.iter().any(|it| self.plan.has(*it));
            let Some(session) = self.session(client).filter(|session| session.recovers) else {
                continue;
            };
            let number = session.number;
            if session.finished {
                let reason = session.reason_to_give_up();
                ensure(reason, || {
                    format!(
                        "I9: session {number} gave up: {:?}",
                        session.machine.why_closed()
                    )
                })?;
                continue;
            }
            let is_silent = session.line.as_ref().is_some_and(|line| line.down.silent);
            ensure(!is_silent, || {
                format!("I9: session {number} does not notice that nobody says a word")
            })?;
            let is_open = matches!(session.machine.state(), ConnectionState::Open);
            ensure(is_open || session.closing || may_never, || {
                format!(
                    "I9: session {number} does not stand: {:?}",
                    session.machine.state()
                )
            })?;
            if !may_never && let Some(waiting) = session.waiting.values().next() {
                return Err(Violation(format!("I9: {:?} is waited for", waiting.asked)));
            }
        }
        Ok(())
    }

    /// The broker forgets everything, and everything that it should have is there again.
    fn come_back(&mut self) -> Checked {
        if !self.plan.has(Feature::Recover) || !self.plan.has(Feature::Wipe) {
            return Ok(());
        }
        // Applications learn which queues have gone with their consumers.
        self.take_everything()?;
        self.wipe()?;
        self.run_for(Duration::from_secs(15))?;
        self.stand()?;
        self.check_topology()
    }

    /// The broker delivers to whom somebody consumes, and to nobody else.
    fn check_consumers(&self) -> Checked {
        let sessions = || self.clients.iter().flatten();
        let is_settled = |session: &Session| {
            session.is_sound() || session.finished && session.lines().all(|line| line.broker_gone)
        };
        if self.plan.has(Feature::TinyReads) || !sessions().all(is_settled) {
            return Ok(());
        }
        for queue in self.broker.queues() {
            let wanted: usize = sessions()
                .map(|session| session.live_consumers(&queue.name))
                .sum();
            // A prefetch count that was raised has the broker see a second one for the difference.
            let may_be_more = self.plan.has(Feature::Qos) && wanted > 0 && queue.consumers > wanted;
            ensure(queue.consumers == wanted || may_be_more, || {
                format!(
                    "I11: {} has {} consumers, of which {wanted} are wanted",
                    queue.name, queue.consumers
                )
            })?;
            let refused: usize = sessions()
                .map(|session| session.refused_consumers(&queue.name))
                .sum();
            let has_few =
                self.plan.has(Feature::FewChannels) || self.plan.has(Feature::FewerChannels);
            ensure(refused == 0 || queue.consumers > 0 || has_few, || {
                format!(
                    "I11: {refused} consumers of {} wait, and nobody else consumes it",
                    queue.name
                )
            })?;
        }
        Ok(())
    }

    fn check_topology(&mut self) -> Checked {
        let sessions: Vec<&Session> = self
            .clients
            .iter()
            .flatten()
            .filter(|session| session.is_sound())
            .collect();
        let queues = self.broker.queues();
        for name in ["q0", "q1", "q2", "f0"] {
            let queue = queues.iter().find(|queue| queue.name == name);
            let by = sessions
                .iter()
                .find(|session| session.record.is_there(name));
            ensure(queue.is_some() || by.is_none(), || {
                format!(
                    "I9: {name} is not declared again by session {:?}",
                    by.map(|session| session.number)
                )
            })?;
            let mut all = self.clients.iter().flatten();
            let is_unwanted = all.all(|session| session.record.is_not_there(name));
            ensure(queue.is_none() || !is_unwanted, || {
                format!("I9: {name} is back, and nobody wants it")
            })?;
            let consumed: usize = sessions
                .iter()
                .map(|session| session.live_consumers(name))
                .sum();
            let consumers = queue.map_or(0, |queue| queue.consumers);
            ensure(consumers >= consumed, || {
                format!("I9: {name} has {consumers} of {consumed} consumers")
            })?;
        }
        let exchanges = self.broker.exchanges();
        for name in ["direct", "fanout", "sometimes"] {
            let exchange = exchanges.iter().find(|exchange| exchange.name == name);
            let is_wanted = sessions.iter().any(|session| session.record.is_there(name));
            ensure(exchange.is_some() || !is_wanted, || {
                format!("I9: {name} is not declared again")
            })?;
            let mut all = self.clients.iter().flatten();
            let is_unwanted = all.all(|session| session.record.is_not_there(name));
            ensure(exchange.is_none() || !is_unwanted, || {
                format!("I9: {name} is back")
            })?;
            let bound = |queue: &&&str| {
                let binding = format!("{queue}|{name}");
                let has = |session: &&Session| {
                    [&*binding, queue, name]
                        .iter()
                        .all(|it| session.record.is_there(it))
                };
                sessions.iter().any(has)
            };
            let least = ["q0", "q1", "q2", "f0"].iter().filter(bound).count();
            let all = self
                .clients
                .iter()
                .flatten()
                .flat_map(|session| session.record.bindings(name));
            let most = all.collect::<BTreeSet<_>>().len();
            let bindings = exchange.map_or(0, |exchange| exchange.bindings);
            ensure((least..=most).contains(&bindings), || {
                format!("I9: {name} has {bindings} bindings, where {least} to {most} are wanted")
            })?;
        }
        for session in sessions {
            for first in &session.unnamed {
                let name = session.machine.current_name(first.as_bytes());
                let name = String::from_utf8_lossy(&name);
                let is_there = queues.iter().any(|queue| queue.name == name);
                let is_kept = session.record.is_unspoilt(first);
                ensure(is_there || !is_kept, || {
                    format!("I9: {first}, which is {name}, is not back")
                })?;
            }
        }
        Ok(())
    }

    /// The application settles what it holds, and lets go of its consumers.
    fn let_go(&mut self, client: usize, consumers_dropped: usize) -> Checked {
        let mut random = self.plan.random(7 + client as u64);
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let consumers: Vec<_> = session.consumers.keys().copied().collect();
        for id in consumers {
            let awake = self
                .session(client)
                .and_then(|session| session.consumers.get(&id))
                .is_some_and(|it| it.awake);
            if random.chance(50) {
                while awake && self.take_from(client, id, 100)? {}
            }
            if random.chance(consumers_dropped)
                && let Some(session) = self.session(client)
                && session.consumers.remove(&id).is_some()
            {
                session.machine.drop_consumer(id);
            }
        }
        while self
            .session(client)
            .is_some_and(|session| !session.transactions.is_empty())
        {
            self.finish_transaction(client, 0, random.chance(50))?;
        }
        while self
            .session(client)
            .is_some_and(|session| !session.held.is_empty())
        {
            if random.chance(70) {
                self.settle_this(client, 0, Settle::Ack { multiple: false })?;
            } else {
                self.give_back(client, &mut random)?;
            }
        }
        self.events(client)
    }

    /// Everybody closes.
    fn end(&mut self) -> Checked {
        for client in 0..self.clients.len() {
            if self
                .session(client)
                .is_some_and(|session| !session.finished && !session.closing)
            {
                let sound = self
                    .session(client)
                    .is_some_and(|session| session.is_sound());
                self.close(client)?;
                if sound && !self.plan.may_time_out() {
                    self.surely(client);
                }
            }
        }
        self.run_for(self.plan.close_timeout() + Duration::from_secs(2))?;
        for client in 0..self.clients.len() {
            let Some(session) = self.session(client) else {
                continue;
            };
            let (number, finished) = (session.number, session.finished);
            ensure(finished, || {
                format!("session {number} is closed and has not come to its end")
            })?;
            self.bury(client)?;
        }
        self.run_for(Duration::from_millis(1))?;
        ensure(self.broker.connections().is_empty(), || {
            "the broker still has a connection".into()
        })?;
        for queue in self.broker.queues() {
            ensure(queue.unacked == 0, || {
                format!(
                    "{} deliveries of {} are unsettled",
                    queue.unacked, queue.name
                )
            })?;
            ensure(queue.consumers == 0, || {
                format!("{} still has consumers", queue.name)
            })?;
        }
        let World { ledger, broker, .. } = self;
        ledger.check(broker)
    }
}
