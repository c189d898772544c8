//! Class `exchange`: declaring, deleting, and binding exchanges to each other (spec 1.6).

use super::binding;
use crate::exchange::{Destination, Exchange, Kind};
use crate::fault::{Fault, Outcome, text};
use crate::ids::FrameContext;
use crate::removal;
use crate::state::{Permission, State, clean};
use puka::protocol::method::exchange::{self, Method};
use puka::protocol::{TableRef, Value};
use std::sync::Arc;

/// Handles a method of the class on an open channel.
pub(crate) fn handle(state: &mut State, context: FrameContext, method: &Method<'_>) -> Outcome {
    match method {
        Method::Declare(method) => declare(state, context, method),
        Method::Delete(method) => delete(state, context, method),
        Method::Bind(method) => {
            let routing_key = text(method.routing_key)?;
            let (source, destination) = ends(text(method.source)?, text(method.destination)?)?;
            binding::check(state, context, ("exchange", &destination), &source)?;
            let destination = existing(state, context, &destination)?;
            let destination = Destination::Exchange(destination);
            binding::bind(
                state,
                context,
                &source,
                destination,
                routing_key,
                method.arguments,
            )?;
            state.reply(context, method.nowait, &exchange::BindOk {});
            Ok(())
        }
        Method::Unbind(method) => {
            let routing_key = text(method.routing_key)?;
            let (source, destination) = ends(text(method.source)?, text(method.destination)?)?;
            binding::check(state, context, ("exchange", &destination), &source)?;
            let destination = Destination::Exchange(destination);
            binding::unbind(
                state,
                context,
                &source,
                destination,
                routing_key,
                method.arguments,
            )?;
            state.reply(context, method.nowait, &exchange::UnbindOk {});
            Ok(())
        }
        Method::DeclareOk(_) | Method::DeleteOk(_) | Method::BindOk(_) | Method::UnbindOk(_) => {
            Err(Fault::command_invalid())
        }
    }
}

/// Checks that an exchange is not the default one, which cannot be declared, deleted, bound or
/// unbound.
pub(crate) fn not_default(name: &str) -> Outcome {
    if name.is_empty() {
        return Err(Fault::refused(
            "operation not permitted on the default exchange",
        ));
    }
    Ok(())
}

/// Returns the source and the destination of a binding between exchanges.
fn ends(source: &str, destination: &str) -> Result<(Arc<str>, Arc<str>), Fault> {
    not_default(source)?;
    not_default(destination)?;
    Ok((clean(source).into(), clean(destination).into()))
}

/// Returns the name of an existing exchange.
pub(crate) fn existing(
    state: &State,
    context: FrameContext,
    name: &str,
) -> Result<Arc<str>, Fault> {
    let (vhost_name, vhost) = state.vhost(context)?;
    let found = vhost.exchanges.get_key_value(name);
    found
        .map(|(name, _)| Arc::clone(name))
        .ok_or_else(|| Fault::no_exchange(&vhost_name, name))
}

/// Declares an exchange.
fn declare(state: &mut State, context: FrameContext, method: &exchange::Declare<'_>) -> Outcome {
    let name = clean(text(method.exchange)?);
    not_default(&name)?;
    if method.passive {
        existing(state, context, &name)?;
        state.reply(context, method.nowait, &exchange::DeclareOk {});
        return Ok(());
    }
    let kind = Kind::parse(text(method.r#type)?)?;
    state.check_permission(context, Permission::Configure, "exchange", &name)?;
    let (vhost_name, vhost) = state.vhost_mut(context)?;
    let alternate = alternate(method.arguments, &vhost_name, &name)?;
    if let Some(found) = vhost.exchanges.get(name.as_str()) {
        check_equivalence(found, method, kind, alternate.as_ref(), &vhost_name)?;
    } else {
        if name.starts_with("amq.") {
            return Err(Fault::refused(format_args!(
                "exchange name '{name}' contains reserved prefix 'amq.*'"
            )));
        }
        let exchange = Exchange {
            name: name.into(),
            kind,
            durable: method.durable,
            auto_delete: method.auto_delete,
            internal: method.internal,
            alternate,
            bindings: Vec::new(),
        };
        vhost.exchanges.insert(Arc::clone(&exchange.name), exchange);
    }
    state.reply(context, method.nowait, &exchange::DeclareOk {});
    Ok(())
}

/// Returns the alternate exchange in the arguments of a declare.
fn alternate(arguments: TableRef<'_>, vhost: &str, name: &str) -> Result<Option<Arc<str>>, Fault> {
    match arguments.get("alternate-exchange") {
        None => Ok(None),
        Some(value @ Value::String(_)) if value.as_str().is_some() => {
            Ok(value.as_str().map(Arc::from))
        }
        Some(_) => Err(Fault::precondition(format_args!(
            "invalid arg 'alternate-exchange' for exchange '{name}' in vhost '{vhost}': \
             unacceptable_type"
        ))),
    }
}

/// Checks that an existing exchange was declared with the same properties.
fn check_equivalence(
    found: &Exchange,
    method: &exchange::Declare<'_>,
    kind: Kind,
    alternate: Option<&Arc<str>>,
    vhost: &str,
) -> Outcome {
    let differs = |what: &str, received: &str, current: &str| {
        Err(Fault::precondition(format_args!(
            "inequivalent arg '{what}' for exchange '{}' in vhost '{vhost}': received '{received}' \
             but current is '{current}'",
            found.name
        )))
    };
    if kind != found.kind {
        return differs("type", kind.name(), found.kind.name());
    }
    for (what, received, current) in [
        ("durable", method.durable, found.durable),
        ("auto_delete", method.auto_delete, found.auto_delete),
        ("internal", method.internal, found.internal),
    ] {
        if received != current {
            return differs(what, &received.to_string(), &current.to_string());
        }
    }
    let name = |exchange: Option<&Arc<str>>| exchange.map_or_else(|| "none".into(), Arc::clone);
    if alternate != found.alternate.as_ref() {
        return differs(
            "alternate-exchange",
            &name(alternate),
            &name(found.alternate.as_ref()),
        );
    }
    Ok(())
}

/// Deletes an exchange. A missing exchange is not an error.
fn delete(state: &mut State, context: FrameContext, method: &exchange::Delete<'_>) -> Outcome {
    let name = clean(text(method.exchange)?);
    not_default(&name)?;
    if name.starts_with("amq.") {
        return Err(Fault::refused(format_args!(
            "exchange name '{name}' contains reserved prefix 'amq.*'"
        )));
    }
    state.check_permission(context, Permission::Configure, "exchange", &name)?;
    let (vhost_name, vhost) = state.vhost(context)?;
    if let Some((found, exchange)) = vhost.exchanges.get_key_value(name.as_str()) {
        if method.if_unused && !exchange.bindings.is_empty() {
            return Err(Fault::precondition(format_args!(
                "exchange '{name}' in vhost '{vhost_name}' in use"
            )));
        }
        let found = Arc::clone(found);
        removal::delete_exchange(state, &vhost_name, &found);
    }
    state.reply(context, method.nowait, &exchange::DeleteOk {});
    Ok(())
}
