//! Routing of received frames to the part of the session that handles them. A frame that no part
//! expects violates the protocol.

use crate::error::{Error, Fault};
use crate::machine::Notice;
use crate::machine::channel::content::{Assembly, Delivered, Got, INLINE_BODY, Purpose, Recipient};
use crate::machine::channel::{Awaited, PendingReply, Role};
use crate::machine::faults::{fault_of, violation};
use crate::machine::ids::ChannelNumber;
use crate::machine::session::Session;
use crate::message::Message;
use crate::protocol::method::{Encode, basic, channel as channels};
use crate::protocol::{Frame, FrameKind, Method, MethodId, ReplyCode, ShortStr, WholeContent};

impl Session {
    /// Handles a frame of a channel.
    #[inline]
    pub(crate) fn receive_on_channel(
        &mut self,
        number: ChannelNumber,
        mut frame: Frame<'_>,
    ) -> Result<(), Error> {
        let max_size = self.cx.options.limits.received_size();
        let Some(channel) = self.cx.channels.get_mut(number) else {
            // RabbitMQ's `channel.close` overtakes deliveries, so deliveries of a channel that it
            // closed may still arrive.
            if self.cx.channels.was_closed_by_server(number) {
                return Ok(());
            }
            let text = format!("frame on channel {number}, which is not open");
            return Err(violation(ReplyCode::CHANNEL_ERROR, text, MethodId::NONE));
        };
        if matches!(channel.role, Role::Closing | Role::Overdue) {
            return self.receive_on_closing(number, &frame);
        }
        if channel.discards_until_open {
            if !is_reply_to_open(&frame) {
                return Ok(());
            }
            channel.discards_until_open = false;
        }
        if frame.kind() == FrameKind::Method {
            // Deliveries are the most frequent methods, so they are checked first.
            if channel.assembly.is_none()
                && let Some(deliver) = basic::Deliver::decode(frame.payload())
            {
                let content = frame.with_content(max_size.min(INLINE_BODY));
                self.receive_deliver(number, deliver, content)?;
                if let Some(left) = content.map(|content| content.left) {
                    frame.skip_content(left);
                }
                return Ok(());
            }
            let method = Method::decode(frame.payload()).map_err(Fault::from)?;
            if channel.assembly.is_some() {
                return Err(violation(
                    ReplyCode::UNEXPECTED_FRAME,
                    "method inside a content",
                    method.id(),
                ));
            }
            return self.receive_method(number, method);
        }
        self.receive_content(number, frame)
    }

    /// Handles a content header frame or a body frame. Most deliveries do not reach this method,
    /// because their whole content is in the read buffer and is handled with the method frame.
    fn receive_content(&mut self, number: ChannelNumber, frame: Frame<'_>) -> Result<(), Error> {
        let limits = &self.cx.options.limits;
        // Unreachable: the caller has found the channel.
        let Some(channel) = self.cx.channels.get_mut(number) else {
            return Ok(());
        };
        let Some(assembly) = &mut channel.assembly else {
            return Err(violation(
                ReplyCode::UNEXPECTED_FRAME,
                "content frame without a method",
                MethodId::NONE,
            ));
        };
        let before = assembly.size();
        let is_whole = match frame.kind() {
            FrameKind::Header => assembly.header(
                frame.payload(),
                limits.received_size(),
                &mut self.cx.content_buffer,
            ),
            _ => assembly.body(frame),
        };
        let after = assembly.size();
        if matches!(is_whole, Ok(true))
            && let Some(mut assembly) = channel.assembly.take()
        {
            self.cx.channels.resize_partial(before, 0);
            let message = assembly.finish();
            return self.receive_message(number, assembly.purpose, message);
        }
        self.cx.channels.resize_partial(before, after);
        is_whole?;
        self.cx.channels.bound_partial(limits.buffered_bytes);
        Ok(())
    }

    /// Handles a frame on a channel that this side is closing. "After sending this method, any
    /// received methods except Close and Close-OK MUST be discarded" (channel.close).
    fn receive_on_closing(
        &mut self,
        number: ChannelNumber,
        frame: &Frame<'_>,
    ) -> Result<(), Error> {
        if frame.kind() != FrameKind::Method {
            return Ok(());
        }
        match Method::decode(frame.payload()).map_err(Fault::from)? {
            Method::Channel(channels::Method::CloseOk(_)) => {
                self.cx.channels.remove(number);
                self.publishing.publishers.record_closed(number);
            }
            Method::Channel(channels::Method::Close(close)) => {
                let channel = self.cx.channels.get_mut(number);
                // "The response to receiving a Close after sending Close must be to send Close-Ok"
                // (channel.close).
                let channel = channel.filter(|channel| !channel.sent_close_ok);
                if let Some(channel) = channel {
                    channel.sent_close_ok = true;
                    let pending = std::mem::take(&mut channel.pending_replies);
                    self.cx.write(number, &channels::CloseOk {});
                    let error = Error::from(fault_of(&close));
                    // Requests on the channel have timed out, but the error may show that a queue
                    // is gone.
                    self.cx.fail_pending_replies(None, pending, &error);
                    // The error may be about publishes without confirms, which have no promise.
                    self.cx.notices.notify(&Notice::ChannelClosed(error));
                }
            }
            reply => self.cx.absorb_late_reply(number, &reply),
        }
        Ok(())
    }

