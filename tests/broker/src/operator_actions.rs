//! Actions of an operator and failures of the broker: forced closes, lost transports, alarms,
//! restarts.

use crate::broker::Broker;
use crate::connection::Phase;
use crate::ids::{ConnectionId, ConsumerKey, QueueId};
use crate::removal;
use crate::vhost::VHost;
use puka::protocol::method::{basic, connection};
use puka::protocol::{ReplyCode, ShortStr};
use std::sync::Arc;
use std::time::Instant;

/// Actions of an operator and failures of the broker, caused by a test.
impl Broker {
    /// Closes a connection with a reply code and a text, such as 320 and
    /// `CONNECTION_FORCED - maintenance`.
    pub fn close_connection(
        &mut self,
        now: Instant,
        id: ConnectionId,
        code: ReplyCode,
        text: &str,
    ) {
        let now = self.state.advance_clock(now);
        if let Some(connection) = self.state.connections.get_mut(&id)
            && connection.phase == Phase::Running
        {
            let close = connection::Close {
                reply_code: code.value(),
                reply_text: ShortStr::cut(text),
                class_id: 0,
                method_id: 0,
            };
            connection.send_close(now, &close);
            removal::clear_connection(&mut self.state, id, now);
        }
        self.run_pending_work(now, Some(id));
    }

    /// Drops a transport without a frame, as a cut cable does. Output that is queued can still be
    /// taken.
    pub fn drop_connection(&mut self, now: Instant, id: ConnectionId) {
        let now = self.state.advance_clock(now);
        if let Some(connection) = self.state.connections.get_mut(&id) {
            connection.drop_transport();
        }
        removal::clear_connection(&mut self.state, id, now);
        self.run_pending_work(now, None);
    }

    /// Raises an alarm, such as `low on memory`: a connection that publishes from now on receives
    /// `connection.blocked`, and nothing more of its input is processed.
    pub fn block(&mut self, reason: &str) {
        self.state.alarm = Some(reason.to_string());
    }

    /// Ends the alarm, and processes what the blocked connections have sent meanwhile.
    pub fn unblock(&mut self, now: Instant) {
        let now = self.state.advance_clock(now);
        self.state.alarm = None;
        self.run_pending_work(now, None);
    }

    /// Sets the `channel_max` to propose to later connections, which may differ between the nodes
    /// of a cluster. Existing connections keep theirs.
    pub fn set_channel_max(&mut self, channel_max: u16) {
        self.state.config.channel_max = channel_max;
    }

    /// Limits the channels of all connections together, as RabbitMQ's limits of a user do. The
    /// broker closes a connection over the channel that exceeds the limit. Channels that are open
    /// stay open.
    pub fn limit_user_channels(&mut self, limit: Option<usize>) {
        self.state.user_channel_limit = limit;
    }

    /// Returns the number of open channels of all connections.
    #[must_use]
    pub fn open_channels(&self) -> usize {
        let all = self.state.connections.values();
        all.map(|connection| connection.channels.len()).sum()
    }

    /// Deletes a queue as an operator does, even an exclusive one. Its consumers are notified.
    /// Returns `true` if it existed.
    pub fn delete_queue(&mut self, now: Instant, vhost: &str, name: &str) -> bool {
        let now = self.state.advance_clock(now);
        let id = self.state.queue_id(vhost, name);
        if let Some(id) = id {
            removal::delete_queue(&mut self.state, id, now);
        }
        self.run_pending_work(now, None);
        id.is_some()
    }

    /// Ends the consumers of a queue as RabbitMQ 4.3 does for a quorum queue whose deliveries were
    /// not acknowledged in time. Each gets a `basic.cancel` that needs no reply. Its deliveries
    /// continue until the client sends `basic.cancel` or `cancel-ok`. Returns the number of
    /// consumers.
    pub fn time_out_consumers(&mut self, now: Instant, vhost: &str, name: &str) -> usize {
        let now = self.state.advance_clock(now);
        let keys = self.consumers_of(vhost, name);
        for ConsumerKey {
            connection,
            channel,
            tag,
        } in &keys
        {
            let Some(connection) = self.state.connections.get_mut(connection) else {
                continue;
            };
            let consumers = connection
                .channels
                .get_mut(channel)
                .map(|channel| &mut channel.consumers);
            if let Some(consumer) = consumers.and_then(|consumers| consumers.get_mut(tag)) {
                consumer.timed_out = true;
            }
            connection.send(
                now,
                *channel,
                &basic::Cancel {
                    consumer_tag: ShortStr::cut(tag),
                    nowait: true,
                },
            );
        }
        self.run_pending_work(now, None);
        keys.len()
    }

    /// Cancels the consumers of a queue that continues to exist, as RabbitMQ does when the leader
    /// of the queue moves. Their deliveries stay unsettled. Returns the number of consumers.
    pub fn cancel_consumers(&mut self, now: Instant, vhost: &str, name: &str) -> usize {
        let now = self.state.advance_clock(now);
        let keys = self.consumers_of(vhost, name);
        for key in &keys {
            removal::cancel_consumer(&mut self.state, key, now);
        }
        self.run_pending_work(now, None);
        keys.len()
    }

    /// Returns the consumers of a queue.
    fn consumers_of(&self, vhost: &str, name: &str) -> Vec<ConsumerKey> {
        let id = self.state.queue_id(vhost, name);
        let queue = id.and_then(|id| self.state.queues.get(&id));
        let all = queue.into_iter().flat_map(|queue| &queue.consumers);
        all.map(|subscription| subscription.key.clone()).collect()
    }

    /// Crashes and restarts the broker: transports are dropped without a frame; durable exchanges
    /// and queues remain, with their persistent messages.
    pub fn restart(&mut self, now: Instant) {
        let now = self.state.advance_clock(now);
        for id in self.connections() {
            if let Some(connection) = self.state.connections.get_mut(&id) {
                connection.drop_transport();
                drop(connection.take_output());
            }
            removal::clear_connection(&mut self.state, id, now);
        }
        let transient = self
            .state
            .queues
            .values()
            .filter(|queue| !queue.durable)
            .map(|queue| queue.id);
        let transient: Vec<QueueId> = transient.collect();
        for id in transient {
            removal::delete_queue(&mut self.state, id, now);
        }
        let names: Vec<(Arc<str>, Arc<str>)> = self
            .state
            .vhosts
            .iter()
            .flat_map(|(vhost, found)| {
                transient_exchanges(found).map(|name| (Arc::clone(vhost), name))
            })
            .collect();
        for (vhost, name) in names {
            removal::delete_exchange(&mut self.state, &vhost, &name);
        }
        for queue in self.state.queues.values_mut() {
            queue.retain_persistent();
        }
        self.state.dead_letters.clear();
        self.run_pending_work(now, None);
    }
}

/// Returns the names of the exchanges that do not survive a restart.
fn transient_exchanges(vhost: &VHost) -> impl Iterator<Item = Arc<str>> {
    vhost
        .exchanges
        .values()
        .filter(|exchange| !exchange.durable)
        .map(|exchange| Arc::clone(&exchange.name))
}
