//! Tests of parsing and printing URIs: the specification's examples, and every error.

mod refused;

use super::*;

#[track_caller]
fn uri(text: &str) -> Uri {
    Uri::parse(text).unwrap()
}

#[track_caller]
fn error(text: &str) -> UriError {
    Uri::parse(text).unwrap_err()
}

/// Returns user, password, host, port and virtual host of a URI.
#[track_caller]
fn parts(text: &str) -> (String, String, String, u16, String) {
    let Uri {
        username,
        password,
        endpoints,
        virtual_host,
        ..
    } = uri(text);
    let [Endpoint::Tcp { host, port }] = endpoints.as_slice() else {
        panic!("{endpoints:?}")
    };
    (username, password, host.clone(), *port, virtual_host)
}

/// Returns host and port of a URI with a single host.
#[track_caller]
fn address(text: &str) -> (String, u16) {
    let (_, _, host, port, _) = parts(text);
    (host, port)
}

#[test]
fn rabbitmq_specification_examples_are_parsed() {
    let defaults = ("guest", "guest", "localhost", 5672, "/");
    let rows = [
        (
            "amqp://user:pass@host:10000/vhost",
            ("user", "pass", "host", 10000, "vhost"),
        ),
        (
            "amqp://user%61:%61pass@ho%61st:10000/v%2fhost",
            ("usera", "apass", "hoast", 10000, "v/host"),
        ),
        (
            "amqp://user:passw%23rd@host:10000/v%2fhost",
            ("user", "passw#rd", "host", 10000, "v/host"),
        ),
        ("amqp://", defaults),
        ("amqp://:@/", ("", "", "localhost", 5672, "/")),
        ("amqp://user@", ("user", "guest", "localhost", 5672, "/")),
        (
            "amqp://user:pass@",
            ("user", "pass", "localhost", 5672, "/"),
        ),
        ("amqp://host", ("guest", "guest", "host", 5672, "/")),
        ("amqp://:10000", ("guest", "guest", "localhost", 10000, "/")),
        (
            "amqp:///vhost",
            ("guest", "guest", "localhost", 5672, "vhost"),
        ),
        ("amqp://host/", ("guest", "guest", "host", 5672, "/")),
        ("amqp://host/%2f", ("guest", "guest", "host", 5672, "/")),
        ("amqp://[::1]", ("guest", "guest", "::1", 5672, "/")),
    ];
    for (text, (username, password, host, port, virtual_host)) in rows {
        let expected = (
            username.into(),
            password.into(),
            host.into(),
            port,
            virtual_host.into(),
        );
        assert_eq!(parts(text), expected, "{text}");
    }
}

#[test]
fn getters_return_parsed_values() {
    let uri =
        uri("amqps://u:p@h:1/v?heartbeat=20&connection_timeout=1500&channel_max=7&frame_max=8192");
    assert_eq!((uri.username(), uri.password()), ("u", "p"));
    assert_eq!(uri.endpoints(), [Endpoint::tcp("h", 1)]);
    assert_eq!((uri.virtual_host(), uri.is_tls()), ("v", true));
    assert_eq!(
        (uri.heartbeat(), uri.channel_max(), uri.frame_max()),
        (Some(20), Some(7), Some(8192))
    );
    assert_eq!(uri.connection_timeout(), Some(Duration::from_millis(1500)));
    assert_eq!(uri.auth_mechanisms(), []);
}

#[test]
fn absent_parameters_are_none() {
    let uri = uri("amqp://");
    assert_eq!(
        (uri.heartbeat(), uri.channel_max(), uri.frame_max()),
        (None, None, None)
    );
    assert_eq!(
        (uri.connection_timeout(), uri.auth_mechanisms()),
        (None, [].as_slice())
    );
    assert!(!uri.is_tls());
}

#[test]
fn a_tls_uri_has_port_5671() {
    assert_eq!(address("amqps://host").1, 5671);
    assert_eq!(address("amqps://host:").1, 5671);
    assert_eq!(
        uri("amqps://host:5672").to_string(),
        "amqps://guest@host:5672/%2F"
    );
    assert_eq!(
        uri("amqps://host:5671").to_string(),
        "amqps://guest@host/%2F"
    );
}

#[test]
fn schemes_are_case_insensitive() {
    assert_eq!(uri("aMQp://host"), uri("amqp://host"));
    assert!(uri("AMQPS://host").is_tls());
}

#[test]
fn a_spelled_out_default_equals_an_absent_one() {
    assert_eq!(uri("amqp://guest:guest@localhost:5672/%2f"), uri("amqp://"));
    assert_eq!(uri("amqp://host?"), uri("amqp://host"));
    assert_eq!(uri("amqp://host/"), uri("amqp://host"));
}

#[test]
fn ipv6_addresses_have_brackets_only_in_text() {
    for (text, port) in [
        ("amqp://[2001:DB8:0:0::1]/v", 5672),
        ("amqp://a:b@[2001:db8::1]:100/v", 100),
    ] {
        assert_eq!(address(text), ("2001:db8::1".into(), port), "{text}");
    }
    assert_eq!(
        uri("amqp://[::1]:100").to_string(),
        "amqp://guest@[::1]:100/%2F"
    );
    assert_eq!(
        uri("amqp://[::ffff:127.0.0.1]").to_string(),
        "amqp://guest@[::ffff:127.0.0.1]/%2F"
    );
}

