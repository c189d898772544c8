//! Class `access`: deprecated, and answered by RabbitMQ without effect. No part of 0-9-1's text.

class! {
    30 "access" Method<'a>;

    /// Asks for an access ticket.
    10 "request" Request<'a> from client -> "request-ok" {
        /// The realm, `/data` by default.
        realm: shortstr,
        /// For itself alone.
        exclusive: bit,
        /// Passive access.
        passive: bit,
        /// Active access.
        active: bit,
        /// To write.
        write: bit,
        /// To read.
        read: bit,
    }
    /// Grants it.
    11 "request-ok" RequestOk from server {
        /// The ticket, which is always 1.
        ticket: short,
    }
}
