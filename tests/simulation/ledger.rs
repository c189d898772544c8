//! What has become of every message: what the broker says, against what its publisher and its
//! consumers were told.

use crate::heard::{Heard, attempt_of, copy_of, id_of_copy};
use crate::observer::{body_of, id_of};
use puka::Message as Received;
use puka_test_broker::Broker;
use std::collections::{BTreeMap, BTreeSet};

/// Something that must never be.
#[derive(Clone, Debug)]
pub(crate) struct Violation(pub(crate) String);

pub(crate) type Checked<T = ()> = Result<T, Violation>;

/// Fails when a fact does not hold.
pub(crate) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(Violation(what()))
    }
}

/// What a publisher was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Confirmed,
    Returned,
    Nacked,
    /// It is said to have never reached a queue.
    Refused(String),
    Unknown,
}

#[derive(Debug)]
struct Message {
    exchange: String,
    key: String,
    mandatory: bool,
    persistent: bool,
    octets: usize,
    fate: Option<Fate>,
    /// The broker has taken it.
    taken: bool,
    /// It was sent again, so that more than one thing may have become of it.
    again: bool,
    returned: bool,
    /// The queues that it went to while they stood still, so that the broker has not confirmed it.
    stuck: BTreeSet<String>,
    /// A broker accepted it and routed it to no queue.
    unrouted: bool,
    /// The call that it is the reply to.
    replies_to: Option<u64>,
}

/// A message in one queue.
#[derive(Debug, Default)]
struct Copy {
    handed: usize,
    /// Nobody can demand that it is still there.
    excused: bool,
    /// It was acknowledged for certain.
    gone: bool,
}

/// A settlement of which it is not known yet whether the broker has heard it.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) queue: String,
    pub(crate) copy: u64,
    /// How often it had been handed out by then.
    handed: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    messages: Vec<Message>,
    copies: BTreeMap<(String, u64), Copy>,
    /// How much of what the broker has logged is read.
    logged: usize,
    /// The place of each copy among all that any broker took.
    places: BTreeMap<u64, usize>,
    /// Copies that were heard by a broker, whether it took them or not.
    heard: BTreeSet<u64>,
    /// The last message to an exchange that was heard on a line and one of its channels.
    last: BTreeMap<(usize, usize, String), u64>,
    /// Messages whose channel was closed before they were acknowledged, so that their next delivery
    /// crosses an acknowledgement.
    overdue: BTreeSet<u64>,
    /// Queues that stand still.
    pub(crate) stuck: BTreeSet<String>,
    pub(crate) handed: usize,
    pub(crate) confirmed: usize,
}

/// What is lost in such a queue is nobody's fault.
pub(crate) fn is_loose(queue: &str) -> bool {
    queue.starts_with(['a', 'x', 'd', 't'])
        || queue.contains("reply-to")
        || queue.starts_with("amq.")
}

/// Returns `true` for the name of a server-named queue, which changes with each recovery.
pub(crate) fn is_made(name: &[u8]) -> bool {
    name.starts_with(b"amq.gen-")
}

fn is_key(key: &[u8], expected: &str) -> bool {
    key == expected.as_bytes() || is_made(key) && is_made(expected.as_bytes())
}

