//! A request as octets: it waits for its channel, then for its answer, and may be asked again on another connection.

use super::PromiseId;
use crate::protocol::method::{Encode, MethodInfo, basic};
use crate::protocol::wire::Writer;
use crate::protocol::{Method, MethodId};

/// A request that waits for its channel, or for its answer.
#[derive(Debug)]
pub(super) struct WaitingRequest {
    pub(super) promise: PromiseId,
    pub(super) info: &'static MethodInfo,
    /// Class, method and fields, written.
    pub(super) payload: Box<[u8]>,
    /// It is a part of a transaction.
    pub(super) in_transaction: bool,
    /// It may have closed a connection. Until it is answered, no other such request is sent.
    pub(super) is_suspected: bool,
}

impl WaitingRequest {
    pub(super) fn new(promise: PromiseId, info: &'static MethodInfo, method: &impl Encode) -> Self {
        let mut payload = Vec::new();
        let mut out = Writer::new(&mut payload);
        out.short(info.id.class);
        out.short(info.id.method);
        method.encode_fields(&mut out);
        Self { promise, info, payload: payload.into(), in_transaction: false, is_suspected: false }
    }

    /// Returns `true` for a `basic.get` whose message uses its channel until it is settled.
    pub(super) fn is_get_to_settle(&self) -> bool {
        let is_get = self.info.id == basic::Get::ID;
        is_get && matches!(self.method(), Some(Method::Basic(basic::Method::Get(get))) if !get.no_ack)
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
