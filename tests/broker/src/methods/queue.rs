//! Class `queue`: declaring, binding, purging, deleting (spec 1.7).

use super::{binding, exchange};
use crate::arguments::QueueArguments;
use crate::exchange::Destination;
use crate::fault::{Fault, Outcome, text};
use crate::ids::{FrameContext, QueueId};
use crate::queue::Queue;
use crate::state::{Permission, State, clean, locked};
use crate::{removal, reply_to};
use puka::protocol::ShortStr;
use puka::protocol::method::queue::{self, Method};
use std::sync::Arc;

/// Handles a method of the class on an open channel.
pub(crate) fn handle(state: &mut State, context: FrameContext, method: &Method<'_>) -> Outcome {
    match method {
        Method::Declare(method) if method.passive => declare_passive(state, context, method),
        Method::Declare(method) => declare(state, context, method),
        Method::Bind(method) => {
            let (queue, source) = (text(method.queue)?, text(method.exchange)?);
            let (name, key) =
                queue_and_key(state, context, queue, source, text(method.routing_key)?)?;
            exchange::existing(state, context, source)?;
            let id = state.queue(context, &name)?.id;
            binding::bind(
                state,
                context,
                source,
                Destination::Queue(id),
                &key,
                method.arguments,
            )?;
            state.reply(context, method.nowait, &queue::BindOk {});
            Ok(())
        }
        Method::Unbind(method) => {
            let (queue, source) = (text(method.queue)?, text(method.exchange)?);
            let (name, key) =
                queue_and_key(state, context, queue, source, text(method.routing_key)?)?;
            let destination = state
                .vhost(context)?
                .1
                .queues
                .get(&name)
                .map(|id| Destination::Queue(*id));
            if let Some(destination) = destination {
                // Removing an existing binding requires access to the queue. Removing one that does
                // not exist is not an error.
                if binding::exists(state, context, source, &destination, &key, method.arguments)? {
                    state.queue(context, &name)?;
                }
                binding::unbind(state, context, source, destination, &key, method.arguments)?;
            }
            state.send(context, &queue::UnbindOk {});
            Ok(())
        }
        Method::Purge(method) => {
            let name = state.queue_name(context, text(method.queue)?)?;
            state.check_permission(context, Permission::Read, "queue", &name)?;
            let message_count = state.queue(context, &name)?.purge();
            state.reply(context, method.nowait, &queue::PurgeOk { message_count });
            Ok(())
        }
        Method::Delete(method) => delete(state, context, method),
        Method::DeclareOk(_)
        | Method::BindOk(_)
        | Method::PurgeOk(_)
        | Method::DeleteOk(_)
        | Method::UnbindOk(_) => Err(Fault::command_invalid()),
    }
}

/// Returns the name of the queue of a binding, and the routing key. An empty queue field means the
/// last declared queue. Then an empty routing key means the name of that queue, too.
fn queue_and_key(
    state: &mut State,
    context: FrameContext,
    queue: &str,
    source: &str,
    routing_key: &str,
) -> Result<(Arc<str>, Arc<str>), Fault> {
    let name = state.queue_name(context, queue)?;
    exchange::not_default(source)?;
    let by_default = queue.is_empty() && routing_key.is_empty();
    let key = if by_default {
        Arc::clone(&name)
    } else {
        routing_key.into()
    };
    binding::check(state, context, ("queue", &name), source)?;
    Ok((name, key))
}

/// Replies to a declare. The queue is the last one of the channel from now on.
fn declare_ok(state: &mut State, context: FrameContext, id: QueueId, nowait: bool) -> Outcome {
    let Some(queue) = state.queues.get_mut(&id) else {
        return Err(Fault::internal("the queue does not exist"));
    };
    queue.last_used = context.now;
    let (name, message_count, consumer_count) = (
        Arc::clone(&queue.name),
        queue.message_count(),
        queue.consumer_count(),
    );
    state.channel(context)?.last_queue = Some(Arc::clone(&name));
    // Arms the queue's timer.
    state.dirty.insert(id);
    let queue = ShortStr::cut(&name);
    state.reply(
        context,
        nowait,
        &queue::DeclareOk {
            queue,
            message_count,
            consumer_count,
        },
    );
    Ok(())
}

/// Handles a passive declare. A missing queue is an error even if `nowait` is set. An empty name
/// does not mean the last queue here.
fn declare_passive(
    state: &mut State,
    context: FrameContext,
    method: &queue::Declare<'_>,
) -> Outcome {
    if reply_to::declare(state, context, method)? {
        return Ok(());
    }
    let name = clean(text(method.queue)?);
    let id = state.queue(context, &name)?.id;
    declare_ok(state, context, id, method.nowait)
}

/// Declares a queue.
fn declare(state: &mut State, context: FrameContext, method: &queue::Declare<'_>) -> Outcome {
    if reply_to::declare(state, context, method)? {
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
    state.check_permission(context, Permission::Configure, "queue", &name)?;
    let (vhost_name, vhost) = state.vhost(context)?;
    let existing = vhost.queues.get(name.as_str()).copied();
    if let Some(queue) = existing.and_then(|id| state.queues.get(&id)) {
        check_flags(queue, context, method)?;
    }
    let arguments = QueueArguments::parse(method.arguments, &vhost_name, &name)?;
    if let Some(dlx) = &arguments.dead_letter_exchange {
        state.check_permission(context, Permission::Read, "queue", &name)?;
        state.check_permission(context, Permission::Write, "exchange", dlx)?;
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
        return declare_ok(state, context, id, method.nowait);
    }
    let id = QueueId(state.fresh_id());
    let mut queue = Queue::new(id, vhost_name, name.into(), arguments, context.now);
    // In RabbitMQ, an exclusive queue is transient even if it is declared as durable.
    queue.durable = method.durable && !method.exclusive;
    queue.auto_delete = method.auto_delete;
    queue.owner = method.exclusive.then_some(context.connection);
    let (_, vhost) = state.vhost_mut(context)?;
    vhost.queues.insert(Arc::clone(&queue.name), id);
    state.queues.insert(id, queue);
    declare_ok(state, context, id, method.nowait)
}

/// Checks that a queue was declared with the same flags: 405 if `exclusive` differs, 406 if another
/// one does.
fn check_flags(queue: &Queue, context: FrameContext, method: &queue::Declare<'_>) -> Outcome {
    if queue.owner != method.exclusive.then_some(context.connection) {
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

/// Returns the fault of a declare whose properties differ from those of the queue.
fn inequivalent(queue: &Queue, what: &str, received: &str, current: &str) -> Fault {
    let Queue { vhost, name, .. } = queue;
    Fault::precondition(format_args!(
        "inequivalent arg '{what}' for queue '{name}' in vhost '{vhost}': received {received} but \
         current is {current}"
    ))
}

/// Deletes a queue. A missing queue is not an error.
fn delete(state: &mut State, context: FrameContext, method: &queue::Delete<'_>) -> Outcome {
    let name = state.queue_name(context, text(method.queue)?)?;
    state.check_permission(context, Permission::Configure, "queue", &name)?;
    let (vhost, found) = state.vhost(context)?;
    if !found.queues.contains_key(&name) {
        state.reply(
            context,
            method.nowait,
            &queue::DeleteOk { message_count: 0 },
        );
        return Ok(());
    }
    let queue = state.queue(context, &name)?;
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
    let message_count = removal::delete_queue(state, id, context.now);
    state.reply(context, method.nowait, &queue::DeleteOk { message_count });
    Ok(())
}
