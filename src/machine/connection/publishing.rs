//! Publishing, with confirms (RabbitMQ's confirms guide) and without.

use super::requesting::info;
use super::{Connection, State};
use crate::error::Error;
use crate::machine::channel::{Awaited, Role};
use crate::machine::held::HeldPublish;
use crate::machine::held::Kind;
use crate::machine::lanes::LaneId;
use crate::machine::publishers::{REPUBLISHED, STAMP};
use crate::machine::{PromiseId, Publish};
use crate::message::{Message, Returned};
use crate::protocol::method::{basic, confirm};
use crate::protocol::{Properties, ReplyCode, ShortStr, Table, TableRef, Value};

/// The longest expiration that RabbitMQ takes: ten years, in milliseconds.
const LONGEST_EXPIRATION: u64 = 315_360_000_000;

/// Why there is no channel for an exchange yet.
enum NoChannel {
    /// A channel is being closed and makes room.
    Closing,
    /// All channels are in use.
    AllInUse,
}

impl Connection {
    /// Whether another publish would be accepted.
    #[must_use]
    pub fn has_room_to_publish(&self) -> bool {
        let limits = &self.options.limits;
        self.outgoing_octets() < limits.outgoing_octets
            && self.publishers.kept_octets < limits.outgoing_octets
            && self.held.len() + self.publishers.in_flight() < limits.publishes_in_flight
    }

    /// Publishes. The promise is answered when the broker has confirmed the message.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::InvalidArgument`] for what the broker would refuse.
    pub fn publish(&mut self, publish: &Publish<'_>) -> Result<PromiseId, Error> {
        self.check_to_publish(publish)?;
        if let Some(channel) = self.ready_channel(publish.exchange, Kind::Publish) {
            self.write_publish(channel, publish, 0)?;
            let promise = self.promises.open();
            let kept = self.republishes().then(|| HeldPublish::new(promise, Kind::Publish, publish));
            self.sent(channel, promise, kept);
            return Ok(promise);
        }
        let promise = self.timed_promise();
        self.hold(HeldPublish::new(promise, Kind::Publish, publish));
        Ok(promise)
    }

    /// Publishes without asking for a confirm. The promise is answered when the message stands in the order of what is to be
    /// written, which is at once unless it is held back. What becomes of it then, nobody is told.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and [`Error::InvalidArgument`] when the message is to come back if it can't be routed.
    pub fn publish_unconfirmed(&mut self, publish: &Publish<'_>) -> Result<PromiseId, Error> {
        for (name, asks) in [("mandatory", publish.mandatory), ("immediate", publish.immediate)] {
            if asks {
                return Err(Error::invalid(
                    name,
                    "without a confirm there is nobody whom it could come back to",
                ));
            }
        }
        self.check_to_publish(publish)?;
        if let Some(channel) = self.ready_channel(publish.exchange, Kind::Unconfirmed) {
            self.write_publish(channel, publish, 0)?;
            return Ok(self.promises.open_done());
        }
        let promise = self.timed_promise();
        self.hold(HeldPublish::new(promise, Kind::Unconfirmed, publish));
        Ok(promise)
    }

    /// Notes that a publish went out that somebody waits for.
    #[inline]
    pub(super) fn sent(&mut self, channel: u16, promise: PromiseId, kept: Option<HeldPublish>) {
        if self.publishers.sent(channel, promise, kept) {
            self.prove(channel);
        }
    }

    /// Whether what is not confirmed when the connection goes is published again.
    fn republishes(&self) -> bool {
        self.backoff.as_ref().is_some_and(|backoff| backoff.policy.republish.is_some_and(|times| times > 0))
    }

    #[inline]
    pub(super) fn check_to_publish(&self, publish: &Publish<'_>) -> Result<(), Error> {
        self.check_open()?;
        if !self.has_room_to_publish() {
            return Err(Error::Full);
        }
        self.check_publish(publish)
    }

    /// The channel on which something can be published now.
    #[inline]
    pub(super) fn ready_channel(&mut self, exchange: ShortStr<'_>, kind: Kind) -> Option<u16> {
        self.attention = true;
        let exchange = exchange.as_octets();
        if !self.may_publish() || !self.held.is_empty() && self.held.has(exchange, kind) {
            return None;
        }
        match self.publishers.find(exchange, kind) {
            Some(publisher) if publisher.takes_more() => Some(publisher.channel),
            _ if self.held.waiting() > 0 => None,
            Some(publisher) => {
                let channel = publisher.channel;
                self.publishers.resume(channel, self.now)
            }
            None => self.open_publisher(exchange, kind).ok(),
        }
    }

    pub(super) fn hold(&mut self, held: HeldPublish) {
        self.held.push_back(held);
    }

