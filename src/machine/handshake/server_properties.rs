//! The properties of a server in `connection.start`.

use crate::protocol::{Table, TableRef, Value};
use std::borrow::Cow;

/// The properties of the server: product, version, capabilities and more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerProperties(Table);

impl ServerProperties {
    /// Copies the properties of `connection.start`.
    pub(crate) fn new(table: TableRef<'_>) -> Self {
        Self(table.to_table())
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
        match self.0.get(name) {
            Some(Value::String(bytes)) => String::from_utf8_lossy(bytes),
            _ => Cow::Borrowed(""),
        }
    }

    /// Returns `true` if the server has a capability, such as `basic.nack`.
    #[must_use]
    pub fn has_capability(&self, name: &str) -> bool {
        match self.0.get("capabilities") {
            Some(Value::Table(capabilities)) => capabilities.get(name) == Some(Value::Bool(true)),
            _ => false,
        }
    }

    /// Returns all properties as the server sent them.
    #[must_use]
    pub fn table(&self) -> TableRef<'_> {
        self.0.as_ref()
    }

    /// Returns `true` if the server closes the connection over a publish with the flag `immediate`,
    /// as RabbitMQ does since 3.0.
    pub(crate) fn refuses_immediate(&self) -> bool {
        let major = self
            .version()
            .split('.')
            .next()
            .and_then(|major| major.parse::<u32>().ok());
        self.product() == "RabbitMQ" && major.is_none_or(|major| major >= 3)
    }
}
