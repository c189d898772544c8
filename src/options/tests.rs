//! Tests of options: accepted values, values that are refused when they are set, and secrets.

use super::*;
use crate::uri::AuthMechanism;
use std::collections::BTreeSet;

fn refused(endpoints: impl IntoIterator<Item = Endpoint>) -> String {
    Options::default()
        .endpoints(endpoints)
        .unwrap_err()
        .to_string()
}

#[test]
fn endpoints_set_later_replace_those_of_the_uri() {
    let options = Options::from_uri("amqp://host:1").unwrap();
    assert_eq!(options.get_endpoints(), [Endpoint::tcp("host", 1)]);
    let turn = [Endpoint::tcp("::1", 2), Endpoint::unix("/run/broker")];
    let options = options.endpoints(turn.clone()).unwrap();
    assert_eq!(options.get_endpoints(), turn);
    let options = options.endpoint(Endpoint::tcp("other", 3)).unwrap();
    assert_eq!(options.get_endpoints(), [Endpoint::tcp("other", 3)]);
    assert_eq!(
        turn.map(|endpoint| endpoint.to_string()),
        ["[::1]:2", "/run/broker"]
    );
}

#[test]
fn r3_shuffling_only_reorders_endpoints() {
    let all: Vec<Endpoint> = (1..=5).map(|port| Endpoint::tcp("host", port)).collect();
    let options = Options::default().endpoints(all.clone()).unwrap();
    let mut first = BTreeSet::new();
    for _ in 0..500 {
        let mut shuffled = options.clone().shuffle_endpoints().get_endpoints().to_vec();
        first.insert(shuffled[0].to_string());
        shuffled.sort_by_key(ToString::to_string);
        assert_eq!(shuffled, all);
    }
    assert_eq!(first.len(), all.len());
}

#[test]
fn endpoints_that_cannot_be_dialled_are_refused() {
    assert_eq!(refused([]), "endpoints: at least one endpoint is required");
    let no_host = refused([Endpoint::tcp("a", 1), Endpoint::tcp("", 1)]);
    assert_eq!(no_host, "endpoints: a host name must not be empty");
    let no_port = refused([Endpoint::tcp("a", 0)]);
    assert_eq!(no_port, "endpoints: a port must be 1 to 65535, got 0");
    assert_eq!(
        refused([Endpoint::unix("")]),
        "endpoints: a socket path must not be empty"
    );
}

#[test]
fn uri_or_options_enable_tls() {
    assert!(!Options::default().is_tls() && Options::default().get_tls().is_none());
    let options = Options::from_uri("amqps://host").unwrap();
    let tls = options.get_tls().unwrap();
    assert!(options.is_tls() && tls.verifies_peer() && tls.sends_server_name());
    assert!(
        tls.authorities().is_empty() && tls.identity().is_none() && tls.expected_name().is_none()
    );
    assert!(Options::default().tls(TlsOptions::default()).is_tls());
}

const SECRET: &str = "S3KRET-correct-horse";

/// Returns the error that ends a connection with these options before anything is written.
#[track_caller]
fn refused_at_once(options: Options) -> Error {
    options.check().unwrap_err()
}