#[test]
fn a_plus_is_a_plus() {
    let expected = ("a+b".into(), "c+d".into(), "e+f".into(), 5672, "g+h".into());
    assert_eq!(parts("amqp://a+b:c+d@e+f/g+h"), expected);
}

#[test]
fn a_password_may_contain_raw_or_encoded_colons() {
    assert_eq!(uri("amqp://user:a:b%3Ac:@host").password(), "a:b:c:");
    assert_eq!(uri("amqp://us%3Aer:pass@host").username(), "us:er");
}

#[test]
fn the_last_at_ends_the_user_part() {
    let expected = (
        "us@er".into(),
        "pa@ss".into(),
        "host".into(),
        5672,
        "v".into(),
    );
    assert_eq!(parts("amqp://us@er:pa@ss@host/v"), expected);
}

#[test]
fn escapes_are_decoded_once_as_utf_8() {
    assert_eq!(
        uri("amqp://%2561:%C3%bc@b%C3%BCcher/%E2%82%AC").password(),
        "ü"
    );
    assert_eq!(uri("amqp://%2561@host").username(), "%61");
    assert_eq!(
        uri("amqp://ü:é@bücher/€").to_string(),
        "amqp://%C3%BC@b%C3%BCcher/%E2%82%AC"
    );
    assert_eq!(address("amqp://b%C3%BCcher").0, "bücher");
}

#[test]
fn two_slashes_are_the_default_virtual_host() {
    for text in [
        "amqp://guest@h//",
        "amqp://h//?heartbeat=1",
        "amqps://h,i//",
        "amqp:////",
    ] {
        assert_eq!(uri(text).virtual_host(), "/", "{text}");
    }
}

#[test]
fn dots_in_a_virtual_host_are_kept() {
    assert_eq!(uri("amqp://host/.").virtual_host(), ".");
    assert_eq!(uri("amqp://host/%2e%2e").virtual_host(), "..");
    assert_eq!(uri("amqp://host/..").to_string(), "amqp://guest@host/..");
}

#[test]
fn a_virtual_host_may_contain_a_raw_at() {
    assert_eq!(uri("amqp://user@host/v@w:x").virtual_host(), "v@w:x");
    assert_eq!(uri("amqp://host/v%40w").virtual_host(), "v@w");
}

#[test]
fn auth_mechanisms_keep_their_order() {
    let uri = uri("amqp://h?auth_mechanism=amqplain&heartbeat=1&auth_mechanism=PLAIN");
    assert_eq!(
        uri.auth_mechanisms(),
        [AuthMechanism::Amqplain, AuthMechanism::Plain]
    );
    assert_eq!(
        uri.to_string(),
        "amqp://guest@h/%2F?heartbeat=1&auth_mechanism=amqplain&auth_mechanism=plain"
    );
}

#[test]
fn every_auth_mechanism_is_parsed_by_name() {
    for mechanism in AuthMechanism::ALL {
        let text = format!(
            "amqp://guest@h/%2F?auth_mechanism={}",
            mechanism.name().to_ascii_lowercase()
        );
        assert_eq!(uri(&text).auth_mechanisms(), [mechanism]);
        assert_eq!(uri(&text).to_string(), text);
    }
}

#[test]
fn an_unsupported_auth_mechanism_is_refused() {
    for name in ["scram", "", "plain,amqplain", "rabbit_cr_demo"] {
        let found = error(&format!("amqp://h?auth_mechanism={name}"));
        assert!(
            matches!(
                found,
                UriError::BadParameter {
                    name: "auth_mechanism",
                    at: 24,
                    ..
                }
            ),
            "{found}"
        );
    }
}

#[test]
fn a19_a_value_cannot_add_a_parameter() {
    let injected =
        uri("amqp://a%3Fheartbeat%3D1:p%26q@h/v%3Fheartbeat%3D9%26frame_max%3D1?channel_max=5");
    assert_eq!(
        (
            injected.heartbeat(),
            injected.frame_max(),
            injected.channel_max()
        ),
        (None, None, Some(5))
    );
    assert_eq!(uri(&injected.to_string_with_password()), injected);
}

#[test]
fn a21_only_the_explicit_print_has_the_password() {
    let uri = uri("amqp://user:passw%23rd@host");
    assert_eq!(uri.to_string(), "amqp://user@host/%2F");
    assert_eq!(
        uri.to_string_with_password(),
        "amqp://user:passw%23rd@host/%2F"
    );
    assert!(!format!("{uri:?} {uri:#?}").contains("passw"));
}

#[test]
fn from_str_is_parse() {
    assert_eq!("amqp://host/v".parse(), Uri::parse("amqp://host/v"));
    assert_eq!("host".parse::<Uri>(), Err(UriError::MissingScheme));
}

/// Records why `url::Url` does not split the text. If one of these changes, the parser may change.
#[test]
fn the_url_crate_alone_would_change_names() {
    let url = |text| url::Url::parse(text).unwrap();
    assert_eq!(url("amqp://h/%2E%2E").path(), "/");
    assert_eq!(url("amqp://a\nb@h/c\n").as_str(), "amqp://ab@h/c");
    assert_eq!(url("amqp://h/%4").path(), "/%4");
    assert_eq!(url("amqp://:@h").as_str(), url("amqp://h").as_str());
    assert!(url::Url::parse("amqp://user@").is_err());
}
