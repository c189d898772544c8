//! One consumer: its queues, its phase, and what it has buffered.

use crate::error::Error;
use crate::machine::channel::content::{Delivered, STREAM_OFFSET};
use crate::machine::consume::buffer::Batches;
use crate::machine::consume::reading::Buffered;
use crate::machine::consume::tags::{TagNumber, Tags};
use crate::machine::ids::PromiseId;
use crate::machine::recovery::topology::Topology;
use crate::machine::request::arguments::Consume;
use crate::machine::request::check::check_queue_name;
use crate::protocol::{EncodeError, ShortStr, ShortString, Table};

/// The number of bytes of a consumer tag that are the user's. The rest makes it unique.
const LONGEST_TAG: usize = 225;

/// Why a consumer has ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Ended {
    /// The program cancelled it.
    Cancelled,
    /// The broker cancelled it, usually because its queue was deleted.
    CancelledByServer,
    /// The broker closed its channel.
    ChannelClosed(Error),
    /// The connection was lost, or the program closed it.
    ConnectionBroken(Error),
}

/// The phase of a consumer.
#[derive(Debug)]
pub(crate) enum Phase {
    /// `consume-ok` is pending.
    Starting(PromiseId),
    Live,
    /// The connection was lost. The consumer is started again on the next one.
    Restoring,
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
    /// The tag by which the program knows it, which is the first one, and the number of that tag.
    pub(crate) tag: Box<str>,
    pub(crate) number: Option<TagNumber>,
    pub(crate) no_local: bool,
    pub(crate) exclusive: bool,
    /// The arguments have the offset of a stream at which to start.
    pub(crate) by_offset: bool,
    pub(crate) arguments: Table,
    /// The reason why this queue is no longer consumed while the consumer's other queues are.
    pub(crate) ended: Option<Ended>,
}

impl Subscription {
    /// Returns the arguments of a request to consume, or an error if the broker would refuse them.
    pub(crate) fn new(topology: &Topology, consume: &Consume<'_>) -> Result<Self, Error> {
        check_queue_name(consume.queue)?;
        if !consume.arguments.is_finite() {
            return Err(Error::invalid(
                "arguments",
                "numbers must be finite, because RabbitMQ cannot parse NaN and infinity",
            ));
        }
        if consume.tag.len() > LONGEST_TAG {
            let reason = format!(
                "must be at most {LONGEST_TAG} bytes, got {}",
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
            arguments: consume.arguments.to_table(),
            ended: None,
        })
    }

    /// Returns an error unless each `basic.consume` fits into a frame.
    pub(crate) fn check_size(sources: &[Self], frame_max: u32) -> Result<(), Error> {
        let longest = sources.iter().map(Self::size).max().unwrap_or(0) + 2 * ShortStr::MAX;
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

/// The way in which a consumer is throttled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Throttle {
    /// Each of its tags has a prefetch count of 1. The field is the consumer's own count.
    Tags { prefetch_count: u16 },
    /// The prefetch count that all queues of its channel share is 1.
    Channel,
}

/// A consumer.
#[derive(Debug)]
pub struct Consumer {
    pub(super) turn: u64,
    pub(crate) channel: u16,
    pub(crate) sources: Vec<Subscription>,
    pub(crate) no_ack: bool,
    /// One prefetch count for all queues together, instead of one for each tag.
    pub(crate) shared_prefetch_count: Option<u16>,
    /// The number of pending `consume-ok` before the consumer has started.
    pub(crate) starting: usize,
    pub(crate) tags: Tags,
    pub(crate) phase: Phase,
    /// Promises that complete at `cancel-ok`.
    pub(crate) cancelling: Vec<PromiseId>,
    /// Promises that complete when the new prefetch count is the only one.
    pub(crate) resizing: Vec<PromiseId>,
    /// Set while the consumer is throttled: until the program has taken its buffered deliveries.
    pub(crate) throttle: Option<Throttle>,
    /// The program has dropped the consumer.
    pub(crate) dropped: bool,
    /// The prefetch count with which the consumer is started again.
    pub(crate) wanted_prefetch: Option<u16>,
    /// The number of deliveries that were dropped because they were stale.
    pub(crate) lost: u64,
    pub(crate) buffered: Buffered,
    pub(super) deliveries: Batches,
    /// There is an event for the buffered deliveries, or for the end.
    pub(super) announced: bool,
}

impl Consumer {
    /// Returns `true` unless the consumer has ended or is being cancelled.
    pub(crate) fn is_consuming(&self) -> bool {
        !matches!(self.phase, Phase::Cancelling | Phase::Ended(_))
    }

    /// Returns `true` if the consumer has ended.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// Takes the promises of cancels and of changes of the prefetch count.
    pub(crate) fn take_promises(&mut self) -> (Vec<PromiseId>, Vec<PromiseId>) {
        (
            std::mem::take(&mut self.cancelling),
            std::mem::take(&mut self.resizing),
        )
    }

