//! `ack`, `nack`, `reject` and `recover` (spec 1.8.3).

use super::basic::wake;
use crate::channel::{Mode, Settlement, Unacked};
use crate::fault::{Fault, Outcome};
use crate::ids::Place;
use crate::settle::settle;
use crate::state::State;
use puka::protocol::method::basic::{self, Method};
use std::collections::BTreeMap;

pub(crate) fn handle(state: &mut State, place: Place, method: Method<'_>) -> Outcome {
    match method {
        Method::Ack(method) => some(
            state,
            place,
            method.delivery_tag,
            method.multiple,
            Settlement::Ack,
        ),
        Method::Nack(method) => some(
            state,
            place,
            method.delivery_tag,
            method.multiple,
            refusal(method.requeue),
        ),
        Method::Reject(method) => some(
            state,
            place,
            method.delivery_tag,
            false,
            refusal(method.requeue),
        ),
        Method::Recover(basic::Recover { requeue: true }) => {
            requeue_all(state, place)?;
            state.send(place, &basic::RecoverOk {});
            Ok(())
        }
        Method::RecoverAsync(basic::RecoverAsync { requeue: true }) => requeue_all(state, place),
        Method::Recover(_) | Method::RecoverAsync(_) => {
            Err(Fault::not_implemented("requeue=false"))
        }
        _ => Err(Fault::unimplemented()),
    }
}

fn refusal(requeue: bool) -> Settlement {
    if requeue {
        Settlement::Requeue
    } else {
        Settlement::Reject
    }
}

/// "Unknown tag: 406. multiple acts on all outstanding tags up to it; tag 0 + multiple = all
/// outstanding."
fn some(
    state: &mut State,
    place: Place,
    tag: u64,
    multiple: bool,
    settlement: Settlement,
) -> Outcome {
    let channel = state.channel(place)?;
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
    carry_out(state, place, settled, settlement)
}

/// Settles deliveries, and returns credit to their consumers.
pub(super) fn carry_out(
    state: &mut State,
    place: Place,
    settled: BTreeMap<u64, Unacked>,
    settlement: Settlement,
) -> Outcome {
    for unacked in settled.into_values() {
        state.channel(place)?.release(&unacked);
        settle(state, unacked, settlement);
    }
    wake(state, place)
}

fn requeue_all(state: &mut State, place: Place) -> Outcome {
    let all = std::mem::take(&mut state.channel(place)?.unacked);
    carry_out(state, place, all, Settlement::Requeue)
}
