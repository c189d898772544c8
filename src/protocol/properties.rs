//! The content header and the properties of class `basic` (spec 4.2.6.1, 1.8).

use super::method::{WireType, basic, plain_name};
use super::wire::{Reader, Writer};
use super::{DecodeError, ShortStr, TableRef};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The declaration of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PropertyInfo {
    /// The spec's name, with `_` instead of `-`.
    pub name: &'static str,
    /// The flag for its presence.
    pub flag: u16,
    /// The type on the wire.
    pub wire_type: WireType,
}

macro_rules! property_type {
    (shortstr) => { ShortStr<'a> };
    (octet) => { u8 };
    (timestamp) => { u64 };
    (headers) => { RawHeaders<'a> };
    (wire shortstr) => { WireType::Shortstr };
    (wire octet) => { WireType::Octet };
    (wire timestamp) => { WireType::Longlong };
    (wire headers) => { WireType::Table };
}

macro_rules! properties {
    ($($(#[$doc:meta])* $flag:literal $name:ident: $ty:ident,)*) => {
        /// The properties of a message. `None` means absent, which differs from empty.
        ///
        /// They borrow from the bytes that they were decoded from, or from the values that they
        /// were built from.
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        #[non_exhaustive]
        pub struct Properties<'a> {
            $($(#[$doc])* pub $name: Option<property_type!($ty)>,)*
        }

        /// All properties, in the order of their flags.
        pub const PROPERTIES: &[PropertyInfo] = &[$(PropertyInfo {
            name: plain_name(stringify!($name)),
            flag: $flag,
            wire_type: property_type!(wire $ty),
        },)*];

        impl<'a> Properties<'a> {
            /// Decodes a list of flags and values. The headers in it are validated only by
            /// [`RawHeaders::table`].
            ///
            /// # Errors
            /// [`DecodeError::PropertyFlags`], [`DecodeError::TruncatedPayload`],
            /// [`DecodeError::TrailingBytes`]
            #[inline]
            pub fn decode(list: &'a [u8]) -> Result<Self, DecodeError> {
                let mut reader = Reader::new(list);
                let flags = reader.short()?;
                // Bit 0 announces another word of flags, which class `basic` does not have. Bit 1
                // is unused.
                if flags & 1 != 0 {
                    return Err(DecodeError::PropertyFlags(flags));
                }
                let properties = Self {
                    $($name: if flags & $flag == 0 { None } else { Some(reader.$ty()?) },)*
                };
                reader.finish()?;
                Ok(properties)
            }

            /// Appends the list of flags and values to a buffer.
            pub fn encode_list(&self, out: &mut Vec<u8>) {
                self.encode(&mut Writer::new(out));
            }

            /// Properties that are all absent.
            pub const NONE: Properties<'static> = Properties { $($name: None,)* };

            /// Returns `true` if all are absent.
            #[inline]
            pub(super) fn are_none(&self) -> bool {
                true $(&& self.$name.is_none())*
            }

            // Not inlined, because inlining costs a publish without properties 36 instructions.
            #[inline(never)]
            pub(super) fn encode(&self, out: &mut Writer<'_>) {
                let flags = 0 $(| if self.$name.is_some() { $flag } else { 0 })*;
                out.short(flags);
                $(if let Some(value) = self.$name {
                    out.$ty(value);
                })*
            }
        }
    };
}

properties! {
    /// MIME type of the body, such as `application/json`.
    0x8000 content_type: shortstr,
    /// MIME encoding of the body, such as `gzip`.
    0x4000 content_encoding: shortstr,
    /// The headers.
    0x2000 headers: headers,
    /// 1: transient; 2: persistent.
    0x1000 delivery_mode: octet,
    /// The priority, from 0 to 9 or to the queue's maximum.
    0x0800 priority: octet,
    /// The id that matches a reply to its request.
    0x0400 correlation_id: shortstr,
    /// The queue for the reply.
    0x0200 reply_to: shortstr,
    /// The time until the message expires: milliseconds in decimal.
    0x0100 expiration: shortstr,
    /// The application's id of the message.
    0x0080 message_id: shortstr,
    /// Seconds since 1970-01-01 UTC.
    0x0040 timestamp: timestamp,
    /// The application's name for this kind of message.
    0x0020 r#type: shortstr,
    /// The user who published the message. The broker verifies it.
    0x0010 user_id: shortstr,
    /// The application that published it.
    0x0008 app_id: shortstr,
    /// Reserved.
    0x0004 cluster_id: shortstr,
}

impl Properties<'_> {
    /// Returns [`expiration`](Self::expiration) as a duration: how long the message may stay in a
    /// queue. `None` if it is absent or not a number.
    #[must_use]
    pub fn time_to_live(&self) -> Option<Duration> {
        self.expiration?
            .as_str()?
            .parse()
            .ok()
            .map(Duration::from_millis)
    }

    /// Returns [`timestamp`](Self::timestamp) as a time. `None` if it is absent or later than the
    /// system can represent.
    #[must_use]
    pub fn time(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.timestamp?))
    }
}

/// A headers table as received, not validated yet. An error in it affects only its own message.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct RawHeaders<'a>(&'a [u8]);

impl<'a> RawHeaders<'a> {
    /// Validates the headers and returns them.
    ///
    /// # Errors
    /// [`DecodeError::BadTable`], [`DecodeError::UnknownFieldTag`],
    /// [`DecodeError::NestingTooDeep`]. The sender is at fault.
    pub fn table(self) -> Result<TableRef<'a>, DecodeError> {
        TableRef::new(self.0)
    }

    /// Returns the bytes, without the four bytes of the length.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl<'a> From<TableRef<'a>> for RawHeaders<'a> {
    fn from(table: TableRef<'a>) -> Self {
        Self(table.as_bytes())
    }
}

impl std::fmt::Debug for RawHeaders<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.table() {
            Ok(table) => table.fmt(f),
            Err(error) => write!(f, "<{error}>"),
        }
    }
}

