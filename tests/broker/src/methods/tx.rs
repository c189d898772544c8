//! Class `tx`: transactions (spec 1.9). A channel has transactions or confirms, not both.

use super::settling::settle_all;
use crate::channel::{Mode, Transaction};
use crate::fault::{Fault, Outcome};
use crate::ids::FrameContext;
use crate::publish::enqueue_or_return;
use crate::state::State;
use puka::protocol::method::tx;

/// Handles a method of the class on an open channel.
pub(crate) fn handle(state: &mut State, context: FrameContext, method: tx::Method) -> Outcome {
    match method {
        tx::Method::Select(_) => {
            let channel = state.channel(context)?;
            match channel.mode {
                Mode::Plain => channel.mode = Mode::Transaction(Transaction::default()),
                Mode::Transaction(_) => {}
                Mode::Confirm(_) => {
                    return Err(Fault::precondition("cannot switch from confirm to tx mode"));
                }
            }
            state.send(context, &tx::SelectOk {});
            Ok(())
        }
        tx::Method::Commit(_) => {
            let Transaction {
                publishes,
                settlements,
            } = take(state, context)?;
            let mut accepted = true;
            for publish in publishes {
                accepted &= enqueue_or_return(state, context, &publish)?;
            }
            for (settled, settlement) in settlements {
                settle_all(state, context, settled, settlement)?;
            }
            if !accepted {
                return Err(Fault::precondition("partial tx completion"));
            }
            state.send(context, &tx::CommitOk {});
            Ok(())
        }
        tx::Method::Rollback(_) => {
            let Transaction { settlements, .. } = take(state, context)?;
            let channel = state.channel(context)?;
            for (settled, _) in settlements {
                channel.unacked.extend(settled);
            }
            state.send(context, &tx::RollbackOk {});
            Ok(())
        }
        tx::Method::SelectOk(_) | tx::Method::CommitOk(_) | tx::Method::RollbackOk(_) => {
            Err(Fault::command_invalid())
        }
    }
}

/// Takes the work since the last commit or rollback.
fn take(state: &mut State, context: FrameContext) -> Result<Transaction, Fault> {
    match &mut state.channel(context)?.mode {
        Mode::Transaction(transaction) => Ok(std::mem::take(transaction)),
        Mode::Plain | Mode::Confirm(_) => Err(Fault::precondition("channel is not transactional")),
    }
}
