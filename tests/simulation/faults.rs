//! Actions of operators and random faults.

use crate::observer::id_of;
use crate::operations::Operation;
use crate::plan::Feature;
use crate::random::Random;
use crate::violation::Checked;
use crate::wire::End;
use crate::world::World;
use puka::protocol::ReplyCode;
use puka_test_broker::Broker;
use std::time::Duration;

impl World {
    /// Performs an action of an operator, or injects a fault.
    pub(crate) fn inject_fault(
        &mut self,
        client: usize,
        fault: Operation,
        random: &mut Random,
    ) -> Checked {
        self.note(client, || format!("{fault:?}"));
        self.faults += 1;
        match fault {
            Operation::OutsideDelete => {
                let name = *random
                    .pick(&["q0", "q1", "q2", "a0", "f0"])
                    .unwrap_or(&"q0");
                self.checker.sync(&self.broker)?;
                self.broker.delete_queue(self.now, "/", name);
                self.checker.allow_all_missing(name);
                self.handle_release(name)?;
            }
            Operation::Block if self.blocked => self.unblock()?,
            Operation::Block => {
                self.blocked = true;
                self.broker.block("low on memory");
            }
            Operation::Stick => {
                let name = *random.pick(&["q0", "q1", "q2"]).unwrap_or(&"q0");
                if self.checker.stuck_queues.contains(name) {
                    self.release_queue(name)?;
                } else {
                    self.checker.sync(&self.broker)?;
                    self.make_stuck(name);
                }
            }
            Operation::Overdue => {
                let name = *random.pick(&["q0", "q1", "q2"]).unwrap_or(&"q0");
                self.checker.sync(&self.broker)?;
                let bodies = self.broker.time_out_deliveries(self.now, "/", name);
                self.checker
                    .record_overdue(bodies.iter().filter_map(|body| id_of(body)).collect());
            }
            Operation::Expel => {
                let name = *random.pick(&["q0", "q1", "q2"]).unwrap_or(&"q0");
                self.broker.time_out_consumers(self.now, "/", name);
            }
            Operation::Leader => {
                let name = *random.pick(&["q0", "q1", "q2"]).unwrap_or(&"q0");
                if random.chance(50) {
                    let until = self.now + random.millis(0..12_000);
                    self.moving_leaders.insert(name.to_owned(), until);
                }
                self.broker.cancel_consumers(self.now, "/", name);
            }
            Operation::Crash => {
                let name = *random.pick(&["q0", "q1", "q2"]).unwrap_or(&"q0");
                let (times, names_method) = (random.within(1..5), random.chance(50));
                self.broker.crash_over_queue(name, times, names_method);
                if random.chance(50) {
                    self.break_connection(client, Operation::BrokerDrop, random);
                }
            }
            Operation::UserLimit => {
                let limit = self.broker.open_channels() + random.below(5);
                let least = 3 * self.clients.len();
                let limit = random.chance(60).then_some(limit.max(least));
                self.broker.limit_user_channels(limit);
            }
            Operation::DeletedAtLoss => {
                let name = *random.pick(&["q0", "q1", "q2"]).unwrap_or(&"q0");
                self.delete(client, name)?;
                // The broker has executed it, has not received it, or its reply is in flight.
                self.run_for(random.micros(0..3000))?;
                self.break_connection(client, Operation::BrokerDrop, random);
            }
            Operation::FewerChannels => {
                let first = usize::from(self.plan.channel_max());
                let most = if random.chance(20) {
                    first
                } else {
                    random.within(3..first.min(12) + 1)
                };
                self.broker.set_channel_max(u16::try_from(most).unwrap());
                // Only the next connection receives the new value.
                self.break_connection(client, Operation::BrokerDrop, random);
            }
            Operation::Restart => {
                self.prepare_restart()?;
                self.checker.record_restart(&self.broker);
                self.broker.restart(self.now);
                // The restart has deleted transient queues. A queue that is declared again under
                // such a name is not stuck.
                let gone = |name: &&String| self.broker.queue("/", name).is_none();
                let gone: Vec<String> = self
                    .checker
                    .stuck_queues
                    .iter()
                    .filter(gone)
                    .cloned()
                    .collect();
                gone.iter().try_for_each(|name| self.handle_release(name))?;
                self.make_unreachable(random);
            }
            Operation::Wipe => {
                self.wipe()?;
                self.make_unreachable(random);
            }
            _ => self.break_connection(client, fault, random),
        }
        self.handle_events(client)
    }

    /// Makes a queue stuck, if it exists.
    pub(crate) fn make_stuck(&mut self, name: &str) {
        let exists = self.broker.stop_queue("/", name);
        self.checker
            .stuck_queues
            .extend(exists.then(|| name.to_owned()));
    }

    /// Lets a stuck queue resume.
    fn release_queue(&mut self, name: &str) -> Checked {
        self.checker.sync(&self.broker)?;
        self.broker.release_queue(self.now, "/", name);
        self.handle_release(name)
    }

