//! Inspection of a broker by tests, without changing it.

use crate::broker::Broker;
use crate::ids::{ConnectionId, QueueId};
use crate::queue::Entry;
use crate::view::{ExchangeView, Published, QueueView, QueuedMessage};

/// Inspection by tests.
impl Broker {
    /// Returns a queue.
    #[must_use]
    pub fn queue(&self, vhost: &str, name: &str) -> Option<QueueView> {
        self.view(self.state.queue_id(vhost, name)?)
    }

    /// Returns all queues, sorted by virtual host and name.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueView> {
        let ids = self
            .state
            .vhosts
            .values()
            .flat_map(|vhost| vhost.queues.values());
        ids.filter_map(|id| self.view(*id)).collect()
    }

    /// Returns the state of a queue for tests.
    fn view(&self, id: QueueId) -> Option<QueueView> {
        let queue = self.state.queues.get(&id)?;
        let message = |entry: &Entry| QueuedMessage {
            exchange: entry.message.exchange.to_string(),
            routing_key: entry
                .message
                .routing_keys
                .first()
                .cloned()
                .unwrap_or_default(),
            body: entry.message.body.clone(),
            redelivered: entry.redelivered,
            deliveries: entry.deliveries,
            property_list: entry.message.property_list().clone(),
        };
        Some(QueueView {
            vhost: queue.vhost.to_string(),
            name: queue.name.to_string(),
            durable: queue.durable,
            exclusive: queue.owner.is_some(),
            auto_delete: queue.auto_delete,
            ready: queue.ready().map(message).collect(),
            unacked: queue.unacked,
            consumers: queue.consumers.len(),
        })
    }

    /// Returns all exchanges but the default one, sorted by virtual host and name.
    #[must_use]
    pub fn exchanges(&self) -> Vec<ExchangeView> {
        let vhosts = self.state.vhosts.iter();
        let all = vhosts.flat_map(|(vhost, found)| {
            found
                .exchanges
                .values()
                .map(move |exchange| (vhost, exchange))
        });
        all.map(|(vhost, exchange)| ExchangeView {
            vhost: vhost.to_string(),
            name: exchange.name.to_string(),
            kind: exchange.kind.name().to_string(),
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            internal: exchange.internal,
            bindings: exchange.bindings.len(),
        })
        .collect()
    }

    /// Returns the accepted messages, oldest first, up to the limit
    /// [`Config::published_log`](crate::Config::published_log). Messages that a queue refused with
    /// a nack are not included.
    pub fn published(&self) -> impl Iterator<Item = &Published> {
        self.state.published.iter()
    }

    /// Returns the connections whose transport is open.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionId> {
        self.state.connections.keys().copied().collect()
    }

    /// Returns how many channels of a connection are open, including those that the broker has
    /// closed and the client has not confirmed.
    #[must_use]
    pub fn channels(&self, id: ConnectionId) -> usize {
        self.state
            .connections
            .get(&id)
            .map_or(0, |connection| connection.channels.len())
    }

    /// Returns the size of all stored messages, in bytes.
    #[must_use]
    pub fn memory_used(&self) -> usize {
        self.state.memory.used()
    }
}
