//! Attacks on field tables, properties and short strings, wherever a peer can place them.

use super::strategies::{for_all, nested};
use super::tools::{
    FRAME_MAX, counted, decode_stream, entry, hex, raw_frame, raw_header, read_everywhere,
    read_table, with_little_stack,
};
use puka::protocol::{
    ContentHeader, DecodeError, Decoder, EncodeError, FrameKind, MAX_NESTING, Method, Properties,
    ShortStr, Table, TableRef, Value,
};
use std::time::{Duration, Instant};

/// The kinds of containers in a deep nest.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Nest {
    Tables,
    Arrays,
    Mixed,
}

/// Returns a table whose entry is nested in this many containers, the innermost of which is empty.
fn nest(kind: Nest, depth: usize) -> Vec<u8> {
    let is_array = |level: usize| match kind {
        Nest::Tables => false,
        Nest::Arrays => true,
        Nest::Mixed => level % 2 == 1,
    };
    // Written from the outside in. Every length is known in advance: a level contains everything
    // after its length.
    let lengths: Vec<usize> = (0..depth)
        .rev()
        .scan(0, |inside, level| {
            let length = *inside;
            *inside += if level > 0 && is_array(level - 1) {
                5
            } else {
                7
            };
            Some(length)
        })
        .collect();
    let mut bytes = Vec::new();
    for (level, length) in lengths.into_iter().rev().enumerate() {
        if level == 0 || !is_array(level - 1) {
            bytes.extend([1, b'k']);
        }
        bytes.push(if is_array(level) { b'A' } else { b'F' });
        bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
    }
    bytes
}

fn depth_of(table: TableRef<'_>) -> usize {
    fn inside(value: Value<'_>) -> usize {
        match value {
            Value::Table(table) => 1 + depth_of(table),
            Value::Array(array) => 1 + array.iter().map(inside).max().unwrap_or(0),
            _ => 0,
        }
    }
    table
        .iter()
        .map(|(_, value)| inside(value))
        .max()
        .unwrap_or(0)
}

#[test]
fn a10_length_that_overflows_its_offset_is_refused() {
    // In 32 bits, the offset behind the length plus FFFFFFF0 is in front of it.
    for before in [0, 7, 16, 64, 250] {
        let entries = [
            entry(b'S', &counted(&vec![b'x'; before])),
            entry(b'S', &hex("ffff fff0 6162")),
        ]
        .concat();
        let at = entries.len() - entry(b'S', &hex("ffff fff0 6162")).len();
        for refused in read_everywhere(&entries) {
            assert_eq!(refused, Err(DecodeError::BadTable { at }));
        }
    }
}

#[test]
fn a13_two_gigabyte_length_in_small_frame_is_refused() {
    for length in [0x7FFF_FFFF_u32, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFFC] {
        let length = length.to_be_bytes();
        let long = [&hex("000a 0014")[..], &length, b"ab"].concat();
        assert_eq!(
            Method::decode(&long),
            Err(DecodeError::TruncatedPayload { at: 4 })
        );
        let table = [&hex("0032 000a 0000 00 00")[..], &length, b"ab"].concat();
        assert_eq!(
            Method::decode(&table),
            Err(DecodeError::TruncatedPayload { at: 8 })
        );
        for tag in *b"SxAF" {
            let table = entry(tag, &[&length[..], b"ab"].concat());
            for refused in read_everywhere(&table) {
                assert_eq!(refused, Err(DecodeError::BadTable { at: 0 }));
            }
        }
        let headers = raw_header(0x2000, &[&length[..], b"ab"].concat());
        assert!(matches!(
            ContentHeader::decode(&headers),
            Err(DecodeError::TruncatedPayload { .. })
        ));
    }
}

#[test]
fn a14_nesting_limit_is_exact_on_a_small_stack() {
    with_little_stack(|| {
        for kind in [Nest::Tables, Nest::Arrays, Nest::Mixed] {
            for depth in [0, 1, 31, 32, 33, 34, 100, 5_000, 20_000] {
                let bytes = nest(kind, depth);
                let expected = match depth {
                    0..=MAX_NESTING => Ok(()),
                    _ => Err(DecodeError::NestingTooDeep { limit: MAX_NESTING }),
                };
                for found in read_everywhere(&bytes) {
                    assert_eq!(found, expected, "{kind:?} {depth}");
                }
            }
        }
    });
}

