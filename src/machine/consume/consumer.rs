//! One consumer: its queues, its phase and its buffered deliveries.

use crate::error::Error;
use crate::machine::channel::content::{Delivered, STREAM_OFFSET};
use crate::machine::consume::buffer::Batches;
use crate::machine::consume::ended::Ended;
use crate::machine::consume::reading::Buffered;
use crate::machine::consume::restart_pace::RestartPace;
use crate::machine::consume::tags::{TagNumber, Tags};
use crate::machine::ids::{ChannelIncarnation, PromiseId};
use crate::machine::recovery::topology::Topology;
use crate::machine::request::arguments::Consume;
use crate::machine::request::check::check_queue_name;
use crate::options::{OnDrop, Resubscribe};
use crate::protocol::{EncodeError, ShortStr, ShortString, Table};
use std::borrow::Cow;

/// The maximum number of bytes of the user's part of a consumer tag. The rest of the 255 bytes is
/// for the part that makes the tag unique.
const MAX_USERS_TAG: usize = 225;

/// The phase of a consumer.
#[derive(Debug)]
pub(crate) enum Phase {
    /// `consume-ok` is pending.
    Starting(PromiseId),
    Live,
    /// The connection was lost, or the broker ended the consumer. It is being restarted.
    Restarting,
    /// `cancel-ok` is pending.
    Cancelling,
    Ended(Ended),
}

/// A queue of a consumer, and the arguments of its `basic.consume`.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// The name of the queue, or its first name if the broker has named it.
    pub(crate) queue: ShortString,
    /// The part of the tag that the user chooses.
    pub(crate) users_tag: Box<str>,
    /// The first tag, by which the program knows it. It is empty until the first start.
    pub(crate) tag: Box<str>,
    /// The number of the first tag.
    pub(crate) number: Option<TagNumber>,
    pub(crate) no_local: bool,
    pub(crate) exclusive: bool,
    /// The queue is a stream that is read from an offset, which is in the arguments.
    pub(crate) by_offset: bool,
    /// The offset in the stream at which a restart continues: behind the last delivery that the
    /// program has taken.
    pub(crate) next_offset: Option<i64>,
    pub(crate) arguments: Table,
    /// Why this queue is no longer consumed, while the other queues of the consumer are.
    pub(crate) ended: Option<Ended>,
}

impl Subscription {
    /// Returns the subscription of a request to consume, or an error if the broker would refuse its
    /// arguments.
    pub(crate) fn new(topology: &Topology, consume: &Consume<'_>) -> Result<Self, Error> {
        check_queue_name(consume.queue)?;
        if !consume.arguments.is_finite() {
            return Err(Error::invalid(
                "arguments",
                "numbers must be finite, because RabbitMQ cannot parse NaN and infinity",
            ));
        }
        if consume.tag.len() > MAX_USERS_TAG {
            let reason = format!(
                "must be at most {MAX_USERS_TAG} bytes, got {}",
                consume.tag.len()
            );
            return Err(Error::invalid("consumer_tag", reason));
        }
        Ok(Self {
            queue: topology.original(consume.queue).into(),
            users_tag: consume.tag.into(),
            tag: Box::default(),
            number: None,
            no_local: consume.no_local,
            exclusive: consume.exclusive,
            by_offset: consume.arguments.get(STREAM_OFFSET).is_some(),
            next_offset: None,
            arguments: consume.arguments.to_table(),
            ended: None,
        })
    }

