//! Direct reply-to: replies go to the channel of the requester, without a queue (RabbitMQ's
//! extension).
//!
//! The requester consumes `amq.rabbitmq.reply-to` and publishes with that as `reply-to`, which the
//! broker replaces by an address of the channel. A message to the default exchange with the address
//! as its routing key is delivered there, or is unroutable.

use crate::fault::{Fault, Outcome};
use crate::ids::{ConnectionId, FrameContext};
use crate::message::Message;
use crate::state::State;
use puka::protocol::method::{basic, queue};
use puka::protocol::{Properties, ShortStr};
use std::sync::Arc;

pub(crate) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// The consumer of replies on a channel.
#[derive(Debug)]
pub(crate) struct ReplyConsumer {
    tag: Arc<str>,
    /// The part of the address that cannot be guessed.
    secret: String,
}

/// Starts the consumer of replies.
pub(crate) fn consume(
    state: &mut State,
    context: FrameContext,
    method: &basic::Consume<'_>,
    tag: Arc<str>,
) -> Outcome {
    if !method.no_ack {
        return Err(Fault::precondition("reply consumer cannot acknowledge"));
    }
    if state.channel(context)?.reply_consumer.is_some() {
        return Err(Fault::precondition("reply consumer already set"));
    }
    let secret = state.random.name("");
    let consumer_tag = Arc::clone(&tag);
    state.channel(context)?.reply_consumer = Some(ReplyConsumer { tag, secret });
    state.reply(
        context,
        method.nowait,
        &basic::ConsumeOk {
            consumer_tag: ShortStr::cut(&consumer_tag),
        },
    );
    Ok(())
}

/// Ends the consumer with this tag, if it is the consumer of replies.
pub(crate) fn cancel(state: &mut State, context: FrameContext, tag: &str) -> Outcome {
    let consumer = &mut state.channel(context)?.reply_consumer;
    if consumer
        .as_ref()
        .is_some_and(|consumer| &*consumer.tag == tag)
    {
        *consumer = None;
    }
    Ok(())
}

/// Returns the address that replaces the pseudo-queue in a message of the channel.
pub(crate) fn address(
    state: &mut State,
    context: FrameContext,
    properties: &Properties<'_>,
) -> Result<Option<String>, Fault> {
    if properties
        .reply_to
        .is_none_or(|reply_to| reply_to.as_bytes() != REPLY_TO.as_bytes())
    {
        return Ok(None);
    }
    let consumer = state.channel(context)?.reply_consumer.as_ref();
    let consumer =
        consumer.ok_or_else(|| Fault::precondition("fast reply consumer does not exist"))?;
    Ok(Some(format!(
        "{REPLY_TO}.{}.{}.{}",
        context.connection.0, context.channel, consumer.secret
    )))
}

/// Returns the channel of an address, if it still has a consumer of replies.
fn find(state: &State, address: &[u8]) -> Option<(ConnectionId, u16)> {
    let rest = std::str::from_utf8(address)
        .ok()?
        .strip_prefix(REPLY_TO)?
        .strip_prefix('.')?;
    let (connection, rest) = rest.split_once('.')?;
    let (channel, secret) = rest.split_once('.')?;
    let (connection, channel) = (
        ConnectionId(connection.parse().ok()?),
        channel.parse().ok()?,
    );
    let found = state.connections.get(&connection)?.channels.get(&channel)?;
    let matches = !found.closing && found.reply_consumer.as_ref()?.secret == secret;
    matches.then_some((connection, channel))
}

/// Delivers a reply to its requester. Returns `false` if the message is not a reply, or the
/// requester is gone.
pub(crate) fn deliver(state: &mut State, context: FrameContext, message: &Message) -> bool {
    if !message.exchange.is_empty() {
        return false;
    }
    let Some((id, number)) = find(state, message.routing_key()) else {
        return false;
    };
    let Some(connection) = state.connections.get_mut(&id) else {
        return false;
    };
    let Some(channel) = connection.channels.get_mut(&number) else {
        return false;
    };
    let delivery_tag = channel.next_tag();
    let Some(consumer) = &channel.reply_consumer else {
        return false;
    };
    let tag = Arc::clone(&consumer.tag);
    let method = basic::Deliver {
        consumer_tag: ShortStr::cut(&tag),
        delivery_tag,
        redelivered: false,
        exchange: ShortStr::EMPTY,
        routing_key: ShortStr::from_bytes(message.routing_key()).unwrap_or_default(),
    };
    connection.send_content(
        context.now,
        number,
        &method,
        &message.properties(),
        &message.body,
    );
    true
}

/// Handles a declare of an address, with which a client finds out whether the requester still
/// exists: the queue has no messages and one consumer, or does not exist. Returns `false` for other
/// names.
pub(crate) fn declare(
    state: &mut State,
    context: FrameContext,
    method: &queue::Declare<'_>,
) -> Result<bool, Fault> {
    let name = method.queue;
    if !name.as_bytes().starts_with(REPLY_TO.as_bytes()) {
        return Ok(false);
    }
    if name.as_bytes() != REPLY_TO.as_bytes() && find(state, name.as_bytes()).is_none() {
        let vhost = Arc::clone(&state.connection(context)?.vhost);
        return Err(Fault::no_queue(&vhost, &name.to_str_lossy()));
    }
    let declared = queue::DeclareOk {
        queue: name,
        message_count: 0,
        consumer_count: 1,
    };
    state.reply(context, method.nowait, &declared);
    Ok(true)
}
