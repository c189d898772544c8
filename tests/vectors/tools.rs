//! Helpers for several modules: hexadecimal, frames from bytes, threads with a small stack.

use puka::protocol::frame::{self, FRAME_END};
use puka::protocol::method::Encode;
use puka::protocol::{
    ContentHeader, DecodeError, Decoder, FrameKind, Method, TableRef, wire::Reader,
};

/// The `frame_max` of tests that do not depend on it.
pub(crate) const FRAME_MAX: u32 = 131_072;

/// The stack size that is enough for every decoder, in bytes.
const LITTLE_STACK: usize = 64 << 10;

/// Returns the bytes of hexadecimal digits; blanks are ignored.
pub(crate) fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits
        .bytes()
        .filter(|b| *b != b' ')
        .map(|b| char::from(b).to_digit(16).unwrap() as u8)
        .collect();
    assert!(
        digits.len().is_multiple_of(2),
        "the number of digits must be even"
    );
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// A frame, copied from its decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnedFrame {
    pub(crate) kind: FrameKind,
    pub(crate) channel: u16,
    pub(crate) payload: Vec<u8>,
}

/// Decodes bytes that arrive at once. Returns the frames, the error after them, and how many bytes
/// are pending.
pub(crate) fn decode_stream(
    bytes: &[u8],
    frame_max: u32,
) -> (Vec<OwnedFrame>, Option<DecodeError>, usize) {
    let mut decoder = Decoder::new();
    decoder.set_frame_max(frame_max);
    decoder.extend(bytes);
    let mut frames = Vec::new();
    let error = drain(&mut decoder, &mut frames);
    (frames, error, decoder.pending().len())
}

/// Takes every complete frame from a decoder. Returns the error after them.
pub(crate) fn drain(decoder: &mut Decoder, frames: &mut Vec<OwnedFrame>) -> Option<DecodeError> {
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => frames.push(OwnedFrame {
                kind: frame.kind(),
                channel: frame.channel(),
                payload: frame.payload().to_vec(),
            }),
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
}

/// Returns a frame of any type with any payload.
pub(crate) fn raw_frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend(payload);
    bytes.push(FRAME_END);
    bytes
}

/// Returns the encoded payload of a method.
pub(crate) fn method_payload(method: &impl Encode) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::method(&mut bytes, 1, u32::MAX, method).unwrap();
    bytes[7..bytes.len() - 1].to_vec()
}

/// Returns the encoded payload of a content header.
pub(crate) fn header_payload(header: &ContentHeader<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::content_header(&mut bytes, 1, u32::MAX, header).unwrap();
    bytes[7..bytes.len() - 1].to_vec()
}

/// Returns the payload of a content header with these flags and values, valid or not.
pub(crate) fn raw_header(flags: u16, values: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    payload.extend(flags.to_be_bytes());
    payload.extend(values);
    payload
}

/// Returns the bytes after their length, which takes four bytes.
pub(crate) fn counted(bytes: &[u8]) -> Vec<u8> {
    let mut all = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    all.extend(bytes);
    all
}

/// Returns the content of a table with one entry `k`, with this tag and these bytes.
pub(crate) fn entry(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut all = vec![1, b'k', tag];
    all.extend(bytes);
    all
}

/// Decodes a table with its length, and nothing after it.
pub(crate) fn read_table(bytes: &[u8]) -> Result<TableRef<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let table = reader.table()?;
    reader.finish()?;
    Ok(table)
}

/// Decodes a table in every place that a peer can use: alone, in a method of the handshake, as
/// arguments, and in the headers of a message. Returns the result of each.
pub(crate) fn read_everywhere(table: &[u8]) -> [Result<(), DecodeError>; 4] {
    let table = counted(table);
    let start = [
        &hex("000a 000a 00 09")[..],
        &table,
        &hex("00000005 504c41494e 00000005 656e5f5553"),
    ]
    .concat();
    let declare = [&hex("0032 000a 0000 00 00")[..], &table].concat();
    let header = raw_header(0x2000, &table);
    [
        read_table(&table).map(drop),
        Method::decode(&start).map(drop),
        Method::decode(&declare).map(drop),
        ContentHeader::decode(&header)
            .unwrap()
            .properties
            .headers
            .unwrap()
            .table()
            .map(drop),
    ]
}

/// Runs a test on a thread with a small stack.
pub(crate) fn with_little_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new()
        .stack_size(LITTLE_STACK)
        .spawn(test)
        .unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
