//! Class `queue`: declaring, binding, purging, deleting (spec 1.7).

use super::{binding, exchange};
use crate::arguments::QueueArguments;
use crate::exchange::Destination;
use crate::fault::{Fault, Outcome, text};
use crate::ids::{Place, QueueId};
use crate::queue::Queue;
use crate::state::{Permission, State, clean, locked};
use crate::{release, reply_to};
use puka::protocol::ShortStr;
use puka::protocol::method::queue::{self, Method};
use std::sync::Arc;

pub(crate) fn handle(state: &mut State, place: Place, method: &Method<'_>) -> Outcome {
    match method {
        Method::Declare(method) if method.passive => declare_passive(state, place, method),
        Method::Declare(method) => declare(state, place, method),
        Method::Bind(method) => {
            let (queue, source) = (text(method.queue)?, text(method.exchange)?);
            let (name, key) = bound(state, place, queue, source, text(method.routing_key)?)?;
            exchange::existing(state, place, source)?;
            let id = state.queue(place, &name)?.id;
            binding::bind(
                state,
                place,
                source,
                Destination::Queue(id),
                &key,
                method.arguments,
            )?;
            state.reply(place, method.nowait, &queue::BindOk {});
            Ok(())
        }
        Method::Unbind(method) => {
            let (queue, source) = (text(method.queue)?, text(method.exchange)?);
            let (name, key) = bound(state, place, queue, source, text(method.routing_key)?)?;
            let destination = state
                .vhost(place)?
                .1
                .queues
                .get(&name)
                .map(|id| Destination::Queue(*id));
            if let Some(destination) = destination {
                // Removing an existing binding requires access to the queue. Removing one that does
                // not exist is not an error.
                if binding::exists(state, place, source, &destination, &key, method.arguments)? {
                    state.queue(place, &name)?;
                }
                binding::unbind(state, place, source, destination, &key, method.arguments)?;
            }
            state.send(place, &queue::UnbindOk {});
            Ok(())
        }
        Method::Purge(method) => {
            let name = state.queue_name(place, text(method.queue)?)?;
            state.check_permission(place, Permission::Read, "queue", &name)?;
            let message_count = state.queue(place, &name)?.purge();
            state.reply(place, method.nowait, &queue::PurgeOk { message_count });
            Ok(())
        }
        Method::Delete(method) => delete(state, place, method),
        Method::DeclareOk(_)
        | Method::BindOk(_)
        | Method::PurgeOk(_)
        | Method::DeleteOk(_)
        | Method::UnbindOk(_) => Err(Fault::unimplemented()),
    }
}

/// Returns the queue of a binding, and its routing key. If the queue field is empty, it is the last
/// declared queue, and "in bind and unbind an empty routing key then becomes that name, too".
fn bound(
    state: &mut State,
    place: Place,
    queue: &str,
    source: &str,
    routing_key: &str,
) -> Result<(Arc<str>, Arc<str>), Fault> {
    let name = state.queue_name(place, queue)?;
    exchange::not_default(source)?;
    let by_default = queue.is_empty() && routing_key.is_empty();
    let key = if by_default {
        Arc::clone(&name)
    } else {
        routing_key.into()
    };
    binding::check(state, place, ("queue", &name), source)?;
    Ok((name, key))
}

fn declare_ok(state: &mut State, place: Place, id: QueueId, nowait: bool) -> Outcome {
    let Some(queue) = state.queues.get_mut(&id) else {
        return Err(Fault::internal("the queue does not exist"));
    };
    queue.last_used = place.now;
    let (name, message_count, consumer_count) = (
        Arc::clone(&queue.name),
        queue.message_count(),
        queue.consumer_count(),
    );
    state.channel(place)?.last_queue = Some(Arc::clone(&name));
    // Arms the queue's timer.
    state.dirty.insert(id);
    let queue = ShortStr::cut(&name);
    state.reply(
        place,
        nowait,
        &queue::DeclareOk {
            queue,
            message_count,
            consumer_count,
        },
    );
    Ok(())
}

/// Handles a passive declare. "Passive declare of a missing entity: 404, with nowait as well". An
/// empty name does not mean the last queue here.
fn declare_passive(state: &mut State, place: Place, method: &queue::Declare<'_>) -> Outcome {
    if reply_to::declare(state, place, method)? {
        return Ok(());
    }
    let name = clean(text(method.queue)?);
    let id = state.queue(place, &name)?.id;
    declare_ok(state, place, id, method.nowait)
}

