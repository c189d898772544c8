//! Classes `confirm` and `tx`, which exclude each other (spec 1.9; confirms are RabbitMQ's
//! extension).

use super::settling::carry_out;
use crate::channel::{Mode, Transaction};
use crate::confirms::Confirms;
use crate::fault::{Fault, Outcome};
use crate::ids::Place;
use crate::publish::put_through;
use crate::state::State;
use puka::protocol::method::{confirm, tx};

/// "A second select changes nothing."
pub(crate) fn handle_confirm(state: &mut State, place: Place, method: confirm::Method) -> Outcome {
    let confirm::Method::Select(method) = method else {
        return Err(Fault::unimplemented());
    };
    let channel = state.channel(place)?;
    match channel.mode {
        Mode::Plain => channel.mode = Mode::Confirm(Confirms::default()),
        Mode::Confirm(_) => {}
        Mode::Transaction(_) => {
            return Err(Fault::precondition("cannot switch from tx to confirm mode"));
        }
    }
    state.reply(place, method.nowait, &confirm::SelectOk {});
    Ok(())
}

pub(crate) fn handle(state: &mut State, place: Place, method: tx::Method) -> Outcome {
    match method {
        tx::Method::Select(_) => {
            let channel = state.channel(place)?;
            match channel.mode {
                Mode::Plain => channel.mode = Mode::Transaction(Transaction::default()),
                Mode::Transaction(_) => {}
                Mode::Confirm(_) => {
                    return Err(Fault::precondition("cannot switch from confirm to tx mode"));
                }
            }
            state.send(place, &tx::SelectOk {});
            Ok(())
        }
        tx::Method::Commit(_) => {
            let Transaction {
                publishes,
                settlements,
            } = take(state, place)?;
            let mut accepted = true;
            for publish in publishes {
                accepted &= put_through(state, place, &publish)?;
            }
            for (settled, settlement) in settlements {
                carry_out(state, place, settled, settlement)?;
            }
            if !accepted {
                return Err(Fault::precondition("partial tx completion"));
            }
            state.send(place, &tx::CommitOk {});
            Ok(())
        }
        tx::Method::Rollback(_) => {
            let Transaction { settlements, .. } = take(state, place)?;
            let channel = state.channel(place)?;
            for (settled, _) in settlements {
                channel.unacked.extend(settled);
            }
            state.send(place, &tx::RollbackOk {});
            Ok(())
        }
        tx::Method::SelectOk(_) | tx::Method::CommitOk(_) | tx::Method::RollbackOk(_) => {
            Err(Fault::unimplemented())
        }
    }
}

/// Takes the work since the last commit or rollback.
fn take(state: &mut State, place: Place) -> Result<Transaction, Fault> {
    match &mut state.channel(place)?.mode {
        Mode::Transaction(transaction) => Ok(std::mem::take(transaction)),
        Mode::Plain | Mode::Confirm(_) => Err(Fault::precondition("channel is not transactional")),
    }
}