    /// Handles a method on a channel.
    fn receive_method(&mut self, number: ChannelNumber, method: Method<'_>) -> Result<(), Error> {
        let id = method.id();
        match method {
            Method::Basic(basic::Method::GetOk(got)) => self.receive_get_ok(number, &got)?,
            Method::Basic(basic::Method::Return(returned)) => {
                let text = returned.reply_text.to_str_lossy().into();
                let purpose = Purpose::Returned {
                    code: returned.reply_code,
                    text,
                };
                self.begin_content(number, purpose, returned.exchange, returned.routing_key);
            }
            Method::Basic(basic::Method::Ack(ack)) => {
                self.receive_confirm(number, ack.delivery_tag, ack.multiple, true, id)?;
            }
            Method::Basic(basic::Method::Nack(nack)) => {
                self.receive_confirm(number, nack.delivery_tag, nack.multiple, false, id)?;
            }
            Method::Basic(basic::Method::Cancel(cancel)) => {
                self.consuming
                    .handle_server_cancel(&mut self.cx, number, cancel)
            }
            Method::Channel(channels::Method::Close(close)) => {
                self.handle_channel_closed(number, close)?
            }
            Method::Channel(channels::Method::Flow(flow)) => {
                let active = flow.active;
                if let Some((exchange, kind)) = self.publishing.publishers.set_flow(number, active)
                {
                    self.publishing.queued.retry(exchange, kind);
                } else if let Some((_, transaction)) = self.transactions.on(number) {
                    transaction.flows = active;
                }
                self.cx.write(number, &channels::FlowOk { active });
            }
            method => self.receive_reply(number, method)?,
        }
        Ok(())
    }

    /// Handles a `basic.deliver`. If its content has arrived as well, handles the whole delivery,
    /// else begins to receive the content.
    #[inline]
    fn receive_deliver(
        &mut self,
        number: ChannelNumber,
        deliver: basic::Deliver<'_>,
        content: Option<WholeContent<'_>>,
    ) -> Result<(), Error> {
        let recipient =
            self.consuming
                .consumers
                .recipient_on(&self.cx, number, deliver.consumer_tag);
        let basic::Deliver {
            delivery_tag: tag,
            redelivered,
            exchange,
            routing_key,
            ..
        } = deliver;
        match content {
            Some(content) => {
                let message = Message::from_wire(exchange, routing_key, &content);
                self.receive_delivery(number, recipient, tag, redelivered, message)
            }
            None => {
                let purpose = Purpose::Deliver {
                    recipient,
                    tag,
                    redelivered,
                };
                self.begin_content(number, purpose, exchange, routing_key);
                Ok(())
            }
        }
    }

    /// Handles a whole delivery: the reply to a call, or a message for a consumer.
    #[inline]
    fn receive_delivery(
        &mut self,
        number: ChannelNumber,
        recipient: Option<Recipient>,
        tag: u64,
        redelivered: bool,
        message: Message,
    ) -> Result<(), Error> {
        if recipient.is_none() && self.publishing.publishers.has_calls_on(number) {
            self.publishing.handle_reply(&mut self.cx, number, message);
            return Ok(());
        }
        self.consuming
            .consumers
            .deliver(&mut self.cx, number, recipient, tag, redelivered, message)
    }

    /// Begins to receive the content of a method on a channel.
    #[inline]
    fn begin_content(
        &mut self,
        number: ChannelNumber,
        purpose: Purpose,
        exchange: ShortStr<'_>,
        routing_key: ShortStr<'_>,
    ) {
        if let Some(channel) = self.cx.channels.get_mut(number) {
            channel.assembly = Some(Assembly::new(
                purpose,
                exchange,
                routing_key,
                &mut self.cx.content_buffer,
            ));
        }
    }

    /// Handles a `basic.ack` or `basic.nack` of publishes.
    fn receive_confirm(
        &mut self,
        number: ChannelNumber,
        tag: u64,
        multiple: bool,
        accepted: bool,
        id: MethodId,
    ) -> Result<(), Error> {
        let channel = self.cx.channels.get(number);
        let pending = channel.and_then(|channel| channel.pending_replies.front());
        // A publish channel has pending replies without a purpose until it is in confirm mode, and
        // publishes are confirmed only then.
        let is_selecting = pending.is_some_and(|it| matches!(it.purpose, Awaited::Nothing));
        if !is_selecting
            && self
                .publishing
                .confirm(&mut self.cx, number, tag, multiple, accepted)
        {
            return Ok(());
        }
        let text = format!("confirm of publish {tag}, which is not pending");
        Err(violation(ReplyCode::COMMAND_INVALID, text, id))
    }

