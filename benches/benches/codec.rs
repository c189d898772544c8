//! Benchmarks of the codec alone, in nanoseconds and in bytes a second:
//! `cargo bench -p puka-benches`.
//!
//! `by hand` is straight-line code for that one message, without a table of methods, checks or
//! limits: the best that a codec could achieve.
#![expect(clippy::expect_used, reason = "a failed measurement ends the program")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use puka::protocol::frame::{self, FRAME_END};
use puka::protocol::method::basic;
use puka::protocol::{
    ContentHeader, Decoder, FrameKind, Method, Properties, RawHeaders, ShortStr, Table, Value,
};
use puka_benches::World;
use std::hint::black_box;
use std::time::{Duration, Instant};

const FRAME_MAX: u32 = 131_072;

fn headers() -> Table {
    let mut table = Table::new();
    for (name, value) in [
        ("x-tenant", "acme"),
        ("x-trace", "4bf92f3577b34da6"),
        ("x-kind", "order"),
    ] {
        table.insert(name, value).expect("the name is short");
    }
    table.insert("x-attempt", 3).expect("the name is short");
    table.insert("x-urgent", true).expect("the name is short");
    table
}

fn properties(headers: &Table) -> Properties<'_> {
    let mut properties = Properties::default();
    properties.content_type = Some(ShortStr::literal("application/json"));
    properties.delivery_mode = Some(2);
    properties.correlation_id = Some(ShortStr::literal("2f1c9a"));
    properties.message_id = Some(ShortStr::literal("8c6d7e"));
    properties.timestamp = Some(1_700_000_000);
    properties.headers = Some(headers.as_ref().into());
    properties
}

fn publish<'a>() -> basic::Publish<'a> {
    basic::Publish {
        exchange: ShortStr::literal("orders"),
        routing_key: ShortStr::literal("orders.eu.created"),
        mandatory: false,
        immediate: false,
    }
}

fn deliver<'a>() -> basic::Deliver<'a> {
    basic::Deliver {
        consumer_tag: ShortStr::literal("puka.1"),
        delivery_tag: 7,
        redelivered: false,
        exchange: ShortStr::literal("orders"),
        routing_key: ShortStr::literal("orders.eu.created"),
    }
}

fn generate(out: &mut Vec<u8>, properties: &Properties<'_>, body: &[u8]) {
    let header = ContentHeader {
        body_size: body.len() as u64,
        properties: *properties,
    };
    frame::method(out, 1, FRAME_MAX, &publish()).expect("the frame fits");
    frame::content_header(out, 1, FRAME_MAX, &header).expect("the frame fits");
    frame::body(out, 1, FRAME_MAX, body);
}

fn short(out: &mut Vec<u8>, text: &[u8]) {
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

fn frame_by_hand(out: &mut Vec<u8>, kind: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[kind, 0, 1, 0, 0, 0, 0]);
    payload(out);
    let size = (out.len() - start - 7) as u32;
    out[start + 3..start + 7].copy_from_slice(&size.to_be_bytes());
    out.push(FRAME_END);
}

fn generate_by_hand(out: &mut Vec<u8>, headers: &[u8], body: &[u8]) {
    frame_by_hand(out, 1, |out| {
        out.extend_from_slice(&[0, 60, 0, 40, 0, 0]);
        short(out, black_box(b"orders"));
        short(out, black_box(b"orders.eu.created"));
        out.push(0);
    });
    frame_by_hand(out, 2, |out| {
        out.extend_from_slice(&[0, 60, 0, 0]);
        out.extend_from_slice(&(body.len() as u64).to_be_bytes());
        out.extend_from_slice(&(0x8000_u16 | 0x2000 | 0x1000 | 0x400 | 0x80 | 0x40).to_be_bytes());
        short(out, black_box(b"application/json"));
        out.extend_from_slice(&(headers.len() as u32).to_be_bytes());
        out.extend_from_slice(headers);
        out.push(2);
        short(out, black_box(b"2f1c9a"));
        short(out, black_box(b"8c6d7e"));
        out.extend_from_slice(&1_700_000_000_u64.to_be_bytes());
    });
    frame_by_hand(out, 3, |out| out.extend_from_slice(body));
}

