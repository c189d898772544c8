//! Edge cases of properties and field tables: flags, names, containers with a wrong length, and
//! every tag.

use super::sample::Node;
use super::tools::{counted, entry, header_payload, hex, raw_header, read_everywhere, read_table};
use puka::protocol::{
    Array, ContentHeader, DecodeError, Properties, ShortStr, Table, TableRef, Value,
};

/// Returns the encoding of a table with this value.
fn written<'v>(value: impl Into<Value<'v>>) -> Vec<u8> {
    let mut table = Table::new();
    table.insert("k", value).unwrap();
    table.as_ref().as_bytes().to_vec()
}

#[test]
fn e09_continued_flags_are_refused_and_unused_ones_ignored() {
    assert_eq!(
        ContentHeader::decode(&raw_header(0x8001, &hex("0000 0161"))),
        Err(DecodeError::PropertyFlags(0x8001))
    );
    let header = raw_header(0x8002, &hex("0161"));
    let header = ContentHeader::decode(&header).unwrap();
    assert_eq!(header.properties.content_type, Some(ShortStr::literal("a")));
    // The unused flag is not encoded again.
    assert_eq!(header_payload(&header), raw_header(0x8000, &hex("0161")));
    let cluster = raw_header(0x0004, &hex("0163"));
    let cluster = ContentHeader::decode(&cluster).unwrap();
    assert_eq!(cluster.properties.cluster_id, Some(ShortStr::literal("c")));
}

#[test]
fn e09_empty_property_differs_from_an_absent_one() {
    let mut empty = Properties::default();
    assert_eq!(
        header_payload(&ContentHeader {
            body_size: 0,
            properties: empty
        }),
        raw_header(0, b"")
    );
    empty.content_type = Some(ShortStr::EMPTY);
    empty.headers = Some(TableRef::EMPTY.into());
    let bytes = raw_header(0xA000, &hex("00 00000000"));
    assert_eq!(
        header_payload(&ContentHeader {
            body_size: 0,
            properties: empty
        }),
        bytes
    );
    let read = ContentHeader::decode(&bytes).unwrap().properties;
    assert_eq!(
        (read.content_type, read.content_encoding),
        (Some(ShortStr::EMPTY), None)
    );
    assert!(read.headers.unwrap().table().unwrap().is_empty());
}

#[test]
fn e10_bad_headers_leave_other_properties_readable() {
    // The headers do not parse, but the other properties do: an error of one message, not of the
    // connection.
    let header = raw_header(0xB000, &[&hex("0174 00000003 016b5a")[..], &[2]].concat());
    let properties = ContentHeader::decode(&header).unwrap().properties;
    assert_eq!(
        (properties.content_type, properties.delivery_mode),
        (Some(ShortStr::literal("t")), Some(2))
    );
    let headers = properties.headers.unwrap();
    assert_eq!(
        headers.table(),
        Err(DecodeError::UnknownFieldTag { tag: b'Z', at: 2 })
    );
    assert_eq!(
        headers.as_bytes(),
        hex("016b5a"),
        "the received bytes must be accessible"
    );
    assert_eq!(
        format!("{headers:?}"),
        "<unknown type tag 0x5a at byte 2 of a field table>"
    );
}

#[test]
fn e16_names_of_every_length_are_read() {
    for length in 0..=255_u8 {
        let name = "n".repeat(length.into());
        let bytes = [&[length][..], name.as_bytes(), b"V"].concat();
        let table = TableRef::new(&bytes).unwrap();
        assert_eq!(table.get(&name), Some(Value::Void));
        let mut built = Table::new();
        built.insert(&name, ()).unwrap();
        assert_eq!(built.as_ref().as_bytes(), bytes);
    }
}

#[test]
fn e16_look_up_finds_the_first_of_equal_names() {
    let mut table = Table::new();
    for (name, value) in [("b", 1), ("a", 2), ("b", 3), ("a", 4)] {
        table.insert(name, value).unwrap();
    }
    let read = TableRef::new(table.as_ref().as_bytes()).unwrap();
    let names: Vec<_> = read
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_i64()))
        .collect();
    assert_eq!(
        names,
        [
            (Some("b"), Some(1)),
            (Some("a"), Some(2)),
            (Some("b"), Some(3)),
            (Some("a"), Some(4))
        ]
    );
    assert_eq!(
        (read.get("b"), read.get("a"), read.get("c")),
        (Some(Value::I32(1)), Some(Value::I32(2)), None)
    );
}

