//! Deliveries that the program never receives: they go back to their queue once the broker has
//! stopped to deliver to their consumer.
//!
//! A message that is requeued before its consumer is cancelled is delivered to the same consumer
//! again. Each delivery counts towards the delivery limit of a quorum queue (20 by default), at
//! which the broker drops the message. So the cancel is written first, the unwanted deliveries stay
//! unsettled until `cancel-ok`, and then as few `basic.nack` as possible settle them. Since 4.3,
//! RabbitMQ counts a `basic.reject` as a failed delivery, but not a `basic.nack`.

use super::consuming::Consuming;
use super::context::Context;
use crate::error::{Error, Fault};
use crate::machine::channel::Role;
use crate::machine::content::Delivered;
use crate::machine::{ConsumerId, Settle};
use crate::protocol::ReplyCode;
use crate::protocol::method::basic;

/// The largest number of unwanted deliveries to collect per channel. More are returned before
/// `cancel-ok`. This limits the list to 1 MiB if a peer never sends `cancel-ok`.
const MOST_UNWANTED: usize = 1 << 16;

/// The number of stray deliveries on a channel after which the broker is considered faulty.
const MOST_STRAYS: u32 = 1 << 12;

impl Consuming {
    pub(in crate::machine) fn set_unwanted(&mut self, cx: &mut Context, delivered: &Delivered) {
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
    pub(in crate::machine) fn return_got(&mut self, cx: &mut Context, delivered: &Delivered) {
        let _ = self.settle_delivery(cx, delivered, Settle::Nack { multiple: false, requeue: true });
    }

    /// Returns the buffered deliveries of a consumer in the same way.
    pub(in crate::machine) fn return_buffered(&mut self, cx: &mut Context, id: ConsumerId) {
        for delivered in self.consumers.take_all(id) {
            self.set_unwanted(cx, &delivered);
        }
    }

    /// Handles a delivery for a consumer that is being cancelled or does not exist.
    #[cold]
    pub(in crate::machine) fn receive_unwanted(
        &mut self,
        cx: &mut Context,
        delivered: &Delivered,
    ) -> Result<(), Error> {
        self.set_unwanted(cx, delivered);
        let number = delivered.channel;
        let Some(channel) = cx.channels.get_mut(number) else { return Ok(()) };
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
            let text =
                format!("{MOST_STRAYS} deliveries on channel {number} for a consumer that does not exist");
            return Err(Fault::by_client(ReplyCode::COMMAND_INVALID, text, basic::Deliver::ID).into());
        }
        if channel.role == Role::Idle {
            cx.channels.leave_pool(number);
            cx.channels.set_role(number, Role::Settling);
        }
        cx.release(number);
        Ok(())
    }
}
