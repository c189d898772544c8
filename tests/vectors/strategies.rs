//! Generators of random methods, properties, tables and streams, and the replay of a failed test.

use super::every_method::{build, build_properties, take_properties_apart};
use super::sample::{Entries, Fields, Node, Sample, table};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use puka::protocol::method::{CLASSES, Encode, WireType};
use puka::protocol::{ContentHeader, MAX_NESTING, MethodId, PROPERTIES, frame};
use std::fmt::Debug;
use std::hash::{BuildHasher, RandomState};

/// Runs a test on this many random values. `PUKA_SEED` generates the same values again, and a
/// failure prints its seed.
pub(crate) fn for_all<T: Debug>(cases: u32, strategy: impl Strategy<Value = T>, test: impl Fn(T)) {
    let seed = match std::env::var("PUKA_SEED") {
        Ok(seed) => seed.parse().expect("PUKA_SEED is a number"),
        Err(_) => RandomState::new().hash_one(std::process::id()),
    };
    let bytes: Vec<u8> = (0..4_u64).flat_map(|n| (seed ^ n).to_be_bytes()).collect();
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let result = TestRunner::new_with_rng(config, rng).run(&strategy, |value| {
        test(value);
        Ok(())
    });
    if let Err(failure) = result {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        panic!("{failure}\nreplay: PUKA_SEED={seed} cargo test -p puka --test vectors {name}");
    }
}

/// Generates a value that is not a container.
fn leaf() -> impl Strategy<Value = Node> {
    prop_oneof![
        any::<bool>().prop_map(Node::Bool),
        any::<i8>().prop_map(Node::I8),
        any::<u8>().prop_map(Node::U8),
        any::<i16>().prop_map(Node::I16),
        any::<u16>().prop_map(Node::U16),
        any::<i32>().prop_map(Node::I32),
        any::<u32>().prop_map(Node::U32),
        any::<i64>().prop_map(Node::I64),
        any::<u32>().prop_map(Node::F32),
        any::<u64>().prop_map(Node::F64),
        any::<(u8, u32)>().prop_map(|(scale, mantissa)| Node::Decimal(scale, mantissa)),
        any::<u64>().prop_map(Node::Timestamp),
        bytes(40).prop_map(Node::String),
        bytes(40).prop_map(Node::Bytes),
        Just(Node::Void),
    ]
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..=most)
}

/// Generates a name of at most 255 bytes; short ones repeat.
pub(crate) fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{0,2}", "[a-z]{200,255}", "\\PC{0,60}"]
}

/// Generates a value of any kind, nested or not.
pub(crate) fn node() -> impl Strategy<Value = Node> {
    leaf().prop_recursive(8, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Node::Array),
            prop::collection::vec((name(), inner), 0..6).prop_map(Node::Table),
        ]
    })
}

/// Generates the entries of a table.
pub(crate) fn entries() -> impl Strategy<Value = Entries> {
    prop::collection::vec((name(), node()), 0..6)
}

/// Generates a value in exactly this many containers, tables and arrays mixed, each with other
/// entries.
pub(crate) fn nested(depth: impl Strategy<Value = usize>) -> impl Strategy<Value = Node> {
    let layers =
        depth.prop_flat_map(|depth| prop::collection::vec((any::<bool>(), name(), leaf()), depth));
    (leaf(), layers).prop_map(|(innermost, layers)| {
        layers.into_iter().fold(
            innermost,
            |inner, (is_array, name, beside)| match is_array {
                true => Node::Array(vec![beside, inner]),
                false => Node::Table(vec![(name.clone(), beside), (name, inner)]),
            },
        )
    })
}

/// Generates a value of this type.
fn sample(wire_type: WireType) -> BoxedStrategy<Sample> {
    match wire_type {
        WireType::Bit => any::<bool>().prop_map(Sample::Bit).boxed(),
        WireType::Octet => any::<u8>().prop_map(Sample::Octet).boxed(),
        WireType::Short => any::<u16>().prop_map(Sample::Short).boxed(),
        WireType::Long => any::<u32>().prop_map(Sample::Long).boxed(),
        WireType::Longlong => any::<u64>().prop_map(Sample::Longlong).boxed(),
        WireType::Shortstr => prop_oneof![bytes(20), bytes(255)]
            .prop_map(Sample::Shortstr)
            .boxed(),
        WireType::Longstr => bytes(400).prop_map(Sample::Longstr).boxed(),
        WireType::Table => entries()
            .prop_map(|entries| Sample::Table(table(&entries).unwrap()))
            .boxed(),
    }
}

