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
        if delivered.is_settled() {
            return Ok(());
        }
        // A stream takes nothing back. Before 4.0 RabbitMQ closes the connection when it is asked to, since then it takes it
        // for an acknowledgement.
        let how = match how {
            Settle::Nack { multiple, .. } if delivered.is_of_stream() => Settle::Ack { multiple },
            Settle::Reject { .. } if delivered.is_of_stream() => Settle::Ack { multiple: false },
            how => how,
        };
        let (number, tag) = (delivered.channel, delivered.tag);
        if matches!(how, Settle::Nack { multiple: true, .. }) {
            // Or it would refuse what is acknowledged and not written.
            self.flush_channel_acks(number);
        }
        let channel = self.channels.get_mut(number);
        let channel = channel.filter(|channel| channel.incarnation == delivered.incarnation);
        let settled = channel.and_then(|channel| {
            let was_held = match how {
                Settle::Ack { multiple } => channel.unsettled.ack(tag, multiple),
                Settle::Nack { multiple, .. } => channel.unsettled.refuse(tag, multiple),
                Settle::Reject { .. } => channel.unsettled.refuse(tag, false),
            };
            was_held.then_some(channel)
        });
        let Some(channel) = settled else {
            self.counters.stale += 1;
            return Err(Error::Stale);
        };
        // As long as it has consumers, or messages that are held, nothing becomes of it.
        let is_over = channel.consumers.is_empty() && channel.unsettled.held() == 0;
        match how {
            Settle::Ack { .. } => {
                if !channel.has_acks {
                    channel.has_acks = true;
                    self.acking.push(number);
                }
                self.attention = true;
            }
            Settle::Nack { multiple, requeue } => {
                self.write(number, &basic::Nack { delivery_tag: tag, multiple, requeue });
            }
            Settle::Reject { requeue } => self.write(number, &basic::Reject { delivery_tag: tag, requeue }),
        }
        if is_over {
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
