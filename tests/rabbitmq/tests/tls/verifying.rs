//! The verification of the server (`a20` in `tests/numbers.txt`): by default, and when an option
//! disables it by name.

use crate::server::{ONLY_1_2, ONLY_1_3, TlsServer, certificate, server_that};
use crate::{Outcome, assert_error, run, source, sources};
use puka::{Broken, Endpoint, Error, Options, TlsFault, TlsOptions, TlsSource, tls};
use puka_test_rabbitmq::{Authority, Identity};
use rustls::{ClientConnection, RootCertStore, StreamOwned};
use std::error::Error as _;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

fn trusting(authority: &Authority) -> TlsOptions {
    TlsOptions::default().authority(source(&authority.pem()))
}

/// Returns the rustls error in the sources of an error.
fn cause(error: &Error) -> &rustls::Error {
    error
        .source()
        .expect("a cause")
        .downcast_ref()
        .expect("rustls's error")
}

async fn hello(options: Options) -> Outcome {
    let client = puka_smol::connect_with(options).await?;
    let queue = client.queue_declare("hello").await?.name;
    let body = vec![7; 3 << 20];
    client.basic_publish("", &queue, &body).await?;
    let delivery = client.basic_get(&queue).await?.ok_or("empty")?;
    assert!(delivery.body() == body);
    delivery.ack()?;
    Ok(client.close().await?)
}

async fn refused(server: TlsServer, host: &str, tls: TlsOptions) -> Result<(), Error> {
    puka_smol::connect_with(server.serve(host, tls).0)
        .await
        .map(drop)
}

#[test]
fn server_of_our_authority_works_with_either_version() -> Outcome {
    let authority = Authority::new().unwrap();
    for version in [ONLY_1_2, ONLY_1_3] {
        let server = TlsServer {
            versions: version,
            ..TlsServer::new(authority.issue(&["localhost"]).unwrap())
        };
        let (options, names) = server.serve("localhost", trusting(&authority));
        run(hello(options))?;
        assert_eq!(names.recv()?.as_deref(), Some("localhost"));
    }
    Ok(())
}

#[test]
fn certificate_for_an_ip_address_is_accepted() -> Outcome {
    let authority = Authority::new().unwrap();
    let server = TlsServer::new(authority.issue(&["127.0.0.1"]).unwrap());
    let (options, names) = server.serve("127.0.0.1", trusting(&authority));
    run(hello(options))?;
    assert_eq!(names.recv()?, None);
    Ok(())
}

#[test]
fn another_name_can_be_expected() -> Outcome {
    let authority = Authority::new().unwrap();
    let server = TlsServer::new(authority.issue(&["broker.example"]).unwrap());
    let (options, names) = server.serve(
        "127.0.0.1",
        trusting(&authority).server_name("broker.example"),
    );
    run(hello(options))?;
    assert_eq!(names.recv()?.as_deref(), Some("broker.example"));
    Ok(())
}

#[test]
fn certificate_is_checked_without_sending_the_server_name() -> Outcome {
    let authority = Authority::new().unwrap();
    let tls = trusting(&authority).send_server_name(false);
    let (options, names) =
        TlsServer::new(authority.issue(&["localhost"]).unwrap()).serve("localhost", tls.clone());
    run(hello(options))?;
    assert_eq!(names.recv()?, None);
    run(async {
        let server = TlsServer::new(authority.issue(&["elsewhere"]).unwrap());
        assert_error!(
            refused(server, "localhost", tls).await,
            Error::Tls(TlsFault::WrongName(_))
        );
        Ok(())
    })
}

