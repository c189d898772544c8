//! Settling deliveries: each once, on the channel that brought it, or not at all.

use super::consuming::Consuming;
use super::context::Context;
use crate::error::Error;
use crate::machine::Settle;
use crate::machine::channel::Channel;
use crate::machine::content::Delivered;
use crate::machine::unsettled::Unsettled;
use crate::protocol::method::{Encode, basic};

impl Consuming {
    pub(in crate::machine) fn settle_delivery(
        &mut self,
        cx: &mut Context,
        delivered: &Delivered,
        how: Settle,
    ) -> Result<(), Error> {
        if delivered.is_settled() {
            return Ok(());
        }
        match how {
            Settle::Ack { multiple } => self.acknowledge(cx, delivered, multiple),
            // A stream takes nothing back. Before 4.0 RabbitMQ closes the connection when it is asked to, since then it takes it
            // for an acknowledgement.
            Settle::Nack { multiple, .. } if delivered.is_of_stream() => {
                self.acknowledge(cx, delivered, multiple)
            }
            Settle::Reject { .. } if delivered.is_of_stream() => self.acknowledge(cx, delivered, false),
            Settle::Nack { multiple, requeue } => {
                if multiple {
                    // Or it would refuse what is acknowledged and not written.
                    cx.flush_channel_acks(delivered.channel);
                }
                self.refuse(cx, delivered, multiple, |delivery_tag, multiple| basic::Nack {
                    delivery_tag,
                    multiple,
                    requeue,
                })
            }
            Settle::Reject { requeue } => {
                self.refuse(cx, delivered, false, |delivery_tag, _| basic::Reject { delivery_tag, requeue })
            }
        }
    }

    #[inline]
    pub(in crate::machine) fn acknowledge(
        &mut self,
        cx: &mut Context,
        delivered: &Delivered,
        multiple: bool,
    ) -> Result<(), Error> {
        let settled = Self::settle_on(cx, delivered, |unsettled| unsettled.ack(delivered.tag, multiple));
        let Some(channel) = settled else { return cx.stale() };
        let is_over = channel.holds_nothing();
        if !std::mem::replace(&mut channel.has_acks, true) {
            cx.acking.push(delivered.channel);
        }
        cx.attention = true;
        if is_over {
            cx.release(delivered.channel);
        }
        Ok(())
    }

    pub(in crate::machine) fn refuse<R: Encode>(
        &mut self,
        cx: &mut Context,
        delivered: &Delivered,
        multiple: bool,
        refusal: impl Fn(u64, bool) -> R,
    ) -> Result<(), Error> {
        let number = delivered.channel;
        let Context { channels, out, frame_max, .. } = cx;
        let channel = channels.get_mut(number).filter(|channel| channel.incarnation == delivered.incarnation);
        let is_over = channel.and_then(|channel| {
            let write = |tag, multiple| {
                // A refusal fits into any frame.
                let _ = out.method(number, *frame_max, &refusal(tag, multiple));
            };
            channel.unsettled.refuse(delivered.tag, multiple, write).then(|| channel.holds_nothing())
        });
        let Some(is_over) = is_over else { return cx.stale() };
        cx.attention = true;
        self.unthrottle_on(cx, number);
        if is_over {
            cx.release(number);
        }
        Ok(())
    }

    /// Settles a delivery on the channel that brought it. Gives the channel, if that is still there and held the delivery.
    #[inline]
    fn settle_on<'c>(
        cx: &'c mut Context,
        delivered: &Delivered,
        settle: impl FnOnce(&mut Unsettled) -> bool,
    ) -> Option<&'c mut Channel> {
        let channel = cx.channels.get_mut(delivered.channel);
        let channel = channel.filter(|channel| channel.incarnation == delivered.incarnation)?;
        settle(&mut channel.unsettled).then_some(channel)
    }

    /// Writes the acknowledgements that wait.
    pub(in crate::machine) fn flush_acks(&mut self, cx: &mut Context) {
        let mut acking = std::mem::take(&mut cx.acking);
        for number in acking.drain(..) {
            cx.flush_channel_acks(number);
            self.unthrottle_on(cx, number);
        }
        cx.acking = acking;
    }
}
