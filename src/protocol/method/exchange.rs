//! Class `exchange`: requests about exchanges (spec 1.6). Bindings between exchanges are RabbitMQ's
//! extension.

class! {
    40 "exchange" Method<'a>;

    /// Creates an exchange, or checks an existing one.
    10 "declare" Declare<'a> from client -> "declare-ok" {
        [ticket: short]
        /// The name of the exchange.
        exchange: shortstr,
        /// Its type, `direct` by default.
        r#type: shortstr,
        /// Only checks that it exists.
        passive: bit,
        /// Survives a restart of the broker.
        durable: bit,
        /// Deletes the exchange when its last binding is removed.
        auto_delete: bit,
        /// Refuses publishes; accepts messages only from other exchanges.
        internal: bit,
        /// Requests no reply.
        nowait: bit,
        /// Arguments such as `alternate-exchange`.
        arguments: table,
    }
    /// Confirms that the exchange exists.
    11 "declare-ok" DeclareOk from server {}
    /// Deletes an exchange.
    20 "delete" Delete<'a> from client -> "delete-ok" {
        [ticket: short]
        /// The name of the exchange.
        exchange: shortstr,
        /// Deletes the exchange only if it has no bindings.
        if_unused: bit,
        /// Requests no reply.
        nowait: bit,
    }
    /// Confirms that the exchange is deleted.
    21 "delete-ok" DeleteOk from server {}
    /// Binds an exchange to an exchange.
    30 "bind" Bind<'a> from client -> "bind-ok" {
        [ticket: short]
        /// The exchange that receives messages.
        destination: shortstr,
        /// The exchange that messages come from.
        source: shortstr,
        /// The routing key.
        routing_key: shortstr,
        /// Requests no reply.
        nowait: bit,
        /// The headers that a headers exchange matches.
        arguments: table,
    }
    /// Confirms that the binding exists.
    31 "bind-ok" BindOk from server {}
    /// Removes a binding between two exchanges.
    40 "unbind" Unbind<'a> from client -> "unbind-ok" {
        [ticket: short]
        /// The exchange that received messages.
        destination: shortstr,
        /// The exchange that messages came from.
        source: shortstr,
        /// The routing key of the binding.
        routing_key: shortstr,
        /// Requests no reply.
        nowait: bit,
        /// The arguments of the binding.
        arguments: table,
    }
    /// Confirms that the binding is removed. Its number is 51, not 41.
    51 "unbind-ok" UnbindOk from server {}
}
