//! The client without a runtime over TLS: the same options, errors and deadlines.

use crate::server::{ONLY_1_2, ONLY_1_3, TlsServer, certificate, server_that};
use crate::{Outcome, assert_error, source};
use puka::{Broken, Endpoint, Error, Options, TlsFault, TlsOptions, TlsSource, evented};
use puka_test_rabbitmq::{Authority, Identity};
use rustls::RootCertStore;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A timeout far longer than any test takes, so that a hanging test fails.
const SOON: Option<Duration> = Some(Duration::from_secs(20));

const LIMIT: Duration = Duration::from_millis(300);

fn trusting(authority: &Authority) -> TlsOptions {
    TlsOptions::default().authority(source(&authority.pem()))
}

fn hello(options: Options) -> Result<(), Error> {
    let mut conn = evented::connect_with(options.refuse_unencrypted_login(true))?;
    let client = conn.client();
    let queue = conn
        .wait(&mut client.queue_declare("hello").send(), SOON)?
        .name;
    let body: Vec<u8> = (0..3_u32 << 20).map(|n| n.to_le_bytes()[1]).collect();
    conn.wait(&mut client.basic_publish("", &queue, &body).send(), SOON)?;
    let delivery = conn
        .wait(&mut client.basic_get(&queue).send(), SOON)?
        .expect("a message");
    assert!(delivery.body() == body);
    delivery.ack()?;
    conn.wait(&mut client.close(), SOON)
}

fn refused(options: Options) -> Result<(), Error> {
    let mut conn = evented::connect_with(options)?;
    conn.wait(&mut conn.client().connect(), SOON).map(drop)
}

/// Connects to a server with this behaviour. Returns the outcome and the elapsed time.
fn attempt(
    acts: impl FnOnce(TcpStream) -> io::Result<()> + Send + 'static,
) -> (Result<(), Error>, Duration) {
    let options = server_that("localhost", TlsOptions::default(), acts).tls_timeout(LIMIT);
    let start = Instant::now();
    (refused(options), start.elapsed())
}

/// Waits until the client has closed the connection.
fn until_end(mut socket: TcpStream) -> io::Result<()> {
    socket.read_to_end(&mut Vec::new()).map(drop)
}

#[test]
fn server_of_our_authority_works_with_either_version() -> Outcome {
    let authority = Authority::new().unwrap();
    for versions in [ONLY_1_2, ONLY_1_3] {
        let server = TlsServer {
            versions,
            ..TlsServer::new(authority.issue(&["localhost"]).unwrap())
        };
        let (options, names) = server.serve("localhost", trusting(&authority));
        hello(options)?;
        assert_eq!(names.recv()?.as_deref(), Some("localhost"));
    }
    Ok(())
}

#[test]
fn a20_server_with_a_wrong_identity_is_refused() -> Outcome {
    let authority = Authority::new().unwrap();
    let at = |identity: Identity| {
        TlsServer::new(identity)
            .serve("localhost", trusting(&authority))
            .0
    };
    let elsewhere = at(authority.issue(&["elsewhere"]).unwrap());
    assert_error!(refused(elsewhere), Error::Tls(TlsFault::WrongName(_)));
    let expired = at(authority.issue_expired(&["localhost"]).unwrap());
    assert_error!(refused(expired), Error::Tls(TlsFault::Expired(_)));
    let alone = at(Identity::self_signed(&["localhost"]).unwrap());
    assert_error!(refused(alone), Error::Tls(TlsFault::UnknownIssuer(_)));

    let anything = TlsOptions::default().danger_accept_any_certificate(true);
    let alone = Identity::self_signed(&["elsewhere"]).unwrap();
    Ok(hello(TlsServer::new(alone).serve("localhost", anything).0)?)
}

#[test]
fn another_name_can_be_expected() -> Outcome {
    let authority = Authority::new().unwrap();
    let server = TlsServer::new(authority.issue(&["broker.example"]).unwrap());
    let (options, names) = server.serve(
        "127.0.0.1",
        trusting(&authority).server_name("broker.example"),
    );
    hello(options)?;
    assert_eq!(names.recv()?.as_deref(), Some("broker.example"));
    Ok(())
}

#[test]
fn server_without_tls_is_named_in_the_error() -> Outcome {
    let (outcome, _) = attempt(|mut socket| {
        socket.read_exact(&mut [0; 64])?;
        socket.write_all(b"AMQP\0\0\x09\x01")?;
        until_end(socket)
    });
    assert_error!(outcome, Error::Tls(TlsFault::NotTls(_)));
    Ok(())
}

