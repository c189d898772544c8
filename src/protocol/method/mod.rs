//! The methods of AMQP 0-9-1 with RabbitMQ's extensions, both directions.
//!
//! Each class has a file with one declaration that follows the spec: the number, the name, the
//! sender, the replies, and the fields in order. The structs, encoders, decoders and the data in
//! [`CLASSES`] are generated from it. Fields in brackets (leading) and in parentheses (trailing)
//! are reserved: they are sent as zero and ignored when received, so the structs omit them.

#[macro_use]
mod declare;
pub mod access;
pub mod basic;
pub mod channel;
pub mod confirm;
pub mod connection;
pub mod exchange;
mod id;
pub mod queue;
pub mod tx;

use super::DecodeError;
use super::wire::{Reader, Writer};
use std::fmt;

pub(in crate::protocol) use declare::plain_name;
pub use declare::{ClassInfo, FieldInfo, MethodInfo, SentBy, WireType};
pub use id::MethodId;

impl MethodId {
    /// Returns the declarations of the class and the method, or `None` for an unknown method.
    #[must_use]
    pub fn info(self) -> Option<(&'static ClassInfo, &'static MethodInfo)> {
        let class = CLASSES.iter().find(|class| class.id == self.class)?;
        Some((
            class,
            class.methods.iter().find(|method| method.id == self)?,
        ))
    }
}

impl fmt::Display for MethodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.info() {
            Some((class, method)) => write!(f, "{}.{}", class.name, method.name),
            None => write!(f, "{}.{}", self.class, self.method),
        }
    }
}

impl fmt::Debug for MethodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MethodId({self})")
    }
}

/// A type that can be sent as a method: any struct of the classes, or a [`Method`].
pub trait Encode {
    /// Returns the class and method numbers.
    fn id(&self) -> MethodId;

    /// Writes the fields, including the reserved ones, after the numbers.
    fn encode_fields(&self, out: &mut Writer<'_>);
}

macro_rules! classes {
    ($($(#[$doc:meta])* $Class:ident $module:ident $(<$lt:lifetime>)?;)*) => {
        /// A method of any class.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Method<'a> {
            $($(#[$doc])* $Class($module::Method $(<$lt>)?),)*
        }

        /// All classes with their methods and fields, in the order of their numbers.
        pub const CLASSES: &[&ClassInfo] = &[$(&$module::CLASS),*];

        impl<'a> Method<'a> {
            /// Decodes the payload of a method frame.
            ///
            /// # Errors
            /// [`DecodeError::UnknownMethod`], or the error in the fields.
            pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
                let mut reader = Reader::new(payload);
                let id = MethodId { class: reader.short()?, method: reader.short()? };
                let method = match id.class {
                    $(class if class == $module::CLASS.id =>
                        Self::$Class($module::Method::decode_fields(id, &mut reader)?),)*
                    _ => return Err(DecodeError::UnknownMethod(id)),
                };
                reader.finish()?;
                Ok(method)
            }

            /// Returns the declaration of this method.
            #[must_use]
            pub fn info(&self) -> &'static MethodInfo {
                match self {
                    $(Self::$Class(method) => method.info(),)*
                }
            }
        }

        impl Encode for Method<'_> {
            fn id(&self) -> MethodId {
                match self {
                    $(Self::$Class(method) => method.id(),)*
                }
            }

            fn encode_fields(&self, out: &mut Writer<'_>) {
                match self {
                    $(Self::$Class(method) => method.encode_fields(out),)*
                }
            }
        }

        $(impl<'a> From<$module::Method $(<$lt>)?> for Method<'a> {
            fn from(method: $module::Method $(<$lt>)?) -> Self {
                Self::$Class(method)
            }
        })*
    };
}

classes! {
    /// Class 10.
    Connection connection<'a>;
    /// Class 20.
    Channel channel<'a>;
    /// Class 30, deprecated.
    Access access<'a>;
    /// Class 40.
    Exchange exchange<'a>;
    /// Class 50.
    Queue queue<'a>;
    /// Class 60.
    Basic basic<'a>;
    /// Class 85, RabbitMQ's extension.
    Confirm confirm;
    /// Class 90.
    Tx tx;
}
