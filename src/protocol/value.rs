//! The values of field tables and their tags (spec 4.2.5.5, RabbitMQ's errata 3).

use super::wire::{Reader, Writer};
use super::{ArrayRef, DecodeError, TableRef};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A value of a field table.
///
/// It borrows from the decoded bytes, or from the data it was built from:
///
/// ```
/// use puka::protocol::{Table, Value};
/// let mut table = Table::new();
/// table.insert("x-max-length", 1000)?;
/// table.insert("x-queue-type", "quorum")?;
/// assert_eq!(table.get("x-max-length"), Some(Value::I32(1000)));
/// # Ok::<(), puka::protocol::EncodeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// `t`: true or false.
    Bool(bool),
    /// `b`: 8 bit, signed.
    I8(i8),
    /// `B`: 8 bit, unsigned.
    U8(u8),
    /// `s`, and `U` when read: 16 bit, signed.
    I16(i16),
    /// `u`: 16 bit, unsigned.
    U16(u16),
    /// `I`: 32 bit, signed.
    I32(i32),
    /// `i`: 32 bit, unsigned.
    U32(u32),
    /// `l`, and `L` when read: 64 bit, signed. There is no unsigned 64-bit type.
    I64(i64),
    /// `f`: binary32. RabbitMQ cannot parse NaN and infinities.
    F32(f32),
    /// `d`: binary64. RabbitMQ cannot parse NaN and infinities.
    F64(f64),
    /// `D`: `mantissa / 10^scale`. RabbitMQ reads the mantissa as unsigned, several clients as
    /// signed.
    Decimal {
        /// The number of digits after the decimal point.
        scale: u8,
        /// The 32 bits of the mantissa, without an interpretation of their sign.
        mantissa: u32,
    },
    /// `T`: seconds since 1970-01-01 UTC.
    Timestamp(u64),
    /// `S`: text, which need not be UTF-8.
    String(&'a [u8]),
    /// `x`: bytes.
    Bytes(&'a [u8]),
    /// `A`: an array of values.
    Array(ArrayRef<'a>),
    /// `F`: a nested table.
    Table(TableRef<'a>),
    /// `V`: no value.
    Void,
}

impl<'a> Value<'a> {
    /// Returns the text of a [`String`](Self::String), if it is UTF-8.
    #[must_use]
    pub fn as_str(self) -> Option<&'a str> {
        match self {
            Self::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// Returns any of the integers. RabbitMQ treats the integer types as interchangeable.
    #[must_use]
    pub fn as_i64(self) -> Option<i64> {
        Some(match self {
            Self::I8(n) => n.into(),
            Self::U8(n) => n.into(),
            Self::I16(n) => n.into(),
            Self::U16(n) => n.into(),
            Self::I32(n) => n.into(),
            Self::U32(n) => n.into(),
            Self::I64(n) => n,
            _ => return None,
        })
    }

    /// Returns the value of a [`Bool`](Self::Bool).
    #[must_use]
    pub fn as_bool(self) -> Option<bool> {
        match self {
            Self::Bool(truth) => Some(truth),
            _ => None,
        }
    }

    /// Returns the value of either float type.
    #[must_use]
    pub fn as_f64(self) -> Option<f64> {
        match self {
            Self::F32(n) => Some(n.into()),
            Self::F64(n) => Some(n),
            _ => None,
        }
    }

    /// Returns the bytes of a [`Bytes`](Self::Bytes) or a [`String`](Self::String), which need not
    /// be UTF-8.
    #[must_use]
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) | Self::String(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Returns the time of a [`Timestamp`](Self::Timestamp), if the system can represent it.
    #[must_use]
    pub fn as_time(self) -> Option<SystemTime> {
        match self {
            Self::Timestamp(seconds) => UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
            _ => None,
        }
    }

    /// Returns the array of an [`Array`](Self::Array).
    #[must_use]
    pub fn as_array(self) -> Option<ArrayRef<'a>> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }

    /// Returns the table of a [`Table`](Self::Table).
    #[must_use]
    pub fn as_table(self) -> Option<TableRef<'a>> {
        match self {
            Self::Table(table) => Some(table),
            _ => None,
        }
    }

    /// Returns `true` unless the value is a float that RabbitMQ cannot parse: NaN or infinite.
    #[must_use]
    pub fn is_finite(self) -> bool {
        match self {
            Self::F32(n) => n.is_finite(),
            Self::F64(n) => n.is_finite(),
            _ => true,
        }
    }

    pub(super) fn encode(self, out: &mut Writer<'_>) {
        match self {
            Self::Bool(truth) => out.bytes(&[b't', u8::from(truth)]),
            Self::I8(n) => tagged(out, b'b', &n.to_be_bytes()),
            Self::U8(n) => tagged(out, b'B', &n.to_be_bytes()),
            Self::I16(n) => tagged(out, b's', &n.to_be_bytes()),
            Self::U16(n) => tagged(out, b'u', &n.to_be_bytes()),
            Self::I32(n) => tagged(out, b'I', &n.to_be_bytes()),
            Self::U32(n) => tagged(out, b'i', &n.to_be_bytes()),
            Self::I64(n) => tagged(out, b'l', &n.to_be_bytes()),
            Self::F32(n) => tagged(out, b'f', &n.to_be_bytes()),
            Self::F64(n) => tagged(out, b'd', &n.to_be_bytes()),
            Self::Timestamp(n) => tagged(out, b'T', &n.to_be_bytes()),
            Self::Decimal { scale, mantissa } => {
                out.bytes(&[b'D', scale]);
                out.long(mantissa);
            }
            Self::String(bytes) => counted(out, b'S', bytes),
            Self::Bytes(bytes) => counted(out, b'x', bytes),
            Self::Array(array) => counted(out, b'A', array.as_bytes()),
            Self::Table(table) => counted(out, b'F', table.as_bytes()),
            Self::Void => out.octet(b'V'),
        }
    }

    /// Reads a tag and its value. The contents of a nested container are not validated.
    ///
    /// Inlined so that the value is built in its destination. A copy right after the writes, in
    /// other portions, would stall on store forwarding and cost more than the decoding.
    #[inline(always)]
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let at = reader.position();
        let tag = reader.octet()?;
        Ok(match tag {
            b't' => Self::Bool(reader.octet()? != 0),
            b'b' => Self::I8(i8::from_be_bytes([reader.octet()?])),
            b'B' => Self::U8(reader.octet()?),
            b's' | b'U' => Self::I16(i16::from_be_bytes(reader.short()?.to_be_bytes())),
            b'u' => Self::U16(reader.short()?),
            b'I' => Self::I32(i32::from_be_bytes(reader.long()?.to_be_bytes())),
            b'i' => Self::U32(reader.long()?),
            b'l' | b'L' => Self::I64(i64::from_be_bytes(reader.longlong()?.to_be_bytes())),
            b'f' => Self::F32(f32::from_be_bytes(reader.long()?.to_be_bytes())),
            b'd' => Self::F64(f64::from_be_bytes(reader.longlong()?.to_be_bytes())),
            b'D' => Self::Decimal {
                scale: reader.octet()?,
                mantissa: reader.long()?,
            },
            b'T' => Self::Timestamp(reader.timestamp()?),
            b'S' => Self::String(reader.longstr()?),
            b'x' => Self::Bytes(reader.longstr()?),
            b'A' => Self::Array(ArrayRef::checked(reader.longstr()?)),
            b'F' => Self::Table(TableRef::checked(reader.longstr()?)),
            b'V' => Self::Void,
            tag => return Err(DecodeError::UnknownFieldTag { tag, at }),
        })
    }
}

fn tagged(out: &mut Writer<'_>, tag: u8, bytes: &[u8]) {
    out.octet(tag);
    out.bytes(bytes);
}

fn counted(out: &mut Writer<'_>, tag: u8, bytes: &[u8]) {
    out.octet(tag);
    out.longstr(bytes);
}

macro_rules! from {
    ($($ty:ty => $variant:ident;)*) => {
        $(impl From<$ty> for Value<'_> {
            fn from(value: $ty) -> Self {
                Self::$variant(value)
            }
        })*
    };
}

from! {
    bool => Bool;
    i8 => I8; u8 => U8; i16 => I16; u16 => U16; i32 => I32; u32 => U32; i64 => I64;
    f32 => F32; f64 => F64;
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::String(text.as_bytes())
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::String(text.as_bytes())
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

/// Converts in whole seconds. A timestamp cannot express a time before 1970, so it becomes 1970.
impl From<SystemTime> for Value<'_> {
    fn from(time: SystemTime) -> Self {
        Self::Timestamp(
            time.duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        )
    }
}

impl<'a> From<TableRef<'a>> for Value<'a> {
    fn from(table: TableRef<'a>) -> Self {
        Self::Table(table)
    }
}

impl<'a> From<ArrayRef<'a>> for Value<'a> {
    fn from(array: ArrayRef<'a>) -> Self {
        Self::Array(array)
    }
}

impl From<()> for Value<'_> {
    fn from((): ()) -> Self {
        Self::Void
    }
}
