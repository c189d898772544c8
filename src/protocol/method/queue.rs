//! Class `queue`: requests about queues (spec 1.7).

class! {
    50 "queue" Method<'a>;

    /// Creates a queue, or checks an existing one.
    10 "declare" Declare<'a> from client -> "declare-ok" {
        [ticket: short]
        /// The name of the queue; if empty, the broker generates one.
        queue: shortstr,
        /// Only checks that it exists.
        passive: bit,
        /// Survives a restart of the broker.
        durable: bit,
        /// Restricts the queue to this connection, and deletes it with the connection.
        exclusive: bit,
        /// Deletes the queue when its last consumer ends.
        auto_delete: bit,
        /// Requests no reply.
        nowait: bit,
        /// Arguments such as `x-queue-type`.
        arguments: table,
    }
    /// Confirms that the queue exists.
    11 "declare-ok" DeclareOk<'a> from server {
        /// The name of the queue.
        queue: shortstr,
        /// The number of messages ready for delivery.
        message_count: long,
        /// The number of consumers.
        consumer_count: long,
    }
    /// Binds a queue to an exchange.
    20 "bind" Bind<'a> from client -> "bind-ok" {
        [ticket: short]
        /// The queue.
        queue: shortstr,
        /// The exchange.
        exchange: shortstr,
        /// The routing key.
        routing_key: shortstr,
        /// Requests no reply.
        nowait: bit,
        /// The headers that a headers exchange matches.
        arguments: table,
    }
    /// Confirms that the binding exists.
    21 "bind-ok" BindOk from server {}
    /// Discards the ready messages.
    30 "purge" Purge<'a> from client -> "purge-ok" {
        [ticket: short]
        /// The queue.
        queue: shortstr,
        /// Requests no reply.
        nowait: bit,
    }
    /// Confirms that the messages are discarded.
    31 "purge-ok" PurgeOk from server {
        /// The number of discarded messages.
        message_count: long,
    }
    /// Deletes a queue.
    40 "delete" Delete<'a> from client -> "delete-ok" {
        [ticket: short]
        /// The queue.
        queue: shortstr,
        /// Deletes the queue only if it has no consumers.
        if_unused: bit,
        /// Deletes the queue only if it has no messages.
        if_empty: bit,
        /// Requests no reply.
        nowait: bit,
    }
    /// Confirms that the queue is deleted.
    41 "delete-ok" DeleteOk from server {
        /// The number of deleted messages.
        message_count: long,
    }
    /// Removes a binding of a queue. It has no `nowait`.
    50 "unbind" Unbind<'a> from client -> "unbind-ok" {
        [ticket: short]
        /// The queue.
        queue: shortstr,
        /// The exchange.
        exchange: shortstr,
        /// The routing key of the binding.
        routing_key: shortstr,
        /// The arguments of the binding.
        arguments: table,
    }
    /// Confirms that the binding is removed.
    51 "unbind-ok" UnbindOk from server {}
}
