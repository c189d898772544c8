//! Properties of every URI: printing and parsing are inverse, and no password is shown.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;

/// Part of every password in the leak tests, and of nothing else.
const SECRET: &str = "S3KRET-correct-horse";

/// Generates text of at most 240 bytes, with many characters that have a meaning in a URI.
fn text() -> impl Strategy<Value = String> {
    let special = prop::sample::select(
        "&=%/@:#?[]+,;.\\\"' \t\n\0~-_aé€𝄞"
            .chars()
            .collect::<Vec<_>>(),
    );
    vec(prop_oneof![3 => special, 1 => any::<char>()], 0..60).prop_map(String::from_iter)
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9._~+,;=%!-]{1,30}",
        "[a-zäßあ𝄞€.-]{1,20}",
        any::<Ipv4Addr>().prop_map(|address| address.to_string()),
        any::<Ipv6Addr>().prop_map(|address| address.to_string()),
    ]
}

/// Generates values that parameters accept.
fn value() -> impl Strategy<Value = String> {
    text()
        .prop_map(|text| text.replace('\0', "0"))
        .prop_filter("no parameter accepts an empty value", |text| {
            !text.is_empty()
        })
}

fn tls_parameters() -> impl Strategy<Value = TlsParameters> {
    let indication = prop_oneof![
        Just(ServerNameIndication::Disable),
        "[a-z][a-z0-9._-]{0,40}"
            .prop_filter("a word of its own", |name| name != "disable")
            .prop_map(ServerNameIndication::Name),
    ];
    (
        of(value()),
        of((value(), of((value(), of(value()))))),
        any::<Option<bool>>(),
        any::<Option<bool>>(),
        of(indication),
        any::<bool>(),
    )
        .prop_map(
            |(
                cacertfile,
                certificate,
                verify,
                fail_if_no_peer_cert,
                server_name_indication,
                https,
            )| {
                let (certfile, key) = certificate.unzip();
                let (keyfile, password) = key.flatten().unzip();
                TlsParameters {
                    cacertfile,
                    certfile,
                    keyfile,
                    password: password.flatten(),
                    verify,
                    fail_if_no_peer_cert,
                    server_name_indication,
                    customize_hostname_check: (https && verify != Some(false)).then_some(()),
                }
            },
        )
}

fn parameters(tls: bool) -> impl Strategy<Value = Parameters> {
    (
        any::<Option<u16>>(),
        any::<Option<NonZeroU32>>(),
        any::<Option<u16>>(),
        any::<Option<u32>>(),
        vec(prop::sample::select(AuthMechanism::ALL.to_vec()), 0..3),
        tls_parameters(),
    )
        .prop_map(
            move |(
                heartbeat,
                connection_timeout,
                channel_max,
                frame_max,
                auth_mechanisms,
                with_tls,
            )| {
                Parameters {
                    heartbeat,
                    connection_timeout,
                    channel_max,
                    frame_max,
                    auth_mechanisms,
                    virtual_host: None,
                    tls: if tls {
                        with_tls
                    } else {
                        TlsParameters::default()
                    },
                }
            },
        )
}

fn endpoints(scheme: Scheme) -> BoxedStrategy<Vec<Endpoint>> {
    if scheme == Scheme::Unix {
        return value()
            .prop_map(|path| vec![Endpoint::unix(format!("/{path}"))])
            .boxed();
    }
    vec(
        (host(), 1..=u16::MAX).prop_map(|(host, port)| Endpoint::Tcp { host, port }),
        1..4,
    )
    .boxed()
}

fn any_uri() -> impl Strategy<Value = Uri> {
    prop::sample::select(Scheme::ALL.to_vec()).prop_flat_map(|scheme| {
        (
            text(),
            text(),
            endpoints(scheme),
            text().prop_filter("an empty one is `/`", |text| !text.is_empty()),
            parameters(scheme.is_tls()),
        )
            .prop_map(
                move |(username, password, endpoints, virtual_host, parameters)| Uri {
                    scheme,
                    username,
                    password,
                    endpoints,
                    virtual_host,
                    parameters,
                },
            )
    })
}

