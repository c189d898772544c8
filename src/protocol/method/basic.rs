//! Class `basic`: publishing, consuming and settling messages (spec 1.8).

class! {
    60 "basic" Method<'a>;

    /// Limits the number of unsettled messages.
    10 "qos" Qos from client -> "qos-ok" {
        /// The limit in bytes; RabbitMQ accepts only 0.
        prefetch_size: long,
        /// The limit in messages; 0 for no limit.
        prefetch_count: short,
        /// Applies to the whole channel instead of each later consumer.
        global: bit,
    }
    /// Confirms the limit.
    11 "qos-ok" QosOk from server {}
    /// Starts a consumer.
    20 "consume" Consume<'a> from client -> "consume-ok" {
        [ticket: short]
        /// The queue.
        queue: shortstr,
        /// The consumer tag, unique on the channel; if empty, the broker generates one.
        consumer_tag: shortstr,
        /// Excludes messages of this connection. RabbitMQ ignores it.
        no_local: bit,
        /// Messages count as settled when the broker sends them.
        no_ack: bit,
        /// Makes this the only consumer of the queue.
        exclusive: bit,
        /// Requests no reply.
        nowait: bit,
        /// Arguments such as `x-priority`.
        arguments: table,
    }
    /// Confirms that the consumer has started.
    21 "consume-ok" ConsumeOk<'a> from server {
        /// The consumer tag.
        consumer_tag: shortstr,
    }
    /// Ends a consumer. A server sends it when a consumer has ended by itself.
    30 "cancel" Cancel<'a> from both -> "cancel-ok" {
        /// The consumer tag.
        consumer_tag: shortstr,
        /// Requests no reply.
        nowait: bit,
    }
    /// Confirms that the consumer has ended.
    31 "cancel-ok" CancelOk<'a> from both {
        /// The consumer tag.
        consumer_tag: shortstr,
    }
    /// Publishes a message.
    40 "publish" Publish<'a> from client with content {
        [ticket: short]
        /// The exchange; empty for the default one.
        exchange: shortstr,
        /// The routing key.
        routing_key: shortstr,
        /// Returns the message if no queue is bound for it.
        mandatory: bit,
        /// Returns the message if no consumer is ready for it. RabbitMQ does not implement it.
        immediate: bit,
    }
    /// Returns a message that could not be routed.
    50 "return" Return<'a> from server with content {
        /// The reply code.
        reply_code: short,
        /// The reply text.
        reply_text: shortstr,
        /// The exchange of the publish.
        exchange: shortstr,
        /// The routing key of the publish.
        routing_key: shortstr,
    }
    /// Delivers a message to a consumer.
    60 "deliver" Deliver<'a> from server with content {
        /// The tag of the consumer.
        consumer_tag: shortstr,
        /// The number of the delivery on the channel.
        delivery_tag: longlong,
        /// Whether it was delivered before.
        redelivered: bit,
        /// The exchange of the publish.
        exchange: shortstr,
        /// The routing key of the publish.
        routing_key: shortstr,
    }
    /// Requests one message.
    70 "get" Get<'a> from client -> "get-ok" | "get-empty" {
        [ticket: short]
        /// The queue.
        queue: shortstr,
        /// The message counts as settled when the broker sends it.
        no_ack: bit,
    }
    /// Returns the requested message.
    71 "get-ok" GetOk<'a> from server with content {
        /// The number of the delivery on the channel.
        delivery_tag: longlong,
        /// Whether it was delivered before.
        redelivered: bit,
        /// The exchange of the publish.
        exchange: shortstr,
        /// The routing key of the publish.
        routing_key: shortstr,
        /// The number of messages left in the queue.
        message_count: long,
    }
    /// Reports that the queue is empty.
    72 "get-empty" GetEmpty from server {
        (cluster_id: shortstr)
    }
    /// Settles deliveries. From a server, confirms publishes.
    80 "ack" Ack from both {
        /// The number of the delivery or publish.
        delivery_tag: longlong,
        /// Includes all earlier ones; with tag 0, all unsettled ones.
        multiple: bit,
    }
    /// Refuses a delivery.
    90 "reject" Reject from client {
        /// The number of the delivery.
        delivery_tag: longlong,
        /// Requeues the message; otherwise it is dropped or dead-lettered.
        requeue: bit,
    }
    /// Requests redelivery of all unsettled messages, without a reply. Deprecated.
    100 "recover-async" RecoverAsync from client {
        /// Requeues the messages; RabbitMQ accepts only true.
        requeue: bit,
    }
    /// Requests redelivery of all unsettled messages.
    110 "recover" Recover from client -> "recover-ok" {
        /// Requeues the messages; RabbitMQ accepts only true.
        requeue: bit,
    }
    /// Confirms `recover`.
    111 "recover-ok" RecoverOk from server {}
    /// Refuses deliveries. From a server, refuses publishes (RabbitMQ's extension).
    120 "nack" Nack from both {
        /// The number of the delivery or publish.
        delivery_tag: longlong,
        /// Includes all earlier ones; with tag 0, all unsettled ones.
        multiple: bit,
        /// Requeues the messages; otherwise they are dropped or dead-lettered.
        requeue: bit,
    }
}
