//! Runs one seed from start to end: its operations, and the final checks.

use crate::plan::{Feature, Plan};
use crate::session::Session;
use crate::violation::{Checked, Violation, ensure};
use crate::world::World;
use puka::machine::{ConnectionState, Settle};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// The result of a seed, with the numbers of what happened in it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    /// A hash of all bytes in both directions.
    pub(crate) hash: u64,
    /// The events, if a trace was requested.
    pub(crate) trace: Vec<String>,
    pub(crate) deliveries: usize,
    pub(crate) completed_publishes: usize,
    pub(crate) faults: usize,
    pub(crate) transports: usize,
    /// The duration in virtual time.
    pub(crate) time: Duration,
}

/// Runs a plan. Its events are recorded if it is `traced`.
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
        completed_publishes: world.checker.completed_publishes,
        faults: world.faults,
        transports: world.transports,
        time: world.time(),
    }
}

impl World {
    /// Performs all operations and the final checks.
    fn run_operations(&mut self) -> Checked {
        for number in 0..self.plan.ops {
            self.perform_operation(number)?;
        }
        self.finish()
    }

    /// Stops the faults, checks that everything is restored and works, then closes all clients and
    /// checks that nothing is left.
    pub(crate) fn finish(&mut self) -> Checked {
        self.stop_faults()?;
        self.check_recovered()?;
        if !self.checker.stuck_queues.is_empty() {
            // A stuck queue must not delay other requests. It does if requests to it use all
            // channels, because the broker does not even close these.
            if !self.plan.has_few_channels() {
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
        self.close_all()
    }

    /// Stops the faults, and waits until pending work has completed.
    fn stop_faults(&mut self) -> Checked {
        self.note(0, || "the faults stop".into());
        self.faults_stopped = true;
        self.unreachable_until = self.now;
        self.moving_leaders.clear();
        self.broker.end_crashes();
        self.broker.limit_user_channels(None);
        let mut is_silent = false;
        if self.blocked {
            self.unblock()?;
        }
        if self.plan.has(Feature::Recover) {
            // The client cannot restore a stuck queue, because its declare gets no reply.
            self.release_all()?;
        }
        let now = self.now;
        for session in self.clients.iter_mut().flatten() {
            is_silent |= session.stop_faults(now);
        }
        if is_silent && self.plan.has(Feature::Recover) {
            // The client detects the silence after two heartbeat timeouts, of 60 s at most.
            self.run_for(Duration::from_secs(150))?;
        }
        // A restart is delayed by 30 s at most, after crashes.
        let is_missing = |session: &Session| session.restarts.has_missing();
        if self.plan.has(Feature::Crash) && self.clients.iter().flatten().any(is_missing) {
            self.run_for(Duration::from_secs(35))?;
        }
        // A publish may be queued for one request timeout, and wait for its confirm for another.
        let time = self.plan.request_timeout().mul_f32(2.3);
        if !self.plan.has(Feature::SmallBounds) {
            return self.run_for(time);
        }
        // A client with small bounds stops reading until the application takes its deliveries.
        for _ in 0..20 {
            self.run_for(time / 20)?;
            self.take_all_deliveries()?;
        }
        Ok(())
    }

    /// Takes all buffered deliveries of all consumers.
    fn take_all_deliveries(&mut self) -> Checked {
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

    /// Checks that each sound connection performs requests.
    fn check_clients_work(&mut self) -> Checked {
        (0..self.clients.len()).try_for_each(|client| self.check_client_works(client))
    }

    /// Checks that the connection of a client performs requests, if it is sound.
    fn check_client_works(&mut self, client: usize) -> Checked {
        if self
            .session(client)
            .is_none_or(|session| !session.is_sound())
        {
            return Ok(());
        }
        // With few channels, unsettled messages of the application may use all of them.
        self.drop_handles(client, 100)?;
        self.run_for(Duration::from_secs(2))?;
        if self
            .session(client)
            .is_none_or(|session| !session.is_sound())
            || self.plan.has(Feature::TinyReads)
            // A client respects a limit that it has learned for up to ten minutes.
            || self.plan.has(Feature::UserLimit)
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
            // A strict client may fail to recover for ever: if another client has deleted an entity
            // or declared it differently, or if the client binds a queue whose declaration timed
            // out. Another client may also have an exclusive consumer.
            let differ = [
                Feature::Exclusive,
                Feature::OutsideDelete,
                Feature::Churn,
                Feature::Volatile,
                Feature::Wrong,
            ];
            let is_strict = self.plan.has(Feature::Strict);
            let differ = differ.iter().any(|it| self.plan.has(*it));
            let Some(session) = self.session(client).filter(|session| session.recovers()) else {
                continue;
            };
            let may_fail = is_strict && (differ || session.declared.has_uncertain());
            let number = session.number;
            session.check_end()?;
            if session.is_finished() {
                continue;
            }
            let is_silent = session
                .transport_mut()
                .is_some_and(|transport| transport.down.silent);
            ensure(!is_silent, || {
                format!("I9: session {number} does not detect silence")
            })?;
            let is_open = matches!(session.machine.state(), ConnectionState::Open);
            ensure(is_open || session.is_closing() || may_fail, || {
                format!(
                    "I9: session {number} is not open: {:?}",
                    session.machine.state()
                )
            })?;
            if !may_fail && let Some((_, pending)) = session.pending().next() {
                return Err(Violation(format!("I9: {:?} is pending", pending.request)));
            }
        }
        Ok(())
    }

    /// Makes the broker lose its state, and checks that the clients restore it.
    fn check_recovery_after_wipe(&mut self) -> Checked {
        if !self.plan.has(Feature::Recover) || !self.plan.has(Feature::Wipe) {
            return Ok(());
        }
        // The applications must first learn which consumers ended with their queues: the client
        // does not restore these queues.
        self.take_all_deliveries()?;
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
                || session.is_finished()
                    && session.transports().all(|transport| transport.broker_gone)
        };
        if self.plan.has(Feature::TinyReads) || !sessions().all(is_settled) {
            return Ok(());
        }
        for queue in self.broker.queues() {
            let wanted: usize = sessions()
                .map(|session| session.live_consumers(&queue.name))
                .sum();
            // To raise a prefetch count, the client starts a second consumer for the difference.
            let may_be_more = self.plan.has(Feature::Qos) && wanted > 0 && queue.consumers > wanted;
            ensure(queue.consumers == wanted || may_be_more, || {
                format!(
                    "I11: {} has {} consumers, of which {wanted} are expected",
                    queue.name, queue.consumers
                )
            })?;
            let refused: usize = sessions()
                .map(|session| session.missing_consumers(&queue.name))
                .sum();
            let has_few = self.plan.has_few_channels();
            ensure(refused == 0 || queue.consumers > 0 || has_few, || {
                format!(
                    "I11: {refused} consumers of {} are not restored, and no other consumer exists",
                    queue.name
                )
            })?;
        }
        Ok(())
    }

    /// Checks that the broker has the declared entities, and no others.
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
            let owner = sessions
                .iter()
                .find(|session| session.declared.must_be_restored(name));
            ensure(queue.is_some() || owner.is_none(), || {
                format!(
                    "I9: {name} is not declared again by session {:?}",
                    owner.map(|session| session.number)
                )
            })?;
            let mut all = self.clients.iter().flatten();
            let is_unwanted = all.all(|session| session.declared.must_be_absent(name));
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
                .any(|session| session.declared.must_be_restored(name));
            ensure(exchange.is_some() || !is_wanted, || {
                format!("I9: {name} is not declared again")
            })?;
            let mut all = self.clients.iter().flatten();
            let is_unwanted = all.all(|session| session.declared.must_be_absent(name));
            ensure(exchange.is_none() || !is_unwanted, || {
                format!("I9: {name} was restored")
            })?;
            let bound = |queue: &&&str| {
                let binding = format!("{queue}|{name}");
                let has = |session: &&Session| {
                    [&*binding, queue, name]
                        .iter()
                        .all(|it| session.declared.must_be_restored(it))
                };
                sessions.iter().any(has)
            };
            let least = ["q0", "q1", "q2", "f0"].iter().filter(bound).count();
            let all = self
                .clients
                .iter()
                .flatten()
                .flat_map(|session| session.declared.bindings(name));
            let most = all.collect::<BTreeSet<_>>().len();
            let bindings = exchange.map_or(0, |exchange| exchange.bindings);
            ensure((least..=most).contains(&bindings), || {
                format!("I9: {name} has {bindings} bindings, where {least} to {most} are expected")
            })?;
        }
        for session in sessions {
            for first in &session.server_named {
                let name = session.machine.current_name(first.as_bytes());
                let name = String::from_utf8_lossy(&name);
                let exists = queues.iter().any(|queue| queue.name == name);
                ensure(exists || !session.declared.is_undeleted(first), || {
                    format!("I9: {first}, now {name}, was not restored")
                })?;
            }
        }
        Ok(())
    }

    /// Settles or drops all deliveries of an application, ends its transactions, and drops its
    /// consumers with a probability in percent.
    fn drop_handles(&mut self, client: usize, drop_percent: usize) -> Checked {
        let mut random = self.plan.random(7 + client as u64);
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let consumers: Vec<_> = session.consumers.keys().copied().collect();
        for id in consumers {
            let notified = self
                .session(client)
                .and_then(|session| session.consumers.get(&id))
                .is_some_and(|it| it.notified);
            if random.chance(50) {
                while notified && self.take_from(client, id, 100)? {}
            }
            if random.chance(drop_percent)
                && let Some(session) = self.session(client)
                && session.consumers.remove(&id).is_some()
            {
                session.release_consumer(id);
            }
        }
        while self
            .session(client)
            .is_some_and(|session| !session.transactions.is_empty())
        {
            self.end_transaction(client, 0, random.chance(50))?;
        }
        while self
            .session(client)
            .is_some_and(|session| !session.unsettled.is_empty())
        {
            if random.chance(70) {
                self.settle_this(client, 0, Settle::Ack { multiple: false })?;
            } else {
                self.drop_delivery(client, &mut random)?;
            }
        }
        self.handle_events(client)
    }

    /// Closes all clients, and checks that nothing is left at the broker.
    fn close_all(&mut self) -> Checked {
        for client in 0..self.clients.len() {
            if self
                .session(client)
                .is_some_and(|session| !session.is_finished() && !session.is_closing())
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
            let (number, finished) = (session.number, session.is_finished());
            ensure(finished, || {
                format!("session {number} is closed and has not ended")
            })?;
            self.end_session(client)?;
        }
        self.run_for(Duration::from_millis(1))?;
        ensure(self.broker.connections().is_empty(), || {
            "I11: the broker still has a connection".into()
        })?;
        for queue in self.broker.queues() {
            ensure(queue.unacked == 0, || {
                format!(
                    "I11: {} deliveries of {} are unsettled",
                    queue.unacked, queue.name
                )
            })?;
            ensure(queue.consumers == 0, || {
                format!("I11: {} still has consumers", queue.name)
            })?;
        }
        let World {
            checker, broker, ..
        } = self;
        checker.check_all(broker)
    }
}
