//! The application's use of deliveries: it takes, settles, keeps and drops them.

use crate::checker::{Checked, Violation, ensure};
use crate::pending::{Consumer, Unsettled};
use crate::plan::Feature;
use crate::publishes::id_of_copy;
use crate::random::Random;
use crate::world::World;
use puka::machine::{ConsumerId, Delivered, Ended, Settle};
use puka::{Error, Peer};
use std::collections::VecDeque;

impl World {
    /// Checks a delivery that the application takes.
    pub(crate) fn receive(
        &mut self,
        client: usize,
        queue: &str,
        consumer: Option<ConsumerId>,
        delivered: Delivered,
    ) -> Checked {
        self.checker.sync(&self.broker)?;
        let plan = self.plan;
        let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut) else {
            return Ok(());
        };
        let has_ended = consumer.is_some_and(|consumer| {
            session
                .machine
                .consumer(consumer)
                .and_then(|it| it.ended())
                .is_some()
        });
        let alive = session.is_sound() && !has_ended;
        let transport = (!session.machine.is_down()).then_some(session.transports);
        let (copy, place) =
            self.checker
                .delivered(queue, delivered.redelivered, alive, &delivered.message)?;
        let id = id_of_copy(copy);
        if let Some(found) = consumer.and_then(|consumer| session.consumers.get_mut(&consumer))
            && !delivered.redelivered
            && place.is_some()
        {
            let in_order = found.last_place < place;
            ensure(in_order, || {
                format!("message {id} of {queue} was delivered out of order")
            })?;
            found.last_place = place;
        }
        if delivered.message.properties().reply_to.is_some() {
            self.reply_to(client, id, &delivered.message)?;
        }
        let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut) else {
            return Ok(());
        };
        if delivered.is_settled() {
            return Ok(());
        }
        session.unsettled.push(Unsettled {
            delivered,
            queue: queue.to_owned(),
            copy,
            consumer,
            stale: false,
            transport,
        });
        if let Some(consumer) = consumer {
            let of_it = |unsettled: &&Unsettled| {
                unsettled.consumer == Some(consumer)
                    && !unsettled.stale
                    && unsettled.transport == transport
            };
            let unsettled = session.unsettled.iter().filter(of_it).count();
            let most = session
                .consumers
                .get(&consumer)
                .map_or(0, |consumer| usize::from(consumer.prefetch));
            let within =
                most == 0 || unsettled <= most || transport.is_none() || plan.has(Feature::Qos);
            ensure(within, || {
                format!("{unsettled} unsettled deliveries with a prefetch count of {most}")
            })?;
        }
        Ok(())
    }

    /// Takes deliveries of consumers.
    pub(crate) fn take(&mut self, client: usize, random: &mut Random) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let awake: Vec<ConsumerId> = session
            .consumers
            .iter()
            .filter(|(_, consumer)| consumer.awake)
            .map(|(id, _)| *id)
            .collect();
        let Some(&id) = random.pick(&awake) else {
            return Ok(());
        };
        self.take_from(client, id, 1 + random.below(8)).map(|_| ())
    }

    /// Takes deliveries of a consumer. Returns `false` if no more are available.
    pub(crate) fn take_from(
        &mut self,
        client: usize,
        id: ConsumerId,
        most: usize,
    ) -> Checked<bool> {
        let Some(session) = self.session(client) else {
            return Ok(false);
        };
        let mut taken = VecDeque::new();
        session.machine.take_deliveries(id, most, &mut taken);
        let Some(consumer) = session.consumers.get_mut(&id) else {
            return Ok(false);
        };
        let (queue, no_ack) = (consumer.queue.clone(), consumer.no_ack);
        if taken.is_empty() {
            let ended = session
                .machine
                .consumer(id)
                .and_then(|it| it.ended())
                .cloned();
            consumer.awake = false;
            if let Some(ended) = ended {
                let Some(consumer) = session.consumers.remove(&id) else {
                    return Ok(false);
                };
                session.machine.drop_consumer(id);
                if matches!(ended, Ended::ChannelClosed(_)) {
                    session.broken_consumers.insert(id);
                }
                session.record.mark_uncertain(&queue);
                self.note(client, || format!("{id:?} has ended: {ended:?}"));
                self.check_ended(client, &consumer, &ended)?;
            }
            return Ok(false);
        }
        self.note(client, || format!("takes {} of {id:?}", taken.len()));
        for delivered in taken {
            ensure(delivered.is_settled() == no_ack, || {
                "a delivery of the wrong kind".into()
            })?;
            self.receive(client, &queue, Some(id), delivered)?;
        }
        self.events(client)?;
        Ok(true)
    }

    fn check_ended(&mut self, client: usize, consumer: &Consumer, ended: &Ended) -> Checked {
        let Consumer {
            queue,
            exclusive,
            ended_after,
            ..
        } = consumer;
        let was_patient = ended_after.is_some_and(|after| after >= self.plan.patience());
        // It may have been refused when its prefetch count was changed.
        let is_resized = !exclusive && self.plan.has(Feature::Qos);
        let may_be_missing = self.may_have_broken(client);
        let closing = self.session(client).is_some_and(|session| session.closing);
        let holds = match ended {
            Ended::Cancelled => true,
            Ended::CancelledByServer => {
                let plan = &self.plan;
                let may_be = [
                    Feature::OutsideDelete,
                    Feature::Churn,
                    Feature::DeletedAtLoss,
                    Feature::Expel,
                ];
                may_be.iter().any(|it| plan.has(*it)) || queue.starts_with(['a', 'x'])
            }
            // It could not be restarted, because there were fewer channels than consumers.
            Ended::ChannelClosed(Error::ChannelLimit) => self.plan.has(Feature::FewerChannels),
            Ended::ChannelClosed(error @ (Error::AccessRefused(_) | Error::ResourceLocked(_))) => {
                ensure(was_patient || is_resized, || {
                    format!("a consumer of {queue} was given up too early: {error}")
                })?;
                true
            }
            // Its queue was gone when its prefetch count was changed.
            Ended::ChannelClosed(error) => {
                [Feature::Qos, Feature::Recover, Feature::Overdue]
                    .iter()
                    .any(|it| self.plan.has(*it))
                    && error
                        .fault()
                        .is_some_and(|fault| fault.found_by == Peer::Server)
            }
            Ended::ConnectionBroken(Error::Closed) => closing,
            Ended::ConnectionBroken(_) => may_be_missing,
            _ => false,
        };
        ensure(holds, || {
            format!("a consumer of {queue} has ended without a reason: {ended:?}")
        })
    }

    /// Settles one of the application's deliveries.
    pub(crate) fn settle(&mut self, client: usize, random: &mut Random) -> Checked {
        let plan = self.plan;
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        if session.unsettled.is_empty() {
            return Ok(());
        }
        let index = if random.chance(60) {
            0
        } else {
            random.below(session.unsettled.len())
        };
        let is_got = session
            .unsettled
            .get(index)
            .is_some_and(|unsettled| unsettled.consumer.is_none());
        if plan.has(Feature::Hoard) && is_got && random.chance(90) {
            return Ok(());
        }
        let multiple = plan.has(Feature::Multiple) && random.chance(40);
        let requeue = !plan.has(Feature::Refuse) || random.chance(50);
        let how = match random.below(10) {
            0 => Settle::Nack { multiple, requeue },
            1 => Settle::Reject { requeue },
            _ => Settle::Ack { multiple },
        };
        self.settle_this(client, index, how)
    }

    pub(crate) fn settle_this(&mut self, client: usize, index: usize, how: Settle) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let unsettled = session.unsettled.remove(index);
        let settled = session.machine.settle(&unsettled.delivered, how);
        let (id, consumer) = (id_of_copy(unsettled.copy), unsettled.consumer);
        let is_old = unsettled.transport != Some(session.transports) || session.machine.is_down();
        self.note(client, || {
            format!("settles message {id} of {consumer:?}: {how:?}: {settled:?}")
        });
        match settled {
            Ok(()) => {
                ensure(!unsettled.stale, || {
                    format!("message {id} was settled twice")
                })?;
                ensure(!is_old, || {
                    format!("I6: message {id} of a lost connection was settled")
                })?;
            }
            Err(Error::Stale) if is_old => return Ok(()),
            Err(Error::Stale) => {
                let overdue = self.checker.is_overdue(id);
                let ended = overdue || self.may_be_stale(client, consumer);
                return ensure(unsettled.stale || ended, || {
                    format!("message {id} is stale without a reason")
                });
            }
            Err(error) => {
                return Err(Violation(format!(
                    "message {id} could not be settled: {error}"
                )));
            }
        }
        let (multiple, gone) = match how {
            Settle::Ack { multiple } => (multiple, true),
            Settle::Nack { multiple, requeue } => (multiple, !requeue),
            Settle::Reject { requeue } => (false, !requeue),
        };
        let mut settled = vec![(unsettled.queue, unsettled.copy)];
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        if multiple && consumer.is_some() {
            let tag = unsettled.delivered.tag;
            let earlier = session.unsettled.iter_mut();
            for other in earlier
                .filter(|other| {
                    other.consumer == consumer && other.transport == unsettled.transport
                })
                .filter(|other| other.delivered.tag < tag && !other.stale)
            {
                other.stale = true;
                settled.push((other.queue.clone(), other.copy));
            }
        }
        if gone {
            let settled: Vec<_> = settled
                .iter()
                .map(|(queue, copy)| self.checker.settles(queue, *copy))
                .collect();
            if let Some(session) = self.session(client) {
                session
                    .settled
                    .extend(settled.into_iter().map(|settled| (consumer, settled)));
            }
        }
        self.events(client)
    }

    fn may_be_stale(&mut self, client: usize, consumer: Option<ConsumerId>) -> bool {
        let Some(session) = self.session(client) else {
            return true;
        };
        let ended = |consumer: ConsumerId| {
            session.broken_consumers.contains(&consumer)
                || matches!(
                    session.machine.consumer(consumer).and_then(|it| it.ended()),
                    Some(Ended::ChannelClosed(_))
                )
        };
        session.machine.why_closed().is_some() || consumer.is_some_and(ended)
    }

    /// Drops a delivery without settling it.
    pub(crate) fn give_back(&mut self, client: usize, random: &mut Random) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        if session.unsettled.is_empty() {
            return Ok(());
        }
        let unsettled = session
            .unsettled
            .remove(random.below(session.unsettled.len()));
        session.machine.give_back(&unsettled.delivered);
        self.note(client, || {
            format!("drops message {}", id_of_copy(unsettled.copy))
        });
        self.events(client)
    }
}
