//! The macro that declares a class, and the types that describe the declarations.

use super::MethodId;

/// The declaration of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassInfo {
    /// The class number.
    pub id: u16,
    /// The spec's name.
    pub name: &'static str,
    /// The methods, in the order of their numbers.
    pub methods: &'static [MethodInfo],
}

/// The declaration of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodInfo {
    /// The class and method numbers.
    pub id: MethodId,
    /// The spec's name.
    pub name: &'static str,
    /// The side that sends it.
    pub sent_by: SentBy,
    /// Whether a content header and a body follow it.
    pub has_content: bool,
    /// The names of its replies, all of the same class. Empty if it has none.
    pub replies: &'static [&'static str],
    /// The fields in order.
    pub fields: &'static [FieldInfo],
}

/// The declaration of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldInfo {
    /// The spec's name, with `_` instead of `-`.
    pub name: &'static str,
    /// The type on the wire.
    pub wire_type: WireType,
    /// Whether it is sent as zero and ignored when received.
    pub reserved: bool,
}

/// Returns the spec's name of a field whose name is a Rust keyword.
pub(in crate::protocol) const fn plain_name(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// The side that sends a method, as used by RabbitMQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentBy {
    /// The client only.
    Client,
    /// The server only.
    Server,
    /// Both sides.
    Both,
}

