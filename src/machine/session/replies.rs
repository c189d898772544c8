//! Matching received methods with the pending replies of their channel.

use crate::error::Error;
use crate::machine::Reply;
use crate::machine::channel::{Awaited, PendingReply};
use crate::machine::context::{Context, Stage};
use crate::machine::deadline::Deadline;
use crate::machine::faults::violation;
use crate::machine::ids::ChannelNumber;
use crate::machine::session::Session;
use crate::protocol::method::{Encode, basic};
use crate::protocol::{Method, ReplyCode, ShortStr};

impl Session {
    /// Handles a method that must be a pending reply of its channel. Completes the reply, and
    /// releases the channel if it has no other use.
    pub(crate) fn receive_reply(
        &mut self,
        number: ChannelNumber,
        method: Method<'_>,
    ) -> Result<(), Error> {
        let id = method.id();
        // Unreachable: `receive_on_channel` has found the channel.
        let Some(channel) = self.cx.channels.get_mut(number) else {
            return Ok(());
        };
        let of_tag = match method {
            Method::Basic(basic::Method::ConsumeOk(ok)) => Some(ok.consumer_tag),
            Method::Basic(basic::Method::CancelOk(ok)) => Some(ok.consumer_tag),
            _ => None,
        };
        let info = method.info();
        let is_completed = |pending: &PendingReply| pending.is_completed_by(info, of_tag);
        // The reply completes the first pending one that it matches. It may overtake those before
        // it only as `may_be_overtaken` allows.
        let replies = &mut channel.pending_replies;
        let index = replies
            .iter()
            .position(|it| is_completed(it) || !it.purpose.may_be_overtaken())
            .filter(|index| replies.get(*index).is_some_and(is_completed));
        let Some(pending) = index.and_then(|index| replies.remove(index)) else {
            // RabbitMQ replies to a cancel twice if the quorum queue is deleted at that moment.
            if id == basic::CancelOk::ID {
                return Ok(());
            }
            return Err(violation(
                ReplyCode::COMMAND_INVALID,
                "unexpected method without a pending request",
                id,
            ));
        };
        self.complete_reply(number, pending.purpose, of_tag, method);
        self.cx.release(number);
        Ok(())
    }

    /// Completes a pending reply with the method that arrived for it.
    fn complete_reply(
        &mut self,
        number: ChannelNumber,
        purpose: Awaited,
        of_tag: Option<ShortStr<'_>>,
        method: Method<'_>,
    ) {
        match purpose {
            Awaited::Nothing => self.cx.channels.record_opened(number),
            Awaited::Probe => {
                if let Some(publisher) = self.publishing.publishers.on(number) {
                    publisher.is_first_accepted = true;
                }
            }
            Awaited::Request(request) => {
                self.cx.note(&request, &method);
                self.cx
                    .complete(request.promise, Ok(Context::reply_of(method)));
            }
            Awaited::Recover { promise, .. } => {
                self.cx.complete(promise, Ok(Reply::Done));
            }
            Awaited::ReplayStep { is_late } => {
                self.recovery.handle_reply(&mut self.cx, is_late, &method)
            }
            Awaited::Get { request, .. } => {
                self.cx.complete(request.promise, Ok(Reply::Delivery(None)))
            }
            Awaited::Consume {
                consumer,
                tag,
                resized,
            } => {
                let name = of_tag.unwrap_or_default();
                let resize = resized.map(|resize| resize.promise);
                self.consuming
                    .handle_consume_ok(&mut self.cx, number, consumer, tag, name, resize);
                if self.cx.stage == Stage::Restoring {
                    self.recovery.restore_deadline = Deadline::In(self.cx.options.timeouts.request);
                }
            }
            Awaited::Cancel { consumer, tag, .. } => {
                self.consuming
                    .handle_cancel_ok(&mut self.cx, number, consumer, tag)
            }
            Awaited::Transaction { id, .. } => {
                self.transactions.handle_transaction_reply(&mut self.cx, id)
            }
        }
    }
}
