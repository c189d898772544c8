//! The login: challenges, custom mechanisms, credential sources, and secrets that are never sent.

use crate::peer::{Peer, close, method, rabbitmq, short, start, tune};
use crate::pipe::{ManualClock, Pipe};
use crate::recovering::dialled;
use puka::machine::{Dialled, LoginStep, PromiseId, Publish, Reply};
use puka::protocol::method::connection;
use puka::protocol::{Method, Properties};
use puka::{AuthMechanism, Broken, Credentials, Error, Options, SaslMechanism};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const SECRET: &str = "S3KRET";

/// Responds to a challenge with its number and its bytes.
#[derive(Default)]
struct Counting {
    user: String,
    challenges: usize,
}

impl SaslMechanism for Counting {
    fn initial_response(
        &mut self,
        credentials: &Credentials,
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        credentials.username().clone_into(&mut self.user);
        Ok(format!("hello from {}", self.user).into_bytes())
    }

    fn answer(
        &mut self,
        challenge: &[u8],
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        self.challenges += 1;
        if challenge == b"nonsense" {
            return Err("the server talks nonsense".into());
        }
        Ok(format!(
            "{} {} {}",
            self.user,
            self.challenges,
            challenge.escape_ascii()
        )
        .into_bytes())
    }
}

fn counting() -> Options {
    Options::default()
        .custom_mechanism("COUNTING", Counting::default)
        .unwrap()
}

/// Returns a state machine that has received the server's `start`.
fn started(options: Options, mechanisms: &[u8]) -> (Peer, PromiseId) {
    let mut peer = Peer::new(options);
    let promise = peer.machine.connect();
    peer.names();
    peer.feed(&start(&rabbitmq(), mechanisms));
    (peer, promise)
}

fn challenge(peer: &mut Peer, challenge: &[u8]) {
    peer.feed(&method(0, &connection::Secure { challenge }));
}

/// Runs pending user code.
fn run(peer: &mut Peer) {
    let step: LoginStep = peer
        .machine
        .poll_login()
        .expect("a step of the login is pending");
    assert!(peer.machine.poll_login().is_none(), "it is returned once");
    let outcome = step.run();
    peer.machine.handle_login(outcome);
}

