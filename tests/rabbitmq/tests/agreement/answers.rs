//! Replies as texts that are equal on both sides: without generated names, and without the broker's
//! wording.

use puka::protocol::Value;
use puka::{Delivery, Error, Message};
use std::fmt::Debug;

/// Formats a message, without values of the clock and without the additions of newer brokers.
pub(crate) fn message(message: &Message) -> String {
    let properties = message.properties();
    let mut headers: Vec<String> = match message.headers() {
        Ok(table) => table
            .iter()
            .map(|(name, value)| (name.to_str_lossy(), value))
            .filter(|(name, _)| !name.starts_with("x-last-death-"))
            .map(|(name, value)| format!("{name}={}", value_of(value)))
            .collect(),
        Err(error) => vec![error.to_string()],
    };
    headers.sort();
    format!(
        "{:?} to {:?} {:?}, mode {:?}, priority {:?}, {headers:?}",
        String::from_utf8_lossy(message.body()),
        message.exchange(),
        message.routing_key(),
        properties.delivery_mode,
        properties.priority,
    )
}

fn value_of(value: Value<'_>) -> String {
    match value {
        Value::Timestamp(_) => "then".to_owned(),
        Value::Array(array) => {
            let values: Vec<_> = array.iter().map(value_of).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Table(table) => {
            let mut entries: Vec<_> = table
                .iter()
                .map(|(name, value)| format!("{}: {}", name.to_str_lossy(), value_of(value)))
                .collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        value => value
            .as_str()
            .map_or_else(|| format!("{value:?}"), str::to_owned),
    }
}

pub(crate) fn delivery(delivery: &Delivery) -> String {
    format!(
        "{}, redelivered {}, {:?} left",
        message(delivery.message()),
        delivery.redelivered(),
        delivery.message_count()
    )
}

pub(crate) fn error(error: &Error) -> String {
    match error {
        Error::NoRoute(returned) => {
            format!(
                "{} {}: {}",
                returned.reply_code,
                returned.reply_text,
                message(&returned.message)
            )
        }
        Error::Unconfirmed(cause) => format!("unconfirmed: {}", self::error(cause)),
        Error::ConsumerCancelled(_) => "cancelled by the server".to_owned(),
        error => match error.fault() {
            Some(fault) => format!("{} by {}", fault.code, fault.method),
            None => error.to_string(),
        },
    }
}

pub(crate) fn outcome<T: Debug>(outcome: Result<T, Error>) -> String {
    match outcome {
        Ok(answer) => format!("{answer:?}"),
        Err(fault) => error(&fault),
    }
}
