//! Servers for one connection, each on its own thread. Some serve the in-memory broker over TLS,
//! others misbehave.

use puka::{Endpoint, Options, TlsOptions};
use puka_test_broker::Server;
use puka_test_rabbitmq::Identity;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

/// Serves the first connection to a port on a thread. Returns options to connect to it, by the name
/// `localhost` or by its address.
pub(crate) fn server_that(
    host: &str,
    tls: TlsOptions,
    acts: impl FnOnce(TcpStream) -> io::Result<()> + Send + 'static,
) -> Options {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || acts(listener.accept()?.0));
    Options::default()
        .endpoint(Endpoint::tcp(host, port))
        .unwrap()
        .tls(tls)
}

/// Parses a certificate in PEM.
pub(crate) fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// The options of a TLS server.
pub(crate) struct TlsServer {
    pub(crate) identity: Identity,
    pub(crate) versions: &'static [&'static SupportedProtocolVersion],
    /// Requires a client certificate that this authority has signed.
    pub(crate) wants: Option<RootCertStore>,
}

pub(crate) const ONLY_1_2: &[&SupportedProtocolVersion] = &[&TLS12];
pub(crate) const ONLY_1_3: &[&SupportedProtocolVersion] = &[&TLS13];
const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

#[derive(Debug)]
struct Tells(Arc<CertifiedKey>, mpsc::Sender<Option<String>>);

impl ResolvesServerCert for Tells {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let _ = self.1.send(hello.server_name().map(str::to_owned));
        Some(self.0.clone())
    }
}

impl TlsServer {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            versions: BOTH,
            wants: None,
        }
    }

    /// Serves AMQP over TLS to one connection. Returns the options to connect, and the server name
    /// that the client sends.
    pub(crate) fn serve(
        self,
        host: &str,
        tls: TlsOptions,
    ) -> (Options, mpsc::Receiver<Option<String>>) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(self.versions)
            .unwrap();
        let builder = match self.wants {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = provider
            .key_provider
            .load_private_key(PrivateKeyDer::from_pem_slice(self.identity.key.as_bytes()).unwrap())
            .unwrap();
        let (sender, names) = mpsc::channel();
        let tells = Tells(
            Arc::new(CertifiedKey::new(
                vec![certificate(&self.identity.certificate)],
                key,
            )),
            sender,
        );
        let config = Arc::new(builder.with_cert_resolver(Arc::new(tells)));
        let options = server_that(host, tls, move |socket| {
            let session = ServerConnection::new(config).map_err(io::Error::other)?;
            relay(session, socket)
        });
        (options, names)
    }
}

/// Moves bytes between a TLS connection and a broker in memory.
fn relay(mut session: ServerConnection, mut socket: TcpStream) -> io::Result<()> {
    let broker = Server::new(puka_test_broker::Config::default());
    let mut amqp = broker.connect();
    let mut buffer = vec![0; 1 << 16];
    socket.set_read_timeout(Some(Duration::from_millis(1)))?;
    loop {
        while session.wants_write() {
            session.write_tls(&mut socket)?;
        }
        match session.read_tls(&mut socket) {
            Ok(0) => return Ok(()),
            Ok(_) => {
                if let Err(error) = session.process_new_packets() {
                    // This sends the alert to the client.
                    while session.wants_write() {
                        session.write_tls(&mut socket)?;
                    }
                    return Err(io::Error::other(error));
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) => {}
            Err(error) => return Err(error),
        }
        loop {
            match session.reader().read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(bytes) => smol::block_on(smol::io::AsyncWriteExt::write_all(
                    &mut amqp,
                    &buffer[..bytes],
                ))?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let reading = smol::io::AsyncReadExt::read(&mut amqp, &mut buffer);
        if let Some(bytes) = smol::block_on(futures_lite::future::poll_once(reading)) {
            match bytes? {
                0 => {
                    session.send_close_notify();
                    while session.wants_write() {
                        session.write_tls(&mut socket)?;
                    }
                    return Ok(());
                }
                bytes => session.writer().write_all(&buffer[..bytes])?,
            }
        }
    }
}