    /// Returns the arguments with which the queue is consumed now. A stream continues behind the
    /// last delivery that was taken: from its first offset, a restart would repeat what the program
    /// has handled, or with `next` skip what was published since the loss.
    pub(crate) fn current_arguments(&self) -> Cow<'_, Table> {
        let Some(next_offset) = self.next_offset else {
            return Cow::Borrowed(&self.arguments);
        };
        let arguments = self.arguments.as_ref();
        Cow::Owned(arguments.with_value(STREAM_OFFSET, next_offset.into()))
    }

    /// Returns an error unless each `basic.consume` fits into a frame.
    pub(crate) fn check_size(subscriptions: &[Self], frame_max: u32) -> Result<(), Error> {
        let longest = subscriptions.iter().map(Self::size).max().unwrap_or(0) + 2 * ShortStr::MAX;
        if longest > frame_max as usize {
            return Err(EncodeError::FrameTooLarge {
                bytes: longest,
                limit: frame_max,
            }
            .into());
        }
        Ok(())
    }

    /// Returns the first name of the queue.
    fn queue_name(&self) -> ShortStr<'_> {
        self.queue.as_short_str()
    }

    /// Returns the approximate size in bytes, in memory and in a frame.
    pub(crate) fn size(&self) -> usize {
        self.queue.len() + self.users_tag.len() + self.arguments.as_ref().as_bytes().len() + 32
    }
}

/// A new consumer, or one whose start was interrupted by the loss of the connection. It is queued
/// until there is a channel for it.
#[derive(Debug)]
pub(crate) struct QueuedConsume {
    pub(crate) promise: PromiseId,
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) no_ack: bool,
    pub(crate) prefetch_count: u16,
    pub(crate) resubscribe: Resubscribe,
    pub(crate) on_drop: OnDrop,
    /// The prefetch count applies to all queues together.
    pub(crate) shares_prefetch_count: bool,
    /// The request may have closed an earlier connection. It is repeated while no other such
    /// request is pending, so that the next close identifies the cause.
    pub(crate) is_possible_cause: bool,
}

impl QueuedConsume {
    /// Returns the approximate size in bytes, which counts towards the limit of queued requests.
    pub(crate) fn size(&self) -> usize {
        self.subscriptions.iter().map(Subscription::size).sum()
    }
}

/// A consumer of one queue or several.
#[derive(Debug)]
pub struct Consumer {
    pub(super) turn: u64,
    /// The last channel of the consumer; `None` while it waits to be restarted.
    pub(crate) channel: Option<u16>,
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) no_ack: bool,
    /// The prefetch count that its queues share; `None` for a consumer of one queue. See
    /// [`shared_prefetch`](crate::machine::consume::shared_prefetch).
    pub(crate) shared_prefetch_count: Option<u16>,
    /// While the consumer is starting or restarting: the number of pending `consume-ok`.
    pub(crate) pending_starts: usize,
    pub(crate) tags: Tags,
    pub(crate) phase: Phase,
    pub(crate) restarts: RestartPace,
    /// The channels that it had before the server cancelled it, the oldest first.
    pub(crate) earlier_channels: Vec<ChannelIncarnation>,
    pub(crate) on_drop: OnDrop,
    /// Promises that complete at `cancel-ok`.
    pub(crate) cancel_promises: Vec<PromiseId>,
    /// Promises that complete when no tag has an earlier prefetch count.
    pub(crate) resize_promises: Vec<PromiseId>,
    /// Its own prefetch count while it is throttled, which means that each of its tags has a count
    /// of 1: until the program has taken most of its buffered deliveries.
    pub(crate) throttled_from: Option<u16>,
    /// The program has dropped the consumer.
    pub(crate) dropped: bool,
    /// The prefetch count with which the consumer is restarted: that before the loss, or the last
    /// one that the program has asked for since.
    pub(crate) restart_prefetch_count: Option<u16>,
    /// The number of deliveries that were dropped because they were stale.
    pub(crate) lost: u64,
    pub(crate) buffered: Buffered,
    pub(super) deliveries: Batches,
    /// It reads a stream. Its deliveries are taken one at a time, so that a taken delivery is one
    /// that the program has received, and a restart continues behind it.
    pub(crate) reads_stream: bool,
    /// An event for the program is queued.
    pub(super) is_announced: bool,
}

