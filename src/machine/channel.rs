//! One channel: what it is used for, which replies it waits for, what was delivered on it.

use super::content::{Assembly, Purpose};
use super::ids::{ConsumerId, PromiseId, TransactionId};
use super::requested::WaitingRequest;
use super::tags::TagNumber;
use super::unsettled::Unsettled;
use crate::protocol::method::{MethodInfo, basic};
use crate::protocol::{Method, MethodId, ShortStr};
use std::collections::VecDeque;

/// What a channel is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Waits in the pool.
    Idle,
    /// A request is under way.
    Request,
    /// A `basic.get` is pending whose message is to be settled.
    Get,
    /// A message was got, or consumed by a consumer that has ended, and is not settled.
    Settling,
    /// Publishes to one exchange.
    Publish,
    /// Everything is declared again on it.
    Restore,
    /// Has a transaction.
    Transaction,
    /// Has a consumer.
    Consume,
    /// Its consumer is cancelled or has ended, and the broker has not confirmed that.
    Ending,
    /// We have closed it because its request timed out, and wait for `close-ok`. A late reply may
    /// arrive before that.
    Overdue,
    /// We have closed it and wait for `close-ok`. The last: the count of roles rests on it.
    Closing,
}

impl Role {
    /// How many there are.
    pub(super) const COUNT: usize = Self::Closing as usize + 1;
}

/// A change of a consumer's prefetch count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resize {
    pub(super) promise: PromiseId,
    /// The count before the change. A refused change leaves the consumer with it.
    pub(super) before: u16,
}

