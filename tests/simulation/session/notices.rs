//! What the application of a session learns from notices about its consumers.

use super::Session;
use crate::pending::{Consumer, End};
use crate::plan::{Plan, PlantedFault};
use crate::violation::{Checked, Violation, ensure};
use puka::machine::{ConsumerId, Ended, Notice, Recovered, Settle};
use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

impl Session {
    /// Returns the number of consumers of a queue that have started and have not ended.
    pub(crate) fn live_consumers(&self, queue: &str) -> usize {
        self.count_consumers(queue, false)
    }

    /// Returns the number of consumers of a queue that are to be restarted.
    pub(crate) fn missing_consumers(&self, queue: &str) -> usize {
        self.count_consumers(queue, true)
    }

    /// Returns how many consumers of a queue have not ended and are to be restarted, or are not.
    fn count_consumers(&self, queue: &str, missing: bool) -> usize {
        let is_counted = |(id, consumer): &(&ConsumerId, &Consumer)| {
            let name = self.machine.current_name(consumer.queue.as_bytes());
            *name == *queue.as_bytes()
                && self.machine.consumer(**id).map_or(!missing, |found| {
                    let is_missing = self.restarts.contains(found.tag());
                    found.ended().is_none() && is_missing == missing
                })
        };
        self.consumers.iter().filter(is_counted).count()
    }

    /// Returns the consumer with a tag, if the application has it.
    pub(crate) fn consumer_with(&self, tag: &str) -> Option<ConsumerId> {
        let mut all = self.consumers.keys();
        let has_tag = |id: &&ConsumerId| {
            self.machine
                .consumer(**id)
                .is_some_and(|it| it.tag() == tag)
        };
        all.find(has_tag).copied()
    }

    /// Records which consumers have ended.
    pub(crate) fn record_ended_consumers(&mut self, now: Instant, plan: &Plan) {
        for (id, consumer) in &mut self.consumers {
            let found = self.machine.consumer(*id);
            let Some(found) = found.filter(|found| found.ended().is_some()) else {
                continue;
            };
            if consumer.end.is_some() {
                continue;
            }
            let interruption = self.restarts.remove(found.tag());
            let transport = self.transport.as_ref();
            let starts = transport.map_or(&self.last_starts, |it| &it.observer.starts);
            let refusal = starts.refusal_of(found.tag());
            consumer.end = Some(End {
                at: now,
                after: self.opened_at.map(|opened| now - opened),
                limit: interruption
                    .as_ref()
                    .map(|it| it.limit(self.opened_at, plan)),
                interruption,
                refusal: refusal.map(str::to_owned),
                closing: self.closing,
                has_finished: self.machine.is_closed(),
                after_crash: self.first_crash.map(|crash| now - crash),
            });
        }
    }

    /// Drops a consumer of the application.
    pub(crate) fn release_consumer(&mut self, id: ConsumerId) {
        if let Some(found) = self.machine.consumer(id) {
            self.restarts.record_drop(found.tag());
        }
        self.machine.drop_consumer(id);
    }

    /// Returns all buffered deliveries of a consumer to their queue, for a planted fault.
    pub(crate) fn return_deliveries(&mut self, id: ConsumerId) {
        let mut taken = VecDeque::new();
        self.machine.take_deliveries(id, usize::MAX, &mut taken);
        for delivered in taken {
            let _ = self
                .machine
                .settle(&delivered, Settle::Reject { requeue: true });
        }
    }

    /// Returns when the last handshake ended.
    pub(crate) fn opened_at(&self) -> Option<Instant> {
        self.opened_at
    }

    /// Checks that the report of a recovery lists each consumer and each declared entity that is
    /// not back.
    fn check_report(&self, report: &Recovered, failed: &BTreeSet<String>) -> Checked {
        let Some(transport) = &self.transport else {
            return Ok(());
        };
        let starts = &transport.observer.starts;
        // The queues of consumers that the server has cancelled are not declared again.
        let mut lost_queues = BTreeSet::new();
        for (id, consumer) in &self.consumers {
            let Some(found) = self.machine.consumer(*id) else {
                continue;
            };
            let tag = found.tag();
            if found.ended().is_some() || self.restarts.is_interrupted(tag) {
                lost_queues.insert(&*consumer.queue);
            }
            let is_back = starts.has_started(tag) && !self.restarts.is_interrupted(tag);
            ensure(
                found.ended().is_some() || is_back || failed.contains(tag),
                || format!("I15: the consumer {tag} is neither back nor in the report"),
            )?;
        }
        let server_named = self.server_named.iter().map(|first| &**first);
        let server_named = server_named.filter(|first| self.declared.is_undeleted(first));
        self.check_cancelled_queues()?;
        for name in self.declared.all_to_restore().chain(server_named) {
            let (queue, source) = name.split_once('|').unwrap_or((name, ""));
            // A server-named queue is declared without a name. An unbind or a delete is repeated.
            let mut requests = self.pending.values().filter_map(|it| it.request.name());
            if name.is_empty() || requests.any(|it| [name, queue, source].contains(&it)) {
                continue;
            }
            // If it is unknown whether its queue or exchange exists, so is whether it does.
            let needs = [queue, source]
                .into_iter()
                .filter(|it| !it.is_empty() && *it != name);
            if needs.into_iter().any(|it| !self.declared.is_undeleted(it)) {
                continue;
            }
            let is_listed = report.failed.iter().any(|(entity, _)| {
                let names = |name: &str| !name.is_empty() && entity.contains(&format!("{name:?}"));
                names(queue) || names(source)
            });
            let current = self.machine.current_name(queue.as_bytes());
            let current = String::from_utf8_lossy(&current);
            let current = if source.is_empty() {
                current.into_owned()
            } else {
                format!("{current}|{source}")
            };
            let is_back = starts.has_declared(&current) || lost_queues.contains(queue);
            ensure(is_back || is_listed, || {
                format!(
                    "I15: {name} is neither back nor in the report: {:?}",
                    report.failed
                )
            })?;
        }
        Ok(())
    }

