//! Every vector of `bytes/`: its decoding, its encoding, or the error.

use super::every_method::{build, build_properties, id_of, take_apart, take_properties_apart};
use super::json::{Vector, entries, fields, sample, vectors};
use super::sample::{Entries, Fields, Sample, table};
use super::tools::{FRAME_MAX, OwnedFrame, decode_stream, read_table};
use puka::protocol::frame;
use puka::protocol::method::connection::StartOk;
use puka::protocol::{
    ContentHeader, DecodeError, FrameKind, Method, MethodId, PROPERTIES, ProtocolHeader, Table,
};
use serde_json::Value as Json;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The number of vectors. A new one has to be reviewed.
const VECTORS: usize = 518;

/// The meaning of a frame.
#[derive(Debug, PartialEq)]
enum Meaning {
    ProtocolHeader(ProtocolHeader),
    Method(u16, MethodId, Fields),
    Header(u16, u64, Fields),
    Body(u16, Vec<u8>),
    Heartbeat,
}

/// The treatment of input that some implementations accept and some refuse: the kind of the error,
/// or `None` if it is accepted.
const DECISIONS: [(&str, Option<&str>); 16] = [
    ("malformed/frame-type/65", Some("unknown_frame_type")),
    ("malformed/heartbeat/channel-1", Some("heartbeat_channel")),
    ("malformed/heartbeat/payload", Some("heartbeat_payload")),
    ("malformed/method/trailing", Some("trailing_bytes")),
    ("malformed/method/trailing-close-ok", Some("trailing_bytes")),
    // No broker checks this in messages, and closing the connection would help no user.
    ("malformed/method/shortstr-not-utf8", None),
    (
        "malformed/header/values-without-flags",
        Some("trailing_bytes"),
    ),
    ("malformed/header/class-50", Some("wrong_content_class")),
    ("malformed/table/name-not-utf8", None),
    // The tag of AMQP 0-9-1 for a 16-bit integer.
    ("malformed/table/tag/55", None),
    ("malformed/table/depth-2000", Some("nesting_too_deep")),
    ("truncated/announced-huge", Some("frame_too_large")),
    ("tables/order/duplicate", None),
    ("content_headers/lenient/flag-bit-1", None),
    (
        "content_headers/lenient/continuation",
        Some("property_flags"),
    ),
    ("content_headers/lenient/weight-1", Some("content_weight")),
];

/// The kinds of errors that depend on the state of a channel: the codec decodes these frames.
const NEED_A_CHANNEL: [&str; 4] = [
    "unexpected_frame",
    "wrong_channel",
    "body_too_long",
    "channel_not_open",
];

/// Returns the vectors' name for an error.
fn kind(error: DecodeError) -> &'static str {
    match error {
        DecodeError::FrameEnd { .. } => "bad_frame_end",
        DecodeError::UnknownFrameType(_) => "unknown_frame_type",
        DecodeError::FrameTooLarge { .. } => "frame_too_large",
        DecodeError::HeartbeatChannel(_) => "heartbeat_channel",
        DecodeError::HeartbeatPayload(_) => "heartbeat_payload",
        DecodeError::TruncatedPayload { .. } => "truncated_payload",
        DecodeError::TrailingBytes { .. } => "trailing_bytes",
        DecodeError::UnknownMethod(_) => "unknown_method",
        DecodeError::BadTable { .. } => "bad_table",
        DecodeError::UnknownFieldTag { .. } => "unknown_field_tag",
        DecodeError::NestingTooDeep { .. } => "nesting_too_deep",
        DecodeError::ContentClass(_) => "wrong_content_class",
        DecodeError::ContentWeight(_) => "content_weight",
        DecodeError::PropertyFlags(_) => "property_flags",
        other => panic!("unknown error: {other}"),
    }
}

fn meaning(frame: &OwnedFrame) -> Result<Meaning, DecodeError> {
    let OwnedFrame {
        kind,
        channel,
        payload,
    } = frame;
    Ok(match kind {
        FrameKind::ProtocolHeader => {
            Meaning::ProtocolHeader(ProtocolHeader::from_bytes(payload).unwrap())
        }
        FrameKind::Method => {
            let method = Method::decode(payload)?;
            Meaning::Method(
                *channel,
                puka::protocol::method::Encode::id(&method),
                take_apart(method),
            )
        }
        FrameKind::Header => {
            let header = ContentHeader::decode(payload)?;
            if let Some(headers) = header.properties.headers {
                headers.table()?;
            }
            Meaning::Header(
                *channel,
                header.body_size,
                take_properties_apart(&header.properties),
            )
        }
        FrameKind::Body => Meaning::Body(*channel, payload.clone()),
        FrameKind::Heartbeat => Meaning::Heartbeat,
    })
}