    /// Returns the number of queues that are consumed.
    pub(crate) fn live_sources(&self) -> usize {
        self.sources
            .iter()
            .filter(|subscription| subscription.ended.is_none())
            .count()
    }

    /// Returns the queues for which this consumer had started, and which lose a consumer on the
    /// broker when it ends. `was_lost` means that it had started on a connection that was lost.
    pub(crate) fn consumed_queues(&self, was_lost: bool) -> Vec<ShortString> {
        let has_started = was_lost || matches!(self.phase, Phase::Live | Phase::Cancelling);
        let sources = self
            .sources
            .iter()
            .filter(|subscription| subscription.ended.is_none());
        if has_started {
            return sources
                .map(|subscription| subscription.queue.clone())
                .collect();
        }
        let started = self.tags.iter().filter(|tag| tag.started);
        started
            .filter_map(|tag| self.sources.get(tag.source as usize))
            .map(|subscription| subscription.queue.clone())
            .collect()
    }

    /// Returns the queue whose absence made the broker refuse to start the consumer: the queue that
    /// the error text names, else the first that has not started, because they are started one
    /// after another.
    pub(crate) fn missing_source<'n>(
        &'n self,
        text: &str,
        current: impl Fn(ShortStr<'n>) -> ShortStr<'n>,
    ) -> Option<usize> {
        let is_named = |subscription: &'n Subscription| {
            let name = current(subscription.queue.as_short_str());
            subscription.ended.is_none() && text.contains(&format!("'{name}'"))
        };
        let named = self.sources.iter().position(is_named);
        named.or_else(|| {
            self.tags
                .iter()
                .find(|tag| !tag.started)
                .map(|tag| tag.source as usize)
        })
    }

    /// Returns the tag by which the program knows the consumer: that of its first queue.
    #[must_use]
    pub fn tag(&self) -> &str {
        self.sources
            .first()
            .map_or("", |subscription| &subscription.tag)
    }

    /// Returns the number of deliveries that may be unsettled; 0 for no limit.
    pub(crate) fn prefetch_count(&self) -> u16 {
        if let Some(count) = self.shared_prefetch_count {
            return count;
        }
        if let Some(Throttle::Tags { prefetch_count }) = self.throttle {
            return prefetch_count;
        }
        self.tags
            .iter()
            .filter(|tag| !tag.leaving)
            .map(|tag| tag.prefetch_count)
            .fold(0, u16::saturating_add)
    }

    /// Returns the last buffered delivery.
    pub(crate) fn last_buffered(&self) -> Option<&Delivered> {
        self.deliveries.last()
    }

    /// Returns the prefetch count that the consumer has, or will have when it has started.
    pub(crate) fn wanted_prefetch_count(&self) -> u16 {
        self.wanted_prefetch
            .unwrap_or_else(|| self.prefetch_count())
    }

    /// Returns an error if the prefetch count cannot be changed to this value.
    pub(crate) fn check_resize(&self, prefetch_count: u16) -> Result<(), Error> {
        let is_same = self.prefetch_count() == prefetch_count || self.no_ack;
        let is_exclusive = self
            .sources
            .iter()
            .any(|subscription| subscription.exclusive);
        if is_exclusive && !is_same && self.shared_prefetch_count.is_none() {
            return Err(Error::invalid(
                "prefetch_count",
                "cannot be changed for an exclusive consumer",
            ));
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
    /// others. Each comes with the name at the start of the consumer and the reason.
    pub fn ended_queues(&self) -> impl Iterator<Item = (ShortStr<'_>, &Ended)> {
        self.sources.iter().filter_map(|subscription| {
            Some((subscription.queue_name(), subscription.ended.as_ref()?))
        })
    }

    /// Returns the queues of the consumer, each with its tag. A queue that the broker has named
    /// comes with its first name.
    pub fn queues(&self) -> impl Iterator<Item = (ShortStr<'_>, &str)> {
        self.sources
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
        matches!(self.phase, Phase::Live) && self.tags.iter().all(|tag| tag.started && !tag.leaving)
    }

    /// Returns `true` if a second tag can replace the consumer's tags and slows it down.
    ///
    /// Brokers ignore the prefetch count of consumers without acknowledgements, refuse a second
    /// consumer beside an exclusive one, and start a consumer with an offset at that offset again.
    pub(crate) fn can_be_throttled(&self) -> bool {
        let is_unsuitable = self
            .sources
            .iter()
            .any(|subscription| subscription.exclusive || subscription.by_offset);
        !self.no_ack
            && !self.dropped
            && !is_unsuitable
            && self.throttle.is_none()
            && self.prefetch_count() != 1
            && self.can_be_resized()
    }
}
