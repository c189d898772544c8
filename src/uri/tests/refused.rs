//! Tests of refused URIs: every error, with its offset.

use super::*;

#[test]
fn text_without_a_scheme_is_refused() {
    for text in [
        "",
        "host",
        "://host",
        "//host",
        "localhost:5672",
        "amqp:host",
        "amqp:/host",
        "u:p@h://x",
        "1://",
    ] {
        assert_eq!(error(text), UriError::MissingScheme, "{text}");
    }
}

#[test]
fn another_scheme_is_refused_by_name() {
    assert_eq!(
        error("http://u:p@host"),
        UriError::UnknownScheme {
            scheme: "http".into()
        }
    );
    assert_eq!(
        error("amqp+tls://host").to_string(),
        "unknown URI scheme amqp+tls, expected amqp, amqps or amqp+unix"
    );
}

#[test]
fn white_space_is_refused_with_its_offset() {
    let rows = [
        (" amqp://", 0),
        ("amqp://host\n", 11),
        ("amqp://a b@c", 8),
        ("amqp://h/\u{7f}", 9),
        ("amqp://h/\u{a0}", 9),
    ];
    for (text, at) in rows {
        assert_eq!(error(text), UriError::WhiteSpace { at }, "{text:?}");
    }
    assert_eq!(uri("amqp://a%20b:%0a@host/%09").virtual_host(), "\t");
}

#[test]
fn a_fragment_is_refused() {
    assert_eq!(error("amqp://host/v#"), UriError::Fragment { at: 13 });
    assert_eq!(
        error("amqp://user:pa#ss@host"),
        UriError::Fragment { at: 14 }
    );
}

#[test]
fn an_ambiguous_at_is_refused() {
    let rows = [
        ("amqp://user:1/2@host", 15),
        ("amqp://user:/2@host", 14),
        ("amqp://do/main:2@host", 16),
        ("amqp://user:1?2@host", 15),
        ("amqp://user:1/2?3@host", 17),
        ("amqp://u:p@s?s@host", 14),
    ];
    for (text, at) in rows {
        assert_eq!(error(text), UriError::AmbiguousAt { at }, "{text}");
    }
}

#[test]
fn a_bad_escape_is_refused_with_its_offset() {
    let rows = [
        ("amqp://a%:b@c", UriPart::Username, 8),
        ("amqp://a:b%4@c", UriPart::Password, 10),
        ("amqp://foo%1", UriPart::Host, 10),
        ("amqp://foo%1x", UriPart::Host, 10),
        ("amqp://a@foo%xy/", UriPart::Host, 12),
        ("amqp://h/%41%+1", UriPart::VirtualHost, 12),
        ("amqp://h/%é", UriPart::VirtualHost, 9),
        ("amqp://h?heart%xbeat=1", UriPart::Query, 14),
        ("amqp://h?heartbeat=%", UriPart::Query, 19),
    ];
    for (text, part, at) in rows {
        assert_eq!(error(text), UriError::BadEscape { part, at }, "{text}");
    }
}

#[test]
fn invalid_utf_8_is_refused() {
    let rows = [
        ("amqp://%ff:b@c", UriPart::Username, 7),
        ("amqp://a:%c3@c", UriPart::Password, 9),
        ("amqp://a:b@%80", UriPart::Host, 11),
        ("amqp://h/%ED%A0%80", UriPart::VirtualHost, 9),
        ("amqp://h?%ff=1", UriPart::Query, 9),
        ("amqp://h?heartbeat=%ff", UriPart::Query, 19),
    ];
    for (text, part, at) in rows {
        assert_eq!(error(text), UriError::NotUtf8 { part, at }, "{text}");
    }
}

#[test]
fn names_have_at_most_255_bytes() {
    let (most, more) = ("é".repeat(127) + "a", "é".repeat(128));
    assert_eq!(
        uri(&format!("amqp://{most}:{more}@h/{most}")).virtual_host(),
        most
    );
    let (part, bytes) = (UriPart::Username, 256);
    assert_eq!(
        error(&format!("amqp://{more}@h/")),
        UriError::TooLong { part, bytes }
    );
    let part = UriPart::VirtualHost;
    assert_eq!(
        error(&format!("amqp://h/{}", "%41".repeat(256))),
        UriError::TooLong { part, bytes }
    );
}

