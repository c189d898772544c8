//! What applications do with deliveries: they take, settle, keep and drop them.

use crate::pending::{Consumer, SentSettlement, Unsettled};
use crate::plan::Feature;
use crate::publish_observer::id_of_copy;
use crate::random::Random;
use crate::violation::{Checked, Violation, ensure};
use crate::world::World;
use puka::machine::{ConsumerId, Delivered, Ended, Settle};
use puka::{Error, Peer};
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
        });
        if let Some(id) = consumer {
            let is_counted = |unsettled: &&Unsettled| {
                unsettled.consumer == Some(id)
                    && !unsettled.settled_with_later
                    && unsettled.transport == transport
            };
            let unsettled = session.unsettled.iter().filter(is_counted).count();
            let consumer = session.consumers.get(&id);
            let prefetch = consumer.map_or(0, |consumer| usize::from(consumer.prefetch));
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
            let ended = session
                .machine
                .consumer(id)
                .and_then(|it| it.ended())
                .cloned();
            consumer.notified = false;
            if let Some(ended) = ended {
                let Some(consumer) = session.consumers.remove(&id) else {
                    return Ok(false);
                };
                session.machine.drop_consumer(id);
                if matches!(ended, Ended::ChannelClosed(_)) {
                    session.broken_consumers.insert(id);
                }
                session.declared.mark_uncertain(&queue);
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
        self.handle_events(client)?;
        Ok(true)
    }

    /// Checks that there is a reason for the end of a consumer.
    fn check_ended(&mut self, client: usize, consumer: &Consumer, ended: &Ended) -> Checked {
        let Consumer {
            queue,
            exclusive,
            prefetch,
            ended_after,
            ..
        } = consumer;
        let was_retried = ended_after.is_some_and(|after| after >= self.plan.consumer_retry_time());
        // For a new prefetch count, the client may start the consumer again, and the broker may
        // refuse that. A client with small bounds throttles consumers without a prefetch count.
        let may_throttle = *prefetch == 0 && self.plan.has(Feature::SmallBounds);
        let is_resized = !exclusive && (self.plan.has(Feature::Qos) || may_throttle);
        let may_have_broken = self.may_have_broken(client);
        let closing = self
            .session(client)
            .is_some_and(|session| session.is_closing());
        let holds = match ended {
            Ended::Cancelled => true,
            Ended::CancelledByServer => {
                let plan = &self.plan;
                let reasons = [
                    Feature::OutsideDelete,
                    Feature::Churn,
                    Feature::DeletedAtLoss,
                    Feature::Expel,
                ];
                reasons.iter().any(|it| plan.has(*it)) || queue.starts_with(['a', 'x'])
            }
            // The consumer was not started again, because there were fewer channels than consumers.
            Ended::ChannelClosed(Error::ChannelLimit) => self.plan.has(Feature::FewerChannels),
            Ended::ChannelClosed(error @ (Error::AccessRefused(_) | Error::ResourceLocked(_))) => {
                ensure(was_retried || is_resized, || {
                    format!("a consumer of {queue} was given up too early: {error}")
                })?;
                true
            }
            // The consumer was started again, for a new prefetch count or after a loss, and the
            // broker refused that. Or a delivery was not acknowledged in time.
            Ended::ChannelClosed(error) => {
                let features = [Feature::Qos, Feature::Recover, Feature::Overdue];
                (may_throttle || features.iter().any(|it| self.plan.has(*it)))
                    && error
                        .fault()
                        .is_some_and(|fault| fault.found_by == Peer::Server)
            }
            Ended::ConnectionBroken(Error::Closed) => closing,
            Ended::ConnectionBroken(_) => may_have_broken,
            _ => false,
        };
        ensure(holds, || {
            format!("a consumer of {queue} has ended without a reason: {ended:?}")
        })
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
        let mut settled = vec![(unsettled.queue, unsettled.copy)];
        if multiple && consumer.is_some() {
            for earlier in &mut session.unsettled {
                if earlier.consumer == consumer
                    && earlier.transport == unsettled.transport
                    && earlier.delivered.tag < unsettled.delivered.tag
                    && !earlier.settled_with_later
                {
                    earlier.settled_with_later = true;
                    settled.push((earlier.queue.clone(), earlier.copy));
                }
            }
        }
        if is_final {
            for (queue, copy) in settled {
                let settlement = self.checker.record_settlement(&queue, copy);
                session.sent_settlements.push(SentSettlement {
                    consumer,
                    settlement,
                });
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
                    Some(Ended::ChannelClosed(_))
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
