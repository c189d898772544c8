//! One channel: its role, its pending replies and its unsettled deliveries.

pub(crate) mod channels;
pub(crate) mod content;
pub(crate) mod learned_limit;

use crate::machine::channel::content::{Assembly, Delivered, Purpose};
use crate::machine::consume::tags::TagNumber;
use crate::machine::consume::unsettled::Unsettled;
use crate::machine::ids::{ChannelIncarnation, ConsumerId, PromiseId, TransactionId};
use crate::machine::request::pending::PendingRequest;
use crate::protocol::method::{MethodInfo, basic, channel};
use crate::protocol::{Method, ShortStr};
use std::collections::VecDeque;

/// The role of a channel: what it is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Idle in the pool.
    Idle,
    /// A request is pending.
    Request,
    /// A `basic.get` is pending, and its message has to be settled.
    Get,
    /// A message is unsettled. It is from a `basic.get`, or from a consumer that has ended.
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
    /// before it.
    Overdue,
    /// Closed by us; `close-ok` is pending. This is the last variant, because
    /// [`COUNT`](Self::COUNT) is computed from it.
    Closing,
}

impl Role {
    /// The number of roles.
    pub(crate) const COUNT: usize = Self::Closing as usize + 1;

    /// Returns `true` for consumers, also those about to end, and transactions.
    pub(crate) fn is_long_lived(self) -> bool {
        matches!(self, Self::Consume | Self::Ending | Self::Transaction)
    }
}

/// A change of a consumer's prefetch count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resize {
    pub(crate) promise: PromiseId,
    /// The count before the change. It remains if the broker refuses the change.
    pub(crate) before: u16,
}

/// A reply that the broker has not sent yet.
#[derive(Debug)]
pub(crate) struct PendingReply {
    /// The method to which it replies.
    pub(crate) method: &'static MethodInfo,
    pub(crate) purpose: Awaited,
}

/// The purpose of a pending reply.
#[derive(Debug)]
pub(crate) enum Awaited {
    /// The reply completes nothing: `open-ok`, the `select-ok` of a publish channel, the `qos-ok`
    /// before a `consume-ok`, and the `consume-ok` of the replies to calls.
    Nothing,
    /// The `select-ok` behind the first publish of a channel. It shows that the broker accepted
    /// that publish.
    Probe,
    /// The reply to a request, except `basic.get`.
    Request(PendingRequest),
    /// `get-ok` or `get-empty`.
    Get {
        request: PendingRequest,
        no_ack: bool,
    },
    /// The reply to a step of the replay, or to a late one that is sent once the connection is
    /// open.
    ReplayStep { is_late: bool },
    /// `consume-ok`. `resized` is the change of the prefetch count for which the consumer is
    /// started again.
    Consume {
        consumer: ConsumerId,
        tag: TagNumber,
        resized: Option<Resize>,
    },
    /// `cancel-ok`.
    Cancel {
        consumer: ConsumerId,
        tag: TagNumber,
    },
    /// `select-ok`, `commit-ok` or `rollback-ok` of a transaction.
    Transaction { id: TransactionId },
    /// `recover-ok`. The broker has requeued the deliveries that it sent before.
    Recover { promise: PromiseId },
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

    /// Returns `true` if replies to later methods may arrive before this one. A channel replies in
    /// the order of the methods, but a queue sends `consume-ok` and `cancel-ok` itself.
    pub(crate) fn may_be_overtaken(&self) -> bool {
        matches!(self, Self::Consume { .. } | Self::Cancel { .. })
    }
}

impl PendingReply {
    /// Returns `true` if the method `reply` is this reply. A consumer may have several pending
    /// replies of a kind. Their tags distinguish them, so `of_tag` is the tag in the reply, if it
    /// has one.
    pub(crate) fn is_completed_by(
        &self,
        reply: &'static MethodInfo,
        of_tag: Option<ShortStr<'_>>,
    ) -> bool {
        if let Awaited::Consume { tag, .. } | Awaited::Cancel { tag, .. } = &self.purpose
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
    /// Its consumer, or the last one. There is at most one, so an error that closes the channel
    /// ends no other.
    last_consumer: Option<ConsumerId>,
    /// The last prefetch count of `basic.qos`, which applies to consumers that start later.
    pub(crate) prefetch_count: u16,
    /// Frames before `open-ok` are for the earlier channel with this number, which the server
    /// closed, and are discarded. Set when the channel is added, cleared by `open-ok`.
    pub(crate) discards_until_open: bool,
    /// The server has closed the channel while our `close` was pending, and `close-ok` is written.
    /// No second one may follow: a frame after `close-ok` is an error of the connection. Only set
    /// for the roles `Closing` and `Overdue`.
    pub(crate) sent_close_ok: bool,
    /// The channel is in `Context::channels_with_acks`, the list of channels with acks to write.
    pub(crate) has_acks: bool,
    /// Deliveries of its consumer need no ack. It stays set when the consumer ends, because
    /// deliveries may still arrive.
    pub(crate) no_ack: bool,
    /// The number of deliveries to a consumer that does not exist. They are never settled, so the
    /// channel is closed instead of being pooled.
    pub(crate) deliveries_without_consumer: u32,
    /// `last_consumer` has not ended.
    has_consumer: bool,
    /// The server ended its consumer while deliveries were unsettled. The channel is closed instead
    /// of being pooled, because the server may still close it over one of them.
    pub(crate) may_be_closed_by_broker: bool,
}

impl Channel {
    pub(crate) fn new(incarnation: u64, role: Role) -> Self {
        Self {
            incarnation,
            role,
            pending_replies: VecDeque::new(),
            assembly: None,
            unsettled: Unsettled::default(),
            last_consumer: None,
            has_consumer: false,
            prefetch_count: 0,
            discards_until_open: false,
            sent_close_ok: false,
            has_acks: false,
            no_ack: false,
            deliveries_without_consumer: 0,
            may_be_closed_by_broker: false,
        }
    }