#[test]
fn e16_container_of_wrong_length_is_refused() {
    let inner = entry(b'V', b"");
    for (what, table) in [
        (
            "a nested table that ends after its parent",
            entry(b'F', &[&hex("00000004")[..], &inner].concat()),
        ),
        (
            "a nested table that cuts its entry",
            entry(b'F', &hex("00000002 016b56")),
        ),
        (
            "a nested table that cuts its entry's name",
            entry(b'F', &hex("00000001 016b56")),
        ),
        (
            "a nested table whose entry runs on into its parent",
            entry(b'F', &hex("00000003 016b74 01")),
        ),
        (
            "a nested table whose name runs on into its parent",
            entry(b'F', &hex("00000002 056b 016b5601")),
        ),
        (
            "an array whose value runs on into its parent",
            entry(b'A', &hex("00000001 74 01")),
        ),
        (
            "a string that runs on into its parent",
            entry(b'F', &hex("00000008 016b53 00000002 6161")),
        ),
        // Bytes after the end of the container are not read, so the unknown tag there is not the
        // error.
        (
            "a nested name without its tag",
            entry(b'F', &hex("00000002 016b 5a 5a")),
        ),
        (
            "a nested table that overruns its parent",
            [
                entry(b'F', &counted(&entry(b'F', &hex("00000003")))),
                hex("016b5a"),
            ]
            .concat(),
        ),
        (
            "an array that cuts a length",
            entry(b'A', &hex("00000003 530000")),
        ),
        ("a table of a single byte", hex("01")),
        ("a name and no tag", hex("016b")),
        ("a name that overruns", hex("ff6b56")),
    ] {
        for refused in read_everywhere(&table) {
            assert!(
                matches!(refused, Err(DecodeError::BadTable { .. })),
                "{what}: {refused:?}"
            );
        }
    }
    // An entry after a nested table belongs to the outer table.
    let table = [entry(b'F', &counted(&inner)), hex("0161 74 01")].concat();
    let table = TableRef::new(&table).unwrap();
    assert_eq!(table.iter().count(), 2);
    assert_eq!(table.get("a"), Some(Value::Bool(true)));
}

#[test]
fn e16_table_shorter_than_its_length_is_refused() {
    assert_eq!(
        read_table(&hex("0000000a 016b56")),
        Err(DecodeError::TruncatedPayload { at: 0 })
    );
    assert_eq!(
        read_table(&hex("000000")),
        Err(DecodeError::TruncatedPayload { at: 0 })
    );
    assert_eq!(
        read_table(&hex("00000000 00")),
        Err(DecodeError::TrailingBytes { at: 4 })
    );
}

#[test]
fn e17_every_tag_is_written_as_rabbitmq_writes_it() {
    let mut array = Array::new();
    array.push(1_u8).unwrap();
    array.push("a").unwrap();
    let mut table = Table::new();
    table.insert("i", -2_i64).unwrap();
    for (value, bytes) in [
        (Value::Bool(true), "74 01"),
        (Value::Bool(false), "74 00"),
        (Value::I8(-1), "62 ff"),
        (Value::U8(200), "42 c8"),
        (Value::I16(-2), "73 fffe"),
        (Value::U16(0xFFFE), "75 fffe"),
        (Value::I32(-3), "49 fffffffd"),
        (Value::U32(0xFFFF_FFFD), "69 fffffffd"),
        (Value::I64(-4), "6c fffffffffffffffc"),
        (Value::F32(1.5), "66 3fc00000"),
        (Value::F64(-0.0), "64 8000000000000000"),
        (
            Value::Decimal {
                scale: 255,
                mantissa: 0xFFFF_FFFF,
            },
            "44 ff ffffffff",
        ),
        (Value::Timestamp(u64::MAX), "54 ffffffffffffffff"),
        (Value::String(&[0xFF, 0]), "53 00000002 ff00"),
        (Value::Bytes(b"ab"), "78 00000002 6162"),
        (
            Value::Array(array.as_ref()),
            "41 00000008 4201 5300000001 61",
        ),
        (
            Value::Table(table.as_ref()),
            "46 0000000b 0169 6c fffffffffffffffe",
        ),
        (Value::Void, "56"),
    ] {
        let bytes = [hex("016b"), hex(bytes)].concat();
        assert_eq!(written(value), bytes);
        let read = TableRef::new(&bytes).unwrap();
        assert_eq!(read.get("k").map(Node::of), Some(Node::of(value)));
    }
}

#[test]
fn e17_rust_types_have_their_own_tags() {
    let (text, table, array) = ("text".to_owned(), Table::new(), Array::new());
    for (bytes, tag) in [
        (written(true), b't'),
        (written(1_i8), b'b'),
        (written(1_u8), b'B'),
        (written(1_i16), b's'),
        (written(1_u16), b'u'),
        (written(1_i32), b'I'),
        (written(1_u32), b'i'),
        (written(1_i64), b'l'),
        (written(1_f32), b'f'),
        (written(1_f64), b'd'),
        (written("text"), b'S'),
        (written(&text), b'S'),
        (written(&b"bytes"[..]), b'x'),
        (written(&table), b'F'),
        (written(table.as_ref()), b'F'),
        (written(&array), b'A'),
        (written(array.as_ref()), b'A'),
        (written(()), b'V'),
    ] {
        assert_eq!(bytes[2], tag, "{bytes:x?}");
    }
}

