//! Stuck queues, which do not work, like a quorum queue without a majority. Frames that need a
//! stuck queue wait until the queue is released.

use crate::broker::Broker;
use crate::channel::Mode;
use crate::dispatch;
use crate::fault::text;
use crate::ids::{ConnectionId, FrameContext, QueueId};
use crate::state::State;
use bytes::Bytes;
use puka::protocol::method::{basic, queue, tx};
use puka::protocol::{FrameKind, Method, ShortStr};
use std::time::Instant;

/// Failures of a queue, caused by a test.
impl Broker {
    /// Stops a queue, as the loss of its majority stops a quorum queue. It accepts messages without
    /// confirming them, and delivers none. `declare`, `purge`, `delete`, `consume`, `get` and
    /// commits of messages to it get no reply, and later frames on their channel are not processed.
    /// [`release_queue`](Self::release_queue) continues all of that. Returns `true` if the queue
    /// exists.
    pub fn stop_queue(&mut self, vhost: &str, name: &str) -> bool {
        let id = self.state.queue_id(vhost, name);
        self.state.stuck.extend(id);
        id.is_some()
    }

    /// Releases a queue that [`stop_queue`](Self::stop_queue) has stopped. Returns `true` if it was
    /// stopped.
    pub fn release_queue(&mut self, now: Instant, vhost: &str, name: &str) -> bool {
        let now = self.state.advance_clock(now);
        let id = self.state.queue_id(vhost, name);
        let was_stuck = id.is_some_and(|id| release(&mut self.state, id));
        self.run_pending_work(now, None);
        was_stuck
    }
}

/// Marks a queue as no longer stuck; [`resume`] does the rest. Returns `true` if it was stuck.
pub(crate) fn release(state: &mut State, id: QueueId) -> bool {
    let was_stuck = state.stuck.remove(&id);
    if was_stuck {
        state.released.push(id);
        state.dirty.insert(id);
    }
    was_stuck
}

/// Stores a frame of a channel that waits for a stuck queue, or that starts to wait with this
/// frame. Returns `true` if the frame is stored.
pub(crate) fn store_if_waiting(
    state: &mut State,
    context: FrameContext,
    kind: FrameKind,
    payload: &Bytes,
) -> bool {
    let is_waiting = state
        .channel(context)
        .is_ok_and(|channel| channel.waits_for.is_some());
    if !is_waiting && (state.stuck.is_empty() || kind != FrameKind::Method) {
        return false;
    }
    let needed = if is_waiting {
        None
    } else {
        stuck_queue(state, context, payload)
    };
    if !is_waiting && needed.is_none() {
        return false;
    }
    let Ok(channel) = state.channel(context) else {
        // Unreachable: only a method of an open channel needs a queue.
        return false;
    };
    channel.waits_for = channel.waits_for.or(needed);
    channel.backlog.push((kind, payload.clone()));
    true
}

/// Returns the stuck queue that a method needs.
fn stuck_queue(state: &mut State, context: FrameContext, payload: &[u8]) -> Option<QueueId> {
    if let Ok(Method::Tx(tx::Method::Commit(_))) = Method::decode(payload) {
        let Mode::Transaction(transaction) = &state.channel(context).ok()?.mode else {
            return None;
        };
        let queues: Vec<QueueId> = transaction
            .publishes
            .iter()
            .flat_map(|publish| &publish.queues)
            .copied()
            .collect();
        return queues.into_iter().find(|id| state.stuck.contains(id));
    }
    let name: ShortStr<'_> = match Method::decode(payload).ok()? {
        Method::Queue(queue::Method::Declare(declare)) => declare.queue,
        Method::Queue(queue::Method::Purge(purge)) => purge.queue,
        Method::Queue(queue::Method::Delete(delete)) => delete.queue,
        Method::Basic(basic::Method::Consume(consume)) => consume.queue,
        Method::Basic(basic::Method::Get(get)) => get.queue,
        _ => return None,
    };
    // A method is an error in these states, which is found where it is handled.
    let channel = state.channel(context).ok()?;
    if channel.closing || channel.content.is_some() {
        return None;
    }
    let name = state.queue_name(context, text(name).ok()?).ok()?;
    let (_, vhost) = state.vhost(context).ok()?;
    vhost
        .queues
        .get(&name)
        .copied()
        .filter(|id| state.stuck.contains(id))
}

/// Processes the frames that waited for released queues, and confirms the publishes to them.
pub(crate) fn resume(state: &mut State, now: Instant) {
    while let Some(id) = state.released.pop() {
        let mut waiting: Vec<(ConnectionId, u16)> = Vec::new();
        for (connection, found) in &mut state.connections {
            for (number, channel) in &mut found.channels {
                if channel.waits_for == Some(id) {
                    waiting.push((*connection, *number));
                }
                if let Mode::Confirm(confirms) = &mut channel.mode
                    && confirms.release(id)
                {
                    state.unconfirmed.insert((*connection, *number));
                }
            }
        }
        for (connection, channel) in waiting {
            let context = FrameContext {
                now,
                connection,
                channel,
            };
            let Ok(found) = state.channel(context) else {
                continue;
            };
            found.waits_for = None;
            // A frame that waits for another stuck queue delays all that follow it.
            for (kind, payload) in std::mem::take(&mut found.backlog) {
                dispatch::handle_frame(state, context, kind, payload);
            }
        }
    }
}
