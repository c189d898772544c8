//! What operators and bad luck do.

use crate::ledger::Checked;
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
                self.ledger.sync(&self.broker)?;
                self.broker.delete_queue(self.now, "/", name);
                self.ledger.clear(name);
                self.released(name)?;
            }
            Operation::Block if self.blocked => self.unblock()?,
            Operation::Block => {
                self.blocked = true;
                self.broker.block("low on memory");
            }
            Operation::Stop => {
                let name = *random.pick(&["q0", "q1", "q2"]).unwrap_or(&"q0");
                if self.ledger.stuck.contains(name) {
                    self.release(name)?;
                } else {
                    self.ledger.sync(&self.broker)?;
                    self.stop(name);
                }
            }
            Operation::Overdue => {
                let name = *random.pick(&["q0", "q1", "q2"]).unwrap_or(&"q0");
                self.ledger.sync(&self.broker)?;
                let bodies = self.broker.time_out_deliveries(self.now, "/", name);
                self.ledger
                    .overdue(bodies.iter().filter_map(|body| id_of(body)).collect());
            }
            Operation::Expel => {
                let name = *random.pick(&["q0", "q1", "q2"]).unwrap_or(&"q0");
                self.broker.time_out_consumers(self.now, "/", name);
            }
            Operation::DeletedAtLoss => {
                let name = *random.pick(&["q0", "q1", "q2"]).unwrap_or(&"q0");
                self.delete(client, name)?;
                // The broker has done it, has heard nothing of it, or the answer is on its way.
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
                // Only the next connection learns of it.
                self.break_session(client, Operation::BrokerDrop, random);
            }
            Operation::Restart => {
                self.before_restart()?;
                self.ledger.restart(&self.broker);
                self.broker.restart(self.now);
                // One that was not durable is gone, and another of its name answers.
                let gone = |name: &&String| self.broker.queue("/", name).is_none();
                let gone: Vec<String> = self.ledger.stuck.iter().filter(gone).cloned().collect();
                gone.iter().try_for_each(|name| self.released(name))?;
                self.away_for(random);
            }
            Operation::Wipe => {
                self.wipe()?;
                self.away_for(random);
            }
            _ => self.break_session(client, fault, random),
        }
        self.events(client)
    }

    /// A queue stands still.
    pub(crate) fn stop(&mut self, name: &str) {
        let is_there = self.broker.stop_queue("/", name);
        self.ledger.stuck.extend(is_there.then(|| name.to_owned()));
    }

    /// A queue that stood still goes on.
    fn release(&mut self, name: &str) -> Checked {
        self.ledger.sync(&self.broker)?;
        self.broker.release_queue(self.now, "/", name);
        self.released(name)
    }

    /// A queue goes on, or is not there any more, and what has waited for it was done.
    fn released(&mut self, name: &str) -> Checked {
        if self.ledger.stuck.remove(name) {
            self.ledger.sync(&self.broker)?;
            self.ledger.released(name);
            self.clear_again();
        }
        Ok(())
    }

    pub(crate) fn release_all(&mut self) -> Checked {
        while let Some(name) = self.ledger.stuck.first().cloned() {
            self.note(0, || format!("{name} goes on"));
            self.release(&name)?;
        }
        Ok(())
    }

    fn away_for(&mut self, random: &mut Random) {
        self.home = random.below(self.plan.endpoints().len());
        if self.plan.has(Feature::Refused) {
            self.away_until = self.now + random.millis(0..8000);
        }
    }

    fn before_restart(&mut self) -> Checked {
        self.hear_all()?;
        for session in self.clients.iter_mut().flatten() {
            session.doubt("the broker restarted");
        }
        self.ledger.sync(&self.broker)
    }

    /// The broker loses everything that it had.
    pub(crate) fn wipe(&mut self) -> Checked {
        self.note(0, || "the broker forgets everything".into());
        self.before_restart()?;
        for client in 0..self.clients.len() {
            self.forget_all(client)?;
        }
        self.ledger.sync(&self.broker)?;
        self.ledger.wipe();
        self.broker = Broker::new(self.plan.config_of(self.brokers));
        self.brokers += 1;
        self.blocked = false;
        self.ledger.stuck.clear();
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
                session.doubt("dropped its driver");
                session.drop_driver(now);
                return;
            }
            Operation::Sleep => {
                let time = random.millis(500..20_000);
                session.doubt("slept");
                session.asleep_until = now + time;
                session.slept += time;
                return;
            }
            _ => {}
        }
        let stalls = random.millis(0..6000);
        let is_patient = stalls <= Duration::from_millis(1500) || !plan.has(Feature::Heartbeats);
        // The number of one that is gone may be another's by now.
        if session.line.as_ref().is_none_or(|line| line.broker_gone) {
            return;
        }
        if !matches!(fault, Operation::Stall) || !is_patient {
            session.doubt("broken");
        }
        let Some(line) = &mut session.line else {
            return;
        };
        match fault {
            Operation::Force => {
                let (code, text) = (
                    ReplyCode::CONNECTION_FORCED,
                    "CONNECTION_FORCED - maintenance",
                );
                self.broker.close_connection(now, line.broker, code, text);
            }
            Operation::Internal => {
                let (code, text) = (ReplyCode::INTERNAL_ERROR, "INTERNAL_ERROR - by chance");
                self.broker.close_connection(now, line.broker, code, text);
            }
            // The second time somebody has had enough of it.
            Operation::Partial if line.meddler.withholds() => line.cut(now),
            Operation::Partial => line.meddler.withhold(),
            Operation::BrokerDrop => self.broker.drop_connection(now, line.broker),
            Operation::Cut => {
                line.cut_end = if random.chance(50) {
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
                    &mut line.up
                } else {
                    &mut line.down
                };
                wire.cut_after.get_or_insert(after);
            }
            Operation::Silence => line.silence(),
            Operation::Stall => {
                let wire = if random.chance(50) {
                    &mut line.up
                } else {
                    &mut line.down
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
