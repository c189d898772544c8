//! The properties of a server in `connection.start`.

use crate::error::Error;
use crate::options::MAX_MESSAGE_SIZE;
use crate::protocol::{Table, TableRef, Value};
use std::borrow::Cow;

/// The properties of the server: product, version, capabilities and more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerProperties {
    table: Table,
    /// The server lacks `basic.nack`. It is stored, because each nack depends on it.
    lacks_nack: bool,
    /// The server is RabbitMQ 4.0 or later. It is stored, because each publish depends on it.
    is_rabbitmq_4: bool,
}

/// The size of the largest message that RabbitMQ accepts by default since 4.0. It closes the
/// channel over a larger one, and with it the other publishes to the exchange.
const RABBITMQ_4_MAX_MESSAGE_SIZE: u64 = 16 << 20;

/// The capability of publishes with confirms.
pub(crate) const CONFIRMS: &str = "publisher_confirms";

/// The capability of calls. RabbitMQ lists it since 3.6.1.
pub(crate) const DIRECT_REPLY_TO: &str = "direct_reply_to";

/// The capability of bindings between exchanges.
pub(crate) const EXCHANGE_BINDINGS: &str = "exchange_exchange_bindings";

/// The capability of nacks by the client. A nack of one delivery is sent as a reject without it.
pub(crate) const NACK: &str = "basic.nack";

impl ServerProperties {
    /// Copies the properties of `connection.start`.
    pub(crate) fn new(table: TableRef<'_>) -> Self {
        let mut properties = Self {
            table: table.to_table(),
            lacks_nack: false,
            is_rabbitmq_4: false,
        };
        properties.lacks_nack = properties.check_capability(NACK).is_err();
        let version = properties.version();
        let major = version.split('.').next().and_then(|it| it.parse().ok());
        let is_4 = major.is_some_and(|major: u32| major >= 4);
        properties.is_rabbitmq_4 = is_4 && properties.product() == "RabbitMQ";
        properties
    }

    /// Returns the product, such as `RabbitMQ`.
    #[must_use]
    pub fn product(&self) -> Cow<'_, str> {
        self.text("product")
    }

    /// Returns the version, such as `4.1.0`.
    #[must_use]
    pub fn version(&self) -> Cow<'_, str> {
        self.text("version")
    }

    /// Returns a property that is a string, or an empty one.
    fn text(&self, name: &str) -> Cow<'_, str> {
        match self.table.get(name) {
            Some(Value::String(bytes)) => String::from_utf8_lossy(bytes),
            _ => Cow::Borrowed(""),
        }
    }

    /// Returns `true` if the server has a capability, such as `basic.nack`.
    #[must_use]
    pub fn has_capability(&self, name: &str) -> bool {
        self.capability(name).unwrap_or(false)
    }

    /// Returns whether the server has a capability, or `None` if it does not list any.
    fn capability(&self, name: &str) -> Option<bool> {
        match self.table.get("capabilities") {
            Some(Value::Table(capabilities)) => {
                Some(capabilities.get(name) == Some(Value::Bool(true)))
            }
            _ => None,
        }
    }

    /// Returns an error if the server lists its capabilities, and this one is not among them.
    ///
    /// RabbitMQ lists them since 2.4, and LavinMQ does. A server that lists none may still have
    /// them: Qpid's broker names its extensions in other properties. It is asked, and refuses what
    /// it does not have.
    pub(crate) fn check_capability(&self, name: &'static str) -> Result<(), Error> {
        match self.capability(name) {
            Some(false) => Err(Error::MissingCapability(name)),
            Some(true) | None => Ok(()),
        }
    }

    /// Returns `true` if the server lists its capabilities without `basic.nack`.
    pub(crate) fn lacks_nack(&self) -> bool {
        self.lacks_nack
    }

    /// Returns the default size of the largest message for this server.
    #[inline]
    pub(crate) fn max_message_size(&self) -> u64 {
        if self.is_rabbitmq_4 {
            RABBITMQ_4_MAX_MESSAGE_SIZE
        } else {
            MAX_MESSAGE_SIZE
        }
    }

    /// Returns all properties as the server sent them.
    #[must_use]
    pub fn table(&self) -> TableRef<'_> {
        self.table.as_ref()
    }

    /// Returns `true` if the server is known to close the connection over a publish with the flag
    /// `immediate`, as RabbitMQ does since 3.0.
    ///
    /// RabbitMQ is recognized by the name of its cluster, which it sends in all versions from 3.10
    /// to 4.3. The product is only a name, which `server_properties` in RabbitMQ's configuration
    /// can replace. The capabilities do not tell: LavinMQ and AMQProxy list all nine of RabbitMQ,
    /// and LavinMQ implements the flag. Any other broker is asked, and its refusal
    /// [is learned](crate::machine::learned::Learned).
    pub(crate) fn refuses_immediate(&self) -> bool {
        self.table.get("cluster_name").is_some()
    }
}
