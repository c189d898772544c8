//! Consumers: starting, delivering, resizing.

use super::context::Context;
use super::publishing::Publishing;
use super::requesting::{check_queue_name, info};
use crate::error::{Error, Fault};
use crate::machine::channel::{Awaited, Resize, Role};
use crate::machine::consumers::Consumers;
use crate::machine::consumers::{Consumer, Phase, Terms};
use crate::machine::content::{Delivered, Recipient, STREAM_OFFSET};
use crate::machine::reading::Reading;
use crate::machine::resubscription::Resubscription;
use crate::machine::tags::TagNumber;
use crate::machine::waiting::WaitingConsume;
use crate::machine::{Consume, ConsumerId, Ended, PromiseId, Reply};
use crate::message::Message;
use crate::options::Options;
use crate::protocol::method::basic;
use crate::protocol::{EncodeError, ReplyCode, ShortStr};
use std::collections::VecDeque;

/// Octets of a consumer tag that are the user's; the rest makes it unique.
const LONGEST_TAG: usize = 225;

/// The consumers of the connection, and whether it reads on for them.
#[derive(Debug)]
pub(in crate::machine) struct Consuming {
    pub(in crate::machine) consumers: Consumers,
    /// Consumers that wait for a channel.
    pub(in crate::machine) waiting: VecDeque<WaitingConsume>,
    pub(in crate::machine) resubscription: Resubscription,
    pub(in crate::machine) reading: Reading,
}

impl Consuming {
    pub(in crate::machine) fn new(options: &Options) -> Self {
        let limits = &options.limits;
        Self {
            consumers: Consumers::default(),
            waiting: VecDeque::new(),
            resubscription: Resubscription::default(),
            reading: Reading::new(limits.buffered_deliveries, limits.buffered_octets),
        }
    }
}

impl Consuming {
    /// Starts a consumer on a channel of its own.
    pub(in crate::machine) fn consume(
        &mut self,
        cx: &mut Context,
        consume: &Consume<'_>,
    ) -> Result<PromiseId, Error> {
        let sources = vec![self.terms(cx, consume)?];
        self.wait_to_consume(cx, sources, consume.no_ack, consume.prefetch_count, false)
    }

