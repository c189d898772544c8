//! Octets and values of AMQP 0-9-1 with RabbitMQ's extensions.
//!
//! Everything here is a pure function of octets, but for the partial frame that a [`Decoder`] holds: no channel, no
//! connection, no time. What a peer sends can't make this code panic, read out of range, recurse, or allocate more
//! than what has arrived plus one frame.
//!
//! Values borrow: a [`Method`] decoded from a frame holds slices of it, and one built for sending holds slices of
//! whatever its caller has, so neither direction allocates.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

mod error;
pub mod frame;
pub mod method;
mod properties;
mod reply_code;
mod short_str;
mod table;
mod table_ref;
mod value;
pub mod wire;

pub use error::{DecodeError, EncodeError};
pub(crate) use frame::WholeContent;
pub use frame::{Decoder, Frame, FrameKind, ProtocolHeader};
pub use method::{Method, MethodId};
pub use properties::{ContentHeader, PROPERTIES, Properties, PropertyInfo, RawHeaders};
pub use reply_code::ReplyCode;
pub use short_str::ShortStr;
pub use table::{Array, MAX_NESTING, Table};
pub use table_ref::{ArrayRef, TableRef};
pub use value::Value;
