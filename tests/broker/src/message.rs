//! A stored message: its exchange, and its properties and body as bytes.

use bytes::Bytes;
use puka::protocol::frame::{self, HEADER};
use puka::protocol::{ContentHeader, Properties, TableRef};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The memory of a message besides its bytes.
const OVERHEAD: usize = 256;

/// Why a message was dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Rejected,
    Expired,
    MaxLength,
    DeliveryLimit,
}

impl Reason {
    /// Returns the name of the reason in `x-death`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

/// An entry of `x-death`: how often a message was dead-lettered from a queue for a reason.
#[derive(Clone, Debug)]
pub(crate) struct Death {
    pub(crate) queue: Arc<str>,
    pub(crate) reason: Reason,
    pub(crate) count: i64,
    pub(crate) time: u64,
    pub(crate) exchange: Arc<str>,
    pub(crate) routing_keys: Vec<Bytes>,
    pub(crate) original_expiration: Option<Bytes>,
}

/// A published message, shared by its queues.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) exchange: Arc<str>,
    /// The routing key of the publish, then those of the headers CC and BCC.
    pub(crate) routing_keys: Vec<Bytes>,
    /// The property flags and values in wire format, without BCC.
    property_list: Bytes,
    pub(crate) body: Bytes,
    pub(crate) persistent: bool,
    pub(crate) priority: u8,
    pub(crate) expiration: Option<Duration>,
    /// The entries of `x-death`, newest first.
    pub(crate) deaths: Vec<Death>,
    _memory_share: MemoryShare,
}

impl Message {
    pub(crate) fn new(
        exchange: Arc<str>,
        routing_keys: Vec<Bytes>,
        properties: &Properties<'_>,
        body: Bytes,
        expiration: Option<Duration>,
        deaths: Vec<Death>,
        memory: &Memory,
    ) -> Self {
        let property_list = property_list(properties);
        let bytes = property_list.len() + body.len() + OVERHEAD;
        Self {
            exchange,
            routing_keys,
            property_list,
            body,
            persistent: properties.delivery_mode == Some(2),
            priority: properties.priority.unwrap_or(0),
            expiration,
            deaths,
            _memory_share: memory.reserve(bytes),
        }
    }

    /// Returns the routing key of the publish.
    pub(crate) fn routing_key(&self) -> &[u8] {
        self.routing_keys
            .first()
            .map(|key| &key[..])
            .unwrap_or_default()
    }

    /// Returns the property flags and values in wire format.
    pub(crate) fn property_list(&self) -> &Bytes {
        &self.property_list
    }

    /// Returns the properties.
    pub(crate) fn properties(&self) -> Properties<'_> {
        Properties::decode(&self.property_list).unwrap_or_default()
    }

    /// Returns the headers, or an empty table.
    pub(crate) fn headers(&self) -> TableRef<'_> {
        headers(&self.properties())
    }
}

/// Returns the headers, or an empty table.
pub(crate) fn headers<'a>(properties: &Properties<'a>) -> TableRef<'a> {
    properties
        .headers
        .and_then(|headers| headers.table().ok())
        .unwrap_or_default()
}

/// Encodes the property flags and values.
fn property_list(properties: &Properties<'_>) -> Bytes {
    let mut out = Vec::new();
    let header = ContentHeader {
        body_size: 0,
        properties: *properties,
    };
    if frame::content_header(&mut out, 0, u32::MAX, &header).is_err() {
        return Bytes::from_static(&[0, 0]);
    }
    let end = out.len().saturating_sub(1);
    Bytes::from(out).slice(HEADER + ContentHeader::PROPERTY_LIST..end)
}

/// The size of all live messages, in bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Arc<AtomicUsize>);

impl Memory {
    /// Returns the size of all live messages, in bytes.
    pub(crate) fn used(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds the size of a message until its share is dropped.
    fn reserve(&self, bytes: usize) -> MemoryShare {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        MemoryShare {
            memory: Self(Arc::clone(&self.0)),
            bytes,
        }
    }
}

/// The size of one live message, which counts until this is dropped.
#[derive(Debug)]
struct MemoryShare {
    memory: Memory,
    bytes: usize,
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.memory.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