/// Returns the state machine's response: the mechanism in `start-ok`, and the response.
fn response(peer: &mut Peer) -> (Option<String>, String) {
    let sent = peer.take();
    let [sent] = sent.as_slice() else {
        panic!("{sent:?}")
    };
    match sent.method() {
        Method::Connection(connection::Method::StartOk(ok)) => (
            Some(ok.mechanism.to_string()),
            ok.response.escape_ascii().to_string(),
        ),
        Method::Connection(connection::Method::SecureOk(ok)) => {
            (None, ok.response.escape_ascii().to_string())
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn opens(peer: &mut Peer, promise: PromiseId) {
    peer.method(0, &tune(2047, 131_072, 60));
    peer.method(0, &connection::OpenOk {});
    assert!(matches!(
        peer.machine.fetch(promise),
        Some(Ok(Reply::Connected(_)))
    ));
}

#[test]
fn each_mechanism_sends_its_name_and_its_response() {
    for (mechanism, name, bytes) in [
        (AuthMechanism::Plain, "PLAIN", "\\x00u\\x00p"),
        (
            AuthMechanism::Amqplain,
            "AMQPLAIN",
            "\\x05LOGINS\\x00\\x00\\x00\\x01u\\x08PASSWORDS\\x00\\x00\\x00\\x01p",
        ),
        (AuthMechanism::External, "EXTERNAL", ""),
        (AuthMechanism::RabbitCrDemo, "RABBIT-CR-DEMO", "u"),
        (AuthMechanism::Anonymous, "ANONYMOUS", ""),
    ] {
        let options = Options::default()
            .credentials("u", "p")
            .auth_mechanisms(&[mechanism]);
        let (mut peer, promise) =
            started(options, b"ANONYMOUS RABBIT-CR-DEMO EXTERNAL AMQPLAIN PLAIN");
        assert_eq!(response(&mut peer), (Some(name.into()), bytes.into()));
        if mechanism == AuthMechanism::RabbitCrDemo {
            challenge(&mut peer, b"Please tell me your password");
            assert_eq!(response(&mut peer), (None, "My password is p".into()));
        }
        opens(&mut peer, promise);
    }
}

#[test]
fn challenge_reaches_the_mechanism_through_a_driver() {
    let pipe = Pipe::default();
    let (_client, mut driver) = puka::open(pipe.clone(), ManualClock::default(), counting());
    pipe.feed(&start(&rabbitmq(), b"COUNTING"));
    assert!(pipe.poll(&mut driver).is_none());
    pipe.take_written();
    pipe.feed(&method(0, &connection::Secure { challenge: b"why" }));
    assert!(pipe.poll(&mut driver).is_none());
    let frames = pipe.frames();
    let Method::Connection(connection::Method::SecureOk(ok)) = frames[0].method() else {
        panic!()
    };
    assert_eq!(ok.response, b"guest 1 why");
}

#[test]
fn custom_mechanism_is_preferred_and_answers_challenges() {
    let (mut peer, promise) = started(counting(), b"PLAIN COUNTING");
    assert!(
        peer.names().is_empty(),
        "nothing is written before it has responded"
    );
    run(&mut peer);
    assert_eq!(
        response(&mut peer),
        (Some("COUNTING".into()), "hello from guest".into())
    );
    for number in 1..=8 {
        challenge(&mut peer, b"why");
        run(&mut peer);
        assert_eq!(response(&mut peer), (None, format!("guest {number} why")));
    }
    opens(&mut peer, promise);
}

#[test]
fn e20_ninth_challenge_ends_the_login() {
    let (mut peer, promise) = started(counting(), b"COUNTING");
    run(&mut peer);
    for _ in 0..8 {
        challenge(&mut peer, b"");
        run(&mut peer);
    }
    assert_eq!(peer.names().len(), 9);
    challenge(&mut peer, b"");
    assert!(peer.machine.poll_login().is_none());
    let error = peer.error(promise);
    assert!(
        matches!(&error, Error::CommandInvalid(_)) && error.to_string().contains('8'),
        "{error}"
    );
    assert!(peer.names().is_empty() && peer.machine.is_closed());
}

#[test]
fn failed_challenge_ends_the_login_with_its_reason() {
    let (mut peer, promise) = started(counting(), b"COUNTING");
    run(&mut peer);
    challenge(&mut peer, b"nonsense");
    run(&mut peer);
    let Error::CannotLogIn(cause) = peer.error(promise) else {
        panic!("another error")
    };
    assert_eq!(cause.to_string(), "the server talks nonsense");
    assert_eq!(peer.names(), ["0 connection.start-ok"]);

    let (mut peer, promise) = started(Options::default(), b"PLAIN");
    challenge(&mut peer, b"?");
    assert!(matches!(peer.error(promise), Error::CannotLogIn(_)));
    assert_eq!(peer.names(), ["0 connection.start-ok"]);
}

#[test]
fn e20_frames_during_the_credentials_request_end_the_handshake() {
    for bytes in [
        method(0, &tune(0, 0, 0)),
        method(0, &connection::Secure { challenge: b"" }),
        method(0, &connection::OpenOk {}),
        start(&rabbitmq(), b"COUNTING"),
    ] {
        let (mut peer, promise) = started(counting(), b"COUNTING");
        let step = peer.machine.poll_login().unwrap();
        peer.feed(&bytes);
        assert!(matches!(peer.error(promise), Error::CommandInvalid(_)));
        peer.machine.handle_login(step.run());
        assert!(peer.names().is_empty() && peer.machine.is_closed());
    }
}

#[test]
fn outcome_that_comes_too_late_does_nothing() {
    let (mut peer, promise) = started(counting(), b"COUNTING");
    let step = peer.machine.poll_login().unwrap();
    peer.pass(Duration::from_secs(10));
    assert!(matches!(
        peer.error(promise),
        Error::Timeout {
            what: "the handshake",
            ..
        }
    ));
    peer.machine.handle_login(step.run());
    assert!(peer.names().is_empty() && peer.machine.is_over());

    let (mut peer, promise) = started(counting(), b"COUNTING");
    let step = peer.machine.poll_login().unwrap();
    peer.method(0, &close(320, "CONNECTION_FORCED - going down"));
    assert!(matches!(peer.error(promise), Error::ConnectionForced(_)));
    peer.machine.handle_login(step.run());
    assert_eq!(peer.names(), ["0 connection.close-ok"]);
}

#[test]
fn e23_oversized_challenge_response_is_a_local_error() {
    struct Verbose;
    impl SaslMechanism for Verbose {
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
            Ok(SECRET.repeat(2000).into_bytes())
        }
    }
    let (mut peer, promise) = started(
        Options::default()
            .custom_mechanism("VERBOSE", || Verbose)
            .unwrap(),
        b"VERBOSE",
    );
    run(&mut peer);
    challenge(&mut peer, b"");
    run(&mut peer);
    let error = peer.error(promise).to_string();
    assert!(
        error.contains("initial_frame_max") && !error.contains(SECRET),
        "{error}"
    );
    assert_eq!(peer.names(), ["0 connection.start-ok"]);
}

#[test]
fn credentials_are_requested_at_each_login() {
    let logins = AtomicUsize::new(0);
    let options = Options::default().credentials_from(move || {
        Ok(Credentials::new(
            "token",
            format!("{SECRET}{}", logins.fetch_add(1, Ordering::Relaxed)),
        ))
    });
    assert!(!format!("{options:?}").contains(SECRET));
    for login in 0..3 {
        let (mut peer, promise) = started(options.clone(), b"PLAIN");
        assert!(peer.names().is_empty());
        run(&mut peer);
        assert_eq!(
            response(&mut peer).1,
            format!("\\x00token\\x00{SECRET}{login}")
        );
        opens(&mut peer, promise);
    }
}

#[test]
fn mechanism_without_credentials_requests_none() {
    let options = Options::default().credentials_from(|| Err("asked".into()));
    let (mut peer, promise) = started(
        options.auth_mechanisms(&[AuthMechanism::External]),
        b"EXTERNAL",
    );
    run(&mut peer);
    assert_eq!(
        response(&mut peer),
        (Some("EXTERNAL".into()), String::new())
    );
    opens(&mut peer, promise);
}

#[test]
fn failed_credential_source_ends_login_with_its_reason() {
    let (mut peer, promise) = started(
        Options::default().credentials_from(|| Err("the vault is sealed".into())),
        b"PLAIN",
    );
    run(&mut peer);
    let error = peer.error(promise);
    assert_eq!(error.to_string(), "cannot log in");
    let cause = std::error::Error::source(&error).unwrap();
    assert_eq!(cause.to_string(), "the vault is sealed");
    assert!(peer.names().is_empty() && peer.machine.is_closed());

    let long =
        Options::default().credentials_from(|| Ok(Credentials::new("é".repeat(128), SECRET)));
    let (mut peer, promise) = started(long, b"PLAIN");
    run(&mut peer);
    let error = peer.error(promise).to_string();
    assert!(error.contains("255") && !error.contains(SECRET), "{error}");
    assert!(peer.names().is_empty());
}

#[test]
fn e24_forbidden_plain_transport_carries_no_password() {
    let strict = Options::default().refuse_unencrypted_login(true);
    let mut peer = Peer::new(strict.clone());
    let promise = peer.machine.connect();
    assert!(matches!(peer.error(promise), Error::UnencryptedLogin));
    assert!(
        peer.names().is_empty() && peer.machine.is_over(),
        "before anything is written"
    );

    let (mut peer, promise) = started(
        strict
            .clone()
            .auth_mechanisms(&[AuthMechanism::Plain, AuthMechanism::External]),
        b"PLAIN",
    );
    assert!(matches!(peer.error(promise), Error::UnencryptedLogin));
    assert!(peer.names().is_empty());

    let (mut peer, promise) = started(strict.encrypted_transport(true), b"PLAIN");
    assert_eq!(response(&mut peer).0.as_deref(), Some("PLAIN"));
    opens(&mut peer, promise);
}

#[test]
fn causes_of_a_failed_login_are_distinct() {
    let (mut peer, promise) = started(Options::default(), b"SCRAM-SHA-256");
    assert!(matches!(peer.error(promise), Error::NoMechanism { .. }));
    let refused = |bytes: Vec<u8>| {
        let (mut peer, promise) = started(Options::default(), b"PLAIN");
        peer.feed(&bytes);
        peer.error(promise)
    };
    let password = refused(method(0, &close(403, "ACCESS_REFUSED - Login was refused")));
    assert!(matches!(password, Error::AccessRefused(_)));
    let text = "NOT_ALLOWED - access to vhost 'v' refused for user 'u'";
    let host = refused([method(0, &tune(0, 0, 0)), method(0, &close(530, text))].concat());
    assert!(matches!(host, Error::NotAllowed(_)));
}

#[test]
fn user_id_is_compared_with_a_known_login() {
    let as_user = |peer: &mut Peer, user| {
        let mut properties = Properties::default();
        properties.user_id = Some(crate::peer::short(user));
        let publish = Publish {
            properties: &properties,
            ..crate::peer::publish("", &b"x"[..])
        };
        peer.machine.publish(&publish).map(|_| ())
    };
    let options = Options::default().credentials_from(|| Ok(Credentials::new("token", SECRET)));
    let (mut peer, promise) = started(options, b"PLAIN");
    assert!(
        as_user(&mut peer, "guest").is_ok(),
        "the user is still unknown"
    );
    run(&mut peer);
    opens(&mut peer, promise);
    assert!(as_user(&mut peer, "token").is_ok());
    assert!(matches!(
        as_user(&mut peer, "guest"),
        Err(Error::InvalidArgument {
            what: "user_id",
            ..
        })
    ));

    let external = Options::default().auth_mechanisms(&[AuthMechanism::External]);
    let (mut peer, promise) = started(external, b"EXTERNAL");
    opens(&mut peer, promise);
    assert!(as_user(&mut peer, "the name in the certificate").is_ok());
}

#[test]
fn v9_user_code_runs_without_the_lock() {
    let client = Arc::new(OnceLock::<puka::Client>::new());
    let theirs = client.clone();
    let options = Options::default().credentials_from(move || {
        // If a lock were held, this would block for ever.
        let promise = theirs.get().ok_or("no client")?.queue_declare("q").send();
        drop(promise);
        Ok(Credentials::new("guest", "guest"))
    });
    let pipe = Pipe::default();
    let (opened, mut driver) = puka::open(pipe.clone(), ManualClock::default(), options);
    client.set(opened).unwrap();
    pipe.feed(&start(&rabbitmq(), b"PLAIN"));
    assert!(pipe.poll(&mut driver).is_none());
    assert!(
        pipe.take_written()
            .windows(11)
            .any(|bytes| bytes == b"guest\0guest"),
        "logged in at once"
    );
}

#[test]
fn private_or_encrypted_transport_accepts_any_login() {
    let strict = Options::default().refuse_unencrypted_login(true);
    for (is_private, says_encrypted, logs_in) in [
        (false, false, false),
        (true, false, true),
        (false, true, true),
        (true, true, true),
    ] {
        let mut peer = Peer::undialled(strict.clone().encrypted_transport(says_encrypted));
        let promise = peer.machine.connect();
        let endpoint = peer.until_dialling().first;
        peer.machine
            .handle_dialled(peer.now, Dialled::new(endpoint, is_private));
        assert_eq!(peer.names(), ["protocol header"]);
        peer.feed(&start(&rabbitmq(), b"PLAIN"));
        if logs_in {
            assert_eq!(peer.names(), ["0 connection.start-ok"]);
        } else {
            assert!(matches!(peer.error(promise), Error::UnencryptedLogin));
            assert!(peer.names().is_empty());
        }
    }
}

/// Loses the connection, and returns the response of the next login.
fn next_response(peer: &mut Peer) -> String {
    if !peer.machine.is_down() {
        peer.machine.handle_loss(Broken::Eof);
    }
    peer.dial();
    assert_eq!(peer.names(), ["protocol header"]);
    peer.feed(&start(&rabbitmq(), b"PLAIN"));
    response(peer).1
}

#[test]
fn last_secret_counts_at_the_next_login() {
    let update = |peer: &mut Peer, secret: &str| {
        let secret = secret.as_bytes();
        let promise = peer.machine.update_secret(secret, short("expired"));
        assert_eq!(peer.names(), ["0 connection.update-secret"]);
        promise.unwrap()
    };
    let mut peer = dialled();
    let promise = update(&mut peer, "second");
    peer.method(0, &connection::UpdateSecretOk {});
    peer.expect_done(promise);
    assert_eq!(next_response(&mut peer), "\\x00guest\\x00second");

    // The broker may have accepted the third, and the program has sent it because the others
    // expire.
    let mut peer = dialled();
    update(&mut peer, "second");
    let third = update(&mut peer, "third");
    peer.method(0, &connection::UpdateSecretOk {});
    assert_eq!(next_response(&mut peer), "\\x00guest\\x00third");
    assert!(matches!(peer.error(third), Error::ConnectionBroken(_)));

    let mut peer = dialled();
    let accepted = (0..20).map(|_| peer.machine.update_secret(b"more", short("expired")));
    assert_eq!(accepted.filter(Result::is_ok).count(), 8);

    let mut peer = dialled();
    let refused = update(&mut peer, "refused");
    peer.method(0, &close(530, "NOT_ALLOWED - refused"));
    assert_eq!(next_response(&mut peer), "\\x00guest\\x00guest");
    assert!(matches!(peer.error(refused), Error::NotAllowed(_)));
}
