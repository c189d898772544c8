//! Encoding of frames into a buffer.

use super::super::method::{Encode, basic};
use super::super::wire::Writer;
use super::super::{ContentHeader, EncodeError, Properties};
use super::{FRAME_END, FrameHeader, FrameKind, OVERHEAD};

/// Writes a frame whose size is known only after its payload is written.
#[inline]
fn unsplit(
    out: &mut Vec<u8>,
    kind: FrameKind,
    channel: u16,
    frame_max: u32,
    payload: impl FnOnce(&mut Writer<'_>),
) -> Result<(), EncodeError> {
    let start = out.len();
    let mut writer = Writer::new(out);
    writer.bytes(
        &FrameHeader {
            kind,
            channel,
            size: 0,
        }
        .to_bytes(),
    );
    payload(&mut writer);
    writer.octet(FRAME_END);
    let bytes = out.len().saturating_sub(start);
    match u32::try_from(bytes) {
        Ok(whole) if whole <= frame_max => {
            let size = whole.saturating_sub(OVERHEAD).to_be_bytes();
            let size_field = out.get_mut(start..).and_then(|frame| frame.get_mut(3..7));
            if let Some(size_field) = size_field {
                size_field.copy_from_slice(&size);
            }
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(EncodeError::FrameTooLarge {
                bytes,
                limit: frame_max,
            })
        }
    }
}

/// Writes a method frame.
///
/// # Errors
/// [`EncodeError::FrameTooLarge`] if the whole frame has more than `frame_max` bytes. In this case
/// nothing is written.
#[inline]
pub fn method(
    out: &mut Vec<u8>,
    channel: u16,
    frame_max: u32,
    method: &impl Encode,
) -> Result<(), EncodeError> {
    unsplit(out, FrameKind::Method, channel, frame_max, |writer| {
        let id = method.id();
        writer.long(u32::from(id.class) << 16 | u32::from(id.method));
        method.encode_fields(writer);
    })
}

/// Writes a content header frame.
///
/// # Errors
/// [`EncodeError::FrameTooLarge`] if the whole frame has more than `frame_max` bytes. In this case
/// nothing is written.
#[inline]
pub fn content_header(
    out: &mut Vec<u8>,
    channel: u16,
    frame_max: u32,
    header: &ContentHeader<'_>,
) -> Result<(), EncodeError> {
    content_header_of(
        out,
        channel,
        frame_max,
        header.body_size,
        &header.properties,
    )
}

/// Writes a content header frame from its parts.
#[inline]
pub(crate) fn content_header_of(
    out: &mut Vec<u8>,
    channel: u16,
    frame_max: u32,
    body_size: u64,
    properties: &Properties<'_>,
) -> Result<(), EncodeError> {
    // The common case: no properties.
    if properties.are_none() && frame_max >= BARE_HEADER + OVERHEAD {
        out.extend_from_slice(&bare_header(channel, body_size));
        return Ok(());
    }
    unsplit(out, FrameKind::Header, channel, frame_max, |writer| {
        // The class, and a weight of 0.
        writer.long(u32::from(basic::CLASS.id) << 16);
        writer.longlong(body_size);
        properties.encode(writer);
    })
}

/// The payload size of a content header without properties, in bytes.
const BARE_HEADER: u32 = 14;

/// Returns a content header frame without properties.
#[inline]
fn bare_header(channel: u16, body_size: u64) -> [u8; 22] {
    let header = FrameHeader {
        kind: FrameKind::Header,
        channel,
        size: BARE_HEADER,
    };
    let [kind, channel, low_channel, size @ ..] = header.to_bytes();
    let ([s1, s2, s3, s4], [class, low_class]) = (size, basic::CLASS.id.to_be_bytes());
    let [b1, b2, b3, b4, b5, b6, b7, b8] = body_size.to_be_bytes();
    // The weight and the flags of the properties are 0.
    #[rustfmt::skip]
    let bytes = [
        kind, channel, low_channel, s1, s2, s3, s4,
        class, low_class, 0, 0, b1, b2, b3, b4, b5, b6, b7, b8, 0, 0, FRAME_END,
    ];
    bytes
}

/// Writes a body in as few frames as `frame_max` allows; none if it is empty.
#[inline]
pub fn body(out: &mut Vec<u8>, channel: u16, frame_max: u32, body: &[u8]) {
    let max_payload = usize::try_from(frame_max.saturating_sub(OVERHEAD))
        .unwrap_or(usize::MAX)
        .max(1);
    for part in body.chunks(max_payload) {
        let size = u32::try_from(part.len()).unwrap_or(u32::MAX);
        body_frame_start(out, channel, size);
        out.extend_from_slice(part);
        out.push(FRAME_END);
    }
}

/// Writes the header of a body frame whose payload is written separately. A [`FRAME_END`] must
/// follow the payload.
#[inline]
pub(crate) fn body_frame_start(out: &mut Vec<u8>, channel: u16, size: u32) {
    out.extend_from_slice(
        &FrameHeader {
            kind: FrameKind::Body,
            channel,
            size,
        }
        .to_bytes(),
    );
}

/// Writes a heartbeat.
pub fn heartbeat(out: &mut Vec<u8>) {
    out.extend_from_slice(
        &FrameHeader {
            kind: FrameKind::Heartbeat,
            channel: 0,
            size: 0,
        }
        .to_bytes(),
    );
    out.push(FRAME_END);
}
