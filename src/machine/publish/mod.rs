//! Publishing with confirms (RabbitMQ's confirms guide) and without.

pub(crate) mod call_ids;
pub(crate) mod check;
pub(crate) mod confirms;
pub(crate) mod lanes;
pub(crate) mod overdue;
pub(crate) mod pending;
pub(crate) mod publishers;
pub(crate) mod rpc;
pub(crate) mod writing;

use crate::error::Error;
use crate::machine::context::Context;
use crate::machine::publish::call_ids::CallIds;
use crate::machine::publish::check::check_publish;
use crate::machine::publish::lanes::LaneId;
use crate::machine::publish::lanes::Lanes;
use crate::machine::publish::pending::PendingPublish;
use crate::machine::publish::pending::{Kind, NoChannel};
use crate::machine::publish::publishers::STAMP;
use crate::machine::publish::publishers::{Publisher, Publishers};
use crate::machine::{PromiseId, Publish};
use crate::message::{Message, Returned};
use crate::protocol::method::basic;
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
    /// A buffer for headers. It is a field so that its allocation is reused.
    pub(crate) header_buffer: Vec<u8>,
}

impl Publishing {
    /// Returns the number of bytes that the transport has not taken, including those of queued
    /// publishes.
    #[inline]
    pub(crate) fn outgoing_bytes(&self, cx: &Context) -> usize {
        self.queued.bytes() + cx.transmit.len()
    }

    /// Returns `true` if another publish would be accepted.
    pub(crate) fn has_capacity_to_publish(&self, cx: &Context) -> bool {
        let limits = &cx.options.limits;
        self.outgoing_bytes(cx) < limits.outgoing_bytes
            && self.publishers.unconfirmed_bytes < limits.outgoing_bytes
            && self.queued.len() + self.publishers.in_flight() < limits.publishes_in_flight
    }

    /// Publishes a message. The promise completes when the broker has confirmed it.
    pub(crate) fn publish(
        &mut self,
        cx: &mut Context,
        publish: &Publish<'_>,
    ) -> Result<PromiseId, Error> {
        self.check_to_publish(cx, publish)?;
        if let Some(channel) = self.ready_channel(cx, publish.exchange, Kind::Publish) {
            self.write_publish(cx, channel, publish, 0)?;
            let promise = cx.promises.open();
            let unconfirmed = (self.republishes > 0)
                .then(|| PendingPublish::new(promise, Kind::Publish, publish));
            self.sent(cx, channel, promise, unconfirmed);
            return Ok(promise);
        }
        let promise = cx.timed_promise();
        self.enqueue(PendingPublish::new(promise, Kind::Publish, publish));
        Ok(promise)
    }

    /// Publishes a message without a confirm. The promise completes when the message is in the
    /// outgoing queue, which is at once if it can be written now. What happens to the message later
    /// is not reported.
    pub(crate) fn publish_unconfirmed(
        &mut self,
        cx: &mut Context,
        publish: &Publish<'_>,
    ) -> Result<PromiseId, Error> {
        for (name, asks) in [
            ("mandatory", publish.mandatory),
            ("immediate", publish.immediate),
        ] {
            if asks {
                return Err(Error::invalid(
                    name,
                    "must be false without a confirm: a returned message could not be reported",
                ));
            }
        }
        self.check_to_publish(cx, publish)?;
        if let Some(channel) = self.ready_channel(cx, publish.exchange, Kind::Unconfirmed) {
            self.write_publish(cx, channel, publish, 0)?;
            return Ok(cx.promises.open_done());
        }
        let promise = cx.timed_promise();
        self.enqueue(PendingPublish::new(promise, Kind::Unconfirmed, publish));
        Ok(promise)
    }