impl Consumer {
    /// Returns a consumer that starts on a channel.
    pub(super) fn new(turn: u64, channel: u16, queued: QueuedConsume) -> Self {
        let shares = queued.shares_prefetch_count;
        let mut consumer = Self {
            turn,
            channel: Some(channel),
            reads_stream: queued.subscriptions.iter().any(|it| it.by_offset),
            subscriptions: queued.subscriptions,
            no_ack: queued.no_ack,
            shared_prefetch_count: shares.then_some(queued.prefetch_count),
            pending_starts: 0,
            tags: Tags::default(),
            phase: Phase::Starting(queued.promise),
            restarts: RestartPace::new(queued.resubscribe),
            on_drop: queued.on_drop,
            earlier_channels: Vec::new(),
            cancel_promises: Vec::new(),
            resize_promises: Vec::new(),
            throttled_from: None,
            dropped: false,
            restart_prefetch_count: None,
            lost: 0,
            buffered: Buffered::default(),
            deliveries: Batches::default(),
            is_announced: false,
        };
        consumer.pending_starts = consumer.live_subscriptions().count();
        consumer
    }

    /// Records the offset of a delivery that the program has taken.
    pub(super) fn record_offset(&mut self, taken: &Delivered) {
        if let Some(offset) = taken.stream_offset()
            && let Some(subscription) = self.subscriptions.get_mut(taken.source as usize)
            && subscription.by_offset
        {
            subscription.next_offset = Some(offset.saturating_add(1));
        }
    }

    /// Returns `true` unless the consumer has ended, is being cancelled, or was cancelled by the
    /// server and has not started again.
    pub(crate) fn is_consuming(&self) -> bool {
        !matches!(self.phase, Phase::Cancelling | Phase::Ended(_)) && !self.restarts.is_cancelled()
    }

    /// Returns `true` if the consumer has ended.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// Returns `true` if the consumer is being restarted.
    pub(crate) fn is_restarting(&self) -> bool {
        matches!(self.phase, Phase::Restarting)
    }

    /// Returns the channel of a live consumer.
    pub(crate) fn live_channel(&self) -> Option<u16> {
        self.channel.filter(|_| matches!(self.phase, Phase::Live))
    }