    /// Checks that the client has not declared queues again whose consumers the server had
    /// cancelled when the connection was lost: they may have been deleted.
    fn check_cancelled_queues(&self) -> Checked {
        let starts = self.transport.as_ref().map(|it| &it.observer.starts);
        for (tag, interruption) in self.restarts.interrupted() {
            let id = self.consumer_with(tag);
            let Some((id, consumer)) = id.and_then(|id| Some((id, self.consumers.get(&id)?)))
            else {
                continue;
            };
            let queue = &consumer.queue;
            let mut others = self.consumers.iter();
            let is_consumed = others.any(|(other, it)| *other != id && it.queue == *queue);
            let mut requests = self.pending.values().filter_map(|it| it.request.name());
            let was_cancelled = matches!(interruption.why, Ended::CancelledByServer);
            if !was_cancelled
                || !interruption.lost_since
                || is_consumed
                || !self.abandoned.is_empty()
                || requests.any(|it| it == queue)
            {
                continue;
            }
            ensure(
                starts.is_none_or(|starts| !starts.has_declared(queue)),
                || format!("I9: {queue} was declared again after its consumer was cancelled"),
            )?;
        }
        Ok(())
    }

    /// Records a notice about consumers.
    pub(crate) fn handle_notice(&mut self, notice: Notice, now: Instant) -> Checked {
        match notice {
            Notice::Recovered(report) => {
                let (mut failed, mut others) = (BTreeSet::new(), BTreeSet::new());
                for (entity, _) in &report.failed {
                    match refused_tag(entity)? {
                        Some(tag) => failed.insert(tag),
                        None => others.insert(entity.to_string()),
                    };
                }
                if self.planted_fault == PlantedFault::ShortReport {
                    failed.clear();
                }
                self.check_report(&report, &failed)?;
                self.restarts.record_report(failed, others);
            }
            Notice::ConsumerInterrupted { tag, why } => {
                let id = self.consumer_with(&tag);
                if let Some(consumer) = id.and_then(|id| self.consumers.get_mut(&id)) {
                    consumer.interruptions += 1;
                }
                // The broker need not have received the acks on a channel that it has closed.
                if !matches!(why, Ended::CancelledByServer) {
                    self.broken_consumers.extend(id);
                }
                self.restarts.record_interruption(&tag, why, now)?;
            }
            Notice::ConsumerRestored(tag) => self.restarts.record_restored(&tag)?,
            Notice::EntityRestored(entity) => self.restarts.record_entity_restored(&entity)?,
            Notice::Disconnected(_) | Notice::Retrying { .. } => {
                for tag in self.restarts.record_loss() {
                    let id = self.consumer_with(&tag);
                    if let Some(consumer) = id.and_then(|id| self.consumers.get(&id)) {
                        self.declared.mark_uncertain(&consumer.queue);
                    }
                }
            }
            Notice::Lost(count) => return Err(Violation(format!("{count} notices were lost"))),
            _ => {}
        }
        Ok(())
    }
}

/// Returns the consumer's tag in an entry of a recovery report, or `None` for another entity. An
/// unknown entry is a violation: otherwise a changed text would hide all refused consumers.
fn refused_tag(entity: &str) -> Checked<Option<String>> {
    let tag = entity
        .strip_prefix("consumer \"")
        .and_then(|rest| rest.strip_suffix('"'));
    let is_other = ["exchange \"", "queue \""]
        .iter()
        .any(|prefix| entity.starts_with(prefix));
    ensure(tag.is_some() || is_other, || {
        format!("the recovery report names an unknown entity: {entity}")
    })?;
    Ok(tag.map(str::to_owned))
}
