//! Class `channel`: opening, closing, flow (spec 1.5).

use crate::channel::Channel;
use crate::fault::{Fault, Outcome};
use crate::ids::FrameContext;
use crate::removal;
use crate::state::State;
use puka::protocol::ReplyCode;
use puka::protocol::method::channel::{self, Method};

/// Handles `channel.open` on a free number.
pub(crate) fn open(state: &mut State, context: FrameContext) -> Outcome {
    let Some(connection) = state.connections.get_mut(&context.connection) else {
        return Ok(());
    };
    let open = connection.channels.len();
    // In RabbitMQ, `channel_max` limits the number of open channels, and any channel number is
    // accepted.
    if connection.channel_max != 0 && open >= usize::from(connection.channel_max) {
        return Err(Fault::new(
            ReplyCode::NOT_ALLOWED,
            format_args!(
                "number of channels opened ({open}) has reached the negotiated channel_max ({})",
                connection.channel_max
            ),
        ));
    }
    let of_user: usize = state.connections.values().map(|it| it.channels.len()).sum();
    if let Some(limit) = state.user_channel_limit.filter(|limit| of_user >= *limit) {
        return Err(Fault::new(
            ReplyCode::NOT_ALLOWED,
            format_args!(
                "number of channels opened for user 'guest' has reached the maximum allowed user \
                 limit of ({limit})"
            ),
        ));
    }
    let Some(connection) = state.connections.get_mut(&context.connection) else {
        return Ok(());
    };
    connection
        .channels
        .insert(context.channel, Channel::default());
    state.send(context, &channel::OpenOk {});
    Ok(())
}

/// Handles a method of the class on an open channel.
pub(crate) fn handle(state: &mut State, context: FrameContext, method: Method<'_>) -> Outcome {
    match method {
        Method::Open(_) => Err(Fault::new(
            ReplyCode::CHANNEL_ERROR,
            "second 'channel.open' seen",
        )),
        Method::Close(_) => {
            removal::clear_channel(state, context.connection, context.channel, context.now);
            state.send(context, &channel::CloseOk {});
            forget(state, context);
            Ok(())
        }
        // RabbitMQ ignores replies that it has not asked for.
        Method::CloseOk(_) | Method::FlowOk(_) => Ok(()),
        Method::Flow(channel::Flow { active: true }) => {
            state.send(context, &channel::FlowOk { active: true });
            Ok(())
        }
        Method::Flow(channel::Flow { active: false }) => {
            Err(Fault::not_implemented("active=false"))
        }
        Method::OpenOk(_) => Err(Fault::command_invalid()),
    }
}

/// Handles a method on a channel that the broker has closed. Everything before `close-ok` is
/// ignored, because the client sent it before it knew. A `close` that crosses the broker's own gets
/// a reply.
pub(crate) fn handle_closing(state: &mut State, context: FrameContext, method: Method<'_>) {
    match method {
        Method::Close(_) => state.send(context, &channel::CloseOk {}),
        Method::CloseOk(_) => forget(state, context),
        _ => {}
    }
}

/// Removes the channel.
fn forget(state: &mut State, context: FrameContext) {
    if let Some(connection) = state.connections.get_mut(&context.connection) {
        connection.channels.remove(&context.channel);
    }
}