    /// Records that a publish with a promise is written.
    #[inline]
    pub(crate) fn sent(
        &mut self,
        cx: &mut Context,
        channel: u16,
        promise: PromiseId,
        unconfirmed: Option<PendingPublish>,
    ) {
        if self.publishers.sent(channel, promise, unconfirmed) {
            self.prove(cx, channel);
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

    /// Returns the channel on which a message can be published now.
    #[inline]
    pub(crate) fn ready_channel(
        &mut self,
        cx: &mut Context,
        exchange: ShortStr<'_>,
        kind: Kind,
    ) -> Option<u16> {
        cx.attention = true;
        let exchange = exchange.as_bytes();
        if !self.may_publish(cx) || !self.queued.is_empty() && self.queued.has(exchange, kind) {
            return None;
        }
        match self.publishers.find(exchange, kind) {
            Some(publisher) if publisher.takes_more() => Some(publisher.channel),
            _ if self.queued.waiting() > 0 => None,
            Some(publisher) => {
                let channel = publisher.channel;
                self.publishers.resume(channel, cx.now)
            }
            None => self.open_publisher(cx, exchange, kind).ok(),
        }
    }

    /// Stores a publish until it can be written.
    pub(crate) fn enqueue(&mut self, pending: PendingPublish) {
        self.queued.push_back(pending);
    }

    /// Returns `true` if publishes may be written now.
    pub(crate) fn may_publish(&self, cx: &Context) -> bool {
        self.blocked.is_none() && cx.stage.may_write()
    }

    /// Writes the queued publishes that can be written, in order for each exchange.
    pub(crate) fn release_queued(&mut self, cx: &mut Context) {
        if self.queued.is_empty() || !self.may_publish(cx) {
            return;
        }
        while let Some(lane) = self.queued.next_fresh() {
            let Some((exchange, kind)) = self.queued.get(lane) else {
                continue;
            };
            match self.publishers.find(exchange, kind) {
                Some(publisher) if publisher.takes_more() => {
                    let channel = publisher.channel;
                    self.release_lane(cx, lane, channel);
                }
                Some(publisher) if publisher.is_stopped() => {}
                Some(_) | None => self.queued.wait(lane),
            }
        }
        while let Some(lane) = self.queued.first_waiting() {
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
                Ok(Some(channel)) => self.release_lane(cx, lane, channel),
                // The broker has stopped content on the lane's channel.
                Ok(None) => self.queued.stop_waiting(lane),
                Err(NoChannel::Closing) => return,
                Err(NoChannel::AllInUse) => {
                    self.publishers.retire(self.queued.waiting(), cx.now);
                    return;
                }
            }
        }
    }

    /// Writes the queued publishes of a lane.
    pub(crate) fn release_lane(&mut self, cx: &mut Context, lane: LaneId, channel: u16) {
        while let Some(pending) = self.queued.pop(lane) {
            if !cx.promises.is_pending(pending.promise) {
                continue;
            }
            let properties = pending.properties();
            let publish = pending.to_publish(&properties);
            let written = match pending.kind {
                Kind::Publish | Kind::Unconfirmed => {
                    self.write_publish(cx, channel, &publish, pending.attempts)
                }
                Kind::Call => self.write_call(cx, channel, &publish),
            };
            let promise = pending.promise;
            match (written, pending.kind) {
                (Ok(()), Kind::Publish) => {
                    cx.promises.remove_deadline(promise);
                    let unconfirmed = (self.republishes > 0).then_some(pending);
                    self.sent(cx, channel, promise, unconfirmed);
                }
                (Ok(()), Kind::Call) => self.sent(cx, channel, promise, None),
                (Ok(()), Kind::Unconfirmed) => cx.promises.done(promise),
                (Err(error), _) => cx.complete(promise, Err(error)),
            }
        }
    }

    /// The broker has confirmed, or refused, publishes. False when it confirms what it can't.
    pub(crate) fn confirm(
        &mut self,
        cx: &mut Context,
        channel: u16,
        tag: u64,
        multiple: bool,
        accepted: bool,
    ) -> bool {
        let is_called = self.publishers.is_called_on(channel);
        let (promises, republished) = (&mut cx.promises, &mut cx.republished);
        let known = match (accepted, is_called) {
            (true, false) if republished.is_empty() => {
                self.publishers
                    .confirm(channel, tag, multiple, |promise| promises.done(promise))
            }
            (true, false) => self.publishers.confirm(channel, tag, multiple, |promise| {
                republished.remove(&promise);
                promises.done(promise);
            }),
            // The confirm of a call is not its reply.
            (true, true) => self.publishers.confirm(channel, tag, multiple, |_| {}),
            // The broker may refuse a call after the deadline of its confirm and before its own
            // deadline.
            (false, true) if !multiple => {
                let is_known = self.publishers.confirm(channel, tag, false, |_| {});
                let call = if is_known {
                    self.publishers.replied(channel, tag)
                } else {
                    None
                };
                if let Some(call) = call {
                    cx.complete(call, Err(Error::Nacked));
                }
                is_known
            }
            (false, _) => self.publishers.confirm(channel, tag, multiple, |promise| {
                let is_unknown = republished.remove(&promise) && promises.is_pending(promise);
                cx.counters.unconfirmed += u64::from(is_unknown);
                let error = if is_unknown {
                    Error::Nacked.into_unconfirmed()
                } else {
                    Error::Nacked
                };
                // The result of a publish needs no disposal.
                let _ = promises.complete(promise, Err(error));
            }),
        };
        if is_called && !accepted && multiple {
            self.publishers.forget_completed_calls(&cx.promises);
        }
        cx.attention |= !self.queued.is_empty();
        known
    }

    /// Completes the promise of a returned publish. "The server MUST acknowledge an unroutable
    /// mandatory or immediate message only after it sends the Basic.Return" (class `confirm`), so
    /// its confirm follows and is ignored.
    pub(crate) fn returned(
        &mut self,
        cx: &mut Context,
        channel: u16,
        code: u16,
        text: &str,
        message: Message,
    ) {
        let stamp = message
            .headers()
            .ok()
            .and_then(|headers| headers.get(STAMP))
            .and_then(Value::as_i64);
        let Some(promise) = stamp.and_then(|stamp| self.publishers.returned(channel, stamp as u64))
        else {
            return;
        };
        let message = message.without_header(STAMP);
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

    /// Completes the publishes in flight on a channel that the broker closed.
    ///
    /// Until the first publish is proven, the error is about that publish, and the broker has seen
    /// none of the others. If the error names the exchange, it is the result of all of them. Later,
    /// the broker may have accepted some and not have confirmed them yet. Then only the last is
    /// known not to be accepted, and an error that names the exchange is the result of that one.
    pub(crate) fn publisher_closed(&mut self, cx: &mut Context, channel: u16, error: &Error) {
        let Some(publisher) = self.publishers.remove(channel) else {
            return;
        };
        self.queued.retry(publisher.exchange(), publisher.kind());
        let was_alone = publisher.confirms.has_one_unconfirmed();
        let names_exchange = matches!(error, Error::NotFound(_) | Error::AccessRefused(_));
        let promises: Vec<(u64, PromiseId)> = publisher.confirms.drain().collect();
        let last = promises.last().map_or(0, |(tag, _)| *tag);
        for (tag, promise) in promises {
            let is_about_it = match (publisher.is_proven, names_exchange) {
                _ if was_alone => true,
                (false, true) => true,
                (false, false) => tag == 1,
                (true, true) => tag == last,
                (true, false) => false,
            };
            let error = if is_about_it {
                error.clone()
            } else {
                Error::Unconfirmed(error.clone().into())
            };
            cx.complete(promise, Err(error));
        }
        // These calls have arrived, but their replies can no longer be delivered.
        for promise in publisher.calls.into_values() {
            cx.complete(promise, Err(Error::Unconfirmed(error.clone().into())));
        }
    }

    pub(crate) fn suspend_publisher(
        &mut self,
        cx: &mut Context,
        publisher: Publisher,
        error: &Error,
    ) {
        let unknown = || Err(Error::Unconfirmed(error.clone().into()));
        let mut unconfirmed = publisher.unconfirmed;
        let most = if error.blames(basic::Publish::ID) {
            0
        } else {
            self.republishes
        };
        let mut again = Vec::new();
        for (tag, promise) in publisher.confirms.drain() {
            match unconfirmed
                .take(tag)
                .filter(|pending| pending.attempts < most)
            {
                Some(mut pending) => {
                    pending.attempts += 1;
                    again.push(pending);
                }
                None => cx.complete(promise, unknown()),
            }
        }
        for promise in publisher.calls.into_values() {
            cx.complete(promise, unknown());
        }
        for pending in again.into_iter().rev() {
            cx.promises
                .restart_deadline(pending.promise, cx.options.deadlines.request);
            cx.republished.insert(pending.promise);
            self.queued.push_front(pending);
        }
    }

    /// Completes every queued publish with the error. The outcome of one that was sent before is
    /// unknown.
    pub(crate) fn fail_queued(&mut self, cx: &mut Context, error: &Error) {
        for pending in self.queued.drain() {
            cx.complete(pending.promise, Err(error.clone()));
        }
    }
}
