//! What can't be written yet, as data: for want of a channel, of an open connection, or of the broker's leave.

use super::consumers::Terms;
use super::publishers::Kind;
use super::{Body, PromiseId, Publish};
use crate::protocol::method::{Encode, MethodInfo};
use crate::protocol::wire::Writer;
use crate::protocol::{Method, MethodId, Properties, ShortStr, Table, TableRef};
use bytes::Bytes;

/// A request that waits for its channel, or for its answer.
#[derive(Debug)]
pub(super) struct WaitingRequest {
    pub(super) promise: PromiseId,
    pub(super) info: &'static MethodInfo,
    /// Class, method and fields, written.
    pub(super) payload: Box<[u8]>,
    /// It is a part of a transaction.
    pub(super) in_transaction: bool,
}

impl WaitingRequest {
    pub(super) fn new(promise: PromiseId, info: &'static MethodInfo, method: &impl Encode) -> Self {
        let mut payload = Vec::new();
        let mut out = Writer::new(&mut payload);
        out.short(info.id.class);
        out.short(info.id.method);
        method.encode_fields(&mut out);
        Self { promise, info, payload: payload.into(), in_transaction: false }
    }

    pub(super) fn method(&self) -> Option<Method<'_>> {
        Method::decode(&self.payload).ok()
    }
}

impl Encode for WaitingRequest {
    fn id(&self) -> MethodId {
        self.info.id
    }

    fn encode_fields(&self, out: &mut Writer<'_>) {
        out.octets(self.payload.get(4..).unwrap_or_default());
    }
}

/// A consumer that waits for its channel.
#[derive(Debug)]
pub(super) struct WaitingConsume {
    pub(super) promise: PromiseId,
    pub(super) sources: Vec<Terms>,
    pub(super) no_ack: bool,
    pub(super) prefetch_count: u16,
    /// The prefetch count is one for all queues together.
    pub(super) shares_prefetch_count: bool,
}

impl WaitingConsume {
    pub(super) fn octets(&self) -> usize {
        self.sources.iter().map(Terms::octets).sum()
    }
}

/// A publish that can't be written yet: the handshake is under way, the broker holds back publishes, or there is no
/// channel.
#[derive(Debug)]
pub(super) struct HeldPublish {
    pub(super) promise: PromiseId,
    pub(super) kind: Kind,
    /// How many times it was published before.
    pub(super) attempts: u32,
    exchange: Box<[u8]>,
    routing_key: Box<[u8]>,
    mandatory: bool,
    immediate: bool,
    property_list: Box<[u8]>,
    headers: Option<Table>,
    body: Bytes,
}

impl HeldPublish {
    pub(super) fn new(promise: PromiseId, kind: Kind, publish: &Publish<'_>) -> Self {
        let mut property_list = Vec::new();
        publish.properties.encode_list(&mut property_list);
        Self {
            promise,
            kind,
            attempts: 0,
            exchange: publish.exchange.as_octets().into(),
            routing_key: publish.routing_key.as_octets().into(),
            mandatory: publish.mandatory,
            immediate: publish.immediate,
            property_list: property_list.into(),
            headers: publish.headers.map(TableRef::to_table),
            body: publish.body.to_bytes(),
        }
    }

    pub(super) fn is_to(&self, exchange: &[u8]) -> bool {
        *self.exchange == *exchange
    }

    pub(super) fn octets(&self) -> usize {
        let headers = self.headers.as_ref().map_or(0, |headers| headers.as_ref().as_octets().len());
        let Self { exchange, routing_key, property_list, body, .. } = self;
        exchange.len() + routing_key.len() + property_list.len() + headers + body.len()
    }

    pub(super) fn to_publish(&self) -> Publish<'_> {
        Publish {
            exchange: ShortStr::from_octets(&self.exchange).unwrap_or_default(),
            routing_key: ShortStr::from_octets(&self.routing_key).unwrap_or_default(),
            mandatory: self.mandatory,
            immediate: self.immediate,
            properties: Properties::decode(&self.property_list).unwrap_or_default(),
            headers: self.headers.as_ref().map(Table::as_ref),
            body: Body::Shared(self.body.clone()),
        }
    }
}
