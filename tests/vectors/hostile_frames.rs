//! Attacks and edge cases of framing: sizes, types, frame ends, and the memory of a decoder.

use super::every_method::{build, id_of, take_apart};
use super::json::vectors;
use super::sample::{Fields, Sample};
use super::tools::{
    FRAME_MAX, decode_stream, drain, header_payload, hex, method_payload, raw_frame, raw_header,
};
use puka::protocol::frame::{FRAME_MIN_SIZE, INITIAL_FRAME_MAX, OVERHEAD, UNSPLIT_FRAME_MAX};
use puka::protocol::method::basic::{Deliver, Publish};
use puka::protocol::method::connection::Tune;
use puka::protocol::{
    ContentHeader, DecodeError, Decoder, EncodeError, FrameKind, Method, Properties, ReplyCode,
    ShortStr, Table, frame,
};

/// Returns the first bytes of a frame that announces a payload of this size.
fn announced(kind: u8, channel: u16, size: u32) -> Vec<u8> {
    [&[kind][..], &channel.to_be_bytes(), &size.to_be_bytes()].concat()
}

/// Returns a decoder with this `frame_max`.
fn tuned(frame_max: u32) -> Decoder {
    let mut decoder = Decoder::new();
    decoder.set_frame_max(frame_max);
    decoder
}

/// Returns the decoder's result for only the first seven bytes of a frame.
fn announce(decoder: &mut Decoder, kind: u8, size: u32) -> Result<bool, DecodeError> {
    decoder.extend(&announced(kind, 1, size));
    let answer = decoder.next_frame().map(|frame| frame.is_some());
    let held = decoder.space().len() + decoder.pending().len();
    assert!(held <= 140_000, "{held} bytes are buffered for seven");
    answer
}

fn too_large(size: u32, frame_max: u32) -> Result<bool, DecodeError> {
    Err(DecodeError::FrameTooLarge {
        size,
        limit: frame_max - OVERHEAD,
    })
}

#[test]
fn a04_overflowing_frame_length_is_refused_early() {
    for size in [
        0xFFFF_FFFF,
        0xFFFF_FFF8,
        0xFFFF_FFF7,
        0x8000_0000,
        0x7FFF_FFFF,
    ] {
        for kind in [1, 2, 3] {
            assert_eq!(
                announce(&mut Decoder::new(), kind, size),
                too_large(size, INITIAL_FRAME_MAX)
            );
            let limit = if kind == 3 {
                FRAME_MAX
            } else {
                UNSPLIT_FRAME_MAX
            };
            assert_eq!(
                announce(&mut tuned(FRAME_MAX), kind, size),
                too_large(size, limit)
            );
            // No limit that can be negotiated lets a size overflow.
            assert_ne!(announce(&mut tuned(u32::MAX), kind, size), Ok(true));
        }
    }
}

#[test]
fn a05_body_frame_above_frame_max_is_refused_early() {
    let mut decoder = tuned(4096);
    assert_eq!(
        announce(&mut decoder, 3, 16 << 20),
        too_large(16 << 20, 4096)
    );
    assert_eq!(decoder.pending(), announced(3, 1, 16 << 20));
    assert_eq!(announce(&mut tuned(4096), 3, 4096 - 8), Ok(false));
    assert_eq!(
        announce(&mut tuned(4096), 3, 4096 - 7),
        too_large(4096 - 7, 4096)
    );
}

#[test]
fn a06_first_frame_of_four_gigabytes_is_refused() {
    for kind in [1, 2, 3] {
        let mut decoder = Decoder::new();
        assert_eq!(
            announce(&mut decoder, kind, u32::MAX),
            too_large(u32::MAX, INITIAL_FRAME_MAX)
        );
        assert!(
            decoder.space().len() <= 4096,
            "it must need no more memory than an idle connection"
        );
        // Before tuning the limit is 8192 bytes, for every type.
        assert_eq!(announce(&mut Decoder::new(), kind, 8192 - 8), Ok(false));
        assert_eq!(
            announce(&mut Decoder::new(), kind, 8192 - 7),
            too_large(8192 - 7, 8192)
        );
    }
}

