//! The vectors and the method table from their JSON files, and the meaning of a vector's `value`.

use super::sample::{Fields, Node, Sample, array, table};
use super::tools::hex;
use puka::protocol::MethodId;
use puka::protocol::method::WireType;
use serde_json::Value as Json;

const FILES: [(&str, &str); 8] = [
    (
        "content_headers",
        include_str!("bytes/content_headers.json"),
    ),
    ("frames", include_str!("bytes/frames.json")),
    ("malformed", include_str!("bytes/malformed.json")),
    ("methods", include_str!("bytes/methods.json")),
    ("sasl", include_str!("bytes/sasl.json")),
    ("sequences", include_str!("bytes/sequences.json")),
    ("tables", include_str!("bytes/tables.json")),
    ("truncated", include_str!("bytes/truncated.json")),
];

/// A vector; its keys are explained at the top of `bytes/generate.py`.
pub(crate) struct Vector(pub(crate) Json);

impl Vector {
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| value.as_str().unwrap())
    }
    pub(crate) fn name(&self) -> &str {
        self.text("name").unwrap()
    }
    pub(crate) fn bytes(&self) -> Vec<u8> {
        hex(self.text("hex").unwrap())
    }
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key).map(|value| value.as_u64().unwrap())
    }
    pub(crate) fn round_trips(&self) -> bool {
        self.0.get("roundtrip") == Some(&Json::Bool(true))
    }
}

/// Returns every vector of every file, after checking each file's count.
pub(crate) fn vectors() -> Vec<Vector> {
    let mut all = Vec::new();
    for (group, text) in FILES {
        let Json::Object(mut file) = serde_json::from_str(text).unwrap() else {
            panic!("{group} is not an object")
        };
        let Some(Json::Array(vectors)) = file.remove("vectors") else {
            panic!("{group} has no vectors")
        };
        assert_eq!(
            file["count"].as_u64(),
            Some(vectors.len() as u64),
            "{group}"
        );
        all.extend(vectors.into_iter().map(Vector));
    }
    all
}

/// Returns the table of methods, properties and constants.
pub(crate) fn spec() -> Json {
    serde_json::from_str(include_str!("amqp-0-9-1.json")).unwrap()
}

/// Returns the bytes of a UTF-8 string, or of `{"hex": ..}`.
fn bytes(json: &Json) -> Vec<u8> {
    match json {
        Json::String(text) => text.clone().into_bytes(),
        Json::Object(_) => hex(json["hex"].as_str().unwrap()),
        other => panic!("expected bytes, found {other}"),
    }
}

fn float(json: &Json) -> f64 {
    match json.as_str() {
        Some("NaN") => f64::NAN,
        Some("inf") => f64::INFINITY,
        Some("-inf") => f64::NEG_INFINITY,
        // Printed and parsed again, because serde_json's own parser may be off by one unit in the
        // last place.
        _ => json.to_string().parse().unwrap(),
    }
}

fn node(tag: &str, json: &Json) -> Node {
    let int = || json.as_i64().unwrap();
    match tag {
        "t" => Node::Bool(json.as_bool().unwrap()),
        "b" => Node::I8(int().try_into().unwrap()),
        "B" => Node::U8(int().try_into().unwrap()),
        "s" | "U" => Node::I16(int().try_into().unwrap()),
        "u" => Node::U16(int().try_into().unwrap()),
        "I" => Node::I32(int().try_into().unwrap()),
        "i" => Node::U32(int().try_into().unwrap()),
        "l" | "L" => Node::I64(int()),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the vector's value is one of f32"
        )]
        "f" => Node::F32((float(json) as f32).to_bits()),
        "d" => Node::F64(float(json).to_bits()),
        "D" => Node::Decimal(
            json["scale"].as_u64().unwrap().try_into().unwrap(),
            json["mantissa"].as_u64().unwrap().try_into().unwrap(),
        ),
        "T" => Node::Timestamp(json.as_u64().unwrap()),
        "S" => Node::String(bytes(json)),
        "x" => Node::Bytes(bytes(json)),
        "A" => {
            let values = json.as_array().unwrap();
            let values: Vec<Node> = values
                .iter()
                .map(|v| node(v[0].as_str().unwrap(), &v[1]))
                .collect();
            assert!(array(&values).is_ok());
            Node::Array(values)
        }
        "F" => Node::Table(entries(json)),
        "V" => Node::Void,
        other => panic!("unknown tag {other}"),
    }
}

/// Returns the entries of a table, each as `[name, tag, value]`.
pub(crate) fn entries(json: &Json) -> Vec<(String, Node)> {
    let entries = json.as_array().unwrap().iter();
    entries
        .map(|e| {
            (
                e[0].as_str().unwrap().to_owned(),
                node(e[1].as_str().unwrap(), &e[2]),
            )
        })
        .collect()
}

/// Returns a field or property of this type.
pub(crate) fn sample(wire_type: WireType, json: &Json) -> Sample {
    let int = || json.as_u64().unwrap();
    match wire_type {
        WireType::Bit => Sample::Bit(json.as_bool().unwrap()),
        WireType::Octet => Sample::Octet(int().try_into().unwrap()),
        WireType::Short => Sample::Short(int().try_into().unwrap()),
        WireType::Long => Sample::Long(int().try_into().unwrap()),
        WireType::Longlong => Sample::Longlong(int()),
        WireType::Shortstr => Sample::Shortstr(bytes(json)),
        WireType::Longstr => Sample::Longstr(bytes(json)),
        WireType::Table => Sample::Table(table(&entries(json)).unwrap()),
    }
}

/// Returns the fields of a method without the reserved ones. The vector must name exactly the
/// fields of the method.
pub(crate) fn fields(id: MethodId, json: &Json) -> Fields {
    let (_, method) = id.info().unwrap();
    let given: Vec<String> = json
        .as_object()
        .unwrap()
        .keys()
        .map(|name| name.replace('-', "_"))
        .collect();
    let declared: Vec<&str> = method.fields.iter().map(|f| f.name).collect();
    assert_eq!(given, declared, "{id}");
    let mut fields = Fields::default();
    for (field, value) in method.fields.iter().zip(json.as_object().unwrap().values()) {
        let sample = sample(field.wire_type, value);
        if !field.reserved {
            fields.0.push((field.name.to_owned(), sample));
        }
    }
    fields
}
