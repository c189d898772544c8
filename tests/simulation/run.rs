//! One seed from its beginning to its end, when nothing may be left.

use crate::ledger::{Checked, Violation, ensure};
use crate::plan::{Feature, Plan};
use crate::world::World;
use puka::machine::Settle;
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
}

/// Runs a seed.
pub(crate) fn run(plan: Plan, traced: bool) -> Outcome {
    let mut world = World::new(plan, traced);
    let result = catch_unwind(AssertUnwindSafe(|| world.live()));
    let violation = match result {
        Ok(checked) => checked.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?");
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
        self.recover()?;
        for client in 0..self.clients.len() {
            self.prove(client)?;
        }
        for client in 0..self.clients.len() {
            self.let_go(client, 80)?;
        }
        self.end()
    }

    /// The faults stop. What was under way finds its end.
    fn recover(&mut self) -> Checked {
        self.note(0, || "the faults stop".into());
        if self.blocked {
            self.unblock()?;
        }
        for session in self.clients.iter_mut().flatten() {
            session.up.write_at = self.now;
            session.down.write_at = self.now;
        }
        self.run_for(self.plan.request_timeout().mul_f32(2.3))
    }

    /// A sound connection does what it is asked for.
    fn prove(&mut self, client: usize) -> Checked {
        if self.session(client).is_none_or(|session| !session.is_sound()) {
            return Ok(());
        }
        // With few channels they may all be taken by what the application holds.
        self.let_go(client, 100)?;
        self.run_for(Duration::from_secs(2))?;
        if self.session(client).is_none_or(|session| !session.is_sound()) || self.plan.has(Feature::TinyReads)
        {
            return Ok(());
        }
        self.note(client, || "proves that it works".into());
        self.probe(client)
    }

    /// The application settles what it holds, and lets go of its consumers.
    fn let_go(&mut self, client: usize, consumers_dropped: usize) -> Checked {
        let mut random = self.plan.random(7 + client as u64);
        let Some(session) = self.session(client) else { return Ok(()) };
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
        while self.session(client).is_some_and(|session| !session.held.is_empty()) {
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
            if self.session(client).is_some_and(|session| !session.finished && !session.closing) {
                let sound = self.session(client).is_some_and(|session| session.is_sound());
                self.close(client)?;
                if sound && !self.plan.may_time_out() {
                    self.surely(client);
                }
            }
        }
        self.run_for(self.plan.close_timeout() + Duration::from_secs(2))?;
        for client in 0..self.clients.len() {
            let Some(session) = self.session(client) else { continue };
            let (number, finished) = (session.number, session.finished);
            ensure(finished, || format!("session {number} is closed and has not come to its end"))?;
            self.bury(client)?;
        }
        self.run_for(Duration::from_millis(1))?;
        ensure(self.broker.connections().is_empty(), || "the broker still has a connection".into())?;
        for queue in self.broker.queues() {
            ensure(queue.unacked == 0, || {
                format!("{} deliveries of {} are unsettled", queue.unacked, queue.name)
            })?;
            ensure(queue.consumers == 0, || format!("{} still has consumers", queue.name))?;
        }
        let World { ledger, broker, .. } = self;
        ledger.check(broker)
    }
}
