//! Values to send, with the defaults of most tests.

use puka::protocol::method::{basic, exchange, queue};
use puka::protocol::{Properties, ShortStr, Table, TableRef};

/// Returns a short string.
pub(crate) fn s(text: &str) -> ShortStr<'_> {
    ShortStr::new(text).unwrap()
}

/// Returns a table.
pub(crate) fn table<'v, V: Into<puka::protocol::Value<'v>>>(
    entries: impl IntoIterator<Item = (&'v str, V)>,
) -> Table {
    let mut table = Table::new();
    for (name, value) in entries {
        table.insert(name, value).unwrap();
    }
    table
}

pub(crate) fn properties<'a>(set: impl FnOnce(&mut Properties<'a>)) -> Properties<'a> {
    let mut properties = Properties::default();
    set(&mut properties);
    properties
}

pub(crate) fn all_capabilities() -> Table {
    let names = [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "authentication_failure_close",
    ];
    let capabilities = table(names.map(|name| (name, true)));
    table([("capabilities", &capabilities)])
}

pub(crate) fn declare(name: &str) -> queue::Declare<'_> {
    queue::Declare {
        queue: s(name),
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: TableRef::EMPTY,
    }
}

pub(crate) fn declare_exchange<'a>(name: &'a str, kind: &'a str) -> exchange::Declare<'a> {
    exchange::Declare {
        exchange: s(name),
        r#type: s(kind),
        passive: false,
        durable: false,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: TableRef::EMPTY,
    }
}

pub(crate) fn publish<'a>(exchange: &'a str, key: &'a str) -> basic::Publish<'a> {
    basic::Publish {
        exchange: s(exchange),
        routing_key: s(key),
        mandatory: false,
        immediate: false,
    }
}

pub(crate) fn consume<'a>(queue: &'a str, tag: &'a str) -> basic::Consume<'a> {
    basic::Consume {
        queue: s(queue),
        consumer_tag: s(tag),
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: false,
        arguments: TableRef::EMPTY,
    }
}