/// Returns the URI without the parts that `Display` omits.
fn without_passwords(uri: &Uri) -> Uri {
    let mut uri = Uri {
        password: DEFAULT_PASSWORD.to_owned(),
        ..uri.clone()
    };
    uri.parameters.tls.password = None;
    uri
}

/// Generates text that resembles a URI.
fn almost_uri() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        ":",
        "@",
        "/",
        "?",
        "#",
        "[",
        "]",
        "%",
        "&",
        "=",
        "%2f",
        "%ff",
        "%c3",
        "::1",
        "[::1]",
        "a",
        "é",
        "5672",
        "0",
        "99999",
        "heartbeat",
        "frame_max",
        "auth_mechanism",
        "plain",
        ",",
        "vhost",
        "verify_none",
        "+",
        " ",
        "amqp://",
    ]);
    let scheme = prop::sample::select(vec![
        "amqp://",
        "amqps://",
        "amqp+unix://",
        "AMQP://",
        "http://",
        "",
    ]);
    (scheme, vec(token, 0..16)).prop_map(|(scheme, tokens)| scheme.to_owned() + &tokens.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a19_printed_uri_parses_to_an_equal_uri(uri in any_uri()) {
        prop_assert_eq!(Uri::parse(&uri.to_string_with_password()), Ok(uri));
    }

    #[test]
    fn a19_display_omits_only_the_passwords(uri in any_uri()) {
        prop_assert_eq!(Uri::parse(&uri.to_string()), Ok(without_passwords(&uri)));
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in any::<String>()) {
        let _ = Uri::parse(&text);
        let _ = Uri::parse(&format!("amqp://{text}"));
    }

    #[test]
    fn parsed_uris_keep_their_guarantees(text in almost_uri()) {
        if let Ok(uri) = Uri::parse(&text) {
            for endpoint in uri.endpoints() {
                match endpoint {
                    Endpoint::Tcp { host, port } => prop_assert!(!host.is_empty() && *port != 0),
                    Endpoint::Unix(path) => prop_assert!(path.is_absolute()),
                }
            }
            prop_assert!(uri.username().len() <= 255 && uri.virtual_host().len() <= 255);
            prop_assert_eq!(Uri::parse(&uri.to_string_with_password()), Ok(uri));
        }
    }

    #[test]
    fn a21_debug_and_display_never_have_a_password(
        uri in any_uri(),
        before in text(),
        after in text(),
    ) {
        let mut uri = Uri { password: before.clone() + SECRET + &after, ..uri };
        if uri.parameters.tls.keyfile.is_some() {
            uri.parameters.tls.password = Some(before + SECRET + &after);
        }
        let shown = format!("{uri} {uri:?} {uri:#?}");
        prop_assert!(!shown.contains(SECRET), "{}", shown);
        prop_assert!(uri.to_string_with_password().contains(SECRET));
    }

    /// Covers passwords that were not encoded, in any part of the URI that they fall into.
    #[test]
    fn a21_nothing_shown_has_a_raw_password(
        before in "[a-z0-9/?#:%&= \\[\\]]{0,6}",
        after in "[a-z0-9/?#:%&= \\[\\]]{0,6}",
        scheme in prop::sample::select(vec!["amqp://", "amqps://", "http://", "amqp:", ""]),
        tail in almost_uri(),
    ) {
        let text = format!("{scheme}user:{before}{SECRET}{after}@host{tail}");
        let shown = shown(&text);
        prop_assert!(!shown.contains(SECRET), "{} shows {}", text, shown);
    }

    /// Covers passphrases of a key that were not encoded.
    #[test]
    fn a21_nothing_shown_has_a_raw_passphrase(
        before in "[a-z0-9/?#:%&= \\[\\]]{0,6}",
        after in "[a-z0-9/?#:%&= \\[\\]]{0,6}",
        tail in almost_uri(),
    ) {
        let text = format!("amqps://host?certfile=c&keyfile=k\
            &password=p{before}{SECRET}{after}{tail}");
        let shown = shown(&text);
        prop_assert!(!shown.contains(SECRET), "{} shows {}", text, shown);
    }
}

/// Returns the output for a parsed URI or its error.
fn shown(text: &str) -> String {
    match Uri::parse(text) {
        Ok(uri) => format!("{uri} {uri:?}"),
        Err(error) => format!("{error} {error:?}"),
    }
}
