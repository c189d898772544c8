//! The operations of a world: requests of applications, actions of operators, and faults.

use crate::checker::Checked;
use crate::pending::{Pending, Request};
use crate::plan::Feature;
use crate::random::Random;
use crate::session::Session;
use crate::world::World;
use std::time::Duration;

/// An operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Publish,
    Burst,
    Declare,
    Wrong,
    Churn,
    Get,
    Consume,
    Take,
    Settle,
    GiveBack,
    Cancel,
    DropConsumer,
    Qos,
    Abandon,
    Close,
    Loss,
    Wait,
    OutsideDelete,
    Force,
    BrokerDrop,
    Block,
    Restart,
    Cut,
    Silence,
    Stall,
    Transact,
    Call,
    Unnamed,
    Internal,
    Wipe,
    Sleep,
    Nameless,
    FewerChannels,
    Stop,
    Overdue,
    DeletedAtLoss,
    Partial,
    Expel,
    Hoard,
}

/// The weights of the operations that a seed may have.
const WEIGHTS: &[(usize, Operation, Option<Feature>)] = &[
    (30, Operation::Publish, None),
    (6, Operation::Burst, Some(Feature::Burst)),
    (4, Operation::Declare, None),
    (6, Operation::Wrong, Some(Feature::Wrong)),
    (8, Operation::Churn, Some(Feature::Churn)),
    (12, Operation::Get, Some(Feature::Get)),
    (8, Operation::Consume, Some(Feature::Consume)),
    (30, Operation::Take, Some(Feature::Consume)),
    (24, Operation::Settle, None),
    (5, Operation::GiveBack, None),
    (3, Operation::Cancel, Some(Feature::Cancel)),
    (3, Operation::DropConsumer, Some(Feature::Cancel)),
    (4, Operation::Qos, Some(Feature::Qos)),
    (6, Operation::Abandon, Some(Feature::Abandon)),
    (2, Operation::Close, Some(Feature::Close)),
    (1, Operation::Loss, Some(Feature::Loss)),
    (3, Operation::Wait, None),
    (2, Operation::OutsideDelete, Some(Feature::OutsideDelete)),
    (1, Operation::Force, Some(Feature::Force)),
    (1, Operation::BrokerDrop, Some(Feature::BrokerDrop)),
    (3, Operation::Block, Some(Feature::Block)),
    (1, Operation::Restart, Some(Feature::Restart)),
    (3, Operation::Cut, Some(Feature::Cut)),
    (1, Operation::Silence, Some(Feature::Silence)),
    (3, Operation::Stall, Some(Feature::Stall)),
    (10, Operation::Transact, Some(Feature::Transact)),
    (6, Operation::Call, Some(Feature::Call)),
    (2, Operation::Unnamed, Some(Feature::Unnamed)),
    (1, Operation::Internal, Some(Feature::Internal)),
    (1, Operation::Wipe, Some(Feature::Wipe)),
    (1, Operation::Sleep, Some(Feature::Sleep)),
    (4, Operation::Nameless, Some(Feature::Nameless)),
    (2, Operation::FewerChannels, Some(Feature::FewerChannels)),
    (2, Operation::Stop, Some(Feature::Stuck)),
    (2, Operation::Overdue, Some(Feature::Overdue)),
    (1, Operation::DeletedAtLoss, Some(Feature::DeletedAtLoss)),
    (1, Operation::Partial, Some(Feature::Partial)),
    (2, Operation::Expel, Some(Feature::Expel)),
    (2, Operation::Hoard, Some(Feature::Hoard)),
];

impl Operation {
    fn is_fault(self) -> bool {
        use Operation::{
            BrokerDrop, Cut, DeletedAtLoss, FewerChannels, Force, Internal, Partial, Restart,
            Silence, Sleep, Wipe,
        };
        let breaks = matches!(self, Force | BrokerDrop | Internal | Restart | Wipe | Cut);
        breaks
            || matches!(
                self,
                Silence | Sleep | FewerChannels | DeletedAtLoss | Partial
            )
    }
}

