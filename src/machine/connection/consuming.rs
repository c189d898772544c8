//! Consumers: starting, delivering, resizing, ending.

use super::requesting::info;
use super::waiting::WaitingConsume;
use super::{Connection, State};
use crate::error::{Error, Fault};
use crate::machine::channel::{Awaited, Role};
use crate::machine::consumers::{Consumer, Phase, Terms};
use crate::machine::content::Delivered;
use crate::machine::{Consume, ConsumerId, Ended, PromiseId, Reply};
use crate::message::Message;
use crate::protocol::frame::OVERHEAD;
use crate::protocol::method::basic;
use crate::protocol::{EncodeError, ReplyCode, ShortStr};
use std::collections::VecDeque;

impl Connection {
    /// Starts a consumer on a channel of its own.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::InvalidArgument`] when it does not fit into a frame.
    pub fn consume(&mut self, consume: &Consume<'_>) -> Result<PromiseId, Error> {
        self.check_open()?;
        if !self.has_room_to_request() {
            return Err(Error::Full);
        }
        if !consume.arguments.is_finite() {
            return Err(Error::invalid("arguments", "RabbitMQ can't read a number that is NaN or infinite"));
        }
        let longest = consume.arguments.as_octets().len() + 2 * ShortStr::MAX + 16 + OVERHEAD as usize;
        if longest > self.frame_max as usize {
            return Err(EncodeError::FrameTooLarge { octets: longest, limit: self.frame_max }.into());
        }
        let promise = self.promises.open_timed();
        self.consumes.push_back(WaitingConsume {
            promise,
            terms: Terms {
                queue: consume.queue.as_octets().into(),
                no_local: consume.no_local,
                no_ack: consume.no_ack,
                exclusive: consume.exclusive,
                arguments: consume.arguments.to_table(),
            },
            users_tag: consume.tag.into(),
            prefetch_count: consume.prefetch_count,
        });
        self.attention = true;
        if matches!(self.state, State::Open) {
            self.start_consumes();
        }
        Ok(promise)
    }

    /// Starts the consumers for which there are channels.
    pub(super) fn start_consumes(&mut self) {
        while let Some(waiting) = self.consumes.front() {
            let promise = waiting.promise;
            if !self.promises.is_waiting(promise) {
                self.consumes.pop_front();
                continue;
            }
            let Some(number) = self.consumer_channel() else { return };
            let Some(WaitingConsume { terms, users_tag, prefetch_count, .. }) = self.consumes.pop_front()
            else {
                return;
            };
            let consumer = self.consumers.add(number, terms, &users_tag, promise);
            if let Some(channel) = self.channels.get_mut(number) {
                channel.consumers.push(consumer);
            }
            self.write_consume(number, consumer, prefetch_count, None, false);
        }
    }

    fn consumer_channel(&mut self) -> Option<u16> {
        let number = self.open_channel(Role::Consume).or_else(|| self.channels.take_idle(Role::Consume));
        if number.is_none() {
            self.close_idle_publisher();
        }
        number
    }

    /// Writes `qos`, if need be, and `consume` with a tag of its own, which is known before any delivery can come.
    fn write_consume(
        &mut self,
        number: u16,
        id: ConsumerId,
        prefetch_count: u16,
        resized: Option<PromiseId>,
        replaces: bool,
    ) {
        let (Ok(qos), Ok(method)) = (info(basic::Qos::ID), info(basic::Consume::ID)) else { return };
        let Some(channel) = self.channels.get_mut(number) else { return };
        if channel.prefetch_count != prefetch_count {
            channel.prefetch_count = prefetch_count;
            self.write(number, &basic::Qos { prefetch_size: 0, prefetch_count, global: false });
            self.await_reply(number, Awaited::Nothing(qos));
        }
        let Some(consumer) = self.consumers.add_tag(id, prefetch_count) else { return };
        let Some(tag) = consumer.tags.last() else { return };
        let written = self.out.method(
            number,
            self.frame_max,
            &basic::Consume {
                queue: ShortStr::from_octets(&consumer.terms.queue).unwrap_or_default(),
                consumer_tag: ShortStr::cut(&tag.name),
                no_local: consumer.terms.no_local,
                no_ack: consumer.terms.no_ack,
                exclusive: consumer.terms.exclusive,
                nowait: false,
                arguments: consumer.terms.arguments.as_ref(),
            },
        );
        self.attention = true;
        match written {
            Ok(()) => self.await_reply(number, Awaited::Consume { consumer: id, resized, replaces, method }),
            // The limit that was agreed upon is lower than the one that was expected.
            Err(error) => self.end_consumer(id, Ended::ChannelClosed(error.into())),
        }
    }