/// A reply that is to come.
#[derive(Debug)]
pub(super) enum Awaited {
    /// Nobody asks for it: `open-ok`, `select-ok`, `qos-ok` in front of a `consume-ok`.
    Nothing(&'static MethodInfo),
    /// The first publish has gone through, so the exchange is there and may be published to.
    Proof(&'static MethodInfo),
    Request(WaitingRequest),
    Get {
        request: WaitingRequest,
        no_ack: bool,
    },
    /// Another prefetch count for all queues of a consumer together.
    Qos {
        consumer: ConsumerId,
        resize: Resize,
        method: &'static MethodInfo,
    },
    /// A step of declaring everything again.
    Restored(&'static MethodInfo),
    /// `resized` is the change of a prefetch count that this is for.
    Consume {
        consumer: ConsumerId,
        tag: TagNumber,
        resized: Option<Resize>,
        method: &'static MethodInfo,
    },
    Cancel {
        consumer: ConsumerId,
        tag: TagNumber,
        method: &'static MethodInfo,
    },
    /// For a transaction: `select-ok`, `commit-ok` or `rollback-ok`.
    Transaction {
        id: TransactionId,
        method: &'static MethodInfo,
    },
    /// What comes before it was taken back by the broker.
    Recover {
        promise: PromiseId,
        method: &'static MethodInfo,
    },
}

impl Awaited {
    /// The reply to a request.
    pub(super) fn of(request: WaitingRequest) -> Self {
        match request.method() {
            Some(Method::Basic(basic::Method::Get(basic::Get { no_ack, .. }))) => {
                Self::Get { request, no_ack }
            }
            _ => Self::Request(request),
        }
    }

    pub(super) fn method(&self) -> &'static MethodInfo {
        match self {
            Self::Request(request) | Self::Get { request, .. } => request.info,
            Self::Nothing(method)
            | Self::Proof(method)
            | Self::Restored(method)
            | Self::Qos { method, .. }
            | Self::Consume { method, .. }
            | Self::Cancel { method, .. }
            | Self::Transaction { method, .. }
            | Self::Recover { method, .. } => method,
        }
    }

    /// Whether others may be answered before it. Replies come in the order of what they answer, but for those that a queue
    /// gives itself.
    pub(super) fn may_be_overtaken(&self) -> bool {
        matches!(self, Self::Consume { .. } | Self::Cancel { .. })
    }

    /// Whether that method is an answer to this. What a consumer has several of is told apart by its tag.
    pub(super) fn is_answered_by(&self, reply: MethodId, of_tag: Option<ShortStr<'_>>) -> bool {
        if let Self::Consume { tag, .. } | Self::Cancel { tag, .. } = self
            && of_tag.is_some_and(|of_tag| TagNumber::of(of_tag) != Some(*tag))
        {
            return false;
        }
        let asked = self.method();
        asked.id.class == reply.class
            && reply.info().is_some_and(|(_, info)| asked.replies.contains(&info.name))
    }
}

#[derive(Debug)]
pub(super) struct Channel {
    /// Tells this channel from earlier ones with the same number.
    pub(super) incarnation: u64,
    /// Changed by [`Channels::set_role`](super::channels::Channels::set_role) alone, which counts.
    pub(super) role: Role,
    pub(super) awaited: VecDeque<Awaited>,
    pub(super) assembly: Option<Assembly>,
    pub(super) unsettled: Unsettled,
    /// One at most, so that what closes the channel ends no other.
    pub(super) consumer: Option<ConsumerId>,
    /// The prefetch count that tags to come would have.
    pub(super) prefetch_count: u16,
    /// A prefetch count holds for all of its consumer's tags together, those to come included.
    pub(super) shares_prefetch_count: bool,
    /// What comes before `open-ok` is for the channel that had the number before, which the server closed.
    pub(super) discards_until_open: bool,
    /// The server has closed it while we were closing it, and has our answer: there is nothing more to say on it.
    pub(super) close_answered: bool,
    /// It is in the list of channels with acknowledgements to write.
    pub(super) has_acks: bool,
    /// Deliveries of its consumer need no ack. This is kept after the consumer has ended.
    pub(super) no_ack: bool,
    /// Number of deliveries for a consumer that does not exist. They are never settled, so the
    /// channel is closed when it has no other use.
    pub(super) strays: u32,
    /// The server ended its consumer while deliveries were unsettled. The channel is closed when
    /// it has no other use, because the server may still close it over one of them.
    pub(super) is_suspect: bool,
}

impl Channel {
    pub(super) fn new(incarnation: u64, role: Role) -> Self {
        Self {
            incarnation,
            role,
            awaited: VecDeque::new(),
            assembly: None,
            unsettled: Unsettled::default(),
            consumer: None,
            prefetch_count: 0,
            shares_prefetch_count: false,
            discards_until_open: false,
            close_answered: false,
            has_acks: false,
            no_ack: false,
            strays: 0,
            is_suspect: false,
        }
    }

    /// Returns the requests whose reply, or a part of it, is pending.
    pub(super) fn requests(&self) -> impl Iterator<Item = &WaitingRequest> {
        let got = self.assembly.as_ref().and_then(|assembly| match &assembly.purpose {
            Purpose::Got { request, .. } => Some(request),
            Purpose::Deliver { .. } | Purpose::Returned { .. } => None,
        });
        let awaited = self.awaited.iter().filter_map(|awaited| match awaited {
            Awaited::Request(request) | Awaited::Get { request, .. } => Some(request),
            _ => None,
        });
        got.into_iter().chain(awaited)
    }

    /// Whether the broker takes back what it has delivered, and what it delivers is to be taken back, too.
    pub(super) fn is_recovering(&self) -> bool {
        self.awaited.iter().any(|awaited| matches!(awaited, Awaited::Recover { .. }))
    }

    /// Returns `true` if `consume-ok` or `cancel-ok` is pending. The broker may then deliver for a
    /// consumer that has ended, and its cancel is written or will be.
    pub(super) fn is_consumer_changing(&self) -> bool {
        self.awaited.iter().any(Awaited::may_be_overtaken)
    }

    /// Whether it has no consumer and no message that is held. As long as it has, nothing becomes of it.
    pub(super) fn holds_nothing(&self) -> bool {
        self.consumer.is_none() && !self.unsettled.has_wanted()
    }

    /// Whether nothing is under way on it, so that anything may be.
    pub(super) fn is_at_rest(&self) -> bool {
        self.awaited.is_empty() && self.assembly.is_none() && self.holds_nothing()
    }
}