#[test]
fn a_bad_host_is_refused() {
    let rows = [
        ("amqp://foo[::1]", 7),
        ("amqp://foo:[::1]", 7),
        ("amqp://u@[::1]foo", 9),
        ("amqp://[::1", 7),
        ("amqp://[]", 7),
        ("amqp://[::g]", 7),
        ("amqp://[::1]]:5", 7),
        ("amqp://[fe80::1%25eth0]", 7),
        ("amqp://[127.0.0.1]", 7),
        ("amqp://::1", 7),
        ("amqp://foo:bar:1", 7),
        ("amqp://%5B::1%5D", 7),
        ("amqp://%5B%3A%3A1%5D", 7),
        ("amqp://a%2Fb", 7),
        ("amqp://a%00b", 7),
        ("amqp://a%20b", 7),
        ("amqp://a%07b", 7),
        ("amqp://a%C2%A0b", 7),
    ];
    for (text, at) in rows {
        assert!(
            matches!(error(text), UriError::BadHost { at: found } if found == at),
            "{text} {:?}",
            error(text)
        );
    }
}

#[test]
fn a_bad_port_is_refused() {
    for port in [
        "0",
        "65536",
        "1000xyz",
        "1000000",
        "+1",
        "-1",
        "%31",
        "0x10",
        "é",
        "99999999999999999999999",
    ] {
        assert_eq!(
            error(&format!("amqp://host:{port}/v")),
            UriError::BadPort { at: 12 },
            "{port}"
        );
        assert_eq!(
            error(&format!("amqp://[::1]:{port}")),
            UriError::BadPort { at: 13 },
            "{port}"
        );
    }
    assert_eq!(address("amqp://host:65535").1, 65535);
    assert_eq!(address("amqp://host:005672").1, 5672);
}

#[test]
fn a_virtual_host_is_one_segment() {
    for text in ["amqp://h/a/", "amqp://h/a/b", "amqp://h/a//"] {
        assert_eq!(
            error(text),
            UriError::NestedVirtualHost { at: 10 },
            "{text}"
        );
    }
    assert_eq!(error("amqp://h///"), UriError::NestedVirtualHost { at: 9 });
    assert_eq!(error("amqp://h//a"), UriError::NestedVirtualHost { at: 9 });
    assert_eq!(uri("amqp://h/a%2Fb?heartbeat=1").virtual_host(), "a/b");
}

#[test]
fn an_unknown_parameter_is_refused_by_name() {
    for name in ["Heartbeat", "locale", "", "h+b", "versions", "Verify"] {
        let expected = UriError::UnknownParameter { name: name.into() };
        assert_eq!(
            error(&format!("amqps://host?heartbeat=5&{name}=x")),
            expected
        );
        assert_eq!(error(&format!("amqps://host/v?{name}=x")), expected);
    }
    assert!(
        error("amqps://h?locale=de")
            .to_string()
            .contains("\"locale\"")
    );
    assert_eq!(
        error("amqp://h?heart%26=1"),
        UriError::UnknownParameter {
            name: "heart&".into()
        }
    );
}

#[test]
fn an_invalid_value_is_refused_with_its_offset() {
    let values = ["", "x", "-1", "+1", "1.5", "99999999999999999999", "%20"];
    for name in [
        "heartbeat",
        "connection_timeout",
        "channel_max",
        "frame_max",
    ] {
        for value in values {
            let found = error(&format!("amqp://h?{name}={value}"));
            let UriError::BadParameter {
                name: found_name,
                at,
                ..
            } = found
            else {
                panic!("{found}")
            };
            assert_eq!((found_name, at), (name, 10 + name.len()), "{value}");
        }
        assert!(matches!(
            error(&format!("amqp://h?{name}")),
            UriError::BadParameter { .. }
        ));
    }
    for query in [
        "heartbeat=65536",
        "channel_max=65536",
        "connection_timeout=0",
        "frame_max=4294967296",
    ] {
        assert!(
            matches!(
                error(&format!("amqp://h?{query}")),
                UriError::BadParameter { .. }
            ),
            "{query}"
        );
    }
    assert_eq!(uri("amqp://h?heartbeat=0").heartbeat(), Some(0));
    assert_eq!(uri("amqp://h?%68eartbeat=%35").heartbeat(), Some(5));
}

#[test]
fn a_parameter_given_twice_is_refused() {
    let name = "heartbeat";
    assert_eq!(
        error("amqp://h?heartbeat=5&heartbeat=5"),
        UriError::RepeatedParameter { name }
    );
}
