//! Publishing with confirms (RabbitMQ's confirms guide) and without.
//!
//! The names, from the request to the wire:
//! - [`Publish`] is a publish as the program requests it, with borrowed parts.
//! - [`PublishKind`] is how it completes: with a confirm, without one, or with a reply (a call).
//! - [`PendingPublish`] is a copy of it that is queued, or stored to be republished.
//! - [`Publisher`] is the channel for one exchange and kind, its
//!   [role](crate::machine::channel::Role) is `Publish`, and [`Publishers`] are all of them. A
//!   channel with confirms has a sequence of its own, and an error that closes it affects only that
//!   exchange.
//! - [`Publishing`] is this part of the state machine: publishers, queued publishes and calls.
//! - [`basic::Publish`](crate::protocol::method::basic::Publish) is the method on the wire.

pub(crate) mod call_ids;
pub(crate) mod check;
pub(crate) mod confirms;
pub(crate) mod lanes;
pub(crate) mod opening;
pub(crate) mod outcomes;
pub(crate) mod overdue;
pub(crate) mod pending;
pub(crate) mod publishers;
pub(crate) mod rpc;
pub(crate) mod sizes;
pub(crate) mod writing;

use crate::error::Error;
use crate::machine::context::Context;
use crate::machine::ids::ChannelNumber;
use crate::machine::publish::call_ids::CallIds;
use crate::machine::publish::check::{check_publish, check_size};
use crate::machine::publish::lanes::{LaneId, Lanes};
use crate::machine::publish::pending::{NoChannel, PendingPublish, PublishKind};
use crate::machine::publish::publishers::NUMBER_HEADER;
use crate::machine::publish::publishers::Publishers;
use crate::machine::{PromiseId, Publish};
use crate::message::{Message, Returned};
use crate::protocol::{ReplyCode, ShortStr, Value};

/// The publishes outside of transactions.
#[derive(Debug, Default)]
pub(crate) struct Publishing {
    pub(crate) publishers: Publishers,
    /// Publishes that cannot be written yet.
    pub(crate) queued: Lanes,
    pub(crate) call_ids: CallIds,
    /// How often an unconfirmed publish is sent again after a loss.
    pub(crate) republishes: u32,
    /// The reason for which the broker has blocked the connection.
    pub(crate) blocked: Option<Box<str>>,
    /// A buffer for the headers of one publish. It is a field so that its allocation is reused.
    pub(crate) header_buffer: Vec<u8>,
}

impl Publishing {
    /// Returns the number of bytes that the transport has not accepted, including those of queued
    /// publishes.
    #[inline]
    pub(crate) fn outgoing_bytes(&self, cx: &Context) -> usize {
        self.queued.bytes() + cx.transmit.len()
    }

    /// Returns `true` if another publish would be accepted.
    pub(crate) fn has_capacity_to_publish(&self, cx: &Context) -> bool {
        let limits = &cx.options.limits;
        self.outgoing_bytes(cx) < limits.outgoing_bytes
            && self.publishers.stored_bytes < limits.outgoing_bytes
            && self.queued.len() + self.publishers.in_flight() < limits.publishes_in_flight
    }

    /// Publishes a message. The promise completes when the broker has confirmed it.
    pub(crate) fn publish(
        &mut self,
        cx: &mut Context,
        publish: &Publish<'_>,
    ) -> Result<PromiseId, Error> {
        self.check_to_publish(cx, publish)?;
        if let Some(channel) = self.ready_channel(cx, publish.exchange, PublishKind::Confirmed) {
            self.write_publish(cx, channel, publish, 0)?;
            let promise = cx.promises.open();
            let stored = (self.republishes > 0 || publish.immediate)
                .then(|| PendingPublish::new(promise, PublishKind::Confirmed, publish));
            let size = publish.body.as_bytes().len();
            self.record_sent(cx, channel, promise, size, stored);
            return Ok(promise);
        }
        let promise = cx.timed_promise();
        self.enqueue(PendingPublish::new(
            promise,
            PublishKind::Confirmed,
            publish,
        ));
        Ok(promise)
    }

    /// Publishes a message without a confirm. The promise completes when the message is in the
    /// outgoing queue, which is at once if there is a channel. The later fate of the message is not
    /// reported.
    pub(crate) fn publish_unconfirmed(
        &mut self,
        cx: &mut Context,
        publish: &Publish<'_>,
    ) -> Result<PromiseId, Error> {
        for (name, is_set) in [
            ("mandatory", publish.mandatory),
            ("immediate", publish.immediate),
        ] {
            if is_set {
                return Err(Error::invalid(
                    name,
                    "must be false without a confirm: a returned message could not be reported",
                ));
            }
        }
        self.check_to_publish(cx, publish)?;
        if let Some(channel) = self.ready_channel(cx, publish.exchange, PublishKind::Unconfirmed) {
            self.write_publish(cx, channel, publish, 0)?;
            return Ok(cx.promises.open_done());
        }
        let promise = cx.timed_promise();
        self.enqueue(PendingPublish::new(
            promise,
            PublishKind::Unconfirmed,
            publish,
        ));
        Ok(promise)
    }

