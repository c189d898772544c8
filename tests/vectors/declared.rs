//! Compares the method table of `puka::protocol` with `amqp-0-9-1.json`, field by field, in both
//! directions.

use super::json::spec;
use puka::protocol::method::{CLASSES, SentBy, WireType};
use puka::protocol::{
    ContentHeader, Decoder, FrameKind, PROPERTIES, ProtocolHeader, ReplyCode, frame,
};
use serde_json::{Value as Json, json};

fn dashed(name: &str) -> String {
    name.replace('_', "-")
}

/// Returns the wire type of the JSON. A timestamp is read as its 64 bits.
fn wire_type(json: &Json) -> &str {
    match json.as_str().unwrap() {
        "timestamp" => WireType::Longlong.name(),
        name => name,
    }
}

#[test]
fn classes_and_methods_match_the_spec() {
    let ours: Vec<Json> = CLASSES
        .iter()
        .map(|class| {
            let methods: Vec<Json> = class
                .methods
                .iter()
                .map(|method| {
                    assert_eq!(method.id.class, class.id);
                    let fields: Vec<Json> = method
                        .fields
                        .iter()
                        .map(|f| json!([dashed(f.name), f.wire_type.name(), f.reserved]))
                        .collect();
                    let sent_by = match method.sent_by {
                        SentBy::Client => "client",
                        SentBy::Server => "server",
                        SentBy::Both => "both",
                    };
                    json!([
                        method.id.method,
                        method.name,
                        sent_by,
                        method.has_content,
                        method.replies,
                        fields
                    ])
                })
                .collect();
            json!([class.id, class.name, methods])
        })
        .collect();
    let spec = spec();
    let mut theirs: Vec<Json> = spec["classes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|class| {
            let methods: Vec<Json> = class["methods"]
                .as_array()
                .unwrap()
                .iter()
                .map(|method| {
                    let fields: Vec<Json> = method["fields"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|f| {
                            json!([
                                f["name"],
                                wire_type(&f["type"]),
                                f["reserved"] == json!(true)
                            ])
                        })
                        .collect();
                    json!([
                        method["id"],
                        method["name"],
                        method["sent_by"],
                        method["content"],
                        method["replies"],
                        fields
                    ])
                })
                .collect();
            json!([class["id"], class["name"], methods])
        })
        .collect();
    theirs.sort_by_key(|class| class[0].as_u64());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        for (ours, theirs) in ours[2]
            .as_array()
            .unwrap()
            .iter()
            .zip(theirs[2].as_array().unwrap())
        {
            assert_eq!(ours, theirs);
        }
    }
    assert_eq!(ours, theirs);
}

#[test]
fn method_is_found_by_its_numbers() {
    for class in CLASSES {
        for method in class.methods {
            assert_eq!(method.id.info(), Some((*class, method)));
            assert_eq!(
                method.id.to_string(),
                format!("{}.{}", class.name, method.name)
            );
        }
    }
}

#[test]
fn replies_belong_to_the_same_class() {
    for class in CLASSES {
        for method in class.methods {
            for reply in method.replies {
                assert!(
                    class.methods.iter().any(|other| other.name == *reply),
                    "{} {reply}",
                    method.name
                );
            }
        }
    }
}

#[test]
fn properties_match_the_spec() {
    let ours: Vec<Json> = PROPERTIES
        .iter()
        .map(|p| {
            json!([
                dashed(p.name),
                p.wire_type.name(),
                format!("0x{:04x}", p.flag)
            ])
        })
        .collect();
    let spec = spec();
    let theirs: Vec<Json> = spec["content"]["properties"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| json!([p["name"], wire_type(&p["type"]), p["flag_mask"]]))
        .collect();
    assert_eq!(ours, theirs);
    for (index, property) in PROPERTIES.iter().enumerate() {
        assert_eq!(
            property.flag,
            0x8000 >> index,
            "the flags must be in the order of the properties"
        );
    }
}

#[test]
fn reply_codes_match_the_spec() {
    let ours: Vec<Json> = ReplyCode::ALL
        .iter()
        .map(|code| {
            let class = match (code.is_hard_error(), code.is_soft_error()) {
                (true, false) => json!("hard-error"),
                (false, true) => json!("soft-error"),
                _ => Json::Null,
            };
            let name = code.name().unwrap().replace('_', "-");
            json!({ "code": code.value(), "name": name, "class": class })
        })
        .collect();
    assert_eq!(json!(ours), spec()["constants"]["reply_codes"]);
}

#[test]
fn unknown_reply_code_is_kept() {
    let code = ReplyCode::from(599);
    assert_eq!(
        (code.value(), code.name(), code.to_string().as_str()),
        (599, None, "599")
    );
    assert!(!code.is_hard_error() && !code.is_soft_error());
}

#[test]
fn frame_constants_match_the_spec() {
    let spec = spec();
    let constants = &spec["constants"];
    assert_eq!(constants["frame_end"], json!(frame::FRAME_END));
    assert_eq!(constants["frame_overhead"], json!(frame::OVERHEAD));
    assert_eq!(
        constants["frame_min_size"]["spec"],
        json!(frame::FRAME_MIN_SIZE)
    );
    assert_eq!(
        constants["frame_min_size"]["rabbitmq_4_1"],
        json!(frame::INITIAL_FRAME_MAX)
    );
    assert_eq!(frame::HEADER + 1, usize::try_from(frame::OVERHEAD).unwrap());
    assert_eq!(spec["content"]["class"], json!(60));
    assert_eq!(ContentHeader::PROPERTY_LIST, 2 + 2 + 8);
    let header: String = ProtocolHeader::AMQP_0_9_1
        .to_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(spec["protocol"]["protocol_header_hex"], json!(header));
}

#[test]
fn frame_types_match_the_spec() {
    let kinds = [
        ("method", FrameKind::Method),
        ("header", FrameKind::Header),
        ("body", FrameKind::Body),
        ("heartbeat", FrameKind::Heartbeat),
    ];
    let spec = spec();
    let types = spec["constants"]["frame_types"].as_object().unwrap();
    assert_eq!(
        types.keys().collect::<Vec<_>>(),
        kinds.iter().map(|(name, _)| name).collect::<Vec<_>>()
    );
    for byte in 0..=u8::MAX {
        let named = types
            .iter()
            .find(|(_, number)| **number == json!(byte))
            .map(|(name, _)| name.as_str());
        let mut decoder = Decoder::new();
        decoder.extend(&[byte, 0, 0, 0, 0, 0, 0, 0xCE]);
        let found = decoder
            .next_frame()
            .ok()
            .flatten()
            .map(|frame| frame.kind());
        assert_eq!(
            found,
            kinds
                .iter()
                .find(|(name, _)| Some(*name) == named)
                .map(|(_, kind)| *kind)
        );
    }
}
