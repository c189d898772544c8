//! A publish with its complete content: checks it, routes it, enqueues or returns it, and numbers
//! it for its confirm.

use crate::arguments::MAX_MILLIS;
use crate::channel::{Content, Mode, Publish};
use crate::delivery::enqueue;
use crate::fault::{Fault, Outcome, text};
use crate::ids::FrameContext;
use crate::message::{Message, headers};
use crate::reply_to;
use crate::state::{Permission, State};
use crate::view::Published;
use bytes::Bytes;
use puka::protocol::method::basic;
use puka::protocol::{ContentHeader, Properties, ReplyCode, ShortStr, Table, Value};
use std::sync::Arc;
use std::time::Duration;

/// Processes a complete message.
pub(crate) fn publish(
    state: &mut State,
    context: FrameContext,
    method: &basic::Publish<'_>,
    content: Content,
) -> Outcome {
    if method.immediate {
        return Err(Fault::not_implemented("immediate=true"));
    }
    if content.body_size > state.config.max_message_size {
        return Err(Fault::precondition(format_args!(
            "message size {} is larger than configured max size {}",
            content.body_size, state.config.max_message_size
        )));
    }
    let exchange = Arc::<str>::from(text(method.exchange)?);
    check_exchange(state, context, &exchange)?;
    let header = content.header.unwrap_or_default();
    let mut list = header
        .slice(ContentHeader::PROPERTY_LIST.min(header.len())..)
        .to_vec();
    // Bit 0 announces more flags. RabbitMQ reads none, so such flags are surplus bytes.
    if let [_, flags, ..] = &mut list[..] {
        *flags &= !1;
    }
    // RabbitMQ fails with 541 if it cannot parse the properties or headers.
    let mut properties = Properties::decode(&list).map_err(Fault::internal)?;
    if let Some(headers) = properties.headers {
        let table = headers.table().map_err(Fault::internal)?;
        if !table.is_finite() {
            return Err(Fault::internal(
                "a number in the headers is NaN or infinite",
            ));
        }
    }
    let expiration = check_properties(state, context, &properties)?;
    let mut routing_keys = vec![Bytes::copy_from_slice(method.routing_key.as_bytes())];
    let table = headers(&properties);
    for name in ["CC", "BCC"] {
        further_keys(&mut routing_keys, name, table.get(name))?;
    }
    // Receivers must not see the header BCC.
    let without_bcc = table.get("BCC").is_some().then(|| without(table, "BCC"));
    if let Some(table) = &without_bcc {
        properties.headers = Some(table.as_ref().into());
    }
    let reply_to = reply_to::address(state, context, &properties)?;
    if let Some(address) = &reply_to {
        properties.reply_to = Some(ShortStr::cut(address));
    }
    let body = Bytes::from(content.body);
    let message = Message::new(
        exchange,
        routing_keys,
        &properties,
        body,
        expiration,
        Vec::new(),
        &state.memory,
    );
    let (_, vhost) = state.vhost(context)?;
    let queues = vhost.route(&message);
    let publish = Publish {
        message: Arc::new(message),
        queues,
        mandatory: method.mandatory,
    };
    if let Mode::Transaction(transaction) = &mut state.channel(context)?.mode {
        transaction.publishes.push(publish);
        return Ok(());
    }
    let accepted = enqueue_or_return(state, context, &publish)?;
    let due = context.now + state.random.within(&state.config.confirm_delay);
    let stuck = publish.queues.intersection(&state.stuck).copied().collect();
    if let Mode::Confirm(confirms) = &mut state.channel(context)?.mode {
        confirms.add(due, accepted, stuck);
        state
            .unconfirmed
            .insert((context.connection, context.channel));
    }
    Ok(())
}

