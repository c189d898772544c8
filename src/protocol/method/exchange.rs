//! Class `exchange`: work with exchanges (spec 1.6). Bindings between exchanges are RabbitMQ's extension.

class! {
    40 "exchange" Method<'a>;

    /// Creates an exchange, or checks that there is one.
    10 "declare" Declare<'a> from client -> "declare-ok" {
        [ticket: short]
        /// Its name.
        exchange: shortstr,
        /// Its type, `direct` by default.
        r#type: shortstr,
        /// Only checks that it exists.
        passive: bit,
        /// Survives a restart of the broker.
        durable: bit,
        /// Goes with its last binding.
        auto_delete: bit,
        /// Takes no publishes, only what other exchanges send it.
        internal: bit,
        /// Wants no reply.
        nowait: bit,
        /// `alternate-exchange` and the like.
        arguments: table,
    }
    /// The exchange exists.
    11 "declare-ok" DeclareOk from server {}
    /// Deletes an exchange.
    20 "delete" Delete<'a> from client -> "delete-ok" {
        [ticket: short]
        /// Its name.
        exchange: shortstr,
        /// Only when it has no bindings.
        if_unused: bit,
        /// Wants no reply.
        nowait: bit,
    }
    /// The exchange is gone.
    21 "delete-ok" DeleteOk from server {}
    /// Binds an exchange to an exchange.
    30 "bind" Bind<'a> from client -> "bind-ok" {
        [ticket: short]
        /// The exchange that receives.
        destination: shortstr,
        /// The exchange that sends.
        source: shortstr,
        /// For which routing keys.
        routing_key: shortstr,
        /// Wants no reply.
        nowait: bit,
        /// What a headers exchange matches.
        arguments: table,
    }
    /// The binding exists.
    31 "bind-ok" BindOk from server {}
    /// Removes a binding between two exchanges.
    40 "unbind" Unbind<'a> from client -> "unbind-ok" {
        [ticket: short]
        /// The exchange that received.
        destination: shortstr,
        /// The exchange that sent.
        source: shortstr,
        /// The routing key of the binding.
        routing_key: shortstr,
        /// Wants no reply.
        nowait: bit,
        /// The arguments of the binding.
        arguments: table,
    }
    /// The binding is gone. Its number is 51, not 41.
    51 "unbind-ok" UnbindOk from server {}
}
