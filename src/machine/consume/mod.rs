//! Consumers: their start, deliveries, prefetch counts, settling, end, and restart after a loss.

pub(crate) mod buffer;
pub(crate) mod cancel;
pub(crate) mod consumer;
pub(crate) mod consumers;
pub(crate) mod deliver;
pub(crate) mod dropping;
pub(crate) mod drops;
pub(crate) mod earlier_channels;
pub(crate) mod ended;
pub(crate) mod interruption;
pub(crate) mod opening;
pub(crate) mod prefetch;
pub(crate) mod reading;
pub(crate) mod requeue;
pub(crate) mod restart_pace;
pub(crate) mod restart_queue;
pub(crate) mod restarting;
pub(crate) mod settle;
pub(crate) mod shared_prefetch;
pub(crate) mod tags;
pub(crate) mod unsettled;
pub(crate) mod write;

use crate::error::Error;
use crate::machine::channel::content::Delivered;
use crate::machine::consume::consumer::{Consumer, Phase, QueuedConsume, Subscription};
use crate::machine::consume::consumers::Consumers;
use crate::machine::consume::drops::Drops;
use crate::machine::consume::opening::open_consumer_channel;
use crate::machine::consume::reading::Reading;
use crate::machine::consume::restart_queue::RestartQueue;
use crate::machine::consume::tags::TagNumber;
use crate::machine::consume::write::write_cancel;
use crate::machine::context::Context;
use crate::machine::publish::Publishing;
use crate::machine::{Consume, ConsumerId, ConsumerSettings, PromiseId, Reply};
use crate::options::{Options, Resubscribe};
use crate::protocol::ShortStr;
use std::collections::VecDeque;

/// The consumers of the connection, and the back-pressure of their buffers on reading.
#[derive(Debug)]
pub(crate) struct Consuming {
    pub(crate) consumers: Consumers,
    /// New consumers that are queued for a channel, in the order of the calls.
    pub(crate) queued: VecDeque<QueuedConsume>,
    /// The consumers that are being restarted.
    pub(crate) restarts: RestartQueue,
    pub(crate) reading: Reading,
    /// Dropped deliveries that are returned after a delay.
    pub(crate) drops: Drops,
    /// The policy of consumers without one of their own.
    pub(crate) resubscribe: Resubscribe,
}

impl Consuming {
    pub(crate) fn new(options: &Options) -> Self {
        let limits = &options.limits;
        Self {
            consumers: Consumers::default(),
            queued: VecDeque::new(),
            restarts: RestartQueue::default(),
            reading: Reading::new(limits.buffered_deliveries, limits.buffered_bytes),
            drops: Drops::default(),
            resubscribe: Resubscribe::never(),
        }
    }

    /// Queues a consumer of one queue. It starts on a channel of its own.
    pub(crate) fn consume(
        &mut self,
        cx: &mut Context,
        consume: &Consume<'_>,
    ) -> Result<PromiseId, Error> {
        let subscriptions = vec![Subscription::new(&cx.topology, consume)?];
        self.queue_consume(cx, subscriptions, &consume.settings(), false)
    }

