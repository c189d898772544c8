//! Settling deliveries: each once, on the channel that brought it, or not at all.

use super::Connection;
use crate::error::Error;
use crate::machine::Settle;
use crate::machine::content::Delivered;
use crate::protocol::method::basic;

impl Connection {
    /// Settles a delivery. Nothing is to be waited for: the frame leaves with the next write.
    ///
    /// # Errors
    /// [`Error::Stale`] when its channel is gone or it is settled already; nothing is sent then.
    pub fn settle(&mut self, delivered: &Delivered, how: Settle) -> Result<(), Error> {
        if delivered.no_ack {
            return Ok(());
        }
        let (number, tag) = (delivered.channel, delivered.tag);
        let channel =
            self.channels.get_mut(number).filter(|channel| channel.incarnation == delivered.incarnation);
        let Some(channel) = channel.filter(|channel| channel.unsettled.is_held(tag)) else {
            self.counters.stale += 1;
            return Err(Error::Stale);
        };
        // A stream takes nothing back. Before 4.0 RabbitMQ closes the connection when it is asked to, since then it takes it
        // for an acknowledgement.
        let how = match how {
            Settle::Nack { multiple, .. } if delivered.is_of_stream() => Settle::Ack { multiple },
            Settle::Reject { .. } if delivered.is_of_stream() => Settle::Ack { multiple: false },
            how => how,
        };
        match how {
            Settle::Ack { multiple } => {
                channel.unsettled.ack(tag, multiple);
                if !channel.has_acks {
                    channel.has_acks = true;
                    self.acking.push(number);
                }
                self.attention = true;
            }
            Settle::Nack { multiple, requeue } => {
                if multiple {
                    // Or it would refuse what is acknowledged and not written.
                    self.flush_channel_acks(number);
                }
                if let Some(channel) = self.channels.get_mut(number) {
                    channel.unsettled.refuse(tag, multiple);
                }
                self.write(number, &basic::Nack { delivery_tag: tag, multiple, requeue });
            }
            Settle::Reject { requeue } => {
                channel.unsettled.refuse(tag, false);
                self.write(number, &basic::Reject { delivery_tag: tag, requeue });
            }
        }
        // As long as it has consumers, or messages that are held, nothing becomes of it.
        if self
            .channels
            .get(number)
            .is_some_and(|channel| channel.consumers.is_empty() && channel.unsettled.held() == 0)
        {
            self.release(number);
        }
        Ok(())
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