fn stated_meaning(value: &Json) -> Meaning {
    let number = |key: &str| value[key].as_u64().unwrap();
    let byte = |key: &str| u8::try_from(number(key)).unwrap();
    let channel = || u16::try_from(number("channel")).unwrap();
    match value["frame"].as_str().unwrap() {
        "protocol_header" => Meaning::ProtocolHeader(ProtocolHeader {
            id: byte("id"),
            major: byte("major"),
            minor: byte("minor"),
            revision: byte("revision"),
        }),
        "method" => {
            let id = id_of(value["method"].as_str().unwrap());
            Meaning::Method(channel(), id, fields(id, &value["fields"]))
        }
        "header" => {
            assert_eq!(number("class"), 60);
            Meaning::Header(
                channel(),
                number("body_size"),
                properties(&value["properties"]),
            )
        }
        "body" => Meaning::Body(
            channel(),
            super::tools::hex(value["body"].as_str().unwrap()),
        ),
        "heartbeat" => Meaning::Heartbeat,
        other => panic!("unknown frame {other}"),
    }
}

/// Returns the properties of a vector, in the order in which `take_properties_apart` returns them.
fn properties(json: &Json) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in json.as_object().unwrap() {
        let name = name.replace('-', "_");
        let property = PROPERTIES
            .iter()
            .find(|property| property.name == name)
            .unwrap();
        fields.0.push((name, sample(property.wire_type, value)));
    }
    take_properties_apart(&build_properties(&fields))
}

fn encode(meaning: &Meaning) -> Vec<u8> {
    let mut out = Vec::new();
    match meaning {
        Meaning::ProtocolHeader(header) => out.extend(header.to_bytes()),
        Meaning::Method(channel, id, fields) => {
            frame::method(&mut out, *channel, FRAME_MAX, &build(*id, fields)).unwrap();
        }
        Meaning::Header(channel, body_size, fields) => {
            let header = ContentHeader {
                body_size: *body_size,
                properties: build_properties(fields),
            };
            frame::content_header(&mut out, *channel, FRAME_MAX, &header).unwrap();
        }
        // An empty body takes no frame, so the encoder never writes the empty body frame of a
        // vector.
        Meaning::Body(channel, body) if body.is_empty() => {
            out = super::tools::raw_frame(3, *channel, b"")
        }
        Meaning::Body(channel, body) => frame::body(&mut out, *channel, FRAME_MAX, body),
        Meaning::Heartbeat => frame::heartbeat(&mut out),
    }
    out
}

/// Returns the decoded frames, the error after them or in one of them, and how many bytes are
/// pending.
fn read(bytes: &[u8], frame_max: u32) -> (Vec<Meaning>, Option<DecodeError>, usize) {
    let (frames, error, pending) = decode_stream(bytes, frame_max);
    let mut meanings = Vec::new();
    for frame in &frames {
        match meaning(frame) {
            Ok(meaning) => meanings.push(meaning),
            Err(error) => return (meanings, Some(error), pending),
        }
    }
    (meanings, error, pending)
}

fn is_table(vector: &Vector) -> bool {
    vector.text("feed") == Some("table")
}

fn refused(vector: &Vector) -> Option<&'static str> {
    if is_table(vector) {
        return read_table(&vector.bytes()).err().map(kind);
    }
    let frame_max = vector
        .number("frame_max")
        .map_or(FRAME_MAX, |max| max.try_into().unwrap());
    read(&vector.bytes(), frame_max).1.map(kind)
}

fn stated_entries(vector: &Vector) -> Entries {
    entries(&vector.0["value"]["table"])
}

/// Checks that the bytes decode to the stated value, and that the value encodes to them if the
/// vector says so.
fn check_value(vector: &Vector) {
    let bytes = vector.bytes();
    if is_table(vector) {
        let stated = stated_entries(vector);
        assert_eq!(super::sample::entries(read_table(&bytes).unwrap()), stated);
        if vector.round_trips() {
            let table: Table = table(&stated).unwrap();
            assert_eq!(super::tools::counted(table.as_ref().as_bytes()), bytes);
        }
        return;
    }
    let stated: Vec<Meaning> = match vector.0.get("frames") {
        Some(frames) => frames
            .as_array()
            .unwrap()
            .iter()
            .map(stated_meaning)
            .collect(),
        None => vec![stated_meaning(&vector.0["value"])],
    };
    let (found, error, pending) = read(&bytes, FRAME_MAX);
    assert_eq!((&found, error, pending), (&stated, None, 0));
    if vector.round_trips() || vector.0.get("frames").is_some() {
        assert_eq!(stated.iter().flat_map(encode).collect::<Vec<u8>>(), bytes);
    }
}

