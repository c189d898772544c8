//! Class `basic` without publishing and settling: prefetch, consumers, `get` (spec 1.8).

use super::settling;
use crate::channel::{Consumer, Unacked};
use crate::delivery;
use crate::fault::{Fault, Outcome, text};
use crate::ids::{ConsumerKey, FrameContext};
use crate::queue::Subscription;
use crate::state::{Permission, State, clean};
use crate::{removal, reply_to};
use puka::protocol::method::basic::{self, Method};
use puka::protocol::{ReplyCode, ShortStr, TableRef};
use std::sync::Arc;

/// Handles a method of the class on an open channel.
pub(crate) fn handle(state: &mut State, context: FrameContext, method: &Method<'_>) -> Outcome {
    match method {
        Method::Qos(method) => qos(state, context, *method),
        Method::Consume(method) => consume(state, context, method),
        Method::Cancel(method) => cancel(state, context, method),
        Method::CancelOk(method) => cancel_ok(state, context, method.consumer_tag),
        Method::Get(method) => get(state, context, method),
        Method::Ack(_)
        | Method::Nack(_)
        | Method::Reject(_)
        | Method::Recover(_)
        | Method::RecoverAsync(_) => settling::handle(state, context, *method),
        // A publish is processed once its content is complete.
        Method::Publish(_) => Ok(()),
        Method::QosOk(_)
        | Method::ConsumeOk(_)
        | Method::Return(_)
        | Method::Deliver(_)
        | Method::GetOk(_)
        | Method::GetEmpty(_)
        | Method::RecoverOk(_) => Err(Fault::command_invalid()),
    }
}

/// Sets a prefetch count. As in RabbitMQ, it applies to each later consumer of the channel alone,
/// or to the whole channel if `global` is set.
fn qos(state: &mut State, context: FrameContext, method: basic::Qos) -> Outcome {
    if method.prefetch_size != 0 {
        return Err(Fault::not_implemented(format_args!(
            "prefetch_size!=0 ({})",
            method.prefetch_size
        )));
    }
    let channel = state.channel(context)?;
    if method.global {
        channel.global_prefetch = method.prefetch_count;
    } else {
        channel.prefetch = method.prefetch_count;
    }
    mark_queues(state, context)?;
    state.send(context, &basic::QosOk {});
    Ok(())
}

/// Marks the queues of a channel's consumers, which may have credit again.
pub(super) fn mark_queues(state: &mut State, context: FrameContext) -> Outcome {
    let queues: Vec<_> = state.channel(context)?.queues().collect();
    state.dirty.extend(queues);
    Ok(())
}

/// Starts a consumer.
fn consume(state: &mut State, context: FrameContext, method: &basic::Consume<'_>) -> Outcome {
    let name = state.queue_name(context, text(method.queue)?)?;
    let replies = &*name == reply_to::REPLY_TO;
    if !replies {
        state.check_permission(context, Permission::Read, "queue", &name)?;
    }
    let tag = clean(text(method.consumer_tag)?);
    if state.channel(context)?.consumers.contains_key(tag.as_str()) {
        return Err(Fault::new(
            ReplyCode::NOT_ALLOWED,
            format_args!("attempt to reuse consumer tag '{tag}'"),
        ));
    }
    let tag: Arc<str> = if tag.is_empty() {
        state.random.name("amq.ctag-").into()
    } else {
        tag.into()
    };
    if replies {
        return reply_to::consume(state, context, method, tag);
    }
    let priority = priority(method.arguments)?;
    let key = ConsumerKey {
        connection: context.connection,
        channel: context.channel,
        tag: Arc::clone(&tag),
    };
    let queue = state.queue(context, &name)?;
    let id = queue.id;
    // A queue with an exclusive consumer has no other one. A queue with `x-single-active-consumer`
    // accepts no exclusive consumer.
    let taken = queue
        .consumers
        .iter()
        .any(|other| other.exclusive || method.exclusive);
    if taken || (method.exclusive && queue.arguments.single_active_consumer) {
        let vhost = Arc::clone(&queue.vhost);
        return Err(Fault::refused(format_args!(
            "queue '{name}' in vhost '{vhost}' in exclusive use"
        )));
    }
    queue.subscribe(Subscription {
        key,
        priority,
        exclusive: method.exclusive,
    });
    let channel = state.channel(context)?;
    let prefetch = channel.prefetch;
    let consumer = Consumer {
        queue: id,
        no_ack: method.no_ack,
        prefetch,
        outstanding: 0,
        timed_out: false,
    };
    channel.consumers.insert(Arc::clone(&tag), consumer);
    // The client must know the consumer before its first delivery.
    state.reply(
        context,
        method.nowait,
        &basic::ConsumeOk {
            consumer_tag: ShortStr::cut(&tag),
        },
    );
    state.dirty.insert(id);
    Ok(())
}