#[test]
fn e17_decode_only_tags_are_decoded() {
    for (bytes, value, back) in [
        ("55 fffb", Value::I16(-5), "73 fffb"),
        ("4c ffffffffffffffff", Value::I64(-1), "6c ffffffffffffffff"),
        (
            "4c 8000000000000000",
            Value::I64(i64::MIN),
            "6c 8000000000000000",
        ),
        ("74 02", Value::Bool(true), "74 01"),
        ("74 ff", Value::Bool(true), "74 01"),
    ] {
        let bytes = [hex("016b"), hex(bytes)].concat();
        let read = TableRef::new(&bytes).unwrap().get("k").unwrap();
        assert_eq!(read, value);
        assert_eq!(
            written(read),
            [hex("016b"), hex(back)].concat(),
            "must be encoded with RabbitMQ's own tag"
        );
    }
}

#[test]
fn e17_every_other_tag_is_refused() {
    for tag in (0..=0xFF).filter(|tag| !b"tbBsUuIilLfdDTSAFVx".contains(tag)) {
        let table = entry(tag, &[0; 16]);
        for refused in read_everywhere(&table) {
            assert_eq!(refused, Err(DecodeError::UnknownFieldTag { tag, at: 2 }));
        }
    }
}

#[test]
fn e17_floats_keep_every_bit() {
    for bits in [
        0x7FF8_0000_0000_0001,
        0xFFF0_0000_0000_0000,
        0x7FF0_0000_0000_0001,
        1,
        0x8000_0000_0000_0000,
    ] {
        let bytes = written(f64::from_bits(bits));
        let Some(Value::F64(read)) = TableRef::new(&bytes).unwrap().get("k") else {
            panic!("the entry is not a float")
        };
        assert_eq!(read.to_bits(), bits);
    }
    for bits in [0x7FC0_0001, 0xFF80_0000, 1, 0x8000_0000] {
        let bytes = written(f32::from_bits(bits));
        let Some(Value::F32(read)) = TableRef::new(&bytes).unwrap().get("k") else {
            panic!("the entry is not a float")
        };
        assert_eq!(read.to_bits(), bits);
    }
}

#[test]
fn e17_value_accessors_match_its_type() {
    for (value, int) in [
        (Value::I8(-1), -1),
        (Value::U8(255), 255),
        (Value::I16(-1), -1),
        (Value::U16(0xFFFF), 0xFFFF),
        (Value::I32(-1), -1),
        (Value::U32(u32::MAX), i64::from(u32::MAX)),
        (Value::I64(i64::MIN), i64::MIN),
    ] {
        assert_eq!(
            (value.as_i64(), value.as_str(), value.as_bool()),
            (Some(int), None, None)
        );
    }
    for value in [
        Value::Bool(true),
        Value::F64(1.0),
        Value::Timestamp(1),
        Value::Void,
        Value::Bytes(b"1"),
    ] {
        assert_eq!((value.as_i64(), value.as_str()), (None, None));
    }
    assert_eq!(Value::String("ü".as_bytes()).as_str(), Some("ü"));
    assert_eq!(Value::String(&[0xFF]).as_str(), None);
    assert_eq!(
        (Value::Bool(false).as_bool(), Value::I8(0).as_bool()),
        (Some(false), None)
    );
}

/// Returns a table of these entries, in this order.
fn table_of(entries: &[(&str, Value<'_>)]) -> Table {
    let mut table = Table::new();
    for (name, value) in entries {
        table.insert(name, *value).unwrap();
    }
    table
}

#[test]
fn equal_tables_may_differ_in_order() {
    let (one, two) = (("a", Value::I32(1)), ("b", Value::from("text")));
    assert_eq!(table_of(&[one, two]), table_of(&[two, one]));
    assert_ne!(table_of(&[one]), table_of(&[one, one]));
    assert_ne!(
        table_of(&[one, two]),
        table_of(&[one, ("b", "next".into())])
    );
    // The first of several entries with the same name is the one that counts.
    let other = ("a", Value::I32(2));
    assert_ne!(table_of(&[one, other]), table_of(&[other, one]));
    assert_eq!(table_of(&[one, other, two]), table_of(&[two, one, other]));
}

#[test]
fn order_of_nested_tables_is_ignored_and_of_arrays_not() {
    let (one, two) = (("a", Value::I32(1)), ("b", Value::I32(2)));
    let nested = [table_of(&[one, two]), table_of(&[two, one])];
    let [forth, back] = nested
        .each_ref()
        .map(|table| table_of(&[("t", table.into())]));
    assert_eq!(forth, back);
    let array = |values: [Value<'_>; 2]| {
        let mut array = Array::new();
        values.iter().for_each(|value| array.push(*value).unwrap());
        array
    };
    let [forth, back] = nested
        .each_ref()
        .map(|table| array([table.into(), Value::Void]));
    assert_eq!(forth, back);
    assert_ne!(
        array([Value::I32(1), Value::I32(2)]),
        array([Value::I32(2), Value::I32(1)])
    );
}