impl World {
    /// Performs the operation of this number. It is the same whatever was done before.
    pub(crate) fn operate(&mut self, number: usize) -> Checked {
        let mut random = self.plan.random(10_000 + number as u64);
        let client = random.below(self.clients.len());
        let pause = match random.below(20) {
            0 if self.plan.has(Feature::Recover) => random.millis(0..6000),
            0 => random.millis(0..1500),
            1..5 => random.millis(0..60),
            5..12 => random.micros(0..3000),
            _ => Duration::ZERO,
        };
        self.run_for(pause)?;
        if self.session(client).is_none_or(|session| session.finished) {
            self.end_session(client)?;
            self.connect(client, random.chance(70))?;
            return self.events(client);
        }
        let choices: Vec<_> = WEIGHTS
            .iter()
            .filter(|(_, _, needs)| needs.is_none_or(|feature| self.plan.has(feature)))
            .collect();
        // A connection that recovers can be broken more often.
        let often = if self.plan.has(Feature::Recover) {
            3
        } else {
            1
        };
        let weight = |(weight, operation, _): &(usize, Operation, _)| {
            if operation.is_fault() {
                weight * often
            } else {
                *weight
            }
        };
        let mut ticket = random.below(choices.iter().map(|choice| weight(choice)).sum());
        for choice in choices {
            let weight = weight(choice);
            if ticket < weight {
                self.perform(client, choice.1, &mut random)?;
                break;
            }
            ticket -= weight;
        }
        self.events(client)?;
        self.run_until_idle()
    }

    fn perform(&mut self, client: usize, operation: Operation, random: &mut Random) -> Checked {
        match operation {
            Operation::Publish => self.publish(client, random),
            Operation::Burst => {
                (0..random.within(2..25)).try_for_each(|_| self.publish(client, random))
            }
            Operation::Declare => self.declare_all(client),
            Operation::Wrong => self.send_wrong_request(client, random),
            Operation::Churn => self.churn(client, random),
            Operation::Get => self.get(client, random),
            Operation::Consume => self.consume(client, random),
            Operation::Take => self.take(client, random),
            Operation::Settle if self.may_delay_settling(random) => Ok(()),
            Operation::Settle => self.settle(client, random),
            Operation::GiveBack => self.give_back(client, random),
            Operation::Cancel => self.cancel(client, random),
            Operation::DropConsumer => self.drop_consumer(client, random),
            Operation::Qos => self.qos(client, random),
            Operation::Abandon => self.abandon(client, random),
            Operation::Transact => self.transact(client, random),
            Operation::Call => self.call(client, random),
            Operation::Unnamed => self.declare_unnamed(client),
            Operation::Hoard => {
                (0..random.within(5..20)).try_for_each(|_| self.get(client, random))
            }
            Operation::Nameless => self.send_request_without_name(client, random),
            Operation::Close => self.close(client),
            Operation::Wait => self.run_for(random.millis(0..4000)),
            fault => self.break_something(client, fault, random),
        }
    }

    fn may_delay_settling(&self, random: &mut Random) -> bool {
        self.plan.has(Feature::Hold) && random.chance(50)
    }

    pub(crate) fn connect(&mut self, client: usize, declares: bool) -> Checked {
        self.sessions += 1;
        let mut session = Session::new(self.sessions, &self.plan, self.now);
        if !session.recovers {
            session.use_transport(self.new_transport());
        }
        self.note(client, || format!("connects as session {}", session.number));
        self.clients[client] = Some(session);
        let promise = self
            .session(client)
            .map(|session| session.machine.connect());
        self.record_pending(
            client,
            promise,
            Request::Connect,
            puka::protocol::MethodId::NONE,
        );
        if declares {
            self.declare_all(client)
        } else {
            Ok(())
        }
    }

    /// Drops interest in all pending promises of a client.
    fn abandon(&mut self, client: usize, random: &mut Random) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let all: Vec<_> = session.pending.keys().copied().collect();
        let Some(&promise) = random.pick(&all) else {
            return Ok(());
        };
        if matches!(
            session.pending.get(&promise),
            Some(Pending {
                request: Request::Finish { .. },
                ..
            })
        ) {
            return Ok(());
        }
        session.machine.abandon(promise);
        session.abandoned.insert(promise);
        let pending = session.pending.remove(&promise);
        if let Some(name) = pending.as_ref().and_then(|pending| pending.request.name()) {
            session.record.mark_uncertain(name);
        }
        self.note(client, || {
            format!("abandons {:?}", pending.map(|pending| pending.request))
        });
        Ok(())
    }
}
