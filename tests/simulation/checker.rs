//! The record of every message: compares the broker's log with the outcomes that the publishers
//! received, and with the deliveries that the consumers took.

use crate::observer::{body_of, id_of};
use crate::publish_observer::{ReceivedPublish, attempt_of, copy_of, id_of_copy};
use crate::topology::{is_server_named, may_lose_messages};
use crate::violation::{Checked, Violation, ensure};
use puka::Message as Received;
use puka_test_broker::Broker;
use std::collections::{BTreeMap, BTreeSet};

/// The outcome that a publisher received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PublishOutcome {
    Confirmed,
    Returned,
    Nacked,
    /// The publish failed, and the client claims that the broker did not accept the message.
    Refused(String),
    /// The broker may have accepted the message or not.
    Unknown,
}

/// A message that an application has published.
#[derive(Debug)]
struct Message {
    exchange: String,
    key: String,
    mandatory: bool,
    persistent: bool,
    /// The size of the body.
    bytes: usize,
    outcome: Option<PublishOutcome>,
    /// The broker's log contains the message.
    accepted: bool,
    /// The client sent the message more than once, so the broker may have handled each copy
    /// differently.
    republished: bool,
    /// The broker returned the message.
    returned: bool,
    /// The stuck queues that the message was routed to. The broker confirms it when they resume.
    stuck_queues: BTreeSet<String>,
    /// A broker accepted the message and routed it to no queue.
    unrouted: bool,
    /// The id of the call to which the message is the reply.
    replies_to: Option<u64>,
}

/// A copy of a message in one queue.
#[derive(Debug, Default)]
struct Copy {
    /// The number of deliveries that applications have taken.
    deliveries: usize,
    /// The copy may be missing from the queue.
    may_be_missing: bool,
    /// The broker has received an acknowledgement of the copy.
    acknowledged: bool,
}

/// An ack or a rejection, after which the broker must not deliver the message again.
#[derive(Clone, Debug)]
pub(crate) struct Settlement {
    queue: String,
    copy: u64,
    /// The number of the copy's deliveries when it was settled.
    deliveries: usize,
}

/// All messages of a world, and what the broker and the applications have done with them.
#[derive(Debug, Default)]
pub(crate) struct MessageChecker {
    /// The messages by their ids.
    messages: Vec<Message>,
    /// The copies in queues, by the name of the queue and the number of the copy.
    copies: BTreeMap<(String, u64), Copy>,
    /// The number of entries already read from the broker's log.
    read_log_entries: usize,
    /// The position of each copy among all that any broker accepted.
    positions: BTreeMap<u64, usize>,
    /// Copies that a broker received, accepted or not.
    received: BTreeSet<u64>,
    /// The last message that was received for each transport, channel and exchange.
    last_received: BTreeMap<(usize, usize, String), u64>,
    /// Messages whose channel the broker closed before they were acknowledged. Their
    /// acknowledgement may cross their next delivery.
    overdue: BTreeSet<u64>,
    /// The queues that are stuck now.
    pub(crate) stuck_queues: BTreeSet<String>,
    /// The number of deliveries that applications have taken.
    pub(crate) deliveries: usize,
    /// The number of publishes that have an outcome.
    pub(crate) completed_publishes: usize,
}

/// Returns `true` if a routing key is the expected one. Any name of a server-named queue is equal
/// to any other.
fn is_key(key: &[u8], expected: &str) -> bool {
    key == expected.as_bytes() || is_server_named(key) && is_server_named(expected.as_bytes())
}

impl MessageChecker {
    /// Records a message before it is published to an exchange and a routing key. The flags are
    /// `mandatory` and `persistent`. Returns the id of the message.
    pub(crate) fn record_publish(
        &mut self,
        to: (&str, &str),
        flags: (bool, bool),
        bytes: usize,
    ) -> u64 {
        let (mandatory, persistent) = flags;
        self.messages.push(Message {
            exchange: to.0.to_owned(),
            key: to.1.to_owned(),
            mandatory,
            persistent,
            bytes,
            outcome: None,
            accepted: false,
            republished: false,
            returned: false,
            stuck_queues: BTreeSet::new(),
            unrouted: false,
            replies_to: None,
        });
        self.messages.len() as u64 - 1
    }

