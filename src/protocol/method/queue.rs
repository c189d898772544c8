//! Class `queue`: work with queues (spec 1.7).

class! {
    50 "queue" Method<'a>;

    /// Creates a queue, or checks that there is one.
    10 "declare" Declare<'a> from client -> "declare-ok" {
        [ticket: short]
        /// Its name; empty to have the broker make one.
        queue: shortstr,
        /// Only checks that it exists.
        passive: bit,
        /// Survives a restart of the broker.
        durable: bit,
        /// For this connection only, and gone with it.
        exclusive: bit,
        /// Goes with its last consumer.
        auto_delete: bit,
        /// Wants no reply.
        nowait: bit,
        /// `x-queue-type` and the like.
        arguments: table,
    }
    /// The queue exists.
    11 "declare-ok" DeclareOk<'a> from server {
        /// Its name.
        queue: shortstr,
        /// Messages ready for delivery.
        message_count: long,
        /// Consumers.
        consumer_count: long,
    }
    /// Binds a queue to an exchange.
    20 "bind" Bind<'a> from client -> "bind-ok" {
        [ticket: short]
        /// The queue.
        queue: shortstr,
        /// The exchange.
        exchange: shortstr,
        /// For which routing keys.
        routing_key: shortstr,
        /// Wants no reply.
        nowait: bit,
        /// What a headers exchange matches.
        arguments: table,
    }
    /// The binding exists.
    21 "bind-ok" BindOk from server {}
    /// Discards the messages that are ready.
    30 "purge" Purge<'a> from client -> "purge-ok" {
        [ticket: short]
        /// The queue.
        queue: shortstr,
        /// Wants no reply.
        nowait: bit,
    }
    /// They are gone.
    31 "purge-ok" PurgeOk from server {
        /// How many there were.
        message_count: long,
    }
    /// Deletes a queue.
    40 "delete" Delete<'a> from client -> "delete-ok" {
        [ticket: short]
        /// The queue.
        queue: shortstr,
        /// Only when it has no consumers.
        if_unused: bit,
        /// Only when it has no messages.
        if_empty: bit,
        /// Wants no reply.
        nowait: bit,
    }
    /// The queue is gone.
    41 "delete-ok" DeleteOk from server {
        /// How many messages went with it.
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
    /// The binding is gone.
    51 "unbind-ok" UnbindOk from server {}
}
