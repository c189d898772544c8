//! What TLS is to be done with, as plain data: paths and octets, no type of any TLS library.

use crate::uri::{ServerNameIndication, TlsParameters};
use std::fmt;
use std::path::PathBuf;

/// TLS for every TCP endpoint: whom to trust, and who we are.
///
/// By default the broker has to show a certificate that the system trusts, for the name of the host that was dialled, and
/// we show none.
///
/// ```
/// use puka::{Endpoint, Options, TlsOptions, TlsSource};
///
/// let tls = TlsOptions::default()
///     .authority(TlsSource::File("/etc/puka/ca.pem".into()))
///     .client_certificate(TlsSource::File("/etc/puka/cert.pem".into()), TlsSource::File("/etc/puka/key.pem".into()));
/// let options = Options::default().endpoint(Endpoint::tcp("broker.example", 5671))?.tls(tls);
/// assert!(options.is_tls());
/// # Ok::<(), puka::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct TlsOptions {
    authorities: Vec<TlsSource>,
    identity: Option<(TlsSource, TlsSource)>,
    passphrase: Option<String>,
    verify: bool,
    expected_name: Option<String>,
    send_name: bool,
}

/// Certificates or a private key, or where they are to be read.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsSource {
    /// A PEM file, read when the connection is opened.
    File(PathBuf),
    /// The text of a PEM file.
    Pem(Vec<u8>),
    /// One certificate or one private key (PKCS #8, PKCS #1 or SEC 1) in DER.
    Der(Vec<u8>),
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            authorities: Vec::new(),
            identity: None,
            passphrase: None,
            verify: true,
            expected_name: None,
            send_name: true,
        }
    }
}

impl TlsOptions {
    /// What a URI asks for.
    pub(super) fn from_parameters(parameters: &TlsParameters) -> Self {
        let file = |path: &String| TlsSource::File(path.into());
        let certificates = parameters.certfile.as_ref();
        let key = parameters.keyfile.as_ref().or(certificates);
        Self {
            authorities: parameters.cacertfile.iter().map(file).collect(),
            identity: certificates.zip(key).map(|(certificates, key)| (file(certificates), file(key))),
            passphrase: parameters.password.clone(),
            verify: parameters.verify.unwrap_or(true),
            expected_name: match &parameters.server_name_indication {
                Some(ServerNameIndication::Name(name)) => Some(name.clone()),
                _ => None,
            },
            send_name: parameters.server_name_indication != Some(ServerNameIndication::Disable),
        }
    }

    /// Trusts these certificates. From the first one on, the system's are not trusted any more.
    #[must_use]
    pub fn authority(mut self, certificates: TlsSource) -> Self {
        self.authorities.push(certificates);
        self
    }

    /// Shows this certificate, with the intermediate ones behind it, when the broker asks for one. The key may be in the
    /// same file.
    #[must_use]
    pub fn client_certificate(mut self, certificates: TlsSource, key: TlsSource) -> Self {
        self.identity = Some((certificates, key));
        self
    }

    /// The passphrase that the private key is encrypted with. It is never printed.
    #[must_use]
    pub fn key_passphrase(mut self, passphrase: &str) -> Self {
        self.passphrase = Some(passphrase.to_owned());
        self
    }

    /// The name or address that the broker's certificate has to be for; the host's own by default.
    #[must_use]
    pub fn server_name(mut self, name: &str) -> Self {
        self.expected_name = Some(name.to_owned());
        self
    }

    /// Whether the broker is told which name it is called by (Server Name Indication); true by default. The certificate is
    /// checked for the name either way.
    #[must_use]
    pub fn send_server_name(mut self, send: bool) -> Self {
        self.send_name = send;
        self
    }

    /// Accepts any certificate for any name, an expired one too. Whoever is between us and the broker can then read and
    /// change everything, the password too.
    #[must_use]
    pub fn danger_accept_any_certificate(mut self, accept: bool) -> Self {
        self.verify = !accept;
        self
    }

    /// Whom to trust; the system's authorities when there is none.
    #[must_use]
    pub fn authorities(&self) -> &[TlsSource] {
        &self.authorities
    }

    /// Our certificate and its key.
    #[must_use]
    pub fn identity(&self) -> Option<(&TlsSource, &TlsSource)> {
        self.identity.as_ref().map(|(certificates, key)| (certificates, key))
    }

    /// The passphrase of our key.
    #[must_use]
    pub fn passphrase(&self) -> Option<&str> {
        self.passphrase.as_deref()
    }

    /// The name or address that the certificate has to be for, if it is not the host's own.
    #[must_use]
    pub fn expected_name(&self) -> Option<&str> {
        self.expected_name.as_deref()
    }

    /// Whether the broker is told which name it is called by.
    #[must_use]
    pub fn sends_server_name(&self) -> bool {
        self.send_name
    }

    /// Whether the broker's certificate is checked at all.
    #[must_use]
    pub fn verifies_peer(&self) -> bool {
        self.verify
    }
}

/// Everything but the passphrase and the octets of certificates and keys.
impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("authorities", &self.authorities)
            .field("identity", &self.identity)
            .field("verify", &self.verify)
            .field("expected_name", &self.expected_name)
            .field("send_name", &self.send_name)
            .finish_non_exhaustive()
    }
}

/// The path, or what kind of octets there are and not which: they may be a key.
impl fmt::Debug for TlsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Pem(_) => f.debug_tuple("Pem").finish_non_exhaustive(),
            Self::Der(_) => f.debug_tuple("Der").finish_non_exhaustive(),
        }
    }
}