/// Checks and reads each header.
fn read_headers(headers: RawHeaders<'_>) -> usize {
    let entries = headers
        .table()
        .expect("the headers are a valid table")
        .iter();
    entries
        .map(|(name, value)| match value {
            Value::String(text) => name.len() + text.len(),
            Value::I32(number) => name.len() + number as usize,
            Value::Bool(truth) => name.len() + usize::from(truth),
            _ => 0,
        })
        .sum()
}

/// Parses every frame, method and property list. Like the client, it looks for the most frequent
/// ones first.
fn parse(decoder: &mut Decoder, bytes: &[u8], headers: fn(RawHeaders<'_>) -> usize) -> usize {
    decoder.extend(bytes);
    let mut sum = 0;
    while let Some(frame) = decoder.next_frame().expect("the frame is valid") {
        sum += match frame.kind() {
            FrameKind::Method => match basic::Deliver::decode(frame.payload()) {
                Some(deliver) => deliver.delivery_tag as usize + deliver.routing_key.len(),
                None => match Method::decode(frame.payload()).expect("the method is valid") {
                    Method::Basic(basic::Method::Ack(ack)) => ack.delivery_tag as usize,
                    _ => 0,
                },
            },
            FrameKind::Header => {
                let header = ContentHeader::decode(frame.payload()).expect("the header is valid");
                let sum = headers(header.properties.headers.unwrap_or_default());
                sum + header.properties.timestamp.unwrap_or(0) as usize
            }
            _ => frame.payload().len(),
        };
    }
    sum
}

/// Takes this many bytes off the front.
fn take<'o>(bytes: &mut &'o [u8], count: usize) -> &'o [u8] {
    let (head, rest) = bytes.split_at(count);
    *bytes = rest;
    head
}

fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | usize::from(*byte))
}

fn take_short<'o>(bytes: &mut &'o [u8]) -> &'o [u8] {
    let length = take(bytes, 1)[0].into();
    take(bytes, length)
}

fn take_frame<'o>(bytes: &mut &'o [u8]) -> &'o [u8] {
    let size = number(&take(bytes, 7)[3..7]);
    let payload = take(bytes, size);
    assert_eq!(take(bytes, 1), [FRAME_END]);
    payload
}

fn read_headers_by_hand(mut headers: &[u8]) -> usize {
    let mut sum = 0;
    while !headers.is_empty() {
        sum += take_short(&mut headers).len();
        sum += match take(&mut headers, 1) {
            b"S" => {
                let length = number(take(&mut headers, 4));
                take(&mut headers, length).len()
            }
            b"I" => number(take(&mut headers, 4)),
            b"t" => number(take(&mut headers, 1)),
            _ => 0,
        };
    }
    sum
}

/// Parses deliveries: each has a method, a header with exactly these properties, and a body in one
/// frame.
fn parse_by_hand(buffer: &mut Vec<u8>, bytes: &[u8], headers: fn(&[u8]) -> usize) -> usize {
    buffer.clear();
    buffer.extend_from_slice(bytes);
    let mut rest = &buffer[..];
    let mut sum = 0;
    while !rest.is_empty() {
        sum += parse_delivery_by_hand(&mut rest, headers);
    }
    sum
}

#[inline(always)]
fn parse_delivery_by_hand(rest: &mut &[u8], headers: fn(&[u8]) -> usize) -> usize {
    let mut method = take_frame(rest);
    take(&mut method, 4);
    black_box(take_short(&mut method));
    let delivery_tag = number(take(&mut method, 8));
    black_box(take(&mut method, 1));
    black_box(take_short(&mut method));
    let routing_key = take_short(&mut method);
    let mut header = take_frame(rest);
    take(&mut header, 14);
    black_box(take_short(&mut header));
    let length = number(take(&mut header, 4));
    let sum = headers(take(&mut header, length));
    black_box(take(&mut header, 1));
    black_box(take_short(&mut header));
    black_box(take_short(&mut header));
    let timestamp = number(take(&mut header, 8));
    sum + delivery_tag + routing_key.len() + timestamp + take_frame(rest).len()
}