#[test]
fn a20_certificate_for_another_name_is_refused() -> Outcome {
    let authority = Authority::new().unwrap();
    run(async {
        for (name, host) in [
            ("elsewhere", "localhost"),
            ("localhost", "127.0.0.1"),
            ("127.0.0.2", "127.0.0.1"),
        ] {
            let server = TlsServer::new(authority.issue(&[name]).unwrap());
            let error = refused(server, host, trusting(&authority))
                .await
                .unwrap_err();
            assert!(
                matches!(error, Error::Tls(TlsFault::WrongName(_))),
                "{error:?}"
            );
            assert!(
                matches!(cause(&error), rustls::Error::InvalidCertificate(_)),
                "{error:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn a20_expired_certificate_is_refused() -> Outcome {
    let authority = Authority::new().unwrap();
    run(async {
        let server = TlsServer::new(authority.issue_expired(&["localhost"]).unwrap());
        assert_error!(
            refused(server, "localhost", trusting(&authority)).await,
            Error::Tls(TlsFault::Expired(_))
        );
        Ok(())
    })
}

#[test]
fn a20_self_signed_certificate_is_refused() -> Outcome {
    let authority = Authority::new().unwrap();
    run(async {
        // Signed by itself, by another authority, and by one that the system does not trust.
        for (identity, tls) in [
            (
                Identity::self_signed(&["localhost"]).unwrap(),
                trusting(&authority),
            ),
            (
                Authority::new().unwrap().issue(&["localhost"]).unwrap(),
                trusting(&authority),
            ),
            (
                Identity::self_signed(&["localhost"]).unwrap(),
                TlsOptions::default(),
            ),
            (
                authority.issue(&["localhost"]).unwrap(),
                TlsOptions::default(),
            ),
        ] {
            let outcome = refused(TlsServer::new(identity), "localhost", tls).await;
            assert_error!(outcome, Error::Tls(TlsFault::UnknownIssuer(_)));
        }
        Ok(())
    })
}

#[test]
fn authority_of_the_same_name_is_not_trusted() -> Outcome {
    let [ours, other] = ["one", "one"].map(|name| Authority::named(name).unwrap());
    run(async {
        let server = TlsServer::new(other.issue(&["localhost"]).unwrap());
        let outcome = refused(server, "localhost", trusting(&ours)).await;
        assert_error!(outcome, Error::Tls(TlsFault::BadCertificate(_)));
        Ok(())
    })
}

#[test]
fn switched_off_by_name_anything_is_accepted() -> Outcome {
    let tls = TlsOptions::default().danger_accept_any_certificate(true);
    for identity in [
        Identity::self_signed(&["elsewhere"]).unwrap(),
        Authority::new()
            .unwrap()
            .issue_expired(&["localhost"])
            .unwrap(),
    ] {
        run(hello(
            TlsServer::new(identity).serve("localhost", tls.clone()).0,
        ))?;
    }
    Ok(())
}

#[test]
fn a20_server_of_tls_1_1_is_refused() -> Outcome {
    // A ServerHello of version 3.2, and the alert of a server that does not support the offered
    // versions.
    let mut hello = vec![22, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    hello.extend([9; 32]);
    hello.extend([0, 0, 0x2f, 0]);
    let alert = vec![21, 3, 2, 0, 2, 2, 70];
    run(async {
        for answer in [hello, alert] {
            let options = server_that("localhost", TlsOptions::default(), move |mut socket| {
                socket.read_exact(&mut [0; 64])?;
                socket.write_all(&answer)?;
                socket.read_to_end(&mut Vec::new()).map(drop)
            });
            assert_error!(
                puka_smol::connect_with(options).await,
                Error::Tls(TlsFault::OldVersion(_))
            );
        }
        Ok(())
    })
}

#[test]
fn server_without_tls_is_named_in_the_error() -> Outcome {
    run(async {
        for words in [
            &b"AMQP\0\0\x09\x01"[..],
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
        ] {
            let options = server_that("localhost", TlsOptions::default(), |mut socket| {
                socket.read_exact(&mut [0; 64])?;
                socket.write_all(words)?;
                socket.read_to_end(&mut Vec::new()).map(drop)
            });
            let error = puka_smol::connect_with(options).await.unwrap_err();
            assert!(
                matches!(error, Error::Tls(TlsFault::NotTls(_))),
                "{words:?}: {error:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn error_reports_a_required_client_certificate() -> Outcome {
    let (authority, clients) = (Authority::new().unwrap(), Authority::new().unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&clients.pem()))?;
    run(async {
        for versions in [ONLY_1_2, ONLY_1_3] {
            let server = TlsServer {
                versions,
                wants: Some(roots.clone()),
                ..TlsServer::new(authority.issue(&["localhost"]).unwrap())
            };
            // With TLS 1.3 the server refuses the client after the client's handshake is complete.
            let error = refused(server, "localhost", trusting(&authority))
                .await
                .unwrap_err();
            let refused = matches!(error, Error::Tls(TlsFault::Refused(_)))
                || matches!(&error, Error::ConnectionBroken(Broken::Io(io))
                if io.get_ref().is_some_and(|inner| {
                    matches!(inner.downcast_ref(), Some(TlsFault::Refused(_)))
                }));
            assert!(
                refused && error.to_string().contains("refused"),
                "{error:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn unusable_options_are_refused_before_dialling() -> Outcome {
    let identity = Authority::new().unwrap().issue(&["x"]).unwrap();
    let other = Authority::new().unwrap().issue(&["x"]).unwrap();
    let (certificate, key) = sources(&identity);
    let with = |key| TlsOptions::default().client_certificate(certificate.clone(), key);
    run(async {
        for (tls, wrong, text) in [
            (
                TlsOptions::default().authority(source("")),
                "tls authority",
                "no certificate",
            ),
            (
                TlsOptions::default().authority(TlsSource::Der(vec![1])),
                "tls authority",
                "",
            ),
            (
                TlsOptions::default().authority(TlsSource::File("/nowhere/ca.pem".into())),
                "tls authority",
                "/nowhere/ca.pem: ",
            ),
            (
                TlsOptions::default().client_certificate(key.clone(), key.clone()),
                "tls client certificate",
                "no certificate",
            ),
            (with(sources(&other).1), "tls client certificate", ""),
            (
                with(source(
                    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE \
                     KEY-----\n",
                )),
                "tls client key",
                "encrypted",
            ),
            (
                with(source(
                    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAA==\n-----END RSA \
                     PRIVATE KEY-----\n",
                )),
                "tls client key",
                "encrypted",
            ),
            (with(source("nothing")), "tls client key", ""),
            (with(TlsSource::Der(vec![1])), "tls client key", ""),
        ] {
            // The port has no listener.
            let options = Options::from_uri("amqps://127.0.0.1:1")?.tls(tls);
            let error = puka_smol::connect_with(options).await.unwrap_err();
            assert!(
                matches!(&error, Error::InvalidArgument { what, .. } if *what == wrong),
                "{error:?}"
            );
            assert!(error.to_string().contains(text), "{error}");
        }
        Ok(())
    })
}

#[test]
fn evented_client_has_the_same_options_and_errors() -> Outcome {
    let authority = Authority::new().unwrap();
    let attempt = |name: &str| -> Result<u8, Error> {
        let server = TlsServer::new(authority.issue(&[name]).unwrap());
        let options = server.serve("localhost", trusting(&authority)).0;
        let [Endpoint::Tcp { host, port }] = options.get_endpoints() else {
            panic!("one was given")
        };
        let session = ClientConnection::new(
            tls::client_config(&options)?,
            tls::server_name(&options, host)?,
        )?;
        let mut stream = StreamOwned::new(session, TcpStream::connect((host.as_str(), *port))?);
        while stream.conn.is_handshaking() {
            stream
                .conn
                .complete_io(&mut stream.sock)
                .map_err(tls::handshake_error)?;
        }
        stream.write_all(b"AMQP\0\0\x09\x01")?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        Ok(first[0])
    };
    assert_eq!(attempt("localhost")?, 1, "a frame with a method");
    assert_error!(attempt("elsewhere"), Error::Tls(TlsFault::WrongName(_)));
    let options = server_that("localhost", TlsOptions::default(), |socket| {
        socket.shutdown(Shutdown::Both)
    });
    let [Endpoint::Tcp { host, port }] = options.get_endpoints() else {
        panic!("one was given")
    };
    let mut session = ClientConnection::new(
        tls::client_config(&options)?,
        tls::server_name(&options, host)?,
    )?;
    let ended = session.complete_io(&mut TcpStream::connect((host.as_str(), *port))?);
    assert_error!(
        ended.map_err(tls::handshake_error),
        Error::ConnectionBroken(_)
    );
    Ok(())
}
