//! A request as octets: it waits for its channel, then for its answer, and may be asked again on
//! another connection.

use crate::machine::PromiseId;
use crate::protocol::method::{Encode, MethodInfo, basic, exchange, queue};
use crate::protocol::wire::Writer;
use crate::protocol::{Method, MethodId};

/// A request that waits for its channel, or for its answer.
#[derive(Debug)]
pub(crate) struct PendingRequest {
    pub(crate) promise: PromiseId,
    pub(crate) info: &'static MethodInfo,
    /// Class, method and fields, written.
    pub(crate) payload: Box<[u8]>,
    /// It is a part of a transaction.
    pub(crate) in_transaction: bool,
    /// It may have closed a connection. Until it is answered, no other such request is sent.
    pub(crate) is_suspected: bool,
}

impl PendingRequest {
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
            is_suspected: false,
        }
    }

    /// Returns `true` for a `basic.get` whose message uses its channel until it is settled.
    pub(crate) fn is_get_to_settle(&self) -> bool {
        let is_get = self.info.id == basic::Get::ID;
        is_get
            && matches!(self.method(), Some(Method::Basic(basic::Method::Get(get))) if !get.no_ack)
    }

    pub(crate) fn method(&self) -> Option<Method<'_>> {
        Method::decode(&self.payload).ok()
    }
}

impl PendingRequest {
    /// Whether it may be carried out twice: the second time changes nothing, and the answer is the
    /// same.
    pub(crate) fn is_repeatable(&self) -> bool {
        match self.method() {
            Some(
                Method::Exchange(exchange::Method::Delete(_))
                | Method::Queue(queue::Method::Delete(_)),
            ) => false,
            Some(Method::Queue(queue::Method::Purge(_))) => false,
            // Another queue would be made, and the first be nobody's.
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
        out.octets(self.payload.get(4..).unwrap_or_default());
    }
}
