//! Tests of several hosts, Unix sockets and TLS parameters.

use super::*;

#[track_caller]
fn uri(text: &str) -> Uri {
    Uri::parse(text).unwrap()
}

#[track_caller]
fn error(text: &str) -> UriError {
    Uri::parse(text).unwrap_err()
}

#[track_caller]
fn refused(text: &str) -> String {
    match error(text) {
        error @ UriError::RefusedParameter { .. } => error.to_string(),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn several_hosts_keep_order_and_ports() {
    let several = uri("amqp://u:p@one:1,two,[::1]:3,:4/v?heartbeat=1");
    let expected = [("one", 1), ("two", 5672), ("::1", 3), ("localhost", 4)];
    assert_eq!(
        several.endpoints(),
        expected.map(|(host, port)| Endpoint::tcp(host, port))
    );
    assert_eq!((several.username(), several.virtual_host()), ("u", "v"));
    assert_eq!(
        several.to_string(),
        "amqp://u@one:1,two,[::1]:3,localhost:4/v?heartbeat=1"
    );
    assert_eq!(
        uri("amqps://one,two:2").to_string(),
        "amqps://guest@one,two:2/%2F"
    );
}

#[test]
fn several_hosts_must_all_be_named() {
    for (text, at) in [
        ("amqp://,", 7),
        ("amqp://one,", 11),
        ("amqp://u@,two", 9),
        ("amqp://one,,two", 11),
        ("amqp://a,b]", 9),
    ] {
        assert_eq!(error(text), UriError::BadHost { at }, "{text}");
    }
    assert_eq!(error("amqp://one,two:0"), UriError::BadPort { at: 15 });
    assert_eq!(
        uri("amqp://one%2Ctwo").endpoints(),
        [Endpoint::tcp("one,two", 5672)]
    );
}

#[test]
fn user_part_per_host_is_refused() {
    assert_eq!(
        error("amqp://u:p@one,u:p@two"),
        UriError::RepeatedUser { at: 10 }
    );
    assert_eq!(
        error("amqp://u@one,two@three"),
        UriError::RepeatedUser { at: 8 }
    );
    assert_eq!(uri("amqp://u:p%40one,u:p@two").password(), "p@one,u:p");
    assert_eq!(uri("amqp://u:p,q@two").password(), "p,q");
}

#[test]
fn unix_sockets_take_the_virtual_host_as_parameter() {
    let socket = uri("amqp+unix:///run/my%20broker/amqp?vhost=%2F&heartbeat=5");
    assert_eq!(socket.endpoints(), [Endpoint::unix("/run/my broker/amqp")]);
    assert_eq!(
        (socket.virtual_host(), socket.heartbeat(), socket.is_tls()),
        ("/", Some(5), false)
    );
    let socket = uri("AMQP+UNIX://user:pa%2Fss@/s?vhost=a/b");
    assert_eq!(
        (socket.username(), socket.password(), socket.virtual_host()),
        ("user", "pa/ss", "a/b")
    );
    assert_eq!(socket.to_string(), "amqp+unix://user@/s?vhost=a%2Fb");
    assert_eq!(uri("amqp+unix:///s").virtual_host(), "/");
}

#[test]
fn invalid_socket_paths_are_refused() {
    let rows = [
        ("amqp+unix://", 12),
        ("amqp+unix:///", 12),
        ("amqp+unix://run/broker", 12),
        ("amqp+unix://u@host/broker", 14),
        ("amqp+unix://:5672/broker", 12),
        ("amqp+unix:///a%00b", 13),
    ];
    for (text, at) in rows {
        assert_eq!(error(text), UriError::BadSocket { at }, "{text}");
    }
    assert_eq!(error("amqp+unix:///a@b"), UriError::AmbiguousAt { at: 14 });
    let name = "vhost";
    assert_eq!(
        error("amqp+unix:///s?vhost=a&vhost=b"),
        UriError::RepeatedParameter { name }
    );
    assert!(matches!(
        error("amqp+unix:///s?vhost="),
        UriError::BadParameter {
            name: "vhost",
            at: 21,
            ..
        }
    ));
    assert!(refused("amqp://h?vhost=v").contains("the virtual host is the path"));
}

#[test]
fn rabbitmq_tls_examples_are_parsed() {
    let text = "amqps://myhost?cacertfile=/path/to/ca_certificate.pem\
        &certfile=/path/to/client_certificate.pem&keyfile=/path/to/client_key.pem\
        &verify=verify_peer&server_name_indication=myhost";
    let parameters = uri(text).tls_parameters().clone();
    assert_eq!(
        parameters.cacertfile.as_deref(),
        Some("/path/to/ca_certificate.pem")
    );
    assert_eq!(
        parameters.certfile.as_deref(),
        Some("/path/to/client_certificate.pem")
    );
    assert_eq!(
        parameters.keyfile.as_deref(),
        Some("/path/to/client_key.pem")
    );
    assert_eq!(parameters.verify, Some(true));
    assert_eq!(
        parameters.server_name_indication,
        Some(ServerNameIndication::Name("myhost".into()))
    );
    let text = text
        .replace("verify_peer", "verify_none")
        .replace("indication=myhost", "indication=disable");
    let parameters = uri(&text).tls_parameters().clone();
    assert_eq!(parameters.verify, Some(false));
    assert_eq!(
        parameters.server_name_indication,
        Some(ServerNameIndication::Disable)
    );
    let text =
        "amqps://h?customize_hostname_check=https&fail_if_no_peer_cert=true&verify=verify_peer";
    assert_eq!(uri(&uri(text).to_string()), uri(text));
}

#[test]
fn tls_parameters_are_refused_without_tls() {
    for parameter in [
        "cacertfile=a",
        "certfile=a",
        "certfile=a&keyfile=a",
        "verify=verify_none",
        "fail_if_no_peer_cert=false",
        "server_name_indication=disable",
        "customize_hostname_check=https",
    ] {
        assert!(
            refused(&format!("amqp://h?{parameter}")).contains("only amqps"),
            "{parameter}"
        );
        assert!(
            refused(&format!("amqp+unix:///s?{parameter}")).contains("only amqps"),
            "{parameter}"
        );
        assert!(uri(&format!("amqps://h?{parameter}")).is_tls());
    }
}

#[test]
fn contradictory_and_unsupported_parameters_are_refused() {
    let rows = [
        (
            "keyfile=k",
            "the query parameter keyfile of the URI has no effect without certfile",
        ),
        ("certfile=c&password=p", "keyfile, which is missing"),
        ("password=p", "keyfile, which is missing"),
        ("depth=1", "depth of the URI is not supported"),
        (
            "verify=verify_none&customize_hostname_check=https",
            "contradicts verify=verify_none",
        ),
    ];
    for (query, expected) in rows {
        let text = refused(&format!("amqps://h?{query}"));
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn invalid_tls_values_are_refused_with_their_offset() {
    let rows = [
        ("cacertfile", &["", "%00"][..]),
        ("certfile", &["", "a%00"]),
        ("keyfile", &[""]),
        ("password", &["", "%00"]),
        ("verify", &["", "true", "verify_none "]),
        ("fail_if_no_peer_cert", &["", "1", "True"]),
        (
            "server_name_indication",
            &["", "Disable%00", "127.0.0.1", "::1", "b%C3%BCcher", "a b"],
        ),
        ("customize_hostname_check", &["", "http"]),
    ];
    for (name, values) in rows {
        for value in values {
            let text = format!("amqps://h?{name}={}", value.replace(' ', "%20"));
            let found = error(&text);
            assert!(
                matches!(found, UriError::BadParameter { name: of, at, .. }
                    if of == name && at == 11 + name.len()),
                "{text}: {found}"
            );
        }
    }
    let name = "verify";
    assert_eq!(
        error("amqps://h?verify=verify_peer&verify=verify_none"),
        UriError::RepeatedParameter { name }
    );
}

#[test]
fn a19_paths_with_query_characters_round_trip() {
    for path in ["/a&b=c", "/a%b", "/a/@:?#", "C:\\certs\\é", "a+b"] {
        let encoded: String = path.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let text = format!(
            "amqps://h?cacertfile={encoded}&certfile={encoded}&keyfile={encoded}&password={encoded}"
        );
        let read = uri(&text);
        assert_eq!(read.tls_parameters().cacertfile.as_deref(), Some(path));
        assert_eq!(read.tls_parameters().password.as_deref(), Some(path));
        assert_eq!(uri(&read.to_string_with_password()), read);
    }
}

#[test]
fn a21_only_the_explicit_print_has_the_passphrase() {
    let uri = uri("amqps://u:login@h?certfile=c&keyfile=k&password=S3KRET");
    assert_eq!(uri.to_string(), "amqps://u@h/%2F?certfile=c&keyfile=k");
    let with_password = "amqps://u:login@h/%2F?certfile=c&keyfile=k&password=S3KRET";
    assert_eq!(uri.to_string_with_password(), with_password);
    assert_eq!(
        format!("{uri:?}"),
        "Uri { scheme: Amqps, username: \"u\", endpoints: [Tcp { host: \"h\", port: 5671 }], \
         virtual_host: \"/\", parameters: Parameters { heartbeat: None, connection_timeout: None, \
         channel_max: None, frame_max: None, auth_mechanisms: [], virtual_host: None, tls: \
         {\"certfile\": \"c\", \"keyfile\": \"k\"} }, .. }"
    );
}

#[test]
fn a21_possible_passphrase_is_not_shown() {
    let found = error("amqps://h?certfile=c&keyfile=k&password=a&S3KRET");
    assert_eq!(found, UriError::UnknownBehindPassword { at: 42 });
    assert!(found.to_string().contains("%26"), "{found}");
}
