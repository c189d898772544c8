//! What the server sends: every frame finds what it belongs to, or breaks the protocol.

use super::{Connection, State};
use crate::error::{Error, Fault};
use crate::machine::channel::{Awaited, Resize, Role};
use crate::machine::content::{Assembly, Delivered, Got, INLINE_BODY, Purpose, Recipient};
use crate::machine::handshake::{Handshake, Step};
use crate::machine::{LoginOutcome, LoginStep, Notice, PromiseId, Reply};
use crate::message::Message;
use crate::protocol::method::{Encode, basic, channel as channels, connection as methods};
use crate::protocol::{
    Frame, FrameKind, Method, MethodId, ProtocolHeader, ReplyCode, ShortStr, WholeContent,
};
use std::collections::VecDeque;
use std::time::Instant;

/// A fault of the server.
fn broken(code: ReplyCode, text: impl Into<String>, method: MethodId) -> Error {
    Fault::by_client(code, text, method).into()
}

impl Connection {
    pub(super) fn receive(&mut self, now: Instant, frame: Frame<'_>) -> Result<(), Error> {
        match (frame.kind(), frame.channel()) {
            (FrameKind::Heartbeat, _) => Ok(()),
            (FrameKind::ProtocolHeader, _) => {
                let header =
                    ProtocolHeader::from_octets(frame.payload()).unwrap_or(ProtocolHeader::AMQP_0_9_1);
                Err(Error::UnsupportedProtocol(header))
            }
            (FrameKind::Method, 0) => {
                let method = Method::decode(frame.payload()).map_err(Fault::from)?;
                self.receive_on_connection(now, method)
            }
            (FrameKind::Header | FrameKind::Body, 0) => {
                Err(broken(ReplyCode::UNEXPECTED_FRAME, "a content on channel 0", MethodId::NONE))
            }
            (kind, _) if matches!(self.state, State::Closing) => {
                if kind == FrameKind::Method {
                    self.tell_refusal(frame.payload());
                }
                Ok(())
            }
            (_, number) if matches!(self.state, State::Handshake(_)) => {
                let text = format!("a frame on channel {number} before the connection was open");
                Err(broken(ReplyCode::CHANNEL_ERROR, text, MethodId::NONE))
            }
            (_, number) => self.receive_on_channel(number, frame),
        }
    }

    /// Reports a channel that the server closes while the connection is being closed. The close is
    /// not answered, but it may be the only report about publishes without confirms.
    fn tell_refusal(&mut self, payload: &[u8]) {
        if let Ok(Method::Channel(channels::Method::Close(close))) = Method::decode(payload) {
            self.notices.tell(&Notice::ChannelClosed(fault_of(&close).into()));
        }
    }

    fn receive_on_connection(&mut self, now: Instant, method: Method<'_>) -> Result<(), Error> {
        let id = method.id();
        match method {
            Method::Connection(methods::Method::Close(close)) => self.server_closes(close),
            Method::Connection(methods::Method::CloseOk(_)) if matches!(self.state, State::Closing) => {
                self.end_closing(Ok(()));
            }
            _ if matches!(self.state, State::Closing) => {}
            method if matches!(self.state, State::Handshake(_)) => self.shake_hands(now, method),
            Method::Connection(methods::Method::Blocked(blocked)) => {
                let reason = blocked.reason.to_str_lossy();
                self.blocked = Some(reason.as_ref().into());
                self.notices.tell(&Notice::Blocked(reason.into()));
            }
            Method::Connection(methods::Method::Unblocked(_)) => {
                self.blocked = None;
                self.last_progress = now;
                self.notices.tell(&Notice::Unblocked);
            }
            Method::Connection(methods::Method::UpdateSecretOk(_)) if !self.updating_secret.is_empty() => {
                if let Some(promise) = self.updating_secret.pop_front() {
                    self.answer(promise, Ok(Reply::Done));
                }
            }
            Method::Connection(_) => {
                return Err(broken(ReplyCode::COMMAND_INVALID, "a method that was not to come", id));
            }
            _ => return Err(broken(ReplyCode::CHANNEL_ERROR, "a channel's method on channel 0", id)),
        }
        Ok(())
    }

