//! The kinds of a failed TLS handshake.

use std::fmt;
use std::sync::Arc;

/// The reason for a failed TLS handshake, with the TLS library's error, which is also the source.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TlsFault {
    /// The certificate is for another name than the one that was dialled or that the options
    /// expect.
    WrongName(TlsCause),
    /// The certificate, or one of its issuers, has expired.
    Expired(TlsCause),
    /// The certificate has no trusted issuer: it is self-signed, or the options lack its authority.
    UnknownIssuer(TlsCause),
    /// The certificate is invalid for another reason.
    BadCertificate(TlsCause),
    /// The server does not speak TLS, usually because `amqps` is used with a port for plain AMQP.
    NotTls(TlsCause),
    /// The server does not support TLS 1.2 or later.
    OldVersion(TlsCause),
    /// The server ended the handshake; it may require a client certificate, or another one.
    Refused(TlsCause),
    /// Any other cause.
    Other(TlsCause),
}

/// The TLS library's error in a [`TlsFault`].
pub type TlsCause = Arc<dyn std::error::Error + Send + Sync>;

impl TlsFault {
    /// Returns the error of the TLS library.
    pub(crate) fn cause(&self) -> &TlsCause {
        self.parts().1
    }

    fn parts(&self) -> (&'static str, &TlsCause) {
        match self {
            Self::WrongName(cause) => ("the server's certificate is for another name", cause),
            Self::Expired(cause) => ("the server's certificate has expired", cause),
            Self::UnknownIssuer(cause) => ("the server's certificate has no trusted issuer", cause),
            Self::BadCertificate(cause) => ("invalid server certificate", cause),
            Self::NotTls(cause) => ("the server does not speak TLS on this port", cause),
            Self::OldVersion(cause) => ("the server does not support TLS 1.2 or later", cause),
            Self::Refused(cause) => ("the server refused the TLS handshake", cause),
            Self::Other(cause) => ("the TLS handshake failed", cause),
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.parts().0)
    }
}

impl std::error::Error for TlsFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&**self.parts().1)
    }
}
