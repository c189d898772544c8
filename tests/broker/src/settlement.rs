//! Settles deliveries: removes the message, requeues it, or dead-letters it.

use crate::channel::{Settlement, Unacked};
use crate::ids::QueueId;
use crate::message::{Message, Reason};
use crate::state::{DeadLetter, State};
use std::sync::Arc;

/// Settles a delivery. Its queue may have been deleted meanwhile, together with the message.
pub(crate) fn settle(state: &mut State, unacked: Unacked, settlement: Settlement) {
    let Unacked {
        queue: id,
        mut entry,
        ..
    } = unacked;
    let Some(queue) = state.queues.get_mut(&id) else {
        return;
    };
    queue.unacked = queue.unacked.saturating_sub(1);
    match settlement {
        Settlement::Ack => {}
        Settlement::Requeue => {
            entry.redelivered = true;
            if state
                .config
                .delivery_limit
                .is_some_and(|limit| entry.deliveries > limit)
            {
                queue_dead_letter(state, id, entry.message, Reason::DeliveryLimit);
            } else {
                queue.put_back(entry);
                queue.requeued = true;
            }
        }
        Settlement::Reject => queue_dead_letter(state, id, entry.message, Reason::Rejected),
    }
    state.dirty.insert(id);
}

/// Queues a message for the dead-letter exchange of its queue, if the queue has one.
pub(crate) fn queue_dead_letter(
    state: &mut State,
    id: QueueId,
    message: Arc<Message>,
    reason: Reason,
) {
    let Some(queue) = state.queues.get(&id) else {
        return;
    };
    let Some(exchange) = &queue.arguments.dead_letter_exchange else {
        return;
    };
    state.dead_letters.push_back(DeadLetter {
        vhost: Arc::clone(&queue.vhost),
        queue: Arc::clone(&queue.name),
        exchange: Arc::clone(exchange),
        routing_key: queue.arguments.dead_letter_routing_key.clone(),
        message,
        reason,
    });
}
