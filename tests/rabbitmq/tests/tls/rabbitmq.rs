//! TLS with a real RabbitMQ.

use crate::{Outcome, assert_error, run, sources};
use puka::{
    AuthMechanism, Client, Endpoint, Error, Options, TlsFault, TlsOptions, TlsSource, evented,
};
use puka_test_rabbitmq::{Authority, Identity, Node};
use std::net::Shutdown;
use std::sync::LazyLock;
use std::time::Duration;

/// A node with TLS that accepts the common name of a client's certificate as the user, and other
/// logins.
struct Secure {
    node: Node,
    authority: Authority,
}

static SECURE: LazyLock<Secure> = LazyLock::new(|| {
    let authority = Authority::new().unwrap();
    let Identity { certificate, key } = authority.issue(&["localhost", "127.0.0.1"]).unwrap();
    let node = Node::builder()
        .tls(&authority.pem(), &certificate, &key)
        .plugin("rabbitmq_auth_mechanism_ssl")
        .config("ssl_options.verify = verify_peer")
        .config("auth_mechanisms.1 = EXTERNAL")
        .config("auth_mechanisms.2 = PLAIN")
        .config("auth_mechanisms.3 = AMQPLAIN")
        .config("ssl_cert_login_from = common_name")
        .start()
        .expect("a node with TLS");
    Secure { node, authority }
});

impl Secure {
    fn options(&self, tls: TlsOptions) -> Options {
        let port = self.node.tls_port().expect("a port for TLS");
        Options::default()
            .endpoint(Endpoint::tcp("localhost", port))
            .unwrap()
            .tls(tls)
    }

    fn trusting(&self) -> TlsOptions {
        TlsOptions::default().authority(TlsSource::File(self.node.folder().join("authorities.pem")))
    }
}

#[test]
fn messages_of_every_size_go_there_and_back() -> Outcome {
    run(async {
        let client = puka_smol::connect_with(SECURE.options(SECURE.trusting())).await?;
        assert!(
            SECURE
                .node
                .ctl(&["list_connections", "ssl"])?
                .contains("true")
        );
        let queue = client.queue_declare("").exclusive(true).await?.name;
        let mut messages = client.basic_consume(&queue).prefetch_count(10).await?;
        for size in [0, 1, 16_383, 16_384, 16_385, 131_072, 5_000_000] {
            let body: Vec<u8> = (0..size)
                .map(|n: u32| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
                .collect();
            let publish = client.basic_publish("", &queue, &body).send();
            let message = messages.next().await.ok_or("ended")??;
            assert!(message.body() == body, "{size} bytes");
            message.ack()?;
            publish.await?;
        }
        let many: Vec<_> = (0..2000)
            .map(|n| client.basic_publish("", &queue, n.to_string()).send())
            .collect();
        for n in 0..2000 {
            let message = messages.next().await.ok_or("ended")??;
            assert_eq!(message.body(), n.to_string().as_bytes());
            message.ack()?;
        }
        for publish in many {
            publish.await?;
        }
        Ok(client.close().await?)
    })
}

#[test]
fn amqps_uri_alone_requires_a_system_trusted_broker() -> Outcome {
    run(async {
        let uri = format!(
            "amqps://localhost:{}",
            SECURE.node.tls_port().expect("a port")
        );
        assert_error!(
            puka_smol::connect(&uri).await,
            Error::Tls(TlsFault::UnknownIssuer(_))
        );
        Ok(())
    })
}

#[test]
fn a20_broker_of_another_name_is_refused() -> Outcome {
    run(async {
        let tls = SECURE.trusting().server_name("broker.example");
        assert_error!(
            puka_smol::connect_with(SECURE.options(tls)).await,
            Error::Tls(TlsFault::WrongName(_))
        );
        Ok(())
    })
}

#[test]
fn ports_that_are_mixed_up_are_found_out() -> Outcome {
    run(async {
        let plain = format!("amqps://localhost:{}", SECURE.node.port());
        assert_error!(
            puka_smol::connect(&plain).await,
            Error::Tls(TlsFault::NotTls(_))
        );
        let tls = format!(
            "amqp://localhost:{}",
            SECURE.node.tls_port().expect("a port")
        );
        let error = puka_smol::connect(&tls).await.unwrap_err();
        let port = SECURE.node.tls_port();
        assert!(
            matches!(error, Error::TlsExpected { port: found, .. } if Some(found) == port),
            "{error:?}"
        );
        Ok(())
    })
}

#[test]
fn wrong_password_is_refused_over_tls() -> Outcome {
    run(async {
        let options = SECURE
            .options(SECURE.trusting())
            .credentials("guest", "opensesame");
        assert_error!(
            puka_smol::connect_with(options).await,
            Error::AccessRefused(_)
        );
        Ok(())
    })
}

#[test]
fn certificate_of_an_unknown_authority_is_refused() -> Outcome {
    run(async {
        let (certificate, key) = sources(&Authority::new().unwrap().issue(&["guest"]).unwrap());
        let options = SECURE.options(SECURE.trusting().client_certificate(certificate, key));
        let error = puka_smol::connect_with(options).await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error:?}");
        Ok(())
    })
}

