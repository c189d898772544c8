//! One channel: what it is used for, which replies it waits for, what was delivered on it.

pub(crate) mod channels;
pub(crate) mod content;

use crate::machine::channel::content::{Assembly, Purpose};
use crate::machine::consume::tags::TagNumber;
use crate::machine::consume::unsettled::Unsettled;
use crate::machine::ids::{ConsumerId, PromiseId, TransactionId};
use crate::machine::request::pending::PendingRequest;
use crate::protocol::method::{MethodInfo, basic};
use crate::protocol::{Method, ShortStr};
use std::collections::VecDeque;

/// What a channel is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
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
    pub(crate) const COUNT: usize = Self::Closing as usize + 1;
}

/// A change of a consumer's prefetch count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resize {
    pub(crate) promise: PromiseId,
    /// The count before the change. A refused change leaves the consumer with it.
    pub(crate) before: u16,
}

/// A reply that the broker still has to send.
#[derive(Debug)]
pub(crate) struct PendingReply {
    /// The method that it answers.
    pub(crate) method: &'static MethodInfo,
    pub(crate) to: Awaited,
}

/// What a reply is for.
#[derive(Debug)]
pub(crate) enum Awaited {
    /// Nothing waits for it: `open-ok`, `select-ok`, `qos-ok` in front of a `consume-ok`.
    Nothing,
    /// It proves that the broker accepted the first publish, so the exchange exists and the user
    /// may publish to it.
    Proof,
    Request(PendingRequest),
    Get {
        request: PendingRequest,
        no_ack: bool,
    },
    /// Another prefetch count for all queues of a consumer together.
    Qos {
        consumer: ConsumerId,
        resize: Resize,
    },
    /// A step of declaring everything again.
    Restored,
    /// `resized` is the change of a prefetch count that this is for.
    Consume {
        consumer: ConsumerId,
        tag: TagNumber,
        resized: Option<Resize>,
    },
    Cancel {
        consumer: ConsumerId,
        tag: TagNumber,
    },
    /// For a transaction: `select-ok`, `commit-ok` or `rollback-ok`.
    Transaction {
        id: TransactionId,
    },
    /// What comes before it was taken back by the broker.
    Recover {
        promise: PromiseId,
    },
}

impl Awaited {
    /// The reply to a request.
    pub(crate) fn of(request: PendingRequest) -> Self {
        match request.method() {
            Some(Method::Basic(basic::Method::Get(basic::Get { no_ack, .. }))) => {
                Self::Get { request, no_ack }
            }
            _ => Self::Request(request),
        }
    }

    /// Whether others may be answered before it. Replies come in the order of what they answer, but
    /// for those that a queue gives itself.
    pub(crate) fn may_be_overtaken(&self) -> bool {
        matches!(self, Self::Consume { .. } | Self::Cancel { .. })
    }
}

impl PendingReply {
    /// Returns `true` if that method is the reply. A consumer may wait for several of a kind, which
    /// their tags distinguish.
    pub(crate) fn is_completed_by(
        &self,
        reply: &'static MethodInfo,
        of_tag: Option<ShortStr<'_>>,
    ) -> bool {
        if let Awaited::Consume { tag, .. } | Awaited::Cancel { tag, .. } = &self.to
            && of_tag.is_some_and(|of_tag| TagNumber::of(of_tag) != Some(*tag))
        {
            return false;
        }
        self.method.id.class == reply.id.class && self.method.replies.contains(&reply.name)
    }
}

#[derive(Debug)]
pub(crate) struct Channel {
    /// Tells this channel from earlier ones with the same number.
    pub(crate) incarnation: u64,
    /// Changed by [`Channels::set_role`](super::channels::Channels::set_role) alone, which counts.
    pub(crate) role: Role,
    pub(crate) pending_replies: VecDeque<PendingReply>,
    pub(crate) assembly: Option<Assembly>,
    pub(crate) unsettled: Unsettled,
    /// One at most, so that what closes the channel ends no other.
    pub(crate) consumer: Option<ConsumerId>,
    /// The prefetch count that tags to come would have.
    pub(crate) prefetch_count: u16,
    /// A prefetch count holds for all of its consumer's tags together, those to come included.
    pub(crate) shares_prefetch_count: bool,
    /// What comes before `open-ok` is for the channel that had the number before, which the server
    /// closed.
    pub(crate) discards_until_open: bool,
    /// The server has closed it while we were closing it, and has our answer: there is nothing more
    /// to say on it.
    pub(crate) close_answered: bool,
    /// It is in the list of channels with acknowledgements to write.
    pub(crate) has_acks: bool,
    /// Deliveries of its consumer need no ack. This is kept after the consumer has ended.
    pub(crate) no_ack: bool,
    /// Number of deliveries for a consumer that does not exist. They are never settled, so the
    /// channel is closed when it has no other use.
    pub(crate) strays: u32,
    /// The server ended its consumer while deliveries were unsettled. The channel is closed when
    /// it has no other use, because the server may still close it over one of them.
    pub(crate) is_suspect: bool,
}

impl Channel {
    pub(crate) fn new(incarnation: u64, role: Role) -> Self {
        Self {
            incarnation,
            role,
            pending_replies: VecDeque::new(),
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
    pub(crate) fn requests(&self) -> impl Iterator<Item = &PendingRequest> {
        let got = self
            .assembly
            .as_ref()
            .and_then(|assembly| match &assembly.purpose {
                Purpose::Got { request, .. } => Some(request),
                Purpose::Deliver { .. } | Purpose::Returned { .. } => None,
            });
        let awaited = self
            .pending_replies
            .iter()
            .filter_map(|pending| match &pending.to {
                Awaited::Request(request) | Awaited::Get { request, .. } => Some(request),
                _ => None,
            });
        got.into_iter().chain(awaited)
    }

    /// Whether the broker takes back what it has delivered, and what it delivers is to be taken
    /// back, too.
    #[inline]
    pub(crate) fn is_recovering(&self) -> bool {
        self.pending_replies
            .iter()
            .any(|pending| matches!(pending.to, Awaited::Recover { .. }))
    }

    /// Returns `true` if `consume-ok` or `cancel-ok` is pending. The broker may then deliver for a
    /// consumer that has ended, and its cancel is written or will be.
    pub(crate) fn is_consumer_changing(&self) -> bool {
        self.pending_replies
            .iter()
            .any(|pending| pending.to.may_be_overtaken())
    }

    /// Whether it has no consumer and no message that is held. As long as it has, nothing becomes
    /// of it.
    #[inline]
    pub(crate) fn holds_nothing(&self) -> bool {
        self.consumer.is_none() && !self.unsettled.has_wanted()
    }

    /// Whether nothing is under way on it, so that anything may be.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.pending_replies.is_empty() && self.assembly.is_none() && self.holds_nothing()
    }
}
