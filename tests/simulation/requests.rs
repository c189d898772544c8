//! What applications ask for.

use crate::ledger::{Checked, Fate, Violation, ensure};
use crate::observer::body_of;
use crate::plan::Feature;
use crate::random::Random;
use crate::session::{Asked, Waiting};
use crate::world::World;
use puka::Error;
use puka::machine::{Body, ConnectionState, Consume, PromiseId, Publish};
use puka::protocol::method::{Encode, basic, exchange, queue};
use puka::protocol::{Method, MethodId, Properties, ShortStr, Table, TableRef};
use std::time::Duration;

fn short(text: &str) -> ShortStr<'_> {
    ShortStr::new(text).unwrap_or_default()
}

/// The arguments that a queue of that name always has.
fn arguments_of(name: &str) -> Table {
    let mut table = Table::new();
    let mut put = |name: &str, value: i32| table.insert(name, value).unwrap_or_default();
    match name.as_bytes()[0] {
        b'f' => put("x-max-length", 3),
        b'd' => put("x-max-length", 4),
        b't' => put("x-message-ttl", 200),
        _ => {}
    }
    if name.starts_with('f') {
        table
            .insert("x-overflow", "reject-publish")
            .unwrap_or_default();
    }
    table
}

const PERSISTENT: Properties<'static> = {
    let mut properties = Properties::NONE;
    properties.delivery_mode = Some(2);
    properties
};

/// A message to an exchange and a routing key, mandatory or not, persistent or not.
pub(crate) fn publish_of<'a>(
    to: (&'a str, &'a str),
    flags: (bool, bool),
    body: Body<'a>,
) -> Publish<'a> {
    let (mandatory, persistent) = flags;
    Publish {
        exchange: short(to.0),
        routing_key: short(to.1),
        mandatory,
        immediate: false,
        properties: if persistent {
            &PERSISTENT
        } else {
            &Properties::NONE
        },
        headers: None,
        body,
    }
}

fn consume_of(name: &str, no_ack: bool, exclusive: bool, prefetch_count: u16) -> Consume<'_> {
    Consume {
        queue: short(name),
        tag: "",
        prefetch_count,
        no_local: false,
        no_ack,
        exclusive,
        arguments: TableRef::EMPTY,
    }
}

impl World {
    /// Notes that something was asked for.
    pub(crate) fn ask(
        &mut self,
        client: usize,
        promise: Option<PromiseId>,
        asked: Asked,
        method: MethodId,
    ) {
        self.note(client, || format!("asks for {asked:?}"));
        let since = self.now;
        if let Some(promise) = promise
            && let Some(session) = self.session(client)
        {
            session.waiting.insert(
                promise,
                Waiting {
                    asked,
                    method,
                    since,
                    surely: false,
                },
            );
        }
    }

    /// Notes that something was asked for, or has a reason not to be sent.
    pub(crate) fn asked(
        &mut self,
        client: usize,
        sent: Result<PromiseId, Error>,
        asked: Asked,
        method: MethodId,
    ) -> Checked<bool> {
        let is_publish = matches!(
            asked,
            Asked::Publish(_) | Asked::Unconfirmed(_) | Asked::Call(_)
        );
        let Some(session) = self.session(client) else {
            return Ok(false);
        };
        let error = match sent {
            Ok(promise) => {
                self.ask(client, Some(promise), asked, method);
                return Ok(true);
            }
            Err(error) => error,
        };
        let machine = &session.machine;
        let has_room = if is_publish {
            machine.has_room_to_publish()
        } else {
            machine.has_room_to_request()
        };
        let holds = match &error {
            Error::Full => !has_room,
            Error::Stale => matches!(asked, Asked::Qos(_) | Asked::Cancel(_)),
            Error::Closed => session.closing,
            // There is no connection, and they do not want to wait for one.
            _ => {
                let is_open = matches!(machine.state(), ConnectionState::Open);
                machine.why_closed().is_some() || self.plan.has(Feature::FailFast) && !is_open
            }
        };
        self.note(client, || format!("can't ask for {asked:?}: {error}"));
        ensure(holds, || {
            format!("{asked:?} was refused without a reason: {error:?}")
        })?;
        Ok(false)
    }

