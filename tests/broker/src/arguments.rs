//! The `x-` arguments of a queue: their names, their valid values, and whether two declares agree.
//!
//! As in RabbitMQ, unknown arguments are ignored; one of the wrong type or out of range is a 406.

use crate::fault::Fault;
use puka::protocol::{TableRef, Value};
use std::sync::Arc;
use std::time::Duration;

/// The longest time that RabbitMQ accepts, in milliseconds: ten years.
pub(crate) const MAX_MILLIS: i64 = 315_360_000_000;

/// The behaviour of a full queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Overflow {
    #[default]
    DropHead,
    RejectPublish,
    RejectPublishDlx,
}

/// The arguments that have an effect.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct QueueArguments {
    pub(crate) expires: Option<Duration>,
    pub(crate) message_ttl: Option<Duration>,
    pub(crate) max_length: Option<u64>,
    pub(crate) max_length_bytes: Option<u64>,
    pub(crate) overflow: Overflow,
    pub(crate) dead_letter_exchange: Option<Arc<str>>,
    pub(crate) dead_letter_routing_key: Option<Arc<str>>,
    pub(crate) max_priority: Option<u8>,
    pub(crate) single_active_consumer: bool,
}

/// The arguments of other queue types, which a classic queue refuses.
const OTHER_TYPES_ARGUMENTS: &[&str] = &[
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-initial-cluster-size",
    "x-max-age",
    "x-quorum-initial-group-size",
    "x-stream-filter-size-bytes",
    "x-stream-max-segment-size-bytes",
];

impl QueueArguments {
    /// Parses the arguments of a declare.
    pub(crate) fn parse(table: TableRef<'_>, vhost: &str, queue: &str) -> Result<Self, Fault> {
        let mut parsed = Self::default();
        let mut seen = Vec::new();
        for (name, value) in table {
            let Some(name) = name.as_str() else { continue };
            // Names may repeat. RabbitMQ's look-ups take the first.
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            let bad = |why: &str| {
                Fault::precondition(format_args!(
                    "invalid arg '{name}' for queue '{queue}' in vhost '{vhost}': {why}"
                ))
            };
            parsed.take(name, value).map_err(|refused| match refused {
                Refused::Invalid(why) => bad(why),
                Refused::NotImplemented(why) => Fault::not_implemented(why),
            })?;
        }
        if parsed.dead_letter_routing_key.is_some() && parsed.dead_letter_exchange.is_none() {
            return Err(Fault::precondition(format_args!(
                "invalid arg 'x-dead-letter-routing-key' for queue '{queue}' in vhost '{vhost}': \
                 routing_key_but_no_dlx_defined"
            )));
        }
        Ok(parsed)
    }

    /// Parses one argument.
    fn take(&mut self, name: &str, value: Value<'_>) -> Result<(), Refused> {
        match name {
            "x-queue-type" => match string(value)? {
                "classic" => {}
                "quorum" | "stream" => {
                    return Err(Refused::NotImplemented(
                        "the in-memory broker has classic queues only, neither quorum queues nor \
                         streams",
                    ));
                }
                _ => return Err(Refused::Invalid("unsupported queue type")),
            },
            "x-expires" => self.expires = Some(millis(value, 1)?),
            "x-message-ttl" => self.message_ttl = Some(millis(value, 0)?),
            "x-max-length" => self.max_length = Some(natural(value)?),
            "x-max-length-bytes" => self.max_length_bytes = Some(natural(value)?),
            "x-overflow" => {
                self.overflow = match string(value)? {
                    "drop-head" => Overflow::DropHead,
                    "reject-publish" => Overflow::RejectPublish,
                    "reject-publish-dlx" => Overflow::RejectPublishDlx,
                    _ => return Err(Refused::Invalid("invalid_overflow")),
                }
            }
            "x-dead-letter-exchange" => self.dead_letter_exchange = Some(string(value)?.into()),
            "x-dead-letter-routing-key" => {
                self.dead_letter_routing_key = Some(string(value)?.into())
            }
            "x-max-priority" => {
                let priority = natural(value)?;
                self.max_priority = Some(
                    u8::try_from(priority).map_err(|_| Refused::Invalid("max_value_exceeded"))?,
                );
            }
            "x-single-active-consumer" => {
                self.single_active_consumer = value
                    .as_bool()
                    .ok_or(Refused::Invalid("unacceptable_type"))?;
            }
            // No effect in current versions, but the types are checked.
            "x-queue-mode" | "x-queue-master-locator" | "x-queue-leader-locator" => {
                _ = string(value)?;
            }
            "x-queue-version" => drop(natural(value)?),
            name if OTHER_TYPES_ARGUMENTS.contains(&name) => {
                return Err(Refused::Invalid("unsupported by classic queues"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns the first argument in which two declares differ.
    pub(crate) fn difference(&self, other: &Self) -> Option<&'static str> {
        let pairs = [
            ("x-expires", self.expires == other.expires),
            ("x-message-ttl", self.message_ttl == other.message_ttl),
            (
                "x-dead-letter-exchange",
                self.dead_letter_exchange == other.dead_letter_exchange,
            ),
            (
                "x-dead-letter-routing-key",
                self.dead_letter_routing_key == other.dead_letter_routing_key,
            ),
            ("x-max-length", self.max_length == other.max_length),
            (
                "x-max-length-bytes",
                self.max_length_bytes == other.max_length_bytes,
            ),
            ("x-overflow", self.overflow == other.overflow),
            ("x-max-priority", self.max_priority == other.max_priority),
            (
                "x-single-active-consumer",
                self.single_active_consumer == other.single_active_consumer,
            ),
        ];
        pairs
            .into_iter()
            .find(|(_, same)| !same)
            .map(|(name, _)| name)
    }
}

enum Refused {
    Invalid(&'static str),
    NotImplemented(&'static str),
}

/// Checks that a value is a string, which must be `S`; `x` or a number is a 406.
fn string(value: Value<'_>) -> Result<&str, Refused> {
    match value {
        Value::String(_) => value.as_str().ok_or(Refused::Invalid("not valid UTF-8")),
        _ => Err(Refused::Invalid("unacceptable_type")),
    }
}

/// Checks that a value is an integer that is not negative.
fn natural(value: Value<'_>) -> Result<u64, Refused> {
    let number = value
        .as_i64()
        .ok_or(Refused::Invalid("unacceptable_type"))?;
    u64::try_from(number).map_err(|_| Refused::Invalid("value_negative"))
}

/// Parses a time in milliseconds, which must be at least `least`.
fn millis(value: Value<'_>, least: u64) -> Result<Duration, Refused> {
    let number = natural(value)?;
    if number < least {
        return Err(Refused::Invalid("value_zero"));
    }
    if number > MAX_MILLIS.unsigned_abs() {
        return Err(Refused::Invalid("value_too_big"));
    }
    Ok(Duration::from_millis(number))
}