#[test]
fn server_requiring_a_certificate_refuses_clients_without_one() -> Outcome {
    let (authority, clients) = (Authority::new().unwrap(), Authority::new().unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&clients.pem()))?;
    for versions in [ONLY_1_2, ONLY_1_3] {
        let identity = authority.issue(&["localhost"]).unwrap();
        let server = TlsServer {
            versions,
            wants: Some(roots.clone()),
            ..TlsServer::new(identity)
        };
        let error = refused(server.serve("localhost", trusting(&authority)).0).unwrap_err();
        // With TLS 1.3 the server refuses the client after the client's handshake is complete.
        let is_refused = matches!(error, Error::Tls(TlsFault::Refused(_)))
            || matches!(&error, Error::ConnectionBroken(Broken::Io(io))
            if io.get_ref().is_some_and(|inner| {
                matches!(inner.downcast_ref(), Some(TlsFault::Refused(_)))
            }));
        assert!(is_refused, "{error:?}");
    }
    Ok(())
}

#[test]
fn unusable_options_are_refused_at_once() -> Outcome {
    let tls = TlsOptions::default().authority(TlsSource::File("/nowhere/ca.pem".into()));
    // The port has no listener.
    let options = Options::from_uri("amqps://127.0.0.1:1")?.tls(tls);
    assert_error!(
        evented::connect_with(options),
        Error::InvalidArgument {
            what: "tls authority",
            ..
        }
    );
    Ok(())
}

#[test]
fn silent_server_is_given_up_in_time() -> Outcome {
    let (outcome, took) = attempt(until_end);
    assert_error!(outcome, Error::Timeout { what: "the TLS handshake", after } if *after == LIMIT);
    assert!(took >= LIMIT && took < 20 * LIMIT, "{took:?}");
    Ok(())
}

#[test]
fn trickling_server_is_given_up_in_time() -> Outcome {
    let (outcome, took) = attempt(|mut socket| {
        // The header of a handshake record that never ends.
        for byte in [22, 3, 3, 64, 0, 2, 0, 63, 250]
            .into_iter()
            .chain(std::iter::repeat(0))
        {
            socket.write_all(&[byte])?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    });
    assert_error!(
        outcome,
        Error::Timeout {
            what: "the TLS handshake",
            ..
        }
    );
    assert!(took >= LIMIT && took < 20 * LIMIT, "{took:?}");
    Ok(())
}

#[test]
fn end_of_stream_in_handshake_breaks_the_connection() -> Outcome {
    let (outcome, _) = attempt(|mut socket| {
        // The client's bytes are read, so the close ends the stream and does not reset it.
        socket.read(&mut vec![0; 1 << 14]).map(drop)?;
        socket.shutdown(Shutdown::Write)?;
        until_end(socket)
    });
    assert_error!(outcome, Error::ConnectionBroken(Broken::Eof));
    Ok(())
}

#[test]
fn loop_waits_for_socket_and_deadline_during_handshake() -> Outcome {
    let options = server_that("localhost", TlsOptions::default(), until_end);
    let hour = Duration::from_secs(3600);
    let mut conn = evented::connect_with(options.tls_timeout(hour).request_timeout(2 * hour))?;
    let mut connect = conn.client().connect();
    while !conn.needs_read() {
        assert!(
            conn.needs_write(),
            "a socket that has connected can be written to"
        );
        conn.on_write()?;
    }
    assert!(!conn.needs_write());
    let next = conn.next_timeout().expect("a deadline");
    let left = next - Instant::now();
    assert!(left > hour / 2 && left <= hour, "{left:?}");
    conn.on_read()?;
    assert!(conn.needs_read() && !conn.is_over());
    assert!(conn.on_timeout(next).is_err());
    assert_error!(
        conn.wait(&mut connect, SOON),
        Error::Timeout {
            what: "the TLS handshake",
            ..
        }
    );
    Ok(())
}

#[test]
fn next_endpoint_is_tried_after_a_failed_server() -> Outcome {
    let dead = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let broken = server_that("localhost", TlsOptions::default(), |socket| {
        socket.peek(&mut [0; 1]).map(drop)
    });
    let authority = Authority::new().unwrap();
    let (good, _) = TlsServer::new(authority.issue(&["localhost"]).unwrap())
        .serve("localhost", trusting(&authority));
    let turn = [
        Endpoint::tcp("localhost", dead),
        broken.get_endpoints()[0].clone(),
        good.get_endpoints()[0].clone(),
    ];
    Ok(hello(good.endpoints(turn)?)?)
}
