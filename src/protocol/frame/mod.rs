//! Frames: the incremental decoder and the encoder (spec 4.2.3).

mod decoder;
mod encode;

pub(crate) use decoder::WholeContent;
pub use decoder::{Decoder, Frame};
pub use encode::{body, content_header, heartbeat, method};
pub(crate) use encode::{body_frame_start, content_header_of};

use super::DecodeError;

/// The last byte of every frame.
pub const FRAME_END: u8 = 0xCE;

/// The size of a frame without its payload, in bytes: type, channel, size, frame end.
pub const OVERHEAD: u32 = 8;

/// The size of a frame's header in bytes: type, channel, size.
pub const HEADER: usize = 7;

/// The largest frame before `tune-ok`, in bytes: RabbitMQ's `initial_frame_max` since 4.1. Older
/// servers use 4096 and keep to that by themselves.
pub const INITIAL_FRAME_MAX: u32 = 8192;

/// The smallest negotiable `frame_max` in bytes (spec, constant `frame-min-size`).
pub const FRAME_MIN_SIZE: u32 = 4096;

/// The largest accepted method or content header in bytes, if `frame_max` is smaller. Neither can
/// be split, and RabbitMQ sends them regardless of their size.
pub const UNSPLIT_FRAME_MAX: u32 = 1 << 20;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Not a frame, but the first eight bytes of a stream. A server sends them to refuse a version.
    ProtocolHeader,
    /// A method.
    Method,
    /// A content header.
    Header,
    /// A part of a body.
    Body,
    /// A heartbeat.
    Heartbeat,
}

impl FrameKind {
    /// Returns the first byte of such a frame.
    #[inline]
    const fn number(self) -> u8 {
        match self {
            Self::Method | Self::ProtocolHeader => 1,
            Self::Header => 2,
            Self::Body => 3,
            Self::Heartbeat => 8,
        }
    }
}

/// The first eight bytes that a client sends. A server sends them to refuse the version (spec
/// 4.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolHeader {
    /// 0 in AMQP 0-9-1; 3 for SASL in AMQP 1.0.
    pub id: u8,
    /// 0 in AMQP 0-9-1.
    pub major: u8,
    /// 9 in AMQP 0-9-1.
    pub minor: u8,
    /// 1 in AMQP 0-9-1.
    pub revision: u8,
}

impl ProtocolHeader {
    /// The protocol header of AMQP 0-9-1.
    pub const AMQP_0_9_1: Self = Self {
        id: 0,
        major: 0,
        minor: 9,
        revision: 1,
    };

    /// Returns the eight bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        [
            b'A',
            b'M',
            b'Q',
            b'P',
            self.id,
            self.major,
            self.minor,
            self.revision,
        ]
    }

    /// Parses eight bytes. Returns `None` unless they begin with `AMQP`.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [b'A', b'M', b'Q', b'P', id, major, minor, revision] => Some(Self {
                id,
                major,
                minor,
                revision,
            }),
            _ => None,
        }
    }
}

impl std::fmt::Display for ProtocolHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.id, self.major, self.minor, self.revision) {
            (0, 1, 0, 0) => f.write_str("AMQP 1.0"),
            (2, 1, 0, 0) => f.write_str("AMQP 1.0 with TLS"),
            (3, 1, 0, 0) => f.write_str("AMQP 1.0 with SASL"),
            (0, 0, minor, revision) => write!(f, "AMQP 0-{minor}-{revision}"),
            (id, major, minor, revision) => write!(f, "AMQP {id}-{major}-{minor}-{revision}"),
        }
    }
}

/// The seven bytes before a payload.
#[derive(Clone, Copy, Debug)]
struct FrameHeader {
    kind: FrameKind,
    channel: u16,
    size: u32,
}

impl FrameHeader {
    /// Returns the type, the channel, and the size of the payload. The eighth byte is ignored:
    /// every frame has at least eight bytes, so they are loaded as one integer.
    #[inline]
    fn fields(bytes: [u8; HEADER + 1]) -> (u8, u16, u32) {
        let [kind, ..] = bytes;
        let number = u64::from_be_bytes(bytes);
        let channel = u16::try_from(number >> 40 & 0xFFFF).unwrap_or(0);
        let size = u32::try_from(number >> 8 & 0xFFFF_FFFF).unwrap_or(0);
        (kind, channel, size)
    }

    #[inline]
    fn decode(bytes: [u8; HEADER + 1]) -> Result<Self, DecodeError> {
        let (kind, channel, size) = Self::fields(bytes);
        let kind = match kind {
            1 => FrameKind::Method,
            2 => FrameKind::Header,
            3 => FrameKind::Body,
            8 if channel != 0 => return Err(DecodeError::HeartbeatChannel(channel)),
            8 if size != 0 => return Err(DecodeError::HeartbeatPayload(size)),
            8 => FrameKind::Heartbeat,
            other => return Err(DecodeError::UnknownFrameType(other)),
        };
        Ok(Self {
            kind,
            channel,
            size,
        })
    }

    #[inline]
    fn to_bytes(self) -> [u8; HEADER] {
        let [channel, low_channel] = self.channel.to_be_bytes();
        let [size, second, third, last] = self.size.to_be_bytes();
        [
            self.kind.number(),
            channel,
            low_channel,
            size,
            second,
            third,
            last,
        ]
    }
}
