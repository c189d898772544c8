//! The outcome of every message: compares the broker's log with the results that the publisher and
//! the consumers received.

use crate::observer::{body_of, id_of};
use crate::publishes::{ReceivedPublish, attempt_of, copy_of, id_of_copy};
use puka::Message as Received;
use puka_test_broker::Broker;
use std::collections::{BTreeMap, BTreeSet};

/// A fact that must never occur.
#[derive(Clone, Debug)]
pub(crate) struct Violation(pub(crate) String);

pub(crate) type Checked<T = ()> = Result<T, Violation>;

/// Returns a violation if a fact does not hold.
pub(crate) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(Violation(what()))
    }
}

/// The outcome that a publisher received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PublishOutcome {
    Confirmed,
    Returned,
    Nacked,
    /// The client claims that the message never reached a queue.
    Refused(String),
    Unknown,
}

#[derive(Debug)]
struct Message {
    exchange: String,
    key: String,
    mandatory: bool,
    persistent: bool,
    bytes: usize,
    outcome: Option<PublishOutcome>,
    /// The broker's log contains it.
    accepted: bool,
    /// It was republished, so that it may have several outcomes.
    again: bool,
    returned: bool,
    /// Stuck queues that it was routed to, so that the broker has not confirmed it.
    stuck: BTreeSet<String>,
    /// A broker accepted it and routed it to no queue.
    unrouted: bool,
    /// The call to which it is the reply.
    replies_to: Option<u64>,
}

/// A message in one queue.
#[derive(Debug, Default)]
struct Copy {
    deliveries: usize,
    /// It may be missing from the queue.
    may_be_missing: bool,
    /// It was certainly acknowledged.
    gone: bool,
}

/// A settlement that the broker may not have received yet.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) queue: String,
    pub(crate) copy: u64,
    /// The number of its deliveries at that time.
    deliveries: usize,
}

#[derive(Debug, Default)]
pub(crate) struct MessageChecker {
    messages: Vec<Message>,
    copies: BTreeMap<(String, u64), Copy>,
    /// The number of entries already read from the broker's log.
    logged: usize,
    /// The position of each copy among all that any broker accepted.
    places: BTreeMap<u64, usize>,
    /// Copies that a broker received, accepted or not.
    received: BTreeSet<u64>,
    /// The last message that was received for each transport, channel and exchange.
    last: BTreeMap<(usize, usize, String), u64>,
    /// Messages whose channel was closed before they were acknowledged, so that their next delivery
    /// crosses an acknowledgement.
    overdue: BTreeSet<u64>,
    /// Stuck queues.
    pub(crate) stuck: BTreeSet<String>,
    pub(crate) deliveries: usize,
    pub(crate) confirmed: usize,
}

/// Returns `true` for queues that may lose messages.
pub(crate) fn may_lose_messages(queue: &str) -> bool {
    queue.starts_with(['a', 'x', 'd', 't'])
        || queue.contains("reply-to")
        || queue.starts_with("amq.")
}

/// Returns `true` for the name of a server-named queue, which changes with each recovery.
pub(crate) fn is_server_named(name: &[u8]) -> bool {
    name.starts_with(b"amq.gen-")
}

fn is_key(key: &[u8], expected: &str) -> bool {
    key == expected.as_bytes() || is_server_named(key) && is_server_named(expected.as_bytes())
}

impl MessageChecker {
    pub(crate) fn publishes(&mut self, to: (&str, &str), flags: (bool, bool), bytes: usize) -> u64 {
        let (mandatory, persistent) = flags;
        self.messages.push(Message {
            exchange: to.0.to_owned(),
            key: to.1.to_owned(),
            mandatory,
            persistent,
            bytes,
            outcome: None,
            accepted: false,
            again: false,
            returned: false,
            stuck: BTreeSet::new(),
            unrouted: false,
            replies_to: None,
        });
        self.messages.len() as u64 - 1
    }

    fn message(&mut self, id: u64) -> Checked<&mut Message> {
        let found = self.messages.get_mut(id as usize);
        found.ok_or_else(|| Violation(format!("message {id} was never published")))
    }

