//! The acknowledgement timeout: what the broker does when a delivery is not acknowledged in time.

use crate::broker::Broker;
use crate::dispatch;
use crate::fault::Fault;
use crate::ids::FrameContext;
use bytes::Bytes;
use puka::protocol::MethodId;
use std::time::Instant;

/// The acknowledgement timeout, which expires when a test says so.
impl Broker {
    /// Closes the channels that have an unsettled delivery of a queue, as RabbitMQ up to 4.2 does
    /// when one is not acknowledged in time. Requeues everything unsettled on them. Returns the
    /// bodies of the requeued messages.
    pub fn time_out_deliveries(&mut self, now: Instant, vhost: &str, name: &str) -> Vec<Bytes> {
        let now = self.state.advance_clock(now);
        let id = self.state.queue_id(vhost, name);
        let mut contexts: Vec<FrameContext> = Vec::new();
        let mut bodies: Vec<Bytes> = Vec::new();
        for (connection, found) in &self.state.connections {
            for (number, channel) in &found.channels {
                let mut unacked = channel.unacked.values();
                if unacked.any(|unacked| Some(unacked.queue) == id) {
                    contexts.push(FrameContext {
                        now,
                        connection: *connection,
                        channel: *number,
                    });
                    let all = channel.unacked.values();
                    bodies.extend(all.map(|unacked| unacked.entry.message.body.clone()));
                }
            }
        }
        for context in contexts {
            let why = format!(
                "delivery acknowledgement on channel {} timed out. Timeout value used: 1800000 ms. \
                 This timeout value can be configured, see consumers doc guide to learn more",
                context.channel
            );
            dispatch::close_for_fault(
                &mut self.state,
                context,
                Fault::precondition(why),
                MethodId::NONE,
            );
        }
        self.run_pending_work(now, None);
        bodies
    }
}
