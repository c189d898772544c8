//! What can be wrong with octets, received or about to be sent.

use super::{MethodId, ReplyCode};

/// Received octets that are not AMQP 0-9-1.
///
/// It is always the peer's fault, and it ends the connection with the reply code that
/// [`reply_code`](Self::reply_code) names. The one exception is a headers table, which concerns its own message only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The octet after a frame's payload is not `0xCE`; a wrong size shows like this, too (spec 4.2.3).
    #[error("a frame ends in {found:#04x} instead of 0xce")]
    FrameEnd {
        /// The octet found in place of the frame end.
        found: u8,
    },
    /// A frame that is neither method, content header, body nor heartbeat (spec 4.2.3).
    #[error("unknown frame type {0}")]
    UnknownFrameType(u8),
    /// A frame larger than was agreed upon, refused on its first seven octets (spec 4.2.3).
    #[error("a frame of {size} octets of payload, where at most {limit} were agreed upon")]
    FrameTooLarge {
        /// Octets of payload that the frame announces.
        size: u32,
        /// The most that is accepted for a frame of this type.
        limit: u32,
    },
    /// A heartbeat on a channel other than 0 (spec 4.2.7).
    #[error("a heartbeat on channel {0}, where only channel 0 may carry it")]
    HeartbeatChannel(u16),
    /// A heartbeat with a payload (spec 4.2.7).
    #[error("a heartbeat with {0} octets of payload")]
    HeartbeatPayload(u32),
    /// A field runs past the end of the payload.
    #[error("a field at octet {at} runs past the end of the payload")]
    TruncatedPayload {
        /// Octets between the start of the payload and the field.
        at: usize,
    },
    /// Octets are left over after the last field.
    #[error("octets are left over at octet {at}, after the last field")]
    TrailingOctets {
        /// Octets between the start of the payload and the first superfluous one.
        at: usize,
    },
    /// A class or method that AMQP 0-9-1 does not have.
    #[error("unknown method {0}")]
    UnknownMethod(MethodId),
    /// An entry of a field table or array runs past the end of its container.
    #[error("an entry at octet {at} of a field table runs past its end")]
    BadTable {
        /// Octets between the start of the outermost table and the entry.
        at: usize,
    },
    /// A type tag that neither AMQP 0-9-1 nor RabbitMQ knows.
    #[error("unknown type tag {tag:#04x} at octet {at} of a field table")]
    UnknownFieldTag {
        /// The tag.
        tag: u8,
        /// Octets between the start of the outermost table and the tag.
        at: usize,
    },
    /// Tables or arrays nested deeper than [`MAX_NESTING`](super::MAX_NESTING).
    #[error("a field table is nested more than {limit} deep")]
    NestingTooDeep {
        /// The deepest nesting that is accepted.
        limit: usize,
    },
    /// A content header of a class that has no content; only `basic` (60) has.
    #[error("a content header of class {0}, which has no content")]
    ContentClass(u16),
    /// A content header with a weight; it must be zero (spec 4.2.6.1).
    #[error("a content header of weight {0}, which must be zero")]
    ContentWeight(u16),
    /// Property flags that announce a second word of flags, of which `basic` has none.
    #[error("property flags {0:#06x} announce more flags, which the class does not have")]
    PropertyFlags(u16),
}

impl DecodeError {
    /// The reply code with which the spec, or RabbitMQ where the spec is silent, answers this.
    #[must_use]
    pub fn reply_code(&self) -> ReplyCode {
        match self {
            Self::ContentClass(_) | Self::ContentWeight(_) => ReplyCode::UNEXPECTED_FRAME,
            Self::UnknownMethod(_) => ReplyCode::NOT_IMPLEMENTED,
            Self::BadTable { .. }
            | Self::UnknownFieldTag { .. }
            | Self::NestingTooDeep { .. }
            | Self::PropertyFlags(_) => ReplyCode::SYNTAX_ERROR,
            _ => ReplyCode::FRAME_ERROR,
        }
    }
}

/// A value that AMQP 0-9-1 can't express. It is the caller's fault, and nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A short string, such as a name or a routing key, of more than 255 octets.
    #[error("{octets} octets, where a short string has room for 255")]
    ShortStrTooLong {
        /// Its length in octets.
        octets: usize,
    },
    /// A method or content header that does not fit into one frame, and neither can be split.
    #[error("a frame of {octets} octets, where {limit} were agreed upon")]
    FrameTooLarge {
        /// Octets of the whole frame.
        octets: usize,
        /// The negotiated `frame_max`, in octets.
        limit: u32,
    },
    /// Tables or arrays nested deeper than [`MAX_NESTING`](super::MAX_NESTING).
    #[error("a field table nested more than {limit} deep")]
    NestingTooDeep {
        /// The deepest nesting that is accepted.
        limit: usize,
    },
}