    /// Returns the message with an id.
    fn message(&mut self, id: u64) -> Checked<&mut Message> {
        let found = self.messages.get_mut(id as usize);
        found.ok_or_else(|| Violation(format!("message {id} was never published")))
    }

    /// Reads the new entries of the broker's log.
    pub(crate) fn sync(&mut self, broker: &Broker) -> Checked {
        for published in broker.published().skip(self.read_log_entries) {
            let position = self.positions.len();
            self.read_log_entries += 1;
            let attempt = attempt_of(&published.properties());
            let id =
                id_of(&published.body).ok_or_else(|| Violation("a body without an id".into()))?;
            let copy = copy_of(id, attempt);
            let is_first = self.positions.insert(copy, position).is_none();
            ensure(is_first, || {
                format!("message {id} reached the broker twice and is not flagged")
            })?;
            let stuck = published
                .queues
                .iter()
                .filter(|queue| self.stuck_queues.contains(*queue))
                .cloned();
            let stuck: Vec<String> = stuck.collect();
            let message = self.message(id)?;
            message.stuck_queues.extend(stuck);
            message.unrouted = published.queues.is_empty();
            let bytes = message.bytes;
            ensure(published.body == body_of(id, bytes), || {
                format!("message {id} reached the broker with another body")
            })?;
            ensure(
                published.exchange == message.exchange
                    && is_key(&published.routing_key, &message.key),
                || format!("message {id} reached the broker with another exchange or routing key"),
            )?;
            message.accepted = true;
            for queue in &published.queues {
                self.copies.entry((queue.clone(), copy)).or_default();
            }
        }
        Ok(())
    }

