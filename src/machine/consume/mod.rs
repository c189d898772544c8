//! Consumers: starting, delivering, resizing.

pub(crate) mod buffer;
pub(crate) mod cancel;
pub(crate) mod consumers;
pub(crate) mod pending;
pub(crate) mod prefetch;
pub(crate) mod reading;
pub(crate) mod resubscribe;
pub(crate) mod resubscription;
pub(crate) mod settle;
pub(crate) mod tags;
pub(crate) mod unsettled;

use crate::error::{Error, Fault};
use crate::machine::channel::content::{Delivered, Recipient, STREAM_OFFSET};
use crate::machine::channel::{Awaited, Resize, Role};
use crate::machine::consume::consumers::{Consumer, Consumers, Phase, Terms};
use crate::machine::consume::pending::WaitingConsume;
use crate::machine::consume::reading::Reading;
use crate::machine::consume::resubscription::Resubscription;
use crate::machine::consume::tags::TagNumber;
use crate::machine::context::Context;
use crate::machine::publish::Publishing;
use crate::machine::request::check::check_queue_name;
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
pub(crate) struct Consuming {
    pub(crate) consumers: Consumers,
    /// Consumers that wait for a channel.
    pub(crate) waiting: VecDeque<WaitingConsume>,
    pub(crate) resubscription: Resubscription,
    pub(crate) reading: Reading,
}

