//! The requests of applications, except those of `topology.rs`, `publishing.rs` and
//! `transactions.rs`.

use crate::pending::{Pending, Request};
use crate::plan::Feature;
use crate::random::Random;
use crate::violation::{Checked, Violation, ensure};
use crate::world::World;
use puka::Error;
use puka::machine::{ConnectionState, Consume, PromiseId};
use puka::protocol::method::{Encode, basic, queue};
use puka::protocol::{Method, MethodId, ShortStr, TableRef};

/// Returns a short string. The names of the simulation fit into one.
pub(crate) fn short(text: &str) -> ShortStr<'_> {
    ShortStr::new(text).unwrap_or_default()
}

/// Returns a consumer of a queue.
fn consume_of(name: &str, no_ack: bool, exclusive: bool, prefetch_count: u16) -> Consume<'_> {
    Consume {
        queue: short(name),
        tag: "",
        prefetch_count,
        no_local: false,
        no_ack,
        exclusive,
        arguments: TableRef::EMPTY,
        resubscribe: None,
        on_drop: puka::OnDrop::default(),
    }
}

impl World {
    /// Records a pending request.
    pub(crate) fn record_pending(
        &mut self,
        client: usize,
        promise: PromiseId,
        request: Request,
        method: MethodId,
    ) {
        self.note(client, || format!("requests {request:?}"));
        let since = self.now;
        if let Some(session) = self.session(client) {
            let pending = Pending {
                request,
                method,
                since,
                must_succeed: false,
            };
            session.record_pending(promise, pending);
        }
    }