    fn shake_hands(&mut self, now: Instant, method: Method<'_>) {
        let State::Handshake(handshake) = std::mem::replace(&mut self.state, State::Closed) else { return };
        self.attention = true;
        match handshake.handle(method, &self.options, &mut self.out) {
            // There is no common ground yet on which to tell the server (spec 2.2.4).
            Err(error) => self.abort(error),
            Ok(step) => self.step(now, step),
        }
    }

    /// Something that is to be run for the login, where no lock is held: the user's own code. What comes of it is for
    /// [`handle_login`](Self::handle_login). There is something only with
    /// [`Options::credentials_from`](crate::Options::credentials_from) or
    /// [`Options::own_mechanism`](crate::Options::own_mechanism), after [`handle_input`](Self::handle_input).
    pub fn poll_login(&mut self) -> Option<LoginStep> {
        if let State::Handshake(handshake) = &mut self.state { handshake.poll_login() } else { None }
    }

    /// Takes in what came of a [`LoginStep`].
    pub fn handle_login(&mut self, outcome: LoginOutcome) {
        // Its time may be over, or somebody has closed.
        if !matches!(self.state, State::Handshake(_)) {
            return;
        }
        let State::Handshake(handshake) = std::mem::replace(&mut self.state, State::Closed) else { return };
        self.attention = true;
        match handshake.handle_login(outcome, &self.options, &mut self.out) {
            Err(error) => self.abort(error),
            Ok(handshake) => self.state = State::Handshake(handshake),
        }
    }

    fn step(&mut self, now: Instant, step: Step) {
        match step {
            Step::Next(handshake) => self.state = State::Handshake(handshake),
            Step::Tuned(handshake) => {
                self.frame_max = handshake.limits.frame_max;
                self.channels.set_max(handshake.limits.channel_max);
                self.heartbeat.agreed(handshake.limits.heartbeat, now);
                self.username = handshake.username.clone();
                self.state = State::Handshake(Handshake::OpenOk(handshake));
            }
            Step::Open(server) => {
                self.server = server;
                self.heartbeat.watch(now);
                self.restore();
            }
        }
    }

    fn receive_on_channel(&mut self, number: u16, mut frame: Frame<'_>) -> Result<(), Error> {
        let most = self.options.limits.message_size;
        let Some(channel) = self.channels.get_mut(number) else {
            // RabbitMQ's deliveries overtake its `close`, so those of a channel that it closed may still come.
            if self.channels.was_closed_by_server(number) {
                return Ok(());
            }
            let text = format!("a frame on channel {number}, which is not open");
            return Err(broken(ReplyCode::CHANNEL_ERROR, text, MethodId::NONE));
        };
        if matches!(channel.role, Role::Closing | Role::Overdue) {
            return self.receive_on_closing(number, &frame);
        }
        if channel.discards_until_open {
            let is_open_ok = frame.kind() == FrameKind::Method
                && matches!(
                    Method::decode(frame.payload()),
                    Ok(Method::Channel(channels::Method::OpenOk(_)))
                );
            if !is_open_ok {
                return Ok(());
            }
            channel.discards_until_open = false;
        }
        if frame.kind() == FrameKind::Method {
            // What comes most often is looked for first.
            if channel.assembly.is_none()
                && let Some(deliver) = basic::Deliver::decode(frame.payload())
            {
                let content = frame.with_content(most.min(INLINE_BODY));
                self.receive_deliver(number, deliver, content)?;
                if let Some(left) = content.map(|content| content.left) {
                    frame.skip_content(left);
                }
                return Ok(());
            }
            let method = Method::decode(frame.payload()).map_err(Fault::from)?;
            if channel.assembly.is_some() {
                return Err(broken(ReplyCode::UNEXPECTED_FRAME, "a method inside a content", method.id()));
            }
            return self.receive_method(number, method);
        }
        let Some(assembly) = &mut channel.assembly else {
            return Err(broken(ReplyCode::UNEXPECTED_FRAME, "a content without its method", MethodId::NONE));
        };
        let before = assembly.size();
        let is_whole = match frame.kind() {
            FrameKind::Header => assembly.header(frame.payload(), most, &mut self.spare),
            _ => assembly.body(frame),
        };
        let after = assembly.size();
        if matches!(is_whole, Ok(true))
            && let Some(mut assembly) = channel.assembly.take()
        {
            self.channels.resize_partial(before, 0);
            let message = assembly.finish();
            return self.receive_message(number, assembly.purpose, message);
        }
        self.channels.resize_partial(before, after);
        is_whole?;
        self.channels.bound_partial(self.options.limits.buffered_octets);
        Ok(())
    }

