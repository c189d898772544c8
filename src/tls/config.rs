//! Conversion of options to a rustls configuration.

use super::authority;
use super::source::{certificates, private_key};
use crate::error::Error;
use crate::options::{Options, TlsOptions};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use std::sync::Arc;

/// Returns a rustls configuration for the TLS options, or for their defaults: TLS 1.2 or later,
/// ring's cryptography, the system's authorities.
///
/// Reads the files that the options name, and the system's certificates if they are files, as on
/// Linux. This blocks the thread for a few milliseconds.
///
/// # Errors
/// [`Error::InvalidArgument`] if a file cannot be read or does not contain what it should, if the
/// key is encrypted, which is not supported, or if it does not belong to the certificate.
pub fn client_config(options: &Options) -> Result<Arc<ClientConfig>, Error> {
    let defaults = TlsOptions::default();
    let tls = options.get_tls().unwrap_or(&defaults);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::invalid("tls", error))?
        .dangerous()
        .with_custom_certificate_verifier(authority::verifier(tls, provider)?);
    let mut config = match tls.identity() {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(
                certificates("tls client certificate", chain)?,
                private_key(key)?,
            )
            .map_err(|error| Error::invalid("tls client certificate", error))?,
    };
    config.enable_sni = tls.sends_server_name();
    // The configuration is used for a single connection, so there is no session to resume.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Returns the name that the server's certificate must be for: the one in the options, or the host.
///
/// # Errors
/// [`Error::InvalidArgument`] if it is neither a DNS name nor an address.
pub fn server_name(options: &Options, host: &str) -> Result<ServerName<'static>, Error> {
    let expected = options
        .get_tls()
        .and_then(TlsOptions::expected_name)
        .unwrap_or(host);
    ServerName::try_from(expected.to_owned())
        .map_err(|error| Error::invalid("tls server name", error))
}
