//! Actions of operators and random faults.

use crate::checker::Checked;
use crate::observer::id_of;
use crate::operations::Operation;
use crate::plan::Feature;
use crate::random::Random;
use crate::wire::End;
use crate::world::World;
use puka::protocol::ReplyCode;
use puka_test_broker::Broker;
use std::time::Duration;

impl World {
    pub(crate) fn break_something(
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
                self.checker.clear(name);
                self.released(name)?;
            }
            Operation::Block if self.blocked => self.unblock()?,
            Operation::Block => {
                self.blocked = true;
                self.broker.block("low on memory");
            }
            Operation::Stop => {
                let name = *random.pick(&["q0", "q1", "q2"]).unwrap_or(&"q0");
                if self.checker.stuck.contains(name) {
                    self.release(name)?;
                } else {
                    self.checker.sync(&self.broker)?;
                    self.stop(name);
                }
            }
            Operation::Overdue => {
                let name = *random.pick(&["q0", "q1", "q2"]).unwrap_or(&"q0");
                self.checker.sync(&self.broker)?;
                let bodies = self.broker.time_out_deliveries(self.now, "/", name);
                self.checker
                    .overdue(bodies.iter().filter_map(|body| id_of(body)).collect());
            }
            Operation::Expel => {
                let name = *random.pick(&["q0", "q1", "q2"]).unwrap_or(&"q0");
                self.broker.time_out_consumers(self.now, "/", name);
            }
            Operation::DeletedAtLoss => {
                let name = *random.pick(&["q0", "q1", "q2"]).unwrap_or(&"q0");
                self.delete(client, name)?;
                // The broker has executed it, has not received it, or its reply is in flight.
                self.run_for(random.micros(0..3000))?;
                self.break_session(client, Operation::BrokerDrop, random);
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
                self.break_session(client, Operation::BrokerDrop, random);
            }
            Operation::Restart => {
                self.before_restart()?;
                self.checker.restart(&self.broker);
                self.broker.restart(self.now);
                // A queue that was not durable is gone, and another of its name replies.
                let gone = |name: &&String| self.broker.queue("/", name).is_none();
                let gone: Vec<String> = self.checker.stuck.iter().filter(gone).cloned().collect();
                gone.iter().try_for_each(|name| self.released(name))?;
                self.make_unreachable(random);
            }
            Operation::Wipe => {
                self.wipe()?;
                self.make_unreachable(random);
            }
            _ => self.break_session(client, fault, random),
        }
        self.events(client)
    }

    /// Makes a queue stuck.
    pub(crate) fn stop(&mut self, name: &str) {
        let must_be_restored = self.broker.stop_queue("/", name);
        self.checker
            .stuck
            .extend(must_be_restored.then(|| name.to_owned()));
    }

    /// Ends a queue's stuck state.
    fn release(&mut self, name: &str) -> Checked {
        self.checker.sync(&self.broker)?;
        self.broker.release_queue(self.now, "/", name);
        self.released(name)
    }

    /// A queue resumes or was deleted, and the operations that waited for it were executed.
    fn released(&mut self, name: &str) -> Checked {
        if self.checker.stuck.remove(name) {
            self.checker.sync(&self.broker)?;
            self.checker.released(name);
            self.clear_again();
        }
        Ok(())
    }

    pub(crate) fn release_all(&mut self) -> Checked {
        while let Some(name) = self.checker.stuck.first().cloned() {
            self.note(0, || format!("{name} resumes"));
            self.release(&name)?;
        }
        Ok(())
    }

    fn make_unreachable(&mut self, random: &mut Random) {
        self.home = random.below(self.plan.endpoints().len());
        if self.plan.has(Feature::Refused) {
            self.away_until = self.now + random.millis(0..8000);
        }
    }

    fn before_restart(&mut self) -> Checked {
        self.take_all_output()?;
        for session in self.clients.iter_mut().flatten() {
            session.expect_break("the broker restarted");
        }
        self.checker.sync(&self.broker)
    }

    /// The broker loses everything that it stored.
    pub(crate) fn wipe(&mut self) -> Checked {
        self.note(0, || "the broker loses its state".into());
        self.before_restart()?;
        for client in 0..self.clients.len() {
            self.forget_all(client)?;
        }
        self.checker.sync(&self.broker)?;
        self.checker.wipe();
        self.broker = Broker::new(self.plan.config_of(self.brokers));
        self.brokers += 1;
        self.blocked = false;
        self.checker.stuck.clear();
        self.clearing.clear();
        Ok(())
    }

    fn break_session(&mut self, client: usize, fault: Operation, random: &mut Random) {
        let (plan, now) = (self.plan, self.now);
        let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut) else {
            return;
        };
        match fault {
            Operation::Loss => {
                session.expect_break("dropped its driver");
                session.drop_driver(now);
                return;
            }
            Operation::Sleep => {
                let time = random.millis(500..20_000);
                let time = if random.chance(50) { time / 8 } else { time };
                session.sleep(now, time, plan.broker_waits());
                return;
            }
            _ => {}
        }
        let stalls = random.millis(0..6000);
        let is_patient = session.asleep_until <= now && stalls <= Duration::from_millis(1500)
            || !plan.has(Feature::Heartbeats);
        // The number of an ended connection may be reused by now.
        if session
            .transport
            .as_ref()
            .is_none_or(|transport| transport.broker_gone)
        {
            return;
        }
        if !matches!(fault, Operation::Stall) || !is_patient {
            session.expect_break("broken");
        }
        let Some(transport) = &mut session.transport else {
            return;
        };
        match fault {
            Operation::Force => {
                let (code, text) = (
                    ReplyCode::CONNECTION_FORCED,
                    "CONNECTION_FORCED - maintenance",
                );
                self.broker
                    .close_connection(now, transport.broker, code, text);
            }
            Operation::Internal => {
                let (code, text) = (ReplyCode::INTERNAL_ERROR, "INTERNAL_ERROR - by chance");
                self.broker
                    .close_connection(now, transport.broker, code, text);
            }
            // The second dropped handshake is reported as final.
            Operation::Partial if transport.injector.withholds() => transport.cut(now),
            Operation::Partial => transport.injector.withhold(),
            Operation::BrokerDrop => self.broker.drop_connection(now, transport.broker),
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
            Operation::Stall => {
                let wire = if random.chance(50) {
                    &mut transport.up
                } else {
                    &mut transport.down
                };
                wire.write_at = now + stalls;
                if random.chance(50) {
                    wire.read_at = now + stalls;
                }
            }
            _ => {}
        }
    }
}