    /// Records a written publish with a confirm, the size of its body, and a copy of it if it may
    /// be needed after a loss. Sends the probe behind the first publish of a channel.
    #[inline]
    pub(crate) fn record_sent(
        &mut self,
        cx: &mut Context,
        channel: ChannelNumber,
        promise: PromiseId,
        size: usize,
        stored: Option<PendingPublish>,
    ) {
        if self
            .publishers
            .add_in_flight(channel, promise, size, stored)
        {
            self.send_probe(cx, channel);
        }
    }

    /// Checks the limits, and what the broker would refuse.
    #[inline]
    pub(crate) fn check_to_publish(
        &self,
        cx: &Context,
        publish: &Publish<'_>,
    ) -> Result<(), Error> {
        if !self.has_capacity_to_publish(cx) {
            return Err(Error::Full);
        }
        check_publish(cx, publish)
    }

    /// Returns a channel on which a message can be published now, or `None` if the message has to
    /// be queued. Opens the exchange's channel if it has none, and resumes it if it was about to be
    /// closed for another exchange. In any case the driver is asked to poll the connection, because
    /// the message is now written or queued.
    #[inline]
    pub(crate) fn ready_channel(
        &mut self,
        cx: &mut Context,
        exchange: ShortStr<'_>,
        kind: PublishKind,
    ) -> Option<ChannelNumber> {
        cx.attention = true;
        let exchange = exchange.as_bytes();
        if !self.may_publish(cx) || !self.queued.is_empty() && self.queued.has(exchange, kind) {
            return None;
        }
        match self.publishers.find(exchange, kind) {
            Some(publisher) if publisher.takes_more() => Some(publisher.channel),
            // Exchanges that have waited longer get the next channel.
            _ if self.queued.waiting() > 0 => None,
            Some(publisher) => {
                let channel = publisher.channel;
                self.publishers.resume(channel, cx.now)
            }
            None => {
                let opened = self.open_publisher(cx, exchange, kind);
                // `write_queued` then fails the publish.
                cx.may_start |= matches!(opened, Err(NoChannel::Never(_)));
                opened.ok()
            }
        }
    }

    /// Queues a publish until it can be written.
    pub(crate) fn enqueue(&mut self, pending: PendingPublish) {
        self.queued.push_back(pending);
    }

    /// Returns `true` if publishes may be written now.
    pub(crate) fn may_publish(&self, cx: &Context) -> bool {
        self.blocked.is_none() && cx.stage.may_write()
    }

    /// Writes the queued publishes that can be written, in order for each exchange.
    ///
    /// The first loop takes each lane out of the lanes to try. The second loop ends because each
    /// round empties and so removes the first waiting lane, ends its wait, or returns.
    pub(crate) fn write_queued(&mut self, cx: &mut Context) {
        if self.queued.is_empty() || !self.may_publish(cx) {
            return;
        }
        while let Some(lane) = self.queued.next_to_try() {
            // Unreachable: a removed lane is not in `to_try`.
            let Some((exchange, kind)) = self.queued.get(lane) else {
                continue;
            };
            match self.publishers.find(exchange, kind) {
                Some(publisher) if publisher.takes_more() => {
                    let channel = publisher.channel;
                    self.write_lane(cx, lane, channel);
                }
                // `channel.flow` will make the lane one to try again.
                Some(publisher) if publisher.is_stopped() => {}
                _ => self.queued.wait_for_channel(lane),
            }
        }
        while let Some(lane) = self.queued.first_waiting() {
            // Unreachable: a removed lane does not wait.
            let Some((exchange, kind)) = self.queued.get(lane) else {
                break;
            };
            let opened = match self.publishers.find(exchange, kind) {
                Some(publisher) => {
                    let channel = publisher.channel;
                    Ok(self.publishers.resume(channel, cx.now))
                }
                None => {
                    let exchange: Box<[u8]> = exchange.into();
                    self.open_publisher(cx, &exchange, kind).map(Some)
                }
            };
            match opened {
                Ok(Some(channel)) => self.write_lane(cx, lane, channel),
                // The broker has stopped content on the lane's channel.
                Ok(None) => self.queued.stop_waiting(lane),
                Err(NoChannel::Closing) => return,
                Err(NoChannel::Never(error)) => {
                    while let Some(pending) = self.queued.pop(lane) {
                        cx.complete(pending.promise, Err(error.clone()));
                    }
                }
                Err(NoChannel::AllInUse) => {
                    self.publishers.retire(self.queued.waiting(), cx.now);
                    return;
                }
            }
        }
    }