/// Generates the fields of a method.
pub(crate) fn fields(id: MethodId) -> BoxedStrategy<Fields> {
    let (_, method) = id.info().unwrap();
    let fields: Vec<_> = method
        .fields
        .iter()
        .filter(|field| !field.reserved)
        .map(|field| (Just(field.name.to_owned()), sample(field.wire_type)))
        .collect();
    fields.prop_map(Fields).boxed()
}

/// Returns every method of the table.
pub(crate) fn ids() -> Vec<MethodId> {
    CLASSES
        .iter()
        .flat_map(|class| class.methods)
        .map(|method| method.id)
        .collect()
}

/// Generates any set of properties, in the order in which they are taken apart.
pub(crate) fn properties() -> impl Strategy<Value = Fields> {
    let fields: Vec<_> = PROPERTIES
        .iter()
        .map(|property| {
            prop::option::of((Just(property.name.to_owned()), sample(property.wire_type)))
        })
        .collect();
    fields.prop_map(|fields| {
        take_properties_apart(&build_properties(&Fields(
            fields.into_iter().flatten().collect(),
        )))
    })
}

/// Generates a valid frame of any type.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let method = select(ids()).prop_flat_map(|id| (Just(id), fields(id), any::<u16>()));
    let body = prop_oneof![
        bytes(30),
        bytes(3000),
        prop::collection::vec(any::<u8>(), 60_000..100_000)
    ];
    prop_oneof![
        3 => method.prop_map(|(id, fields, channel)| {
            written(|out| frame::method(out, channel, u32::MAX, &build(id, &fields)).unwrap())
        }),
        2 => (properties(), any::<(u16, u64)>()).prop_map(|(fields, (channel, body_size))| {
            let header = ContentHeader { body_size, properties: build_properties(&fields) };
            written(|out| frame::content_header(out, channel, u32::MAX, &header).unwrap())
        }),
        2 => (body, any::<u16>())
            .prop_map(|(body, channel)| super::tools::raw_frame(3, channel, &body)),
        1 => Just(written(frame::heartbeat)),
    ]
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// Generates a stream of valid frames.
pub(crate) fn valid_stream() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(frame(), 0..12).prop_map(|frames| frames.concat())
}

/// Generates a stream of valid frames in which a byte is changed, or bytes are missing or added.
pub(crate) fn mutated_stream() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), any::<u8>(), 0..3_u8);
    (valid_stream(), prop::collection::vec(change, 1..4)).prop_map(|(mut stream, changes)| {
        for (place, byte, what) in changes {
            if stream.is_empty() {
                break;
            }
            let place = place.index(stream.len());
            match what {
                0 => stream[place] = byte,
                1 => drop(stream.remove(place)),
                _ => stream.insert(place, byte),
            }
        }
        stream
    })
}

/// Generates bytes that often begin like a frame.
pub(crate) fn random_stream() -> impl Strategy<Value = Vec<u8>> {
    let begun = (0..10_u8, any::<u16>(), any::<u16>(), bytes(60)).prop_map(
        |(kind, channel, size, rest)| {
            let mut stream = vec![kind];
            stream.extend(channel.to_be_bytes());
            stream.extend(u32::from(size).to_be_bytes());
            stream.extend(rest);
            stream
        },
    );
    prop_oneof![bytes(200), begun]
}

/// Generates the payload of any method, with its number.
pub(crate) fn method_bytes() -> impl Strategy<Value = (MethodId, Vec<u8>)> {
    select(ids())
        .prop_flat_map(|id| (Just(id), fields(id)))
        .prop_map(|(id, fields)| {
            let method = build(id, &fields);
            assert_eq!(method.id(), id);
            (id, super::tools::method_payload(&method))
        })
}

/// Generates the depths up to the limit.
pub(crate) fn depths() -> impl Strategy<Value = usize> {
    0..=MAX_NESTING
}
