//! What applications do with deliveries: they take, settle, keep and drop them.

use crate::pending::{SentSettlement, Unsettled};
use crate::plan::{Feature, PlantedFault};
use crate::publish_observer::id_of_copy;
use crate::random::Random;
use crate::violation::{Checked, Violation, ensure};
use crate::world::World;
use puka::Error;
use puka::machine::{ConsumerId, Delivered, Ended, Settle};
use std::collections::VecDeque;

impl World {
    /// Records and checks a delivery that the application takes.
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
        ensure(
            consumer.is_none() || !session.machine.is_stale(&delivered),
            || format!("a delivery of a closed channel of {queue} was taken"),
        )?;
        let has_ended = consumer.is_some_and(|id| {
            let found = session.machine.consumer(id);
            found.is_some_and(|found| found.ended().is_some())
        });
        let is_live = session.is_sound() && !has_ended;
        let transport = session.transport_number();
        let (redelivered, message) = (delivered.redelivered, &delivered.message);
        let (copy, position) =
            self.checker
                .record_delivery(queue, redelivered, is_live, message)?;
        let id = id_of_copy(copy);
        if let Some(found) = consumer.and_then(|consumer| session.consumers.get_mut(&consumer))
            && !delivered.redelivered
            && position.is_some()
        {
            let in_order = found.last_position < position;
            ensure(in_order, || {
                format!("message {id} of {queue} was delivered out of order")
            })?;
            found.last_position = position;
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
            settled_with_later: false,
            transport,
            perhaps_settled: false,
        });
        if let Some(id) = consumer {
            let is_counted = |unsettled: &&Unsettled| {
                unsettled.consumer == Some(id)
                    && !unsettled.settled_with_later
                    && !unsettled.perhaps_settled
                    && unsettled.transport == transport
            };
            let unsettled = session.unsettled.iter().filter(is_counted).count();
            let consumer = session.consumers.get(&id);
            // The broker counts on each channel.
            let prefetch = consumer.map_or(0, |consumer| {
                usize::from(consumer.prefetch) * (1 + consumer.interruptions)
            });
            let is_within = prefetch == 0
                || unsettled <= prefetch
                || transport.is_none()
                || plan.has(Feature::Qos);
            ensure(is_within, || {
                format!("{unsettled} unsettled deliveries with a prefetch count of {prefetch}")
            })?;
        }
        Ok(())
    }

    /// Takes deliveries of a random consumer that was notified.
    pub(crate) fn take(&mut self, client: usize, random: &mut Random) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let notified: Vec<ConsumerId> = session
            .consumers
            .iter()
            .filter(|(_, consumer)| consumer.notified)
            .map(|(id, _)| *id)
            .collect();
        let Some(&id) = random.pick(&notified) else {
            return Ok(());
        };
        self.take_from(client, id, 1 + random.below(8)).map(|_| ())
    }

    /// Takes at most this many deliveries of a consumer. Returns `false` if none was available;
    /// then the consumer may have ended.
    pub(crate) fn take_from(&mut self, client: usize, id: ConsumerId, max: usize) -> Checked<bool> {
        let Some(session) = self.session(client) else {
            return Ok(false);
        };
        let mut taken = VecDeque::new();
        session.machine.take_deliveries(id, max, &mut taken);
        let Some(consumer) = session.consumers.get_mut(&id) else {
            return Ok(false);
        };
        let (queue, no_ack) = (consumer.queue.clone(), consumer.no_ack);
        if taken.is_empty() {
            let found = session.machine.consumer(id);
            let ended = found.and_then(|it| it.ended()).cloned();
            let ended = ended.map(|ended| self.planted_end(client, ended));
            let Some(session) = self.session(client) else {
                return Ok(false);
            };
            let Some(consumer) = session.consumers.get_mut(&id) else {
                return Ok(false);
            };
            consumer.notified = false;
            if let Some(ended) = ended {
                let Some(consumer) = session.consumers.remove(&id) else {
                    return Ok(false);
                };
                session.machine.drop_consumer(id);
                if matches!(ended, Ended::ChannelClosed(_) | Ended::AckTimeout(_)) {
                    session.broken_consumers.insert(id);
                }
                session.declared.mark_uncertain(&queue);
                self.note(client, || format!("{id:?} has ended: {ended:?}"));
                self.check_ended(client, &consumer, &ended)?;
            }
            return Ok(false);
        }
        if self.plan.planted_fault == PlantedFault::StaleDelivery {
            self.repeat_stale_delivery(client)?;
        }
        self.note(client, || {
            let tags: Vec<u64> = taken.iter().map(|delivered| delivered.tag).collect();
            format!("takes deliveries {tags:?} of {id:?}")
        });
        for delivered in taken {
            ensure(delivered.is_settled() == no_ack, || {
                "a delivery of the wrong kind".into()
            })?;
            self.receive(client, &queue, Some(id), delivered)?;
        }
        self.handle_events(client)?;
        Ok(true)
    }

    /// Settles one of the application's deliveries in a random way.
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
        let is_from_get = session
            .unsettled
            .get(index)
            .is_some_and(|unsettled| unsettled.consumer.is_none());
        if plan.has(Feature::Hoard) && is_from_get && random.chance(90) {
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

    /// Settles the unsettled delivery at an index, and checks the result.
    pub(crate) fn settle_this(&mut self, client: usize, index: usize, how: Settle) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let unsettled = session.unsettled.remove(index);
        let settled = session.machine.settle(&unsettled.delivered, how);
        let (id, consumer) = (id_of_copy(unsettled.copy), unsettled.consumer);
        let is_stale =
            unsettled.transport.is_none() || unsettled.transport != session.transport_number();
        self.note(client, || {
            format!("settles message {id} of {consumer:?}: {how:?}: {settled:?}")
        });
        match settled {
            Ok(()) => {
                ensure(!unsettled.settled_with_later, || {
                    format!("message {id} was settled twice")
                })?;
                ensure(!is_stale, || {
                    format!("I6: message {id} of a lost connection was settled")
                })?;
            }
            Err(Error::Stale) if is_stale => return Ok(()),
            Err(Error::Stale) => {
                let has_reason = unsettled.settled_with_later
                    || unsettled.perhaps_settled
                    || self.checker.is_overdue(id)
                    || self.may_have_ended(client, consumer);
                return ensure(has_reason, || {
                    format!("message {id} is stale without a reason")
                });
            }
            Err(error) => {
                return Err(Violation(format!(
                    "message {id} could not be settled: {error}"
                )));
            }
        }
        let (multiple, is_final) = match how {
            Settle::Ack { multiple } => (multiple, true),
            Settle::Nack { multiple, requeue } => (multiple, !requeue),
            Settle::Reject { requeue } => (false, !requeue),
        };
        let Some(session) = self.clients.get_mut(client).and_then(Option::as_mut) else {
            return Ok(());
        };
        let found = consumer.and_then(|id| session.consumers.get(&id));
        let was_interrupted = found.is_none_or(|consumer| consumer.interruptions > 0);
        let mut settled = vec![(unsettled.queue, unsettled.copy, true)];
        if multiple && consumer.is_some() {
            for earlier in &mut session.unsettled {
                // Deliveries of earlier channels of the consumer are settled, too, whatever their
                // tags.
                if earlier.consumer == consumer
                    && earlier.transport == unsettled.transport
                    && (was_interrupted || earlier.delivered.tag < unsettled.delivered.tag)
                    && !earlier.settled_with_later
                {
                    earlier.perhaps_settled = was_interrupted;
                    earlier.settled_with_later = !was_interrupted;
                    settled.push((earlier.queue.clone(), earlier.copy, !was_interrupted));
                }
            }
        }
        if is_final {
            for (queue, copy, is_certain) in settled {
                let settlement = self.checker.record_settlement(&queue, copy);
                session
                    .sent_settlements
                    .extend(is_certain.then_some(SentSettlement {
                        consumer,
                        settlement,
                    }));
            }
        }
        self.handle_events(client)
    }

    /// Returns `true` if the channel of a delivery to this consumer may have been closed.
    fn may_have_ended(&mut self, client: usize, consumer: Option<ConsumerId>) -> bool {
        let Some(session) = self.session(client) else {
            return true;
        };
        let has_lost_channel = |id: ConsumerId| {
            let found = session.machine.consumer(id);
            session.broken_consumers.contains(&id)
                || matches!(
                    found.and_then(|found| found.ended()),
                    Some(Ended::ChannelClosed(_) | Ended::AckTimeout(_))
                )
        };
        session.machine.why_closed().is_some() || consumer.is_some_and(has_lost_channel)
    }

    /// Drops a random delivery without settling it.
    pub(crate) fn drop_delivery(&mut self, client: usize, random: &mut Random) -> Checked {
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
        self.handle_events(client)
    }
}