impl Ledger {
    pub(crate) fn publishes(
        &mut self,
        to: (&str, &str),
        flags: (bool, bool),
        octets: usize,
    ) -> u64 {
        let (mandatory, persistent) = flags;
        self.messages.push(Message {
            exchange: to.0.to_owned(),
            key: to.1.to_owned(),
            mandatory,
            persistent,
            octets,
            fate: None,
            taken: false,
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
        found.ok_or_else(|| Violation(format!("a message {id} that nobody has published")))
    }

    /// Reads what the broker has taken since the last time.
    pub(crate) fn sync(&mut self, broker: &Broker) -> Checked {
        for published in broker.published().skip(self.logged) {
            let place = self.places.len();
            self.logged += 1;
            let attempt = attempt_of(&published.properties());
            let id = id_of(&published.body)
                .ok_or_else(|| Violation("a body without its number".into()))?;
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
            let octets = message.octets;
            ensure(published.body == body_of(id, octets), || {
                format!("message {id} reached the broker changed")
            })?;
            ensure(
                published.exchange == message.exchange
                    && is_key(&published.routing_key, &message.key),
                || format!("message {id} reached the broker under another address"),
            )?;
            message.taken = true;
            for queue in &published.queues {
                self.copies.entry((queue.clone(), copy)).or_default();
            }
        }
        Ok(())
    }

    /// A broker has heard a publish.
    pub(crate) fn heard(&mut self, line: usize, heard: &Heard) -> Checked {
        let id = id_of_copy(heard.copy);
        let is_first = self.heard.insert(heard.copy);
        ensure(is_first, || {
            format!("message {id} was sent twice and is not flagged")
        })?;
        self.message(id)?.again |= heard.copy != id;
        let Some(turn) = heard.in_line else {
            return Ok(());
        };
        match self.last.insert((line, turn, heard.exchange.clone()), id) {
            Some(earlier) if earlier >= id => Err(Violation(format!(
                "message {id} overtook message {earlier} of the same exchange"
            ))),
            _ => Ok(()),
        }
    }

    /// The broker must have heard a message by now.
    pub(crate) fn arrived(&self, id: u64) -> Checked {
        ensure(self.heard.contains(&id), || {
            format!("message {id} was on its way and never arrived")
        })
    }

    /// A message is the reply to a call.
    pub(crate) fn replies(&mut self, id: u64, call: u64) -> Checked {
        self.message(id)?.replies_to = Some(call);
        Ok(())
    }

    /// The caller has the reply to a call.
    pub(crate) fn replied(&mut self, call: u64, reply: &Received) -> Checked {
        let id =
            id_of(reply.body()).ok_or_else(|| Violation("a reply without its number".into()))?;
        let of = self.message(id)?.replies_to;
        ensure(of == Some(call), || {
            format!("the call {call} was answered by the reply to {of:?}")
        })?;
        self.message(call)?
            .taken
            .then_some(())
            .ok_or_else(|| Violation(format!("I1: the call {call}")))
    }

    /// Checks that an accepted message to a server-named queue was routed to it.
    pub(crate) fn reached(&mut self, id: u64) -> Checked {
        let Message { key, unrouted, .. } = self.message(id)?;
        ensure(!(*unrouted && is_made(key.as_bytes())), || {
            format!(
                "message {id} to the server-named queue {key} was accepted and reached no queue"
            )
        })
    }

    /// A publisher is told what has become of a message.
    pub(crate) fn fate(&mut self, id: u64, fate: Fate) -> Checked {
        let message = self.message(id)?;
        ensure(message.fate.is_none(), || {
            format!("message {id} was answered twice")
        })?;
        // Another attempt may have gone elsewhere.
        let too_early = fate == Fate::Confirmed && !message.again && !message.stuck.is_empty();
        ensure(!too_early, || {
            format!(
                "I1: message {id} is confirmed, and {:?} has not confirmed it",
                message.stuck
            )
        })?;
        message.fate = Some(fate);
        self.confirmed += 1;
        self.check_fate(id)
    }

    fn check_fate(&mut self, id: u64) -> Checked {
        let Message {
            fate,
            taken,
            again,
            mandatory,
            returned,
            ..
        } = self.message(id)?;
        let (taken, again, mandatory, returned) = (*taken, *again, *mandatory, *returned);
        match fate.clone() {
            None | Some(Fate::Unknown) => Ok(()),
            Some(Fate::Confirmed) => {
                // The broker does not log replies.
                let taken = taken || self.message(id)?.replies_to.is_some();
                ensure(taken, || {
                    format!("I1: message {id} is confirmed and the broker does not have it")
                })?;
                ensure(!returned || again, || {
                    format!("I3: message {id} came back and is confirmed")
                })
            }
            Some(Fate::Returned) => ensure(returned && mandatory, || {
                format!("I3: message {id} is said to have come back and did not")
            }),
            Some(Fate::Nacked) => ensure(!taken || again, || {
                format!("message {id} is nacked and the broker has it")
            }),
            Some(Fate::Refused(why)) => {
                // What was sent before may be there, so nothing but the broker's own word is an
                // answer then.
                let known = why.contains("NOT_FOUND");
                ensure(!taken || again && known, || {
                    format!("message {id} is refused ({why}) and the broker has it")
                })
            }
        }
    }

    pub(crate) fn returned(&mut self, id: u64) -> Checked {
        self.message(id)?.returned = true;
        Ok(())
    }

    /// A message that came back, as its publisher sees it.
    pub(crate) fn came_back(&mut self, id: u64, received: &Received) -> Checked {
        let octets = self.message(id)?.octets;
        ensure(received.body() == body_of(id, octets), || {
            format!(
                "I3: the publisher of message {id} got message {:?} back",
                id_of(received.body())
            )
        })
    }

    /// The queue was emptied, or is gone: nothing in it can be demanded.
    pub(crate) fn clear(&mut self, queue: &str) {
        let all = self
            .copies
            .range_mut((queue.to_owned(), 0)..=(queue.to_owned(), u64::MAX));
        all.for_each(|(_, copy)| copy.excused = true);
    }

    /// A queue that stood still goes on.
    pub(crate) fn released(&mut self, queue: &str) {
        self.messages
            .iter_mut()
            .for_each(|message| message.stuck.retain(|stuck| stuck != queue));
    }

    /// The broker is started anew.
    pub(crate) fn restart(&mut self, broker: &Broker) {
        for queue in broker.queues().into_iter().filter(|queue| !queue.durable) {
            self.clear(&queue.name);
        }
        let messages = &self.messages;
        let lost = self
            .copies
            .iter_mut()
            .filter(|((_, copy), _)| !messages[id_of_copy(*copy) as usize].persistent);
        lost.for_each(|(_, copy)| copy.excused = true);
    }

    /// The broker has forgotten everything, and another takes its place.
    pub(crate) fn wipe(&mut self) {
        self.copies
            .values_mut()
            .for_each(|copy| copy.excused = true);
        self.messages
            .iter_mut()
            .for_each(|message| message.stuck.clear());
        self.logged = 0;
    }

    /// Deliveries of those messages were given back by the broker.
    pub(crate) fn overdue(&mut self, mut ids: BTreeSet<u64>) {
        self.overdue.append(&mut ids);
    }

    pub(crate) fn is_overdue(&self, id: u64) -> bool {
        self.overdue.contains(&id)
    }

    /// That copy may be gone from its queue.
    pub(crate) fn excuse(&mut self, queue: &str, copy: u64) {
        self.copies
            .entry((queue.to_owned(), copy))
            .or_default()
            .excused = true;
    }

    /// A message is handed out. Gives its number, and its place among all for checking the order.
    /// One that came before its consumer broke down may meanwhile have gone to somebody else, so it
    /// counts only if that is `alive`.
    pub(crate) fn handed(
        &mut self,
        queue: &str,
        redelivered: bool,
        alive: bool,
        received: &Received,
    ) -> Checked<(u64, Option<usize>)> {
        let id = id_of(received.body())
            .ok_or_else(|| Violation("a delivery without its number".into()))?;
        let number = copy_of(id, attempt_of(&received.properties()));
        let place = self.places.get(&number).copied();
        let Message {
            octets,
            exchange,
            key,
            fate,
            ..
        } = self.message(id)?;
        let (octets, refused) = (*octets, matches!(fate, Some(Fate::Nacked)));
        let key_holds = is_key(received.routing_key().as_bytes(), key);
        let address_holds = received.exchange() == *exchange && key_holds;
        ensure(address_holds, || {
            format!("message {id} was delivered under another address")
        })?;
        ensure(received.body() == body_of(id, octets), || {
            format!("message {id} was delivered changed")
        })?;
        self.handed += 1;
        let place = if refused { None } else { place };
        if !alive {
            return Ok((number, place));
        }
        let copy = self
            .copies
            .entry((queue.to_owned(), number))
            .or_insert_with(|| Copy {
                excused: true,
                ..Copy::default()
            });
        ensure(!copy.gone, || {
            format!("message {id} is acknowledged and came again from {queue}")
        })?;
        ensure(
            copy.handed == 0 || redelivered || self.overdue.contains(&id),
            || {
                format!(
                    "I5: message {id} of {queue} was handed out again and is not marked as redelivered"
                )
            },
        )?;
        copy.handed += 1;
        Ok((number, place))
    }

    /// A delivery is settled so that it does not come again.
    pub(crate) fn settles(&mut self, queue: &str, copy: u64) -> Settled {
        let found = self.copies.entry((queue.to_owned(), copy)).or_default();
        found.excused = true;
        Settled {
            queue: queue.to_owned(),
            copy,
            handed: found.handed,
        }
    }

    /// The broker has heard that settlement.
    pub(crate) fn settled(&mut self, settled: &Settled) -> Checked {
        let Settled {
            queue,
            copy: number,
            handed,
        } = settled;
        let id = id_of_copy(*number);
        let copy = self.copies.entry((queue.clone(), *number)).or_default();
        if self.overdue.contains(&id) {
            return Ok(());
        }
        copy.gone = true;
        ensure(copy.handed == *handed, || {
            format!(
                "message {id} of {queue} was acknowledged, the broker heard it, and it came again"
            )
        })
    }

    /// When all is over: nothing may be lost, and nothing back from the dead.
    pub(crate) fn check(&mut self, broker: &Broker) -> Checked {
        self.sync(broker)?;
        for id in 0..self.messages.len() as u64 {
            self.check_fate(id)?;
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
                ensure(is_there || copy.excused || is_loose(&name), || {
                    format!(
                        "I4: message {id} is not in {name} any more, and nobody has acknowledged it"
                    )
                })?;
                ensure(!(is_there && copy.gone), || {
                    format!("message {id} is acknowledged and still in {name}")
                })?;
            }
        }
        Ok(())
    }
}
