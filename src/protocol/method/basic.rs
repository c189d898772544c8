//! Class `basic`: publishing, consuming and settling messages (spec 1.8).

class! {
    60 "basic" Method<'a>;

    /// Limits how many messages may be unsettled.
    10 "qos" Qos from client -> "qos-ok" {
        /// Octets; RabbitMQ takes 0 only.
        prefetch_size: long,
        /// Messages; 0 for no limit.
        prefetch_count: short,
        /// For the channel as a whole, and not for each consumer to come.
        global: bit,
    }
    /// The limit holds.
    11 "qos-ok" QosOk from server {}
    /// Starts a consumer.
    20 "consume" Consume<'a> from client -> "consume-ok" {
        [ticket: short]
        /// The queue.
        queue: shortstr,
        /// Its name on the channel; empty to have the broker make one.
        consumer_tag: shortstr,
        /// Not the messages of this connection. RabbitMQ ignores it.
        no_local: bit,
        /// Messages count as settled when they are sent.
        no_ack: bit,
        /// The only consumer of the queue.
        exclusive: bit,
        /// Wants no reply.
        nowait: bit,
        /// `x-priority` and the like.
        arguments: table,
    }
    /// The consumer has started.
    21 "consume-ok" ConsumeOk<'a> from server {
        /// Its name.
        consumer_tag: shortstr,
    }
    /// Ends a consumer. From a server it says that the consumer has ended by itself.
    30 "cancel" Cancel<'a> from both -> "cancel-ok" {
        /// Its name.
        consumer_tag: shortstr,
        /// Wants no reply.
        nowait: bit,
    }
    /// The consumer has ended.
    31 "cancel-ok" CancelOk<'a> from both {
        /// Its name.
        consumer_tag: shortstr,
    }
    /// Publishes a message.
    40 "publish" Publish<'a> from client with content {
        [ticket: short]
        /// The exchange; empty for the default one.
        exchange: shortstr,
        /// The routing key.
        routing_key: shortstr,
        /// Comes back when no queue is bound for it.
        mandatory: bit,
        /// Comes back when no consumer is ready for it. RabbitMQ does not implement it.
        immediate: bit,
    }
    /// Brings a message back.
    50 "return" Return<'a> from server with content {
        /// Why, as a number.
        reply_code: short,
        /// Why, in words.
        reply_text: shortstr,
        /// The exchange it was published to.
        exchange: shortstr,
        /// The routing key it was published with.
        routing_key: shortstr,
    }
    /// Brings a message to a consumer.
    60 "deliver" Deliver<'a> from server with content {
        /// Whose it is.
        consumer_tag: shortstr,
        /// Its number on the channel.
        delivery_tag: longlong,
        /// Whether it was delivered before.
        redelivered: bit,
        /// The exchange it was published to.
        exchange: shortstr,
        /// The routing key it was published with.
        routing_key: shortstr,
    }
    /// Asks for one message.
    70 "get" Get<'a> from client -> "get-ok" | "get-empty" {
        [ticket: short]
        /// The queue.
        queue: shortstr,
        /// The message counts as settled when it is sent.
        no_ack: bit,
    }
    /// Brings the message.
    71 "get-ok" GetOk<'a> from server with content {
        /// Its number on the channel.
        delivery_tag: longlong,
        /// Whether it was delivered before.
        redelivered: bit,
        /// The exchange it was published to.
        exchange: shortstr,
        /// The routing key it was published with.
        routing_key: shortstr,
        /// How many are left.
        message_count: long,
    }
    /// There is none.
    72 "get-empty" GetEmpty from server {
        (cluster_id: shortstr)
    }
    /// Settles deliveries; from a server, confirms publishes.
    80 "ack" Ack from both {
        /// Which one.
        delivery_tag: longlong,
        /// All up to it; with tag 0 all there are.
        multiple: bit,
    }
    /// Refuses a delivery.
    90 "reject" Reject from client {
        /// Which one.
        delivery_tag: longlong,
        /// Back to the queue, or else dropped or dead-lettered.
        requeue: bit,
    }
    /// Asks for all unsettled deliveries again, without a reply. Deprecated.
    100 "recover-async" RecoverAsync from client {
        /// Back to the queue; RabbitMQ takes true only.
        requeue: bit,
    }
    /// Asks for all unsettled deliveries again.
    110 "recover" Recover from client -> "recover-ok" {
        /// Back to the queue; RabbitMQ takes true only.
        requeue: bit,
    }
    /// They are on their way.
    111 "recover-ok" RecoverOk from server {}
    /// Refuses deliveries; from a server, refuses publishes (RabbitMQ's extension).
    120 "nack" Nack from both {
        /// Which one.
        delivery_tag: longlong,
        /// All up to it; with tag 0 all there are.
        multiple: bit,
        /// Back to the queue, or else dropped or dead-lettered.
        requeue: bit,
    }
}