#[test]
fn a14_deepest_table_works_on_a_small_stack() {
    with_little_stack(|| {
        for kind in [Nest::Tables, Nest::Arrays, Nest::Mixed] {
            let bytes = nest(kind, MAX_NESTING);
            let table = TableRef::new(&bytes).unwrap();
            assert_eq!(depth_of(table), MAX_NESTING);
            assert!(table.is_finite());
            assert_eq!(
                format!("{table:?}").matches(['{', '[']).count(),
                MAX_NESTING + 1
            );
            assert!(!format!("{table:#?}").is_empty());
            let header = raw_header(0x2000, &counted(&bytes));
            assert!(!format!("{:?}", ContentHeader::decode(&header).unwrap()).is_empty());
            let mut around = Table::new();
            let refused = EncodeError::NestingTooDeep { limit: MAX_NESTING };
            assert_eq!(around.insert("k", table), Err(refused));
            assert!(around.is_empty());
        }
    });
}

#[test]
fn a14_random_nests_are_refused_exactly_beyond_the_limit() {
    for_all(100, nested(1..=MAX_NESTING + 2), |value| {
        let entries = [("k".to_owned(), value)];
        let built = super::sample::table(&entries);
        let deep = |node: &super::sample::Node| {
            fn depth(node: &super::sample::Node) -> usize {
                use super::sample::Node;
                match node {
                    Node::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
                    Node::Table(entries) => {
                        1 + entries.iter().map(|(_, v)| depth(v)).max().unwrap_or(0)
                    }
                    _ => 0,
                }
            }
            depth(node)
        };
        assert_eq!(built.is_ok(), deep(&entries[0].1) <= MAX_NESTING);
    });
}

/// Returns the shortest time of several reads.
fn least_time(bytes: &[u8]) -> Duration {
    (0..7)
        .map(|_| {
            let start = Instant::now();
            TableRef::new(bytes).unwrap();
            start.elapsed()
        })
        .min()
        .unwrap()
}

#[test]
fn a15_reading_time_is_linear() {
    // At the maximum depth with all bytes at the bottom, where a copy for each level would cost
    // most.
    let deep = |entries: usize| {
        let mut bytes = entry(b't', &[1]).repeat(entries);
        for _ in 0..MAX_NESTING {
            bytes = entry(b'F', &counted(&bytes));
        }
        bytes
    };
    // And wide: many containers in a row, each with one inside.
    let wide =
        |entries: usize| entry(b'F', &counted(&entry(b'A', &counted(b"VV")))).repeat(entries);
    for (small, large) in [(deep(3_000), deep(30_000)), (wide(1_000), wide(10_000))] {
        assert!(large.len() >= 120_000 && large.len() >= 9 * small.len());
        // Quadratic work would take 100 times as long, every time. On a busy machine a single
        // measurement may be wrong.
        let linear = (0..40).any(|_| least_time(&large) < least_time(&small) * 40);
        assert!(
            linear,
            "{} bytes take far longer than {}",
            large.len(),
            small.len()
        );
    }
}

#[test]
fn a15_content_beyond_the_nesting_limit_is_not_read() {
    // The content of the innermost container is invalid, too, but is never reached.
    let mut bytes = entry(b'Z', b"");
    for _ in 0..5_000 {
        bytes = entry(b'F', &counted(&bytes));
    }
    assert_eq!(
        TableRef::new(&bytes),
        Err(DecodeError::NestingTooDeep { limit: MAX_NESTING })
    );
}

#[test]
fn a16_byte_array_of_negative_length_is_refused() {
    for length in ["ffffffff", "80000000"] {
        for rest in ["", "61", "6161616161616161"] {
            let table = entry(b'x', &hex(&format!("{length} {rest}")));
            for refused in read_everywhere(&table) {
                assert_eq!(refused, Err(DecodeError::BadTable { at: 0 }));
            }
        }
    }
}

#[test]
fn a17_bad_table_length_exposes_no_frames() {
    // The bytes after the string look like a frame: connection.close.
    let inside = raw_frame(1, 0, &hex("000a 0032 0140 00 0000 0000"));
    for tag in *b"SxAF" {
        let table = counted(&[&entry(tag, &hex("80000000"))[..], &inside].concat());
        let declare = [&hex("0032 000a 0000 00 00")[..], &table].concat();
        let stream = [raw_frame(1, 1, &declare), raw_frame(3, 1, b"x")].concat();
        let (frames, error, pending) = decode_stream(&stream, FRAME_MAX);
        assert_eq!((error, pending), (None, 0));
        assert_eq!(
            frames.iter().map(|f| f.kind).collect::<Vec<_>>(),
            [FrameKind::Method, FrameKind::Body]
        );
        assert_eq!(
            Method::decode(&frames[0].payload),
            Err(DecodeError::BadTable { at: 0 })
        );
        let header = raw_header(0x2000, &table);
        let properties = ContentHeader::decode(&header).unwrap().properties;
        assert_eq!(
            properties.headers.unwrap().table(),
            Err(DecodeError::BadTable { at: 0 })
        );
    }
}

