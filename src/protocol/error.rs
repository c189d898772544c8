//! Errors of decoding received bytes and of encoding values.

use super::{MethodId, ReplyCode};

/// Received bytes that are not AMQP 0-9-1.
///
/// The peer is at fault, and the error ends the connection with the reply code of
/// [`reply_code`](Self::reply_code). The one exception is a headers table, whose error affects only
/// its own message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The byte after a frame's payload is not `0xCE`; a wrong size has the same effect. Spec
    /// 4.2.3: "The frame-end octet MUST always be the hexadecimal value %xCE".
    #[error("expected frame end 0xce, found {found:#04x}")]
    FrameEnd {
        /// The byte found instead of the frame end.
        found: u8,
    },
    /// A frame that is not a method, content header, body or heartbeat. Spec 4.2.3: "If a peer
    /// receives a frame with a type that is not one of these defined types, it MUST treat this as a
    /// fatal protocol error".
    #[error("unknown frame type {0}")]
    UnknownFrameType(u8),
    /// A frame larger than negotiated, detected after its first seven bytes. Spec 4.2.3: "A peer
    /// that receives an oversized frame MUST signal a connection exception with reply code 501
    /// (frame error)."
    #[error("a frame payload of {size} bytes exceeds the limit of {limit}")]
    FrameTooLarge {
        /// The announced size of the payload in bytes.
        size: u32,
        /// The largest accepted payload of this frame type in bytes.
        limit: u32,
    },
    /// A heartbeat on a channel other than 0. Spec 4.2.7: "Heartbeat frames MUST have a channel
    /// number of zero."
    #[error("heartbeat on channel {0}, expected channel 0")]
    HeartbeatChannel(u16),
    /// A heartbeat with a payload (spec 4.2.7).
    #[error("heartbeat with a payload of {0} bytes, expected none")]
    HeartbeatPayload(u32),
    /// A field runs past the end of the payload.
    #[error("the field at byte {at} exceeds the payload")]
    TruncatedPayload {
        /// The offset of the field in the payload, in bytes.
        at: usize,
    },
    /// Bytes remain after the last field.
    #[error("unexpected bytes after the last field, at byte {at}")]
    TrailingBytes {
        /// The offset of the first such byte in the payload.
        at: usize,
    },
    /// A class or method that AMQP 0-9-1 does not define.
    #[error("unknown method {0}")]
    UnknownMethod(MethodId),
    /// An entry of a field table or array exceeds its container.
    #[error("the entry at byte {at} of a field table exceeds its container")]
    BadTable {
        /// The offset of the entry in the outermost table, in bytes.
        at: usize,
    },
    /// A type tag that is defined by neither AMQP 0-9-1 nor RabbitMQ.
    #[error("unknown type tag {tag:#04x} at byte {at} of a field table")]
    UnknownFieldTag {
        /// The tag.
        tag: u8,
        /// The offset of the tag in the outermost table, in bytes.
        at: usize,
    },
    /// Tables or arrays nested deeper than [`MAX_NESTING`](super::MAX_NESTING).
    #[error("a field table is nested more than {limit} levels deep")]
    NestingTooDeep {
        /// The deepest accepted nesting.
        limit: usize,
    },
    /// A content header of a class without content; only `basic` (60) has content.
    #[error("content header of class {0}, which has no content")]
    ContentClass(u16),
    /// A content header with a weight (spec 4.2.6.1: "The weight field is unused and must be
    /// zero.").
    #[error("content header of weight {0}, expected 0")]
    ContentWeight(u16),
    /// Property flags that announce a second word of flags, which `basic` does not have.
    #[error("property flags {0:#06x} announce more flags, which the class does not define")]
    PropertyFlags(u16),
}

impl DecodeError {
    /// Returns the reply code for this error: the spec's, or RabbitMQ's where the spec defines
    /// none.
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

/// A value that AMQP 0-9-1 cannot express. The caller is at fault, and nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A short string, such as a name or a routing key, of more than 255 bytes.
    #[error("a short string must have at most 255 bytes, got {bytes}")]
    ShortStrTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// A method or content header that does not fit into one frame. Neither can be split.
    #[error("a frame must have at most {limit} bytes, got {bytes}")]
    FrameTooLarge {
        /// The size of the whole frame in bytes.
        bytes: usize,
        /// The negotiated `frame_max` in bytes.
        limit: u32,
    },
    /// Tables or arrays nested deeper than [`MAX_NESTING`](super::MAX_NESTING).
    #[error("a field table must be nested at most {limit} levels deep")]
    NestingTooDeep {
        /// The deepest accepted nesting.
        limit: usize,
    },
}
