//! Settling deliveries, each at most once and on its own channel.
//!
//! Deliveries that the program never receives are requeued once the broker has stopped delivering
//! to their consumer.
//!
//! A message that is requeued before its consumer is cancelled is delivered to the same consumer
//! again. Each delivery counts towards the delivery limit of a quorum queue (20 by default), at
//! which the broker drops the message. So the cancel is written first, the unwanted deliveries stay
//! unsettled until `cancel-ok`, and then as few `basic.nack` as possible settle them. Since 4.3,
//! RabbitMQ counts a `basic.reject` as a failed delivery, but not a `basic.nack`.

use crate::error::{Error, Fault};
use crate::machine::channel::Channel;
use crate::machine::channel::content::{Delivered, Got};
use crate::machine::consume::unsettled::Unsettled;
use crate::machine::context::Context;
use crate::machine::{PromiseId, Reply, Settle};
use crate::protocol::ReplyCode;
use crate::protocol::method::{Encode, basic};

impl Context {
    /// Settles a delivery, unless it needs no ack.
    #[inline]
    pub(crate) fn settle(&mut self, delivered: &Delivered, how: Settle) -> Result<(), Error> {
        match how {
            _ if delivered.is_settled() => Ok(()),
            Settle::Ack { multiple } => self.acknowledge(delivered, multiple),
            Settle::Nack { multiple, requeue } => self.nack(delivered, multiple, requeue),
            Settle::Reject { requeue } => self.reject(delivered, requeue),
        }
    }

    /// Refuses a delivery, or acknowledges it if it is of a stream, which requeues nothing: before
    /// 4.0, RabbitMQ closes the connection over a refusal, and since then it is an acknowledgement.
    fn nack(&mut self, delivered: &Delivered, multiple: bool, requeue: bool) -> Result<(), Error> {
        if delivered.is_of_stream() {
            return self.acknowledge(delivered, multiple);
        }
        if multiple {
            // Otherwise it would refuse deliveries whose ack is not written yet.
            self.flush_channel_acks(delivered.channel);
        }
        self.refuse(delivered, multiple, |delivery_tag, multiple| basic::Nack {
            delivery_tag,
            multiple,
            requeue,
        })
    }

    /// Rejects a delivery, or acknowledges it if it is of a stream.
    fn reject(&mut self, delivered: &Delivered, requeue: bool) -> Result<(), Error> {
        if delivered.is_of_stream() {
            return self.acknowledge(delivered, false);
        }
        self.refuse(delivered, false, |delivery_tag, _| basic::Reject {
            delivery_tag,
            requeue,
        })
    }

    /// Records an ack, to be written later.
    #[inline]
    pub(crate) fn acknowledge(
        &mut self,
        delivered: &Delivered,
        multiple: bool,
    ) -> Result<(), Error> {
        let settled = self.settle_on(delivered, |unsettled| {
            unsettled.ack(delivered.tag, multiple)
        });
        // The channel is closed, or the delivery is settled already.
        let Some(channel) = settled else {
            return self.stale();
        };
        let is_last = channel.is_unused();
        if !std::mem::replace(&mut channel.has_acks, true) {
            self.acking.push(delivered.channel);
        }
        self.attention = true;
        if is_last {
            self.release(delivered.channel);
        }
        Ok(())
    }

    /// Writes refusals of the unsettled deliveries up to this one, or of this one.
    pub(crate) fn refuse<R: Encode>(
        &mut self,
        delivered: &Delivered,
        multiple: bool,
        refusal: impl Fn(u64, bool) -> R,
    ) -> Result<(), Error> {
        let number = delivered.channel;
        let Context {
            channels, transmit, ..
        } = self;
        let channel = channels
            .get_mut(number)
            .filter(|channel| channel.incarnation == delivered.incarnation);
        let is_last = channel.and_then(|channel| {
            let write = |tag, multiple| {
                // A refusal fits into any frame.
                let _ = transmit.append_method(number, &refusal(tag, multiple));
            };
            channel
                .unsettled
                .refuse(delivered.tag, multiple, write)
                .then(|| channel.is_unused())
        });
        // The channel is closed, or the delivery is settled already.
        let Some(is_last) = is_last else {
            return self.stale();
        };
        self.attention = true;
        if is_last {
            self.release(number);
        }
        Ok(())
    }

    /// Settles a delivery on its channel. Returns the channel if it still exists and the delivery
    /// was unsettled.
    #[inline]
    fn settle_on<'c>(
        &'c mut self,
        delivered: &Delivered,
        settle: impl FnOnce(&mut Unsettled) -> bool,
    ) -> Option<&'c mut Channel> {
        let channel = self.channels.get_mut(delivered.channel);
        let channel = channel.filter(|channel| channel.incarnation == delivered.incarnation)?;
        settle(&mut channel.unsettled).then_some(channel)
    }

    /// Marks a delivery as unwanted, so that it is requeued after the cancel of its consumer.
    pub(crate) fn set_unwanted(&mut self, delivered: &Delivered) {
        if delivered.is_settled() {
            return;
        }
        if delivered.is_of_stream() {
            // A stream does not requeue messages.
            let _ = self.settle(delivered, Settle::Reject { requeue: true });
        } else if let Some(channel) = self.channels.get_mut(delivered.channel)
            && channel.incarnation == delivered.incarnation
        {
            channel.unsettled.set_unwanted(delivered.tag);
        }
    }

    /// Returns the message of an abandoned `basic.get` to its queue. RabbitMQ 4.3 would count a
    /// reject as a failed delivery.
    pub(crate) fn return_got(&mut self, delivered: &Delivered) {
        let _ = self.settle(
            delivered,
            Settle::Nack {
                multiple: false,
                requeue: true,
            },
        );
    }

    /// Completes a `basic.get` with its message.
    pub(crate) fn got(&mut self, promise: PromiseId, got: Got) -> Result<(), Error> {
        let number = got.delivered.channel;
        let Some(channel) = self.channels.get_mut(number) else {
            return Ok(());
        };
        let no_ack = got.delivered.is_settled();
        if !channel.unsettled.deliver(got.delivered.tag, no_ack) {
            let text = format!("delivery tag {} used again", got.delivered.tag);
            return Err(
                Fault::found_in_broker(ReplyCode::COMMAND_INVALID, text, basic::GetOk::ID).into(),
            );
        }
        // The channel is released first, because completing an abandoned promise may settle the
        // message.
        self.release(number);
        self.complete(promise, Ok(Reply::Delivery(Some(Box::new(got)))));
        Ok(())
    }
}