#[test]
fn a09_too_short_payload_is_refused() {
    let method = hex("000a 001e 07ff 00020000 003c");
    for length in 0..method.len() {
        let (frames, error, _) = decode_stream(&raw_frame(1, 0, &method[..length]), FRAME_MAX);
        assert_eq!(
            (frames.len(), error),
            (1, None),
            "the frame must be complete"
        );
        let refused = Method::decode(&frames[0].payload).unwrap_err();
        assert!(
            matches!(refused, DecodeError::TruncatedPayload { .. }),
            "{length} bytes: {refused}"
        );
        assert_eq!(refused.reply_code(), ReplyCode::FRAME_ERROR);
    }
    assert!(Method::decode(&method).is_ok());
    let header = raw_header(0, b"");
    for length in 0..header.len() {
        let refused = ContentHeader::decode(&header[..length]).unwrap_err();
        assert!(
            matches!(refused, DecodeError::TruncatedPayload { .. }),
            "{length} bytes: {refused}"
        );
    }
    assert!(ContentHeader::decode(&header).is_ok());
}

#[test]
fn a28_short_string_above_127_bytes_is_read() {
    for length in [127, 128, 129, 200, 254, 255] {
        let text = "k".repeat(length);
        let text = ShortStr::new(&text).unwrap();
        let deliver = Deliver {
            consumer_tag: text,
            delivery_tag: u64::MAX,
            redelivered: true,
            exchange: ShortStr::EMPTY,
            routing_key: text,
        };
        let bytes = method_payload(&deliver);
        assert_eq!(bytes[4..6], [text.len().try_into().unwrap(), b'k']);
        assert_eq!(Method::decode(&bytes), Ok(deliver.into()));
    }
}

#[test]
fn a30_frame_max_can_change_with_pending_bytes() {
    // A raised limit applies at once: the buffer from before must not bound the later frames.
    let mut decoder = Decoder::new();
    let tune = method_payload(&Tune {
        channel_max: 2047,
        frame_max: FRAME_MAX,
        heartbeat: 60,
    });
    let body = raw_frame(3, 1, &vec![7; 131_072 - 8]);
    decoder.extend(&[raw_frame(1, 0, &tune), body[..20].to_vec()].concat());
    let mut frames = Vec::new();
    assert_eq!(
        decoder.next_frame().unwrap().unwrap().kind(),
        FrameKind::Method
    );
    decoder.set_frame_max(FRAME_MAX);
    decoder.extend(&body[20..]);
    assert_eq!(drain(&mut decoder, &mut frames), None);
    assert_eq!(frames[0].payload.len(), 131_072 - 8);
    // A lowered limit applies at once, at the limit and one byte above it.
    let mut decoder = Decoder::new();
    decoder.set_frame_max(FRAME_MIN_SIZE);
    decoder.extend(&raw_frame(3, 1, &[7; 4096 - 8]));
    decoder.extend(&raw_frame(3, 1, &[7; 4096 - 7]));
    let error = drain(&mut decoder, &mut frames);
    assert_eq!(
        (frames.len(), error),
        (
            2,
            Some(DecodeError::FrameTooLarge {
                size: 4089,
                limit: 4088
            })
        )
    );
}

#[test]
fn e01_wrong_frame_end_ends_the_stream() {
    for end in (0..=0xFF).filter(|end| *end != frame::FRAME_END) {
        let mut decoder = Decoder::new();
        decoder.extend(&hex("08 0000 00000000 ce 03 0001 00000001 78"));
        decoder.extend(&[end]);
        decoder.extend(&hex("08 0000 00000000 ce"));
        assert_eq!(
            decoder.next_frame().unwrap().unwrap().kind(),
            FrameKind::Heartbeat
        );
        for _ in 0..3 {
            let error = decoder.next_frame().unwrap_err();
            assert_eq!(error, DecodeError::FrameEnd { found: end });
            assert_eq!(error.reply_code(), ReplyCode::FRAME_ERROR);
        }
        assert_eq!(
            decoder.pending().len(),
            9 + 8,
            "nothing more must be parsed"
        );
    }
}

#[test]
fn e02_frame_above_the_limit_is_refused_early() {
    for (kind, limit) in [(1, UNSPLIT_FRAME_MAX), (2, UNSPLIT_FRAME_MAX), (3, 4096)] {
        let mut decoder = tuned(4096);
        let bytes = announced(kind, 1, limit - 7);
        decoder.extend(&bytes[..6]);
        assert!(decoder.next_frame().unwrap().is_none());
        decoder.extend(&bytes[6..]);
        let error = decoder.next_frame().unwrap_err();
        assert_eq!(
            error,
            DecodeError::FrameTooLarge {
                size: limit - 7,
                limit: limit - 8
            }
        );
        assert_eq!(error.reply_code(), ReplyCode::FRAME_ERROR);
        // Raising the limit later does not recover the stream.
        decoder.set_frame_max(4 << 20);
        assert_eq!(decoder.next_frame().err(), Some(error));
        assert_eq!(announce(&mut tuned(4096), kind, limit - 8), Ok(false));
    }
}

