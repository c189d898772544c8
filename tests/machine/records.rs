//! A TLS record that arrives in parts counts as input, although none of it can be decrypted yet.

use crate::owners::Net;
use crate::peer::{method, rabbitmq, raw, start, tune};
use crate::pipe::{ManualClock, Pipe};
use puka::protocol::method::connection;
use puka::tls::rustls::crypto::ring::default_provider;
use puka::tls::rustls::pki_types::pem::PemObject;
use puka::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use puka::tls::rustls::{ServerConfig, ServerConnection};
use puka::{Client, ConnectionState, DialDriver, Options, Recovery, TlsOptions};
use puka_test_rabbitmq::Identity;
use std::io::{Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// A TLS server at the other end of a pipe, and the client that is connected to it.
struct World {
    pipe: Pipe,
    clock: ManualClock,
    client: Client,
    driver: DialDriver<Net, ManualClock>,
    session: ServerConnection,
}

fn session() -> ServerConnection {
    let identity = Identity::self_signed(&["localhost"]).unwrap();
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    ServerConnection::new(
        builder
            .with_single_cert(vec![certificate], key)
            .unwrap()
            .into(),
    )
    .unwrap()
}

impl World {
    /// Returns an open connection with a heartbeat of four seconds.
    fn open() -> Self {
        let (pipe, clock) = (Pipe::default(), ManualClock::default());
        let tls = TlsOptions::default().danger_accept_any_certificate(true);
        let options = Options::default()
            .tls(tls)
            .recovery(Recovery::default().retry_first_connect(true));
        let (client, driver) = puka::connect(Net(pipe.clone()), clock.clone(), options);
        let mut world = Self {
            pipe,
            clock,
            client,
            driver,
            session: session(),
        };
        while world.session.is_handshaking() {
            world.exchange();
        }
        let mut sent = start(&rabbitmq(), b"PLAIN");
        sent.extend(method(0, &tune(2047, 131_072, 4)));
        sent.extend(method(0, &connection::OpenOk {}));
        world.session.writer().write_all(&sent).unwrap();
        for _ in 0..3 {
            world.exchange();
        }
        assert!(world.is_open());
        world
    }

    fn poll(&mut self) {
        let polled = Pin::new(&mut self.driver).poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    }

    fn is_open(&self) -> bool {
        matches!(self.client.state(), ConnectionState::Open)
    }

    /// Moves all bytes between client and server.
    fn exchange(&mut self) {
        self.poll();
        let written = self.pipe.take_written();
        let mut written = &written[..];
        while !written.is_empty() {
            self.session.read_tls(&mut written).unwrap();
            self.session.process_new_packets().unwrap();
        }
        let _ = self.session.reader().read_to_end(&mut Vec::new());
        let encrypted = self.encrypted();
        if !encrypted.is_empty() {
            self.pipe.feed(&encrypted);
        }
        self.poll();
    }

    /// Returns what the server has to send.
    fn encrypted(&mut self) -> Vec<u8> {
        let mut encrypted = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut encrypted).unwrap();
        }
        encrypted
    }
}

#[test]
fn partial_tls_record_counts_as_input() {
    let mut world = World::open();
    // As many heartbeats as fit into one record.
    world
        .session
        .writer()
        .write_all(&raw(8, 0, b"").repeat(2_000))
        .unwrap();
    let record = world.encrypted();
    for part in record.chunks(record.len() / 10) {
        world.clock.pass(SECOND);
        world.pipe.feed(part);
        world.poll();
        assert!(world.is_open());
    }
    // Silence is detected nevertheless.
    for _ in 0..6 {
        world.clock.pass(SECOND);
        world.poll();
    }
    assert!(!world.is_open());
}