    /// Returns `true` if it consumes one of its queues exclusively.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.subscriptions
            .iter()
            .any(|subscription| subscription.exclusive)
    }

    /// Returns the subscriptions that have not ended, with their indices.
    pub(crate) fn live_subscriptions(&self) -> impl Iterator<Item = (u32, &Subscription)> {
        (0..)
            .zip(&self.subscriptions)
            .filter(|(_, subscription)| subscription.ended.is_none())
    }

    /// Returns the queues that lose a consumer on the broker when this consumer ends: those that
    /// have started. `was_lost` means that all had started on a connection that was lost.
    pub(crate) fn started_queues(&self, was_lost: bool) -> Vec<ShortString> {
        if was_lost || matches!(self.phase, Phase::Live | Phase::Cancelling) {
            return self
                .live_subscriptions()
                .map(|(_, subscription)| subscription.queue.clone())
                .collect();
        }
        let started = self.tags.iter().filter(|tag| tag.started);
        started
            .filter_map(|tag| self.subscriptions.get(tag.subscription as usize))
            .map(|subscription| subscription.queue.clone())
            .collect()
    }

    /// Returns the subscription whose missing queue made the broker refuse to start the consumer,
    /// with its index. This is the queue that the error text names. If it names none, this is the
    /// first queue that has not started, because the broker starts them one after another.
    /// `current` maps the first name of a queue to its current one.
    pub(crate) fn missing_subscription<'n>(
        &'n self,
        text: &str,
        current: impl Fn(ShortStr<'n>) -> ShortStr<'n>,
    ) -> Option<(usize, &'n Subscription)> {
        let is_named = |subscription: &'n Subscription| {
            let name = current(subscription.queue.as_short_str());
            subscription.ended.is_none() && text.contains(&format!("'{name}'"))
        };
        let named = self.subscriptions.iter().position(is_named);
        let index = named.or_else(|| {
            let not_started = self.tags.iter().find(|tag| !tag.started);
            not_started.map(|tag| tag.subscription as usize)
        })?;
        Some((index, self.subscriptions.get(index)?))
    }

    /// Returns the tag by which the program knows the consumer: that of its first queue.
    #[must_use]
    pub fn tag(&self) -> &str {
        self.subscriptions
            .first()
            .map_or("", |subscription| &subscription.tag)
    }

    /// Returns the number of deliveries that may be unsettled; 0 for no limit.
    pub(crate) fn prefetch_count(&self) -> u16 {
        if let Some(count) = self.shared_prefetch_count {
            return count;
        }
        if let Some(count) = self.throttled_from {
            return count;
        }
        self.tags
            .iter()
            .filter(|tag| !tag.is_replaced)
            .map(|tag| tag.prefetch_count)
            .fold(0, u16::saturating_add)
    }

    /// Returns the prefetch count that the program has asked for last. A consumer that is being
    /// restarted does not have it yet.
    pub(crate) fn wanted_prefetch_count(&self) -> u16 {
        self.restart_prefetch_count
            .unwrap_or_else(|| self.prefetch_count())
    }

    /// Returns an error if the prefetch count cannot be changed to this value.
    pub(crate) fn check_resize(&self, prefetch_count: u16) -> Result<(), Error> {
        // Brokers ignore the prefetch count of consumers without acks.
        let changes_nothing = self.prefetch_count() == prefetch_count || self.no_ack;
        let reason = if self.is_exclusive() {
            "cannot be changed for an exclusive consumer"
        } else if self.reads_stream {
            "cannot be changed for a stream, because a second consumer repeats its messages"
        } else {
            return Ok(());
        };
        // A second tag with the new count replaces the first, or is added to it.
        if !changes_nothing {
            return Err(Error::invalid("prefetch_count", reason));
        }
        Ok(())
    }

    /// Returns why the consumer has ended, if it has. Deliveries may still be buffered.
    #[must_use]
    pub fn ended(&self) -> Option<&Ended> {
        match &self.phase {
            Phase::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    /// Returns the queues that a consumer of several queues has lost while it continues with the
    /// others. Each item is the name of the queue when the consumer started, and the reason.
    pub fn ended_queues(&self) -> impl Iterator<Item = (ShortStr<'_>, &Ended)> {
        self.subscriptions.iter().filter_map(|subscription| {
            Some((subscription.queue_name(), subscription.ended.as_ref()?))
        })
    }

    /// Returns the queues of the consumer, each with its tag. A queue that the broker has named has
    /// its first name here.
    pub fn queues(&self) -> impl Iterator<Item = (ShortStr<'_>, &str)> {
        self.subscriptions
            .iter()
            .map(|subscription| (subscription.queue_name(), &*subscription.tag))
    }

    /// Returns the number of deliveries that were dropped because they were stale.
    #[must_use]
    pub fn lost_deliveries(&self) -> u64 {
        self.lost
    }

    /// Returns `true` if the prefetch count can be changed now: the consumer is live, and no change
    /// is pending.
    pub(crate) fn can_be_resized(&self) -> bool {
        matches!(self.phase, Phase::Live)
            && self.tags.iter().all(|tag| tag.started && !tag.is_replaced)
    }

    /// Returns `true` if a second tag can replace the consumer's tags and slows it down.
    ///
    /// Brokers ignore the prefetch count of consumers without acks, refuse a second consumer beside
    /// an exclusive one, and let a consumer with an offset start at that offset again.
    fn can_be_throttled(&self) -> bool {
        !self.no_ack
            && !self.dropped
            && !self.is_exclusive()
            && !self.reads_stream
            && self.throttled_from.is_none()
            && self.prefetch_count() != 1
            && self.can_be_resized()
    }

    /// Returns `true` if the consumer has more than its share buffered and can be throttled.
    pub(crate) fn is_greedy(&self, share: Buffered) -> bool {
        if !self.can_be_throttled() || !self.buffered.reaches(share) {
            return false;
        }
        // A second consumer of a stream would not continue where the first ends. Deliveries of a
        // stream have an offset, even if the consumer asked for none.
        if self
            .deliveries
            .last()
            .is_none_or(Delivered::has_stream_offset)
        {
            return false;
        }
        // The broker counts for each tag. A second tag would allow more unsettled deliveries than
        // the prefetch count, which programs rely on. The count limits the deliveries in flight to
        // such a consumer, and reading continues for them up to the hard limit. A shared count is
        // not the broker's.
        self.prefetch_count() == 0 || self.shared_prefetch_count.is_some()
    }
}
