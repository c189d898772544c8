//! What rustls says went wrong, in our words.

use crate::error::{Error, TlsCause, TlsFault};
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

/// What ended a handshake: TLS, or the stream below it.
pub(super) fn of_handshake(error: io::Error) -> Error {
    match error.downcast::<TlsFault>() {
        Ok(fault) => Error::Tls(fault),
        Err(error) => error.into(),
    }
}
