//! Settling deliveries: each once, on the channel that brought it, or not at all.
//!
//! Deliveries that the program never receives: they go back to their queue once the broker has
//! stopped to deliver to their consumer.
//!
//! A message that is requeued before its consumer is cancelled is delivered to the same consumer
//! again. Each delivery counts towards the delivery limit of a quorum queue (20 by default), at
//! which the broker drops the message. So the cancel is written first, the unwanted deliveries stay
//! unsettled until `cancel-ok`, and then as few `basic.nack` as possible settle them. Since 4.3,
//! RabbitMQ counts a `basic.reject` as a failed delivery, but not a `basic.nack`.

use crate::error::{Error, Fault};
use crate::machine::channel::content::Delivered;
use crate::machine::channel::{Channel, Role};
use crate::machine::consume::Consuming;
use crate::machine::consume::unsettled::Unsettled;
use crate::machine::context::Context;
use crate::machine::{ConsumerId, Settle};
use crate::protocol::ReplyCode;
use crate::protocol::method::{Encode, basic};

/// The largest number of unwanted deliveries to collect per channel. More are returned before
/// `cancel-ok`. This limits the list to 1 MiB if a peer never sends `cancel-ok`.
const MOST_UNWANTED: usize = 1 << 16;

/// The number of stray deliveries on a channel after which the broker is considered faulty.
const MOST_STRAYS: u32 = 1 << 12;

impl Consuming {
    pub(crate) fn settle_delivery(
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
            // A stream takes nothing back. Before 4.0 RabbitMQ closes the connection when it is
            // asked to, since then it takes it for an acknowledgement.
            Settle::Nack { multiple, .. } if delivered.is_of_stream() => {
                self.acknowledge(cx, delivered, multiple)
            }
            Settle::Reject { .. } if delivered.is_of_stream() => {
                self.acknowledge(cx, delivered, false)
            }
            Settle::Nack { multiple, requeue } => {
                if multiple {
                    // Or it would refuse what is acknowledged and not written.
                    cx.flush_channel_acks(delivered.channel);
                }
                self.refuse(cx, delivered, multiple, |delivery_tag, multiple| {
                    basic::Nack {
                        delivery_tag,
                        multiple,
                        requeue,
                    }
                })
            }
            Settle::Reject { requeue } => {
                self.refuse(cx, delivered, false, |delivery_tag, _| basic::Reject {
                    delivery_tag,
                    requeue,
                })
            }
        }
    }

    #[inline]
    pub(crate) fn acknowledge(
        &mut self,
        cx: &mut Context,
        delivered: &Delivered,
        multiple: bool,
    ) -> Result<(), Error> {
        let settled = Self::settle_on(cx, delivered, |unsettled| {
            unsettled.ack(delivered.tag, multiple)
        });
        let Some(channel) = settled else {
            return cx.stale();
        };
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

    pub(crate) fn refuse<R: Encode>(
        &mut self,
        cx: &mut Context,
        delivered: &Delivered,
        multiple: bool,
        refusal: impl Fn(u64, bool) -> R,
    ) -> Result<(), Error> {
        let number = delivered.channel;
        let Context {
            channels,
            out,
            frame_max,
            ..
        } = cx;
        let channel = channels
            .get_mut(number)
            .filter(|channel| channel.incarnation == delivered.incarnation);
        let is_over = channel.and_then(|channel| {
            let write = |tag, multiple| {
                // A refusal fits into any frame.
                let _ = out.method(number, *frame_max, &refusal(tag, multiple));
            };
            channel
                .unsettled
                .refuse(delivered.tag, multiple, write)
                .then(|| channel.holds_nothing())
        });
        let Some(is_over) = is_over else {
            return cx.stale();
        };
        cx.attention = true;
        self.unthrottle_on(cx, number);
        if is_over {
            cx.release(number);
        }
        Ok(())
    }

    /// Settles a delivery on the channel that brought it. Gives the channel, if that is still there
    /// and held the delivery.
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
    pub(crate) fn flush_acks(&mut self, cx: &mut Context) {
        let mut acking = std::mem::take(&mut cx.acking);
        for number in acking.drain(..) {
            cx.flush_channel_acks(number);
            self.unthrottle_on(cx, number);
        }
        cx.acking = acking;
    }

    pub(crate) fn set_unwanted(&mut self, cx: &mut Context, delivered: &Delivered) {
        if delivered.is_settled() {
            return;
        }
        if delivered.is_of_stream() {
            // A stream does not take messages back.
            let _ = self.settle_delivery(cx, delivered, Settle::Reject { requeue: true });
        } else if let Some(channel) = cx.channels.get_mut(delivered.channel)
            && channel.incarnation == delivered.incarnation
        {
            channel.unsettled.set_unwanted(delivered.tag);
        }
    }

    /// Returns the message of an abandoned `basic.get` to its queue. RabbitMQ 4.3 would count a
    /// reject as a failed delivery.
    pub(crate) fn return_got(&mut self, cx: &mut Context, delivered: &Delivered) {
        let _ = self.settle_delivery(
            cx,
            delivered,
            Settle::Nack {
                multiple: false,
                requeue: true,
            },
        );
    }

    /// Returns the buffered deliveries of a consumer in the same way.
    pub(crate) fn return_buffered(&mut self, cx: &mut Context, id: ConsumerId) {
        for delivered in self.consumers.take_all(id) {
            self.set_unwanted(cx, &delivered);
        }
    }

    /// Handles a delivery for a consumer that is being cancelled or does not exist.
    #[cold]
    pub(crate) fn receive_unwanted(
        &mut self,
        cx: &mut Context,
        delivered: &Delivered,
    ) -> Result<(), Error> {
        self.set_unwanted(cx, delivered);
        let number = delivered.channel;
        let Some(channel) = cx.channels.get_mut(number) else {
            return Ok(());
        };
        if channel.is_consumer_changing() {
            if channel.unsettled.unwanted() > MOST_UNWANTED {
                cx.return_unwanted(number);
            }
            return Ok(());
        }
        // The broker would deliver a requeued message again. So it stays unsettled until the
        // channel has no other use and is closed, and the broker requeues it then.
        channel.strays += 1;
        if channel.strays > MOST_STRAYS {
            let text = format!(
                "{MOST_STRAYS} deliveries on channel {number} for a consumer that does not exist"
            );
            return Err(
                Fault::by_client(ReplyCode::COMMAND_INVALID, text, basic::Deliver::ID).into(),
            );
        }
        if channel.role == Role::Idle {
            cx.channels.leave_pool(number);
            cx.channels.set_role(number, Role::Settling);
        }
        cx.release(number);
        Ok(())
    }
}