#[test]
fn a18_short_string_above_255_bytes_is_refused() {
    for (length, text) in [
        (256, "x".repeat(256)),
        (300, "x".repeat(300)),
        (511, "x".repeat(511)),
        (512, "x".repeat(512)),
        // The limit counts bytes, not characters: 128 of two bytes, 86 of three, 64 of four.
        (256, "ü".repeat(128)),
        (258, "漢".repeat(86)),
        (256, "🐇".repeat(64)),
    ] {
        let refused = EncodeError::ShortStrTooLong { bytes: length };
        assert_eq!(ShortStr::new(&text), Err(refused.clone()));
        assert_eq!(ShortStr::from_bytes(text.as_bytes()), Err(refused.clone()));
        let mut table = Table::new();
        table.insert("before", true).unwrap();
        assert_eq!(table.insert(&text, true), Err(refused));
        assert_eq!(table.iter().count(), 1, "the table must not change");
        // Texts for people can be truncated instead, and never within a character.
        let cut = ShortStr::cut(&text);
        assert!(cut.len() > 251 && cut.as_str().is_some_and(|cut| text.starts_with(cut)));
    }
    for text in ["x".repeat(255), "ü".repeat(127), String::new()] {
        assert_eq!(ShortStr::new(&text).unwrap().as_str(), Some(&text[..]));
        assert_eq!(ShortStr::cut(&text).as_str(), Some(&text[..]));
    }
}

#[test]
fn a23_array_length_beyond_the_table_is_refused() {
    let table = entry(b'A', &hex("0000000a 62 01"));
    for refused in read_everywhere(&table) {
        assert_eq!(refused, Err(DecodeError::BadTable { at: 0 }));
    }
}

#[test]
fn a23_array_of_voids_has_one_value_a_byte() {
    let bytes = entry(b'A', &counted(&[b'V'; 65_536]));
    let table = TableRef::new(&bytes).unwrap();
    let Some(Value::Array(array)) = table.get("k") else {
        panic!("the entry is not an array")
    };
    assert_eq!(array.iter().count(), 65_536);
    assert!(array.iter().all(|value| value == Value::Void));
}

#[test]
fn a24_property_flags_without_end_are_refused() {
    for flags in [
        &hex("0001")[..],
        &hex("0001 0000"),
        &hex("8001 0000 0161"),
        &hex("ffff").repeat(1000),
    ] {
        let refused = Properties::decode(flags).unwrap_err();
        assert!(
            matches!(refused, DecodeError::PropertyFlags(word) if word & 1 == 1),
            "{refused}"
        );
        let header = [&raw_header(0, b"")[..12], flags].concat();
        assert_eq!(ContentHeader::decode(&header), Err(refused));
    }
}

#[test]
fn a25_unknown_tag_is_refused_and_not_skipped() {
    let table = hex("00 5a 71");
    for refused in read_everywhere(&table) {
        assert_eq!(
            refused,
            Err(DecodeError::UnknownFieldTag { tag: b'Z', at: 1 })
        );
    }
}

#[test]
fn a29_table_of_a_stored_payload_is_unchanged() {
    let table = entry(b'S', &counted(b"value"));
    let header = raw_header(0x2000, &counted(&table));
    let mut decoder = Decoder::new();
    for byte in raw_frame(2, 1, &header) {
        assert!(decoder.next_frame().unwrap().is_none());
        decoder.extend(&[byte]);
    }
    let payload = decoder.next_frame().unwrap().unwrap().into_payload();
    let header = ContentHeader::decode(&payload).unwrap();
    let headers = header.properties.headers.unwrap().table().unwrap();
    assert_eq!(headers.get("k").and_then(Value::as_str), Some("value"));
}

#[test]
fn a33_header_name_above_128_bytes_is_read() {
    for length in [127, 128, 129, 200, 255] {
        let name = "n".repeat(length);
        let mut bytes = vec![u8::try_from(length).unwrap()];
        bytes.extend(name.as_bytes());
        bytes.extend([b't', 1]);
        assert!(read_everywhere(&bytes).iter().all(Result::is_ok));
        let table = counted(&bytes);
        assert_eq!(
            read_table(&table).unwrap().get(&name),
            Some(Value::Bool(true))
        );
    }
}
