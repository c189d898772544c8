//! Conversion of rustls errors to [`TlsFault`].

use crate::error::{Broken, Error, TlsCause, TlsFault};
use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};
use std::io;
use std::sync::Arc;

impl From<rustls::Error> for TlsFault {
    fn from(error: rustls::Error) -> Self {
        let kind = match &error {
            rustls::Error::InvalidCertificate(certificate) => of_certificate(certificate),
            rustls::Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Self::NotTls,
            rustls::Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            )
            | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => Self::OldVersion,
            rustls::Error::AlertReceived(_) => Self::Refused,
            _ => Self::Other,
        };
        kind(Arc::new(error))
    }
}

/// Returns the constructor of the fault for an invalid certificate.
fn of_certificate(error: &CertificateError) -> fn(TlsCause) -> TlsFault {
    match error {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsFault::WrongName
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFault::Expired,
        CertificateError::UnknownIssuer => TlsFault::UnknownIssuer,
        _ => TlsFault::BadCertificate,
    }
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error.into())
    }
}

/// Converts the error of a handshake that rustls performed over a `std::io` stream to
/// [`Error::Tls`], or to the error of the stream.
#[must_use]
pub fn handshake_error(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Error::ConnectionBroken(Broken::Eof);
    }
    match error.downcast::<TlsFault>() {
        Ok(fault) => Error::Tls(fault),
        Err(error) => match error.downcast::<rustls::Error>() {
            Ok(error) => error.into(),
            Err(error) => error.into(),
        },
    }
}