fn declare(state: &mut State, place: Place, method: &queue::Declare<'_>) -> Outcome {
    if reply_to::declare(state, place, method)? {
        return Ok(());
    }
    let name = clean(text(method.queue)?);
    let name = if name.is_empty() {
        state.random.name("amq.gen-")
    } else if name.starts_with("amq.") {
        return Err(Fault::refused(format_args!(
            "queue name '{name}' contains reserved prefix 'amq.*'"
        )));
    } else {
        name
    };
    state.check_permission(place, Permission::Configure, "queue", &name)?;
    let (vhost_name, vhost) = state.vhost(place)?;
    let existing = vhost.queues.get(name.as_str()).copied();
    if let Some(queue) = existing.and_then(|id| state.queues.get(&id)) {
        check_flags(queue, place, method)?;
    }
    let arguments = QueueArguments::parse(method.arguments, &vhost_name, &name)?;
    if let Some(dlx) = &arguments.dead_letter_exchange {
        state.check_permission(place, Permission::Read, "queue", &name)?;
        state.check_permission(place, Permission::Write, "exchange", dlx)?;
    }
    if let Some(queue) = existing.and_then(|id| state.queues.get(&id)) {
        if let Some(what) = arguments.difference(&queue.arguments) {
            return Err(inequivalent(
                queue,
                what,
                "another value",
                "the declared value",
            ));
        }
        let id = queue.id;
        return declare_ok(state, place, id, method.nowait);
    }
    let id = QueueId(state.fresh_id());
    let mut queue = Queue::new(id, vhost_name, name.into(), arguments, place.now);
    // "durable + exclusive is treated as transient and exclusive."
    queue.durable = method.durable && !method.exclusive;
    queue.auto_delete = method.auto_delete;
    queue.owner = method.exclusive.then_some(place.connection);
    let (_, vhost) = state.vhost_mut(place)?;
    vhost.queues.insert(Arc::clone(&queue.name), id);
    state.queues.insert(id, queue);
    declare_ok(state, place, id, method.nowait)
}

/// "Redeclare with other durable, exclusive, auto-delete or known arguments: 406 (405 when the
/// exclusivity differs)."
fn check_flags(queue: &Queue, place: Place, method: &queue::Declare<'_>) -> Outcome {
    if queue.owner != method.exclusive.then_some(place.connection) {
        return Err(locked(&queue.vhost, &queue.name));
    }
    let durable = method.durable && !method.exclusive;
    for (what, received, current) in [
        ("durable", durable, queue.durable),
        ("auto_delete", method.auto_delete, queue.auto_delete),
    ] {
        if received != current {
            return Err(inequivalent(
                queue,
                what,
                &format!("'{received}'"),
                &format!("'{current}'"),
            ));
        }
    }
    Ok(())
}

fn inequivalent(queue: &Queue, what: &str, received: &str, current: &str) -> Fault {
    let Queue { vhost, name, .. } = queue;
    Fault::precondition(format_args!(
        "inequivalent arg '{what}' for queue '{name}' in vhost '{vhost}': received {received} but \
         current is {current}"
    ))
}

/// "Not errors: deleting a missing queue (message-count 0)."
fn delete(state: &mut State, place: Place, method: &queue::Delete<'_>) -> Outcome {
    let name = state.queue_name(place, text(method.queue)?)?;
    state.check_permission(place, Permission::Configure, "queue", &name)?;
    let (vhost, found) = state.vhost(place)?;
    if !found.queues.contains_key(&name) {
        state.reply(place, method.nowait, &queue::DeleteOk { message_count: 0 });
        return Ok(());
    }
    let queue = state.queue(place, &name)?;
    if method.if_unused && !queue.consumers.is_empty() {
        return Err(Fault::precondition(format_args!(
            "queue '{name}' in vhost '{vhost}' in use"
        )));
    }
    if method.if_empty && queue.ready_count() > 0 {
        return Err(Fault::precondition(format_args!(
            "queue '{name}' in vhost '{vhost}' not empty"
        )));
    }
    let id = queue.id;
    let message_count = release::delete_queue(state, id, place.now);
    state.reply(place, method.nowait, &queue::DeleteOk { message_count });
    Ok(())
}
