//! The bodies of the fuzz targets, independent of any fuzzer, so that ordinary tests replay the
//! corpus.
//!
//! Each function panics if an invariant that must hold for any input is violated. Run a target with
//! a nightly compiler and cargo-fuzz, from the root of the project (a single allocation above 4 MiB
//! is a finding, too):
//!
//! ```text
//! cargo +nightly fuzz run frame -- -max_total_time=60 -malloc_limit_mb=4
//! ```

#![forbid(unsafe_code)]

mod confirms;
mod connection;
mod content;
#[cfg(test)]
mod crossing;
mod encoder;
mod handshake;
mod input;
mod little;
mod observer;
mod peer;
mod topology;

pub use confirms::confirms;
pub use connection::connection;
pub use content::content;
pub use encoder::encoder;
pub use handshake::handshake;
pub use topology::{recovery, topology};

use puka::protocol::frame;
use puka::protocol::wire::Reader;
use puka::protocol::{
    Array, ArrayRef, ContentHeader, DecodeError, Decoder, FrameKind, MAX_NESTING, Method,
    Properties, Table, TableRef, Value,
};
use puka::{Options, Uri};

/// The most bytes that a decoder may reserve ahead of the input: its largest buffer, and the size
/// of a read.
pub const AHEAD: usize = (128 << 10) + (2 << 10);

/// A decoded frame: its kind, its channel and its payload.
pub type Cut = (FrameKind, u16, Vec<u8>);

/// Any split of a stream has the same frames. The first bytes select the sizes of the pieces and
/// the maximum frame size.
pub fn frame(data: &[u8]) {
    let Some((&[limit, seed, seed2, pieces], stream)) = data.split_first_chunk::<4>() else {
        return;
    };
    let frame_max = [131_072, 8192, 4096, 64][usize::from(limit % 4)];
    let longest = [1, 7, 64, 5000][usize::from(pieces % 4)];
    any_split(
        stream,
        frame_max,
        u32::from_be_bytes([0, 0, seed, seed2]),
        longest,
    );
}

/// Checks that any split of a stream has the same frames and then the same error, that nothing is
/// consumed past an error, and that the buffer is never far ahead of the input.
pub fn any_split(stream: &[u8], frame_max: u32, seed: u32, longest_piece: usize) {
    let mut decoder = Decoder::new();
    decoder.set_frame_max(frame_max);
    decoder.extend(stream);
    let mut expected = Vec::new();
    let error = cut(&mut decoder, &mut expected, || false);
    let consumed: usize = expected.iter().map(wire_length).sum();
    assert_eq!(
        decoder.pending(),
        &stream[consumed..],
        "bytes that are not decoded must be kept"
    );

    let mut random = Random(seed);
    let mut decoder = Decoder::new();
    decoder.set_frame_max(frame_max);
    let mut found = Vec::new();
    let mut found_error = None;
    let mut fed = 0;
    while fed < stream.len() && found_error.is_none() {
        let piece = random.up_to(longest_piece).min(stream.len() - fed);
        feed(
            &mut decoder,
            &stream[fed..fed + piece],
            random.up_to(2) == 1,
        );
        fed += piece;
        assert!(
            decoder.space().len() + decoder.pending().len() <= 2 * fed + AHEAD,
            "the buffer is too far ahead of the input"
        );
        // Sometimes frames are left in the decoder until more have arrived.
        if random.up_to(4) != 1 || fed == stream.len() {
            found_error = cut(&mut decoder, &mut found, || random.up_to(2) == 1);
        }
    }
    assert_eq!((found, found_error), (expected, error));
    if let Some(error) = error {
        assert!(
            decoder.pending().starts_with(&stream[consumed..fed]),
            "bytes were consumed past an error"
        );
        decoder.extend(&[8, 0, 0, 0, 0, 0, 0, 0xCE]);
        assert_eq!(
            decoder.next_frame().err(),
            Some(error),
            "an error must be returned again"
        );
    }
}

fn feed(decoder: &mut Decoder, mut bytes: &[u8], by_copy: bool) {
    if by_copy {
        return decoder.extend(bytes);
    }
    while !bytes.is_empty() {
        let space = decoder.space();
        assert!(
            !space.is_empty(),
            "a read into an empty buffer would look like the end of the stream"
        );
        let count = space.len().min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        decoder.filled(count);
        bytes = &bytes[count..];
    }
}

fn cut(
    decoder: &mut Decoder,
    frames: &mut Vec<Cut>,
    mut keep: impl FnMut() -> bool,
) -> Option<DecodeError> {
    // The stored frames share the decoder's buffer while it continues to read into it.
    let mut kept = Vec::new();
    let error = loop {
        let frame = match decoder.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => break None,
            Err(error) => break Some(error),
        };
        frames.push((frame.kind(), frame.channel(), frame.payload().to_vec()));
        if keep() {
            kept.push((frames.len() - 1, frame.into_payload()));
        }
    };
    for (index, payload) in kept {
        assert_eq!(payload, frames[index].2);
    }
    error
}

fn wire_length((kind, _, payload): &Cut) -> usize {
    match kind {
        FrameKind::ProtocolHeader => payload.len(),
        _ => payload.len() + 8,
    }
}

/// A small generator of random numbers, so that the input alone determines what happens.
struct Random(u32);

impl Random {
    /// Returns a number from 1 to `most`.
    fn up_to(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1 + usize::try_from(self.0 >> 8).unwrap_or(0) % most
    }
}

/// A method that decodes encodes to bytes that decode to it and encode to themselves.
pub fn method(data: &[u8]) {
    let Ok(method) = Method::decode(data) else {
        return;
    };
    let bytes = encoded(&method);
    let again = Method::decode(&bytes).expect("the encoder's output decodes");
    assert_eq!(again, method);
    assert_eq!(encoded(&again), bytes);
    let _ = format!("{method:?}");
}