impl<'a> Reader<'a> {
    #[inline]
    fn headers(&mut self) -> Result<RawHeaders<'a>, DecodeError> {
        self.longstr().map(RawHeaders)
    }
}

impl Writer<'_> {
    #[inline]
    fn headers(&mut self, headers: RawHeaders<'_>) {
        self.longstr(headers.0);
    }
}

/// A content header: the size of the body, and the properties.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContentHeader<'a> {
    /// The size of the body in bytes, over all of its frames.
    pub body_size: u64,
    /// The properties.
    pub properties: Properties<'a>,
}

impl<'a> ContentHeader<'a> {
    /// The offset of the property list in the payload of a content header.
    pub const PROPERTY_LIST: usize = 12;

    /// Decodes the payload of a content header frame.
    ///
    /// # Errors
    /// [`DecodeError::ContentClass`], [`DecodeError::ContentWeight`], or the error of the
    /// properties.
    #[inline]
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let class = reader.short()?;
        let weight = reader.short()?;
        let body_size = reader.longlong()?;
        if class != basic::CLASS.id {
            return Err(DecodeError::ContentClass(class));
        }
        if weight != 0 {
            return Err(DecodeError::ContentWeight(weight));
        }
        Ok(Self {
            body_size,
            properties: Properties::decode(reader.rest())?,
        })
    }

    /// Validates the payload of a content header frame. Returns the size of the body, and the
    /// property list to decode later.
    #[inline]
    pub(crate) fn check(payload: &'a [u8]) -> Result<(u64, &'a [u8]), DecodeError> {
        // The common case: class `basic`, weight 0, no properties.
        if let Some(([0, 60, 0, 0], rest)) = payload.split_first_chunk()
            && let Some((size, [0, 0])) = rest.split_first_chunk()
        {
            return Ok((u64::from_be_bytes(*size), &[0, 0]));
        }
        Self::check_properties(payload)
    }

    // Not part of `check`, which is then small enough to be inlined: that saves 10 instructions for
    // a delivery without properties.
    fn check_properties(payload: &'a [u8]) -> Result<(u64, &'a [u8]), DecodeError> {
        let Self { body_size, .. } = Self::decode(payload)?;
        let properties = payload.get(Self::PROPERTY_LIST..).unwrap_or_default();
        Ok((body_size, properties))
    }
}