    pub(super) fn may_publish(&self) -> bool {
        self.blocked.is_none() && matches!(self.state, State::Open | State::Draining)
    }

    /// Writes what was held back, as far as it goes, and for each exchange in order.
    pub(super) fn release_held(&mut self) {
        if self.held.is_empty() || !self.may_publish() {
            return;
        }
        while let Some(lane) = self.held.next_fresh() {
            let Some((exchange, kind)) = self.held.get(lane) else { continue };
            match self.publishers.find(exchange, kind) {
                Some(publisher) if publisher.takes_more() => {
                    let channel = publisher.channel;
                    self.release_lane(lane, channel);
                }
                Some(publisher) if publisher.is_stopped() => {}
                Some(_) | None => self.held.wait(lane),
            }
        }
        while let Some(lane) = self.held.first_waiting() {
            let Some((exchange, kind)) = self.held.get(lane) else { break };
            let opened = match self.publishers.find(exchange, kind) {
                Some(publisher) => {
                    let channel = publisher.channel;
                    Ok(self.publishers.resume(channel, self.now))
                }
                None => {
                    let exchange: Box<[u8]> = exchange.into();
                    self.open_publisher(&exchange, kind).map(Some)
                }
            };
            match opened {
                Ok(Some(channel)) => self.release_lane(lane, channel),
                // The broker has stopped content on the lane's channel.
                Ok(None) => self.held.stop_waiting(lane),
                Err(NoChannel::Closing) => return,
                Err(NoChannel::AllInUse) => {
                    self.publishers.retire(self.held.waiting(), self.now);
                    return;
                }
            }
        }
    }

    /// Writes the queued publishes of a lane.
    fn release_lane(&mut self, lane: LaneId, channel: u16) {
        while let Some(held) = self.held.pop(lane) {
            if !self.promises.is_waiting(held.promise) {
                continue;
            }
            let properties = held.properties();
            let publish = held.to_publish(&properties);
            let written = match held.kind {
                Kind::Publish | Kind::Unconfirmed => self.write_publish(channel, &publish, held.attempts),
                Kind::Call => self.write_call(channel, &publish),
            };
            let promise = held.promise;
            match (written, held.kind) {
                (Ok(()), Kind::Publish) => {
                    self.promises.untime(promise);
                    let kept = self.republishes().then_some(held);
                    self.sent(channel, promise, kept);
                }
                (Ok(()), Kind::Call) => self.sent(channel, promise, None),
                (Ok(()), Kind::Unconfirmed) => self.promises.done(promise),
                (Err(error), _) => self.answer(promise, Err(error)),
            }
        }
    }

    /// Forgets what has waited for too long.
    pub(super) fn drop_expired(&mut self) {
        let (promises, octets) = (&self.promises, &mut self.request_octets);
        self.requests.retain(|request| {
            let is_waiting = promises.is_waiting(request.promise);
            *octets -= if is_waiting { 0 } else { request.payload.len() };
            is_waiting
        });
        self.consumes.retain(|consume| {
            let is_waiting = promises.is_waiting(consume.promise);
            *octets -= if is_waiting { 0 } else { consume.octets() };
            is_waiting
        });
        self.transactions.waiting.retain(|waiting| promises.is_waiting(waiting.promise));
        self.held.retain(|held| promises.is_waiting(held.promise));
    }

    /// Finds, before an octet is written, what the broker would close the channel over.
    #[inline]
    pub(super) fn check_publish(&self, publish: &Publish<'_>) -> Result<(), Error> {
        let properties = publish.properties;
        let size = publish.body.as_octets().len();
        if size as u64 > self.options.limits.message_size {
            let most = self.options.limits.message_size;
            return Err(Error::invalid("body", format!("{size} octets, where max_message_size is {most}")));
        }
        if let Some(expiration) = properties.expiration {
            let text = expiration.as_str().filter(|text| text.bytes().all(|octet| octet.is_ascii_digit()));
            let milliseconds = text.and_then(|text| text.parse::<u64>().ok());
            if milliseconds.is_none_or(|milliseconds| milliseconds > LONGEST_EXPIRATION) {
                let why =
                    format!("{expiration:?} is not a number of milliseconds up to {LONGEST_EXPIRATION}");
                return Err(Error::invalid("expiration", why));
            }
        }
        if let Some(mode @ (0 | 3..)) = properties.delivery_mode {
            return Err(Error::invalid(
                "delivery_mode",
                format!("{mode} is neither 1 (transient) nor 2 (persistent)"),
            ));
        }
        if let Some(user) = properties.user_id
            && !self.options.foreign_user_id
            && self.username.as_ref().is_some_and(|name| user.as_octets() != name.as_bytes())
        {
            return Err(Error::invalid("user_id", format!("{user:?} is not who logged in")));
        }
        publish.headers.map_or(Ok(()), check_headers)
    }