#[test]
fn every_adapter_speaks_tls() -> Outcome {
    async fn hello(client: Client) -> Result<(), Error> {
        let queue = client.queue_declare("").exclusive(true).await?.name;
        client
            .basic_publish("", &queue, vec![7; 1 << 20])
            .mandatory(true)
            .await?;
        let delivery = client.basic_get(&queue).await?.expect("a message");
        assert_eq!(delivery.body().len(), 1 << 20);
        delivery.ack()?;
        client.close().await
    }
    let options = || {
        SECURE
            .options(SECURE.trusting())
            .refuse_unencrypted_login(true)
    };
    run(async { Ok(hello(puka_smol::connect_with(options()).await?).await?) })?;
    run(async { Ok(hello(puka_async_std::connect_with(options()).await?).await?) })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(async { hello(puka_tokio::connect_with(options()).await?).await })?)
}

#[test]
fn password_is_withheld_from_unencrypted_connections_on_request() -> Outcome {
    run(async {
        let options = Options::from_uri(&SECURE.node.url())?.refuse_unencrypted_login(true);
        assert_error!(
            puka_smol::connect_with(options).await,
            Error::UnencryptedLogin
        );
        Ok(())
    })
}

#[test]
fn external_logs_in_as_the_certificates_common_name() -> Outcome {
    SECURE.node.add_user("machine 7", "not used")?;
    SECURE
        .node
        .set_permissions("/", "machine 7", ".*", ".*", ".*")?;
    let identity = SECURE.authority.issue(&["machine 7"]).unwrap();
    let (certificate, key) = sources(&identity);
    let external = |tls| {
        SECURE
            .options(tls)
            .auth_mechanisms(&[AuthMechanism::External])
    };
    run(async {
        let client = puka_smol::connect_with(external(
            SECURE.trusting().client_certificate(certificate, key),
        ))
        .await?;
        let users = SECURE.node.ctl(&[
            "list_connections",
            "user",
            "auth_mechanism",
            "peer_cert_subject",
        ])?;
        assert!(
            users.contains("machine 7") && users.contains("EXTERNAL"),
            "{users}"
        );
        client.queue_declare("").exclusive(true).await?;
        client.close().await?;
        // An unknown user, and no certificate.
        let (certificate, key) = sources(&SECURE.authority.issue(&["stranger"]).unwrap());
        let stranger = external(SECURE.trusting().client_certificate(certificate, key));
        assert_error!(
            puka_smol::connect_with(stranger).await,
            Error::AccessRefused(_)
        );
        let result = puka_smol::connect_with(external(SECURE.trusting())).await;
        assert_error!(result, Error::NoMechanism { .. } | Error::AccessRefused(_));
        Ok(())
    })
}

#[test]
fn evented_client_exchanges_messages_and_recovers_over_tls() -> Outcome {
    let soon = Some(Duration::from_secs(20));
    let mut conn = evented::connect_with(
        SECURE
            .options(SECURE.trusting())
            .refuse_unencrypted_login(true),
    )?;
    let client = conn.client();
    let queue = conn
        .wait(&mut client.queue_declare("").exclusive(true).send(), soon)?
        .name;
    let mut messages = conn.wait(
        &mut client.basic_consume(&queue).prefetch_count(10).send(),
        soon,
    )?;
    for round in 0..3 {
        // The queue is deleted with each connection, so its name does not matter.
        for size in [0, 1, 16_383, 16_384, 16_385, 131_072, 5_000_000] {
            let body: Vec<u8> = (0..size)
                .map(|n: u32| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
                .collect();
            conn.wait(
                &mut client
                    .basic_publish("", &queue, &body)
                    .mandatory(true)
                    .send(),
                soon,
            )?;
            let message = conn.wait(&mut messages, soon)?;
            assert!(message.body() == body, "{size} bytes");
            message.ack()?;
        }
        let many: Vec<_> = (0..2000)
            .map(|n| client.basic_publish("", &queue, n.to_string()).send())
            .collect();
        for n in 0..2000 {
            let message = conn.wait(&mut messages, soon)?;
            assert_eq!(message.body(), n.to_string().as_bytes());
            message.ack()?;
        }
        for mut publish in many {
            conn.wait(&mut publish, soon)?;
        }
        if round < 2 {
            conn.socket()
                .tcp()
                .ok_or("TCP below TLS")?
                .shutdown(Shutdown::Both)?;
            conn.wait(&mut client.queue_declare("").exclusive(true).send(), soon)?;
        }
    }
    conn.wait(&mut client.close(), soon)?;
    let uri = format!(
        "amqps://localhost:{}",
        SECURE.node.tls_port().expect("a port")
    );
    let mut stranger = evented::connect(&uri)?;
    assert_error!(
        stranger.wait(&mut stranger.client().connect(), soon),
        Error::Tls(TlsFault::UnknownIssuer(_))
    );
    let plain = format!("amqps://localhost:{}", SECURE.node.port());
    let mut mixed_up = evented::connect(&plain)?;
    assert_error!(
        mixed_up.wait(&mut mixed_up.client().connect(), soon),
        Error::Tls(TlsFault::NotTls(_))
    );
    Ok(())
}