    /// Returns `true` if a delivery is from this incarnation, so that it can settle the delivery.
    #[inline]
    pub(crate) fn has_delivered(&self, delivered: &Delivered) -> bool {
        self.incarnation == delivered.incarnation
    }

    /// Returns its consumer, unless that has ended.
    #[inline]
    pub(crate) fn consumer(&self) -> Option<ConsumerId> {
        self.last_consumer.filter(|_| self.has_consumer)
    }

    /// Returns the prefetch count before the first change that has no reply.
    pub(crate) fn count_before_resize(&self) -> Option<u16> {
        self.pending_replies
            .iter()
            .find_map(|it| match &it.purpose {
                Awaited::Consume {
                    resized: Some(resize),
                    ..
                } => Some(resize.before),
                _ => None,
            })
    }

    /// Returns `true` if this is the channel that a consumer has left, and it has not been used for
    /// other work since.
    pub(crate) fn is_left_by(&self, id: ConsumerId, left: ChannelIncarnation) -> bool {
        self.incarnation == left.incarnation && self.ended_consumer() == Some(id)
    }

    /// Forgets the last consumer, because everything on the channel is settled.
    pub(crate) fn forget_consumer(&mut self) {
        self.last_consumer = None;
        self.has_consumer = false;
    }

    /// Returns its consumer, or the last one, until everything on the channel is settled.
    pub(crate) fn last_consumer(&self) -> Option<ConsumerId> {
        self.last_consumer
    }

    /// Returns the last consumer if it has ended. Its buffered deliveries may be unsettled.
    pub(crate) fn ended_consumer(&self) -> Option<ConsumerId> {
        self.last_consumer.filter(|_| !self.has_consumer)
    }

    pub(crate) fn set_consumer(&mut self, id: ConsumerId) {
        self.last_consumer = Some(id);
        self.has_consumer = true;
    }

    /// Returns `true` if its `open-ok` is pending.
    pub(crate) fn is_opening(&self) -> bool {
        let oldest = self.pending_replies.front();
        oldest.is_some_and(|pending| pending.method.id == channel::Open::ID)
    }

    /// Records that its consumer has ended.
    pub(crate) fn end_consumer(&mut self) {
        self.has_consumer = false;
    }

    /// Returns the requests whose reply has not arrived, or only in part.
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
            .filter_map(|pending| match &pending.purpose {
                Awaited::Request(request) | Awaited::Get { request, .. } => Some(request),
                _ => None,
            });
        got.into_iter().chain(awaited)
    }

    /// Returns `true` if the broker is requeueing its deliveries. Those that arrive until
    /// `recover-ok` are requeued, too.
    #[inline]
    pub(crate) fn is_recovering(&self) -> bool {
        // This is called for each delivery, and the list is usually empty. Iterating over it
        // without the check takes 19 instructions more.
        !self.pending_replies.is_empty()
            && self
                .pending_replies
                .iter()
                .any(|pending| matches!(pending.purpose, Awaited::Recover { .. }))
    }

    /// Returns `true` if `consume-ok` or `cancel-ok` is pending. Until then, the broker may deliver
    /// to a consumer that has ended here, and whose cancel is written or will be.
    pub(crate) fn is_consumer_changing(&self) -> bool {
        self.pending_replies
            .iter()
            .any(|pending| pending.purpose.may_be_overtaken())
    }

    /// Returns `true` if it has no consumer and no unsettled delivery that the program may settle.
    #[inline]
    pub(crate) fn is_unused(&self) -> bool {
        !self.has_consumer && !self.unsettled.has_wanted()
    }

    /// Returns `true` if it is unused and nothing is pending on it, so it can be pooled or closed.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.pending_replies.is_empty() && self.assembly.is_none() && self.is_unused()
    }
}
