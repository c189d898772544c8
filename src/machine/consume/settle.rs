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

use crate::error::Error;
use crate::machine::Settle;
use crate::machine::channel::Channel;
use crate::machine::channel::channels::Channels;
use crate::machine::channel::content::Delivered;
use crate::machine::consume::Consuming;
use crate::machine::consume::drops::live_consumer;
use crate::machine::consume::earlier_channels::settle_earlier;
use crate::machine::context::Context;
use crate::machine::handshake::server_properties::NACK;
use crate::machine::ids::ChannelNumber;
use crate::protocol::method::{Encode, basic};

impl Consuming {
    /// Settles a delivery. A nack or reject may let a throttled consumer continue; an ack does so
    /// when it is written.
    #[inline]
    pub(crate) fn settle(
        &mut self,
        cx: &mut Context,
        delivered: &Delivered,
        how: Settle,
    ) -> Result<(), Error> {
        // Its channel may be released below.
        let consumer = match how.is_multiple() {
            true => live_consumer(cx, delivered),
            false => None,
        };
        let settled = cx.settle(delivered, how);
        if let Some(id) = consumer.filter(|_| settled.is_ok()) {
            settle_earlier(cx, &mut self.consumers, id, delivered, how);
        }
        self.drops.record_settled(cx, delivered);
        if !matches!(how, Settle::Ack { .. }) && settled.is_ok() {
            self.continue_on(cx, delivered.channel);
        }
        settled
    }

    /// Writes the queued acks of all channels.
    pub(crate) fn flush_acks(&mut self, cx: &mut Context) {
        let mut channels = std::mem::take(&mut cx.channels_with_acks);
        for number in channels.drain(..) {
            cx.flush_channel_acks(number);
            self.continue_on(cx, number);
        }
        // The list is put back for its allocation.
        cx.channels_with_acks = channels;
    }
}

/// Returns the channel of a delivery, unless it has been closed since.
#[inline]
fn channel_of<'c>(channels: &'c mut Channels, delivered: &Delivered) -> Option<&'c mut Channel> {
    channels
        .get_mut(delivered.channel)
        .filter(|channel| channel.has_delivered(delivered))
}

impl Context {
    /// Settles a delivery.
    ///
    /// Settling a delivery that needs no ack succeeds without effect: such a message is final when
    /// it is delivered, whatever the program does. Settling a stale one is an error, because the
    /// broker has requeued the message and delivers it again, and the program may want to know.
    #[inline]
    pub(crate) fn settle(&mut self, delivered: &Delivered, how: Settle) -> Result<(), Error> {
        if delivered.is_settled() {
            return Ok(());
        }
        match how {
            Settle::Ack { multiple } => self.acknowledge(delivered, multiple),
            Settle::Nack { multiple, requeue } => self.nack(delivered, multiple, requeue),
            Settle::Reject { requeue } => self.reject(delivered, requeue),
        }
    }

    /// Nacks a delivery, or acknowledges it if it is from a stream.
    ///
    /// A stream requeues nothing. RabbitMQ before 4.0 closes the connection over a nack or reject
    /// of its messages, and later versions treat it as an ack.
    fn nack(&mut self, delivered: &Delivered, multiple: bool, requeue: bool) -> Result<(), Error> {
        if delivered.is_of_stream() {
            return self.acknowledge(delivered, multiple);
        }
        if self.server.lacks_nack() {
            return match multiple {
                true => Err(Error::MissingCapability(NACK)),
                false => self.reject(delivered, requeue),
            };
        }
        if multiple {
            // Otherwise the nack would cover deliveries whose ack is not written yet.
            self.flush_channel_acks(delivered.channel);
        }
        self.write_nack_or_reject(delivered, multiple, |delivery_tag, multiple| basic::Nack {
            delivery_tag,
            multiple,
            requeue,
        })
    }

    /// Rejects a delivery, or acknowledges it if it is from a stream, as for a nack.
    fn reject(&mut self, delivered: &Delivered, requeue: bool) -> Result<(), Error> {
        if delivered.is_of_stream() {
            return self.acknowledge(delivered, false);
        }
        self.write_nack_or_reject(delivered, false, |delivery_tag, _| basic::Reject {
            delivery_tag,
            requeue,
        })
    }

