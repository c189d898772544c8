//! A virtual host: its exchanges, its queues by name, and the routing of messages through bindings.

use crate::exchange::{Destination, Exchange, Kind};
use crate::ids::QueueId;
use crate::message::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A virtual host. The default exchange has no entry: it routes by the name of the queue.
#[derive(Debug)]
pub(crate) struct VHost {
    pub(crate) exchanges: BTreeMap<Arc<str>, Exchange>,
    pub(crate) queues: BTreeMap<Arc<str>, QueueId>,
}

impl VHost {
    pub(crate) fn new() -> Self {
        let predeclared = [
            ("amq.direct", Kind::Direct),
            ("amq.fanout", Kind::Fanout),
            ("amq.headers", Kind::Headers),
            ("amq.match", Kind::Headers),
            ("amq.topic", Kind::Topic),
        ];
        let exchanges =
            predeclared.map(|(name, kind)| (name.into(), Exchange::predeclared(name, kind)));
        Self {
            exchanges: BTreeMap::from(exchanges),
            queues: BTreeMap::new(),
        }
    }

    /// Returns the queues that a message is routed to, each once, even if several bindings match.
    pub(crate) fn route(&self, message: &Message) -> BTreeSet<QueueId> {
        let mut queues = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut waiting = vec![&*message.exchange];
        while let Some(name) = waiting.pop() {
            if !seen.insert(name) {
                continue;
            }
            if name.is_empty() {
                queues.extend(
                    message
                        .routing_keys
                        .iter()
                        .filter_map(|key| self.queue_of_key(key)),
                );
                continue;
            }
            let Some(exchange) = self.exchanges.get(name) else {
                continue;
            };
            let mut matched = false;
            for binding in &exchange.bindings {
                let headers = message.headers();
                if message
                    .routing_keys
                    .iter()
                    .any(|key| exchange.matches(binding, key, headers))
                {
                    matched = true;
                    match &binding.destination {
                        Destination::Queue(id) => drop(queues.insert(*id)),
                        Destination::Exchange(name) => waiting.push(name),
                    }
                }
            }
            // The alternate exchange receives the messages that match no binding.
            if !matched && let Some(alternate) = &exchange.alternate {
                waiting.push(alternate);
            }
        }
        queues
    }

    /// Returns the queue whose name is the routing key, to which the default exchange routes.
    fn queue_of_key(&self, key: &[u8]) -> Option<QueueId> {
        self.queues.get(std::str::from_utf8(key).ok()?).copied()
    }
}