#[test]
fn e03_unknown_frame_type_is_refused_early() {
    for kind in (0..=0xFF).filter(|kind| ![1, 2, 3, 8, b'A'].contains(kind)) {
        let mut decoder = Decoder::new();
        decoder.extend(&[kind]);
        let error = decoder.next_frame().unwrap_err();
        assert_eq!(error, DecodeError::UnknownFrameType(kind));
        assert_eq!(error.reply_code(), ReplyCode::FRAME_ERROR);
    }
}

#[test]
fn e05_empty_body_frame_is_read_but_not_sent() {
    let (frames, error, _) = decode_stream(&raw_frame(3, 1, b"").repeat(3), FRAME_MAX);
    assert_eq!((frames.len(), error), (3, None));
    assert!(
        frames
            .iter()
            .all(|frame| frame.kind == FrameKind::Body && frame.payload.is_empty())
    );
    let mut out = Vec::new();
    frame::body(&mut out, 1, FRAME_MAX, b"");
    assert_eq!(out, b"", "an empty body must take no frame");
}

#[test]
fn e05_body_uses_the_fewest_frames() {
    for (length, sizes) in [
        (1, vec![1]),
        (4087, vec![4087]),
        (4088, vec![4088]),
        (4089, vec![4088, 1]),
        (8176, vec![4088, 4088]),
        (10_000, vec![4088, 4088, 1824]),
    ] {
        let body: Vec<u8> = (0..=255).cycle().take(length).collect();
        let mut out = b"before".to_vec();
        frame::body(&mut out, 9, 4096, &body);
        let (frames, error, _) = decode_stream(&out[6..], 4096);
        assert_eq!(error, None);
        assert_eq!(
            frames
                .iter()
                .map(|frame| frame.payload.len())
                .collect::<Vec<_>>(),
            sizes
        );
        assert!(frames.iter().all(|frame| frame.channel == 9));
        assert_eq!(
            frames
                .into_iter()
                .flat_map(|frame| frame.payload)
                .collect::<Vec<u8>>(),
            body
        );
    }
}

#[test]
fn e11_large_methods_and_headers_have_their_own_limit() {
    let mut headers = Table::new();
    headers
        .insert("h", &"x".repeat(100_908 - 8 - 14 - 4 - 7))
        .unwrap();
    let mut properties = Properties::default();
    properties.headers = Some(headers.as_ref().into());
    let header = header_payload(&ContentHeader {
        body_size: 1,
        properties,
    });
    let bytes = raw_frame(2, 1, &header);
    assert_eq!(
        bytes.len(),
        100_908,
        "the size that a consumer with a frame_max of 4096 received"
    );
    let (frames, error, _) = decode_stream(&bytes, 4096);
    assert_eq!((frames[0].payload.len(), error), (header.len(), None));
    let decoded = ContentHeader::decode(&frames[0].payload).unwrap();
    assert_eq!(
        decoded.properties.headers.unwrap().table().unwrap(),
        headers.as_ref()
    );
    for kind in [1, 2] {
        let whole = raw_frame(kind, 1, &vec![0; (1 << 20) - 8]);
        assert_eq!(decode_stream(&whole, 4096).0.len(), 1);
        assert_eq!(
            announce(&mut tuned(4096), kind, (1 << 20) - 7),
            too_large((1 << 20) - 7, 1 << 20)
        );
    }
    // A negotiated `frame_max` above the decoder's own limit takes precedence.
    assert_eq!(announce(&mut tuned(2 << 20), 2, (2 << 20) - 8), Ok(false));
    assert_eq!(
        announce(&mut tuned(2 << 20), 2, (2 << 20) - 7),
        too_large((2 << 20) - 7, 2 << 20)
    );
}

