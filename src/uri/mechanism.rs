//! The built-in SASL mechanisms. Their responses are part of the handshake.
//!
//! Spec: RabbitMQ's access control guide, "Authentication Mechanisms".

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthMechanism {
    /// User name and password (RFC 4616), in clear text on the connection.
    Plain,
    /// User name and password as a field table, in clear text on the connection. RabbitMQ's
    /// extension.
    Amqplain,
    /// The identity that the transport provides, such as the name in the client's TLS certificate
    /// (RFC 4422, appendix A). No password is sent.
    External,
    /// The user name, then the password in reply to a challenge, in clear text on the connection.
    /// RabbitMQ's demonstration of a challenge.
    RabbitCrDemo,
    /// No identity (RFC 4505). No password is sent. RabbitMQ 4 logs in the user that its
    /// configuration names.
    Anonymous,
}

impl AuthMechanism {
    /// All built-in mechanisms.
    pub(crate) const ALL: [Self; 5] = [
        Self::Plain,
        Self::Amqplain,
        Self::External,
        Self::RabbitCrDemo,
        Self::Anonymous,
    ];

    /// Returns the mechanism's name in the protocol, such as `PLAIN`. A URI uses lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Amqplain => "AMQPLAIN",
            Self::External => "EXTERNAL",
            Self::RabbitCrDemo => "RABBIT-CR-DEMO",
            Self::Anonymous => "ANONYMOUS",
        }
    }

    /// Returns `true` if the mechanism sends the password in clear text.
    pub(crate) fn shows_password(self) -> bool {
        matches!(self, Self::Plain | Self::Amqplain | Self::RabbitCrDemo)
    }
}
