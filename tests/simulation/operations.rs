//! The operations of a seed: requests of applications, actions of operators, and faults.

use crate::pending::Request;
use crate::plan::Feature;
use crate::random::Random;
use crate::session::Session;
use crate::violation::Checked;
use crate::world::World;
use puka::protocol::MethodId;
use std::time::Duration;

/// An operation on a random client.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Publish,
    /// Publishes several messages at once.
    Burst,
    /// Declares all queues and exchanges.
    Declare,
    /// Sends a request that the broker refuses.
    Wrong,
    /// Declares, binds, unbinds, purges or deletes a random entity.
    Churn,
    Get,
    Consume,
    /// Takes buffered deliveries.
    Take,
    Settle,
    /// Drops a delivery without settling it.
    DropDelivery,
    Cancel,
    DropConsumer,
    /// Changes a prefetch count.
    Qos,
    /// Drops interest in a pending promise.
    Abandon,
    Close,
    /// Drops the driver.
    DropDriver,
    Wait,
    /// Begins, uses or ends a transaction.
    Transact,
    Call,
    /// Declares a server-named queue.
    ServerNamed,
    /// Sends a request with an empty queue name, which the client refuses.
    Nameless,
    /// Gets many messages, which stay unsettled.
    Hoard,
    /// An operator deletes a queue.
    OutsideDelete,
    /// An operator closes a connection.
    Force,
    /// Raises or ends the broker's alarm.
    Block,
    /// Makes a queue stuck, or lets it resume.
    Stick,
    /// The broker requeues deliveries that were not acknowledged in time, and closes the channel.
    Overdue,
    /// The broker cancels the consumers of a queue.
    Expel,
    /// The broker closes the connection with an internal error.
    Internal,
    Restart,
    /// The broker loses its state.
    Wipe,
    /// The broker drops a connection without a frame.
    BrokerDrop,
    /// The broker proposes fewer channels to the next connection.
    FewerChannels,
    /// A client deletes a queue, and the broker drops the connection at that moment.
    DeletedAtLoss,
    /// The broker begins contents without ending them.
    Partial,
    /// Cuts a transport after some more bytes.
    Cut,
    /// A transport loses everything without an error.
    Silence,
    /// A transport delays everything for some time.
    Stall,
    /// Suspends the client's process.
    Sleep,
    /// The broker cancels the consumers of a queue that continues to exist.
    Leader,
    /// Channels crash over the next requests about a queue.
    Crash,
    /// Cuts a transport, and the broker notices that seconds later.
    Linger,
    /// Limits the channels of all clients together, or ends the limit.
    UserLimit,
}

/// The weight of each operation, and the feature that a seed needs to have it.
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
    (5, Operation::DropDelivery, None),
    (3, Operation::Cancel, Some(Feature::Cancel)),
    (3, Operation::DropConsumer, Some(Feature::Cancel)),
    (4, Operation::Qos, Some(Feature::Qos)),
    (6, Operation::Abandon, Some(Feature::Abandon)),
    (2, Operation::Close, Some(Feature::Close)),
    (1, Operation::DropDriver, Some(Feature::Loss)),
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
    (2, Operation::ServerNamed, Some(Feature::ServerNamed)),
    (1, Operation::Internal, Some(Feature::Internal)),
    (1, Operation::Wipe, Some(Feature::Wipe)),
    (1, Operation::Sleep, Some(Feature::Sleep)),
    (4, Operation::Nameless, Some(Feature::Nameless)),
    (2, Operation::FewerChannels, Some(Feature::FewerChannels)),
    (2, Operation::Stick, Some(Feature::Stuck)),
    (2, Operation::Overdue, Some(Feature::Overdue)),
    (1, Operation::DeletedAtLoss, Some(Feature::DeletedAtLoss)),
    (1, Operation::Partial, Some(Feature::Partial)),
    (2, Operation::Expel, Some(Feature::Expel)),
    (2, Operation::Hoard, Some(Feature::Hoard)),
    (2, Operation::Leader, Some(Feature::Leader)),
    (1, Operation::Crash, Some(Feature::Crash)),
    (1, Operation::UserLimit, Some(Feature::UserLimit)),
    (1, Operation::Linger, Some(Feature::Linger)),
];

