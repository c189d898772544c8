//! Class `confirm`, RabbitMQ's extension. A channel has confirms or transactions, not both.

use crate::channel::Mode;
use crate::confirms::Confirms;
use crate::fault::{Fault, Outcome};
use crate::ids::FrameContext;
use crate::state::State;
use puka::protocol::method::confirm;

/// Handles a method of the class on an open channel. A second `select` changes nothing.
pub(crate) fn handle(state: &mut State, context: FrameContext, method: confirm::Method) -> Outcome {
    let confirm::Method::Select(method) = method else {
        return Err(Fault::command_invalid());
    };
    let channel = state.channel(context)?;
    match channel.mode {
        Mode::Plain => channel.mode = Mode::Confirm(Confirms::default()),
        Mode::Confirm(_) => {}
        Mode::Transaction(_) => {
            return Err(Fault::precondition("cannot switch from tx to confirm mode"));
        }
    }
    state.reply(context, method.nowait, &confirm::SelectOk {});
    Ok(())
}