/// Enqueues a message, or returns it to the client. Returns `false` if a queue refused it.
pub(crate) fn enqueue_or_return(
    state: &mut State,
    context: FrameContext,
    publish: &Publish,
) -> Result<bool, Fault> {
    let message = &publish.message;
    // Before 4.2, RabbitMQ returns a mandatory reply although it delivers it.
    if reply_to::deliver(state, context, message) && !publish.mandatory {
        return Ok(true);
    }
    if publish.queues.is_empty() && publish.mandatory {
        let method = basic::Return {
            reply_code: ReplyCode::NO_ROUTE.value(),
            reply_text: ShortStr::literal("NO_ROUTE"),
            exchange: ShortStr::cut(&message.exchange),
            routing_key: ShortStr::from_bytes(message.routing_key()).unwrap_or_default(),
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
    }
    let mut accepted = true;
    for &id in &publish.queues {
        accepted &= enqueue(state, id, message, context.now);
    }
    if accepted {
        log(state, context, publish)?;
    }
    Ok(accepted)
}

/// Records an accepted message for tests.
fn log(state: &mut State, context: FrameContext, publish: &Publish) -> Outcome {
    let names = publish.queues.iter().filter_map(|id| state.queues.get(id));
    let queues = names.map(|queue| queue.name.to_string()).collect();
    let message = &publish.message;
    let entry = Published {
        vhost: state.connection(context)?.vhost.to_string(),
        exchange: message.exchange.to_string(),
        routing_key: message.routing_keys.first().cloned().unwrap_or_default(),
        body: message.body.clone(),
        queues,
        property_list: message.property_list().clone(),
    };
    state.published_bytes += entry.bytes();
    state.published.push_back(entry);
    while state.published.len() > state.config.published_log
        || state.published_bytes > state.config.published_log_bytes
    {
        let Some(oldest) = state.published.pop_front() else {
            break;
        };
        state.published_bytes -= oldest.bytes();
    }
    Ok(())
}

/// Checks that a client may publish to an exchange.
fn check_exchange(state: &State, context: FrameContext, name: &Arc<str>) -> Outcome {
    state.check_permission(context, Permission::Write, "exchange", name)?;
    let (vhost_name, vhost) = state.vhost(context)?;
    if name.is_empty() {
        return Ok(());
    }
    let exchange = vhost
        .exchanges
        .get(name)
        .ok_or_else(|| Fault::no_exchange(&vhost_name, name))?;
    if exchange.internal {
        return Err(Fault::refused(format_args!(
            "cannot publish to internal exchange '{name}' in vhost '{vhost_name}'"
        )));
    }
    Ok(())
}

/// Checks the properties as RabbitMQ does. Returns the time to live.
fn check_properties(
    state: &State,
    context: FrameContext,
    properties: &Properties<'_>,
) -> Result<Option<Duration>, Fault> {
    let user = &state.connection(context)?.user;
    if let Some(id) = properties.user_id
        && id.as_bytes() != user.name.as_bytes()
        && !user.impersonator
    {
        return Err(Fault::precondition(format_args!(
            "user_id property set to '{id}' but authenticated user was '{}'",
            user.name
        )));
    }
    let expiration = match properties.expiration {
        None => None,
        Some(text) => Some(expiration(text.as_bytes()).ok_or_else(|| {
            Fault::precondition(format_args!(
                "invalid expiration '{text}': not a number of milliseconds"
            ))
        })?),
    };
    match properties.delivery_mode {
        None | Some(1 | 2) => Ok(expiration),
        // Up to RabbitMQ 3.12; later versions accept it as transient.
        Some(mode) => Err(Fault::precondition(format_args!(
            "invalid delivery_mode {mode}: must be 1 or 2"
        ))),
    }
}

/// Parses an expiration: decimal digits, at most ten years in milliseconds.
fn expiration(bytes: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(bytes).ok()?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let millis: u64 = text.parse().ok()?;
    (millis <= MAX_MILLIS.unsigned_abs()).then(|| Duration::from_millis(millis))
}

/// Adds the routing keys of a header CC or BCC, which must be an array of strings.
fn further_keys(keys: &mut Vec<Bytes>, name: &str, value: Option<Value<'_>>) -> Outcome {
    let bad = || {
        Fault::precondition(format_args!(
            "invalid {name} header: not an array of strings"
        ))
    };
    let Some(value) = value else { return Ok(()) };
    let Value::Array(values) = value else {
        return Err(bad());
    };
    for value in values {
        let Value::String(key) = value else {
            return Err(bad());
        };
        keys.push(Bytes::copy_from_slice(key));
    }
    Ok(())
}

/// Returns a table without one of its entries.
fn without(table: puka::protocol::TableRef<'_>, removed: &str) -> Table {
    let mut kept = Table::new();
    for (name, value) in table {
        if let Some(name) = name.as_str()
            && name != removed
        {
            crate::config::put(&mut kept, name, value);
        }
    }
    kept
}
