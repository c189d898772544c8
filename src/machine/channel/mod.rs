//! One channel: its role, its pending replies and its unsettled deliveries.

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

/// The role of a channel: what it is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Idle in the pool.
    Idle,
    /// A request is pending.
    Request,
    /// A `basic.get` is pending whose message is to be settled.
    Get,
    /// A message was got, or consumed by a consumer that has ended, and is not settled.
    Settling,
    /// Publishes to one exchange.
    Publish,
    /// The topology is replayed on it.
    Restore,
    /// A transaction uses it.
    Transaction,
    /// A consumer uses it.
    Consume,
    /// Its consumer is cancelled or has ended, and the broker has not confirmed that.
    Ending,
    /// Closed by us because its request timed out; `close-ok` is pending. A late reply may arrive
    /// before that.
    Overdue,
    /// Closed by us; `close-ok` is pending. This is the last variant, because
    /// [`COUNT`](Self::COUNT) is computed from it.
    Closing,
}

impl Role {
    /// The number of roles.
    pub(crate) const COUNT: usize = Self::Closing as usize + 1;
}

/// A change of a consumer's prefetch count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resize {
    pub(crate) promise: PromiseId,
    /// The count before the change. A refused change leaves the consumer with it.
    pub(crate) before: u16,
}

/// A reply that the broker has not sent yet.
#[derive(Debug)]
pub(crate) struct PendingReply {
    /// The method to which it replies.
    pub(crate) method: &'static MethodInfo,
    pub(crate) to: Awaited,
}

/// The purpose of a pending reply.
#[derive(Debug)]
pub(crate) enum Awaited {
    /// It completes nothing: `open-ok`, `select-ok`, the `qos-ok` before a `consume-ok`.
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
    /// A step of the replay.
    Restored,
    /// `resized` is the change of the prefetch count for which the consumer is started again.
    Consume {
        consumer: ConsumerId,
        tag: TagNumber,
        resized: Option<Resize>,
    },
    Cancel {
        consumer: ConsumerId,
        tag: TagNumber,
    },
    /// `select-ok`, `commit-ok` or `rollback-ok` of a transaction.
    Transaction {
        id: TransactionId,
    },
    /// `recover-ok`. The broker has requeued the deliveries before it.
    Recover {
        promise: PromiseId,
    },
}

impl Awaited {
    /// Returns the purpose of the reply to a request.
    pub(crate) fn of(request: PendingRequest) -> Self {
        match request.method() {
            Some(Method::Basic(basic::Method::Get(basic::Get { no_ack, .. }))) => {
                Self::Get { request, no_ack }
            }
            _ => Self::Request(request),
        }
    }

    /// Returns `true` if replies to later methods may arrive first. Replies arrive in the order of
    /// their methods, except for those that a queue sends itself.
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

/// A channel that is open, or closed by us and without `close-ok`.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Distinguishes this channel from earlier ones with the same number.
    pub(crate) incarnation: u64,
    /// Changed only by [`Channels::set_role`](channels::Channels::set_role), which counts
    /// the roles.
    pub(crate) role: Role,
    pub(crate) pending_replies: VecDeque<PendingReply>,
    pub(crate) assembly: Option<Assembly>,
    pub(crate) unsettled: Unsettled,
    /// The only consumer, so that an error that closes the channel ends no other consumer.
    pub(crate) consumer: Option<ConsumerId>,
    /// The prefetch count of the next tags.
    pub(crate) prefetch_count: u16,
    /// The prefetch count applies to all tags of its consumer together, including later ones.
    pub(crate) shares_prefetch_count: bool,
    /// Frames before `open-ok` are for the earlier channel with this number, which the server
    /// closed.
    pub(crate) discards_until_open: bool,
    /// The server has closed it while our `close` was pending, and has our `close-ok`. Nothing more
    /// may be written on it: a frame after `close-ok` is an error of the connection.
    pub(crate) close_answered: bool,
    /// It is in the list of channels with queued acknowledgements.
    pub(crate) has_acks: bool,
    /// Deliveries of its consumer need no ack. This stays set after the consumer has ended.
    pub(crate) no_ack: bool,
    /// The number of deliveries for a consumer that does not exist. They are never settled, so the
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

    /// Returns `true` if the broker is requeueing its deliveries. Those that arrive until
    /// `recover-ok` are requeued, too.
    #[inline]
    pub(crate) fn is_recovering(&self) -> bool {
        // The list is usually empty, and each delivery asks: its iterator takes 19 instructions.
        !self.pending_replies.is_empty()
            && self
                .pending_replies
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

    /// Returns `true` if it has no consumer and no unsettled delivery that the program may settle.
    #[inline]
    pub(crate) fn holds_nothing(&self) -> bool {
        self.consumer.is_none() && !self.unsettled.has_wanted()
    }

    /// Returns `true` if nothing is pending on it, so it can be used for something else.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.pending_replies.is_empty() && self.assembly.is_none() && self.holds_nothing()
    }
}
