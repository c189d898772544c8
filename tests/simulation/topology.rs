//! Requests that declare, bind and delete queues and exchanges.

use crate::checker::Checked;
use crate::pending::Request;
use crate::plan::Feature;
use crate::random::Random;
use crate::requests::short;
use crate::world::World;
use puka::protocol::method::{exchange, queue};
use puka::protocol::{ShortStr, Table, TableRef};

/// Returns the arguments of a queue, which follow from its name.
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

impl World {
    pub(crate) fn declare(&mut self, client: usize, name: &str, flags: [bool; 3]) -> Checked {
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
        self.request(client, method, Request::Queue(name.to_owned()))
    }

    pub(crate) fn bind(&mut self, client: usize, name: &str, source: &str) -> Checked {
        let method = queue::Bind {
            queue: short(name),
            exchange: short(source),
            routing_key: short(name),
            nowait: false,
            arguments: TableRef::EMPTY,
        };
        self.request(client, method, Request::Done(format!("{name}|{source}")))
    }

    pub(crate) fn delete_exchange(&mut self, client: usize, name: &str) -> Checked {
        let method = exchange::Delete {
            exchange: short(name),
            if_unused: false,
            nowait: false,
        };
        self.request(client, method, Request::Done(name.to_owned()))
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
        self.request(client, method, Request::Done(name.to_owned()))
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

    /// Declares a server-named queue.
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
        self.request(client, method, Request::Queue(String::new()))
    }

    /// Declares a queue without the knowledge of the application.
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

    /// Binds the queue and, half of the time, consumes it.
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

    pub(crate) fn queues(&self, client: usize) -> Vec<&'static str> {
        let mut names = vec!["q0", "q1", "q2"];
        if self.plan.has(Feature::Full) {
            names.push("f0");
        }
        if self.plan.has(Feature::Volatile) {
            names.extend(["a0", "d0", "t0"]);
            // A queue of another client would prevent a restore.
            let own = if self.plan.has(Feature::Recover) {
                client
            } else {
                0
            };
            names.extend(["x0", "x1", "x2"].get(own));
        }
        names
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
                Request::Count(name.into()),
            ),
            2 => self.bind(client, name, "fanout"),
            3 => {
                let method = queue::Unbind {
                    queue: short(name),
                    exchange: short("fanout"),
                    routing_key: short(name),
                    arguments: TableRef::EMPTY,
                };
                self.request(client, method, Request::Done(format!("{name}|fanout")))
            }
            4 => self.declare_exchange(client, "sometimes", "fanout"),
            5 => {
                let method = exchange::Delete {
                    exchange: short("sometimes"),
                    if_unused: false,
                    nowait: false,
                };
                self.request(client, method, Request::Done("sometimes".into()))
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
        self.request(client, method, Request::Count(name.into()))
    }
}