/// Returns the priority of a consumer.
fn priority(arguments: TableRef<'_>) -> Result<i64, Fault> {
    let Some(value) = arguments.get("x-priority") else {
        return Ok(0);
    };
    value.as_i64().ok_or_else(|| {
        Fault::precondition("invalid arg 'x-priority' for consumer: unacceptable_type")
    })
}

/// Cancels a consumer. An unknown tag is not an error.
fn cancel(state: &mut State, context: FrameContext, method: &basic::Cancel<'_>) -> Outcome {
    let tag = text(method.consumer_tag)?;
    reply_to::cancel(state, context, tag)?;
    let key = ConsumerKey {
        connection: context.connection,
        channel: context.channel,
        tag: tag.into(),
    };
    removal::remove_consumer(state, &key, context.now);
    state.reply(
        context,
        method.nowait,
        &basic::CancelOk {
            consumer_tag: method.consumer_tag,
        },
    );
    Ok(())
}

/// Handles the client's confirmation that a timed-out consumer has ended. Only such consumers need
/// it.
fn cancel_ok(state: &mut State, context: FrameContext, tag: ShortStr<'_>) -> Outcome {
    let tag = text(tag)?;
    if !state
        .channel(context)?
        .consumers
        .get(tag)
        .is_some_and(|consumer| consumer.timed_out)
    {
        return Err(Fault::command_invalid());
    }
    let key = ConsumerKey {
        connection: context.connection,
        channel: context.channel,
        tag: tag.into(),
    };
    removal::remove_consumer(state, &key, context.now);
    Ok(())
}

/// Sends the next message of a queue.
fn get(state: &mut State, context: FrameContext, method: &basic::Get<'_>) -> Outcome {
    let name = state.queue_name(context, text(method.queue)?)?;
    state.check_permission(context, Permission::Read, "queue", &name)?;
    let id = state.queue(context, &name)?.id;
    let Some(entry) = delivery::take(state, id, context.now) else {
        state.send(context, &basic::GetEmpty {});
        return Ok(());
    };
    let Some(queue) = state.queues.get_mut(&id) else {
        return Ok(());
    };
    let message_count = queue.message_count();
    if !method.no_ack {
        queue.unacked += 1;
    }
    let message = Arc::clone(&entry.message);
    let redelivered = entry.redelivered;
    let channel = state.channel(context)?;
    let delivery_tag = channel.next_tag();
    if !method.no_ack {
        channel.add_unacked(
            delivery_tag,
            Unacked {
                queue: id,
                entry,
                consumer: None,
            },
        );
    }
    let method = basic::GetOk {
        delivery_tag,
        redelivered,
        exchange: ShortStr::cut(&message.exchange),
        routing_key: ShortStr::from_bytes(message.routing_key()).unwrap_or_default(),
        message_count,
    };
    if let Some(connection) = state.connections.get_mut(&context.connection) {
        connection.send_content(
            context.now,
            context.channel,
            &method,
            &message.properties(),
            &message.body,
        );
    }
    Ok(())
}
