//! Properties of every method, every set of properties and every table: the encoding decodes to the
//! same value.

use super::bodies;
use super::every_method::{build, build_properties, take_apart, take_properties_apart};
use super::sample::{self, Entries, Node, table};
use super::strategies::{
    depths, entries, fields, for_all, ids, method_bytes, name, nested, node, properties,
};
use super::tools::{header_payload, method_payload};
use proptest::prelude::*;
use puka::protocol::method::Encode;
use puka::protocol::{
    ContentHeader, EncodeError, MAX_NESTING, Method, PROPERTIES, Table, TableRef,
};

#[test]
fn every_method_round_trips() {
    for id in ids() {
        for_all(40, fields(id), |fields| {
            let method = build(id, &fields);
            let bytes = method_payload(&method);
            let decoded = Method::decode(&bytes).unwrap();
            assert_eq!(decoded, method);
            assert_eq!((decoded.id(), take_apart(decoded)), (id, fields));
            bodies::method(&bytes);
        });
    }
}

#[test]
fn every_set_of_properties_round_trips() {
    for_all(600, (properties(), any::<u64>()), |(fields, body_size)| {
        let header = ContentHeader {
            body_size,
            properties: build_properties(&fields),
        };
        let bytes = header_payload(&header);
        let decoded = ContentHeader::decode(&bytes).unwrap();
        assert_eq!(decoded, header);
        assert_eq!(take_properties_apart(&decoded.properties), fields);
        let mut list = Vec::new();
        header.properties.encode_list(&mut list);
        assert_eq!(list, bytes[ContentHeader::PROPERTY_LIST..]);
        bodies::properties(&bytes);
    });
}

#[test]
fn every_property_alone_has_its_own_flag() {
    for property in PROPERTIES {
        for_all(20, properties(), |mut fields| {
            fields.0.retain(|(name, _)| name == property.name);
            let bytes = header_payload(&ContentHeader {
                body_size: 0,
                properties: build_properties(&fields),
            });
            let flag = if fields.0.is_empty() {
                0
            } else {
                property.flag
            };
            assert_eq!(bytes[12..14], flag.to_be_bytes());
        });
    }
}

#[test]
fn every_table_round_trips() {
    for_all(600, entries(), |entries| {
        let table = table(&entries).unwrap();
        let read = TableRef::new(table.as_ref().as_bytes()).unwrap();
        assert_eq!(
            sample::entries(read),
            entries,
            "order and repeated names must be kept"
        );
        assert_eq!(sample::entries(table.as_ref()), entries);
        assert_eq!(read.to_table(), table);
        assert_eq!(read.is_empty(), entries.is_empty());
        bodies::table(read.as_bytes());
    });
}

#[test]
fn deepest_allowed_table_round_trips() {
    for_all(250, nested(depths()), |value| {
        let entries = vec![("k".to_owned(), value)];
        let table = table(&entries).unwrap();
        assert_eq!(
            sample::entries(TableRef::new(table.as_ref().as_bytes()).unwrap()),
            entries
        );
        bodies::table(table.as_ref().as_bytes());
    });
}

#[test]
fn value_above_the_nesting_limit_is_refused() {
    for_all(60, nested(Just(MAX_NESTING + 1)), |value| {
        // The inner containers can be built, the outermost one cannot be inserted.
        let mut table = Table::new();
        table.insert("before", 1).unwrap();
        let refused = value
            .with(|value| table.insert("k", value))
            .and_then(|inserted| inserted);
        assert_eq!(
            refused,
            Err(EncodeError::NestingTooDeep { limit: MAX_NESTING })
        );
        assert_eq!(
            sample::entries(table.as_ref()),
            [("before".to_owned(), Node::I32(1))],
            "the table must not change"
        );
    });
}

#[test]
fn look_up_finds_the_first_entry() {
    for_all(300, (entries(), name()), |(entries, other)| {
        let table = table(&entries).unwrap();
        let first = |name: &str, entries: &Entries| {
            entries
                .iter()
                .find(|(found, _)| found == name)
                .map(|(_, value)| value.clone())
        };
        for name in entries.iter().map(|(name, _)| name).chain([&other]) {
            assert_eq!(table.get(name).map(Node::of), first(name, &entries));
            assert_eq!(
                table.as_ref().get(name).map(Node::of),
                first(name, &entries)
            );
        }
    });
}

#[test]
fn finite_values_are_recognised() {
    fn finite(node: &Node) -> bool {
        match node {
            Node::F32(bits) => f32::from_bits(*bits).is_finite(),
            Node::F64(bits) => f64::from_bits(*bits).is_finite(),
            Node::Array(values) => values.iter().all(finite),
            Node::Table(entries) => entries.iter().all(|(_, value)| finite(value)),
            _ => true,
        }
    }
    let strange = prop_oneof![
        Just(Node::F64(f64::NAN.to_bits())),
        Just(Node::F32(f32::INFINITY.to_bits())),
        Just(Node::F64(f64::NEG_INFINITY.to_bits())),
        node(),
    ];
    let inner = prop::collection::vec(strange, 0..3).prop_map(Node::Array);
    for_all(
        500,
        prop::collection::vec((name(), inner), 0..3),
        |entries| {
            let table = table(&entries).unwrap();
            assert_eq!(
                table.as_ref().is_finite(),
                entries.iter().all(|(_, value)| finite(value))
            );
        },
    );
}

#[test]
fn method_of_wrong_length_is_refused() {
    for_all(
        600,
        (method_bytes(), any::<proptest::sample::Index>()),
        |((id, mut bytes), at)| {
            let at = at.index(bytes.len());
            assert!(Method::decode(&bytes[..at]).is_err(), "{id} cut at {at}");
            bytes.push(0);
            assert!(
                Method::decode(&bytes).is_err(),
                "{id} with one byte too many"
            );
        },
    );
}

#[test]
fn any_bytes_are_read_or_refused() {
    for_all(
        4000,
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..120)),
        |(which, bytes)| {
            bodies::table(&bytes);
            bodies::properties(&bytes);
            bodies::frame(&bytes);
            let ids = ids();
            let id = ids[usize::from(which) % ids.len()];
            bodies::method(
                &[
                    &id.class.to_be_bytes()[..],
                    &id.method.to_be_bytes(),
                    &bytes,
                ]
                .concat(),
            );
        },
    );
}

#[test]
fn mutated_method_is_decoded_or_refused() {
    let change = (any::<proptest::sample::Index>(), any::<u8>());
    for_all(
        2000,
        (method_bytes(), change),
        |((_, mut bytes), (at, byte))| {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bodies::method(&bytes);
        },
    );
}
