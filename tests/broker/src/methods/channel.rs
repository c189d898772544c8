//! Class `channel`: opening, closing, flow (spec 1.5).

use crate::channel::Channel;
use crate::fault::{Fault, Outcome};
use crate::ids::Place;
use crate::release;
use crate::state::State;
use puka::protocol::ReplyCode;
use puka::protocol::method::channel::{self, Method};

/// Handles `channel.open` on a free number.
pub(crate) fn open(state: &mut State, place: Place) -> Outcome {
    let Some(connection) = state.connections.get_mut(&place.connection) else {
        return Ok(());
    };
    let open = connection.channels.len();
    // "channel-max limits how many channels are open at once; channel numbers above it are
    // accepted."
    if connection.channel_max != 0 && open >= usize::from(connection.channel_max) {
        return Err(Fault::new(
            ReplyCode::NOT_ALLOWED,
            format_args!(
                "number of channels opened ({open}) has reached the negotiated channel_max ({})",
                connection.channel_max
            ),
        ));
    }
    connection
        .channels
        .insert(place.channel, Channel::default());
    state.send(place, &channel::OpenOk {});
    Ok(())
}

/// Handles a method of the class on an open channel.
pub(crate) fn handle(state: &mut State, place: Place, method: Method<'_>) -> Outcome {
    match method {
        Method::Open(_) => Err(Fault::new(
            ReplyCode::CHANNEL_ERROR,
            "second 'channel.open' seen",
        )),
        Method::Close(_) => {
            release::release_channel(state, place.connection, place.channel, place.now);
            state.send(place, &channel::CloseOk {});
            forget(state, place);
            Ok(())
        }
        // A reply to nothing is ignored.
        Method::CloseOk(_) | Method::FlowOk(_) => Ok(()),
        Method::Flow(channel::Flow { active: true }) => {
            state.send(place, &channel::FlowOk { active: true });
            Ok(())
        }
        Method::Flow(channel::Flow { active: false }) => {
            Err(Fault::not_implemented("active=false"))
        }
        Method::OpenOk(_) => Err(Fault::unimplemented()),
    }
}

/// Handles a method on a channel that the broker has closed: "everything the client sent after the
/// fault is ignored up to close-ok". A `close` that crosses the broker's own still gets a reply.
pub(crate) fn handle_closing(state: &mut State, place: Place, method: Method<'_>) {
    match method {
        Method::Close(_) => state.send(place, &channel::CloseOk {}),
        Method::CloseOk(_) => forget(state, place),
        _ => {}
    }
}

fn forget(state: &mut State, place: Place) {
    if let Some(connection) = state.connections.get_mut(&place.connection) {
        connection.channels.remove(&place.channel);
    }
}