    /// Reads the new entries of the broker's log.
    pub(crate) fn sync(&mut self, broker: &Broker) -> Checked {
        for published in broker.published().skip(self.logged) {
            let place = self.places.len();
            self.logged += 1;
            let attempt = attempt_of(&published.properties());
            let id =
                id_of(&published.body).ok_or_else(|| Violation("a body without an id".into()))?;
            let copy = copy_of(id, attempt);
            let is_first = self.places.insert(copy, place).is_none();
            ensure(is_first, || {
                format!("message {id} reached the broker twice and is not flagged")
            })?;
            let stuck = published
                .queues
                .iter()
                .filter(|queue| self.stuck.contains(*queue))
                .cloned();
            let stuck: Vec<String> = stuck.collect();
            let message = self.message(id)?;
            message.stuck.extend(stuck);
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

    /// Records a publish that a broker received.
    pub(crate) fn received_publish(
        &mut self,
        transport: usize,
        received: &ReceivedPublish,
    ) -> Checked {
        let id = id_of_copy(received.copy);
        let is_first = self.received.insert(received.copy);
        ensure(is_first, || {
            format!("message {id} was sent twice and is not flagged")
        })?;
        self.message(id)?.again |= received.copy != id;
        let Some(turn) = received.ordered_channel else {
            return Ok(());
        };
        match self
            .last
            .insert((transport, turn, received.exchange.clone()), id)
        {
            Some(earlier) if earlier >= id => Err(Violation(format!(
                "message {id} overtook message {earlier} of the same exchange"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks that the broker has received a message by now.
    pub(crate) fn arrived(&self, id: u64) -> Checked {
        ensure(self.received.contains(&id), || {
            format!("message {id} was pending and never arrived")
        })
    }

    /// Records that a message is the reply to a call.
    pub(crate) fn replies(&mut self, id: u64, call: u64) -> Checked {
        self.message(id)?.replies_to = Some(call);
        Ok(())
    }

    /// Checks the reply that a caller received.
    pub(crate) fn replied(&mut self, call: u64, reply: &Received) -> Checked {
        let id = id_of(reply.body()).ok_or_else(|| Violation("a reply without an id".into()))?;
        let of = self.message(id)?.replies_to;
        ensure(of == Some(call), || {
            format!("call {call} received the reply to {of:?}")
        })?;
        self.message(call)?.accepted.then_some(()).ok_or_else(|| {
            Violation(format!(
                "I1: call {call} has a reply and did not reach the broker"
            ))
        })
    }

    /// Checks that an accepted message to a server-named queue was routed to it.
    pub(crate) fn reached(&mut self, id: u64) -> Checked {
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
        // Another attempt may have been routed elsewhere.
        let too_early =
            outcome == PublishOutcome::Confirmed && !message.again && !message.stuck.is_empty();
        ensure(!too_early, || {
            format!(
                "I1: message {id} is confirmed, and {:?} has not confirmed it",
                message.stuck
            )
        })?;
        message.outcome = Some(outcome);
        self.confirmed += 1;
        self.check_outcome(id)
    }

    fn check_outcome(&mut self, id: u64) -> Checked {
        let Message {
            outcome,
            accepted,
            again,
            mandatory,
            returned,
            ..
        } = self.message(id)?;
        let (accepted, again, mandatory, returned) = (*accepted, *again, *mandatory, *returned);
        match outcome.clone() {
            None | Some(PublishOutcome::Unknown) => Ok(()),
            Some(PublishOutcome::Confirmed) => {
                // The broker does not log replies.
                let accepted = accepted || self.message(id)?.replies_to.is_some();
                ensure(accepted, || {
                    format!("I1: message {id} is confirmed and the broker does not have it")
                })?;
                ensure(!returned || again, || {
                    format!("I3: message {id} was returned and is confirmed")
                })
            }
            Some(PublishOutcome::Returned) => ensure(returned && mandatory, || {
                format!("I3: message {id} was reported as returned and was not")
            }),
            Some(PublishOutcome::Nacked) => ensure(!accepted || again, || {
                format!("message {id} is nacked and the broker has it")
            }),
            Some(PublishOutcome::Refused(why)) => {
                // An earlier attempt may be in the broker's log, so only the broker's own error is
                // a valid result then.
                let known = why.contains("NOT_FOUND");
                ensure(!accepted || again && known, || {
                    format!("message {id} is refused ({why}) and the broker has it")
                })
            }
        }
    }

    pub(crate) fn returned(&mut self, id: u64) -> Checked {
        self.message(id)?.returned = true;
        Ok(())
    }

    /// Checks a returned message that its publisher received.
    pub(crate) fn came_back(&mut self, id: u64, received: &Received) -> Checked {
        let bytes = self.message(id)?.bytes;
        ensure(received.body() == body_of(id, bytes), || {
            format!(
                "I3: the publisher of message {id} received the return of message {:?}",
                id_of(received.body())
            )
        })
    }

    /// Excuses everything in a queue that was purged or deleted.
    pub(crate) fn clear(&mut self, queue: &str) {
        let all = self
            .copies
            .range_mut((queue.to_owned(), 0)..=(queue.to_owned(), u64::MAX));
        all.for_each(|(_, copy)| copy.may_be_missing = true);
    }

    /// Records that a stuck queue resumes.
    pub(crate) fn released(&mut self, queue: &str) {
        self.messages
            .iter_mut()
            .for_each(|message| message.stuck.retain(|stuck| stuck != queue));
    }

    /// Records a restart of the broker.
    pub(crate) fn restart(&mut self, broker: &Broker) {
        for queue in broker.queues().into_iter().filter(|queue| !queue.durable) {
            self.clear(&queue.name);
        }
        let messages = &self.messages;
        let lost = self
            .copies
            .iter_mut()
            .filter(|((_, copy), _)| !messages[id_of_copy(*copy) as usize].persistent);
        lost.for_each(|(_, copy)| copy.may_be_missing = true);
    }

    /// Records that a broker without any state replaces the current one.
    pub(crate) fn wipe(&mut self) {
        self.copies
            .values_mut()
            .for_each(|copy| copy.may_be_missing = true);
        self.messages
            .iter_mut()
            .for_each(|message| message.stuck.clear());
        self.logged = 0;
    }

    /// Records messages whose deliveries the broker requeued.
    pub(crate) fn overdue(&mut self, mut ids: BTreeSet<u64>) {
        self.overdue.append(&mut ids);
    }

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

    /// Records a delivery that the application took. Returns the id of its copy, and its position
    /// among all for checking the order. A delivery that arrived before its consumer ended may
    /// meanwhile have gone to another consumer, so it counts only if its consumer is `alive`.
    pub(crate) fn delivered(
        &mut self,
        queue: &str,
        redelivered: bool,
        alive: bool,
        received: &Received,
    ) -> Checked<(u64, Option<usize>)> {
        let id =
            id_of(received.body()).ok_or_else(|| Violation("a delivery without an id".into()))?;
        let number = copy_of(id, attempt_of(&received.properties()));
        let place = self.places.get(&number).copied();
        let Message {
            bytes,
            exchange,
            key,
            outcome,
            ..
        } = self.message(id)?;
        let (bytes, refused) = (*bytes, matches!(outcome, Some(PublishOutcome::Nacked)));
        let key_holds = is_key(received.routing_key().as_bytes(), key);
        let address_holds = received.exchange() == *exchange && key_holds;
        ensure(address_holds, || {
            format!("message {id} was delivered with another exchange or routing key")
        })?;
        ensure(received.body() == body_of(id, bytes), || {
            format!("message {id} was delivered with another body")
        })?;
        self.deliveries += 1;
        let place = if refused { None } else { place };
        if !alive {
            return Ok((number, place));
        }
        let copy = self
            .copies
            .entry((queue.to_owned(), number))
            .or_insert_with(|| Copy {
                may_be_missing: true,
                ..Copy::default()
            });
        ensure(!copy.gone, || {
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
        Ok((number, place))
    }

    /// Records a settlement after which the message must not be delivered again.
    pub(crate) fn settles(&mut self, queue: &str, copy: u64) -> Settled {
        let found = self.copies.entry((queue.to_owned(), copy)).or_default();
        found.may_be_missing = true;
        Settled {
            queue: queue.to_owned(),
            copy,
            deliveries: found.deliveries,
        }
    }

    /// Records that the broker received this settlement.
    pub(crate) fn settled(&mut self, settled: &Settled) -> Checked {
        let Settled {
            queue,
            copy: number,
            deliveries,
        } = settled;
        let id = id_of_copy(*number);
        let copy = self.copies.entry((queue.clone(), *number)).or_default();
        if self.overdue.contains(&id) {
            return Ok(());
        }
        copy.gone = true;
        ensure(copy.deliveries == *deliveries, || {
            format!("message {id} of {queue} was delivered again after the broker received its ack")
        })
    }

    /// Checks at the end that nothing is lost and no acknowledged message is back.
    pub(crate) fn check(&mut self, broker: &Broker) -> Checked {
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
            let there: BTreeSet<u64> = ids.iter().copied().collect();
            ensure(ids.len() == there.len(), || {
                format!("a message is in {name} twice")
            })?;
            for ((_, number), copy) in self
                .copies
                .range((name.clone(), 0)..=(name.clone(), u64::MAX))
            {
                let (is_there, id) = (there.contains(number), id_of_copy(*number));
                ensure(
                    is_there || copy.may_be_missing || may_lose_messages(&name),
                    || format!("I4: message {id} has left {name} without an ack"),
                )?;
                ensure(!(is_there && copy.gone), || {
                    format!("message {id} is acknowledged and still in {name}")
                })?;
            }
        }
        Ok(())
    }
}