    /// Handles `get-ok`. The message follows.
    fn receive_get_ok(
        &mut self,
        number: ChannelNumber,
        got: &basic::GetOk<'_>,
    ) -> Result<(), Error> {
        let channel = self.cx.channels.get_mut(number);
        let pending = channel.and_then(|channel| channel.pending_replies.pop_front());
        let Some(PendingReply {
            purpose: Awaited::Get { request, no_ack },
            ..
        }) = pending
        else {
            return Err(violation(
                ReplyCode::COMMAND_INVALID,
                "unexpected get-ok without a pending get",
                basic::GetOk::ID,
            ));
        };
        let &basic::GetOk {
            delivery_tag: tag,
            redelivered,
            exchange,
            routing_key,
            message_count,
        } = got;
        let purpose = Purpose::Got {
            request,
            no_ack,
            tag,
            redelivered,
            message_count,
        };
        self.begin_content(number, purpose, exchange, routing_key);
        Ok(())
    }

    /// Handles a message whose content has arrived in several frames.
    fn receive_message(
        &mut self,
        number: ChannelNumber,
        purpose: Purpose,
        message: Message,
    ) -> Result<(), Error> {
        match purpose {
            Purpose::Deliver {
                recipient,
                tag,
                redelivered,
            } => self.receive_delivery(number, recipient, tag, redelivered, message),
            Purpose::Got {
                request,
                no_ack,
                tag,
                redelivered,
                message_count,
            } => {
                let got = Got {
                    delivered: Delivered {
                        message,
                        tag,
                        redelivered,
                        settled: no_ack.into(),
                        source: 0,
                        channel: number,
                        incarnation: self.cx.incarnation(number),
                        epoch: self.cx.epoch,
                        by_offset: false,
                    },
                    message_count,
                };
                self.cx.complete_get(request.promise, got)
            }
            Purpose::Returned { code, text } => {
                if self.publishing.publishers.on(number).is_some() {
                    self.publishing
                        .handle_return(&mut self.cx, number, code, &text, message);
                } else {
                    self.transactions
                        .handle_return_in_transaction(number, code, &text, message);
                }
                Ok(())
            }
        }
    }

    /// Handles a `channel.close` of the server: completes the channel's requests with the error. No
    /// other channel is affected.
    ///
    /// # Errors
    /// The error that ends the connection, if it was the channel of a strict replay.
    fn handle_channel_closed(
        &mut self,
        number: ChannelNumber,
        close: channels::Close<'_>,
    ) -> Result<(), Error> {
        self.cx.write(number, &channels::CloseOk {});
        // Unreachable: `receive_on_channel` has found the channel.
        let Some(mut channel) = self.cx.channels.remove_closed_by_server(number) else {
            return Ok(());
        };
        let mut outcome = Ok(());
        let error: Error = fault_of(&close).into();
        self.consuming.consumers.undo_resize(&channel);
        let pending = std::mem::take(&mut channel.pending_replies);
        self.cx
            .fail_pending_replies(channel.assembly.take(), pending, &error);
        // The broker delivers the messages again that this consumer has buffered.
        if let Some(consumer) = channel.ended_consumer() {
            self.consuming.consumers.lose_stale(&self.cx, consumer);
        }
        if let Some(consumer) = channel.consumer() {
            self.recovery.handle_consumer_close(
                &mut self.cx,
                &mut self.consuming,
                consumer,
                &error,
            );
        }
        self.publishing
            .handle_publisher_closed(&mut self.cx, number, &error);
        self.transactions
            .handle_transaction_closed(&mut self.cx, number, &error);
        if channel.role == Role::Restore && self.recovery.replay.is_some() {
            outcome = self.recovery.handle_step_close(&mut self.cx, &error);
        } else if channel.role == Role::Restore {
            self.recovery.handle_late_close(&mut self.cx, &error);
        }
        self.cx.notices.notify(&Notice::ChannelClosed(error));
        self.cx.attention = true;
        outcome
    }
}

/// Returns `true` if a frame is the reply to `channel.open`. The reply may be a close. It cannot be
/// of the earlier channel with that number, because a server closes a channel only once.
fn is_reply_to_open(frame: &Frame<'_>) -> bool {
    use channels::Method::{Close, OpenOk};
    let is_reply = |method| matches!(method, Method::Channel(OpenOk(_) | Close(_)));
    frame.kind() == FrameKind::Method && Method::decode(frame.payload()).is_ok_and(is_reply)
}
