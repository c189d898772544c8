//! Moves messages into queues, and from them to consumers.

use crate::arguments::Overflow;
use crate::channel::Unacked;
use crate::ids::QueueId;
use crate::message::{Message, Reason};
use crate::queue::{Entry, Queue};
use crate::removal;
use crate::settlement::queue_dead_letter;
use crate::state::State;
use crate::timers::Timer;
use puka::protocol::method::basic;
use puka::protocol::{Properties, ShortStr};
use std::sync::Arc;
use std::time::Instant;

/// Adds a message to a queue. Returns `false` if the queue refuses it.
pub(crate) fn enqueue(
    state: &mut State,
    id: QueueId,
    message: &Arc<Message>,
    now: Instant,
) -> bool {
    let Some(queue) = state.queues.get_mut(&id) else {
        return true;
    };
    let overflow = queue.arguments.overflow;
    if overflow != Overflow::DropHead && queue.would_overflow(message.body.len()) {
        if overflow == Overflow::RejectPublishDlx {
            queue_dead_letter(state, id, Arc::clone(message), Reason::MaxLength);
        }
        return false;
    }
    queue.push(Arc::clone(message), now);
    state.dirty.insert(id);
    true
}

/// Drops expired messages of a queue, delivers to consumers with credit, and drops messages above
/// the length limit. That limit applies to requeued messages before the deliveries, and to new
/// messages after them.
pub(crate) fn deliver_ready(state: &mut State, id: QueueId, now: Instant) {
    if state.stuck.contains(&id) {
        return;
    }
    if state
        .queues
        .get_mut(&id)
        .is_some_and(|queue| std::mem::take(&mut queue.requeued))
    {
        drop_excess(state, id);
    }
    // A message that expires at once is still delivered to a ready consumer, so it is not dropped
    // here yet.
    expire(state, id, |at| at < now);
    while let Some(index) = ready_consumer(state, id) {
        deliver(state, id, index, now);
    }
    drop_excess(state, id);
    expire(state, id, |at| at <= now);
    arm(state, id);
}

/// Drops messages from the head until the queue is within its limits.
fn drop_excess(state: &mut State, id: QueueId) {
    while let Some(queue) = state.queues.get_mut(&id) {
        if !queue.has_overflowed() {
            return;
        }
        let Some(entry) = queue.pop() else { return };
        queue_dead_letter(state, id, entry.message, Reason::MaxLength);
    }
}

/// Drops expired messages from the head. In a classic queue, a message expires only when it reaches
/// the head.
pub(crate) fn expire(state: &mut State, id: QueueId, expired: impl Fn(Instant) -> bool) {
    while let Some(queue) = state.queues.get_mut(&id) {
        if !queue
            .head()
            .and_then(|entry| entry.expires_at)
            .is_some_and(&expired)
        {
            return;
        }
        let Some(entry) = queue.pop() else { return };
        queue_dead_letter(state, id, entry.message, Reason::Expired);
    }
}

/// Arms the timer of a queue.
fn arm(state: &mut State, id: QueueId) {
    let Some(queue) = state.queues.get(&id) else {
        return;
    };
    let message = queue.head().and_then(|entry| entry.expires_at);
    if let Some(at) = message.into_iter().chain(unused_until(queue)).min() {
        state.timers.arm(Timer::Queue(id), at);
    }
}

/// Returns when an unused queue with `x-expires` is deleted.
fn unused_until(queue: &Queue) -> Option<Instant> {
    let expires = queue.arguments.expires?;
    if queue.consumers.is_empty() {
        queue.last_used.checked_add(expires)
    } else {
        None
    }
}

/// Handles everything that is due in a queue.
pub(crate) fn handle_timeout(state: &mut State, id: QueueId, now: Instant) {
    let unused = state.queues.get(&id).and_then(unused_until);
    if unused.is_some_and(|at| at <= now) {
        removal::delete_queue(state, id, now);
    } else {
        state.dirty.insert(id);
    }
}

/// Returns the index of the first consumer, in the order of their turns, that may receive the next
/// message.
fn ready_consumer(state: &mut State, id: QueueId) -> Option<usize> {
    let State {
        queues,
        connections,
        config,
        ..
    } = state;
    let queue = queues.get(&id)?;
    queue.head()?;
    queue.consumers.iter().position(|subscription| {
        let key = &subscription.key;
        let Some(connection) = connections.get_mut(&key.connection) else {
            return false;
        };
        if queue.active.as_ref().is_some_and(|active| active != key) {
            return false;
        }
        let credit = connection
            .channels
            .get(&key.channel)
            .is_some_and(|channel| channel.has_credit(&key.tag));
        if credit && connection.output_len() >= config.output_limit {
            connection.stalled = true;
            return false;
        }
        credit
    })
}

/// Delivers the next message of a queue to a consumer.
fn deliver(state: &mut State, id: QueueId, index: usize, now: Instant) {
    let Some(queue) = state.queues.get_mut(&id) else {
        return;
    };
    let Some(key) = queue
        .consumers
        .get(index)
        .map(|subscription| subscription.key.clone())
    else {
        return;
    };
    let Some(mut entry) = queue.pop() else { return };
    entry.deliveries = entry.deliveries.saturating_add(1);
    queue.rotate(index);
    let Some(connection) = state.connections.get_mut(&key.connection) else {
        return;
    };
    let Some(channel) = connection.channels.get_mut(&key.channel) else {
        return;
    };
    let delivery_tag = channel.next_tag();
    let no_ack = channel
        .consumers
        .get(&key.tag)
        .is_none_or(|consumer| consumer.no_ack);
    let message = Arc::clone(&entry.message);
    let redelivered = entry.redelivered;
    if !no_ack {
        queue.unacked += 1;
        channel.add_unacked(
            delivery_tag,
            Unacked {
                queue: id,
                entry,
                consumer: Some(Arc::clone(&key.tag)),
            },
        );
    }
    let method = basic::Deliver {
        consumer_tag: ShortStr::cut(&key.tag),
        delivery_tag,
        redelivered,
        exchange: ShortStr::cut(&message.exchange),
        routing_key: ShortStr::from_bytes(message.routing_key()).unwrap_or_default(),
    };
    connection.send_content(
        now,
        key.channel,
        &method,
        &properties(&message),
        &message.body,
    );
}

/// Takes the next message of a queue for `basic.get`.
pub(crate) fn take(state: &mut State, id: QueueId, now: Instant) -> Option<Entry> {
    expire(state, id, |at| at <= now);
    let queue = state.queues.get_mut(&id)?;
    queue.last_used = now;
    let mut entry = queue.pop()?;
    entry.deliveries = entry.deliveries.saturating_add(1);
    Some(entry)
}

/// Returns the properties as they are delivered.
pub(crate) fn properties(message: &Message) -> Properties<'_> {
    message.properties()
}
