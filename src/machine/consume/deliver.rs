//! Deliveries for consumers, deliveries that no consumer receives, and messages of `basic.get`.

use crate::error::{Error, Fault};
use crate::machine::channel::Role;
use crate::machine::channel::content::{Delivered, Got, Recipient};
use crate::machine::consume::consumer::Phase;
use crate::machine::consume::consumers::Consumers;
use crate::machine::consume::tags::TagNumber;
use crate::machine::context::Context;
use crate::machine::{ConsumerId, PromiseId, Reply};
use crate::message::Message;
use crate::protocol::method::basic;
use crate::protocol::{MethodId, ReplyCode, ShortStr};
use std::collections::BTreeSet;

/// The largest number of unwanted deliveries to collect per channel. More are returned before
/// `cancel-ok`. This limits the list to 1 MiB if a peer never sends `cancel-ok`.
const MAX_UNWANTED: usize = 1 << 16;

/// The number of deliveries without a consumer on a channel after which the broker is considered
/// faulty. They stay unsettled, so their list grows with each: this limits it to 64 KiB.
const MAX_WITHOUT_CONSUMER: u32 = 1 << 12;

impl Consumers {
    /// Returns the consumer of deliveries with this tag on this channel.
    #[inline]
    pub(crate) fn recipient_on(
        &self,
        cx: &Context,
        number: u16,
        tag: ShortStr<'_>,
    ) -> Option<Recipient> {
        self.recipient(cx.channels.get(number)?.consumer()?, TagNumber::of(tag)?)
    }

    /// Buffers a delivery for its consumer.
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
        let consumer = recipient.and_then(|recipient| self.get(recipient.consumer));
        let is_wanted = consumer.is_some_and(|consumer| {
            // A delivery that arrives during a cancel is requeued, unless it would be lost.
            !consumer.dropped
                && (consumer.no_ack
                    || matches!(
                        consumer.phase,
                        Phase::Live | Phase::Starting(_) | Phase::Restarting
                    ))
        });
        // Unreachable: the frames of the delivery arrived on this channel.
        let Some(channel) = cx.channels.get_mut(number) else {
            return Ok(());
        };
        let no_ack = channel.no_ack;
        if !channel.unsettled.deliver(tag, no_ack) {
            return Err(reused_tag(tag, basic::Deliver::ID));
        }
        // The broker requeues deliveries that were sent before `recover-ok`.
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
            Some(recipient) if is_wanted => self.push(recipient.consumer, delivered),
            _ => return self.receive_unwanted(cx, &delivered),
        }
        Ok(())
    }

    /// Handles a delivery for a consumer that is being cancelled or does not exist.
    #[cold]
    fn receive_unwanted(&mut self, cx: &mut Context, delivered: &Delivered) -> Result<(), Error> {
        cx.mark_unwanted(delivered);
        let number = delivered.channel;
        // Unreachable: the frames of the delivery arrived on this channel.
        let Some(channel) = cx.channels.get_mut(number) else {
            return Ok(());
        };
        if channel.is_consumer_changing() {
            if channel.unsettled.unwanted() > MAX_UNWANTED {
                cx.return_unwanted(number);
            }
            return Ok(());
        }
        // If the message were requeued now, the broker would deliver it again. So it stays
        // unsettled until the channel has no other use and is closed, and then the broker requeues
        // it.
        channel.deliveries_without_consumer += 1;
        if channel.deliveries_without_consumer > MAX_WITHOUT_CONSUMER {
            let max = MAX_WITHOUT_CONSUMER;
            let text =
                format!("{max} deliveries on channel {number} for a consumer that does not exist");
            return Err(Fault::found_in_broker(
                ReplyCode::COMMAND_INVALID,
                text,
                basic::Deliver::ID,
            )
            .into());
        }
        if channel.role == Role::Idle {
            cx.channels.leave_pool(number);
            cx.channels.set_role(number, Role::Settling);
        }
        cx.release(number);
        Ok(())
    }

    /// Drops the buffered deliveries of a consumer that can no longer be settled because their
    /// channel is closed, and counts them as lost.
    pub(crate) fn lose_stale(&mut self, cx: &Context, id: ConsumerId) {
        let all = self.take_all(id);
        let before = all.len();
        let mut kept = 0;
        for delivered in all {
            if !cx.is_stale(&delivered) {
                kept += 1;
                self.push(id, delivered);
            }
        }
        self.count_lost(id, (before - kept) as u64);
    }

    /// Marks the buffered deliveries of a consumer as unwanted, so that they are requeued.
    pub(crate) fn return_buffered(&mut self, cx: &mut Context, id: ConsumerId) {
        let mut left = BTreeSet::new();
        for delivered in self.take_all(id) {
            cx.mark_unwanted(&delivered);
            left.insert(delivered.channel);
        }
        // An interrupted consumer has left these channels, so no `cancel-ok` releases them.
        for number in left {
            cx.release_if_left(number);
        }
    }
}

impl Context {
    /// Completes a `basic.get` with its message.
    pub(crate) fn complete_get(&mut self, promise: PromiseId, got: Got) -> Result<(), Error> {
        let number = got.delivered.channel;
        // Unreachable: the frames of the message arrived on this channel.
        let Some(channel) = self.channels.get_mut(number) else {
            return Ok(());
        };
        let (tag, no_ack) = (got.delivered.tag, got.delivered.is_settled());
        if !channel.unsettled.deliver(tag, no_ack) {
            return Err(reused_tag(tag, basic::GetOk::ID));
        }
        self.release(number);
        self.complete(promise, Ok(Reply::Delivery(Some(Box::new(got)))));
        Ok(())
    }
}

/// Returns the error of a delivery tag that is not greater than the one before.
#[cold]
fn reused_tag(tag: u64, method: MethodId) -> Error {
    let text = format!("delivery tag {tag} used again");
    Fault::found_in_broker(ReplyCode::COMMAND_INVALID, text, method).into()
}