macro_rules! wire_types {
    ($($(#[$doc:meta])* $Variant:ident $name:ident;)*) => {
        /// The type of a field on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum WireType { $($(#[$doc])* $Variant,)* }

        impl WireType {
            /// The spec's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$Variant => stringify!($name),)* }
            }
        }
    };
}

wire_types! {
    /// One bit, packed with adjacent bits.
    Bit bit;
    /// 8 bit.
    Octet octet;
    /// 16 bit.
    Short short;
    /// 32 bit.
    Long long;
    /// 64 bit.
    Longlong longlong;
    /// At most 255 bytes.
    Shortstr shortstr;
    /// Arbitrary bytes, with a 32-bit length.
    Longstr longstr;
    /// A field table.
    Table table;
}

/// Maps a wire type to its Rust type, its `WireType` variant, and the value of a reserved field.
macro_rules! wire_type {
    (type bit $lt:lifetime) => { bool };
    (type octet $lt:lifetime) => { u8 };
    (type short $lt:lifetime) => { u16 };
    (type long $lt:lifetime) => { u32 };
    (type longlong $lt:lifetime) => { u64 };
    (type shortstr $lt:lifetime) => { $crate::protocol::ShortStr<$lt> };
    (type longstr $lt:lifetime) => { &$lt [u8] };
    (type table $lt:lifetime) => { $crate::protocol::TableRef<$lt> };
    (name bit) => { $crate::protocol::method::WireType::Bit };
    (name octet) => { $crate::protocol::method::WireType::Octet };
    (name short) => { $crate::protocol::method::WireType::Short };
    (name long) => { $crate::protocol::method::WireType::Long };
    (name longlong) => { $crate::protocol::method::WireType::Longlong };
    (name shortstr) => { $crate::protocol::method::WireType::Shortstr };
    (name longstr) => { $crate::protocol::method::WireType::Longstr };
    (name table) => { $crate::protocol::method::WireType::Table };
    (zero bit) => { false };
    (zero short) => { 0 };
    (zero shortstr) => { $crate::protocol::ShortStr::EMPTY };
    (zero longstr) => { b"" };
}

macro_rules! sent_by {
    (client) => {
        $crate::protocol::method::SentBy::Client
    };
    (server) => {
        $crate::protocol::method::SentBy::Server
    };
    (both) => {
        $crate::protocol::method::SentBy::Both
    };
}

macro_rules! reader_type {
    () => { Reader<'_> };
    ($lt:lifetime) => { Reader<$lt> };
}

macro_rules! class {
    (
        $class_id:literal $class_name:literal Method $(<$class_lt:lifetime>)?;
        $(
            $(#[$doc:meta])*
            $method_id:literal $method_name:literal $Method:ident $(<$lt:lifetime>)?
            from $sender:ident $(with $content:ident)?
            $(-> $reply:literal $(| $other_reply:literal)*)?
            {
                $([$($lead:ident: $lead_ty:ident),*])?
                $($(#[$field_doc:meta])* $field:ident: $ty:ident,)*
                $(($($trail:ident: $trail_ty:ident),*))?
            }
        )*
    ) => {
        use $crate::protocol::method::{ClassInfo, Encode, MethodId, MethodInfo};
        use $crate::protocol::wire::{Reader, Writer};

        /// The declaration of this class.
        pub const CLASS: ClassInfo = ClassInfo {
            id: $class_id,
            name: $class_name,
            methods: &[$($Method::INFO,)*],
        };

        /// A method of this class.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Method $(<$class_lt>)? {
            $($(#[$doc])* $Method($Method $(<$lt>)?),)*
        }

        impl $(<$class_lt>)? Method $(<$class_lt>)? {
            #[inline]
            pub(in crate::protocol::method) fn decode_fields(
                id: MethodId,
                reader: &mut reader_type!($($class_lt)?),
            ) -> Result<Self, $crate::protocol::DecodeError> {
                // Avoids a warning for a class whose methods have no fields.
                let _ = &reader;
                match id.method {
                    $($method_id => Ok(Self::$Method($Method::decode_fields(reader)?)),)*
                    _ => Err($crate::protocol::DecodeError::UnknownMethod(id)),
                }
            }
        }

        impl $(<$class_lt>)? Encode for Method $(<$class_lt>)? {
            fn id(&self) -> MethodId {
                match self {
                    $(Self::$Method(method) => method.id(),)*
                }
            }

            fn encode_fields(&self, out: &mut Writer<'_>) {
                match self {
                    $(Self::$Method(method) => method.encode_fields(out),)*
                }
            }
        }

        impl $(<$class_lt>)? Method $(<$class_lt>)? {
            pub(in crate::protocol::method) fn info(&self) -> &'static MethodInfo {
                match self {
                    $(Self::$Method(_) => &$Method::INFO,)*
                }
            }
        }

        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq)]
            pub struct $Method $(<$lt>)? {
                $($(#[$field_doc])* pub $field: wire_type!(type $ty 'a),)*
            }

            impl<'a> $Method $(<$lt>)? {
                /// The class and method numbers.
                pub const ID: MethodId = MethodId { class: $class_id, method: $method_id };

                /// The declaration of this method.
                pub const INFO: MethodInfo = MethodInfo {
                    id: Self::ID,
                    name: $method_name,
                    sent_by: sent_by!($sender),
                    has_content: false $(|| stringify!($content).len() > 0)?,
                    replies: &[$($reply, $($other_reply),*)?],
                    fields: &[
                        $($($crate::protocol::method::FieldInfo {
                            name: $crate::protocol::method::plain_name(stringify!($lead)),
                            wire_type: wire_type!(name $lead_ty),
                            reserved: true,
                        },)*)?
                        $($crate::protocol::method::FieldInfo {
                            name: $crate::protocol::method::plain_name(stringify!($field)),
                            wire_type: wire_type!(name $ty),
                            reserved: false,
                        },)*
                        $($($crate::protocol::method::FieldInfo {
                            name: $crate::protocol::method::plain_name(stringify!($trail)),
                            wire_type: wire_type!(name $trail_ty),
                            reserved: true,
                        },)*)?
                    ],
                };

                /// Decodes the payload of a method frame. Returns `None` for another method or a
                /// malformed payload.
                #[inline]
                #[must_use]
                pub fn decode(payload: &'a [u8]) -> Option<Self> {
                    let mut reader = Reader::new(payload);
                    let number = u32::from(Self::ID.class) << 16 | u32::from(Self::ID.method);
                    if reader.long() != Ok(number) {
                        return None;
                    }
                    let method = Self::decode_fields(&mut reader).ok()?;
                    reader.finish().ok()?;
                    Some(method)
                }

                #[inline]
                fn decode_fields(
                    reader: &mut Reader<'a>,
                ) -> Result<Self, $crate::protocol::DecodeError> {
                    // Avoids a warning for a method without fields.
                    let _ = &reader;
                    $($(let _ = reader.$lead_ty()?;)*)?
                    $(let $field = reader.$ty()?;)*
                    $($(let _ = reader.$trail_ty()?;)*)?
                    Ok(Self { $($field),* })
                }
            }

            impl $(<$lt>)? Encode for $Method $(<$lt>)? {
                #[inline]
                fn id(&self) -> MethodId {
                    Self::ID
                }

                #[inline]
                fn encode_fields(&self, out: &mut Writer<'_>) {
                    let _ = &out;
                    $($(out.$lead_ty(wire_type!(zero $lead_ty));)*)?
                    $(out.$ty(self.$field);)*
                    $($(out.$trail_ty(wire_type!(zero $trail_ty));)*)?
                }
            }

            impl<'a> From<$Method $(<$lt>)?> for $crate::protocol::Method<'a> {
                fn from(method: $Method $(<$lt>)?) -> Self {
                    Method::$Method(method).into()
                }
            }
        )*
    };
}