#[track_caller]
fn refused_argument(options: Options) -> &'static str {
    match refused_at_once(options) {
        Error::InvalidArgument { what, .. } => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn uri_parameters_become_tls_options() {
    let text = "amqps://h?cacertfile=a&certfile=c&keyfile=k&password=p&verify=verify_none\
        &server_name_indication=n";
    let options = Options::from_uri(text).unwrap();
    let tls = options.get_tls().unwrap();
    let file = |path: &str| TlsSource::File(path.into());
    assert_eq!(tls.authorities(), [file("a")]);
    assert_eq!(tls.identity(), Some((&file("c"), &file("k"))));
    assert_eq!(
        (tls.passphrase(), tls.expected_name()),
        (Some("p"), Some("n"))
    );
    assert!(!tls.verifies_peer() && tls.sends_server_name());
    let expected = TlsOptions::default()
        .authority(file("a"))
        .client_certificate(file("c"), file("k"))
        .key_passphrase("p")
        .server_name("n")
        .danger_accept_any_certificate(true);
    assert_eq!(tls, &expected);

    let options = Options::from_uri("amqps://h?certfile=c&server_name_indication=disable").unwrap();
    let tls = options.get_tls().unwrap();
    assert_eq!(tls.identity(), Some((&file("c"), &file("c"))));
    assert!(tls.verifies_peer() && !tls.sends_server_name() && tls.expected_name().is_none());
}

#[test]
fn each_step_of_connecting_has_its_own_timeout() {
    let ten = Duration::from_secs(10);
    let options = Options::default();
    let timeouts = [
        options.get_resolve_timeout(),
        options.get_dial_timeout(),
        options.get_tls_timeout(),
    ];
    assert_eq!(timeouts, [ten; 3]);
    let Timeouts {
        handshake,
        request,
        close,
        ..
    } = options.timeouts;
    assert_eq!(
        [handshake, request, close],
        [ten, Duration::from_secs(30), ten]
    );

    let [one, two, three] = [1, 2, 3].map(Duration::from_secs);
    let options = Options::default()
        .resolve_timeout(one)
        .dial_timeout(two)
        .tls_timeout(three);
    let timeouts = [
        options.get_resolve_timeout(),
        options.get_dial_timeout(),
        options.get_tls_timeout(),
    ];
    assert_eq!(timeouts, [one, two, three]);
    let options = Options::from_uri("amqp://h?connection_timeout=1500").unwrap();
    assert_eq!(options.get_dial_timeout(), Duration::from_millis(1500));
    assert_eq!(options.get_resolve_timeout(), ten);
}

#[test]
fn no_timeout_overflows_an_instant() {
    let longest = Duration::MAX;
    let options = Options::default()
        .resolve_timeout(longest)
        .dial_timeout(longest)
        .tls_timeout(longest)
        .handshake_timeout(longest)
        .request_timeout(longest)
        .close_timeout(longest);
    let Timeouts {
        resolve,
        dial,
        tls,
        handshake,
        request,
        close,
    } = options.timeouts;
    let now = std::time::Instant::now();
    for timeout in [resolve, dial, tls, handshake, request, close] {
        assert!(
            timeout > Duration::from_secs(3600 * 24 * 365 * 10),
            "{timeout:?}"
        );
        assert!(now.checked_add(2 * timeout).is_some(), "{timeout:?}");
    }
}

#[test]
fn values_that_cannot_be_sent_are_refused() {
    let long = "é".repeat(128);
    assert_eq!(
        refused_argument(Options::default().virtual_host(&long)),
        "virtual_host"
    );
    let error = refused_at_once(Options::default().credentials(&long, SECRET));
    assert!(
        matches!(error, Error::InvalidArgument { .. })
            && !format!("{error} {error:?}").contains(SECRET)
    );
    for bytes in [1, 7, 4095] {
        assert_eq!(
            refused_argument(Options::default().frame_max(bytes)),
            "frame_max"
        );
    }
    assert_eq!(
        refused_argument(Options::default().auth_mechanisms(&[])),
        "auth_mechanisms"
    );
    let most = "a".repeat(255);
    let options = Options::default()
        .virtual_host(&most)
        .credentials(&most, &"p".repeat(1000));
    assert!(options.frame_max(0).check().is_ok());
}

#[test]
fn limits_of_zero_are_refused() {
    type Set = fn(Options, usize) -> Options;
    let bounds: [(&str, Set); 5] = [
        ("max_requests", Options::max_requests),
        ("max_outgoing_bytes", Options::max_outgoing_bytes),
        ("max_publishes_in_flight", Options::max_publishes_in_flight),
        ("max_buffered_deliveries", Options::max_buffered_deliveries),
        ("max_buffered_bytes", Options::max_buffered_bytes),
    ];
    for (name, set) in bounds {
        assert_eq!(refused_argument(set(Options::default(), 0)), name);
        assert!(
            set(Options::default(), 1).check().is_ok()
                && set(Options::default(), usize::MAX).check().is_ok()
        );
    }
}

#[test]
fn custom_mechanisms_need_a_valid_sasl_name() {
    struct Silent;
    impl SaslMechanism for Silent {
        fn initial_response(
            &mut self,
            _: &Credentials,
        ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
            Ok(Vec::new())
        }

        fn answer(
            &mut self,
            _: &[u8],
        ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
            Ok(Vec::new())
        }
    }
    for name in ["", "lower", "WITH SPACE", "ÄÖ", "TWENTY-ONE-CHARACTERS"] {
        let refused = Options::default()
            .custom_mechanism(name, || Silent)
            .unwrap_err();
        assert!(
            matches!(
                refused,
                Error::InvalidArgument {
                    what: "custom_mechanism",
                    ..
                }
            ),
            "{name}"
        );
    }
    let options = Options::default()
        .custom_mechanism("ONE", || Silent)
        .unwrap();
    let options = options.custom_mechanism("TWO_2", || Silent).unwrap();
    let names = |options: &Options| {
        options
            .login
            .mechanisms
            .iter()
            .map(|one| one.name().to_owned())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(names(&options), "ONE TWO_2 PLAIN AMQPLAIN");
    assert_eq!(
        names(&options.auth_mechanisms(&[AuthMechanism::External])),
        "ONE TWO_2 EXTERNAL"
    );
}

#[test]
fn a21_options_show_no_secret() {
    let uri = format!("amqps://user:{SECRET}@host/v?certfile=c&keyfile=k&password={SECRET}");
    let options = Options::from_uri(&uri).unwrap();
    let shown = format!("{options:?}");
    let expected = "Options { endpoints: [Tcp { host: \"host\", port: 5671 }], tcp: Tcp { \
        keepalive: Some(60s), user_timeout: None }, tls: \
        Some(TlsOptions { authorities: [], identity: Some((File(\"c\"), File(\"k\"))), verify: \
        true, expected_name: None, send_name: true, .. }), virtual_host: \"v\", login: Login { \
        credentials: Credentials { username: \"user\", .. }, mechanisms: [PLAIN, AMQPLAIN], \
        refuse_unencrypted: false, encrypted_transport: false }, ";
    assert!(shown.starts_with(expected), "{shown}");
    let pem = || TlsSource::Pem(SECRET.into());
    let tls = TlsOptions::default()
        .authority(TlsSource::Der(SECRET.into()))
        .client_certificate(pem(), pem())
        .key_passphrase(SECRET);
    let options = options.credentials("other", SECRET).tls(tls);
    for shown in [shown, format!("{options:?} {options:#?}")] {
        assert!(
            !shown.contains(SECRET) && !shown.contains("83, 51, 75"),
            "{shown}"
        );
    }
    let asked = options.credentials_from(|| Ok(Credentials::new("user", SECRET)));
    assert!(format!("{asked:?}").contains("credentials: a source called at each login"));
    let credentials = Credentials::new("user", SECRET);
    assert_eq!(
        format!("{credentials:?}"),
        "Credentials { username: \"user\", .. }"
    );
}

#[test]
fn a21_errors_of_uris_and_logins_show_no_secret() {
    for text in [
        format!("amqp://user:{SECRET}#@host"),
        format!("amqp://user:{SECRET}/@host"),
        format!("amqp://user:{SECRET}%@host"),
        format!("amqp://user:{SECRET}%ff@host"),
        format!("amqp://user:{SECRET} @host"),
        format!("user:{SECRET}@host"),
        format!("amqp://user:{SECRET}@host:0"),
        format!("amqp://user:{SECRET}@a,b:{SECRET}@c"),
        format!("amqps://host?certfile=c&keyfile=k&password=a&{SECRET}=b"),
        format!("amqps://host?password={SECRET}"),
        format!("amqp://host?password={SECRET}"),
    ] {
        let error = Options::from_uri(&text).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(SECRET), "{shown}");
    }
}
