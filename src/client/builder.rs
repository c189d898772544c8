//! Parts of the request builders: names, flags and tables. An invalid value is reported when the
//! request is sent.

use crate::error::Error;
use crate::protocol::{EncodeError, ShortStr, Table, TableRef, Value};

/// Returns a name, checked to have at most 255 bytes.
pub(super) fn name<'n>(what: &'static str, name: &'n str) -> Result<ShortStr<'n>, Error> {
    ShortStr::new(name).map_err(|error| Error::invalid(what, error))
}

/// A table that is filled entry by entry and stores the first error.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    table: Table,
    /// Boxed to keep the builder small, because an error is rare.
    error: Option<Box<Error>>,
}

impl Entries {
    /// Adds an entry, or stores the error. `what` names the argument of the request.
    pub(super) fn add<'v>(&mut self, what: &'static str, name: &str, value: impl Into<Value<'v>>) {
        let added = ShortStr::new(name).and_then(|name| self.table.push(name, value.into()));
        self.store_failure(what, name, added);
    }

    /// Adds all entries of a table, or stores the error.
    pub(super) fn extend(&mut self, what: &'static str, table: TableRef<'_>) {
        for (name, value) in table {
            let added = self.table.push(name, value);
            self.store_failure(what, &name.to_str_lossy(), added);
        }
    }

    /// Stores an error, if it is the first.
    pub(super) fn store_error(&mut self, error: Error) {
        self.error.get_or_insert(error.into());
    }

    fn store_failure(&mut self, what: &'static str, name: &str, added: Result<(), EncodeError>) {
        if let Err(error) = added {
            self.store_error(Error::invalid(what, format!("{name:?}: {error}")));
        }
    }

    /// Returns `true` if there is neither an entry nor an error.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty() && self.error.is_none()
    }

    /// Returns the table, or the first error. RabbitMQ cannot parse all numbers.
    pub(super) fn table(&self, what: &'static str) -> Result<TableRef<'_>, Error> {
        if let Some(error) = &self.error {
            return Err((**error).clone());
        }
        let table = self.table.as_ref();
        if !table.is_finite() {
            return Err(Error::invalid(
                what,
                "RabbitMQ cannot parse NaN and infinite numbers",
            ));
        }
        Ok(table)
    }
}

/// Defines the flags of a builder, each as a method with the name of the argument.
macro_rules! flags {
    ($Request:ident: $($(#[$doc:meta])* $name:ident,)*) => {
        impl $Request<'_> {
            $(
                $(#[$doc])*
                #[must_use = "a request does nothing unless it is awaited or sent"]
                pub fn $name(mut self, $name: bool) -> Self {
                    self.$name = $name;
                    self
                }
            )*
        }
    };
}

/// Defines the methods that add arguments to a builder.
macro_rules! arguments {
    ($Request:ident) => {
        impl $Request<'_> {
            /// Adds an argument, such as `x-max-length`. Any field table value is accepted.
            #[must_use = "a request does nothing unless it is awaited or sent"]
            pub fn argument<'v>(
                mut self,
                name: &str,
                value: impl Into<$crate::protocol::Value<'v>>,
            ) -> Self {
                self.arguments.add("arguments", name, value);
                self
            }

            /// Adds all entries of a table to the arguments.
            #[must_use = "a request does nothing unless it is awaited or sent"]
            pub fn arguments(mut self, arguments: &$crate::protocol::Table) -> Self {
                self.arguments.extend("arguments", arguments.as_ref());
                self
            }
        }
    };
}

/// Defines the settings for a consumer that the broker ends, and for dropped deliveries.
macro_rules! consumer_settings {
    ($Request:ident) => {
        impl $Request<'_> {
            /// Sets whether the consumer is restarted when the broker ends it, by default as
            /// [`Recovery::resubscribe`](crate::Recovery::resubscribe) says, and never without
            /// recovery.
            pub fn resubscribe(mut self, policy: $crate::Resubscribe) -> Self {
                self.resubscribe = Some(policy);
                self
            }

            /// Sets what happens to a delivery that is dropped without being settled. By default it
            /// is requeued, after a delay if several are dropped in a row.
            pub fn on_drop(mut self, policy: $crate::OnDrop) -> Self {
                self.on_drop = policy;
                self
            }
        }
    };
}

pub(super) use {arguments, consumer_settings, flags};
