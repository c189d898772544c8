//! Removes consumers, queues, exchanges, channels and connections, and everything that depends on
//! them.

use crate::channel::Settlement;
use crate::exchange::Destination;
use crate::ids::{ConnectionId, ConsumerKey, QueueId};
use crate::settlement::settle;
use crate::state::State;
use crate::stuck_queues;
use crate::timers::Timer;
use puka::protocol::ShortStr;
use puka::protocol::method::basic;
use std::sync::Arc;
use std::time::Instant;

/// Deletes a queue with its messages, bindings and consumers. Returns how many messages were ready.
pub(crate) fn delete_queue(state: &mut State, id: QueueId, now: Instant) -> u32 {
    let Some(queue) = state.queues.remove(&id) else {
        return 0;
    };
    stuck_queues::release(state, id);
    state.timers.disarm(Timer::Queue(id));
    state.dirty.remove(&id);
    if let Some(vhost) = state.vhosts.get_mut(&queue.vhost) {
        vhost.queues.remove(&queue.name);
    }
    for subscription in &queue.consumers {
        cancel_consumer(state, &subscription.key, now);
    }
    drop_bindings_to(state, &queue.vhost, Destination::Queue(id));
    queue.message_count()
}

/// Removes a consumer and notifies its client. Its queue is kept.
pub(crate) fn cancel_consumer(state: &mut State, key: &ConsumerKey, now: Instant) {
    let Some(connection) = state.connections.get_mut(&key.connection) else {
        return;
    };
    let channel = connection.channels.get_mut(&key.channel);
    let consumer = channel.and_then(|channel| channel.consumers.remove(&key.tag));
    // RabbitMQ notifies only clients with this capability, and expects no reply.
    if connection.has_capability("consumer_cancel_notify") {
        let cancel = basic::Cancel {
            consumer_tag: ShortStr::cut(&key.tag),
            nowait: true,
        };
        connection.send(now, key.channel, &cancel);
    }
    let queue = consumer.and_then(|consumer| state.queues.get_mut(&consumer.queue));
    if let Some(queue) = queue {
        queue.unsubscribe(key);
        state.dirty.insert(queue.id);
    }
}

/// Deletes an exchange and the bindings from and to it.
pub(crate) fn delete_exchange(state: &mut State, vhost: &Arc<str>, name: &Arc<str>) {
    if let Some(found) = state.vhosts.get_mut(vhost) {
        found.exchanges.remove(name);
    }
    drop_bindings_to(state, vhost, Destination::Exchange(Arc::clone(name)));
}

/// Removes all bindings to a deleted destination. An auto-delete exchange is deleted with its last
/// binding.
fn drop_bindings_to(state: &mut State, vhost: &Arc<str>, destination: Destination) {
    let Some(vhost) = state.vhosts.get_mut(vhost) else {
        return;
    };
    let mut gone = vec![destination];
    while let Some(destination) = gone.pop() {
        vhost.exchanges.retain(|name, exchange| {
            let before = exchange.bindings.len();
            exchange
                .bindings
                .retain(|binding| binding.destination != destination);
            let unused = exchange.bindings.is_empty() && exchange.bindings.len() < before;
            if unused && exchange.auto_delete {
                gone.push(Destination::Exchange(Arc::clone(name)));
                return false;
            }
            true
        });
    }
}

/// Removes a consumer. An auto-delete queue is deleted with its last consumer, and never before it
/// had one.
pub(crate) fn remove_consumer(state: &mut State, key: &ConsumerKey, now: Instant) {
    let consumer = state
        .connections
        .get_mut(&key.connection)
        .and_then(|connection| connection.channels.get_mut(&key.channel))
        .and_then(|channel| channel.consumers.remove(&key.tag));
    let Some(consumer) = consumer else { return };
    let Some(queue) = state.queues.get_mut(&consumer.queue) else {
        return;
    };
    if !queue.unsubscribe(key) {
        return;
    }
    queue.last_used = now;
    if queue.consumers.is_empty() && queue.auto_delete {
        delete_queue(state, consumer.queue, now);
    } else {
        state.dirty.insert(consumer.queue);
    }
}

/// Ends everything on a channel: its consumers end, and its unsettled deliveries are requeued with
/// the redelivered flag.
pub(crate) fn clear_channel(
    state: &mut State,
    connection: ConnectionId,
    number: u16,
    now: Instant,
) {
    let Some(found) = state.connections.get_mut(&connection) else {
        return;
    };
    let Some(channel) = found.channels.get_mut(&number) else {
        return;
    };
    let tags: Vec<Arc<str>> = channel.consumers.keys().cloned().collect();
    let mut unacked = std::mem::take(&mut channel.unacked);
    // Deliveries that were settled in a transaction are requeued, too.
    if let crate::channel::Mode::Transaction(transaction) = std::mem::take(&mut channel.mode) {
        for (settled, _) in transaction.settlements {
            unacked.extend(settled);
        }
    }
    channel.content = None;
    channel.waits_for = None;
    channel.backlog.clear();
    channel.reply_consumer = None;
    channel.outstanding = 0;
    state.unconfirmed.remove(&(connection, number));
    state.timers.disarm(Timer::Channel(connection, number));
    for tag in tags {
        remove_consumer(
            state,
            &ConsumerKey {
                connection,
                channel: number,
                tag,
            },
            now,
        );
    }
    for unacked in unacked.into_values() {
        settle(state, unacked, Settlement::Requeue);
    }
}

/// Ends everything on a connection: removes its channels and its exclusive queues.
pub(crate) fn clear_connection(state: &mut State, id: ConnectionId, now: Instant) {
    let Some(connection) = state.connections.get(&id) else {
        return;
    };
    let numbers: Vec<u16> = connection.channels.keys().copied().collect();
    for number in numbers {
        clear_channel(state, id, number, now);
    }
    if let Some(connection) = state.connections.get_mut(&id) {
        connection.channels.clear();
        connection.blocked = false;
    }
    let owned: Vec<QueueId> = state
        .queues
        .values()
        .filter(|queue| queue.owner == Some(id))
        .map(|queue| queue.id)
        .collect();
    for queue in owned {
        delete_queue(state, queue, now);
    }
}