impl Consuming {
    pub(crate) fn new(options: &Options) -> Self {
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
    pub(crate) fn consume(
        &mut self,
        cx: &mut Context,
        consume: &Consume<'_>,
    ) -> Result<PromiseId, Error> {
        let sources = vec![self.terms(cx, consume)?];
        self.wait_to_consume(cx, sources, consume.no_ack, consume.prefetch_count, false)
    }

    /// Starts a consumer of several queues, with one channel and one prefetch count for all of
    /// them. The prefetch count and `no_ack` of each are not looked at.
    pub(crate) fn consume_multi(
        &mut self,
        cx: &mut Context,
        queues: &[Consume<'_>],
        prefetch_count: u16,
        no_ack: bool,
    ) -> Result<PromiseId, Error> {
        if queues.is_empty() {
            return Err(Error::invalid("queues", "there is none"));
        }
        let sources = queues
            .iter()
            .map(|consume| self.terms(cx, consume))
            .collect::<Result<_, _>>()?;
        self.wait_to_consume(cx, sources, no_ack, prefetch_count, true)
    }

    pub(crate) fn terms(&self, cx: &Context, consume: &Consume<'_>) -> Result<Terms, Error> {
        check_queue_name(consume.queue)?;
        if !consume.arguments.is_finite() {
            return Err(Error::invalid(
                "arguments",
                "RabbitMQ can't read a number that is NaN or infinite",
            ));
        }
        if consume.tag.len() > LONGEST_TAG {
            let why = format!(
                "{} octets, where there is room for {LONGEST_TAG}",
                consume.tag.len()
            );
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
    pub(crate) fn check_size(&self, cx: &Context, sources: &[Terms]) -> Result<(), Error> {
        let longest = sources.iter().map(Terms::octets).max().unwrap_or(0) + 2 * ShortStr::MAX;
        if longest > cx.frame_max as usize {
            return Err(EncodeError::FrameTooLarge {
                octets: longest,
                limit: cx.frame_max,
            }
            .into());
        }
        Ok(())
    }

    pub(crate) fn wait_to_consume(
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
        cx.may_start = true;
        Ok(promise)
    }

    /// Starts waiting consumers while there are free channels, and refuses those for which no
    /// channel can become free.
    pub(crate) fn start_consumes(&mut self, cx: &mut Context, publishing: &mut Publishing) {
        while let Some(waiting) = self.waiting.front() {
            let promise = waiting.promise;
            if waiting.is_suspected && cx.has_pending_suspect() {
                return;
            }
            // The limit that was agreed upon may be lower than the one that was expected.
            let mut fits = self.check_size(cx, &waiting.sources);
            let is_wanted = cx.promises.is_pending(promise);
            let number = if is_wanted && fits.is_ok() {
                self.consumer_channel(cx, publishing)
            } else {
                None
            };
            if is_wanted && fits.is_ok() && number.is_none() {
                if !cx.channels.are_consumed() {
                    return;
                }
                // No other consumer is about to end, so no channel becomes free.
                fits = Err(Error::ChannelLimit);
            }
            let Some(waiting) = self.waiting.pop_front() else {
                return;
            };
            if waiting.is_suspected {
                cx.suspect = Some(promise);
            }
            let WaitingConsume {
                sources,
                no_ack,
                prefetch_count,
                shares_prefetch_count,
                ..
            } = waiting;
            cx.request_octets -= sources.iter().map(Terms::octets).sum::<usize>();
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
            self.write_consumes(cx, number, consumer, prefetch_count);
        }
    }

    /// Starts all queues of a consumer on its channel.
    pub(crate) fn write_consumes(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        prefetch_count: u16,
    ) {
        let Some(consumer) = self.consumers.get(id) else {
            return;
        };
        let is_shared = consumer.shared_prefetch_count.is_some();
        let live = (0..)
            .zip(&consumer.sources)
            .filter(|(_, terms)| terms.ended.is_none());
        let live: Vec<u32> = live.map(|(source, _)| source).collect();
        if let Some(channel) = cx.channels.get_mut(number) {
            channel.no_ack = consumer.no_ack;
        }
        if is_shared && prefetch_count != 0 {
            self.write_qos(cx, number, prefetch_count, true, None);
        }
        for source in live {
            let own = if is_shared { 0 } else { prefetch_count };
            self.write_consume(cx, number, id, source, own, None);
        }
    }

    pub(crate) fn consumer_channel(
        &mut self,
        cx: &mut Context,
        publishing: &mut Publishing,
    ) -> Option<u16> {
        if !cx.channels.may_open_long_lived() {
            return None;
        }
        let number = cx
            .open_channel(Role::Consume)
            .or_else(|| cx.channels.take_idle(Role::Consume));
        if number.is_none() {
            publishing.make_room(cx);
        }
        number
    }

    /// Writes `qos`: for the consumers to come, or for all of the channel together.
    pub(crate) fn write_qos(
        &mut self,
        cx: &mut Context,
        number: u16,
        prefetch_count: u16,
        global: bool,
        asked: Option<(ConsumerId, Resize)>,
    ) {
        if let Some(channel) = cx.channels.get_mut(number) {
            if global {
                channel.shares_prefetch_count = true;
            } else {
                channel.prefetch_count = prefetch_count;
            }
        }
        cx.write(
            number,
            &basic::Qos {
                prefetch_size: 0,
                prefetch_count,
                global,
            },
        );
        let awaited = match asked {
            Some((consumer, resize)) => Awaited::Qos { consumer, resize },
            None => Awaited::Nothing,
        };
        cx.await_reply(number, &basic::Qos::INFO, awaited);
    }

    /// Writes `qos`, if need be, and `consume` with a tag of its own, which is known before any
    /// delivery can come.
    pub(crate) fn write_consume(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        source: u32,
        prefetch_count: u16,
        resized: Option<Resize>,
    ) {
        if cx
            .channels
            .get(number)
            .is_some_and(|channel| channel.prefetch_count != prefetch_count)
        {
            self.write_qos(cx, number, prefetch_count, false, None);
        }
        let Some(no_ack) = self.consumers.get(id).map(|consumer| consumer.no_ack) else {
            return;
        };
        let Some((tag, terms)) = self.consumers.add_tag(id, source, prefetch_count) else {
            return;
        };
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
        cx.await_reply(
            number,
            &basic::Consume::INFO,
            Awaited::Consume {
                consumer: id,
                tag,
                resized,
            },
        );
    }

    /// Handles `consume-ok`: a consumer has started under that tag, as the broker spells it.
    pub(crate) fn consume_ok(
        &mut self,
        cx: &mut Context,
        number: u16,
        id: ConsumerId,
        (tag, name): (TagNumber, ShortStr<'_>),
        resized: Option<PromiseId>,
    ) {
        let consumer = self
            .consumers
            .get_mut(id)
            .filter(|consumer| !consumer.has_ended());
        let known =
            consumer.and_then(|consumer| consumer.tags.iter_mut().find(|it| it.number == tag));
        match known {
            Some(tag) => tag.started = true,
            // The broker or the program ended it before it had started, when the cancel could not
            // be written.
            None => self.write_cancel(cx, number, id, tag, name),
        }
        let Some(consumer) = self
            .consumers
            .get_mut(id)
            .filter(|consumer| !consumer.has_ended())
        else {
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
        self.write_cancels(cx, id);
        self.answer_resized(cx, id);
        self.unthrottle(cx, id);
    }

    /// Has the broker take back what a live consumer holds, and deliver it again, to this consumer
    /// or another. From here on the deliveries that are held are stale.
    pub(crate) fn recover(&mut self, cx: &mut Context, id: ConsumerId) -> Result<PromiseId, Error> {
        let consumer = self
            .consumers
            .get(id)
            .filter(|it| matches!(it.phase, Phase::Live | Phase::Restoring));
        let consumer = consumer.ok_or(Error::Stale)?;
        let number = consumer.channel;
        if matches!(consumer.phase, Phase::Restoring) {
            // With its connection the broker has taken back everything.
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

    /// For whom a delivery is that comes on that channel with that tag.
    #[inline]
    pub(crate) fn recipient(
        &self,
        cx: &Context,
        number: u16,
        tag: ShortStr<'_>,
    ) -> Option<Recipient> {
        self.consumers
            .recipient(cx.channels.get(number)?.consumer?, TagNumber::of(tag)?)
    }

    #[inline]
    pub(crate) fn deliver(
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
                    || matches!(
                        consumer.phase,
                        Phase::Live | Phase::Starting(_) | Phase::Restoring
                    ))
        });
        let Some(channel) = cx.channels.get_mut(number) else {
            return Ok(());
        };
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
    pub(crate) fn buffered_deliveries(&self) -> usize {
        self.consumers.buffered().0
    }

    /// Takes up to so many deliveries of a consumer, behind those that are there. When there are
    /// none, `into` may have another allocation afterwards, or none.
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

    /// Why a consumer has ended, if it has. Deliveries may still wait to be taken.
    pub(crate) fn ended(&self, consumer: ConsumerId) -> Option<&Ended> {
        match &self.consumers.get(consumer)?.phase {
            Phase::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    /// Returns the queues that a consumer of several queues has lost while it goes on with the
    /// others. Each comes with the name at the start of the consumer and the reason.
    pub(crate) fn ended_queues(
        &self,
        consumer: ConsumerId,
    ) -> impl Iterator<Item = (ShortStr<'_>, &Ended)> {
        let sources = self
            .consumers
            .get(consumer)
            .map_or(&[][..], |consumer| &consumer.sources);
        sources.iter().filter_map(|terms| {
            Some((
                ShortStr::from_octets(&terms.queue).unwrap_or_default(),
                terms.ended.as_ref()?,
            ))
        })
    }

    /// How many deliveries of a consumer were dropped with connections that went, because they
    /// could not be settled any more.
    pub(crate) fn lost_deliveries(&self, consumer: ConsumerId) -> u64 {
        self.consumers
            .get(consumer)
            .map_or(0, |consumer| consumer.lost)
    }

    /// Counts deliveries that were taken from a consumer and dropped, because they can't be settled
    /// any more.
    pub(crate) fn lose_taken(&mut self, consumer: ConsumerId, count: u64) {
        self.consumers.count_lost(consumer, count);
    }

    /// The tag that its holder knows a consumer by.
    pub(crate) fn consumer_tag(&self, consumer: ConsumerId) -> Option<&str> {
        self.consumers.get(consumer).map(Consumer::tag)
    }

    /// The queues of a consumer, those that the broker names by the first of their names, each with
    /// the tag that its holder knows it by.
    pub(crate) fn consumer_queues(
        &self,
        consumer: ConsumerId,
    ) -> impl Iterator<Item = (ShortStr<'_>, &str)> {
        let sources = self
            .consumers
            .get(consumer)
            .map_or(&[][..], |consumer| &consumer.sources);
        sources.iter().map(|terms| {
            (
                ShortStr::from_octets(&terms.queue).unwrap_or_default(),
                &*terms.tag,
            )
        })
    }
}

#[cold]
fn reused_tag() -> Error {
    Fault::by_client(
        ReplyCode::COMMAND_INVALID,
        "a delivery tag used again",
        basic::Deliver::ID,
    )
    .into()
}