    /// Records a publish that a broker received, and checks that no message overtook it.
    pub(crate) fn record_received_publish(
        &mut self,
        transport: usize,
        received: &ReceivedPublish,
    ) -> Checked {
        let id = id_of_copy(received.copy);
        let is_first = self.received.insert(received.copy);
        ensure(is_first, || {
            format!("message {id} was sent twice and is not flagged")
        })?;
        self.message(id)?.republished |= received.copy != id;
        let Some(channel) = received.ordered_channel else {
            return Ok(());
        };
        match self
            .last_received
            .insert((transport, channel, received.exchange.clone()), id)
        {
            Some(earlier) if earlier >= id => Err(Violation(format!(
                "message {id} overtook message {earlier} of the same exchange"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks that the broker has received a message by now.
    pub(crate) fn check_received(&self, id: u64) -> Checked {
        ensure(self.received.contains(&id), || {
            format!("message {id} was written before the close and did not reach the broker")
        })
    }

    /// Records that a message is the reply to a call.
    pub(crate) fn record_reply(&mut self, id: u64, call: u64) -> Checked {
        self.message(id)?.replies_to = Some(call);
        Ok(())
    }

    /// Checks the reply that a caller received.
    pub(crate) fn check_reply(&mut self, call: u64, reply: &Received) -> Checked {
        let id = id_of(reply.body()).ok_or_else(|| Violation("a reply without an id".into()))?;
        let replies_to = self.message(id)?.replies_to;
        ensure(replies_to == Some(call), || {
            format!("call {call} received the reply to {replies_to:?}")
        })?;
        ensure(self.message(call)?.accepted, || {
            format!("I1: call {call} has a reply and did not reach the broker")
        })
    }

    /// Checks that an accepted message to a server-named queue was routed to it.
    pub(crate) fn check_routed(&mut self, id: u64) -> Checked {
        let Message { key, unrouted, .. } = self.message(id)?;
        ensure(!(*unrouted && is_server_named(key.as_bytes())), || {
            format!(
                "message {id} to the server-named queue {key} was accepted and reached no queue"
            )
        })
    }

    /// Records the outcome that a publisher received.
    pub(crate) fn record_outcome(&mut self, id: u64, outcome: PublishOutcome) -> Checked {
        let message = self.message(id)?;
        ensure(message.outcome.is_none(), || {
            format!("message {id} was completed twice")
        })?;
        // Another copy of a republished message may have been routed elsewhere.
        let too_early = outcome == PublishOutcome::Confirmed
            && !message.republished
            && !message.stuck_queues.is_empty();
        ensure(!too_early, || {
            format!(
                "I1: message {id} is confirmed, and {:?} has not confirmed it",
                message.stuck_queues
            )
        })?;
        message.outcome = Some(outcome);
        self.completed_publishes += 1;
        self.check_outcome(id)
    }

    /// Checks that the outcome of a message agrees with what the broker did.
    fn check_outcome(&mut self, id: u64) -> Checked {
        let message = self.message(id)?;
        let Message {
            accepted,
            republished,
            mandatory,
            returned,
            ..
        } = *message;
        match &message.outcome {
            None | Some(PublishOutcome::Unknown) => Ok(()),
            Some(PublishOutcome::Confirmed) => {
                // The broker does not log replies.
                let accepted = accepted || message.replies_to.is_some();
                ensure(accepted, || {
                    format!("I1: message {id} is confirmed and the broker does not have it")
                })?;
                ensure(!returned || republished, || {
                    format!("I3: message {id} was returned and is confirmed")
                })
            }
            Some(PublishOutcome::Returned) => ensure(returned && mandatory, || {
                format!("I3: message {id} was reported as returned and was not")
            }),
            Some(PublishOutcome::Nacked) => ensure(!accepted || republished, || {
                format!("message {id} is nacked and the broker has it")
            }),
            Some(PublishOutcome::Refused(why)) => {
                // The broker may have accepted an earlier copy of a republished message. The client
                // may then report only an error of the broker itself.
                let is_from_broker = why.contains("NOT_FOUND");
                ensure(!accepted || republished && is_from_broker, || {
                    format!("message {id} is refused ({why}) and the broker has it")
                })
            }
        }
    }

    /// Records that the broker returned a message.
    pub(crate) fn record_return(&mut self, id: u64) -> Checked {
        self.message(id)?.returned = true;
        Ok(())
    }

    /// Checks a returned message that its publisher received.
    pub(crate) fn check_returned_message(&mut self, id: u64, received: &Received) -> Checked {
        let bytes = self.message(id)?.bytes;
        ensure(received.body() == body_of(id, bytes), || {
            format!(
                "I3: the publisher of message {id} received the return of message {:?}",
                id_of(received.body())
            )
        })
    }

    /// Allows all copies to be missing from a queue, because it was purged or deleted.
    pub(crate) fn allow_all_missing(&mut self, queue: &str) {
        let all = self
            .copies
            .range_mut((queue.to_owned(), 0)..=(queue.to_owned(), u64::MAX));
        all.for_each(|(_, copy)| copy.may_be_missing = true);
    }

    /// Records that a stuck queue resumes.
    pub(crate) fn record_release(&mut self, queue: &str) {
        for message in &mut self.messages {
            message.stuck_queues.remove(queue);
        }
    }

    /// Records a restart of the broker, which loses transient queues and messages.
    pub(crate) fn record_restart(&mut self, broker: &Broker) {
        for queue in broker.queues().into_iter().filter(|queue| !queue.durable) {
            self.allow_all_missing(&queue.name);
        }
        let messages = &self.messages;
        let lost = self
            .copies
            .iter_mut()
            .filter(|((_, copy), _)| !messages[id_of_copy(*copy) as usize].persistent);
        lost.for_each(|(_, copy)| copy.may_be_missing = true);
    }

    /// Records that a broker without any state replaces the current one.
    pub(crate) fn record_wipe(&mut self) {
        self.copies
            .values_mut()
            .for_each(|copy| copy.may_be_missing = true);
        for message in &mut self.messages {
            message.stuck_queues.clear();
        }
        self.read_log_entries = 0;
    }

    /// Records messages whose deliveries the broker requeued, because they were not acknowledged in
    /// time.
    pub(crate) fn record_overdue(&mut self, mut ids: BTreeSet<u64>) {
        self.overdue.append(&mut ids);
    }

    /// Returns `true` if the broker has requeued a delivery of the message that was not
    /// acknowledged in time.
    pub(crate) fn is_overdue(&self, id: u64) -> bool {
        self.overdue.contains(&id)
    }

    /// Allows this copy to be missing from its queue.
    pub(crate) fn allow_missing(&mut self, queue: &str, copy: u64) {
        self.copies
            .entry((queue.to_owned(), copy))
            .or_default()
            .may_be_missing = true;
    }

    /// Records a delivery that the application took. Returns the number of its copy, and the
    /// position of the copy among all accepted ones, for checking the order. A delivery that
    /// arrived before its consumer ended may meanwhile have gone to another consumer. It counts
    /// only if its consumer `is_live`.
    pub(crate) fn record_delivery(
        &mut self,
        queue: &str,
        redelivered: bool,
        is_live: bool,
        received: &Received,
    ) -> Checked<(u64, Option<usize>)> {
        let id =
            id_of(received.body()).ok_or_else(|| Violation("a delivery without an id".into()))?;
        let number = copy_of(id, attempt_of(&received.properties()));
        let position = self.positions.get(&number).copied();
        let Message {
            bytes,
            exchange,
            key,
            outcome,
            ..
        } = self.message(id)?;
        let (bytes, nacked) = (*bytes, matches!(outcome, Some(PublishOutcome::Nacked)));
        let key_holds = is_key(received.routing_key().as_bytes(), key);
        let address_holds = received.exchange() == *exchange && key_holds;
        ensure(address_holds, || {
            format!("message {id} was delivered with another exchange or routing key")
        })?;
        ensure(received.body() == body_of(id, bytes), || {
            format!("message {id} was delivered with another body")
        })?;
        self.deliveries += 1;
        let position = if nacked { None } else { position };
        if !is_live {
            return Ok((number, position));
        }
        let copy = self
            .copies
            .entry((queue.to_owned(), number))
            .or_insert_with(|| Copy {
                may_be_missing: true,
                ..Copy::default()
            });
        ensure(!copy.acknowledged, || {
            format!("message {id} is acknowledged and was delivered again from {queue}")
        })?;
        ensure(
            copy.deliveries == 0 || redelivered || self.overdue.contains(&id),
            || {
                format!(
                    "I5: message {id} of {queue} was delivered again without the redelivered flag"
                )
            },
        )?;
        copy.deliveries += 1;
        Ok((number, position))
    }

    /// Records a settlement that an application has made.
    pub(crate) fn record_settlement(&mut self, queue: &str, copy: u64) -> Settlement {
        let found = self.copies.entry((queue.to_owned(), copy)).or_default();
        found.may_be_missing = true;
        Settlement {
            queue: queue.to_owned(),
            copy,
            deliveries: found.deliveries,
        }
    }

    /// Records that the broker received a settlement, and checks that it has not delivered the
    /// message again since the settlement.
    pub(crate) fn record_received_settlement(&mut self, settlement: &Settlement) -> Checked {
        let Settlement {
            queue,
            copy: number,
            deliveries,
        } = settlement;
        let id = id_of_copy(*number);
        let copy = self.copies.entry((queue.clone(), *number)).or_default();
        if self.overdue.contains(&id) {
            return Ok(());
        }
        copy.acknowledged = true;
        ensure(copy.deliveries == *deliveries, || {
            format!("message {id} of {queue} was delivered again after the broker received its ack")
        })
    }

    /// Checks at the end that no message is lost, and that no queue has an acknowledged one.
    pub(crate) fn check_all(&mut self, broker: &Broker) -> Checked {
        self.sync(broker)?;
        for id in 0..self.messages.len() as u64 {
            self.check_outcome(id)?;
        }
        for view in broker.queues() {
            let name = view.name;
            let ids: Vec<u64> = view
                .ready
                .iter()
                .filter_map(|message| {
                    Some(copy_of(
                        id_of(&message.body)?,
                        attempt_of(&message.properties()),
                    ))
                })
                .collect();
            let ready: BTreeSet<u64> = ids.iter().copied().collect();
            ensure(ids.len() == ready.len(), || {
                format!("a message is in {name} twice")
            })?;
            for ((_, number), copy) in self
                .copies
                .range((name.clone(), 0)..=(name.clone(), u64::MAX))
            {
                let (is_ready, id) = (ready.contains(number), id_of_copy(*number));
                ensure(
                    is_ready || copy.may_be_missing || may_lose_messages(&name),
                    || format!("I4: message {id} has left {name} without an ack"),
                )?;
                ensure(!(is_ready && copy.acknowledged), || {
                    format!("message {id} is acknowledged and still in {name}")
                })?;
            }
        }
        Ok(())
    }
}