#[test]
fn e11_method_larger_than_a_frame_is_not_written() {
    let text = "x".repeat(200);
    let routing_key = ShortStr::new(&text).unwrap();
    let publish = Publish {
        exchange: ShortStr::EMPTY,
        routing_key,
        mandatory: false,
        immediate: false,
    };
    let mut properties = Properties::default();
    properties.message_id = Some(routing_key);
    let header = ContentHeader {
        body_size: 0,
        properties,
    };
    type Write<'w> = &'w dyn Fn(&mut Vec<u8>, u32) -> Result<(), EncodeError>;
    let writes: [(Write<'_>, u32); 2] = [
        (
            &|out, max| frame::method(out, 1, max, &publish),
            8 + 4 + 2 + 1 + 201 + 1,
        ),
        (
            &|out, max| frame::content_header(out, 1, max, &header),
            8 + 14 + 201,
        ),
    ];
    for (write, whole) in writes {
        let mut out = b"before".to_vec();
        let refused = EncodeError::FrameTooLarge {
            bytes: whole.try_into().unwrap(),
            limit: whole - 1,
        };
        assert_eq!(write(&mut out, whole - 1), Err(refused));
        assert_eq!(out, b"before", "nothing must be written");
        write(&mut out, whole).unwrap();
        let (frames, error, pending) = decode_stream(&out[6..], whole);
        assert_eq!((frames.len(), error, pending), (1, None, 0));
    }
}

#[test]
fn e13_heartbeat_is_empty_and_on_channel_0() {
    let mut out = Vec::new();
    frame::heartbeat(&mut out);
    assert_eq!(out, hex("08 0000 00000000 ce"));
    for (bytes, refused) in [
        ("08 0001 00000000", DecodeError::HeartbeatChannel(1)),
        ("08 ffff 00000000", DecodeError::HeartbeatChannel(0xFFFF)),
        ("08 0000 00000001", DecodeError::HeartbeatPayload(1)),
        ("08 0000 ffffffff", DecodeError::HeartbeatPayload(u32::MAX)),
    ] {
        let mut decoder = Decoder::new();
        decoder.extend(&hex(bytes));
        assert_eq!(decoder.next_frame().err(), Some(refused));
        assert_eq!(refused.reply_code(), ReplyCode::FRAME_ERROR);
    }
}

#[test]
fn a27_golden_method_of_wrong_length_is_refused() {
    for vector in vectors() {
        if !vector.name().starts_with("methods/") {
            continue;
        }
        let (frames, ..) = decode_stream(&vector.bytes(), FRAME_MAX);
        let payload = &frames[0].payload;
        for length in 0..payload.len() {
            let refused = Method::decode(&payload[..length]).unwrap_err();
            assert!(
                matches!(refused, DecodeError::TruncatedPayload { .. }),
                "{} at {length}",
                vector.name()
            );
        }
        for more in [0, 1, 0xCE, 0xFF] {
            let longer = [&payload[..], &[more]].concat();
            let refused = Method::decode(&longer).unwrap_err();
            assert_eq!(
                refused,
                DecodeError::TrailingBytes { at: payload.len() },
                "{}",
                vector.name()
            );
        }
    }
}

#[test]
fn a27_method_that_does_not_exist_is_refused() {
    for (class, method) in [
        (60, 999),
        (77, 10),
        (0, 0),
        (10, 0),
        (60, 41),
        (85, 20),
        (0xFFFF, 0xFFFF),
    ] {
        let payload = [&u16::to_be_bytes(class)[..], &u16::to_be_bytes(method)].concat();
        let refused = Method::decode(&payload).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("unknown method {class}.{method}")
        );
        assert_eq!(refused.reply_code(), ReplyCode::NOT_IMPLEMENTED);
    }
}

#[test]
fn e10_trailing_bytes_are_refused() {
    let ok = puka::protocol::method::connection::CloseOk {};
    let mut payload = method_payload(&ok);
    payload.push(0);
    let refused = Method::decode(&payload).unwrap_err();
    assert_eq!(
        (refused, refused.reply_code()),
        (DecodeError::TrailingBytes { at: 4 }, ReplyCode::FRAME_ERROR)
    );
    let refused = ContentHeader::decode(&raw_header(0x1000, &[2, 0])).unwrap_err();
    assert_eq!(refused.reply_code(), ReplyCode::FRAME_ERROR);
    assert!(matches!(refused, DecodeError::TrailingBytes { .. }));
    // And a property with missing bytes.
    for (flags, values) in [
        (0x1000, &[][..]),
        (0x0040, &[0; 7]),
        (0x8000, &[5, b'a']),
        (0x2000, &[0, 0, 0, 1]),
    ] {
        let refused = ContentHeader::decode(&raw_header(flags, values)).unwrap_err();
        assert!(
            matches!(refused, DecodeError::TruncatedPayload { .. }),
            "{flags:04x}"
        );
    }
}

#[test]
fn e12_short_string_with_invalid_utf8_is_kept() {
    let sample = Sample::Shortstr(vec![0xFF, b'a', 0xC3]);
    let fields = Fields(vec![("reason".to_owned(), sample.clone())]);
    let bytes = method_payload(&build(id_of("connection.blocked"), &fields));
    let blocked = take_apart(Method::decode(&bytes).unwrap());
    assert_eq!(blocked.0[0].1, sample);
    let name: ShortStr<'_> = blocked.get("reason");
    assert_eq!(
        (name.as_str(), name.to_str_lossy().as_ref()),
        (None, "\u{FFFD}a\u{FFFD}")
    );
}
