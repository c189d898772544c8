//! Checks of a publish. They refuse what the broker would answer with an error that closes the
//! channel or the connection, and so would affect other publishes.

use crate::error::Error;
use crate::machine::Publish;
use crate::machine::context::Context;
use crate::protocol::method::basic;
use crate::protocol::{ShortStr, TableRef, Value};

/// The pseudo-queue of direct reply-to.
pub(crate) const REPLY_TO: ShortStr<'static> = ShortStr::literal("amq.rabbitmq.reply-to");

/// The longest expiration that RabbitMQ accepts, in milliseconds: ten years.
const MAX_EXPIRATION: u64 = 315_360_000_000;

/// Checks a publish before any byte is written.
///
/// # Errors
/// [`Error::InvalidArgument`] if the broker would close the channel or the connection over it.
#[inline]
pub(crate) fn check_publish(cx: &Context, publish: &Publish<'_>) -> Result<(), Error> {
    let properties = publish.properties;
    check_size(cx, publish)?;
    if let Some(expiration) = properties.expiration {
        let text = expiration
            .as_str()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let milliseconds = text.and_then(|text| text.parse::<u64>().ok());
        if milliseconds.is_none_or(|milliseconds| milliseconds > MAX_EXPIRATION) {
            let reason = format!(
                "must be a number of milliseconds up to {MAX_EXPIRATION}, got {expiration:?}"
            );
            return Err(Error::invalid("expiration", reason));
        }
    }
    if let Some(mode @ (0 | 3..)) = properties.delivery_mode {
        return Err(Error::invalid(
            "delivery_mode",
            format!("must be 1 (transient) or 2 (persistent), got {mode}"),
        ));
    }
    if let Some(user) = properties.user_id
        && !cx.options.foreign_user_id
        && cx
            .username
            .as_ref()
            .is_some_and(|name| user.as_bytes() != name.as_bytes())
    {
        return Err(Error::invalid(
            "user_id",
            format!("must be the user of the connection, got {user:?}"),
        ));
    }
    // The replies come on the channel that published the request, and no program can consume them
    // there. RabbitMQ closes the channel: "fast reply consumer does not exist".
    if properties.reply_to == Some(REPLY_TO) {
        return Err(Error::invalid(
            "reply_to",
            format!("{REPLY_TO} only works for calls; use `rpc`"),
        ));
    }
    publish.headers.map_or(Ok(()), check_headers)
}

/// Checks the size of a publish. A queued one is checked again when it is written, because only
/// then the broker is known.
///
/// # Errors
/// [`Error::InvalidArgument`] if it is too large.
#[inline]
pub(crate) fn check_size(cx: &Context, publish: &Publish<'_>) -> Result<(), Error> {
    let size = publish.body.as_bytes().len();
    let limit = cx.options.limits.message_size;
    let max = limit.unwrap_or_else(|| cx.server.max_message_size());
    if size as u64 <= max {
        return Ok(());
    }
    let reason = format!("must be at most {max} bytes (max_message_size), got {size}");
    Err(Error::invalid("body", reason))
}

/// Returns the method of a publish.
///
/// # Errors
/// [`Error::InvalidArgument`] if the flag `immediate` is set and the broker does not implement it.
#[inline]
pub(crate) fn publish_method<'p>(
    cx: &Context,
    publish: &Publish<'p>,
) -> Result<basic::Publish<'p>, Error> {
    let &Publish {
        exchange,
        routing_key,
        mandatory,
        immediate,
        ..
    } = publish;
    if immediate && (cx.learned.refuses_immediate || cx.server.refuses_immediate()) {
        return Err(Error::invalid(
            "immediate",
            "must be false: this broker closes the connection over it, as RabbitMQ does since 3.0",
        ));
    }
    Ok(basic::Publish {
        exchange,
        routing_key,
        mandatory,
        immediate,
    })
}

/// Checks the headers of a publish. The broker closes the channel if `CC` or `BCC` is not an array
/// of strings, and the connection over NaN and infinities, which it cannot parse.
fn check_headers(headers: TableRef<'_>) -> Result<(), Error> {
    if !headers.is_finite() {
        return Err(Error::invalid(
            "headers",
            "must not contain NaN or infinity, which RabbitMQ cannot parse",
        ));
    }
    for name in ["CC", "BCC"] {
        let is_fine = match headers.get(name) {
            None => true,
            Some(Value::Array(keys)) => keys.iter().all(|key| matches!(key, Value::String(_))),
            Some(_) => false,
        };
        if !is_fine {
            return Err(Error::invalid(
                "headers",
                format!("{name} must be an array of strings"),
            ));
        }
    }
    Ok(())
}