    /// Queues an ack, which the next flush writes.
    #[inline]
    fn acknowledge(&mut self, delivered: &Delivered, multiple: bool) -> Result<(), Error> {
        let channel = channel_of(&mut self.channels, delivered).and_then(|channel| {
            let was_unsettled = channel.unsettled.ack(delivered.tag, multiple);
            was_unsettled.then_some(channel)
        });
        // The channel is closed, or the delivery is settled already.
        let Some(channel) = channel else {
            return self.stale();
        };
        let has_no_use = channel.is_unused();
        if !std::mem::replace(&mut channel.has_acks, true) {
            self.channels_with_acks.push(delivered.channel);
        }
        self.attention = true;
        if has_no_use {
            self.release(delivered.channel);
        }
        Ok(())
    }

    /// Settles a delivery, and with `multiple` all earlier ones of its channel, by methods that
    /// `method` makes of a delivery tag and `multiple`.
    fn write_nack_or_reject<M: Encode>(
        &mut self,
        delivered: &Delivered,
        multiple: bool,
        method: impl Fn(u64, bool) -> M,
    ) -> Result<(), Error> {
        let number = delivered.channel;
        let transmit = &mut self.transmit;
        let write = |tag, multiple| {
            // A nack or reject fits into any frame.
            let _ = transmit.append_method(number, &method(tag, multiple));
        };
        let channel = channel_of(&mut self.channels, delivered).and_then(|channel| {
            let unsettled = &mut channel.unsettled;
            let was_unsettled = unsettled.settle_at_once(delivered.tag, multiple, write);
            was_unsettled.then_some(channel)
        });
        // The channel is closed, or the delivery is settled already.
        let Some(channel) = channel else {
            return self.stale();
        };
        let has_no_use = channel.is_unused();
        self.attention = true;
        if has_no_use {
            self.release(number);
        }
        Ok(())
    }

    /// Returns `true` if a delivery needs an ack and can no longer be settled, because its channel
    /// is closed.
    pub(crate) fn is_stale(&self, delivered: &Delivered) -> bool {
        let channel = self.channels.get(delivered.channel);
        !delivered.is_settled() && channel.is_none_or(|channel| !channel.has_delivered(delivered))
    }

    /// Marks a delivery as unwanted, so that it is requeued after the cancel of its consumer.
    pub(crate) fn mark_unwanted(&mut self, delivered: &Delivered) {
        if delivered.is_settled() {
            return;
        }
        if delivered.is_of_stream() {
            // A stream does not requeue messages. The ack fails if the delivery is stale, and then
            // there is nothing to settle.
            let _ = self.acknowledge(delivered, false);
        } else if let Some(channel) = channel_of(&mut self.channels, delivered) {
            channel.unsettled.mark_unwanted(delivered.tag);
        }
    }

    /// Marks a delivery as dropped by the program. It is requeued later.
    pub(crate) fn mark_dropped(&mut self, delivered: &Delivered) {
        if let Some(channel) = channel_of(&mut self.channels, delivered) {
            channel.unsettled.mark_dropped(delivered.tag);
        }
    }

    /// Marks a delivery as unwanted, and returns it at once if its consumer has left its channel,
    /// so that no cancel follows there.
    pub(crate) fn return_later(&mut self, delivered: &Delivered) {
        self.mark_unwanted(delivered);
        self.release_if_left(delivered.channel);
    }

    /// Releases a channel that its consumer has left.
    pub(crate) fn release_if_left(&mut self, number: ChannelNumber) {
        let channel = self.channels.get(number);
        if channel.is_some_and(|channel| channel.consumer().is_none()) {
            self.release(number);
        }
    }

    /// Returns the message of an abandoned `basic.get` to its queue. RabbitMQ 4.3 would count a
    /// reject as a failed delivery.
    pub(crate) fn return_got(&mut self, delivered: &Delivered) {
        // It fails if the delivery is stale, and then the broker has requeued the message.
        let _ = self.settle(
            delivered,
            Settle::Nack {
                multiple: false,
                requeue: true,
            },
        );
    }
}
