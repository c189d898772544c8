//! The content header and the properties of class `basic` (spec 4.2.6.1, 1.8).

use super::method::{WireType, basic, plain_name};
use super::wire::{Reader, Writer};
use super::{DecodeError, ShortStr, TableRef};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the declaration of the properties says of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PropertyInfo {
    /// The spec's name with `_` for `-`.
    pub name: &'static str,
    /// The flag that says it is there.
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
        /// The properties of a message. One that is `None` is absent, which differs from empty.
        ///
        /// They borrow from what they were decoded from, or from what their maker has.
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        #[non_exhaustive]
        pub struct Properties<'a> {
            $($(#[$doc])* pub $name: Option<property_type!($ty)>,)*
        }

        /// Every property, in the order of the flags.
        pub const PROPERTIES: &[PropertyInfo] = &[$(PropertyInfo {
            name: plain_name(stringify!($name)),
            flag: $flag,
            wire_type: property_type!(wire $ty),
        },)*];

        impl<'a> Properties<'a> {
            /// Decodes a list of flags and values. The headers inside are looked at only by [`RawHeaders::table`].
            ///
            /// # Errors
            /// [`DecodeError::PropertyFlags`], [`DecodeError::TruncatedPayload`], [`DecodeError::TrailingOctets`]
            #[inline]
            pub fn decode(list: &'a [u8]) -> Result<Self, DecodeError> {
                let mut reader = Reader::new(list);
                let flags = reader.short()?;
                // Bit 0 says that more flags follow, and no class has that many. Bit 1 means nothing.
                if flags & 1 != 0 {
                    return Err(DecodeError::PropertyFlags(flags));
                }
                let properties = Self {
                    $($name: if flags & $flag == 0 { None } else { Some(reader.$ty()?) },)*
                };
                reader.finish()?;
                Ok(properties)
            }

            /// Writes the list of flags and values to the end of a buffer.
            pub fn encode_list(&self, out: &mut Vec<u8>) {
                self.encode(&mut Writer::new(out));
            }

            /// All of them absent.
            pub const NONE: Properties<'static> = Properties { $($name: None,)* };

            /// Whether all are absent.
            #[inline]
            pub(super) fn are_none(&self) -> bool {
                true $(&& self.$name.is_none())*
            }

            #[inline]
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
    /// 1: transient, 2: persistent.
    0x1000 delivery_mode: octet,
    /// 0 to 9, or what the queue allows.
    0x0800 priority: octet,
    /// Which request this belongs to.
    0x0400 correlation_id: shortstr,
    /// Where the answer should go.
    0x0200 reply_to: shortstr,
    /// When the message expires: milliseconds in decimal.
    0x0100 expiration: shortstr,
    /// The application's id of the message.
    0x0080 message_id: shortstr,
    /// Seconds since 1970-01-01 UTC.
    0x0040 timestamp: timestamp,
    /// The application's name for this kind of message.
    0x0020 r#type: shortstr,
    /// The user who published it; the broker checks that.
    0x0010 user_id: shortstr,
    /// The application that published it.
    0x0008 app_id: shortstr,
    /// Reserved.
    0x0004 cluster_id: shortstr,
}

impl Properties<'_> {
    /// How long the message may wait in a queue: [`expiration`](Self::expiration) as a time. `None` when it is absent, or no
    /// number.
    #[must_use]
    pub fn time_to_live(&self) -> Option<Duration> {
        self.expiration?.as_str()?.parse().ok().map(Duration::from_millis)
    }

    /// When the message was made: [`timestamp`](Self::timestamp) as a time. `None` when it is absent, or later than the
    /// system knows times.
    #[must_use]
    pub fn time(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.timestamp?))
    }
}

/// A headers table as it was received, not looked at yet: a bad one is an error of its message only.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct RawHeaders<'a>(&'a [u8]);

impl<'a> RawHeaders<'a> {
    /// The headers, checked.
    ///
    /// # Errors
    /// [`DecodeError::BadTable`], [`DecodeError::UnknownFieldTag`], [`DecodeError::NestingTooDeep`]: its sender's fault.
    pub fn table(self) -> Result<TableRef<'a>, DecodeError> {
        TableRef::new(self.0)
    }

    /// The octets, without the four of the length.
    #[must_use]
    pub fn as_octets(self) -> &'a [u8] {
        self.0
    }
}

impl<'a> From<TableRef<'a>> for RawHeaders<'a> {
    fn from(table: TableRef<'a>) -> Self {
        Self(table.as_octets())
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

/// A content header: how large the body is, and the properties.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContentHeader<'a> {
    /// Octets of the body, in however many body frames.
    pub body_size: u64,
    /// The properties.
    pub properties: Properties<'a>,
}

impl<'a> ContentHeader<'a> {
    /// Octets of a content header's payload in front of the property list.
    pub const PROPERTY_LIST: usize = 12;

    /// Decodes the payload of a content header frame.
    ///
    /// # Errors
    /// [`DecodeError::ContentClass`], [`DecodeError::ContentWeight`], or what is wrong with the properties.
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
        Ok(Self { body_size, properties: Properties::decode(reader.rest())? })
    }

    /// Checks the payload of a content header frame. Gives the size of the body, and the property list to decode later.
    #[inline]
    pub(crate) fn check(payload: &'a [u8]) -> Result<(u64, &'a [u8]), DecodeError> {
        // The class, no weight, and no properties: as most often.
        if let Some(([0, 60, 0, 0], rest)) = payload.split_first_chunk()
            && let Some((size, [0, 0])) = rest.split_first_chunk()
        {
            return Ok((u64::from_be_bytes(*size), &[0, 0]));
        }
        let Self { body_size, .. } = Self::decode(payload)?;
        Ok((body_size, payload.get(Self::PROPERTY_LIST..).unwrap_or_default()))
    }
}
