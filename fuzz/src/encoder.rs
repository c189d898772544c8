//! Encoded values decode to the same values, by the library and by the independent parser.

use super::input::Input;
use super::little::{Field, entries, next_frame};
use puka::protocol::method::{Encode, basic, connection, exchange, queue};
use puka::protocol::{Array, ContentHeader, Method, Properties, ShortStr, Table, Value, frame};

const LEVELS: usize = 40;

fn text<'a>(input: &mut Input<'a>) -> ShortStr<'a> {
    // Sometimes one byte longer than a short string can be.
    let length = usize::from(input.byte()) + if input.flag() { 1 } else { 0 };
    let bytes = input.bytes(length);
    let text = ShortStr::from_bytes(bytes);
    assert_eq!(text.is_ok(), bytes.len() <= 255);
    text.unwrap_or_default()
}

fn value<'a>(input: &mut Input<'a>) -> Value<'a> {
    match input.below(14) {
        0 => Value::Bool(input.flag()),
        1 => Value::I8(input.byte() as i8),
        2 => Value::U8(input.byte()),
        3 => Value::I16(input.short() as i16),
        4 => Value::U16(input.short()),
        5 => Value::I32(input.longlong() as i32),
        6 => Value::U32(input.longlong() as u32),
        7 => Value::I64(input.longlong() as i64),
        8 => Value::F32(f32::from_bits(input.longlong() as u32)),
        9 => Value::F64(f64::from_bits(input.longlong())),
        10 => Value::Decimal {
            scale: input.byte(),
            mantissa: input.longlong() as u32,
        },
        11 => Value::Timestamp(input.longlong()),
        12 => Value::String(bytes(input)),
        _ => Value::Bytes(bytes(input)),
    }
}

fn bytes<'a>(input: &mut Input<'a>) -> &'a [u8] {
    let length = input.below(64);
    input.bytes(length)
}

/// Returns a table and the number of values in it.
fn table(input: &mut Input<'_>, level: usize) -> (Table, usize) {
    let (mut table, mut count) = (Table::new(), 0);
    while !input.is_empty() && input.below(4) > 0 {
        let name = text(input);
        let (pushed, values) = match input.below(4) {
            0 if level < LEVELS => {
                let (inside, values) = self::table(input, level + 1);
                (table.push(name, inside.as_ref().into()), values + 1)
            }
            1 if level < LEVELS => {
                let (inside, values) = array(input, level + 1);
                (table.push(name, inside.as_ref().into()), values + 1)
            }
            2 => (table.push(name, Value::Void), 1),
            _ => (table.push(name, value(input)), 1),
        };
        count += if pushed.is_ok() { values } else { 0 };
    }
    (table, count)
}

fn array(input: &mut Input<'_>, level: usize) -> (Array, usize) {
    let (mut array, mut count) = (Array::new(), 0);
    while !input.is_empty() && input.below(4) > 0 {
        let (pushed, values) = match input.below(3) {
            0 if level < LEVELS => {
                let (inside, values) = self::array(input, level + 1);
                (array.push(&inside), values + 1)
            }
            1 if level < LEVELS => {
                let (inside, values) = table(input, level + 1);
                (array.push(&inside), values + 1)
            }
            _ => (array.push(value(input)), 1),
        };
        count += if pushed.is_ok() { values } else { 0 };
    }
    (array, count)
}

fn bytes_of(text: ShortStr<'_>) -> Field {
    Field::Bytes(text.as_bytes().to_vec())
}

/// Encodes a method, and decodes it with both parsers.
fn method<'m>(
    it: impl Encode + Into<Method<'m>>,
    channel: u16,
    frame_max: u32,
    expected: &[Field],
) {
    let mut out = b"before".to_vec();
    let written = frame::method(&mut out, channel, frame_max, &it);
    let bytes = out
        .strip_prefix(b"before")
        .expect("the encoder only appends");
    if written.is_err() {
        assert!(bytes.is_empty(), "a failed encoding must not leave bytes");
        return;
    }
    assert!(bytes.len() <= frame_max as usize);
    let (little, length) = next_frame(bytes).expect("the frame is complete");
    assert_eq!(
        (little.kind, little.channel, length),
        (1, channel, bytes.len())
    );
    assert_eq!(little.method().1, expected);
    assert_eq!(
        Method::decode(&little.payload).expect("an encoded method decodes"),
        it.into()
    );
}

