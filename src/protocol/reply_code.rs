//! Reply codes (spec 1.2, "Constants").

use std::fmt;

/// The reason why a peer closes a channel or a connection, or returns a message.
///
/// It can represent any number; [`name`](Self::name) is `None` for a code that the spec does not
/// define.
///
/// ```
/// use puka::protocol::ReplyCode;
/// assert_eq!(ReplyCode::NOT_FOUND.to_string(), "404 NOT_FOUND");
/// assert!(!ReplyCode::NOT_FOUND.is_hard_error());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyCode(u16);

macro_rules! reply_codes {
    ($( $(#[$doc:meta])* $code:literal $name:ident $kind:ident )*) => {
        impl ReplyCode {
            $( $(#[$doc])* pub const $name: Self = Self($code); )*

            /// All reply codes of the spec, in ascending order.
            pub const ALL: &[Self] = &[$( Self::$name ),*];

            /// Returns the spec's name, with underscores as RabbitMQ writes it.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $( $code => Some(stringify!($name)), )*
                    _ => None,
                }
            }

            /// Returns `true` if the spec defines it as an error that closes the connection.
            /// `false` for an unknown code.
            #[must_use]
            pub fn is_hard_error(self) -> bool {
                match self.0 {
                    $( $code => stringify!($kind).eq("hard"), )*
                    _ => false,
                }
            }

            /// Returns `true` if the spec defines it as an error that closes only a channel.
            #[must_use]
            pub fn is_soft_error(self) -> bool {
                match self.0 {
                    $( $code => stringify!($kind).eq("soft"), )*
                    _ => false,
                }
            }
        }
    };
}

reply_codes! {
    /// A normal close.
    200 REPLY_SUCCESS none
    /// The content is larger than the peer accepts.
    311 CONTENT_TOO_LARGE soft
    /// No queue is bound for a mandatory message.
    312 NO_ROUTE soft
    /// No consumer is ready for an immediate message.
    313 NO_CONSUMERS soft
    /// An operator or the broker's shutdown closed the connection.
    320 CONNECTION_FORCED hard
    /// The virtual host is unknown.
    402 INVALID_PATH hard
    /// Permission is missing, or the login failed.
    403 ACCESS_REFUSED soft
    /// The queue or exchange does not exist.
    404 NOT_FOUND soft
    /// The queue is exclusive to another connection.
    405 RESOURCE_LOCKED soft
    /// A precondition of the request does not hold.
    406 PRECONDITION_FAILED soft
    /// A malformed frame.
    501 FRAME_ERROR hard
    /// A malformed field.
    502 SYNTAX_ERROR hard
    /// A method that is not valid in this state.
    503 COMMAND_INVALID hard
    /// The channel is not open, or is opened twice.
    504 CHANNEL_ERROR hard
    /// An unexpected frame, usually of a content.
    505 UNEXPECTED_FRAME hard
    /// The peer lacks a resource, such as memory.
    506 RESOURCE_ERROR hard
    /// Not allowed, regardless of permissions.
    530 NOT_ALLOWED hard
    /// The peer does not implement the method.
    540 NOT_IMPLEMENTED hard
    /// An internal error of the peer.
    541 INTERNAL_ERROR hard
}

impl ReplyCode {
    /// Returns the code as a number.
    #[must_use]
    pub fn value(self) -> u16 {
        self.0
    }
}

impl From<u16> for ReplyCode {
    fn from(code: u16) -> Self {
        Self(code)
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} {name}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplyCode({self})")
    }
}