    /// "Discard all received methods except Close and Close-OK" (1.5.2.5).
    fn receive_on_closing(&mut self, number: u16, frame: &Frame<'_>) -> Result<(), Error> {
        if frame.kind() != FrameKind::Method {
            return Ok(());
        }
        match Method::decode(frame.payload()).map_err(Fault::from)? {
            Method::Channel(channels::Method::CloseOk(_)) => {
                self.channels.remove(number);
                self.publishers.has_left(number);
            }
            Method::Channel(channels::Method::Close(close)) => {
                let channel = self.channels.get_mut(number);
                let channel = channel.filter(|channel| !channel.close_answered);
                if let Some(channel) = channel {
                    channel.close_answered = true;
                    let awaited = std::mem::take(&mut channel.awaited);
                    self.write(number, &channels::CloseOk {});
                    let error = Error::from(fault_of(&close));
                    // The request timed out, and the cause of the error may be gone.
                    self.answer_awaited(None, awaited, &error);
                    // What was published without a confirm may be what it is about.
                    self.notices.tell(&Notice::ChannelClosed(error));
                }
            }
            reply => self.absorb_late_reply(number, &reply),
        }
        Ok(())
    }

    fn receive_method(&mut self, number: u16, method: Method<'_>) -> Result<(), Error> {
        let id = method.id();
        match method {
            Method::Basic(basic::Method::GetOk(got)) => self.receive_got(number, &got)?,
            Method::Basic(basic::Method::Return(returned)) => {
                let text = returned.reply_text.to_str_lossy().into();
                let purpose = Purpose::Returned { code: returned.reply_code, text };
                self.begin_content(number, purpose, returned.exchange, returned.routing_key);
            }
            Method::Basic(basic::Method::Ack(ack)) => {
                self.receive_confirm(number, ack.delivery_tag, ack.multiple, true, id)?;
            }
            Method::Basic(basic::Method::Nack(nack)) => {
                self.receive_confirm(number, nack.delivery_tag, nack.multiple, false, id)?;
            }
            Method::Basic(basic::Method::Cancel(cancel)) => self.server_cancels(number, cancel),
            Method::Channel(channels::Method::Close(close)) => self.channel_closed(number, close),
            Method::Channel(channels::Method::Flow(flow)) => {
                if let Some((exchange, kind)) = self.publishers.flow(number, flow.active) {
                    self.held.retry(exchange, kind);
                } else if let Some((_, transaction)) = self.transactions.on(number) {
                    transaction.flows = flow.active;
                }
                self.write(number, &channels::FlowOk { active: flow.active });
            }
            method => self.receive_reply(number, method)?,
        }
        Ok(())
    }

    /// A delivery, with its content if that is there already.
    #[inline]
    fn receive_deliver(
        &mut self,
        number: u16,
        deliver: basic::Deliver<'_>,
        content: Option<WholeContent<'_>>,
    ) -> Result<(), Error> {
        let recipient = self.recipient(number, deliver.consumer_tag);
        let basic::Deliver { delivery_tag: tag, redelivered, exchange, routing_key, .. } = deliver;
        match content {
            Some(content) => {
                let message = Message::as_it_came(exchange, routing_key, &content);
                self.receive_delivery(number, recipient, tag, redelivered, message)
            }
            None => {
                let purpose = Purpose::Deliver { recipient, tag, redelivered };
                self.begin_content(number, purpose, exchange, routing_key);
                Ok(())
            }
        }
    }

