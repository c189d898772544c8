//! Consumers: starting them, their deliveries, their prefetch counts and their end.

pub(crate) mod buffer;
pub(crate) mod cancel;
pub(crate) mod consumer;
pub(crate) mod consumers;
pub(crate) mod deliver;
pub(crate) mod pending;
pub(crate) mod prefetch;
pub(crate) mod reading;
pub(crate) mod resubscribe;
pub(crate) mod resubscription;
pub(crate) mod settle;
pub(crate) mod tags;
pub(crate) mod unsettled;
pub(crate) mod write;

use crate::error::Error;
use crate::machine::channel::Awaited;
use crate::machine::channel::content::Delivered;
use crate::machine::consume::consumer::{Phase, Subscription};
use crate::machine::consume::consumers::Consumers;
use crate::machine::consume::pending::{QueuedConsume, open_consumer_channel};
use crate::machine::consume::reading::Reading;
use crate::machine::consume::resubscription::Resubscription;
use crate::machine::consume::tags::TagNumber;
use crate::machine::context::Context;
use crate::machine::publish::Publishing;
use crate::machine::{Consume, ConsumerId, PromiseId, Reply};
use crate::options::Options;
use crate::protocol::ShortStr;
use crate::protocol::method::basic;
use std::collections::VecDeque;

/// The consumers of the connection, and the back-pressure of their buffers on reading.
#[derive(Debug)]
pub(crate) struct Consuming {
    pub(crate) consumers: Consumers,
    /// Consumers that wait for a channel.
    pub(crate) queued: VecDeque<QueuedConsume>,
    pub(crate) resubscription: Resubscription,
    pub(crate) reading: Reading,
}

impl Consuming {
    pub(crate) fn new(options: &Options) -> Self {
        let limits = &options.limits;
        Self {
            consumers: Consumers::default(),
            queued: VecDeque::new(),
            resubscription: Resubscription::default(),
            reading: Reading::new(limits.buffered_deliveries, limits.buffered_bytes),
        }
    }
}

impl Consuming {
    /// Starts a consumer on a channel of its own.
    pub(crate) fn consume(
        &mut self,
        cx: &mut Context,
        consume: &Consume<'_>,
    ) -> Result<PromiseId, Error> {
        let sources = vec![Subscription::new(&cx.topology, consume)?];
        self.queue_consume(cx, sources, consume.no_ack, consume.prefetch_count, false)
    }

