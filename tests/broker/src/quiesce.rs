//! Processes the consequences of a call: forwards dead letters, delivers from queues, and sends
//! confirms, until nothing is left to do.

use crate::channel::Mode;
use crate::ids::ConnectionId;
use crate::state::State;
use crate::timers::Timer;
use crate::{dead_letter, delivery};
use puka::protocol::method::basic;
use std::time::Instant;

/// Processes everything until nothing is left to do. This ends, because a message cannot be
/// dead-lettered in a cycle.
pub(crate) fn quiesce(state: &mut State, now: Instant) {
    loop {
        if let Some(letter) = state.dead.pop_front() {
            dead_letter::forward(state, &letter, now);
        } else if let Some(id) = state.dirty.pop_first() {
            delivery::pump(state, id, now);
        } else {
            return;
        }
    }
}

/// Sends the confirms of a channel that are due.
pub(crate) fn confirm(state: &mut State, connection: ConnectionId, number: u16, now: Instant) {
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
            // "Its requeue bit means nothing (it arrives as 1)."
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

/// Sends all confirms that are due.
pub(crate) fn confirm_all(state: &mut State, now: Instant) {
    for (connection, channel) in std::mem::take(&mut state.unconfirmed) {
        confirm(state, connection, channel, now);
    }
}
