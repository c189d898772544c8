//! Requests that declare, bind and delete queues and exchanges.
//!
//! The first letter of a queue's name is its kind: `q` for a durable queue, `f` for one that
//! refuses publishes when it is full, `d` for one that drops its oldest message then, `t` for one
//! whose messages expire, `a` for an auto-delete queue, `x` for an exclusive one.

use crate::pending::Request;
use crate::plan::Feature;
use crate::random::Random;
use crate::requests::short;
use crate::violation::Checked;
use crate::world::World;
use puka::protocol::method::{exchange, queue};
use puka::protocol::{ShortStr, Table, TableRef};

/// Returns the arguments of a queue with this name.
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

/// Returns `true` for the name of a queue that may lose messages: those of the kinds
/// `a`, `x`, `d` and `t`, server-named queues, and the pseudo-queue of replies.
pub(crate) fn may_lose_messages(queue: &str) -> bool {
    queue.starts_with(['a', 'x', 'd', 't'])
        || queue.contains("reply-to")
        || queue.starts_with("amq.")
}

/// Returns `true` for the name of a server-named queue, which changes with each recovery.
pub(crate) fn is_server_named(name: &[u8]) -> bool {
    name.starts_with(b"amq.gen-")
}

impl World {
    /// Declares a queue with the arguments of its name. The flags are `passive` and `durable`.
    pub(crate) fn declare(&mut self, client: usize, name: &str, flags: [bool; 2]) -> Checked {
        let [passive, durable] = flags;
        let arguments = arguments_of(name);
        let method = queue::Declare {
            queue: short(name),
            passive,
            durable,
            exclusive: name.starts_with('x'),
            auto_delete: name.starts_with('a'),
            nowait: false,
            arguments: arguments.as_ref(),
        };
        self.request(client, method, Request::DeclareQueue(name.to_owned()))
    }

    /// Binds a queue to an exchange, by the queue's name as the routing key.
    pub(crate) fn bind(&mut self, client: usize, name: &str, source: &str) -> Checked {
        let method = queue::Bind {
            queue: short(name),
            exchange: short(source),
            routing_key: short(name),
            nowait: false,
            arguments: TableRef::EMPTY,
        };
        self.request(
            client,
            method,
            Request::ChangeTopology(format!("{name}|{source}")),
        )
    }

    /// Deletes an exchange.
    pub(crate) fn delete_exchange(&mut self, client: usize, name: &str) -> Checked {
        let method = exchange::Delete {
            exchange: short(name),
            if_unused: false,
            nowait: false,
        };
        self.request(client, method, Request::ChangeTopology(name.to_owned()))
    }

    /// Declares a durable exchange of a type.
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
        self.request(client, method, Request::ChangeTopology(name.to_owned()))
    }

    /// Declares the queues and exchanges of a client, and binds them.
    pub(crate) fn declare_all(&mut self, client: usize) -> Checked {
        self.declare_exchange(client, "direct", "direct")?;
        self.declare_exchange(client, "fanout", "fanout")?;
        for name in self.queues(client) {
            self.declare(client, name, [false, true])?;
            self.bind(client, name, "direct")?;
        }
        self.bind(client, "q0", "fanout")?;
        self.bind(client, "q1", "fanout")
    }

    /// Declares a server-named queue.
    pub(crate) fn declare_server_named(&mut self, client: usize) -> Checked {
        let method = queue::Declare {
            queue: ShortStr::EMPTY,
            passive: false,
            durable: false,
            exclusive: true,
            auto_delete: false,
            nowait: false,
            arguments: TableRef::EMPTY,
        };
        self.request(client, method, Request::DeclareQueue(String::new()))
    }

    /// Declares a queue that the application does not know about (a planted fault).
    pub(crate) fn resurrect(&mut self, client: usize) {
        let Some(session) = self.session(client) else {
            return;
        };
        let method = queue::Declare {
            queue: short("q0"),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: TableRef::EMPTY,
        };
        if let Ok(promise) = session.machine.request(method) {
            session.abandon(promise);
        }
    }

    /// Binds and consumes a server-named queue.
    pub(crate) fn use_server_named(&mut self, client: usize, name: String) -> Checked {
        self.bind(client, &name, "fanout")?;
        self.consume_from(client, &name, false, false, 5)?;
        if let Some(session) = self.session(client) {
            session.server_named.push(name);
        }
        Ok(())
    }

    /// Returns the names of the queues that a client uses.
    pub(crate) fn queues(&self, client: usize) -> Vec<&'static str> {
        let mut names = vec!["q0", "q1", "q2"];
        if self.plan.has(Feature::Full) {
            names.push("f0");
        }
        if self.plan.has(Feature::Volatile) {
            names.extend(["a0", "d0", "t0"]);
            // While another client owns an exclusive queue, this one could not restore it.
            let own = if self.plan.has(Feature::Recover) {
                client
            } else {
                0
            };
            names.extend(["x0", "x1", "x2"].get(own));
        }
        names
    }

    /// Declares, binds, unbinds, purges or deletes a random entity.
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
                Request::PurgeOrDelete(name.into()),
            ),
            2 => self.bind(client, name, "fanout"),
            3 => {
                let method = queue::Unbind {
                    queue: short(name),
                    exchange: short("fanout"),
                    routing_key: short(name),
                    arguments: TableRef::EMPTY,
                };
                self.request(
                    client,
                    method,
                    Request::ChangeTopology(format!("{name}|fanout")),
                )
            }
            4 => self.declare_exchange(client, "sometimes", "fanout"),
            5 => self.delete_exchange(client, "sometimes"),
            _ => self.declare(client, name, [false, true]),
        }
    }

    /// Deletes a queue.
    pub(crate) fn delete(&mut self, client: usize, name: &str) -> Checked {
        let method = queue::Delete {
            queue: short(name),
            if_unused: false,
            if_empty: false,
            nowait: false,
        };
        self.request(client, method, Request::PurgeOrDelete(name.into()))
    }
}