    /// Records that a queue has resumed, or was deleted. The broker has now executed the requests
    /// that were waiting for it.
    fn handle_release(&mut self, name: &str) -> Checked {
        if self.checker.stuck_queues.remove(name) {
            self.checker.sync(&self.broker)?;
            self.checker.record_release(name);
            self.record_delayed_clears();
        }
        Ok(())
    }

    /// Cancels the consumers of a queue again whose leader is moving.
    pub(crate) fn cancel_restarted(&mut self, queue: &str) {
        let until = self.moving_leaders.get(queue);
        if until.is_some_and(|until| self.now < *until) {
            self.broker.cancel_consumers(self.now, "/", queue);
        }
    }

    /// Lets all stuck queues resume.
    pub(crate) fn release_all(&mut self) -> Checked {
        while let Some(name) = self.checker.stuck_queues.first().cloned() {
            self.note(0, || format!("{name} resumes"));
            self.release_queue(&name)?;
        }
        Ok(())
    }

    /// Moves the broker to a random endpoint, and may make it unreachable for some time.
    fn make_unreachable(&mut self, random: &mut Random) {
        self.broker_endpoint = random.below(self.plan.endpoints().len());
        if self.plan.has(Feature::Refused) {
            self.unreachable_until = self.now + random.millis(0..8000);
        }
    }

    /// Takes the output of the broker before it ends, and expects all connections to break.
    fn prepare_restart(&mut self) -> Checked {
        self.take_all_output()?;
        for session in self.clients.iter_mut().flatten() {
            session.expect_break("the broker restarted");
        }
        self.checker.sync(&self.broker)
    }

    /// Replaces the broker by one without any state.
    pub(crate) fn wipe(&mut self) -> Checked {
        self.note(0, || "the broker loses its state".into());
        self.prepare_restart()?;
        for client in 0..self.clients.len() {
            self.end_all_broker_sides(client)?;
        }
        self.checker.sync(&self.broker)?;
        self.checker.record_wipe();
        self.broker = Broker::new(self.plan.config_of_broker(self.brokers));
        self.brokers += 1;
        self.blocked = false;
        self.checker.stuck_queues.clear();
        self.delayed_clears.clear();
        Ok(())
    }

    /// Injects a fault into the connection of a client.
    fn break_connection(&mut self, client: usize, fault: Operation, random: &mut Random) {
        let (plan, now) = (self.plan, self.now);
        let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut) else {
            return;
        };
        match fault {
            Operation::DropDriver => {
                session.expect_break("dropped its driver");
                session.drop_driver(now);
                return;
            }
            Operation::Sleep => {
                let time = random.millis(500..20_000);
                let time = if random.chance(50) { time / 8 } else { time };
                session.suspend(now, time, plan.max_suspension());
                return;
            }
            _ => {}
        }
        let delay = random.millis(0..6000);
        // Heartbeats detect a longer delay.
        let survives_delay = session.is_awake(now) && delay <= Duration::from_millis(1500)
            || !plan.has(Feature::Heartbeats);
        if session
            .transport_mut()
            .is_none_or(|transport| transport.broker_gone)
        {
            return;
        }
        if !matches!(fault, Operation::Stall) || !survives_delay {
            session.expect_break("broken");
        }
        let Some(transport) = session.transport_mut() else {
            return;
        };
        match fault {
            Operation::Force => {
                let (code, text) = (
                    ReplyCode::CONNECTION_FORCED,
                    "CONNECTION_FORCED - maintenance",
                );
                self.broker
                    .close_connection(now, transport.connection, code, text);
            }
            Operation::Internal => {
                let (code, text) = (ReplyCode::INTERNAL_ERROR, "INTERNAL_ERROR - by chance");
                self.broker
                    .close_connection(now, transport.connection, code, text);
            }
            // The broker already withholds contents, so the transport is cut instead.
            Operation::Partial if transport.injector.is_withholding() => transport.cut(now),
            Operation::Partial => transport.injector.withhold(),
            Operation::BrokerDrop => self.broker.drop_connection(now, transport.connection),
            Operation::Cut => {
                transport.cut_end = if random.chance(50) {
                    End::Eof
                } else {
                    End::Reset
                };
                let after = if random.chance(30) {
                    1
                } else {
                    1 + random.below(3000)
                };
                let wire = if random.chance(50) {
                    &mut transport.up
                } else {
                    &mut transport.down
                };
                wire.cut_after.get_or_insert(after);
            }
            Operation::Silence => transport.silence(),
            Operation::Linger => {
                transport.down.end(now, End::Reset);
                transport.up.end(now + delay, End::Eof);
            }
            Operation::Stall => {
                let wire = if random.chance(50) {
                    &mut transport.up
                } else {
                    &mut transport.down
                };
                wire.write_at = now + delay;
                if random.chance(50) {
                    wire.read_at = now + delay;
                }
            }
            _ => {}
        }
    }
}
