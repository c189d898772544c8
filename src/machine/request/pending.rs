//! A pending request, encoded, so that it can be sent again on another connection.

use crate::machine::PromiseId;
use crate::protocol::method::{Encode, MethodInfo, basic, exchange, queue};
use crate::protocol::wire::Writer;
use crate::protocol::{Method, MethodId};

/// A request that is queued, or sent and without a reply.
#[derive(Debug)]
pub(crate) struct PendingRequest {
    pub(crate) promise: PromiseId,
    pub(crate) info: &'static MethodInfo,
    /// The encoded class, method and fields.
    pub(crate) payload: Box<[u8]>,
    /// It belongs to a transaction.
    pub(crate) in_transaction: bool,
    /// It may have closed an earlier connection. Such requests are sent one at a time, so that the
    /// next close shows which one is the cause.
    pub(crate) is_possible_cause: bool,
}

impl PendingRequest {
    /// Encodes a method.
    pub(crate) fn new(promise: PromiseId, info: &'static MethodInfo, method: &impl Encode) -> Self {
        let mut payload = Vec::new();
        let mut out = Writer::new(&mut payload);
        out.short(info.id.class);
        out.short(info.id.method);
        method.encode_fields(&mut out);
        Self {
            promise,
            info,
            payload: payload.into(),
            in_transaction: false,
            is_possible_cause: false,
        }
    }

    /// Returns `true` for a `basic.get` whose message uses its channel until it is settled.
    pub(crate) fn is_get_to_settle(&self) -> bool {
        let is_get = self.info.id == basic::Get::ID;
        is_get
            && matches!(self.method(), Some(Method::Basic(basic::Method::Get(get))) if !get.no_ack)
    }

    /// Decodes the method.
    pub(crate) fn method(&self) -> Option<Method<'_>> {
        Method::decode(&self.payload).ok()
    }

    /// Returns `true` if sending it twice has the same effect and the same reply as sending it
    /// once.
    pub(crate) fn is_repeatable(&self) -> bool {
        match self.method() {
            Some(
                Method::Exchange(exchange::Method::Delete(_))
                | Method::Queue(queue::Method::Delete(_)),
            ) => false,
            Some(Method::Queue(queue::Method::Purge(_))) => false,
            // A second declaration without a name creates a second queue, and nothing would use the
            // first. An exclusive one is deleted with its connection.
            Some(Method::Queue(queue::Method::Declare(it))) => !it.queue.is_empty() || it.exclusive,
            Some(Method::Basic(basic::Method::Get(it))) => !it.no_ack,
            Some(_) => true,
            None => false,
        }
    }
}

impl Encode for PendingRequest {
    fn id(&self) -> MethodId {
        self.info.id
    }

    fn encode_fields(&self, out: &mut Writer<'_>) {
        out.bytes(self.payload.get(4..).unwrap_or_default());
    }
}
