//! An exchange, its bindings, and the bindings that match a message (spec 3.1.3).

use crate::fault::Fault;
use crate::ids::QueueId;
use crate::topic;
use bytes::Bytes;
use puka::protocol::{ReplyCode, Table, TableRef, Value};
use std::sync::Arc;

/// The exchange types of every RabbitMQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Direct,
    Fanout,
    Topic,
    Headers,
}

/// The exchange types of plugins and of later versions.
const OTHER_KINDS: &[&str] = &[
    "x-consistent-hash",
    "x-delayed-message",
    "x-jms-topic",
    "x-local-random",
    "x-modulus-hash",
    "x-random",
    "x-recent-history",
];

impl Kind {
    /// Parses the name of an exchange type.
    pub(crate) fn parse(name: &str) -> Result<Self, Fault> {
        Ok(match name {
            "direct" => Self::Direct,
            "fanout" => Self::Fanout,
            "topic" => Self::Topic,
            "headers" => Self::Headers,
            other if OTHER_KINDS.contains(&other) => {
                return Err(Fault::not_implemented(format_args!(
                    "the in-memory broker has no exchanges of type '{other}'"
                )));
            }
            // 406 since RabbitMQ 3.13.3, 503 before.
            other => {
                return Err(Fault::precondition(format_args!(
                    "unknown exchange type '{other}'"
                )));
            }
        })
    }

    /// Returns the name of the exchange type.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }
}

/// The destination of a binding.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Destination {
    Queue(QueueId),
    Exchange(Arc<str>),
}

/// A binding, stored in its source exchange.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) destination: Destination,
    pub(crate) routing_key: Bytes,
    pub(crate) arguments: Table,
}

impl PartialEq for Binding {
    /// Compares bindings. The order of the arguments is irrelevant.
    fn eq(&self, other: &Self) -> bool {
        let sorted = |binding: &Self| -> Vec<(Vec<u8>, String)> {
            let entries = binding.arguments.iter();
            let mut entries: Vec<_> = entries
                .map(|(name, value)| (name.as_bytes().to_vec(), format!("{value:?}")))
                .collect();
            entries.sort();
            entries
        };
        self.destination == other.destination
            && self.routing_key == other.routing_key
            && sorted(self) == sorted(other)
    }
}

/// An exchange.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) alternate: Option<Arc<str>>,
    pub(crate) bindings: Vec<Binding>,
}

impl Exchange {
    /// Returns a durable, predeclared exchange.
    pub(crate) fn predeclared(name: &str, kind: Kind) -> Self {
        Self {
            name: name.into(),
            kind,
            durable: true,
            auto_delete: false,
            internal: false,
            alternate: None,
            bindings: Vec::new(),
        }
    }

    /// Returns `true` if a message with this routing key and these headers matches a binding.
    pub(crate) fn matches(&self, binding: &Binding, key: &[u8], headers: TableRef<'_>) -> bool {
        match self.kind {
            Kind::Direct => binding.routing_key == key,
            Kind::Fanout => true,
            Kind::Topic => topic::matches(&binding.routing_key, key),
            Kind::Headers => headers_match(binding.arguments.as_ref(), headers),
        }
    }
}

/// The value of `x-match` of a binding to a headers exchange.
struct XMatch {
    all: bool,
    /// Whether headers with the prefix `x-` are compared, too.
    with_x: bool,
}

impl XMatch {
    /// Parses `x-match` in the arguments of a binding. Returns `None` if the value is invalid.
    fn parse(arguments: TableRef<'_>) -> Option<Self> {
        let Some(value) = arguments.get("x-match") else {
            return Some(Self {
                all: true,
                with_x: false,
            });
        };
        let (all, with_x) = match value.as_str()? {
            "all" => (true, false),
            "any" => (false, false),
            "all-with-x" => (true, true),
            "any-with-x" => (false, true),
            _ => return None,
        };
        Some(Self { all, with_x })
    }
}

/// Checks the arguments of a binding to a headers exchange.
pub(crate) fn check_headers_binding(arguments: TableRef<'_>) -> Result<(), Fault> {
    if XMatch::parse(arguments).is_some() {
        return Ok(());
    }
    Err(Fault::new(
        ReplyCode::PRECONDITION_FAILED,
        "Invalid x-match field value; expected all, any, all-with-x, or any-with-x",
    ))
}

/// Returns `true` if the headers of a message match the arguments of a binding.
fn headers_match(arguments: TableRef<'_>, headers: TableRef<'_>) -> bool {
    let Some(x_match) = XMatch::parse(arguments) else {
        return false;
    };
    let mut wanted = arguments.iter().filter(|(name, _)| {
        name.as_bytes() != b"x-match" && (x_match.with_x || !name.as_bytes().starts_with(b"x-"))
    });
    let mut found = |(name, wanted): (puka::protocol::ShortStr<'_>, Value<'_>)| {
        let value = headers
            .iter()
            .find(|(candidate, _)| *candidate == name)
            .map(|(_, value)| value);
        value.is_some_and(|value| values_match(wanted, value))
    };
    if x_match.all {
        wanted.all(found)
    } else {
        wanted.any(&mut found)
    }
}

/// Compares header values. `V` in a binding matches any value. Integers of different sizes match,
/// and so do floats.
fn values_match(wanted: Value<'_>, value: Value<'_>) -> bool {
    let float = |value| match value {
        Value::F32(number) => Some(f64::from(number)),
        Value::F64(number) => Some(number),
        _ => None,
    };
    match (wanted, wanted.as_i64(), float(wanted)) {
        (Value::Void, ..) => true,
        (_, Some(number), _) => value.as_i64() == Some(number),
        (_, _, Some(number)) => float(value) == Some(number),
        _ => wanted == value,
    }
}
