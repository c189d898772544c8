//! The requests of applications.

use crate::checker::{Checked, PublishOutcome, Violation, ensure};
use crate::observer::body_of;
use crate::pending::{Pending, Request};
use crate::plan::Feature;
use crate::random::Random;
use crate::world::World;
use puka::Error;
use puka::machine::{Body, ConnectionState, Consume, PromiseId, Publish};
use puka::protocol::method::{Encode, basic, queue};
use puka::protocol::{Method, MethodId, Properties, ShortStr, TableRef};
use std::time::Duration;

pub(crate) fn short(text: &str) -> ShortStr<'_> {
    ShortStr::new(text).unwrap_or_default()
}

const PERSISTENT: Properties<'static> = {
    let mut properties = Properties::NONE;
    properties.delivery_mode = Some(2);
    properties
};

/// Returns a publish to an exchange and a routing key, mandatory or not, persistent or not.
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
    /// Records a pending request.
    pub(crate) fn record_pending(
        &mut self,
        client: usize,
        promise: Option<PromiseId>,
        request: Request,
        method: MethodId,
    ) {
        self.note(client, || format!("requests {request:?}"));
        let since = self.now;
        if let Some(promise) = promise
            && let Some(session) = self.session(client)
        {
            session.pending.insert(
                promise,
                Pending {
                    request,
                    method,
                    since,
                    must_succeed: false,
                },
            );
        }
    }

    /// Records a pending request, or checks the reason for which it was not accepted.
    pub(crate) fn record_result(
        &mut self,
        client: usize,
        sent: Result<PromiseId, Error>,
        request: Request,
        method: MethodId,
    ) -> Checked<bool> {
        let is_publish = matches!(
            request,
            Request::Publish(_) | Request::Unconfirmed(_) | Request::Call(_)
        );
        let Some(session) = self.session(client) else {
            return Ok(false);
        };
        let error = match sent {
            Ok(promise) => {
                self.record_pending(client, Some(promise), request, method);
                return Ok(true);
            }
            Err(error) => error,
        };
        let machine = &session.machine;
        let has_room = if is_publish {
            machine.has_capacity_to_publish()
        } else {
            machine.has_capacity_to_request()
        };
        let holds = match &error {
            Error::Full => !has_room,
            Error::Stale => matches!(request, Request::Qos(_) | Request::Cancel(_)),
            Error::Closed => session.closing,
            // There is no connection, and the client fails fast.
            _ => {
                let is_open = matches!(machine.state(), ConnectionState::Open);
                machine.why_closed().is_some() || self.plan.has(Feature::FailFast) && !is_open
            }
        };
        self.note(client, || format!("cannot request {request:?}: {error}"));
        ensure(holds, || {
            format!("{request:?} was refused without a reason: {error:?}")
        })?;
        Ok(false)
    }

    pub(crate) fn request<'a>(
        &mut self,
        client: usize,
        method: impl Into<Method<'a>>,
        request: Request,
    ) -> Checked {
        let method = method.into();
        let id = method.id();
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let sent = session.machine.request(method);
        self.record_result(client, sent, request, id).map(|_| ())
    }

    pub(crate) fn send_wrong_request(&mut self, client: usize, random: &mut Random) -> Checked {
        match random.below(5) {
            0 => self.declare(client, "missing", [true, false, false]),
            1 => self.declare(client, "q0", [false, false, false]),
            2 => self.request(
                client,
                queue::Purge {
                    queue: short("missing"),
                    nowait: false,
                },
                Request::Count("missing".into()),
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
                self.request(client, method, Request::Count("q1".into()))
            }
        }
    }

    /// Sends a request without a queue name. The broker would apply it to the queue last declared
    /// on the same channel. The client refuses it before anything is sent.
    pub(crate) fn send_request_without_name(
        &mut self,
        client: usize,
        random: &mut Random,
    ) -> Checked {
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
            format!("requests {method} without a name: {sent:?}")
        });
        match sent {
            Err(Error::InvalidArgument { .. }) => Ok(()),
            Ok(_) => Err(Violation(format!(
                "{method} with an empty queue name was accepted"
            ))),
            // There is another reason, as with a name. A transaction may have ended.
            Err(_) if method == basic::Get::ID => Ok(()),
            Err(error) => self
                .record_result(client, Err(error), Request::Done(String::new()), method)
                .map(|_| ()),
        }
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
        let most = plan.most_bytes_of_a_body();
        let bytes = if most > 1000 && random.chance(15) {
            random.within(1000..most)
        } else {
            random.within(8..300)
        };
        let bytes = if random.chance(10) { 8 } else { bytes };
        let shared = random.chance(50);
        if confirms {
            self.publish_this(
                client,
                (exchange, key),
                (mandatory, persistent),
                bytes,
                shared,
            )
            .map(|_| ())
        } else {
            self.publish_unconfirmed(client, (exchange, key), persistent, bytes)
        }
    }

    /// Publishes a message. Its promise may be pending at once, or after a delay.
    fn publish_unconfirmed(
        &mut self,
        client: usize,
        to: (&str, &str),
        persistent: bool,
        bytes: usize,
    ) -> Checked {
        let id = self.checker.publishes(to, (false, persistent), bytes);
        let body = body_of(id, bytes);
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
            Some(outcome) => self.publish_unconfirmed_done(client, id, &outcome),
            None if self.record_result(
                client,
                sent,
                Request::Unconfirmed(id),
                basic::Publish::ID,
            )? =>
            {
                Ok(())
            }
            None => self
                .checker
                .record_outcome(id, PublishOutcome::Refused("never sent".into())),
        }
    }

    pub(crate) fn publish_this(
        &mut self,
        client: usize,
        to: (&str, &str),
        flags: (bool, bool),
        bytes: usize,
        shared: bool,
    ) -> Checked<bool> {
        let id = self.checker.publishes(to, flags, bytes);
        let body = body_of(id, bytes);
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
        let sent = self.record_result(client, sent, Request::Publish(id), basic::Publish::ID)?;
        if !sent {
            self.checker
                .record_outcome(id, PublishOutcome::Refused("never sent".into()))?;
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
            Request::Get {
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
        let request = Request::Consume {
            queue: name.into(),
            no_ack,
            prefetch,
            exclusive,
        };
        self.record_result(client, sent, request, basic::Consume::ID)
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
        self.record_result(client, sent, Request::Cancel(id), basic::Cancel::ID)
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
            // The broker may have ended it, which remains unknown.
            session.record.mark_uncertain(&consumer.queue);
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
        // Its channel may be closed over that, so the fate of its acks is unknown.
        session.broken_consumers.insert(id);
        if let Err(Error::InvalidArgument { .. }) = sent {
            return ensure(self.plan.has(Feature::Exclusive), || {
                "a prefetch count was refused".into()
            });
        }
        self.record_result(client, sent, Request::Qos(id), basic::Consume::ID)
            .map(|_| ())
    }

    pub(crate) fn close(&mut self, client: usize) -> Checked {
        let now = self.now;
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        session.left.since.get_or_insert(now);
        session.left.without_transport |= !session.closing && session.machine.is_down();
        let had_transport = !session.machine.is_down();
        let promise = session.machine.close();
        ensure(had_transport || session.machine.is_closed(), || {
            "a close without a transport waits".into()
        })?;
        session.closing = true;
        self.record_pending(client, Some(promise), Request::Close, MethodId::NONE);
        self.events(client)
    }

    /// Marks the request made just now as one that must succeed.
    pub(crate) fn require_success(&mut self, client: usize) {
        let now = self.now;
        if let Some(session) = self.session(client) {
            let request = session
                .pending
                .values_mut()
                .filter(|pending| pending.since == now);
            request.for_each(|pending| pending.must_succeed = true);
        }
    }

    /// Declares a queue, publishes to it and gets the message. All of it must succeed.
    pub(crate) fn probe(&mut self, client: usize) -> Checked {
        self.declare(client, "probe", [false, true, false])?;
        self.require_success(client);
        self.run_for(Duration::from_secs(1))?;
        // Nothing is in flight that could prevent it.
        let sent = self.publish_this(client, ("", "probe"), (true, false), 20, true)?;
        ensure(sent, || {
            "there is no capacity for a publish when nothing is pending".into()
        })?;
        self.require_success(client);
        self.run_for(Duration::from_secs(1))?;
        self.get_from(client, "probe", false)?;
        self.require_success(client);
        self.run_for(Duration::from_secs(1))
    }

    /// Checks that requests and publishes get channels although as many messages of gets are
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
        self.require_success(client);
        self.run_for(Duration::from_secs(1))?;
        let sent = self.publish_this(client, ("", "probe"), (true, false), 20, true)?;
        ensure(sent, || {
            "there is no capacity for a publish while messages are unsettled".into()
        })?;
        self.require_success(client);
        self.run_for(Duration::from_secs(1))?;
        self.get_from(client, "probe", true)?;
        self.require_success(client);
        self.run_for(Duration::from_secs(1))
    }
}