    /// Opens the channel of an exchange that has none.
    fn open_publisher(&mut self, exchange: &[u8], kind: Kind) -> Result<u16, NoChannel> {
        // Its channel may have made room for another a moment ago, and what is on that comes first.
        if self.publishers.is_leaving(exchange, kind) {
            return Err(NoChannel::Closing);
        }
        let limit = usize::from(self.options.limits.publish_channels.max(1));
        if self.publishers.len() >= limit {
            // Channels without confirms are idle at once, so they would be closed and opened faster
            // than the broker can handle.
            if self.publishers.leaving() > 0 {
                return Err(NoChannel::Closing);
            }
            self.close_idle_publisher();
        }
        if self.publishers.len() >= limit {
            return Err(NoChannel::AllInUse);
        }
        if !self.channels.has_room(Role::Publish) {
            self.make_room();
            let is_closing = self.channels.is_closing_one();
            return Err(if is_closing { NoChannel::Closing } else { NoChannel::AllInUse });
        }
        let number = self.open_channel(Role::Publish).ok_or(NoChannel::AllInUse)?;
        if kind != Kind::Unconfirmed {
            self.write(number, &confirm::Select { nowait: false });
            if let Ok(method) = info(confirm::Select::ID) {
                self.await_reply(number, Awaited::Nothing(method));
            }
        }
        if kind == Kind::Call {
            self.await_replies(number);
        }
        self.publishers.add(exchange, kind, number, self.now);
        Ok(number)
    }

    /// Closes the channel of the exchange that has not been published to for longest.
    fn close_idle_publisher(&mut self) {
        if let Some(number) = self.publishers.remove_idle() {
            self.close_channel(number);
        }
    }

    /// Has a number become free soon, by closing a channel on which nothing is under way.
    pub(super) fn make_room(&mut self) {
        if self.channels.is_closing_one() {
            return;
        }
        let idle = self.publishers.remove_idle().or_else(|| self.channels.take_idle(Role::Closing));
        if let Some(number) = idle {
            self.close_channel(number);
        }
    }

