//! TLS for dialled streams, the same for every driver.

use super::Transport;
use crate::error::Error;
use crate::options::Options;

/// The TLS configuration, or `None` if the options do not ask for TLS.
#[cfg(feature = "tls")]
pub(crate) struct Security(Option<std::sync::Arc<crate::tls::rustls::ClientConfig>>);

#[cfg(feature = "tls")]
impl Security {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        options
            .is_tls()
            .then(|| crate::tls::client_config(options))
            .transpose()
            .map(Self)
    }

    /// Returns the TLS configuration, if the options ask for TLS.
    #[cfg(feature = "evented")]
    pub(crate) fn config(&self) -> Option<&std::sync::Arc<crate::tls::rustls::ClientConfig>> {
        self.0.as_ref()
    }

    /// Performs the TLS handshake over the stream, if the options ask for TLS.
    pub(super) async fn secure(
        &self,
        stream: Transport,
        host: &str,
        options: &Options,
    ) -> Result<Transport, Error> {
        let Some(config) = &self.0 else {
            return Ok(stream);
        };
        let name = crate::tls::server_name(options, host)?;
        let stream = crate::tls::TlsStream::connect(stream, config.clone(), name).await?;
        let received = stream.received_counter();
        Ok(Transport::new(stream)
            .mark_private()
            .with_received_counter(received))
    }
}

/// TLS is not compiled in.
#[cfg(not(feature = "tls"))]
pub(crate) struct Security;

#[cfg(not(feature = "tls"))]
impl Security {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        if options.is_tls() {
            return Err(Error::invalid(
                "tls",
                "TLS requires puka's feature `tls`, which is disabled",
            ));
        }
        Ok(Self)
    }

    pub(super) async fn secure(
        &self,
        stream: Transport,
        _: &str,
        _: &Options,
    ) -> Result<Transport, Error> {
        Ok(stream)
    }
}
