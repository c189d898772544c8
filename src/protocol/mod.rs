//! Bytes and values of AMQP 0-9-1 with RabbitMQ's extensions.
//!
//! Everything here is a pure function of bytes, except the partial frame in a [`Decoder`]: there
//! are no channels, no connection and no time. Input from a peer cannot make this code panic, read
//! out of bounds, recurse, or allocate more than the received bytes plus one frame.
//!
//! Values borrow: a [`Method`] decoded from a frame contains slices of it, and one built for
//! sending contains slices of its caller's data, so neither direction allocates.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

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
pub(crate) use short_str::ShortString;
pub use table::{Array, MAX_NESTING, Table};
pub use table_ref::{ArrayRef, TableRef};
pub use value::Value;
