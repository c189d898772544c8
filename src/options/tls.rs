//! TLS options as plain data: paths and bytes, no types of a TLS library.

use crate::uri::{ServerNameIndication, TlsParameters};
use std::fmt;
use std::path::PathBuf;

/// The TLS settings of all TCP endpoints: trusted authorities and the client's identity.
///
/// By default the broker must present a certificate that the system trusts, for the name of the
/// dialled host, and the client presents none.
///
/// ```
/// use puka::{Endpoint, Options, TlsOptions, TlsSource};
///
/// let tls = TlsOptions::default()
///     .authority(TlsSource::File("/etc/puka/ca.pem".into()))
///     .client_certificate(
///         TlsSource::File("/etc/puka/cert.pem".into()),
///         TlsSource::File("/etc/puka/key.pem".into()),
///     );
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

/// Certificates or a private key, or the file that contains them.
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
    /// Returns the TLS options of a URI's query.
    pub(super) fn from_parameters(parameters: &TlsParameters) -> Self {
        let file = |path: &String| TlsSource::File(path.into());
        let certificates = parameters.certfile.as_ref();
        let key = parameters.keyfile.as_ref().or(certificates);
        Self {
            authorities: parameters.cacertfile.iter().map(file).collect(),
            identity: certificates
                .zip(key)
                .map(|(certificates, key)| (file(certificates), file(key))),
            passphrase: parameters.password.clone(),
            verify: parameters.verify.unwrap_or(true),
            expected_name: match &parameters.server_name_indication {
                Some(ServerNameIndication::Name(name)) => Some(name.clone()),
                _ => None,
            },
            send_name: parameters.server_name_indication != Some(ServerNameIndication::Disable),
        }
    }

    /// Adds trusted authorities. They replace the system's authorities.
    #[must_use]
    pub fn authority(mut self, certificates: TlsSource) -> Self {
        self.authorities.push(certificates);
        self
    }

    /// Sets the client's certificate, followed by its intermediate certificates, and its key. The
    /// key may be in the same file. They are sent if the broker requests a client certificate.
    #[must_use]
    pub fn client_certificate(mut self, certificates: TlsSource, key: TlsSource) -> Self {
        self.identity = Some((certificates, key));
        self
    }

    /// Sets the passphrase of the private key. It is never printed.
    #[must_use]
    pub fn key_passphrase(mut self, passphrase: &str) -> Self {
        self.passphrase = Some(passphrase.to_owned());
        self
    }

    /// Sets the name or address that the broker's certificate must be for; the dialled host by
    /// default.
    #[must_use]
    pub fn server_name(mut self, name: &str) -> Self {
        self.expected_name = Some(name.to_owned());
        self
    }

    /// Sets whether the server name is sent to the broker (Server Name Indication). On by
    /// default. The certificate is checked against the name in both cases.
    #[must_use]
    pub fn send_server_name(mut self, send: bool) -> Self {
        self.send_name = send;
        self
    }

    /// Accepts any certificate for any name, including expired ones. An attacker between the client
    /// and the broker can then read and change all data, including the password.
    #[must_use]
    pub fn danger_accept_any_certificate(mut self, accept: bool) -> Self {
        self.verify = !accept;
        self
    }

    /// Returns the trusted authorities; if empty, the system's authorities are trusted.
    #[must_use]
    pub fn authorities(&self) -> &[TlsSource] {
        &self.authorities
    }

    /// Returns the client's certificate and its key.
    #[must_use]
    pub fn identity(&self) -> Option<(&TlsSource, &TlsSource)> {
        self.identity
            .as_ref()
            .map(|(certificates, key)| (certificates, key))
    }

    /// Returns the passphrase of the client's key.
    #[must_use]
    pub fn passphrase(&self) -> Option<&str> {
        self.passphrase.as_deref()
    }

    /// Returns the name or address that the certificate must be for, if it is not the dialled
    /// host's.
    #[must_use]
    pub fn expected_name(&self) -> Option<&str> {
        self.expected_name.as_deref()
    }

    /// Returns `true` if the server name is sent to the broker.
    #[must_use]
    pub fn sends_server_name(&self) -> bool {
        self.send_name
    }

    /// Returns `true` if the broker's certificate is verified.
    #[must_use]
    pub fn verifies_peer(&self) -> bool {
        self.verify
    }
}

/// Omits the passphrase and the contents of certificates and keys.
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

/// Prints the path or the format, but not the bytes, which may be a key.
impl fmt::Debug for TlsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Pem(_) => f.debug_tuple("Pem").finish_non_exhaustive(),
            Self::Der(_) => f.debug_tuple("Der").finish_non_exhaustive(),
        }
    }
}