    /// Writes all queued publishes of a lane, and completes those that cannot be encoded. The empty
    /// lane is removed.
    fn write_lane(&mut self, cx: &mut Context, lane: LaneId, channel: ChannelNumber) {
        while let Some(pending) = self.queued.pop(lane) {
            if !cx.promises.is_pending(pending.promise) {
                continue;
            }
            let properties = pending.properties();
            let publish = pending.to_publish(&properties);
            let written = check_size(cx, &publish).and_then(|()| match pending.kind {
                PublishKind::Confirmed | PublishKind::Unconfirmed => {
                    self.write_publish(cx, channel, &publish, pending.attempts)
                }
                PublishKind::Call => self.write_call(cx, channel, &publish),
            });
            let (promise, size) = (pending.promise, publish.body.as_bytes().len());
            match (written, pending.kind) {
                (Ok(()), PublishKind::Confirmed) => {
                    cx.promises.remove_deadline(promise);
                    let is_stored = self.republishes > 0 || pending.is_immediate();
                    let stored = is_stored.then_some(pending);
                    self.record_sent(cx, channel, promise, size, stored);
                }
                (Ok(()), PublishKind::Call) => {
                    let stored = pending.is_immediate().then_some(pending);
                    self.record_sent(cx, channel, promise, size, stored);
                }
                (Ok(()), PublishKind::Unconfirmed) => cx.promises.complete_done(promise),
                (Err(error), _) => cx.complete(promise, Err(error)),
            }
        }
    }

    /// Handles a `basic.ack` or `basic.nack` of publishes. Returns `false` if the tag is not that
    /// of an unconfirmed publish. "Published messages are assigned ascending sequence numbers,
    /// starting at 1 with the first Confirm.Select method. The server confirms messages by sending
    /// Basic.Ack methods referring to these sequence numbers" (class `confirm`).
    pub(crate) fn confirm(
        &mut self,
        cx: &mut Context,
        channel: ChannelNumber,
        tag: u64,
        multiple: bool,
        accepted: bool,
    ) -> bool {
        let has_calls = self.publishers.has_calls_on(channel);
        let (promises, republished) = (&mut cx.promises, &mut cx.republished);
        let is_known = match (accepted, has_calls) {
            // These two arms do what `Context::complete` does, with less work: a confirm is as
            // frequent as a publish, and its outcome needs no disposal.
            (true, false) if republished.is_empty() => {
                self.publishers.confirm(channel, tag, multiple, |promise| {
                    promises.complete_done(promise)
                })
            }
            (true, false) => self.publishers.confirm(channel, tag, multiple, |promise| {
                republished.remove(&promise);
                promises.complete_done(promise);
            }),
            // The confirm of a call is not its reply.
            (true, true) => self.publishers.confirm(channel, tag, multiple, |_| {}),
            // The call is looked up by its number and not by the closure: the nack may arrive after
            // the deadline of the confirm, when `confirm` passes no promise, and before that of the
            // call.
            (false, true) if !multiple => {
                let is_known = self.publishers.confirm(channel, tag, false, |_| {});
                let call = if is_known {
                    self.publishers.take_call(channel, tag)
                } else {
                    None
                };
                if let Some(call) = call {
                    cx.complete(call, Err(Error::Nacked));
                }
                is_known
            }
            (false, _) => self.publishers.confirm(channel, tag, multiple, |promise| {
                cx.complete(promise, Err(Error::Nacked));
            }),
        };
        if has_calls && !accepted && multiple {
            self.publishers.forget_completed_calls(&cx.promises);
        }
        cx.attention |= !self.queued.is_empty();
        is_known
    }

    /// Completes the promise of a returned publish with the message. "The server MUST acknowledge
    /// an unroutable mandatory or immediate message only after it sends the Basic.Return" (class
    /// `confirm`), so its confirm follows and is ignored.
    pub(crate) fn handle_return(
        &mut self,
        cx: &mut Context,
        channel: ChannelNumber,
        code: u16,
        text: &str,
        message: Message,
    ) {
        let number = message
            .headers()
            .ok()
            .and_then(|headers| headers.get(NUMBER_HEADER))
            .and_then(Value::as_i64);
        // The publish is unknown if its deadline has passed, or if the peer made up the header.
        let Some(promise) =
            number.and_then(|number| self.publishers.take_returned(channel, number as u64))
        else {
            return;
        };
        let message = message.without_header(NUMBER_HEADER);
        let returned = Returned {
            reply_code: code.into(),
            reply_text: text.to_owned(),
            message,
        }
        .into();
        let error = match ReplyCode::from(code) {
            ReplyCode::NO_CONSUMERS => Error::NoConsumers(returned),
            _ => Error::NoRoute(returned),
        };
        cx.complete(promise, Err(error));
    }
}