    /// Starts a consumer of several queues, with one channel and one prefetch count for all of them. The prefetch count and
    /// `no_ack` of each are not looked at.
    pub(in crate::machine) fn consume_multi(
        &mut self,
        cx: &mut Context,
        queues: &[Consume<'_>],
        prefetch_count: u16,
        no_ack: bool,
    ) -> Result<PromiseId, Error> {
        if queues.is_empty() {
            return Err(Error::invalid("queues", "there is none"));
        }
        let sources = queues.iter().map(|consume| self.terms(cx, consume)).collect::<Result<_, _>>()?;
        self.wait_to_consume(cx, sources, no_ack, prefetch_count, true)
    }

    pub(in crate::machine) fn terms(&self, cx: &Context, consume: &Consume<'_>) -> Result<Terms, Error> {
        check_queue_name(consume.queue)?;
        if !consume.arguments.is_finite() {
            return Err(Error::invalid("arguments", "RabbitMQ can't read a number that is NaN or infinite"));
        }
        if consume.tag.len() > LONGEST_TAG {
            let why = format!("{} octets, where there is room for {LONGEST_TAG}", consume.tag.len());
            return Err(Error::invalid("consumer_tag", why));
        }
        Ok(Terms {
            queue: cx.topology.original(consume.queue.as_octets()).into(),
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

    /// Whether each of them fits into a frame.
    pub(in crate::machine) fn check_size(&self, cx: &Context, sources: &[Terms]) -> Result<(), Error> {
        let longest = sources.iter().map(Terms::octets).max().unwrap_or(0) + 2 * ShortStr::MAX;
        if longest > cx.frame_max as usize {
            return Err(EncodeError::FrameTooLarge { octets: longest, limit: cx.frame_max }.into());
        }
        Ok(())
    }

    pub(in crate::machine) fn wait_to_consume(
        &mut self,
        cx: &mut Context,
        sources: Vec<Terms>,
        no_ack: bool,
        prefetch_count: u16,
        shares_prefetch_count: bool,
    ) -> Result<PromiseId, Error> {
        self.check_size(cx, &sources)?;
        let promise = cx.timed_promise();
        cx.request_octets += sources.iter().map(Terms::octets).sum::<usize>();
        self.waiting.push_back(WaitingConsume {
            promise,
            sources,
            no_ack,
            prefetch_count,
            shares_prefetch_count,
            is_suspected: false,
        });
        cx.attention = true;
        Ok(promise)
    }

    /// Starts waiting consumers while there are free channels, and refuses those for which no
    /// channel can become free.
    pub(in crate::machine) fn start_consumes(&mut self, cx: &mut Context, publishing: &mut Publishing) {
        while let Some(waiting) = self.waiting.front() {
            let promise = waiting.promise;
            if waiting.is_suspected && cx.is_trying() {
                return;
            }
            // The limit that was agreed upon may be lower than the one that was expected.
            let mut fits = self.check_size(cx, &waiting.sources);
            let is_wanted = cx.promises.is_waiting(promise);
            let number = if is_wanted && fits.is_ok() { self.consumer_channel(cx, publishing) } else { None };
            if is_wanted && fits.is_ok() && number.is_none() {
                if !cx.channels.are_consumed() {
                    return;
                }
                // No other consumer is about to end, so no channel becomes free.
                fits = Err(Error::ChannelLimit);
            }
            let Some(waiting) = self.waiting.pop_front() else { return };
            if waiting.is_suspected {
                cx.trial = Some(promise);
            }
            let WaitingConsume { sources, no_ack, prefetch_count, shares_prefetch_count, .. } = waiting;
            cx.request_octets -= sources.iter().map(Terms::octets).sum::<usize>();
            let Some(number) = number else {
                if let Err(error) = fits {
                    cx.answer(promise, Err(error));
                }
                continue;
            };
            let shared = shares_prefetch_count.then_some(prefetch_count);
            let consumer = self.consumers.add(number, sources, no_ack, shared, promise);
            if let Some(channel) = cx.channels.get_mut(number) {
                channel.consumer = Some(consumer);
            }
            self.write_consumes(cx, number, consumer, prefetch_count);
        }
    }

    /// Starts all queues of a consumer on its channel.
    pub(in crate::machine) fn write_consumes(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        prefetch_count: u16,
    ) {
        let Some(consumer) = self.consumers.get(id) else { return };
        let is_shared = consumer.shared_prefetch_count.is_some();
        let live = (0..).zip(&consumer.sources).filter(|(_, terms)| terms.ended.is_none());
        let live: Vec<u32> = live.map(|(source, _)| source).collect();
        if let Some(channel) = cx.channels.get_mut(number) {
            channel.no_ack = consumer.no_ack;
        }
        if is_shared && prefetch_count != 0 {
            self.write_qos(cx, number, prefetch_count, true, None);
        }
        for source in live {
            let own = if is_shared { 0 } else { prefetch_count };
            self.write_consume(cx, number, id, source, own, None, false);
        }
    }

    pub(in crate::machine) fn consumer_channel(
        &mut self,
        cx: &mut Context,
        publishing: &mut Publishing,
    ) -> Option<u16> {
        if !cx.channels.may_keep() {
            return None;
        }
        let number = cx.open_channel(Role::Consume).or_else(|| cx.channels.take_idle(Role::Consume));
        if number.is_none() {
            publishing.make_room(cx);
        }
        number
    }

    /// Writes `qos`: for the consumers to come, or for all of the channel together.
    pub(in crate::machine) fn write_qos(
        &mut self,
        cx: &mut Context,
        number: u16,
        prefetch_count: u16,
        global: bool,
        asked: Option<(ConsumerId, Resize)>,
    ) {
        let Ok(method) = info(basic::Qos::ID) else { return };
        if let Some(channel) = cx.channels.get_mut(number) {
            if global {
                channel.shares_prefetch_count = true;
            } else {
                channel.prefetch_count = prefetch_count;
            }
        }
        cx.write(number, &basic::Qos { prefetch_size: 0, prefetch_count, global });
        let awaited = match asked {
            Some((consumer, resize)) => Awaited::Qos { consumer, resize, method },
            None => Awaited::Nothing(method),
        };
        cx.await_reply(number, awaited);
    }

    /// Writes `qos`, if need be, and `consume` with a tag of its own, which is known before any delivery can come.
    pub(in crate::machine) fn write_consume(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        source: u32,
        prefetch_count: u16,
        resized: Option<Resize>,
        replaces: bool,
    ) {
        let Ok(method) = info(basic::Consume::ID) else { return };
        if cx.channels.get(number).is_some_and(|channel| channel.prefetch_count != prefetch_count) {
            self.write_qos(cx, number, prefetch_count, false, None);
        }
        let Some(no_ack) = self.consumers.get(id).map(|consumer| consumer.no_ack) else { return };
        if replaces && let Some(consumer) = self.consumers.get_mut(id) {
            consumer.tags.iter_mut().for_each(|tag| tag.leaving = true);
        }
        let Some((tag, terms)) = self.consumers.add_tag(id, source, prefetch_count) else { return };
        let name = tag.to_tag(&terms.users_tag);
        let queue = cx.topology.current(&terms.queue);
        let consume = basic::Consume {
            queue: ShortStr::from_octets(queue).unwrap_or_default(),
            consumer_tag: ShortStr::cut(&name),
            no_local: terms.no_local,
            no_ack,
            exclusive: terms.exclusive,
            nowait: false,
            arguments: terms.arguments.as_ref(),
        };
        let written = cx.out.method(number, cx.frame_max, &consume);
        cx.attention = true;
        debug_assert!(written.is_ok(), "{written:?}");
        cx.await_reply(number, Awaited::Consume { consumer: id, tag, resized, method });
    }

    /// Handles `consume-ok`: a consumer has started under that tag, as the broker spells it.
    pub(in crate::machine) fn consume_ok(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        (tag, name): (TagNumber, ShortStr<'_>),
        resized: Option<PromiseId>,
    ) {
        let consumer = self.consumers.get_mut(id).filter(|consumer| !consumer.has_ended());
        let known = consumer.and_then(|consumer| consumer.tags.iter_mut().find(|it| it.number == tag));
        match known {
            Some(tag) => tag.started = true,
            // The broker or the program ended it before it had started, when the cancel could not
            // be written.
            None => self.write_cancel(cx, number, id, tag, name),
        }
        let Some(consumer) = self.consumers.get_mut(id).filter(|consumer| !consumer.has_ended()) else {
            if let Some(promise) = resized {
                cx.answer(promise, Err(Error::Stale));
            }
            return;
        };
        if let Phase::Starting(promise) = consumer.phase {
            consumer.starting = consumer.starting.saturating_sub(1);
            if consumer.starting > 0 {
                return;
            }
            consumer.phase = Phase::Live;
            cx.answer(promise, Ok(Reply::Consumer(id)));
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
        self.write_cancels(cx, id);
        self.answer_resized(cx, id);
        self.unthrottle(cx, id);
    }

    /// Answers those who wait for another prefetch count, when it is the only one that holds.
    pub(in crate::machine) fn answer_resized(&mut self, cx: &mut Context, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        if consumer.tags.iter().any(|tag| tag.leaving || !tag.started) {
            return;
        }
        for promise in std::mem::take(&mut consumer.resizing) {
            cx.answer(promise, Ok(Reply::Done));
        }
    }

    /// Changes how many messages of a live consumer may be unsettled; 0 for no limit.
    pub(in crate::machine) fn qos(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        prefetch_count: u16,
    ) -> Result<PromiseId, Error> {
        let consumer = self.consumers.get(id).filter(|it| matches!(it.phase, Phase::Live | Phase::Restoring));
        let consumer = consumer.ok_or(Error::Stale)?;
        if matches!(consumer.phase, Phase::Restoring) {
            return Ok(self.qos_when_restored(cx, id, prefetch_count));
        }
        consumer.check_resize(prefetch_count)?;
        let promise = cx.counted_promise();
        self.resize(cx, id, prefetch_count, promise);
        Ok(promise)
    }

    /// Changes the prefetch count of a live consumer for which that can be done.
    pub(in crate::machine) fn resize(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        prefetch_count: u16,
        promise: PromiseId,
    ) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        let (number, current) = (consumer.channel, consumer.prefetch_count());
        let is_shared = consumer.shared_prefetch_count.is_some();
        let resize = Resize { promise, before: current };
        if current == prefetch_count || consumer.no_ack {
            // An earlier change to the same count may be under way.
            consumer.resizing.push(promise);
            self.answer_resized(cx, id);
        } else if self.is_throttled(id) {
            self.resize_throttled(cx, id, prefetch_count, promise);
        } else if is_shared {
            if let Some(consumer) = self.consumers.get_mut(id) {
                consumer.shared_prefetch_count = Some(prefetch_count);
            }
            self.write_qos(cx, number, prefetch_count, true, Some((id, resize)));
        } else if current != 0 && prefetch_count > current {
            self.write_consume(cx, number, id, 0, prefetch_count - current, Some(resize), false);
        } else {
            self.write_consume(cx, number, id, 0, prefetch_count, Some(resize), true);
        }
    }

    /// The consumer starts again with that prefetch count, or gets it right behind.
    pub(in crate::machine) fn qos_when_restored(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
        prefetch_count: u16,
    ) -> PromiseId {
        let promise = cx.counted_promise();
        if let Some(consumer) = self.consumers.get_mut(id) {
            consumer.wanted_prefetch = Some(prefetch_count);
            consumer.resizing.push(promise);
        }
        promise
    }

    /// Has the broker take back what a live consumer holds, and deliver it again, to this consumer or another. From here on
    /// the deliveries that are held are stale.
    pub(in crate::machine) fn recover(
        &mut self,
        cx: &mut Context,
        id: ConsumerId,
    ) -> Result<PromiseId, Error> {
        let consumer = self.consumers.get(id).filter(|it| matches!(it.phase, Phase::Live | Phase::Restoring));
        let consumer = consumer.ok_or(Error::Stale)?;
        let number = consumer.channel;
        let method = info(basic::Recover::ID)?;
        if matches!(consumer.phase, Phase::Restoring) {
            // With its connection the broker has taken back everything.
            let promise = cx.promises.open();
            cx.answer(promise, Ok(Reply::Done));
            return Ok(promise);
        }
        let promise = cx.counted_promise();
        cx.flush_channel_acks(number);
        self.consumers.discard_unsettled(id);
        if let Some(channel) = cx.channels.get_mut(number) {
            channel.unsettled.forget();
        }
        cx.write(number, &basic::Recover { requeue: true });
        cx.await_reply(number, Awaited::Recover { promise, method });
        self.unthrottle(cx, id);
        Ok(promise)
    }

    /// For whom a delivery is that comes on that channel with that tag.
    #[inline]
    pub(in crate::machine) fn recipient(
        &self,
        cx: &Context,
        number: u16,
        tag: ShortStr<'_>,
    ) -> Option<Recipient> {
        self.consumers.recipient(cx.channels.get(number)?.consumer?, TagNumber::of(tag)?)
    }

    #[inline]
    pub(in crate::machine) fn deliver(
        &mut self,
        cx: &mut Context,
        number: u16,
        recipient: Option<Recipient>,
        tag: u64,
        redelivered: bool,
        message: Message,
    ) -> Result<(), Error> {
        let consumer = recipient.and_then(|recipient| self.consumers.get(recipient.consumer));
        let is_wanted = consumer.is_some_and(|consumer| {
            // What comes while a consumer is cancelled goes back, unless that would lose it.
            !consumer.dropped
                && (consumer.no_ack
                    || matches!(consumer.phase, Phase::Live | Phase::Starting(_) | Phase::Restoring))
        });
        let Some(channel) = cx.channels.get_mut(number) else { return Ok(()) };
        let no_ack = channel.no_ack;
        if !channel.unsettled.deliver(tag, no_ack) {
            return Err(reused_tag());
        }
        if !no_ack && channel.is_recovering() {
            channel.unsettled.forget();
            return Ok(());
        }
        let incarnation = channel.incarnation;
        let delivered = Delivered {
            message,
            tag,
            redelivered,
            settled: no_ack.into(),
            source: recipient.map_or(0, |recipient| recipient.source),
            channel: number,
            incarnation,
            epoch: cx.epoch,
            by_offset: recipient.is_some_and(|recipient| recipient.by_offset),
        };
        match recipient {
            Some(recipient) if is_wanted => self.consumers.push(recipient.consumer, delivered),
            _ => return self.receive_unwanted(cx, &delivered),
        }
        Ok(())
    }

    /// How many deliveries wait to be taken.
    pub(in crate::machine) fn buffered_deliveries(&self) -> usize {
        self.consumers.buffered().0
    }

    /// Takes up to so many deliveries of a consumer, behind those that are there. When there are none, `into` may have another
    /// allocation afterwards, or none.
    pub(in crate::machine) fn take_deliveries(
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

    /// Why a consumer has ended, if it has. Deliveries may still wait to be taken.
    pub(in crate::machine) fn ended(&self, consumer: ConsumerId) -> Option<&Ended> {
        match &self.consumers.get(consumer)?.phase {
            Phase::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    /// Returns the queues that a consumer of several queues has lost while it goes on with the
    /// others. Each comes with the name at the start of the consumer and the reason.
    pub(in crate::machine) fn ended_queues(
        &self,
        consumer: ConsumerId,
    ) -> impl Iterator<Item = (ShortStr<'_>, &Ended)> {
        let sources = self.consumers.get(consumer).map_or(&[][..], |consumer| &consumer.sources);
        sources.iter().filter_map(|terms| {
            Some((ShortStr::from_octets(&terms.queue).unwrap_or_default(), terms.ended.as_ref()?))
        })
    }

    /// How many deliveries of a consumer were dropped with connections that went, because they could not be settled any
    /// more.
    pub(in crate::machine) fn lost_deliveries(&self, consumer: ConsumerId) -> u64 {
        self.consumers.get(consumer).map_or(0, |consumer| consumer.lost)
    }

    /// Counts deliveries that were taken from a consumer and dropped, because they can't be settled
    /// any more.
    pub(in crate::machine) fn lose_taken(&mut self, consumer: ConsumerId, count: u64) {
        self.consumers.count_lost(consumer, count);
    }

    /// The tag that its holder knows a consumer by.
    pub(in crate::machine) fn consumer_tag(&self, consumer: ConsumerId) -> Option<&str> {
        self.consumers.get(consumer).map(Consumer::tag)
    }

    /// The queues of a consumer, those that the broker names by the first of their names, each with the tag that its holder
    /// knows it by.
    pub(in crate::machine) fn consumer_queues(
        &self,
        consumer: ConsumerId,
    ) -> impl Iterator<Item = (ShortStr<'_>, &str)> {
        let sources = self.consumers.get(consumer).map_or(&[][..], |consumer| &consumer.sources);
        sources.iter().map(|terms| (ShortStr::from_octets(&terms.queue).unwrap_or_default(), &*terms.tag))
    }
}

#[cold]
fn reused_tag() -> Error {
    Fault::by_client(ReplyCode::COMMAND_INVALID, "a delivery tag used again", basic::Deliver::ID).into()
}