impl Operation {
    /// Returns `true` for a fault that breaks a connection.
    fn breaks_connection(self) -> bool {
        use Operation::{
            BrokerDrop, Cut, DeletedAtLoss, FewerChannels, Force, Internal, Linger, Partial,
            Restart, Silence, Sleep, Wipe,
        };
        matches!(self, Force | BrokerDrop | Internal | Restart | Wipe | Cut)
            || matches!(
                self,
                Silence | Sleep | FewerChannels | DeletedAtLoss | Partial | Linger
            )
    }
}

impl World {
    /// Performs the operation of this number. Its random numbers do not depend on earlier
    /// operations, so that a shorter seed still has the same ones.
    pub(crate) fn perform_operation(&mut self, number: usize) -> Checked {
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
        if self
            .session(client)
            .is_none_or(|session| session.is_finished())
        {
            self.end_session(client)?;
            self.connect(client, random.chance(70))?;
            return self.handle_events(client);
        }
        let choices: Vec<_> = WEIGHTS
            .iter()
            .filter(|(_, _, needs)| needs.is_none_or(|feature| self.plan.has(feature)))
            .collect();
        // Another operation connects a client that does not recover, so its connections are broken
        // less often.
        let factor = if self.plan.has(Feature::Recover) {
            3
        } else {
            1
        };
        let weight = |(weight, operation, _): &(usize, Operation, _)| {
            if operation.breaks_connection() {
                weight * factor
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
        self.handle_events(client)?;
        self.run_until_idle()
    }

    /// Performs an operation.
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
            Operation::Settle if self.delays_settling(random) => Ok(()),
            Operation::Settle => self.settle(client, random),
            Operation::DropDelivery => self.drop_delivery(client, random),
            Operation::Cancel => self.cancel(client, random),
            Operation::DropConsumer => self.drop_consumer(client, random),
            Operation::Qos => self.qos(client, random),
            Operation::Abandon => self.abandon(client, random),
            Operation::Transact => self.transact(client, random),
            Operation::Call => self.call(client, random),
            Operation::ServerNamed => self.declare_server_named(client),
            Operation::Hoard => {
                (0..random.within(5..20)).try_for_each(|_| self.get(client, random))
            }
            Operation::Nameless => self.send_request_without_name(client, random),
            Operation::Close => self.close(client),
            Operation::Wait => self.run_for(random.millis(0..4000)),
            fault => self.inject_fault(client, fault, random),
        }
    }

    /// Returns `true` if the application settles nothing now.
    fn delays_settling(&self, random: &mut Random) -> bool {
        self.plan.has(Feature::Hold) && random.chance(50)
    }

    /// Begins a new session of a client. It declares all entities if it `declares`.
    pub(crate) fn connect(&mut self, client: usize, declares: bool) -> Checked {
        self.sessions += 1;
        let mut session = Session::new(self.sessions, &self.plan, self.now);
        if !session.recovers() {
            session.use_transport(self.new_transport());
        }
        self.note(client, || format!("connects as session {}", session.number));
        self.clients[client] = Some(session);
        if let Some(session) = self.session(client) {
            let promise = session.machine.connect();
            self.record_pending(client, promise, Request::Connect, MethodId::NONE);
        }
        if declares {
            self.declare_all(client)
        } else {
            Ok(())
        }
    }

    /// Drops interest in a pending promise of a client.
    fn abandon(&mut self, client: usize, random: &mut Random) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let all: Vec<_> = session.pending().collect();
        let Some(&(&promise, pending)) = random.pick(&all) else {
            return Ok(());
        };
        // The outcome of a transaction is the only one of its messages.
        if matches!(pending.request, Request::EndTransaction { .. }) {
            return Ok(());
        }
        let request = session.abandon(promise).map(|pending| pending.request);
        if let Some(name) = request.as_ref().and_then(Request::name) {
            session.declared.mark_uncertain(name);
        }
        self.note(client, || format!("abandons {request:?}"));
        Ok(())
    }
}
