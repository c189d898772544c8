//! One seed from start to end, with the final checks.

use crate::checker::{Checked, Violation, ensure};
use crate::plan::{Feature, Plan};
use crate::session::Session;
use crate::world::World;
use puka::machine::{ConnectionState, Settle};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// The result of a seed.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    /// A hash of all bytes.
    pub(crate) hash: u64,
    pub(crate) trace: Vec<String>,
    pub(crate) deliveries: usize,
    pub(crate) answered: usize,
    pub(crate) faults: usize,
    pub(crate) transports: usize,
    /// Its duration in virtual time.
    pub(crate) time: Duration,
}

/// Runs a seed.
pub(crate) fn run(plan: Plan, traced: bool) -> Outcome {
    let mut world = World::new(plan, traced);
    let result = catch_unwind(AssertUnwindSafe(|| world.run_operations()));
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
        deliveries: world.checker.deliveries,
        answered: world.checker.confirmed,
        faults: world.faults,
        transports: world.transports,
        time: world.time(),
    }
}

impl World {
    /// Performs all operations and the final checks.
    fn run_operations(&mut self) -> Checked {
        for number in 0..self.plan.ops {
            self.operate(number)?;
        }
        self.finish()
    }

    /// Ends everything, and checks that nothing is left.
    pub(crate) fn finish(&mut self) -> Checked {
        self.stop_faults()?;
        self.check_recovered()?;
        if !self.checker.stuck.is_empty() {
            // A stuck queue delays no other request, unless it has all channels: the broker does
            // not even close them.
            let has_few =
                self.plan.has(Feature::FewChannels) || self.plan.has(Feature::FewerChannels);
            if !has_few {
                self.check_clients_work()?;
            }
            self.release_all()?;
            self.run_for(Duration::from_secs(2))?;
        }
        self.check_consumers()?;
        self.check_recovery_after_wipe()?;
        self.check_clients_work()?;
        for client in 0..self.clients.len() {
            self.drop_handles(client, 80)?;
        }
        self.end()
    }

