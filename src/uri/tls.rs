//! The TLS parameters of a query.
//!
//! This module uses no TLS library and reads no files. Parameters that are not supported or
//! contradict each other are refused.
//!
//! Spec: RabbitMQ's "URI Query Parameters". The names are those of the TLS options of Erlang's
//! `ssl`.

use std::fmt;

use super::error::UriError;
use super::span::Span;
use super::value::{one_of, set_once, text};

/// The TLS parameters of the query. Absent ones are `None`.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsParameters {
    pub(crate) cacertfile: Option<String>,
    pub(crate) certfile: Option<String>,
    pub(crate) keyfile: Option<String>,
    /// The passphrase of `keyfile`.
    pub(crate) password: Option<String>,
    /// `true` for `verify_peer`, `false` for `verify_none`.
    pub(crate) verify: Option<bool>,
    /// Only servers use it.
    pub(crate) fail_if_no_peer_cert: Option<bool>,
    pub(crate) server_name_indication: Option<ServerNameIndication>,
    /// Whether it is present. Its only value, `https`, is the behaviour in any case.
    pub(crate) customize_hostname_check: Option<()>,
}

/// The server name to send to the broker, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerNameIndication {
    Disable,
    Name(String),
}

impl TlsParameters {
    /// Sets a parameter. Returns `false` if the name is unknown.
    pub(super) fn set(&mut self, name: &str, value: Span<'_>) -> Result<bool, UriError> {
        match name {
            "cacertfile" => set_text_once(&mut self.cacertfile, "cacertfile", value, "a path")?,
            "certfile" => set_text_once(&mut self.certfile, "certfile", value, "a path")?,
            "keyfile" => set_text_once(&mut self.keyfile, "keyfile", value, "a path")?,
            "password" => set_text_once(&mut self.password, "password", value, "a passphrase")?,
            "verify" => {
                let expected = "verify_peer or verify_none";
                let chosen = one_of("verify", value, "verify_peer", "verify_none", expected)?;
                set_once(&mut self.verify, "verify", chosen)?;
            }
            "fail_if_no_peer_cert" => {
                let name = "fail_if_no_peer_cert";
                let chosen = one_of(name, value, "true", "false", "true or false")?;
                set_once(&mut self.fail_if_no_peer_cert, name, chosen)?;
            }
            "server_name_indication" => {
                let name = "server_name_indication";
                set_once(
                    &mut self.server_name_indication,
                    name,
                    server_name_indication(value)?,
                )?;
            }
            "customize_hostname_check" => {
                let name = "customize_hostname_check";
                if value.decode()? != "https" {
                    return Err(UriError::BadParameter {
                        name,
                        at: value.at,
                        expected: "https",
                    });
                }
                set_once(&mut self.customize_hostname_check, name, ())?;
            }
            "depth" => {
                let why = "is not supported: the maximum length of a certificate chain is fixed";
                return Err(UriError::RefusedParameter { name: "depth", why });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Refuses parameters that require or contradict others.
    pub(super) fn check(&self) -> Result<(), UriError> {
        let refused = |name, why| Err(UriError::RefusedParameter { name, why });
        match self {
            Self {
                certfile: None,
                keyfile: Some(_),
                ..
            } => refused("keyfile", "has no effect without certfile"),
            Self {
                keyfile: None,
                password: Some(_),
                ..
            } => refused(
                "password",
                "is the passphrase of keyfile, which is missing; the login's password is before \
                 the host",
            ),
            Self {
                verify: Some(false),
                customize_hostname_check: Some(()),
                ..
            } => refused("customize_hostname_check", "contradicts verify=verify_none"),
            _ => Ok(()),
        }
    }

    /// Returns names and values in a fixed order, including the passphrase.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        let choice = |value: Option<bool>, yes: &str, no: &str| {
            value.map(|value| if value { yes.to_owned() } else { no.to_owned() })
        };
        let indication = self
            .server_name_indication
            .as_ref()
            .map(|indication| match indication {
                ServerNameIndication::Disable => "disable".to_owned(),
                ServerNameIndication::Name(name) => name.clone(),
            });
        [
            ("cacertfile", self.cacertfile.clone()),
            ("certfile", self.certfile.clone()),
            ("keyfile", self.keyfile.clone()),
            ("password", self.password.clone()),
            ("verify", choice(self.verify, "verify_peer", "verify_none")),
            (
                "fail_if_no_peer_cert",
                choice(self.fail_if_no_peer_cert, "true", "false"),
            ),
            ("server_name_indication", indication),
            (
                "customize_hostname_check",
                self.customize_hostname_check.map(|()| "https".to_owned()),
            ),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

/// Omits the passphrase.
impl fmt::Debug for TlsParameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.pairs().filter(|(name, _)| *name != "password"))
            .finish()
    }
}

/// Parses a DNS name, as TLS allows (RFC 6066, 3), or `disable`.
fn server_name_indication(value: Span<'_>) -> Result<ServerNameIndication, UriError> {
    let name = value.decode()?;
    if name == "disable" {
        return Ok(ServerNameIndication::Disable);
    }
    let is_name = (1..=253).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && name.bytes().any(|byte| byte.is_ascii_alphabetic());
    if !is_name {
        let expected = "a host name of ASCII letters, not an address, or disable";
        return Err(UriError::BadParameter {
            name: "server_name_indication",
            at: value.at,
            expected,
        });
    }
    Ok(ServerNameIndication::Name(name))
}

/// Sets a text as the value of a parameter, unless it is set already.
fn set_text_once(
    slot: &mut Option<String>,
    name: &'static str,
    value: Span<'_>,
    expected: &'static str,
) -> Result<(), UriError> {
    set_once(slot, name, text(name, value, expected)?)
}
