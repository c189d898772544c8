//! Class `connection`: opening, tuning and closing a connection (spec 1.4). Always on channel 0.

class! {
    10 "connection" Method<'a>;

    /// Begins the negotiation. The server's first frame.
    10 "start" Start<'a> from server -> "start-ok" {
        /// 0 in AMQP 0-9-1.
        version_major: octet,
        /// 9 in AMQP 0-9-1.
        version_minor: octet,
        /// Product, version, capabilities and other properties.
        server_properties: table,
        /// SASL mechanisms, separated by spaces.
        mechanisms: longstr,
        /// Locales, separated by spaces.
        locales: longstr,
    }
    /// Chooses a mechanism and a locale.
    11 "start-ok" StartOk<'a> from client {
        /// Product, version, capabilities and other properties.
        client_properties: table,
        /// The SASL mechanism.
        mechanism: shortstr,
        /// The initial response of the mechanism.
        response: longstr,
        /// The locale, such as `en_US`.
        locale: shortstr,
    }
    /// A challenge of the SASL mechanism.
    20 "secure" Secure<'a> from server -> "secure-ok" {
        /// The mechanism's challenge.
        challenge: longstr,
    }
    /// The response to a challenge.
    21 "secure-ok" SecureOk<'a> from client {
        /// The mechanism's response.
        response: longstr,
    }
    /// Proposes limits.
    30 "tune" Tune from server -> "tune-ok" {
        /// The maximum number of channels; 0 for no limit.
        channel_max: short,
        /// The maximum size of a whole frame in bytes; 0 for no limit.
        frame_max: long,
        /// The heartbeat interval in seconds; 0 for none.
        heartbeat: short,
    }
    /// Sets the limits. It has no reply.
    31 "tune-ok" TuneOk from client {
        /// The maximum number of channels; 0 for no limit.
        channel_max: short,
        /// The maximum size of a whole frame in bytes; 0 for no limit.
        frame_max: long,
        /// The heartbeat interval in seconds; 0 for none.
        heartbeat: short,
    }
    /// Opens the connection to a virtual host.
    40 "open" Open<'a> from client -> "open-ok" {
        /// The virtual host, `/` by default.
        virtual_host: shortstr,
        (capabilities: shortstr, insist: bit)
    }
    /// Confirms that the connection is open.
    41 "open-ok" OpenOk from server {
        (known_hosts: shortstr)
    }
    /// Closes the connection. Spec, `connection.close`: "After sending this method, any received
    /// methods except Close and Close-OK MUST be discarded".
    50 "close" Close<'a> from both -> "close-ok" {
        /// The reply code.
        reply_code: short,
        /// The reply text.
        reply_text: shortstr,
        /// The class of the method that caused the close, or 0.
        class_id: short,
        /// The method that caused the close, or 0.
        method_id: short,
    }
    /// Confirms that the connection is closed.
    51 "close-ok" CloseOk from both {}
    /// The broker blocks publishers (RabbitMQ's extension).
    60 "blocked" Blocked<'a> from server {
        /// The resource that runs low.
        reason: shortstr,
    }
    /// The broker accepts publishes again (RabbitMQ's extension).
    61 "unblocked" Unblocked from server {}
    /// Replaces the secret of the login (RabbitMQ's extension).
    70 "update-secret" UpdateSecret<'a> from client -> "update-secret-ok" {
        /// The new secret, such as a fresh token.
        new_secret: longstr,
        /// The reason for the broker's log.
        reason: shortstr,
    }
    /// Confirms the new secret (RabbitMQ's extension).
    71 "update-secret-ok" UpdateSecretOk from server {}
}