/// Any values of the methods with the most fields, of a content header and a body.
pub fn encoder(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.below(8);
    let channel = input.short();
    let frame_max = [u32::MAX, 4096, 300, 64][input.below(4)];
    let bits: [bool; 5] = std::array::from_fn(|_| input.flag());
    let [a, b, c, d, e] = bits;
    let [first, second, third] = std::array::from_fn(|_| text(&mut input));
    let (built, values) = table(&mut input, 1);
    let arguments = built.as_ref();
    assert_eq!(entries(arguments.as_bytes()), Some(values), "{arguments:?}");
    let table = Field::Bytes(arguments.as_bytes().to_vec());
    let [one, two, three] = [first, second, third].map(bytes_of);
    let nothing = Field::Number(0);
    let bit = Field::Bit;
    match choice {
        0 => {
            let it = queue::Declare {
                queue: first,
                passive: a,
                durable: b,
                exclusive: c,
                auto_delete: d,
                nowait: e,
                arguments,
            };
            let expected = [nothing, one, bit(a), bit(b), bit(c), bit(d), bit(e), table];
            method(it, channel, frame_max, &expected);
        }
        1 => {
            let it = exchange::Declare {
                exchange: first,
                r#type: second,
                passive: a,
                durable: b,
                auto_delete: c,
                internal: d,
                nowait: e,
                arguments,
            };
            let expected = [
                nothing,
                one,
                two,
                bit(a),
                bit(b),
                bit(c),
                bit(d),
                bit(e),
                table,
            ];
            method(it, channel, frame_max, &expected);
        }
        2 => {
            let it = queue::Bind {
                queue: first,
                exchange: second,
                routing_key: third,
                nowait: a,
                arguments,
            };
            method(
                it,
                channel,
                frame_max,
                &[nothing, one, two, three, bit(a), table],
            );
        }
        3 => {
            let it = basic::Consume {
                queue: first,
                consumer_tag: second,
                no_local: a,
                no_ack: b,
                exclusive: c,
                nowait: d,
                arguments,
            };
            let expected = [nothing, one, two, bit(a), bit(b), bit(c), bit(d), table];
            method(it, channel, frame_max, &expected);
        }
        4 => {
            let it = basic::Publish {
                exchange: first,
                routing_key: second,
                mandatory: a,
                immediate: b,
            };
            method(it, channel, frame_max, &[nothing, one, two, bit(a), bit(b)]);
        }
        5 => {
            let long = input.rest();
            let it = connection::StartOk {
                client_properties: arguments,
                mechanism: first,
                response: long,
                locale: second,
            };
            method(
                it,
                channel,
                frame_max,
                &[table, one, Field::Bytes(long.to_vec()), two],
            );
        }
        6 => {
            let mut properties = Properties::default();
            properties.content_type = a.then_some(first);
            properties.headers = b.then(|| arguments.into());
            properties.delivery_mode = c.then(|| input.byte());
            properties.correlation_id = d.then_some(second);
            properties.timestamp = e.then(|| input.longlong());
            properties.app_id = a.then_some(third);
            header(&mut input, channel, frame_max, properties);
        }
        _ => {
            let frame_max = frame_max.min(4096);
            let bytes = input.rest();
            let mut out = Vec::new();
            frame::body(&mut out, channel, frame_max, bytes);
            let (mut body, mut rest) = (Vec::new(), &out[..]);
            while !rest.is_empty() {
                let (little, length) = next_frame(rest).expect("the frame is complete");
                assert_eq!((little.kind, little.channel), (3, channel));
                assert!(length <= frame_max as usize && length > 8);
                body.extend(little.payload);
                rest = &rest[length..];
            }
            assert_eq!(body, bytes);
        }
    }
}

fn header(input: &mut Input<'_>, channel: u16, frame_max: u32, properties: Properties<'_>) {
    let header = ContentHeader {
        body_size: input.longlong(),
        properties,
    };
    let mut out = Vec::new();
    if frame::content_header(&mut out, channel, frame_max, &header).is_err() {
        assert!(out.is_empty());
        return;
    }
    let (little, length) = next_frame(&out).expect("the frame is complete");
    assert_eq!(
        (little.kind, little.channel, length),
        (2, channel, out.len())
    );
    let (size, fields) = little.header();
    assert_eq!(size, header.body_size);
    let text = |text: Option<ShortStr<'_>>| text.map(bytes_of);
    let headers = properties
        .headers
        .map(|headers| Field::Bytes(headers.as_bytes().to_vec()));
    let number = |number: Option<u8>| number.map(|number| Field::Number(number.into()));
    let expected = [
        text(properties.content_type),
        None,
        headers,
        number(properties.delivery_mode),
        None,
        text(properties.correlation_id),
        None,
        None,
        None,
        properties.timestamp.map(Field::Number),
        None,
        None,
        text(properties.app_id),
        None,
    ];
    assert_eq!(fields, expected);
    assert_eq!(ContentHeader::decode(&little.payload), Ok(header));
}
