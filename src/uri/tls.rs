//! The query parameters that are about TLS.
//!
//! Knows no TLS library and reads no file. What a client can't honour is refused, and so is what contradicts itself.
//!
//! Spec: RabbitMQ's "URI Query Parameters", and the TLS options of Erlang's `ssl`, whose names they are.

use std::fmt;

use super::error::UriError;
use super::piece::Piece;
use super::value::{once, one_of, text};

/// What the query says about TLS. What it leaves out is `None`.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsParameters {
    pub(crate) cacertfile: Option<String>,
    pub(crate) certfile: Option<String>,
    pub(crate) keyfile: Option<String>,
    /// The passphrase of `keyfile`.
    pub(crate) password: Option<String>,
    /// `verify_peer` is true, `verify_none` false.
    pub(crate) verify: Option<bool>,
    /// For servers; a client does nothing about it.
    pub(crate) fail_if_no_peer_cert: Option<bool>,
    pub(crate) server_name_indication: Option<ServerNameIndication>,
    /// Whether it is given; its only value, `https`, is how names are compared anyway.
    pub(crate) customize_hostname_check: Option<()>,
}

/// The name that the broker is told, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerNameIndication {
    Disable,
    Name(String),
}

impl TlsParameters {
    /// Takes a value, if there is such a parameter.
    pub(super) fn set(&mut self, name: &str, value: Piece<'_>) -> Result<bool, UriError> {
        match name {
            "cacertfile" => once(&mut self.cacertfile, "cacertfile", text("cacertfile", value, "a path")?)?,
            "certfile" => once(&mut self.certfile, "certfile", text("certfile", value, "a path")?)?,
            "keyfile" => once(&mut self.keyfile, "keyfile", text("keyfile", value, "a path")?)?,
            "password" => once(&mut self.password, "password", text("password", value, "a passphrase")?)?,
            "verify" => {
                let chosen =
                    one_of("verify", value, "verify_peer", "verify_none", "verify_peer or verify_none")?;
                once(&mut self.verify, "verify", chosen)?;
            }
            "fail_if_no_peer_cert" => {
                let chosen = one_of("fail_if_no_peer_cert", value, "true", "false", "true or false")?;
                once(&mut self.fail_if_no_peer_cert, "fail_if_no_peer_cert", chosen)?;
            }
            "server_name_indication" => {
                let chosen = server_name_indication(value)?;
                once(&mut self.server_name_indication, "server_name_indication", chosen)?;
            }
            "customize_hostname_check" => {
                let name = "customize_hostname_check";
                if value.decode()? != "https" {
                    return Err(UriError::BadParameter { name, at: value.at, expected: "https" });
                }
                once(&mut self.customize_hostname_check, name, ())?;
            }
            "depth" => {
                let why = "can't be honoured: how long a chain of certificates may be is fixed";
                return Err(UriError::RefusedParameter { name: "depth", why });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Refuses what makes sense only with something else, or against it.
    pub(super) fn check(&self) -> Result<(), UriError> {
        let refused = |name, why| Err(UriError::RefusedParameter { name, why });
        match self {
            Self { certfile: None, keyfile: Some(_), .. } => {
                refused("keyfile", "is of no use without certfile")
            }
            Self { keyfile: None, password: Some(_), .. } => refused(
                "password",
                "is the passphrase of keyfile, which is missing; the login's stands before the host",
            ),
            Self { verify: Some(false), customize_hostname_check: Some(()), .. } => {
                refused("customize_hostname_check", "asks for what verify=verify_none switches off")
            }
            _ => Ok(()),
        }
    }

    /// Names and values, in a fixed order, the passphrase included.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        let choice = |value: Option<bool>, yes: &str, no: &str| {
            value.map(|value| if value { yes.to_owned() } else { no.to_owned() })
        };
        let indication = self.server_name_indication.as_ref().map(|indication| match indication {
            ServerNameIndication::Disable => "disable".to_owned(),
            ServerNameIndication::Name(name) => name.clone(),
        });
        [
            ("cacertfile", self.cacertfile.clone()),
            ("certfile", self.certfile.clone()),
            ("keyfile", self.keyfile.clone()),
            ("password", self.password.clone()),
            ("verify", choice(self.verify, "verify_peer", "verify_none")),
            ("fail_if_no_peer_cert", choice(self.fail_if_no_peer_cert, "true", "false")),
            ("server_name_indication", indication),
            ("customize_hostname_check", self.customize_hostname_check.map(|()| "https".to_owned())),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

/// Every parameter but the passphrase.
impl fmt::Debug for TlsParameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.pairs().filter(|(name, _)| *name != "password")).finish()
    }
}

/// A DNS name, as TLS allows (RFC 6066, 3), or `disable`.
fn server_name_indication(value: Piece<'_>) -> Result<ServerNameIndication, UriError> {
    let name = value.decode()?;
    if name == "disable" {
        return Ok(ServerNameIndication::Disable);
    }
    let is_name = (1..=253).contains(&name.len())
        && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._".contains(&octet))
        && name.bytes().any(|octet| octet.is_ascii_alphabetic());
    if !is_name {
        let expected = "a host name of ASCII letters, which no address is, or disable";
        return Err(UriError::BadParameter { name: "server_name_indication", at: value.at, expected });
    }
    Ok(ServerNameIndication::Name(name))
}