    pub(super) fn consume_ok(&mut self, id: ConsumerId, resized: Option<PromiseId>, replaces: bool) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        if let Phase::Starting(promise) = consumer.phase {
            consumer.phase = Phase::Live;
            let cancel = consumer.cancel_when_started;
            self.answer(promise, Ok(Reply::Consumer(id)));
            if cancel {
                self.write_cancels(id, 0);
            }
            return;
        }
        if replaces && matches!(consumer.phase, Phase::Live) {
            self.write_cancels(id, 1);
        }
        if let Some(promise) = resized {
            self.answer(promise, Ok(Reply::Done));
        }
    }

    /// Changes how many messages of a live consumer may be unsettled; 0 for no limit.
    ///
    /// A broker fixes the count when a consumer starts. So a higher one starts a second consumer for the difference, on
    /// the same channel and into the same buffer, and a lower one starts a second consumer for all of it and ends the
    /// first.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::Stale`] when the consumer has ended;
    /// [`Error::InvalidArgument`] for an exclusive consumer, beside which the broker lets no second one start.
    pub fn qos(&mut self, id: ConsumerId, prefetch_count: u16) -> Result<PromiseId, Error> {
        self.check_open()?;
        if !self.has_room_to_request() {
            return Err(Error::Full);
        }
        let consumer = self.consumers.get(id).filter(|consumer| matches!(consumer.phase, Phase::Live));
        let consumer = consumer.ok_or(Error::Stale)?;
        let current = consumer.prefetch_count();
        let is_same = current == prefetch_count || consumer.terms.no_ack;
        if consumer.terms.exclusive && !is_same {
            return Err(Error::invalid("prefetch_count", "that of an exclusive consumer can't be changed"));
        }
        let number = consumer.channel;
        let promise = self.promises.open_timed();
        if is_same {
            self.answer(promise, Ok(Reply::Done));
        } else if current != 0 && prefetch_count > current {
            self.write_consume(number, id, prefetch_count - current, Some(promise), false);
        } else {
            self.write_consume(number, id, prefetch_count, Some(promise), true);
        }
        Ok(promise)
    }

    pub(super) fn consumer_of(&self, number: u16, tag: ShortStr<'_>) -> Option<ConsumerId> {
        let consumers = &self.channels.get(number)?.consumers;
        let has_tag =
            |id: &&ConsumerId| self.consumers.get(**id).is_some_and(|it| it.has_tag(tag.as_octets()));
        consumers.iter().find(has_tag).copied()
    }

    pub(super) fn deliver(
        &mut self,
        number: u16,
        consumer: Option<ConsumerId>,
        tag: u64,
        redelivered: bool,
        message: Message,
    ) {
        let found = consumer.and_then(|id| self.consumers.get(id).map(|consumer| (id, consumer)));
        let no_ack = found.is_some_and(|(_, consumer)| consumer.terms.no_ack);
        let wanted = found.filter(|(_, consumer)| {
            // What comes while a consumer is cancelled goes back, unless that would lose it.
            !consumer.dropped && (no_ack || matches!(consumer.phase, Phase::Live | Phase::Starting(_)))
        });
        let wanted = wanted.map(|(id, _)| id);
        let Some(channel) = self.channels.get_mut(number) else { return };
        if !channel.unsettled.deliver(tag, no_ack) {
            let fault =
                Fault::by_client(ReplyCode::COMMAND_INVALID, "a delivery tag used again", basic::Deliver::ID);
            self.fail(fault.into());
            return;
        }
        let incarnation = channel.incarnation;
        let delivered = Delivered {
            message,
            tag,
            redelivered,
            no_ack,
            message_count: None,
            channel: number,
            incarnation,
        };
        match wanted {
            Some(id) => self.consumers.push(id, delivered),
            None => self.give_back(&delivered),
        }
    }

    /// Takes up to so many deliveries of a consumer.
    pub fn take_deliveries(&mut self, consumer: ConsumerId, most: usize, into: &mut VecDeque<Delivered>) {
        self.consumers.take(consumer, most, into);
        self.proceed_reading();
    }

    /// Why a consumer has ended, if it has. Deliveries may still wait to be taken.
    #[must_use]
    pub fn ended(&self, consumer: ConsumerId) -> Option<&Ended> {
        match &self.consumers.get(consumer)?.phase {
            Phase::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    /// The tag that its holder knows a consumer by.
    #[must_use]
    pub fn consumer_tag(&self, consumer: ConsumerId) -> Option<&str> {
        self.consumers.get(consumer).map(|consumer| &*consumer.tag)
    }

    /// Ends a consumer. What it has buffered goes back to the queue, unless it needs no ack and would be lost.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::Stale`] when the consumer has ended.
    pub fn cancel(&mut self, id: ConsumerId) -> Result<PromiseId, Error> {
        self.check_open()?;
        if !self.has_room_to_request() {
            return Err(Error::Full);
        }
        if self.consumers.get(id).is_none_or(Consumer::has_ended) {
            return Err(Error::Stale);
        }
        let promise = self.promises.open_timed();
        if let Some(consumer) = self.consumers.get_mut(id) {
            consumer.cancelling.push(promise);
        }
        self.begin_cancel(id);
        Ok(promise)
    }

    fn begin_cancel(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        if matches!(consumer.phase, Phase::Starting(_)) {
            // RabbitMQ 3.10 closes the connection over a cancel right behind its consume.
            consumer.cancel_when_started = true;
            return;
        }
        if !matches!(consumer.phase, Phase::Live) {
            return;
        }
        if !consumer.terms.no_ack || consumer.dropped {
            for delivered in self.consumers.take_all(id) {
                self.give_back(&delivered);
            }
        }
        self.write_cancels(id, 0);
    }

    /// Cancels the tags of a consumer but for the last so many.
    fn write_cancels(&mut self, id: ConsumerId, kept: usize) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        if kept == 0 {
            consumer.phase = Phase::Cancelling;
        }
        let number = consumer.channel;
        let names: Vec<Box<str>> =
            consumer.tags.iter().rev().skip(kept).map(|tag| tag.name.clone()).collect();
        let Ok(method) = info(basic::Cancel::ID) else { return };
        for name in names {
            self.write(number, &basic::Cancel { consumer_tag: ShortStr::cut(&name), nowait: false });
            self.await_reply(number, Awaited::Cancel { consumer: id, method });
        }
    }

    pub(super) fn cancel_ok(&mut self, id: ConsumerId, tag: ShortStr<'_>) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        if consumer.end_tag(tag.as_octets()) && !consumer.has_ended() {
            self.end_consumer(id, Ended::Cancelled);
        }
    }

    /// The broker ends a consumer by itself. What it delivered before is still to be taken.
    pub(super) fn server_cancels(&mut self, number: u16, cancel: basic::Cancel<'_>) {
        if !cancel.nowait {
            self.write(number, &basic::CancelOk { consumer_tag: cancel.consumer_tag });
        }
        let Some(id) = self.consumer_of(number, cancel.consumer_tag) else { return };
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        if consumer.end_tag(cancel.consumer_tag.as_octets()) {
            self.end_consumer(id, Ended::CancelledByServer);
            self.release(number);
        }
    }

    /// A consumer has ended: whoever waits for it knows, and its channel can be used again when all is settled.
    pub(super) fn end_consumer(&mut self, id: ConsumerId, ended: Ended) {
        let Some(consumer) = self.consumers.get_mut(id).filter(|consumer| !consumer.has_ended()) else {
            return;
        };
        let tag = consumer.tag.clone();
        let number = consumer.channel;
        let phase = std::mem::replace(&mut consumer.phase, Phase::Ended(ended.clone()));
        for promise in std::mem::take(&mut consumer.cancelling) {
            self.answer(promise, Ok(Reply::Cancelled(tag.clone())));
        }
        if let Phase::Starting(promise) = phase {
            let error = match ended {
                Ended::ChannelClosed(error) | Ended::ConnectionBroken(error) => error,
                Ended::Cancelled | Ended::CancelledByServer => Error::ConsumerCancelled(tag.into()),
            };
            self.answer(promise, Err(error));
            if let Some(consumer) = self.consumers.get_mut(id) {
                consumer.dropped = true;
            }
        }
        if let Some(channel) = self.channels.get_mut(number) {
            channel.consumers.retain(|consumer| *consumer != id);
        }
        self.consumers.announce(id);
        self.consumers.forget_if_over(id);
        self.attention = true;
    }

    /// Tells that nobody holds that consumer any more. It is cancelled, and what it has buffered goes back.
    pub fn drop_consumer(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        consumer.dropped = true;
        if consumer.has_ended() {
            for delivered in self.consumers.take_all(id) {
                self.give_back(&delivered);
            }
            self.consumers.forget_if_over(id);
        } else {
            self.begin_cancel(id);
        }
        self.proceed_reading();
    }

    fn proceed_reading(&mut self) {
        if !self.reading {
            self.proceed();
        }
    }
}