    fn request<'a>(
        &mut self,
        client: usize,
        method: impl Into<Method<'a>>,
        asked: Asked,
    ) -> Checked {
        let method = method.into();
        let id = method.id();
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let sent = session.machine.request(method);
        self.asked(client, sent, asked, id).map(|_| ())
    }

    fn declare(&mut self, client: usize, name: &str, flags: [bool; 3]) -> Checked {
        let [passive, durable, wrong] = flags;
        let arguments = if wrong {
            Table::new()
        } else {
            arguments_of(name)
        };
        let method = queue::Declare {
            queue: short(name),
            passive,
            durable,
            exclusive: name.starts_with('x'),
            auto_delete: name.starts_with('a'),
            nowait: false,
            arguments: arguments.as_ref(),
        };
        self.request(client, method, Asked::Queue(name.to_owned()))
    }

    fn bind(&mut self, client: usize, name: &str, source: &str) -> Checked {
        let method = queue::Bind {
            queue: short(name),
            exchange: short(source),
            routing_key: short(name),
            nowait: false,
            arguments: TableRef::EMPTY,
        };
        self.request(client, method, Asked::Done(format!("{name}|{source}")))
    }

    pub(crate) fn delete_exchange(&mut self, client: usize, name: &str) -> Checked {
        let method = exchange::Delete {
            exchange: short(name),
            if_unused: false,
            nowait: false,
        };
        self.request(client, method, Asked::Done(name.to_owned()))
    }

    pub(crate) fn declare_exchange(&mut self, client: usize, name: &str, kind: &str) -> Checked {
        let method = exchange::Declare {
            exchange: short(name),
            r#type: short(kind),
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            nowait: false,
            arguments: TableRef::EMPTY,
        };
        self.request(client, method, Asked::Done(name.to_owned()))
    }

    pub(crate) fn declare_all(&mut self, client: usize) -> Checked {
        self.declare_exchange(client, "direct", "direct")?;
        self.declare_exchange(client, "fanout", "fanout")?;
        for name in self.queues(client) {
            self.declare(client, name, [false, true, false])?;
            self.bind(client, name, "direct")?;
        }
        self.bind(client, "q0", "fanout")?;
        self.bind(client, "q1", "fanout")
    }

    /// Declares a queue that the broker names.
    pub(crate) fn declare_unnamed(&mut self, client: usize) -> Checked {
        let method = queue::Declare {
            queue: ShortStr::EMPTY,
            passive: false,
            durable: false,
            exclusive: true,
            auto_delete: false,
            nowait: false,
            arguments: TableRef::EMPTY,
        };
        self.request(client, method, Asked::Queue(String::new()))
    }

    /// Declares a queue, and the application knows nothing of that.
    pub(crate) fn resurrect(&mut self, client: usize) {
        let arguments = TableRef::EMPTY;
        let (durable, nowait) = (true, false);
        let (passive, exclusive, auto_delete) = (false, false, false);
        let queue = short("q0");
        let Some(session) = self.session(client) else {
            return;
        };
        let method = queue::Declare {
            queue,
            passive,
            durable,
            exclusive,
            auto_delete,
            nowait,
            arguments,
        };
        if let Ok(promise) = session.machine.request(method) {
            session.machine.abandon(promise);
            session.abandoned.insert(promise);
        }
    }

    /// It is bound, and half of the time consumed.
    pub(crate) fn has_unnamed(&mut self, client: usize, name: String) -> Checked {
        self.bind(client, &name, "fanout")?;
        if name.len().is_multiple_of(2) {
            self.consume_from(client, &name, false, false, 5)?;
        }
        if let Some(session) = self.session(client) {
            session.unnamed.push(name);
        }
        Ok(())
    }

    fn queues(&self, client: usize) -> Vec<&'static str> {
        let mut names = vec!["q0", "q1", "q2"];
        if self.plan.has(Feature::Full) {
            names.push("f0");
        }
        if self.plan.has(Feature::Volatile) {
            names.extend(["a0", "d0", "t0"]);
            // One that another client has would keep it from coming back.
            let own = if self.plan.has(Feature::Recover) {
                client
            } else {
                0
            };
            names.extend(["x0", "x1", "x2"].get(own));
        }
        names
    }

    pub(crate) fn ask_for_wrong(&mut self, client: usize, random: &mut Random) -> Checked {
        match random.below(5) {
            0 => self.declare(client, "missing", [true, false, false]),
            1 => self.declare(client, "q0", [false, false, false]),
            2 => self.request(
                client,
                queue::Purge {
                    queue: short("missing"),
                    nowait: false,
                },
                Asked::Count("missing".into()),
            ),
            3 => self.declare_exchange(client, "direct", "fanout"),
            _ => {
                let queue = short("q1");
                let method = queue::Delete {
                    queue,
                    if_unused: true,
                    if_empty: true,
                    nowait: false,
                };
                self.request(client, method, Asked::Count("q1".into()))
            }
        }
    }

    /// Sends a request without a queue name. The broker would apply it to the queue last declared
    /// on the same channel. The client refuses it before anything is sent.
    pub(crate) fn ask_without_name(&mut self, client: usize, random: &mut Random) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let (queue, exchange, nowait) = (ShortStr::EMPTY, short("fanout"), false);
        let (routing_key, arguments) = (ShortStr::EMPTY, TableRef::EMPTY);
        let machine = &mut session.machine;
        let (sent, method) = match random.below(7) {
            0 => (
                machine.request(queue::Purge { queue, nowait }),
                queue::Purge::ID,
            ),
            1 => {
                let delete = queue::Delete {
                    queue,
                    if_unused: false,
                    if_empty: false,
                    nowait,
                };
                (machine.request(delete), queue::Delete::ID)
            }
            2 => (
                machine.request(basic::Get {
                    queue,
                    no_ack: random.chance(50),
                }),
                basic::Get::ID,
            ),
            3 => {
                let bind = queue::Bind {
                    queue,
                    exchange,
                    routing_key,
                    nowait,
                    arguments,
                };
                (machine.request(bind), queue::Bind::ID)
            }
            4 => {
                let unbind = queue::Unbind {
                    queue,
                    exchange,
                    routing_key,
                    arguments,
                };
                (machine.request(unbind), queue::Unbind::ID)
            }
            5 => (
                machine.consume(&consume_of("", false, false, 5)),
                basic::Consume::ID,
            ),
            _ => match session.transactions.first() {
                Some(begun) => (
                    machine.get_in(
                        begun.id,
                        basic::Get {
                            queue,
                            no_ack: false,
                        },
                    ),
                    basic::Get::ID,
                ),
                None => return Ok(()),
            },
        };
        self.note(client, || {
            format!("asks for {method} without a name: {sent:?}")
        });
        match sent {
            Err(Error::InvalidArgument { .. }) => Ok(()),
            Ok(_) => Err(Violation(format!(
                "{method} with an empty queue name was accepted"
            ))),
            // There is another reason, as with a name. A transaction may have ended.
            Err(_) if method == basic::Get::ID => Ok(()),
            Err(error) => self
                .asked(client, Err(error), Asked::Done(String::new()), method)
                .map(|_| ()),
        }
    }

    pub(crate) fn churn(&mut self, client: usize, random: &mut Random) -> Checked {
        let name = *random.pick(&self.queues(client)).unwrap_or(&"q0");
        match random.below(8) {
            0 => self.delete(client, name),
            1 => self.request(
                client,
                queue::Purge {
                    queue: short(name),
                    nowait: false,
                },
                Asked::Count(name.into()),
            ),
            2 => self.bind(client, name, "fanout"),
            3 => {
                let method = queue::Unbind {
                    queue: short(name),
                    exchange: short("fanout"),
                    routing_key: short(name),
                    arguments: TableRef::EMPTY,
                };
                self.request(client, method, Asked::Done(format!("{name}|fanout")))
            }
            4 => self.declare_exchange(client, "sometimes", "fanout"),
            5 => {
                let method = exchange::Delete {
                    exchange: short("sometimes"),
                    if_unused: false,
                    nowait: false,
                };
                self.request(client, method, Asked::Done("sometimes".into()))
            }
            _ => self.declare(client, name, [false, true, false]),
        }
    }

    pub(crate) fn delete(&mut self, client: usize, name: &str) -> Checked {
        let method = queue::Delete {
            queue: short(name),
            if_unused: false,
            if_empty: false,
            nowait: false,
        };
        self.request(client, method, Asked::Count(name.into()))
    }

    pub(crate) fn publish(&mut self, client: usize, random: &mut Random) -> Checked {
        let plan = self.plan;
        let exchange = match random.below(20) {
            0..9 => "",
            9..14 => "direct",
            14..17 => "fanout",
            17 if plan.has(Feature::MissingExchange) => "missing",
            18 if plan.has(Feature::Churn) => "sometimes",
            _ => "amq.direct",
        };
        let queues = self.queues(client);
        let key = if random.chance(10) {
            "nowhere"
        } else {
            random.pick(&queues).copied().unwrap_or("q0")
        };
        let renames = self.plan.has(Feature::Renamed) && exchange.is_empty() && random.chance(20);
        let unnamed = if renames {
            self.unnamed(client, random)
        } else {
            None
        };
        let key = unnamed.as_deref().unwrap_or(key);
        let confirms = !(plan.has(Feature::Unconfirmed) && random.chance(30));
        let mandatory = confirms && plan.has(Feature::Mandatory) && random.chance(50);
        let persistent = random.chance(50);
        let most = plan.most_octets_of_a_body();
        let octets = if most > 1000 && random.chance(15) {
            random.within(1000..most)
        } else {
            random.within(8..300)
        };
        let octets = if random.chance(10) { 8 } else { octets };
        let shared = random.chance(50);
        if confirms {
            self.publish_this(
                client,
                (exchange, key),
                (mandatory, persistent),
                octets,
                shared,
            )
            .map(|_| ())
        } else {
            self.publish_unconfirmed(client, (exchange, key), persistent, octets)
        }
    }

    /// Publishes, and is told at once that it is on its way, or later, when it was held back.
    fn publish_unconfirmed(
        &mut self,
        client: usize,
        to: (&str, &str),
        persistent: bool,
        octets: usize,
    ) -> Checked {
        let id = self.ledger.publishes(to, (false, persistent), octets);
        let body = body_of(id, octets);
        let publish = publish_of(to, (false, persistent), Body::Borrowed(&body));
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let sent = session.machine.publish_unconfirmed(&publish);
        match sent
            .as_ref()
            .ok()
            .and_then(|promise| session.machine.fetch(*promise))
        {
            Some(outcome) => self.on_its_way(client, id, &outcome),
            None if self.asked(client, sent, Asked::Unconfirmed(id), basic::Publish::ID)? => Ok(()),
            None => self.ledger.fate(id, Fate::Refused("never sent".into())),
        }
    }

    pub(crate) fn publish_this(
        &mut self,
        client: usize,
        to: (&str, &str),
        flags: (bool, bool),
        octets: usize,
        shared: bool,
    ) -> Checked<bool> {
        let id = self.ledger.publishes(to, flags, octets);
        let body = body_of(id, octets);
        let body = if shared {
            Body::from(body)
        } else {
            Body::Borrowed(&body)
        };
        let publish = publish_of(to, flags, body);
        let Some(session) = self.session(client) else {
            return Ok(false);
        };
        let sent = session.machine.publish(&publish);
        let sent = self.asked(client, sent, Asked::Publish(id), basic::Publish::ID)?;
        if !sent {
            self.ledger.fate(id, Fate::Refused("never sent".into()))?;
        }
        Ok(sent)
    }

    pub(crate) fn get(&mut self, client: usize, random: &mut Random) -> Checked {
        let name = *random.pick(&self.queues(client)).unwrap_or(&"q0");
        let no_ack = self.plan.has(Feature::NoAck) && random.chance(30);
        self.get_from(client, name, no_ack)
    }

    pub(crate) fn get_from(&mut self, client: usize, name: &str, no_ack: bool) -> Checked {
        self.request(
            client,
            basic::Get {
                queue: short(name),
                no_ack,
            },
            Asked::Get {
                queue: name.into(),
                no_ack,
            },
        )
    }

    pub(crate) fn consume(&mut self, client: usize, random: &mut Random) -> Checked {
        let name = *random.pick(&self.queues(client)).unwrap_or(&"q0");
        let no_ack = self.plan.has(Feature::NoAck) && random.chance(30);
        let exclusive = self.plan.has(Feature::Exclusive) && random.chance(20);
        let prefetch = *random.pick(&[0, 1, 5]).unwrap_or(&0);
        self.consume_from(client, name, no_ack, exclusive, prefetch)
    }

    pub(crate) fn consume_from(
        &mut self,
        client: usize,
        name: &str,
        no_ack: bool,
        exclusive: bool,
        prefetch: u16,
    ) -> Checked {
        let consume = consume_of(name, no_ack, exclusive, prefetch);
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let prefetch = if no_ack { 0 } else { prefetch };
        let sent = session.machine.consume(&consume);
        let asked = Asked::Consume {
            queue: name.into(),
            no_ack,
            prefetch,
            exclusive,
        };
        self.asked(client, sent, asked, basic::Consume::ID)
            .map(|_| ())
    }

    pub(crate) fn cancel(&mut self, client: usize, random: &mut Random) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let all: Vec<_> = session.consumers.keys().copied().collect();
        let Some(&id) = random.pick(&all) else {
            return Ok(());
        };
        let sent = session.machine.cancel(id);
        self.asked(client, sent, Asked::Cancel(id), basic::Cancel::ID)
            .map(|_| ())
    }

    pub(crate) fn drop_consumer(&mut self, client: usize, random: &mut Random) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let all: Vec<_> = session.consumers.keys().copied().collect();
        let Some(&id) = random.pick(&all) else {
            return Ok(());
        };
        session.machine.drop_consumer(id);
        if let Some(consumer) = session.consumers.remove(&id) {
            // The broker may have ended it, and nobody will know.
            session.record.spoil(&consumer.queue);
        }
        self.note(client, || format!("drops {id:?}"));
        Ok(())
    }

    pub(crate) fn qos(&mut self, client: usize, random: &mut Random) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let all: Vec<_> = session.consumers.keys().copied().collect();
        let Some(&id) = random.pick(&all) else {
            return Ok(());
        };
        let sent = session.machine.qos(id, random.below(6) as u16);
        // Its channel may be closed over that, and what became of its acks is then unknown.
        session.broken_consumers.insert(id);
        if let Err(Error::InvalidArgument { .. }) = sent {
            return ensure(self.plan.has(Feature::Exclusive), || {
                "a prefetch count was refused".into()
            });
        }
        self.asked(client, sent, Asked::Qos(id), basic::Consume::ID)
            .map(|_| ())
    }

    pub(crate) fn close(&mut self, client: usize) -> Checked {
        let now = self.now;
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        session.left.since.get_or_insert(now);
        session.left.without_transport |= !session.closing && session.machine.is_down();
        let promise = session.machine.close();
        session.closing = true;
        self.ask(client, Some(promise), Asked::Close, MethodId::NONE);
        self.events(client)
    }

    /// What was asked for just now has to succeed.
    pub(crate) fn surely(&mut self, client: usize) {
        let now = self.now;
        if let Some(session) = self.session(client) {
            let asked = session
                .waiting
                .values_mut()
                .filter(|waiting| waiting.since == now);
            asked.for_each(|waiting| waiting.surely = true);
        }
    }

    /// Declares a queue, publishes to it, gets the message back: all of it has to succeed.
    pub(crate) fn probe(&mut self, client: usize) -> Checked {
        self.declare(client, "probe", [false, true, false])?;
        self.surely(client);
        self.run_for(Duration::from_secs(1))?;
        // Nothing is in flight any more that could be in its way.
        let sent = self.publish_this(client, ("", "probe"), (true, false), 20, true)?;
        ensure(sent, || {
            "there is no capacity for a publish when nothing is pending".into()
        })?;
        self.surely(client);
        self.run_for(Duration::from_secs(1))?;
        self.get_from(client, "probe", false)?;
        self.surely(client);
        self.run_for(Duration::from_secs(1))
    }

    /// Checks that requests and publishes find channels although as many messages of gets are
    /// unsettled as the client allows.
    pub(crate) fn probe_hoarding(&mut self, client: usize) -> Checked {
        for _ in 0..12 {
            self.publish_this(client, ("", "probe"), (false, false), 20, true)?;
        }
        self.run_for(Duration::from_secs(2))?;
        for _ in 0..12 {
            self.get_from(client, "probe", false)?;
        }
        self.run_for(Duration::from_secs(2))?;
        self.declare(client, "probe", [false, true, false])?;
        self.surely(client);
        self.run_for(Duration::from_secs(1))?;
        let sent = self.publish_this(client, ("", "probe"), (true, false), 20, true)?;
        ensure(sent, || {
            "there is no capacity for a publish while messages are unsettled".into()
        })?;
        self.surely(client);
        self.run_for(Duration::from_secs(1))?;
        self.get_from(client, "probe", true)?;
        self.surely(client);
        self.run_for(Duration::from_secs(1))
    }
}