    /// Records a pending request, or checks the reason for which the client has not accepted it.
    /// Returns `true` if the client has accepted it.
    pub(crate) fn record_result(
        &mut self,
        client: usize,
        result: Result<PromiseId, Error>,
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
        let error = match result {
            Ok(promise) => {
                self.record_pending(client, promise, request, method);
                return Ok(true);
            }
            Err(error) => error,
        };
        let machine = &session.machine;
        let has_capacity = if is_publish {
            machine.has_capacity_to_publish()
        } else {
            machine.has_capacity_to_request()
        };
        let holds = match &error {
            Error::Full => !has_capacity,
            Error::Stale => matches!(request, Request::Qos(_) | Request::Cancel(_)),
            Error::Closed => session.is_closing(),
            // Without a connection, a client that fails fast accepts nothing.
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

    /// Makes a request with a method.
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

    /// Sends a random request that the broker refuses in most cases.
    pub(crate) fn send_wrong_request(&mut self, client: usize, random: &mut Random) -> Checked {
        match random.below(5) {
            0 => self.declare(client, "missing", [true, false]),
            1 => self.declare(client, "q0", [false, false]),
            2 => self.request(
                client,
                queue::Purge {
                    queue: short("missing"),
                    nowait: false,
                },
                Request::PurgeOrDelete("missing".into()),
            ),
            3 => self.declare_exchange(client, "direct", "fanout"),
            _ => {
                let method = queue::Delete {
                    queue: short("q1"),
                    if_unused: true,
                    if_empty: true,
                    nowait: false,
                };
                self.request(client, method, Request::PurgeOrDelete("q1".into()))
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
                Some(transaction) => (
                    machine.get_in(
                        transaction.id,
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
            // There is another reason, which exists for a request with a name, too. For example,
            // the transaction may have ended.
            Err(_) if method == basic::Get::ID => Ok(()),
            Err(error) => self
                .record_result(
                    client,
                    Err(error),
                    Request::ChangeTopology(String::new()),
                    method,
                )
                .map(|_| ()),
        }
    }

    /// Gets a message from a random queue.
    pub(crate) fn get(&mut self, client: usize, random: &mut Random) -> Checked {
        let name = *random.pick(&self.queues(client)).unwrap_or(&"q0");
        let no_ack = self.plan.has(Feature::NoAck) && random.chance(30);
        let is_server_named = self.plan.has(Feature::Renamed) && random.chance(20);
        let server_named = if is_server_named {
            self.server_named_queue(client, random)
        } else {
            None
        };
        self.get_from(client, server_named.as_deref().unwrap_or(name), no_ack)
    }

    /// Gets a message from a queue.
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

    /// Starts a consumer of a random queue.
    pub(crate) fn consume(&mut self, client: usize, random: &mut Random) -> Checked {
        let name = *random.pick(&self.queues(client)).unwrap_or(&"q0");
        let no_ack = self.plan.has(Feature::NoAck) && random.chance(30);
        let exclusive = self.plan.has(Feature::Exclusive) && random.chance(20);
        let prefetch = *random.pick(&[0, 1, 5]).unwrap_or(&0);
        self.consume_from(client, name, no_ack, exclusive, prefetch)
    }

    /// Starts a consumer of a queue.
    pub(crate) fn consume_from(
        &mut self,
        client: usize,
        name: &str,
        no_ack: bool,
        exclusive: bool,
        prefetch: u16,
    ) -> Checked {
        let consume = Consume {
            resubscribe: Some(self.plan.resubscription().policy()),
            ..consume_of(name, no_ack, exclusive, prefetch)
        };
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

    /// Cancels a random consumer.
    pub(crate) fn cancel(&mut self, client: usize, random: &mut Random) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let all: Vec<_> = session.consumers.keys().copied().collect();
        let Some(&id) = random.pick(&all) else {
            return Ok(());
        };
        let sent = session.machine.cancel(id);
        if let Some(consumer) = session.consumers.get_mut(&id) {
            consumer.is_cancelled |= sent.is_ok();
        }
        self.record_result(client, sent, Request::Cancel(id), basic::Cancel::ID)
            .map(|_| ())
    }

    /// Drops a random consumer.
    pub(crate) fn drop_consumer(&mut self, client: usize, random: &mut Random) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let all: Vec<_> = session.consumers.keys().copied().collect();
        let Some(&id) = random.pick(&all) else {
            return Ok(());
        };
        session.release_consumer(id);
        let is_last = session.consumers.len() == 1;
        ensure(
            !is_last || session.machine.stats().buffered_deliveries == 0,
            || "deliveries of a dropped consumer stay buffered".into(),
        )?;
        if let Some(consumer) = session.consumers.remove(&id) {
            // The queue may have been deleted together with the consumer. The application does not
            // learn that any more.
            session.declared.mark_uncertain(&consumer.queue);
        }
        self.note(client, || format!("drops {id:?}"));
        Ok(())
    }

    /// Changes the prefetch count of a random consumer.
    pub(crate) fn qos(&mut self, client: usize, random: &mut Random) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let all: Vec<_> = session.consumers.keys().copied().collect();
        let Some(&id) = random.pick(&all) else {
            return Ok(());
        };
        let sent = session.machine.qos(id, random.below(6) as u16);
        // The broker may close the channel over this request, before it has received all acks.
        session.broken_consumers.insert(id);
        if let Err(Error::InvalidArgument { .. }) = sent {
            return ensure(self.plan.has(Feature::Exclusive), || {
                "a prefetch count was refused".into()
            });
        }
        self.record_result(client, sent, Request::Qos(id), basic::Consume::ID)
            .map(|_| ())
    }

    /// Begins to close a client's connection.
    pub(crate) fn close(&mut self, client: usize) -> Checked {
        let now = self.now;
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let promise = session.begin_close(now)?;
        self.record_pending(client, promise, Request::Close, MethodId::NONE);
        self.handle_events(client)
    }

    /// Marks the requests that a client has made at this instant as ones that must succeed.
    pub(crate) fn require_success(&mut self, client: usize) {
        let now = self.now;
        if let Some(session) = self.session(client) {
            session.require_success(now);
        }
    }
}
