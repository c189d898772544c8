//! Tests of the mechanisms: which is chosen, what it sends, and that no secret is printed.

use super::*;
use crate::Options;

const SECRET: &str = "S3KRET";

fn run(mechanism: AuthMechanism, username: &str, password: &str) -> Result<Response, Error> {
    let source = CredentialSource::Fixed(Credentials::new(username, password));
    LoginStep::begin(Mechanism::Known(mechanism), source)
        .run()
        .0
}

#[track_caller]
fn chosen(offered: &[u8], options: &Options) -> String {
    choose(offered, &options.login).unwrap().name().to_owned()
}

#[test]
fn responses_are_as_rabbitmq_reads_them() {
    for (mechanism, bytes) in [
        (AuthMechanism::Plain, &b"\0guest\0secret"[..]),
        (
            AuthMechanism::Amqplain,
            b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x06secret",
        ),
        (AuthMechanism::RabbitCrDemo, b"guest"),
        (AuthMechanism::External, b""),
        (AuthMechanism::Anonymous, b""),
    ] {
        assert_eq!(
            run(mechanism, "guest", "secret").unwrap().bytes.0,
            bytes,
            "{mechanism:?}"
        );
    }
}

#[test]
fn only_rabbit_cr_demo_responds_to_a_challenge() {
    for mechanism in AuthMechanism::ALL {
        let session = run(mechanism, "guest", SECRET).unwrap().session;
        let response = LoginStep::respond(session, b"Please tell me your password")
            .run()
            .0;
        if mechanism != AuthMechanism::RabbitCrDemo {
            assert!(
                matches!(response, Err(Error::CannotLogIn(_))),
                "{mechanism:?}"
            );
            continue;
        }
        let response = response.unwrap();
        assert_eq!(response.bytes.0, b"My password is S3KRET");
        let again = LoginStep::respond(response.session, b"Please tell me your password")
            .run()
            .0;
        let Err(Error::CannotLogIn(cause)) = again else {
            panic!("a second response")
        };
        assert_eq!(
            cause.to_string(),
            "RABBIT-CR-DEMO has no response to another challenge of the server"
        );
    }
}

#[test]
fn plain_refuses_a_nul() {
    let error = run(AuthMechanism::Plain, "a\0b", SECRET).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }));
    assert!(!format!("{error:?} {error}").contains(SECRET));
}

#[test]
fn username_is_known_for_logins_by_name() {
    let username = |mechanism| run(mechanism, "guest", "").unwrap().username;
    assert_eq!(username(AuthMechanism::Plain).as_deref(), Some("guest"));
    assert_eq!(
        username(AuthMechanism::RabbitCrDemo).as_deref(),
        Some("guest")
    );
    assert_eq!(username(AuthMechanism::External), None);
    assert_eq!(username(AuthMechanism::Anonymous), None);
}

#[test]
fn e24_preferred_offered_mechanism_is_chosen() {
    let options = Options::default();
    assert_eq!(chosen(b"AMQPLAIN PLAIN", &options), "PLAIN");
    assert_eq!(chosen(b"EXTERNAL AMQPLAIN", &options), "AMQPLAIN");
    let error = choose(b"EXTERNAL PLAINER", &options.login).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no common SASL mechanism: the broker offers EXTERNAL PLAINER, \
         the options allow PLAIN AMQPLAIN"
    );
}

#[test]
fn e24_password_mechanisms_are_skipped_when_forbidden() {
    let all = Options::default()
        .auth_mechanisms(&AuthMechanism::ALL)
        .refuse_unencrypted_login(true);
    assert_eq!(
        chosen(b"PLAIN AMQPLAIN RABBIT-CR-DEMO EXTERNAL", &all),
        "EXTERNAL"
    );
    for offered in [&b"PLAIN"[..], b"AMQPLAIN", b"RABBIT-CR-DEMO"] {
        assert!(matches!(
            choose(offered, &all.login),
            Err(Error::UnencryptedLogin)
        ));
    }
    assert!(matches!(
        choose(b"OTHER", &all.login),
        Err(Error::NoMechanism { .. })
    ));
    assert_eq!(
        chosen(b"PLAIN EXTERNAL", &all.encrypted_transport(true)),
        "PLAIN"
    );
}

#[test]
fn a21_no_step_of_a_login_shows_the_password() {
    for mechanism in AuthMechanism::ALL {
        let source = CredentialSource::Fixed(Credentials::new("guest", SECRET));
        let step = LoginStep::begin(Mechanism::Known(mechanism), source);
        let mut shown = format!("{step:?}");
        let outcome = step.run();
        shown += &format!("{outcome:?}");
        shown += &format!(
            "{:?}",
            LoginStep::respond(outcome.0.unwrap().session, SECRET.as_bytes())
        );
        assert!(!shown.contains(SECRET), "{shown}");
    }
}
