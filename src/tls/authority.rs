//! Verification of the server's certificate.

use super::source::certificates;
use crate::error::Error;
use crate::options::TlsOptions;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// The name of the options in errors.
const WHAT: &str = "tls authority";

/// Returns a verifier for the system's authorities, for those of the options, or for none.
pub(super) fn verifier(
    tls: &TlsOptions,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    if !tls.verifies_peer() {
        return Ok(Arc::new(AcceptAny(provider)));
    }
    if tls.authorities().is_empty() {
        let verifier = rustls_platform_verifier::Verifier::new(provider);
        return Ok(Arc::new(
            verifier.map_err(|error| Error::invalid(WHAT, error))?,
        ));
    }
    let mut roots = RootCertStore::empty();
    for source in tls.authorities() {
        for certificate in certificates(WHAT, source)? {
            roots
                .add(certificate)
                .map_err(|error| Error::invalid(WHAT, error))?;
        }
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    Ok(verifier.map_err(|error| Error::invalid(WHAT, error))?)
}

/// Accepts any certificate. The signatures, which prove that the server has the private key, are
/// still verified.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