    /// Queues a consumer of several queues. They share one channel and the settings.
    pub(crate) fn consume_multi(
        &mut self,
        cx: &mut Context,
        queues: &[Consume<'_>],
        settings: &ConsumerSettings,
    ) -> Result<PromiseId, Error> {
        if queues.is_empty() {
            return Err(Error::invalid("queues", "at least one queue is required"));
        }
        let subscriptions = queues
            .iter()
            .map(|consume| Subscription::new(&cx.topology, consume))
            .collect::<Result<_, _>>()?;
        self.queue_consume(cx, subscriptions, settings, true)
    }

    /// Queues a consumer until there is a channel for it.
    fn queue_consume(
        &mut self,
        cx: &mut Context,
        subscriptions: Vec<Subscription>,
        settings: &ConsumerSettings,
        shares_prefetch_count: bool,
    ) -> Result<PromiseId, Error> {
        Subscription::check_size(&subscriptions, cx.transmit.frame_max())?;
        let promise = cx.timed_promise();
        let queued = QueuedConsume {
            promise,
            subscriptions,
            no_ack: settings.no_ack,
            prefetch_count: settings.prefetch_count,
            resubscribe: settings.resubscribe.unwrap_or(self.resubscribe),
            on_drop: settings.on_drop,
            shares_prefetch_count,
            is_possible_cause: false,
        };
        cx.queued_request_bytes += queued.size();
        self.queued.push_back(queued);
        cx.may_start = true;
        Ok(promise)
    }

    /// Starts queued consumers while there are free channels, and fails those for which no channel
    /// can become free.
    ///
    /// Consumers start in the order of the calls. One that cannot start yet delays those behind it,
    /// which need a channel as well. A possible cause of a close delays them until the reply to the
    /// possible cause before it, which arrives within a round trip or the request timeout.
    pub(crate) fn start_consumes(&mut self, cx: &mut Context, publishing: &mut Publishing) {
        while let Some(queued) = self.queued.pop_front() {
            let bytes = queued.size();
            if let Some(waiting) = self.start_consume(cx, publishing, queued) {
                self.queued.push_front(waiting);
                return;
            }
            cx.queued_request_bytes -= bytes;
        }
    }

    /// Starts a queued consumer, or fails it. Returns it if it has to wait.
    fn start_consume(
        &mut self,
        cx: &mut Context,
        publishing: &mut Publishing,
        queued: QueuedConsume,
    ) -> Option<QueuedConsume> {
        let promise = queued.promise;
        if queued.is_possible_cause && cx.has_pending_possible_cause() {
            return Some(queued);
        }
        // The promise may have timed out while the consumer was starting on a lost connection.
        if !cx.promises.is_pending(promise) {
            return None;
        }
        // The negotiated frame size may be smaller than the one that `queue_consume` expected.
        let frame_max = cx.transmit.frame_max();
        if let Err(error) = Subscription::check_size(&queued.subscriptions, frame_max) {
            cx.complete(promise, Err(error));
            return None;
        }
        let Some(number) = open_consumer_channel(cx, publishing) else {
            if !cx.channels.are_consumed() {
                return Some(queued);
            }
            // Consumers use or reserve all channels, and none of them is about to end.
            cx.complete(promise, Err(Error::ChannelLimit));
            return None;
        };
        if queued.is_possible_cause {
            cx.possible_cause = Some(promise);
        }
        let prefetch_count = queued.prefetch_count;
        let id = self.consumers.add(number, queued);
        if let Some(channel) = cx.channels.get_mut(number) {
            channel.set_consumer(id);
        }
        self.consumers
            .write_consumes(cx, number, id, prefetch_count);
        None
    }

    /// Handles `consume-ok`. It contains the name of the tag as the broker spells it.
    /// `resize_promise` is that of the change of the prefetch count for which the tag was started.
    pub(crate) fn handle_consume_ok(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        tag: TagNumber,
        name: ShortStr<'_>,
        resize_promise: Option<PromiseId>,
    ) {
        let consumer = self.consumers.get_mut(id);
        let is_here = |it: &&mut Consumer| !it.has_ended() && it.channel == Some(number);
        let Some(consumer) = consumer.filter(is_here) else {
            // The consumer ended or left the channel while `consume-ok` was pending. Its cancel
            // could not be written then, because RabbitMQ 3.10 closes the connection over a cancel
            // before `consume-ok`.
            write_cancel(cx, number, id, tag, name);
            if let Some(promise) = resize_promise {
                cx.complete(promise, Err(Error::Stale));
            }
            return;
        };
        match consumer.tags.iter_mut().find(|it| it.number == tag) {
            Some(tag) => tag.started = true,
            // The server cancelled the tag before it had started.
            None => write_cancel(cx, number, id, tag, name),
        }
        if consumer.is_restarting() || matches!(consumer.phase, Phase::Starting(_)) {
            consumer.pending_starts = consumer.pending_starts.saturating_sub(1);
            if consumer.pending_starts == 0 {
                self.handle_started(cx, id);
            }
            return;
        }
        consumer.resize_promises.extend(resize_promise);
        self.consumers.write_cancels(cx, id);
        self.consumers.complete_resizes(cx, id);
        self.unthrottle(cx, id);
    }

    /// Handles the start of a consumer: all its queues have started.
    fn handle_started(&mut self, cx: &mut Context, id: ConsumerId) {
        // Unreachable: the caller has found the consumer.
        let Some(consumer) = self.consumers.get_mut(id) else {
            return;
        };
        match std::mem::replace(&mut consumer.phase, Phase::Live) {
            Phase::Starting(promise) => cx.complete(promise, Ok(Reply::Consumer(id))),
            _ => self.finish_restart(cx, id),
        }
    }

    /// Takes up to `most` deliveries of a consumer and appends them to `into`. An empty `into` may
    /// be exchanged for another buffer, so it may have another allocation afterwards, or none.
    pub(crate) fn take_deliveries(
        &mut self,
        cx: &mut Context,
        consumer: ConsumerId,
        most: usize,
        into: &mut VecDeque<Delivered>,
    ) {
        // The program may still have the id of a removed consumer.
        let Some(it) = self.consumers.get(consumer) else {
            return;
        };
        let (reads_stream, before) = (it.reads_stream, into.len());
        let most = it.capacity(&cx.channels, if reads_stream { 1 } else { most });
        let is_throttled = self.consumers.take(consumer, most, into);
        if reads_stream && let Some(taken) = into.get(before) {
            self.consumers.record_offset(consumer, taken);
        }
        if is_throttled {
            self.unthrottle(cx, consumer);
        }
    }

    /// Completes the queued consumers with an error.
    pub(crate) fn fail_waiting(&mut self, cx: &mut Context, error: &Error) {
        for consume in std::mem::take(&mut self.queued) {
            cx.queued_request_bytes -= consume.size();
            cx.complete(consume.promise, Err(error.clone()));
        }
    }
}
