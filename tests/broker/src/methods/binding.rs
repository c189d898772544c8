//! Bindings of queues and of exchanges (spec 3.1.4; exchange to exchange is RabbitMQ's extension).

use crate::exchange::{Binding, Destination, Kind, check_headers_binding};
use crate::fault::{Fault, Outcome};
use crate::ids::FrameContext;
use crate::removal;
use crate::state::{Permission, State};
use bytes::Bytes;
use puka::protocol::TableRef;
use std::sync::Arc;

/// Checks the permissions for a binding: write for the destination, and read for the source.
pub(crate) fn check(
    state: &State,
    context: FrameContext,
    destination: (&str, &str),
    source: &str,
) -> Outcome {
    state.check_permission(context, Permission::Write, destination.0, destination.1)?;
    state.check_permission(context, Permission::Read, "exchange", source)
}

/// Adds a binding, unless the same one exists.
pub(crate) fn bind(
    state: &mut State,
    context: FrameContext,
    source: &str,
    destination: Destination,
    routing_key: &str,
    arguments: TableRef<'_>,
) -> Outcome {
    let (vhost_name, vhost) = state.vhost_mut(context)?;
    let exchange = vhost
        .exchanges
        .get_mut(source)
        .ok_or_else(|| Fault::no_exchange(&vhost_name, source))?;
    if exchange.kind == Kind::Headers {
        check_headers_binding(arguments)?;
    }
    let binding = binding(destination, routing_key, arguments);
    if !exchange.bindings.contains(&binding) {
        exchange.bindings.push(binding);
    }
    Ok(())
}

/// Returns `true` if the binding exists.
pub(crate) fn exists(
    state: &State,
    context: FrameContext,
    source: &str,
    destination: &Destination,
    routing_key: &str,
    arguments: TableRef<'_>,
) -> Result<bool, Fault> {
    let (_, vhost) = state.vhost(context)?;
    let binding = binding(destination.clone(), routing_key, arguments);
    Ok(vhost
        .exchanges
        .get(source)
        .is_some_and(|exchange| exchange.bindings.contains(&binding)))
}

/// Removes a binding. A missing binding or exchange is not an error.
pub(crate) fn unbind(
    state: &mut State,
    context: FrameContext,
    source: &str,
    destination: Destination,
    routing_key: &str,
    arguments: TableRef<'_>,
) -> Outcome {
    let (vhost_name, vhost) = state.vhost_mut(context)?;
    let Some(exchange) = vhost.exchanges.get_mut(source) else {
        return Ok(());
    };
    let binding = binding(destination, routing_key, arguments);
    let before = exchange.bindings.len();
    exchange.bindings.retain(|candidate| *candidate != binding);
    if exchange.bindings.is_empty() && exchange.bindings.len() < before && exchange.auto_delete {
        let name = Arc::clone(&exchange.name);
        removal::delete_exchange(state, &vhost_name, &name);
    }
    Ok(())
}

/// Returns a binding.
fn binding(destination: Destination, routing_key: &str, arguments: TableRef<'_>) -> Binding {
    let routing_key = Bytes::copy_from_slice(routing_key.as_bytes());
    Binding {
        destination,
        routing_key,
        arguments: arguments.to_table(),
    }
}
