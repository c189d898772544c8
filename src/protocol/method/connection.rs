//! Class `connection`: opening, tuning and closing a connection (spec 1.4). Always on channel 0.

class! {
    10 "connection" Method<'a>;

    /// Begins the negotiation: the first frame of a server.
    10 "start" Start<'a> from server -> "start-ok" {
        /// 0 in AMQP 0-9-1.
        version_major: octet,
        /// 9 in AMQP 0-9-1.
        version_minor: octet,
        /// Product, version, capabilities and more.
        server_properties: table,
        /// SASL mechanisms, separated by spaces.
        mechanisms: longstr,
        /// Locales, separated by spaces.
        locales: longstr,
    }
    /// Chooses a mechanism and a locale.
    11 "start-ok" StartOk<'a> from client {
        /// Product, version, capabilities and more.
        client_properties: table,
        /// The SASL mechanism.
        mechanism: shortstr,
        /// The first response of the mechanism.
        response: longstr,
        /// The locale, such as `en_US`.
        locale: shortstr,
    }
    /// A challenge of the SASL mechanism.
    20 "secure" Secure<'a> from server -> "secure-ok" {
        /// What the mechanism asks.
        challenge: longstr,
    }
    /// The answer to a challenge.
    21 "secure-ok" SecureOk<'a> from client {
        /// What the mechanism answers.
        response: longstr,
    }
    /// Proposes limits.
    30 "tune" Tune from server -> "tune-ok" {
        /// Channels open at once; 0 for no limit.
        channel_max: short,
        /// Octets of a whole frame; 0 for no limit.
        frame_max: long,
        /// Seconds between signs of life; 0 for none.
        heartbeat: short,
    }
    /// Settles the limits. Nothing answers it.
    31 "tune-ok" TuneOk from client {
        /// Channels open at once; 0 for no limit.
        channel_max: short,
        /// Octets of a whole frame; 0 for no limit.
        frame_max: long,
        /// Seconds between signs of life; 0 for none.
        heartbeat: short,
    }
    /// Opens the connection to a virtual host.
    40 "open" Open<'a> from client -> "open-ok" {
        /// The virtual host, `/` by default.
        virtual_host: shortstr,
        (capabilities: shortstr, insist: bit)
    }
    /// The connection is open.
    41 "open-ok" OpenOk from server {
        (known_hosts: shortstr)
    }
    /// Closes the connection; its sender discards everything but `close` and `close-ok` from here on.
    50 "close" Close<'a> from both -> "close-ok" {
        /// Why, as a number.
        reply_code: short,
        /// Why, in words.
        reply_text: shortstr,
        /// The class of the method at fault, 0 when none is.
        class_id: short,
        /// The method at fault, 0 when none is.
        method_id: short,
    }
    /// The connection is closed.
    51 "close-ok" CloseOk from both {}
    /// The broker holds back publishers (RabbitMQ's extension).
    60 "blocked" Blocked<'a> from server {
        /// Which resource runs low.
        reason: shortstr,
    }
    /// The broker takes publishes again (RabbitMQ's extension).
    61 "unblocked" Unblocked from server {}
    /// Replaces the secret of the login (RabbitMQ's extension).
    70 "update-secret" UpdateSecret<'a> from client -> "update-secret-ok" {
        /// The new secret, such as a fresh token.
        new_secret: longstr,
        /// For the broker's log.
        reason: shortstr,
    }
    /// The secret is replaced (RabbitMQ's extension).
    71 "update-secret-ok" UpdateSecretOk from server {}
}
