//! Class `access`: deprecated, and accepted by RabbitMQ without effect. Not part of the 0-9-1 text.

class! {
    30 "access" Method<'a>;

    /// Requests an access ticket.
    10 "request" Request<'a> from client -> "request-ok" {
        /// The realm, `/data` by default.
        realm: shortstr,
        /// Exclusive access.
        exclusive: bit,
        /// Passive access.
        passive: bit,
        /// Active access.
        active: bit,
        /// Write access.
        write: bit,
        /// Read access.
        read: bit,
    }
    /// Grants the access.
    11 "request-ok" RequestOk from server {
        /// The ticket, which is always 1.
        ticket: short,
    }
}
