//! What holds of every URI: printing and reading undo each other, and a password is never shown.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Stands inside every password of the leak tests and nowhere else.
const SECRET: &str = "S3KRET-correct-horse";

/// Text of at most 240 octets, rich in characters that mean something in a URI.
fn text() -> impl Strategy<Value = String> {
    let special = prop::sample::select("&=%/@:#?[]+,;.\\\"' \t\n\0~-_aé€𝄞".chars().collect::<Vec<_>>());
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

fn parameters() -> impl Strategy<Value = Parameters> {
    let mechanism = prop::sample::select(vec![AuthMechanism::Plain, AuthMechanism::Amqplain]);
    (
        any::<Option<u16>>(),
        any::<Option<NonZeroU32>>(),
        any::<Option<u16>>(),
        any::<Option<u32>>(),
        vec(mechanism, 0..3),
    )
        .prop_map(|(heartbeat, connection_timeout, channel_max, frame_max, auth_mechanisms)| {
            Parameters { heartbeat, connection_timeout, channel_max, frame_max, auth_mechanisms }
        })
}

fn any_uri() -> impl Strategy<Value = Uri> {
    (
        any::<bool>(),
        text(),
        text(),
        host(),
        1..=u16::MAX,
        text().prop_filter("an empty one is `/`", |text| !text.is_empty()),
        parameters(),
    )
        .prop_map(|(tls, username, password, host, port, virtual_host, parameters)| Uri {
            tls,
            username,
            password,
            endpoints: vec![Endpoint::Tcp { host, port }],
            virtual_host,
            parameters,
        })
}

/// Text that comes close to a URI.
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
        "+",
        " ",
        "amqp://",
    ]);
    let scheme = prop::sample::select(vec!["amqp://", "amqps://", "AMQP://", "http://", ""]);
    (scheme, vec(token, 0..16)).prop_map(|(scheme, tokens)| scheme.to_owned() + &tokens.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_printed_uri_reads_back_equal(uri in any_uri()) {
        prop_assert_eq!(Uri::parse(&uri.to_string_with_password()), Ok(uri));
    }

    #[test]
    fn display_reads_back_equal_but_for_the_password(uri in any_uri()) {
        let expected = Uri { password: DEFAULT_PASSWORD.to_owned(), ..uri.clone() };
        prop_assert_eq!(Uri::parse(&uri.to_string()), Ok(expected));
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        let _ = Uri::parse(&text);
        let _ = Uri::parse(&format!("amqp://{text}"));
    }

    #[test]
    fn what_is_read_keeps_its_promises(text in almost_uri()) {
        if let Ok(uri) = Uri::parse(&text) {
            for endpoint in uri.endpoints() {
                let Endpoint::Tcp { host, port } = endpoint else { panic!("{endpoint}") };
                prop_assert!(!host.is_empty() && *port != 0);
            }
            prop_assert!(uri.username().len() <= 255 && uri.virtual_host().len() <= 255);
            prop_assert_eq!(Uri::parse(&uri.to_string_with_password()), Ok(uri));
        }
    }

    #[test]
    fn debug_and_display_never_have_the_password(uri in any_uri(), before in text(), after in text()) {
        let uri = Uri { password: before + SECRET + &after, ..uri };
        let shown = format!("{uri} {uri:?} {uri:#?}");
        prop_assert!(!shown.contains(SECRET), "{}", shown);
        prop_assert!(uri.to_string_with_password().contains(SECRET));
    }

    /// Also when somebody forgets to encode the password, whatever part of the URI it then falls into.
    #[test]
    fn nothing_shown_has_a_raw_password(
        before in "[a-z0-9/?#:%&= \\[\\]]{0,6}",
        after in "[a-z0-9/?#:%&= \\[\\]]{0,6}",
        scheme in prop::sample::select(vec!["amqp://", "amqps://", "http://", "amqp:", ""]),
        tail in almost_uri(),
    ) {
        let text = format!("{scheme}user:{before}{SECRET}{after}@host{tail}");
        let shown = match Uri::parse(&text) {
            Ok(uri) => format!("{uri} {uri:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        prop_assert!(!shown.contains(SECRET), "{} shows {}", text, shown);
    }
}
