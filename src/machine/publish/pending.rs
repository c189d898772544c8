//! Publishes as data: queued until they can be written, or stored to be republished after a loss.

use crate::error::Error;
use crate::machine::{Body, PromiseId, Publish};
use crate::protocol::{Properties, ShortString, Table, TableRef};
use bytes::Bytes;
use std::collections::BTreeMap;

/// The kind of a publish. The publishes of one kind to one exchange share a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PublishKind {
    /// With a confirm.
    Confirmed,
    /// Without a confirm.
    Unconfirmed,
    /// With a reply (RabbitMQ's direct reply-to). Replies arrive on the channel of the call.
    Call,
}

/// A copy of a publish. It is queued while the connection is not open, the broker has blocked it,
/// or there is no channel. It is stored until its confirm arrives if it may be republished, or has
/// the flag `immediate`.
#[derive(Debug)]
pub(crate) struct PendingPublish {
    pub(crate) promise: PromiseId,
    pub(crate) kind: PublishKind,
    /// How often it was written before.
    pub(crate) attempts: u32,
    exchange: ShortString,
    routing_key: ShortString,
    mandatory: bool,
    immediate: bool,
    property_list: Box<[u8]>,
    headers: Option<Table>,
    body: Bytes,
}

impl PendingPublish {
    pub(crate) fn new(promise: PromiseId, kind: PublishKind, publish: &Publish<'_>) -> Self {
        let mut property_list = Vec::new();
        publish.properties.encode_list(&mut property_list);
        Self {
            promise,
            kind,
            attempts: 0,
            exchange: publish.exchange.into(),
            routing_key: publish.routing_key.into(),
            mandatory: publish.mandatory,
            immediate: publish.immediate,
            property_list: property_list.into(),
            headers: publish.headers.map(TableRef::to_table),
            body: publish.body.to_bytes(),
        }
    }

    /// Returns `true` if it has the flag `immediate`.
    pub(crate) fn is_immediate(&self) -> bool {
        self.immediate
    }

    /// Returns `true` if it may be sent again after a loss, at most this many times. A call may
    /// not: a service would handle it twice.
    pub(crate) fn may_be_republished(&self, times: u32) -> bool {
        self.kind == PublishKind::Confirmed && self.attempts < times
    }

    /// Returns the name of the exchange.
    pub(crate) fn exchange(&self) -> &[u8] {
        &self.exchange
    }

    /// Returns the approximate size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let headers = self
            .headers
            .as_ref()
            .map_or(0, |headers| headers.as_ref().as_bytes().len());
        let Self {
            exchange,
            routing_key,
            property_list,
            body,
            ..
        } = self;
        exchange.len() + routing_key.len() + property_list.len() + headers + body.len()
    }

    /// Returns the properties without the headers.
    pub(crate) fn properties(&self) -> Properties<'_> {
        // It never fails: the list was encoded by `new`.
        Properties::decode(&self.property_list).unwrap_or_default()
    }

    /// Returns the publish. The caller passes its [`properties`](Self::properties).
    pub(crate) fn to_publish<'a>(&'a self, properties: &'a Properties<'a>) -> Publish<'a> {
        Publish {
            exchange: self.exchange.as_short_str(),
            routing_key: self.routing_key.as_short_str(),
            mandatory: self.mandatory,
            immediate: self.immediate,
            properties,
            headers: self.headers.as_ref().map(Table::as_ref),
            body: Body::Lent(&self.body),
        }
    }
}

/// The stored copies of the unconfirmed publishes of a channel, by delivery tag.
#[derive(Debug, Default)]
pub(crate) struct StoredPublishes(BTreeMap<u64, PendingPublish>);

impl StoredPublishes {
    /// Adds a publish. Returns its size in bytes.
    pub(crate) fn add(&mut self, tag: u64, pending: PendingPublish) -> usize {
        let bytes = pending.bytes();
        self.0.insert(tag, pending);
        bytes
    }

    /// Removes a publish and returns it.
    pub(crate) fn take(&mut self, tag: u64) -> Option<PendingPublish> {
        self.0.remove(&tag)
    }

    /// Removes the publishes that a confirm covers. Returns their size in bytes.
    pub(crate) fn forget(&mut self, tag: u64, multiple: bool) -> usize {
        if self.0.is_empty() {
            return 0;
        }
        if !multiple {
            return self.take(tag).map_or(0, |pending| pending.bytes());
        }
        // `BTreeMap::split_off` costs time proportional to what is left.
        let mut bytes = 0;
        while let Some(entry) = self
            .0
            .first_entry()
            .filter(|entry| tag == 0 || *entry.key() <= tag)
        {
            bytes += entry.remove().bytes();
        }
        bytes
    }

    /// Returns `true` if a publish has the flag `immediate`.
    pub(crate) fn has_immediate(&self) -> bool {
        self.0.values().any(PendingPublish::is_immediate)
    }

    /// Returns the size of all publishes in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.values().map(PendingPublish::bytes).sum()
    }
}

/// The reason why there is no channel for an exchange yet.
pub(crate) enum NoChannel {
    /// A channel is being closed, and its number will be free.
    Closing,
    /// All channels are in use.
    AllInUse,
    /// There will be none.
    Never(Error),
}