    /// Starts a consumer of several queues, with one channel and one prefetch count for all of
    /// them. The prefetch count and `no_ack` of each queue are ignored.
    pub(crate) fn consume_multi(
        &mut self,
        cx: &mut Context,
        queues: &[Consume<'_>],
        prefetch_count: u16,
        no_ack: bool,
    ) -> Result<PromiseId, Error> {
        if queues.is_empty() {
            return Err(Error::invalid("queues", "at least one queue is required"));
        }
        let sources = queues
            .iter()
            .map(|consume| Subscription::new(&cx.topology, consume))
            .collect::<Result<_, _>>()?;
        self.queue_consume(cx, sources, no_ack, prefetch_count, true)
    }

    /// Queues a consumer until there is a channel for it.
    pub(crate) fn queue_consume(
        &mut self,
        cx: &mut Context,
        sources: Vec<Subscription>,
        no_ack: bool,
        prefetch_count: u16,
        shares_prefetch_count: bool,
    ) -> Result<PromiseId, Error> {
        Subscription::check_size(&sources, cx.transmit.frame_max())?;
        let promise = cx.timed_promise();
        cx.queued_request_bytes += sources.iter().map(Subscription::size).sum::<usize>();
        self.queued.push_back(QueuedConsume {
            promise,
            sources,
            no_ack,
            prefetch_count,
            shares_prefetch_count,
            is_suspected: false,
        });
        cx.may_start = true;
        Ok(promise)
    }

    /// Starts queued consumers while there are free channels, and refuses those for which no
    /// channel can become free.
    pub(crate) fn start_consumes(&mut self, cx: &mut Context, publishing: &mut Publishing) {
        while let Some(queued) = self.queued.front() {
            let promise = queued.promise;
            if queued.is_suspected && cx.has_pending_suspect() {
                return;
            }
            // The negotiated frame size may be smaller than the expected one.
            let mut fits = Subscription::check_size(&queued.sources, cx.transmit.frame_max());
            let is_wanted = cx.promises.is_pending(promise);
            let number = if is_wanted && fits.is_ok() {
                open_consumer_channel(cx, publishing)
            } else {
                None
            };
            if is_wanted && fits.is_ok() && number.is_none() {
                if !cx.channels.are_consumed() {
                    return;
                }
                // Consumers use or reserve all channels, and none of them is about to end.
                fits = Err(Error::ChannelLimit);
            }
            let Some(queued) = self.queued.pop_front() else {
                return;
            };
            if queued.is_suspected {
                cx.suspect = Some(promise);
            }
            let QueuedConsume {
                sources,
                no_ack,
                prefetch_count,
                shares_prefetch_count,
                ..
            } = queued;
            cx.queued_request_bytes -= sources.iter().map(Subscription::size).sum::<usize>();
            // The promise was abandoned or timed out, or the consumer is refused.
            let Some(number) = number else {
                if let Err(error) = fits {
                    cx.complete(promise, Err(error));
                }
                continue;
            };
            let shared = shares_prefetch_count.then_some(prefetch_count);
            let consumer = self.consumers.add(number, sources, no_ack, shared, promise);
            if let Some(channel) = cx.channels.get_mut(number) {
                channel.consumer = Some(consumer);
            }
            self.consumers
                .write_consumes(cx, number, consumer, prefetch_count);
        }
    }

    /// Handles `consume-ok`, which comes with the tag as the broker spells it.
    pub(crate) fn consume_ok(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        (tag, name): (TagNumber, ShortStr<'_>),
        resized: Option<PromiseId>,
    ) {
        let consumer = self.consumers.get_mut(id);
        let consumer = consumer.filter(|it| !it.has_ended());
        let known =
            consumer.and_then(|consumer| consumer.tags.iter_mut().find(|it| it.number == tag));
        match known {
            Some(tag) => tag.started = true,
            // The consumer ended before it had started, when its cancel could not be written yet.
            None => self.consumers.write_cancel(cx, number, id, tag, name),
        }
        // The consumer may have ended while `consume-ok` was pending.
        let consumer = self.consumers.get_mut(id);
        let Some(consumer) = consumer.filter(|it| !it.has_ended()) else {
            if let Some(promise) = resized {
                cx.complete(promise, Err(Error::Stale));
            }
            return;
        };
        if let Phase::Starting(promise) = consumer.phase {
            consumer.starting = consumer.starting.saturating_sub(1);
            if consumer.starting > 0 {
                return;
            }
            consumer.phase = Phase::Live;
            cx.complete(promise, Ok(Reply::Consumer(id)));
            return;
        }
        if matches!(consumer.phase, Phase::Restoring) {
            consumer.starting = consumer.starting.saturating_sub(1);
            if consumer.starting == 0 {
                self.consumer_restored(cx, id);
            }
            return;
        }
        consumer.resizing.extend(resized);
        self.consumers.write_cancels(cx, id);
        self.complete_resizes(cx, id);
        self.unthrottle(cx, id);
    }

    /// Makes the broker requeue the unsettled deliveries of a live consumer and deliver them again,
    /// to this consumer or another. Deliveries that the program still has are stale from then on.
    pub(crate) fn recover(&mut self, cx: &mut Context, id: ConsumerId) -> Result<PromiseId, Error> {
        let consumer = self
            .consumers
            .get(id)
            .filter(|it| matches!(it.phase, Phase::Live | Phase::Restoring));
        let consumer = consumer.ok_or(Error::Stale)?;
        let number = consumer.channel;
        if matches!(consumer.phase, Phase::Restoring) {
            // The broker has requeued all deliveries of the lost connection.
            let promise = cx.promises.open();
            cx.complete(promise, Ok(Reply::Done));
            return Ok(promise);
        }
        let promise = cx.counted_promise();
        cx.flush_channel_acks(number);
        self.consumers.discard_unsettled(id);
        if let Some(channel) = cx.channels.get_mut(number) {
            channel.unsettled.forget();
        }
        cx.write(number, &basic::Recover { requeue: true });
        cx.await_reply(number, &basic::Recover::INFO, Awaited::Recover { promise });
        self.unthrottle(cx, id);
        Ok(promise)
    }

    /// Takes up to `most` deliveries of a consumer and appends them to `into`. If there are none,
    /// `into` may have another allocation afterwards, or none.
    pub(crate) fn take_deliveries(
        &mut self,
        cx: &mut Context,
        consumer: ConsumerId,
        most: usize,
        into: &mut VecDeque<Delivered>,
    ) {
        let is_throttled = self.consumers.take(consumer, most, into);
        if is_throttled {
            self.unthrottle(cx, consumer);
        }
    }

    /// Fails the consumers that wait for a channel.
    pub(crate) fn fail_waiting(&mut self, cx: &mut Context, error: &Error) {
        for consume in std::mem::take(&mut self.queued) {
            cx.queued_request_bytes -= consume.size();
            cx.complete(consume.promise, Err(error.clone()));
        }
    }
}