/// The two ways to read the headers, by the library and by hand.
type Reading = (
    &'static str,
    fn(RawHeaders<'_>) -> usize,
    fn(&[u8]) -> usize,
);

const READINGS: [Reading; 2] = [
    ("raw", |headers| headers.as_bytes().len(), <[u8]>::len),
    ("read", read_headers, read_headers_by_hand),
];

fn codec(criterion: &mut Criterion) {
    let headers = headers();
    let properties = properties(&headers);
    let body = [b'x'; 1024];
    let mut out = Vec::with_capacity(4096);
    generate(&mut out, &properties, &body);
    let mut by_hand = Vec::new();
    generate_by_hand(&mut by_hand, headers.as_ref().as_bytes(), &body);
    assert!(out == by_hand, "both must write the same bytes");

    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Bytes(out.len() as u64));
    group.bench_function(
        "generate: publish, 5 properties, 5 headers, 1 KiB",
        |bencher| {
            bencher.iter(|| {
                out.clear();
                generate(&mut out, black_box(&properties), black_box(&body));
                out.len()
            });
        },
    );
    group.bench_function("generate, by hand", |bencher| {
        bencher.iter(|| {
            out.clear();
            generate_by_hand(
                &mut out,
                black_box(headers.as_ref().as_bytes()),
                black_box(&body),
            );
            out.len()
        });
    });

    let mut delivered = Vec::new();
    let header = ContentHeader {
        body_size: 1024,
        properties,
    };
    frame::method(&mut delivered, 1, FRAME_MAX, &deliver()).expect("the frame fits");
    frame::content_header(&mut delivered, 1, FRAME_MAX, &header).expect("the frame fits");
    frame::body(&mut delivered, 1, FRAME_MAX, &body);
    let mut decoder = Decoder::new();
    decoder.set_frame_max(FRAME_MAX);
    let mut buffer = Vec::with_capacity(4096);
    // One alone, and as many as one read may return.
    for (what, bytes) in [
        ("", delivered.clone()),
        ("100 in one piece, ", delivered.repeat(100)),
    ] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        for (how, headers, by_hand) in READINGS {
            let sums = (
                parse(&mut decoder, &bytes, headers),
                parse_by_hand(&mut buffer, &bytes, by_hand),
            );
            assert_eq!(sums.0, sums.1, "both must read the same values");
            group.bench_function(
                format!("parse: {what}deliver, 5 properties, 5 headers {how}, 1 KiB"),
                |bencher| {
                    bencher.iter(|| parse(&mut decoder, black_box(&bytes), headers));
                },
            );
            group.bench_function(format!("parse, by hand: {what}headers {how}"), |bencher| {
                bencher.iter(|| parse_by_hand(&mut buffer, black_box(&bytes), by_hand));
            });
        }
    }

    let mut mixed = Vec::new();
    for tag in 0..100 {
        mixed.extend_from_slice(&delivered);
        let ack = basic::Ack {
            delivery_tag: tag,
            multiple: true,
        };
        frame::method(&mut mixed, 2, FRAME_MAX, &ack).expect("the frame fits");
        frame::heartbeat(&mut mixed);
    }
    group.throughput(Throughput::Bytes(mixed.len() as u64));
    group.bench_function("parse: 100 deliveries, acks, heartbeats", |bencher| {
        bencher.iter(|| {
            parse(&mut decoder, black_box(&mixed), |headers| {
                headers.as_bytes().len()
            })
        });
    });

    let table = headers.as_ref().as_bytes();
    group.throughput(Throughput::Bytes(table.len() as u64));
    group.bench_function("a table of 5 entries, checked", |bencher| {
        bencher.iter(|| puka::protocol::TableRef::new(black_box(table)).is_ok());
    });
    group.finish();
}

/// Measures the cost of receiving one ack with `multiple` that confirms a thousand publishes.
fn confirms(criterion: &mut Criterion) {
    const COUNT: usize = 1000;
    let mut group = criterion.benchmark_group("confirms");
    group.throughput(Throughput::Elements(COUNT as u64));
    let mut world = World::default();
    // Completes the handshake and opens the channel.
    world.publish("test").expect("there is capacity");
    while world.fetch() == 0 {
        world.fly();
    }
    group.bench_function("a multiple ack over 1000", |bencher| {
        bencher.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                for _ in 0..COUNT {
                    world.publish("test").expect("there is capacity");
                }
                world.go();
                world.come();
                let start = Instant::now();
                world.handle();
                spent += start.elapsed();
                assert_eq!(world.fetch(), COUNT, "one ack must confirm all");
            }
            spent
        });
    });
    group.finish();
}

criterion_group!(benches, codec, confirms);
criterion_main!(benches);