fn check_need_more(vector: &Vector) {
    let bytes = vector.bytes();
    let (frames, error, pending) = read(&bytes, FRAME_MAX);
    let whole = usize::try_from(vector.number("complete_frames").unwrap_or(0)).unwrap();
    assert_eq!((frames.len(), error), (whole, None));
    let decoded: usize = frames.iter().map(|frame| encode(frame).len()).sum();
    assert_eq!(
        pending,
        bytes.len() - decoded,
        "the bytes of an incomplete frame must be kept"
    );
}

/// Checks that the bytes of a SASL response are contained in the frames of its method.
fn check_response(vector: &Vector, all: &[Vector]) {
    let carrier = vector.name().replace("/response/", "/frame/");
    let carrier = all.iter().find(|other| other.name() == carrier).unwrap();
    let (frames, ..) = decode_stream(&carrier.bytes(), FRAME_MAX);
    let Meaning::Method(_, id, fields) = meaning(&frames[0]).unwrap() else {
        panic!("the frame is not a method")
    };
    let response = fields.find::<&[u8]>("response").unwrap();
    assert_eq!(response, vector.bytes());
    let mechanism = match vector.name().rsplit('/').next().unwrap() {
        "cr-demo-1" => "RABBIT-CR-DEMO",
        "cr-demo-2" => return assert_eq!(id.to_string(), "connection.secure-ok"),
        name if name.starts_with("amqplain") => "AMQPLAIN",
        name if name.starts_with("plain") => "PLAIN",
        "external" => "EXTERNAL",
        "anonymous" => "ANONYMOUS",
        other => panic!("unknown mechanism {other}"),
    };
    assert_eq!(id, StartOk::ID);
    assert_eq!(fields.0[1].1, Sample::Shortstr(mechanism.into()));
}

fn check(vector: &Vector, all: &[Vector]) {
    let decision = DECISIONS.iter().find(|(name, _)| *name == vector.name());
    match vector.text("expect").unwrap() {
        "ok" if vector.text("feed") == Some("bytes") => check_response(vector, all),
        "ok" => check_value(vector),
        "need_more" => check_need_more(vector),
        "error" if vector.0.get("frames").is_some() => {
            assert!(NEED_A_CHANNEL.contains(&vector.text("error").unwrap()));
            check_value(vector);
        }
        "error" => assert_eq!(refused(vector), vector.text("error")),
        "either" => {
            let (_, decision) = decision.expect("there is a decision on this vector");
            assert_eq!(refused(vector), *decision);
            if decision.is_none() && vector.0.get("value").is_some() {
                check_value(vector);
            }
        }
        other => panic!("unknown expectation {other}"),
    }
    assert_eq!(decision.is_some(), vector.text("expect") == Some("either"));
}

#[test]
fn every_vector_decodes_and_encodes_as_stated() {
    let all = vectors();
    assert_eq!(all.len(), VECTORS);
    for vector in &all {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(vector, &all))) {
            println!(
                "vector {}: {}",
                vector.name(),
                vector.text("meaning").unwrap_or_default()
            );
            resume_unwind(panic);
        }
    }
    let decided = all
        .iter()
        .filter(|v| DECISIONS.iter().any(|(name, _)| *name == v.name()))
        .count();
    assert_eq!(
        decided,
        DECISIONS.len(),
        "every decision must belong to a vector"
    );
}

#[test]
fn wrong_vector_is_detected() {
    let all = vectors();
    let mut vector = Vector(
        all.iter()
            .find(|v| v.name() == "tables/t/true")
            .unwrap()
            .0
            .clone(),
    );
    check(&vector, &all);
    vector.0["value"]["table"][0][2] = Json::Bool(false);
    assert!(catch_unwind(AssertUnwindSafe(|| check(&vector, &all))).is_err());
}

#[test]
fn undecided_vectors_decode_as_decided() {
    // The meaning of the three accepted vectors that state no value.
    let cancel = super::tools::hex("003c 0015 02 fffe");
    let Method::Basic(puka::protocol::method::basic::Method::ConsumeOk(ok)) =
        Method::decode(&cancel).unwrap()
    else {
        panic!("expected consume-ok")
    };
    assert_eq!(ok.consumer_tag.as_bytes(), [0xFF, 0xFE]);
    assert_eq!(
        (
            ok.consumer_tag.as_str(),
            ok.consumer_tag.to_str_lossy().as_ref()
        ),
        (None, "\u{FFFD}\u{FFFD}")
    );
    let name = super::tools::hex("00000003 01ff56");
    let (name, value) = read_table(&name).unwrap().iter().next().unwrap();
    assert_eq!(
        (name.as_bytes(), value),
        (&[0xFF][..], puka::protocol::Value::Void)
    );
    let tag = super::tools::hex("00000005 016b55 0005");
    assert_eq!(
        read_table(&tag).unwrap().get("k"),
        Some(puka::protocol::Value::I16(5))
    );
}
