//! Building blocks of the builders: names and tables whose faults show when the request is sent.

use crate::error::Error;
use crate::protocol::{EncodeError, ShortStr, Table, TableRef, Value};

/// A name of at most 255 octets.
pub(super) fn name<'n>(what: &'static str, name: &'n str) -> Result<ShortStr<'n>, Error> {
    ShortStr::new(name).map_err(|error| Error::invalid(what, error))
}

/// A table that is filled entry by entry and remembers the first fault.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    table: Table,
    /// Boxed, because there is hardly ever one.
    fault: Option<Box<Error>>,
}

impl Entries {
    pub(super) fn add<'v>(&mut self, what: &'static str, name: &str, value: impl Into<Value<'v>>) {
        let added = ShortStr::new(name).and_then(|name| self.table.push(name, value.into()));
        self.note(what, name, added);
    }

    pub(super) fn extend(&mut self, what: &'static str, table: TableRef<'_>) {
        for (name, value) in table {
            let added = self.table.push(name, value);
            self.note(what, &name.to_str_lossy(), added);
        }
    }

    /// Remembers a fault, if it is the first.
    pub(super) fn fail(&mut self, fault: Error) {
        self.fault.get_or_insert(fault.into());
    }

    fn note(&mut self, what: &'static str, name: &str, added: Result<(), EncodeError>) {
        if let Err(error) = added {
            self.fail(Error::invalid(what, format!("{name:?}: {error}")));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty() && self.fault.is_none()
    }

    pub(super) fn table(&self, what: &'static str) -> Result<TableRef<'_>, Error> {
        if let Some(fault) = &self.fault {
            return Err((**fault).clone());
        }
        let table = self.table.as_ref();
        if !table.is_finite() {
            return Err(Error::invalid(what, "RabbitMQ can't read a number that is NaN or infinite"));
        }
        Ok(table)
    }
}

/// Flags of a builder, each a method with the name of the argument.
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

/// The arguments of a builder.
macro_rules! arguments {
    ($Request:ident) => {
        impl $Request<'_> {
            /// Adds an argument, such as `x-max-length`. Any value of a field table will do.
            #[must_use = "a request does nothing unless it is awaited or sent"]
            pub fn argument<'v>(mut self, name: &str, value: impl Into<$crate::protocol::Value<'v>>) -> Self {
                self.arguments.add("arguments", name, value);
                self
            }

            /// Adds all the entries of a table to the arguments.
            #[must_use = "a request does nothing unless it is awaited or sent"]
            pub fn arguments(mut self, arguments: &$crate::protocol::Table) -> Self {
                self.arguments.extend("arguments", arguments.as_ref());
                self
            }
        }
    };
}

pub(super) use {arguments, flags};