    /// Handles a whole delivery: a reply to a call, or one for a consumer.
    #[inline]
    fn receive_delivery(
        &mut self,
        number: u16,
        recipient: Option<Recipient>,
        tag: u64,
        redelivered: bool,
        message: Message,
    ) -> Result<(), Error> {
        if recipient.is_none() && self.publishers.is_called_on(number) {
            self.reply(number, message);
            return Ok(());
        }
        self.deliver(number, recipient, tag, redelivered, message)
    }

    #[inline]
    fn begin_content(
        &mut self,
        number: u16,
        purpose: Purpose,
        exchange: ShortStr<'_>,
        routing_key: ShortStr<'_>,
    ) {
        if let Some(channel) = self.channels.get_mut(number) {
            channel.assembly = Some(Assembly::new(purpose, exchange, routing_key, &mut self.spare));
        }
    }

    fn receive_confirm(
        &mut self,
        number: u16,
        tag: u64,
        multiple: bool,
        accepted: bool,
        id: MethodId,
    ) -> Result<(), Error> {
        let awaited = self.channels.get(number).and_then(|channel| channel.awaited.front());
        let selecting = matches!(awaited, Some(Awaited::Nothing(_)));
        if !selecting && self.confirm(number, tag, multiple, accepted) {
            return Ok(());
        }
        let text = format!("a confirm of publish {tag}, which waits for none");
        Err(broken(ReplyCode::COMMAND_INVALID, text, id))
    }

    fn receive_got(&mut self, number: u16, got: &basic::GetOk<'_>) -> Result<(), Error> {
        let awaited = self.channels.get_mut(number).and_then(|channel| channel.awaited.pop_front());
        let Some(Awaited::Get { request, no_ack }) = awaited else {
            return Err(broken(
                ReplyCode::COMMAND_INVALID,
                "a message that nobody asked for",
                basic::GetOk::ID,
            ));
        };
        let &basic::GetOk { delivery_tag: tag, redelivered, exchange, routing_key, message_count } = got;
        let purpose = Purpose::Got { request, no_ack, tag, redelivered, message_count };
        self.begin_content(number, purpose, exchange, routing_key);
        Ok(())
    }