    pub(super) fn publish_method<'p>(&self, publish: &Publish<'p>) -> Result<basic::Publish<'p>, Error> {
        let &Publish { exchange, routing_key, mandatory, immediate, .. } = publish;
        if immediate && self.server.refuses_immediate() {
            return Err(Error::invalid("immediate", "RabbitMQ closes the connection over it since 3.0"));
        }
        Ok(basic::Publish { exchange, routing_key, mandatory, immediate })
    }

    /// Writes a publish, which may have been published before.
    pub(super) fn write_publish(
        &mut self,
        channel: u16,
        publish: &Publish<'_>,
        attempts: u32,
    ) -> Result<(), Error> {
        let mut method = self.publish_method(publish)?;
        let mut renamed = None;
        if self.topology.has_renamed() {
            renamed = self.topology.address(&mut method, publish.headers);
        }
        let headers = renamed.as_ref().map(Table::as_ref).or(publish.headers);
        let comes_back = publish.mandatory || publish.immediate;
        let (out, frame_max) = (&mut self.out, self.frame_max);
        if (comes_back || attempts > 0)
            && let Some(publisher) = self.publishers.on(channel)
        {
            let mut stamp = Table::new();
            if comes_back {
                stamp.insert(STAMP, publisher.confirms.next() as i64)?;
            }
            if attempts > 0 {
                stamp.insert(REPUBLISHED, attempts)?;
                self.counters.republished += 1;
            }
            self.scratch.clear();
            self.scratch.extend_from_slice(stamp.as_ref().as_octets());
            self.scratch.extend_from_slice(headers.unwrap_or_default().as_octets());
            let stamped = TableRef::new(&self.scratch).map_err(|error| Error::invalid("headers", error))?;
            let properties = Properties { headers: Some(stamped.into()), ..*publish.properties };
            out.content(channel, frame_max, &method, &properties, &publish.body)?;
        } else if let Some(headers) = headers {
            let properties = Properties { headers: Some(headers.into()), ..*publish.properties };
            out.content(channel, frame_max, &method, &properties, &publish.body)?;
        } else {
            out.content(channel, frame_max, &method, publish.properties, &publish.body)?;
        }
        Ok(())
    }

    /// The broker has confirmed, or refused, publishes. False when it confirms what it can't.
    pub(super) fn confirm(&mut self, channel: u16, tag: u64, multiple: bool, accepted: bool) -> bool {
        let is_called = self.publishers.is_called_on(channel);
        let (promises, republished) = (&mut self.promises, &mut self.republished);
        let known = match (accepted, is_called) {
            (true, false) if republished.is_empty() => {
                self.publishers.confirm(channel, tag, multiple, |promise| promises.done(promise))
            }
            (true, false) => self.publishers.confirm(channel, tag, multiple, |promise| {
                republished.remove(&promise);
                promises.done(promise);
            }),
            // That a call has arrived is not the reply to it.
            (true, true) => self.publishers.confirm(channel, tag, multiple, |_| {}),
            // The broker may refuse a call after the deadline of its confirm and before its own
            // deadline.
            (false, true) if !multiple => {
                let is_known = self.publishers.confirm(channel, tag, false, |_| {});
                let call = if is_known { self.publishers.replied(channel, tag) } else { None };
                if let Some(call) = call {
                    self.answer(call, Err(Error::Nacked));
                }
                is_known
            }
            (false, _) => self.publishers.confirm(channel, tag, multiple, |promise| {
                let is_unknown = republished.remove(&promise) && promises.is_waiting(promise);
                self.counters.unconfirmed += u64::from(is_unknown);
                let error = if is_unknown { Error::Nacked.into_unconfirmed() } else { Error::Nacked };
                // A publish is answered without anything to dispose of.
                let _ = promises.answer(promise, Err(error));
            }),
        };
        if is_called && !accepted && multiple {
            self.publishers.forget_answered_calls(&self.promises);
        }
        self.attention |= !self.held.is_empty();
        known
    }

    /// A publish came back. Its confirm, which comes next, has nothing to add.
    pub(super) fn returned(&mut self, channel: u16, code: u16, text: &str, message: Message) {
        let stamp = message.headers().ok().and_then(|headers| headers.get(STAMP)).and_then(Value::as_i64);
        let Some(promise) = stamp.and_then(|stamp| self.publishers.returned(channel, stamp as u64)) else {
            return;
        };
        let message = message.without_header(STAMP);
        let returned = Returned { reply_code: code.into(), reply_text: text.to_owned(), message }.into();
        let error = match ReplyCode::from(code) {
            ReplyCode::NO_CONSUMERS => Error::NoConsumers(returned),
            _ => Error::NoRoute(returned),
        };
        self.answer(promise, Err(error));
    }

    /// The broker closed a publish channel: what was in flight on it is answered.
    ///
    /// Before the first publish has gone through, the error is that publish's, and the broker has seen none of the others;
    /// when it names the exchange, it is the answer to all of them. Later, the broker may have taken some and not have
    /// confirmed them yet. Then only the last is known not to have been taken, and an error that names the exchange is the
    /// answer to that.
    pub(super) fn publisher_closed(&mut self, channel: u16, error: &Error) {
        let Some(publisher) = self.publishers.remove(channel) else { return };
        self.held.retry(publisher.exchange(), publisher.kind());
        let was_alone = publisher.confirms.has_one_unconfirmed();
        let names_exchange = matches!(error, Error::NotFound(_) | Error::AccessRefused(_));
        let promises: Vec<(u64, PromiseId)> = publisher.confirms.drain().collect();
        let last = promises.last().map_or(0, |(tag, _)| *tag);
        for (tag, promise) in promises {
            let is_answer = match (publisher.is_proven, names_exchange) {
                _ if was_alone => true,
                (false, true) => true,
                (false, false) => tag == 1,
                (true, true) => tag == last,
                (true, false) => false,
            };
            let error = if is_answer { error.clone() } else { Error::Unconfirmed(error.clone().into()) };
            self.answer(promise, Err(error));
        }
        // What was called and has arrived: its reply finds nobody any more.
        for promise in publisher.calls.into_values() {
            self.answer(promise, Err(Error::Unconfirmed(error.clone().into())));
        }
    }

    /// Asks for confirms once more behind the first publish of a channel, which changes nothing: the answer proves that the
    /// publish went through.
    fn prove(&mut self, channel: u16) {
        if let Ok(method) = info(confirm::Select::ID) {
            self.write(channel, &confirm::Select { nowait: false });
            self.await_reply(channel, Awaited::Proof(method));
        }
    }
}

/// CC and BCC are arrays of strings, or the broker closes the channel. NaN and the infinities make it close the connection.
fn check_headers(headers: TableRef<'_>) -> Result<(), Error> {
    if !headers.is_finite() {
        return Err(Error::invalid("headers", "RabbitMQ can't read a number that is NaN or infinite"));
    }
    for name in ["CC", "BCC"] {
        let is_fine = match headers.get(name) {
            None => true,
            Some(Value::Array(keys)) => keys.iter().all(|key| matches!(key, Value::String(_))),
            Some(_) => false,
        };
        if !is_fine {
            return Err(Error::invalid("headers", format!("{name} has to be an array of strings")));
        }
    }
    Ok(())
}
