//! Reply codes (spec 1.2, "Constants").

use std::fmt;

/// Why a peer closes a channel or a connection, or returns a message.
///
/// It keeps any number that a peer sends; [`name`](Self::name) is `None` for one that the spec does not have.
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

            /// Every reply code of the spec, in ascending order.
            pub const ALL: &[Self] = &[$( Self::$name ),*];

            /// The spec's name, with underscores as RabbitMQ writes it.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $( $code => Some(stringify!($name)), )*
                    _ => None,
                }
            }

            /// Whether the spec lets this close the whole connection. An unknown code does not say.
            #[must_use]
            pub fn is_hard_error(self) -> bool {
                match self.0 {
                    $( $code => stringify!($kind).eq("hard"), )*
                    _ => false,
                }
            }

            /// Whether the spec lets this close a channel only.
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
    /// The normal close.
    200 REPLY_SUCCESS none
    /// The content is larger than the peer takes.
    311 CONTENT_TOO_LARGE soft
    /// A mandatory message that no queue was bound for.
    312 NO_ROUTE soft
    /// An immediate message that no consumer was ready for.
    313 NO_CONSUMERS soft
    /// An operator, or the broker's end, closed the connection.
    320 CONNECTION_FORCED hard
    /// An unknown virtual host.
    402 INVALID_PATH hard
    /// No permission, or a failed login.
    403 ACCESS_REFUSED soft
    /// A queue or exchange that does not exist.
    404 NOT_FOUND soft
    /// A queue that another connection has for itself.
    405 RESOURCE_LOCKED soft
    /// A condition of the request does not hold.
    406 PRECONDITION_FAILED soft
    /// A malformed frame.
    501 FRAME_ERROR hard
    /// A malformed field.
    502 SYNTAX_ERROR hard
    /// A method where it may not stand.
    503 COMMAND_INVALID hard
    /// A channel that is not open, or opened twice.
    504 CHANNEL_ERROR hard
    /// A frame that was not expected, most often of a content.
    505 UNEXPECTED_FRAME hard
    /// The peer is out of something.
    506 RESOURCE_ERROR hard
    /// Not allowed, whatever the permissions.
    530 NOT_ALLOWED hard
    /// Not implemented by the peer.
    540 NOT_IMPLEMENTED hard
    /// The peer's own fault.
    541 INTERNAL_ERROR hard
}

impl ReplyCode {
    /// The code as a number.
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