    fn receive_message(&mut self, number: u16, purpose: Purpose, message: Message) -> Result<(), Error> {
        match purpose {
            Purpose::Deliver { recipient, tag, redelivered } => {
                self.receive_delivery(number, recipient, tag, redelivered, message)
            }
            Purpose::Got { request, no_ack, tag, redelivered, message_count } => {
                self.got(number, request.promise, no_ack, tag, redelivered, message_count, message)
            }
            Purpose::Returned { code, text } => {
                if self.publishers.on(number).is_some() {
                    self.returned(number, code, &text, message);
                } else {
                    self.returned_in_transaction(number, code, &text, message);
                }
                Ok(())
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a purpose")]
    fn got(
        &mut self,
        number: u16,
        promise: PromiseId,
        no_ack: bool,
        tag: u64,
        redelivered: bool,
        message_count: u32,
        message: Message,
    ) -> Result<(), Error> {
        let Some(channel) = self.channels.get_mut(number) else { return Ok(()) };
        if !channel.unsettled.deliver(tag, no_ack) {
            return Err(broken(
                ReplyCode::COMMAND_INVALID,
                "a delivery tag used again",
                basic::GetOk::ID,
            ));
        }
        let incarnation = channel.incarnation;
        let delivered = Delivered {
            message,
            tag,
            redelivered,
            settled: no_ack.into(),
            source: 0,
            channel: number,
            incarnation,
            epoch: self.epoch,
            by_offset: false,
        };
        // The channel first, because an answer that nobody wants settles the message at once.
        self.release(number);
        self.answer(promise, Ok(Reply::Delivery(Some(Box::new(Got { delivered, message_count })))));
        Ok(())
    }

    fn receive_reply(&mut self, number: u16, method: Method<'_>) -> Result<(), Error> {
        let id = method.id();
        let Some(channel) = self.channels.get_mut(number) else { return Ok(()) };
        let of_tag = match method {
            Method::Basic(basic::Method::ConsumeOk(ok)) => Some(ok.consumer_tag),
            Method::Basic(basic::Method::CancelOk(ok)) => Some(ok.consumer_tag),
            _ => None,
        };
        let answered = |awaited: &Awaited| awaited.is_answered_by(id, of_tag);
        let place = channel.awaited.iter().position(|it| answered(it) || !it.may_be_overtaken());
        let place = place.filter(|place| channel.awaited.get(*place).is_some_and(answered));
        let Some(awaited) = place.and_then(|place| channel.awaited.remove(place)) else {
            // RabbitMQ answers a cancel twice when the quorum queue is deleted at that moment.
            if id == basic::CancelOk::ID {
                return Ok(());
            }
            return Err(broken(ReplyCode::COMMAND_INVALID, "a method that was not to come", id));
        };
        match awaited {
            Awaited::Nothing(_) => {}
            Awaited::Proof(_) => {
                if let Some(publisher) = self.publishers.on(number) {
                    publisher.is_proven = true;
                }
            }
            Awaited::Request(request) => {
                self.note(&request, &method);
                self.answer(request.promise, Ok(Self::reply_of(method)));
            }
            Awaited::Qos { resize: Resize { promise, .. }, .. } | Awaited::Recover { promise, .. } => {
                self.answer(promise, Ok(Reply::Done));
            }
            Awaited::Restored(_) => self.step_done(&method),
            Awaited::Get { request, .. } => self.answer(request.promise, Ok(Reply::Delivery(None))),
            Awaited::Consume { consumer, tag, resized, .. } => {
                let resized = resized.map(|resize| resize.promise);
                self.consume_ok(number, consumer, (tag, of_tag.unwrap_or_default()), resized);
            }
            Awaited::Cancel { consumer, tag, .. } => self.cancel_ok(consumer, tag),
            Awaited::Transaction { id, .. } => self.transaction_replied(id),
        }
        self.release(number);
        Ok(())
    }

    /// The server closed a channel: what was asked on it has its answer, and nothing else notices.
    fn channel_closed(&mut self, number: u16, close: channels::Close<'_>) {
        self.write(number, &channels::CloseOk {});
        let Some(mut channel) = self.channels.remove_closed_by_server(number) else { return };
        let error: Error = fault_of(&close).into();
        let awaited = std::mem::take(&mut channel.awaited);
        self.answer_awaited(channel.assembly.take(), awaited, &error);
        if let Some(consumer) = channel.consumer.take() {
            self.consumer_closed(consumer, &error);
        }
        self.publisher_closed(number, &error);
        self.transaction_closed(number, &error);
        if channel.role == Role::Restore {
            self.step_failed(&error);
        }
        self.notices.tell(&Notice::ChannelClosed(error));
        self.attention = true;
    }

    /// Answers those who waited for something on a channel that has no more to say.
    pub(super) fn answer_awaited(
        &mut self,
        assembly: Option<Assembly>,
        awaited: VecDeque<Awaited>,
        error: &Error,
    ) {
        if let Some(assembly) = assembly
            && let Purpose::Got { request, .. } = assembly.purpose
        {
            self.answer(request.promise, Err(error.clone()));
        }
        for awaited in awaited {
            match awaited {
                Awaited::Request(request) | Awaited::Get { request, .. } => {
                    self.note_refusal(&request, error);
                    self.answer(request.promise, Err(error.clone()));
                }
                Awaited::Qos { resize: Resize { promise, .. }, .. }
                | Awaited::Consume { resized: Some(Resize { promise, .. }), .. }
                | Awaited::Recover { promise, .. } => self.answer(promise, Err(error.clone())),
                // Those of a consumer or a transaction are answered when it ends.
                Awaited::Consume { .. }
                | Awaited::Cancel { .. }
                | Awaited::Transaction { .. }
                | Awaited::Restored(_)
                | Awaited::Nothing(_)
                | Awaited::Proof(_) => {}
            }
        }
    }
}

/// What the server closes a channel over.
fn fault_of(close: &channels::Close<'_>) -> Fault {
    let method = MethodId { class: close.class_id, method: close.method_id };
    Fault::by_server(close.reply_code, &close.reply_text.to_str_lossy(), method)
}
