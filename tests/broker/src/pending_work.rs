//! The pending work that an input causes: forwarding dead letters, delivering from queues, and
//! sending confirms.

use crate::channel::Mode;
use crate::ids::ConnectionId;
use crate::state::State;
use crate::timers::Timer;
use crate::{dead_letter, delivery};
use puka::protocol::method::basic;
use std::time::Instant;

/// Forwards all dead letters, and delivers from all queues that have changed. This ends, because a
/// message cannot be dead-lettered in a cycle.
pub(crate) fn run(state: &mut State, now: Instant) {
    loop {
        if let Some(letter) = state.dead_letters.pop_front() {
            dead_letter::forward(state, &letter, now);
        } else if let Some(id) = state.dirty.pop_first() {
            delivery::deliver_ready(state, id, now);
        } else {
            return;
        }
    }
}

/// Sends the confirms of a channel that are due.
pub(crate) fn send_due_confirms(
    state: &mut State,
    connection: ConnectionId,
    number: u16,
    now: Instant,
) {
    let coalesce = state.config.coalesce_confirms;
    state.unconfirmed.remove(&(connection, number));
    let Some(found) = state.connections.get_mut(&connection) else {
        return;
    };
    let Some(channel) = found.channels.get_mut(&number) else {
        return;
    };
    let Mode::Confirm(confirms) = &mut channel.mode else {
        return;
    };
    let due = confirms.take_due(now, coalesce);
    if let Some(at) = confirms.next_due() {
        state.timers.arm(Timer::Channel(connection, number), at);
    }
    for confirm in due {
        let (delivery_tag, multiple) = (confirm.tag, confirm.multiple);
        if confirm.accepted {
            found.send(
                now,
                number,
                &basic::Ack {
                    delivery_tag,
                    multiple,
                },
            );
        } else {
            // RabbitMQ sends the requeue bit as 1. It means nothing here.
            found.send(
                now,
                number,
                &basic::Nack {
                    delivery_tag,
                    multiple,
                    requeue: true,
                },
            );
        }
    }
}

/// Sends the confirms of all channels that are due.
pub(crate) fn send_all_due_confirms(state: &mut State, now: Instant) {
    for (connection, channel) in std::mem::take(&mut state.unconfirmed) {
        send_due_confirms(state, connection, channel, now);
    }
}
