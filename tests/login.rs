//! Logins to the broker in memory, end to end: every mechanism, and every refusal.

use puka::{AuthMechanism, Credentials, Error, Options};
use puka_test_broker::{Config, Server, User};
use std::sync::{Arc, Mutex};

const MECHANISMS: [AuthMechanism; 5] = [
    AuthMechanism::Plain,
    AuthMechanism::Amqplain,
    AuthMechanism::RabbitCrDemo,
    AuthMechanism::External,
    AuthMechanism::Anonymous,
];

fn config() -> Config {
    let confined = User {
        vhosts: Some(Vec::new()),
        ..User::new("confined", "secret")
    };
    Config {
        users: vec![User::new("user", "secret"), confined],
        mechanisms: MECHANISMS
            .iter()
            .map(|mechanism| mechanism.name().to_owned())
            .collect(),
        anonymous_user: "user".into(),
        external_user: Some("user".into()),
        ..Config::default()
    }
}

/// Logs in, and publishes with a user id.
fn log_in(server: &Server, options: Options, user: &str) -> Result<(), Error> {
    let (client, driver) = puka::open(server.connect(), puka_smol::Clock, options);
    let driven = async {
        let _ = driver.await;
        std::future::pending().await
    };
    let publishing = async {
        client.connect().await?;
        client
            .basic_publish("", "nowhere", "x")
            .user_id(user)
            .await?;
        client.close().await
    };
    smol::block_on(smol::future::or(publishing, driven))
}

#[test]
fn every_mechanism_logs_in_its_user() {
    let server = Server::new(config());
    for mechanism in MECHANISMS {
        let options = Options::default()
            .credentials("user", "secret")
            .auth_mechanisms(&[mechanism]);
        let outcome = log_in(&server, options.clone(), "user");
        assert!(outcome.is_ok(), "{mechanism:?}: {outcome:?}");
        assert!(log_in(&server, options, "other").is_err(), "{mechanism:?}");
    }
}

#[test]
fn wrong_password_and_forbidden_vhost_differ() {
    let server = Server::new(config());
    for mechanism in &MECHANISMS[..3] {
        let options = Options::default().auth_mechanisms(&[*mechanism]);
        let refused = log_in(
            &server,
            options.clone().credentials("user", "wrong"),
            "user",
        )
        .unwrap_err();
        assert!(
            matches!(refused, Error::AccessRefused(_)),
            "{mechanism:?}: {refused}"
        );
        let forbidden = log_in(
            &server,
            options.credentials("confined", "secret"),
            "confined",
        )
        .unwrap_err();
        assert!(
            matches!(forbidden, Error::NotAllowed(_)),
            "{mechanism:?}: {forbidden}"
        );
    }
    let without_user = Server::new(Config {
        external_user: None,
        anonymous_user: "nobody".into(),
        ..config()
    });
    for mechanism in &MECHANISMS[3..] {
        let options = Options::default().auth_mechanisms(&[*mechanism]);
        assert!(
            matches!(
                log_in(&without_user, options, ""),
                Err(Error::AccessRefused(_))
            ),
            "{mechanism:?}"
        );
    }
}

#[test]
fn changed_password_is_requested_again() {
    let password = Arc::new(Mutex::new("wrong"));
    let current = password.clone();
    let options = Options::default().credentials_from(move || {
        Ok(Credentials::new(
            "user",
            *current.lock().map_err(|_| "poisoned")?,
        ))
    });
    let server = Server::new(config());
    assert!(matches!(
        log_in(&server, options.clone(), "user"),
        Err(Error::AccessRefused(_))
    ));
    *password.lock().unwrap() = "secret";
    let outcome = log_in(&server, options, "user");
    assert!(outcome.is_ok(), "{outcome:?}");
}
