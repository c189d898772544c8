//! Loading of certificates and keys.

use crate::error::Error;
use crate::options::TlsSource;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::borrow::Cow;

/// Returns all certificates of a source, at least one.
pub(super) fn certificates(
    what: &'static str,
    source: &TlsSource,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(what, source)?;
    if let TlsSource::Der(_) = source {
        return Ok(vec![CertificateDer::from(bytes.into_owned())]);
    }
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(Error::invalid(
            what,
            format!("no certificate in {source:?}"),
        )),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(Error::invalid(what, format!("{source:?}: {error}"))),
    }
}

/// Returns the private key of a source.
pub(super) fn private_key(source: &TlsSource) -> Result<PrivateKeyDer<'static>, Error> {
    const WHAT: &str = "tls client key";
    let bytes = read(WHAT, source)?;
    if let TlsSource::Der(_) = source {
        return PrivateKeyDer::try_from(bytes.into_owned())
            .map_err(|error| Error::invalid(WHAT, error));
    }
    // "BEGIN ENCRYPTED PRIVATE KEY" (PKCS #8), or OpenSSL's older "Proc-Type: 4,ENCRYPTED".
    if bytes.windows(9).any(|window| window == b"ENCRYPTED") {
        let why = "the key is encrypted, which is not supported; decrypt it with `openssl pkey`";
        return Err(Error::invalid(WHAT, why));
    }
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|error| Error::invalid(WHAT, format!("{source:?}: {error}")))
}

/// Returns the bytes of a source.
fn read<'s>(what: &'static str, source: &'s TlsSource) -> Result<Cow<'s, [u8]>, Error> {
    match source {
        TlsSource::Pem(bytes) | TlsSource::Der(bytes) => Ok(Cow::Borrowed(bytes)),
        TlsSource::File(path) => std::fs::read(path)
            .map(Cow::Owned)
            .map_err(|error| Error::invalid(what, format!("{}: {error}", path.display()))),
    }
}
