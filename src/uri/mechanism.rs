//! The SASL mechanisms that have a name of their own here.
//!
//! Knows no response: that is for the handshake.
//!
//! Spec: RabbitMQ's access control guide, "Authentication Mechanisms".

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthMechanism {
    /// User name and password as RFC 4616 says, readable by whoever reads the connection.
    Plain,
    /// User name and password as a field table, readable likewise. RabbitMQ's extension.
    Amqplain,
    /// Whoever the transport says we are, such as the name in our TLS certificate (RFC 4422, appendix A). No password is
    /// sent.
    External,
    /// The user name, then the password when it is asked for, readable by whoever reads the connection. RabbitMQ's
    /// demonstration of a challenge.
    RabbitCrDemo,
    /// Nobody in particular (RFC 4505). No password is sent. RabbitMQ 4 takes it for the user whom it is told to.
    Anonymous,
}

impl AuthMechanism {
    /// Every one of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Plain, Self::Amqplain, Self::External, Self::RabbitCrDemo, Self::Anonymous];

    /// The mechanism's name in the protocol, such as `PLAIN`. In a URI it is written in small letters.
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

    /// Whether whoever reads the connection reads the password.
    pub(crate) fn shows_password(self) -> bool {
        matches!(self, Self::Plain | Self::Amqplain | Self::RabbitCrDemo)
    }
}
