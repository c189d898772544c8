//! Settling deliveries: each once, on the channel that brought it, or not at all.

use super::Connection;
use crate::error::Error;
use crate::machine::Settle;
use crate::machine::channel::Channel;
use crate::machine::content::Delivered;
use crate::machine::unsettled::Unsettled;
use crate::protocol::method::{Encode, basic};

impl Connection {
    /// Settles a delivery, unless it needs no ack. Nothing is to be waited for: the frame leaves with the next write.
    ///
    /// # Errors
    /// [`Error::Stale`] when its channel is gone or it is settled already; nothing is sent then.
    pub fn settle(&mut self, delivered: &Delivered, how: Settle) -> Result<(), Error> {
        let settled = self.settle_delivery(delivered, how);
        if self.may_start {
            self.proceed();
        }
        settled
    }

    pub(super) fn settle_delivery(&mut self, delivered: &Delivered, how: Settle) -> Result<(), Error> {
        if delivered.is_settled() {
            return Ok(());
        }
        match how {
            Settle::Ack { multiple } => self.acknowledge(delivered, multiple),
            // A stream takes nothing back. Before 4.0 RabbitMQ closes the connection when it is asked to, since then it takes it
            // for an acknowledgement.
            Settle::Nack { multiple, .. } if delivered.is_of_stream() => {
                self.acknowledge(delivered, multiple)
            }
            Settle::Reject { .. } if delivered.is_of_stream() => self.acknowledge(delivered, false),
            Settle::Nack { multiple, requeue } => {
                if multiple {
                    // Or it would refuse what is acknowledged and not written.
                    self.flush_channel_acks(delivered.channel);
                }
                self.refuse(delivered, multiple, |delivery_tag, multiple| basic::Nack {
                    delivery_tag,
                    multiple,
                    requeue,
                })
            }
            Settle::Reject { requeue } => {
                self.refuse(delivered, false, |delivery_tag, _| basic::Reject { delivery_tag, requeue })
            }
        }
    }

    #[inline]
    fn acknowledge(&mut self, delivered: &Delivered, multiple: bool) -> Result<(), Error> {
        let settled = self.settle_on(delivered, |unsettled| unsettled.ack(delivered.tag, multiple));
        let Some(channel) = settled else { return self.stale() };
        let is_over = channel.holds_nothing();
        if !std::mem::replace(&mut channel.has_acks, true) {
            self.acking.push(delivered.channel);
        }
        self.attention = true;
        if is_over {
            self.release(delivered.channel);
        }
        Ok(())
    }

    fn refuse<R: Encode>(
        &mut self,
        delivered: &Delivered,
        multiple: bool,
        refusal: impl Fn(u64, bool) -> R,
    ) -> Result<(), Error> {
        let number = delivered.channel;
        let Self { channels, out, frame_max, .. } = self;
        let channel = channels.get_mut(number).filter(|channel| channel.incarnation == delivered.incarnation);
        let is_over = channel.and_then(|channel| {
            let write = |tag, multiple| {
                // A refusal fits into any frame.
                let _ = out.method(number, *frame_max, &refusal(tag, multiple));
            };
            channel.unsettled.refuse(delivered.tag, multiple, write).then(|| channel.holds_nothing())
        });
        let Some(is_over) = is_over else { return self.stale() };
        self.attention = true;
        self.unthrottle_on(number);
        if is_over {
            self.release(number);
        }
        Ok(())
    }

    /// Settles a delivery on the channel that brought it. Gives the channel, if that is still there and held the delivery.
    #[inline]
    fn settle_on(
        &mut self,
        delivered: &Delivered,
        settle: impl FnOnce(&mut Unsettled) -> bool,
    ) -> Option<&mut Channel> {
        let channel = self.channels.get_mut(delivered.channel);
        let channel = channel.filter(|channel| channel.incarnation == delivered.incarnation)?;
        settle(&mut channel.unsettled).then_some(channel)
    }

    #[cold]
    fn stale(&mut self) -> Result<(), Error> {
        self.counters.stale += 1;
        Err(Error::Stale)
    }

    /// Gives a message back to its queue that nobody has dealt with. One that can't be given back any more, the broker
    /// has taken back itself.
    pub fn give_back(&mut self, delivered: &Delivered) {
        let _ = self.settle(delivered, Settle::Reject { requeue: true });
    }

    /// Writes the acknowledgements that wait.
    pub(super) fn flush_acks(&mut self) {
        let mut acking = std::mem::take(&mut self.acking);
        for number in acking.drain(..) {
            self.flush_channel_acks(number);
            self.unthrottle_on(number);
        }
        self.acking = acking;
    }

    pub(super) fn flush_channel_acks(&mut self, number: u16) {
        let Some(channel) = self.channels.get_mut(number) else { return };
        channel.has_acks = false;
        let (out, frame_max) = (&mut self.out, self.frame_max);
        channel.unsettled.flush(|delivery_tag, multiple| {
            // An ack fits into any frame.
            let _ = out.method(number, frame_max, &basic::Ack { delivery_tag, multiple });
        });
    }
}