    /// Stops the faults and waits until pending work completes.
    fn stop_faults(&mut self) -> Checked {
        self.note(0, || "the faults stop".into());
        self.calm = true;
        self.away_until = self.now;
        let mut is_silent = false;
        if self.blocked {
            self.unblock()?;
        }
        if self.plan.has(Feature::Recover) {
            // Recovery cannot restore what such a queue would deliver.
            self.release_all()?;
        }
        for session in self.clients.iter_mut().flatten() {
            session.asleep_until = self.now;
            for old in &mut session.old_transports {
                old.up.silent = false;
                old.remove_delays(self.now);
            }
            if let Some(transport) = &mut session.transport {
                transport.remove_delays(self.now);
                if transport.injector.withholds() {
                    transport.cut(self.now);
                }
                is_silent |= transport.up.silent;
            }
        }
        if is_silent && self.plan.has(Feature::Recover) {
            // Until the silence is detected.
            self.run_for(Duration::from_secs(150))?;
        }
        let time = self.plan.request_timeout().mul_f32(2.3);
        if !self.plan.has(Feature::SmallBounds) {
            return self.run_for(time);
        }
        // A client full of untaken deliveries does not read, so it may not become idle.
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

    fn check_clients_work(&mut self) -> Checked {
        (0..self.clients.len()).try_for_each(|client| self.check_client_works(client))
    }

    /// Checks that a sound connection performs requests.
    fn check_client_works(&mut self, client: usize) -> Checked {
        if self
            .session(client)
            .is_none_or(|session| !session.is_sound())
        {
            return Ok(());
        }
        // With few channels, unsettled messages of the application may use them all.
        self.drop_handles(client, 100)?;
        self.run_for(Duration::from_secs(2))?;
        if self
            .session(client)
            .is_none_or(|session| !session.is_sound())
            || self.plan.has(Feature::TinyReads)
        {
            return Ok(());
        }
        self.note(client, || "checks that it works".into());
        self.probe(client)?;
        if self.plan.has(Feature::Hoard) {
            self.probe_hoarding(client)
        } else {
            Ok(())
        }
    }

    /// Checks that recovering connections are open and nothing is pending.
    fn check_recovered(&mut self) -> Checked {
        for client in 0..self.clients.len() {
            // A strict client never recovers if it needs an entity that was deleted or declared
            // otherwise, or binds a queue whose declaration has timed out.
            let differ = [
                Feature::OutsideDelete,
                Feature::Churn,
                Feature::Volatile,
                Feature::Wrong,
            ];
            let is_strict = self.plan.has(Feature::Strict);
            let differ = differ.iter().any(|it| self.plan.has(*it));
            let Some(session) = self.session(client).filter(|session| session.recovers) else {
                continue;
            };
            let may_never = is_strict && (differ || session.record.has_uncertain());
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
            let is_silent = session
                .transport
                .as_ref()
                .is_some_and(|transport| transport.down.silent);
            ensure(!is_silent, || {
                format!("I9: session {number} does not detect silence")
            })?;
            let is_open = matches!(session.machine.state(), ConnectionState::Open);
            ensure(is_open || session.closing || may_never, || {
                format!(
                    "I9: session {number} is not open: {:?}",
                    session.machine.state()
                )
            })?;
            if !may_never && let Some(pending) = session.pending.values().next() {
                return Err(Violation(format!("I9: {:?} is pending", pending.request)));
            }
        }
        Ok(())
    }

    /// Makes the broker lose everything, and checks that it is restored.
    fn check_recovery_after_wipe(&mut self) -> Checked {
        if !self.plan.has(Feature::Recover) || !self.plan.has(Feature::Wipe) {
            return Ok(());
        }
        // Applications learn which queues were deleted with their consumers.
        self.take_everything()?;
        self.wipe()?;
        self.run_for(Duration::from_secs(15))?;
        self.check_recovered()?;
        self.check_topology()
    }

    /// Checks that the broker has exactly the consumers that applications have.
    fn check_consumers(&self) -> Checked {
        let sessions = || self.clients.iter().flatten();
        let is_settled = |session: &Session| {
            session.is_sound()
                || session.finished && session.transports().all(|transport| transport.broker_gone)
        };
        if self.plan.has(Feature::TinyReads) || !sessions().all(is_settled) {
            return Ok(());
        }
        for queue in self.broker.queues() {
            let wanted: usize = sessions()
                .map(|session| session.live_consumers(&queue.name))
                .sum();
            // For a raised prefetch count the broker has a second consumer for the difference.
            let may_be_more = self.plan.has(Feature::Qos) && wanted > 0 && queue.consumers > wanted;
            ensure(queue.consumers == wanted || may_be_more, || {
                format!(
                    "I11: {} has {} consumers, of which {wanted} are expected",
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
                    "I11: {refused} consumers of {} are refused, and no other consumer exists",
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
                .find(|session| session.record.must_be_restored(name));
            ensure(queue.is_some() || by.is_none(), || {
                format!(
                    "I9: {name} is not declared again by session {:?}",
                    by.map(|session| session.number)
                )
            })?;
            let mut all = self.clients.iter().flatten();
            let is_unwanted = all.all(|session| session.record.must_be_absent(name));
            ensure(queue.is_none() || !is_unwanted, || {
                format!("I9: {name} was restored without an owner")
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
            let is_wanted = sessions
                .iter()
                .any(|session| session.record.must_be_restored(name));
            ensure(exchange.is_some() || !is_wanted, || {
                format!("I9: {name} is not declared again")
            })?;
            let mut all = self.clients.iter().flatten();
            let is_unwanted = all.all(|session| session.record.must_be_absent(name));
            ensure(exchange.is_none() || !is_unwanted, || {
                format!("I9: {name} was restored")
            })?;
            let bound = |queue: &&&str| {
                let binding = format!("{queue}|{name}");
                let has = |session: &&Session| {
                    [&*binding, queue, name]
                        .iter()
                        .all(|it| session.record.must_be_restored(it))
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
                format!("I9: {name} has {bindings} bindings, where {least} to {most} are expected")
            })?;
        }
        for session in sessions {
            for first in &session.unnamed {
                let name = session.machine.current_name(first.as_bytes());
                let name = String::from_utf8_lossy(&name);
                let must_be_restored = queues.iter().any(|queue| queue.name == name);
                let is_kept = session.record.may_be_restored(first);
                ensure(must_be_restored || !is_kept, || {
                    format!("I9: {first}, now {name}, was not restored")
                })?;
            }
        }
        Ok(())
    }

    /// Settles and drops everything of the applications.
    fn drop_handles(&mut self, client: usize, consumers_dropped: usize) -> Checked {
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
            .is_some_and(|session| !session.unsettled.is_empty())
        {
            if random.chance(70) {
                self.settle_this(client, 0, Settle::Ack { multiple: false })?;
            } else {
                self.give_back(client, &mut random)?;
            }
        }
        self.events(client)
    }

    /// Closes all clients.
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
                    self.require_success(client);
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
                format!("session {number} is closed and has not ended")
            })?;
            self.end_session(client)?;
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
        let World {
            checker, broker, ..
        } = self;
        checker.check(broker)
    }
}
