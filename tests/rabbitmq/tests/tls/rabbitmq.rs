//! TLS with a real RabbitMQ.

use crate::authority::{Authority, Identity};
use crate::{Outcome, assert_error, run};
use puka::{Endpoint, Error, Options, TlsFault, TlsOptions, TlsSource};
use puka_test_rabbitmq::Node;
use std::sync::LazyLock;

/// A node with TLS that logs in with the common name of a client's certificate, or as always.
struct Secure {
    node: Node,
    authority: Authority,
}

static SECURE: LazyLock<Secure> = LazyLock::new(|| {
    let authority = Authority::new();
    let Identity { certificate, key } = authority.issue(&["localhost", "127.0.0.1"]);
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
        Options::default().endpoint(Endpoint::tcp("localhost", port)).unwrap().tls(tls)
    }

    fn trusting(&self) -> TlsOptions {
        TlsOptions::default().authority(TlsSource::File(self.node.folder().join("authorities.pem")))
    }
}

#[test]
fn messages_of_every_size_go_there_and_back() -> Outcome {
    run(async {
        let client = puka_smol::connect_with(SECURE.options(SECURE.trusting())).await?;
        assert!(SECURE.node.ctl(&["list_connections", "ssl"])?.contains("true"));
        let queue = client.queue_declare("").exclusive(true).await?.name;
        let mut messages = client.basic_consume(&queue).prefetch_count(10).await?;
        for size in [0, 1, 16_383, 16_384, 16_385, 131_072, 5_000_000] {
            let body: Vec<u8> = (0..size).map(|n: u32| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
            let publish = client.basic_publish("", &queue, &body).send();
            let message = messages.next().await.ok_or("ended")??;
            assert!(message.body() == body, "{size} octets");
            message.ack()?;
            publish.await?;
        }
        let many: Vec<_> =
            (0..2000).map(|n| client.basic_publish("", &queue, n.to_string()).send()).collect();
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
fn an_amqps_uri_is_enough_when_the_system_trusts_the_broker_and_refused_when_not() -> Outcome {
    run(async {
        let uri = format!("amqps://localhost:{}", SECURE.node.tls_port().expect("a port"));
        assert_error!(puka_smol::connect(&uri).await, Error::Tls(TlsFault::UnknownIssuer(_)));
        Ok(())
    })
}

#[test]
fn a20_a_broker_of_another_name_is_refused() -> Outcome {
    run(async {
        let tls = SECURE.trusting().server_name("broker.example");
        assert_error!(puka_smol::connect_with(SECURE.options(tls)).await, Error::Tls(TlsFault::WrongName(_)));
        Ok(())
    })
}

#[test]
fn ports_that_are_mixed_up_are_found_out() -> Outcome {
    run(async {
        let plain = format!("amqps://localhost:{}", SECURE.node.port());
        assert_error!(puka_smol::connect(&plain).await, Error::Tls(TlsFault::NotTls(_)));
        let tls = format!("amqp://localhost:{}", SECURE.node.tls_port().expect("a port"));
        let error = puka_smol::connect(&tls).await.err().expect("an error");
        assert!(matches!(error, Error::NotAmqp(_) | Error::ConnectionBroken(_)), "{error:?}");
        Ok(())
    })
}

#[test]
fn a_wrong_password_is_refused_over_tls_too() -> Outcome {
    run(async {
        let options = SECURE.options(SECURE.trusting()).credentials("guest", "opensesame");
        assert_error!(puka_smol::connect_with(options).await, Error::AccessRefused(_));
        Ok(())
    })
}

#[test]
fn a_certificate_of_an_authority_that_the_broker_does_not_know_is_refused() -> Outcome {
    run(async {
        let (certificate, key) = Authority::new().issue(&["guest"]).sources();
        let options = SECURE.options(SECURE.trusting().client_certificate(certificate, key));
        let error = puka_smol::connect_with(options).await.err().expect("an error");
        assert!(error.to_string().contains("refused"), "{error:?}");
        Ok(())
    })
}
