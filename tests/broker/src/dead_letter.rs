//! Dead-lettering: a message is removed from its queue, gets another entry in `x-death`, and is
//! published again.

use crate::config::put;
use crate::delivery::enqueue;
use crate::message::{Death, Message, Reason};
use crate::state::{DeadLetter, State};
use bytes::Bytes;
use puka::protocol::{Array, Properties, Table, TableRef, Value};
use std::sync::Arc;
use std::time::Instant;

/// Publishes a dead letter. Drops it if the exchange does not exist.
pub(crate) fn forward(state: &mut State, letter: &DeadLetter, now: Instant) {
    let deaths = deaths(letter, state.unix_time());
    let message = &letter.message;
    let headers = headers(message.headers(), &deaths, letter.routing_key.is_some());
    let mut properties: Properties<'_> = message.properties();
    properties.headers = Some(headers.as_ref().into());
    properties.expiration = None;
    let routing_keys = match &letter.routing_key {
        Some(key) => vec![Bytes::copy_from_slice(key.as_bytes())],
        None => message.routing_keys.clone(),
    };
    let exchange = Arc::clone(&letter.exchange);
    let body = message.body.clone();
    let message = Message::new(
        exchange,
        routing_keys,
        &properties,
        body,
        None,
        deaths,
        &state.memory,
    );
    let Some(vhost) = state.vhosts.get(&letter.vhost) else {
        return;
    };
    let mut queues = vhost.route(&message);
    queues.retain(|id| {
        let name = state.queues.get(id).map(|queue| &queue.name);
        !name.is_some_and(|name| is_cycle(&message.deaths, name, letter.reason))
    });
    let message = Arc::new(message);
    for id in queues {
        enqueue(state, id, &message, now);
    }
}

/// Returns the entries of `x-death` with this death: one for each queue and reason, newest first.
fn deaths(letter: &DeadLetter, time: u64) -> Vec<Death> {
    let mut deaths = letter.message.deaths.clone();
    let known = deaths
        .iter()
        .position(|death| death.queue == letter.queue && death.reason == letter.reason);
    let death = match known {
        Some(index) => {
            let mut death = deaths.remove(index);
            death.count += 1;
            death
        }
        None => Death {
            queue: Arc::clone(&letter.queue),
            reason: letter.reason,
            count: 1,
            time,
            exchange: Arc::clone(&letter.message.exchange),
            routing_keys: letter.message.routing_keys.clone(),
            original_expiration: letter
                .message
                .properties()
                .expiration
                .map(|text| Bytes::copy_from_slice(text.as_bytes())),
        },
    };
    deaths.insert(0, death);
    deaths
}

/// Returns `true` if the message has been in this queue before and no client has rejected it since.
/// Such a cycle would never end, so RabbitMQ drops the message.
fn is_cycle(deaths: &[Death], queue: &str, reason: Reason) -> bool {
    if reason == Reason::Rejected {
        return false;
    }
    let Some(last) = deaths.iter().position(|death| *death.queue == *queue) else {
        return false;
    };
    deaths[..=last]
        .iter()
        .all(|death| death.reason != Reason::Rejected)
}

/// Returns the headers with those of dead-lettering, sorted by name and without duplicates.
fn headers(old: TableRef<'_>, deaths: &[Death], new_key: bool) -> Table {
    let entries = entries(deaths);
    // The first death is recorded once; `x-first-death-` headers of a client are ignored.
    let first_time = matches!(deaths, [only] if only.count == 1);
    let mut all: Vec<(&[u8], Value<'_>)> = Vec::new();
    for (name, value) in old {
        let bytes = name.as_bytes();
        let replaced = bytes == b"x-death"
            || bytes.starts_with(b"x-first-death-") && first_time
            || bytes.starts_with(b"x-last-death-")
            || bytes == b"CC" && new_key;
        if !replaced {
            all.push((bytes, value));
        }
    }
    all.push((b"x-death", (&entries).into()));
    if let Some(last) = deaths.first() {
        if first_time {
            all.push((b"x-first-death-reason", last.reason.name().into()));
            all.push((b"x-first-death-queue", (&*last.queue).into()));
            all.push((b"x-first-death-exchange", (&*last.exchange).into()));
        }
        all.push((b"x-last-death-reason", last.reason.name().into()));
        all.push((b"x-last-death-queue", (&*last.queue).into()));
        all.push((b"x-last-death-exchange", (&*last.exchange).into()));
    }
    all.sort_by_key(|(name, _)| *name);
    all.dedup_by_key(|(name, _)| *name);
    let mut table = Table::new();
    for (name, value) in all {
        if let Ok(name) = std::str::from_utf8(name) {
            put(&mut table, name, value);
        }
    }
    table
}

/// Returns the value of `x-death`.
fn entries(deaths: &[Death]) -> Array {
    let mut array = Array::new();
    for death in deaths {
        let mut keys = Array::new();
        for key in &death.routing_keys {
            keys.push(Value::String(key)).unwrap_or_default();
        }
        let mut entry = Table::new();
        put(&mut entry, "count", death.count);
        put(&mut entry, "reason", death.reason.name());
        put(&mut entry, "queue", &*death.queue);
        put(&mut entry, "time", Value::Timestamp(death.time));
        put(&mut entry, "exchange", &*death.exchange);
        put(&mut entry, "routing-keys", &keys);
        if let Some(expiration) = &death.original_expiration {
            put(&mut entry, "original-expiration", Value::String(expiration));
        }
        array.push(&entry).unwrap_or_default();
    }
    array
}
