//! Class `basic` without publishing and settling: prefetch, consumers, `get` (spec 1.8).

use super::settling;
use crate::channel::{Consumer, Unacked};
use crate::delivery;
use crate::fault::{Fault, Outcome, text};
use crate::ids::{ConsumerKey, Place};
use crate::queue::Subscription;
use crate::state::{Permission, State, clean};
use crate::{release, reply_to};
use puka::protocol::method::basic::{self, Method};
use puka::protocol::{ReplyCode, ShortStr, TableRef};
use std::sync::Arc;

pub(crate) fn handle(state: &mut State, place: Place, method: &Method<'_>) -> Outcome {
    match method {
        Method::Qos(method) => qos(state, place, *method),
        Method::Consume(method) => consume(state, place, method),
        Method::Cancel(method) => cancel(state, place, method),
        Method::CancelOk(method) => cancel_ok(state, place, method.consumer_tag),
        Method::Get(method) => get(state, place, method),
        Method::Ack(_)
        | Method::Nack(_)
        | Method::Reject(_)
        | Method::Recover(_)
        | Method::RecoverAsync(_) => settling::handle(state, place, *method),
        // A publish is processed once its content is complete.
        Method::Publish(_) => Ok(()),
        Method::QosOk(_)
        | Method::ConsumeOk(_)
        | Method::Return(_)
        | Method::Deliver(_)
        | Method::GetOk(_)
        | Method::GetEmpty(_)
        | Method::RecoverOk(_) => Err(Fault::unimplemented()),
    }
}

/// "global=false: applies to each consumer started afterwards on this channel, separately.
/// global=true: one limit shared by the channel."
fn qos(state: &mut State, place: Place, method: basic::Qos) -> Outcome {
    if method.prefetch_size != 0 {
        return Err(Fault::not_implemented(format_args!(
            "prefetch_size!=0 ({})",
            method.prefetch_size
        )));
    }
    let channel = state.channel(place)?;
    if method.global {
        channel.global_prefetch = method.prefetch_count;
    } else {
        channel.prefetch = method.prefetch_count;
    }
    wake(state, place)?;
    state.send(place, &basic::QosOk {});
    Ok(())
}

/// Marks the queues of a channel's consumers, which may have credit again.
pub(super) fn wake(state: &mut State, place: Place) -> Outcome {
    let queues: Vec<_> = state.channel(place)?.queues().collect();
    state.dirty.extend(queues);
    Ok(())
}

fn consume(state: &mut State, place: Place, method: &basic::Consume<'_>) -> Outcome {
    let name = state.queue_name(place, text(method.queue)?)?;
    let replies = &*name == reply_to::REPLY_TO;
    if !replies {
        state.check_permission(place, Permission::Read, "queue", &name)?;
    }
    let tag = clean(text(method.consumer_tag)?);
    if state.channel(place)?.consumers.contains_key(tag.as_str()) {
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
        return reply_to::consume(state, place, method, tag);
    }
    let priority = priority(method.arguments)?;
    let key = ConsumerKey {
        connection: place.connection,
        channel: place.channel,
        tag: Arc::clone(&tag),
    };
    let queue = state.queue(place, &name)?;
    let id = queue.id;
    // "Exclusive consumer: 403 if another consumer exists, or for any later one". With a single
    // active consumer it is always refused.
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
    let channel = state.channel(place)?;
    let prefetch = channel.prefetch;
    let consumer = Consumer {
        queue: id,
        no_ack: method.no_ack,
        prefetch,
        outstanding: 0,
        timed_out: false,
    };
    channel.consumers.insert(Arc::clone(&tag), consumer);
    // "consume-ok comes before the first delivery."
    state.reply(
        place,
        method.nowait,
        &basic::ConsumeOk {
            consumer_tag: ShortStr::cut(&tag),
        },
    );
    state.dirty.insert(id);
    Ok(())
}

fn priority(arguments: TableRef<'_>) -> Result<i64, Fault> {
    let Some(value) = arguments.get("x-priority") else {
        return Ok(0);
    };
    value.as_i64().ok_or_else(|| {
        Fault::precondition("invalid arg 'x-priority' for consumer: unacceptable_type")
    })
}

/// "Not errors: cancelling an unknown consumer tag."
fn cancel(state: &mut State, place: Place, method: &basic::Cancel<'_>) -> Outcome {
    let tag = text(method.consumer_tag)?;
    reply_to::cancel(state, place, tag)?;
    let key = ConsumerKey {
        connection: place.connection,
        channel: place.channel,
        tag: tag.into(),
    };
    release::remove_consumer(state, &key, place.now);
    state.reply(
        place,
        method.nowait,
        &basic::CancelOk {
            consumer_tag: method.consumer_tag,
        },
    );
    Ok(())
}

/// Handles the client's confirmation that a timed-out consumer has ended. Only such consumers need
/// it.
fn cancel_ok(state: &mut State, place: Place, tag: ShortStr<'_>) -> Outcome {
    let tag = text(tag)?;
    if !state
        .channel(place)?
        .consumers
        .get(tag)
        .is_some_and(|consumer| consumer.timed_out)
    {
        return Err(Fault::unimplemented());
    }
    let key = ConsumerKey {
        connection: place.connection,
        channel: place.channel,
        tag: tag.into(),
    };
    release::remove_consumer(state, &key, place.now);
    Ok(())
}

fn get(state: &mut State, place: Place, method: &basic::Get<'_>) -> Outcome {
    let name = state.queue_name(place, text(method.queue)?)?;
    state.check_permission(place, Permission::Read, "queue", &name)?;
    let id = state.queue(place, &name)?.id;
    let Some(entry) = delivery::take(state, id, place.now) else {
        state.send(place, &basic::GetEmpty {});
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
    let channel = state.channel(place)?;
    let delivery_tag = channel.next_tag();
    if !method.no_ack {
        channel.hold(
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
    if let Some(connection) = state.connections.get_mut(&place.connection) {
        connection.send_content(
            place.now,
            place.channel,
            &method,
            &message.properties(),
            &message.body,
        );
    }
    Ok(())
}