fn encoded(method: &Method<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    frame::method(&mut out, 1, u32::MAX, method).expect("frame_max is unlimited");
    out[7..out.len() - 1].to_vec()
}

/// The same for a content header. Its headers are the same whether decoded at once or later.
pub fn properties(data: &[u8]) {
    let decoded = ContentHeader::decode(data);
    if let Some(list) = data.get(ContentHeader::PROPERTY_LIST..) {
        let alone = Properties::decode(list);
        if let Ok(header) = decoded {
            assert_eq!(alone, Ok(header.properties));
        }
    }
    let Ok(header) = decoded else { return };
    let mut out = Vec::new();
    frame::content_header(&mut out, 1, u32::MAX, &header).expect("frame_max is unlimited");
    let again =
        ContentHeader::decode(&out[7..out.len() - 1]).expect("the encoder's output decodes");
    assert_eq!(again, header);
    let _ = format!("{header:?}");
    if let Some(headers) = header.properties.headers {
        assert_eq!(headers.table(), TableRef::new(headers.as_bytes()));
        table(headers.as_bytes());
    }
}

/// An accepted table is read to its last byte, is nested no deeper than the limit, and is the
/// same when it is built again.
pub fn table(data: &[u8]) {
    let mut with_length = u32::try_from(data.len())
        .expect("the input is smaller than 4 GiB")
        .to_be_bytes()
        .to_vec();
    with_length.extend(data);
    let mut reader = Reader::new(&with_length);
    assert_eq!(reader.table().err(), TableRef::new(data).err());
    let Ok(table) = TableRef::new(data) else {
        return;
    };
    assert!(reader.rest().is_empty());
    let _ = format!("{table:?}");
    let _ = table.is_finite();
    let mut length = 0;
    for (name, value) in table {
        length += 1 + name.len() + wire_size(value, 1);
        if let Some(name) = name.as_str() {
            let first = table.iter().find(|(other, _)| other.as_str() == Some(name));
            assert_same(table.get(name), first.map(|(_, value)| value));
        }
    }
    assert_eq!(length, data.len(), "every byte must belong to an entry");
    let built = rebuilt(table);
    assert_eq!(rebuilt(built.as_ref()), built);
    assert_eq!(built.as_ref().as_bytes().len(), data.len());
    assert_eq!(TableRef::new(built.as_ref().as_bytes()), Ok(built.as_ref()));
}

/// Compares values by their debug output, so that a NaN is equal to itself.
fn assert_same(a: Option<Value<'_>>, b: Option<Value<'_>>) {
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
}

/// Returns the number of bytes of a value with its tag.
fn wire_size(value: Value<'_>, depth: usize) -> usize {
    1 + match value {
        Value::Void => 0,
        Value::Bool(_) | Value::I8(_) | Value::U8(_) => 1,
        Value::I16(_) | Value::U16(_) => 2,
        Value::I32(_) | Value::U32(_) | Value::F32(_) => 4,
        Value::I64(_) | Value::F64(_) | Value::Timestamp(_) => 8,
        Value::Decimal { .. } => 5,
        Value::String(bytes) | Value::Bytes(bytes) => 4 + bytes.len(),
        Value::Array(array) => {
            assert!(depth <= MAX_NESTING);
            4 + array
                .iter()
                .map(|value| wire_size(value, depth + 1))
                .sum::<usize>()
        }
        Value::Table(table) => {
            assert!(depth <= MAX_NESTING);
            4 + table
                .iter()
                .map(|(name, value)| 1 + name.len() + wire_size(value, depth + 1))
                .sum::<usize>()
        }
        other => panic!("unknown size of value {other:?}"),
    }
}

/// Returns the same table, built entry by entry.
fn rebuilt(table: TableRef<'_>) -> Table {
    let mut built = Table::new();
    for (name, value) in table {
        match value {
            Value::Table(inner) => built.push(name, rebuilt(inner).as_ref().into()),
            Value::Array(inner) => built.push(name, rebuilt_array(inner).as_ref().into()),
            value => built.push(name, value),
        }
        .expect("an accepted table can be built");
    }
    built
}

fn rebuilt_array(array: ArrayRef<'_>) -> Array {
    let mut built = Array::new();
    for value in array {
        match value {
            Value::Table(inner) => built.push(&rebuilt(inner)),
            Value::Array(inner) => built.push(&rebuilt_array(inner)),
            value => built.push(value),
        }
        .expect("an accepted table can be built");
    }
    built
}

/// A text is a URI that parses back from its output, or an error; the output of neither
/// contains the password.
pub fn uri(data: &[u8]) {
    const SECRET: &str = "S3KRET-correct-horse";
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(uri) = Uri::parse(text) {
        assert_eq!(Uri::parse(&uri.to_string_with_password()), Ok(uri.clone()));
        let shown = uri.to_string();
        assert_eq!(
            Uri::parse(&shown)
                .expect("a printed URI parses")
                .to_string(),
            shown
        );
        assert!(!uri.endpoints().is_empty() && !Options::from(uri).get_endpoints().is_empty());
    }
    for text in [
        format!("amqp://user:{SECRET}@{text}"),
        format!("amqps://user:{SECRET}{text}"),
        format!("amqps://h?certfile=c&keyfile=k&password={SECRET}{text}"),
    ] {
        let shown = match Uri::parse(&text) {
            Ok(uri) => format!("{uri} {uri:?} {:?}", Options::from(uri.clone())),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(
            !shown.contains(SECRET),
            "the output for {text} contains the password: {shown}"
        );
    }
}
