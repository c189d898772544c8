//! `ack`, `nack`, `reject` and `recover` (spec 1.8.3).

use super::basic::mark_queues;
use crate::channel::{Mode, Settlement, Unacked};
use crate::fault::{Fault, Outcome};
use crate::ids::FrameContext;
use crate::settlement::settle;
use crate::state::State;
use puka::protocol::method::basic::{self, Method};
use std::collections::BTreeMap;

/// Handles `ack`, `nack`, `reject` or `recover` on an open channel.
pub(crate) fn handle(state: &mut State, context: FrameContext, method: Method<'_>) -> Outcome {
    match method {
        Method::Ack(method) => settle_tags(
            state,
            context,
            method.delivery_tag,
            method.multiple,
            Settlement::Ack,
        ),
        Method::Nack(method) => settle_tags(
            state,
            context,
            method.delivery_tag,
            method.multiple,
            refusal(method.requeue),
        ),
        Method::Reject(method) => settle_tags(
            state,
            context,
            method.delivery_tag,
            false,
            refusal(method.requeue),
        ),
        Method::Recover(basic::Recover { requeue: true }) => {
            requeue_all(state, context)?;
            state.send(context, &basic::RecoverOk {});
            Ok(())
        }
        Method::RecoverAsync(basic::RecoverAsync { requeue: true }) => requeue_all(state, context),
        Method::Recover(_) | Method::RecoverAsync(_) => {
            Err(Fault::not_implemented("requeue=false"))
        }
        _ => Err(Fault::command_invalid()),
    }
}

/// Returns the settlement of a delivery that a client refuses.
fn refusal(requeue: bool) -> Settlement {
    if requeue {
        Settlement::Requeue
    } else {
        Settlement::Reject
    }
}

/// Settles a delivery; with `multiple`, all unsettled ones up to this tag, or all for the tag 0.
fn settle_tags(
    state: &mut State,
    context: FrameContext,
    tag: u64,
    multiple: bool,
    settlement: Settlement,
) -> Outcome {
    let channel = state.channel(context)?;
    let settled = if multiple && tag == 0 {
        std::mem::take(&mut channel.unacked)
    } else if !channel.unacked.contains_key(&tag) {
        return Err(Fault::precondition(format_args!(
            "unknown delivery tag {tag}"
        )));
    } else if multiple {
        let later = channel.unacked.split_off(&(tag + 1));
        std::mem::replace(&mut channel.unacked, later)
    } else {
        channel.unacked.remove_entry(&tag).into_iter().collect()
    };
    if let Mode::Transaction(transaction) = &mut channel.mode {
        transaction.settlements.push((settled, settlement));
        return Ok(());
    }
    settle_all(state, context, settled, settlement)
}

/// Settles deliveries, and returns credit to their consumers.
pub(super) fn settle_all(
    state: &mut State,
    context: FrameContext,
    settled: BTreeMap<u64, Unacked>,
    settlement: Settlement,
) -> Outcome {
    for unacked in settled.into_values() {
        state.channel(context)?.return_credit(&unacked);
        settle(state, unacked, settlement);
    }
    mark_queues(state, context)
}

/// Requeues all unsettled deliveries of the channel.
fn requeue_all(state: &mut State, context: FrameContext) -> Outcome {
    let all = std::mem::take(&mut state.channel(context)?.unacked);
    settle_all(state, context, all, Settlement::Requeue)
}
