//! The query parameters of an AMQP URI. Each is either supported or refused.
//!
//! The code that opens connections interprets the values. A new parameter needs a field, an arm in
//! `set` and a line in `pairs`.
//!
//! Spec: RabbitMQ URI specification, appendix B, and "URI Query Parameters".

use std::num::NonZeroU32;

use super::error::{UriError, UriPart};
use super::mechanism::AuthMechanism;
use super::span::{Encoded, Span};
use super::tls::TlsParameters;
use super::value::{set_number, set_once};

/// The values of the query. Absent ones are `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    /// In seconds.
    pub(super) heartbeat: Option<u16>,
    /// In milliseconds.
    pub(super) connection_timeout: Option<NonZeroU32>,
    pub(super) channel_max: Option<u16>,
    /// In bytes.
    pub(super) frame_max: Option<u32>,
    pub(super) auth_mechanisms: Vec<AuthMechanism>,
    /// Only for a Unix socket, whose path has no place for it.
    pub(super) virtual_host: Option<String>,
    pub(super) tls: TlsParameters,
}

impl Parameters {
    pub(super) fn parse(query: Span<'_>) -> Result<Self, UriError> {
        let mut parameters = Self::default();
        let mut rest = Some(query);
        while let Some(span) = rest {
            let (parameter, following) = span.split('&', UriPart::Query);
            if !parameter.text.is_empty() {
                parameters.set(parameter)?;
            }
            rest = following;
        }
        parameters.tls.check()?;
        Ok(parameters)
    }

    fn set(&mut self, parameter: Span<'_>) -> Result<(), UriError> {
        let (name, value) = parameter.split('=', UriPart::Query);
        // A parameter without `=` has an empty value, which no parameter accepts.
        let value = value.unwrap_or(Span {
            text: "",
            at: name.at + name.text.len(),
            ..name
        });
        let at = name.at;
        let name = name.decode()?;
        match name.as_str() {
            "heartbeat" => set_number(
                &mut self.heartbeat,
                "heartbeat",
                value,
                "seconds from 0 to 65535",
            ),
            "connection_timeout" => {
                let expected = "milliseconds from 1 to 4294967295";
                set_number(
                    &mut self.connection_timeout,
                    "connection_timeout",
                    value,
                    expected,
                )
            }
            "channel_max" => set_number(
                &mut self.channel_max,
                "channel_max",
                value,
                "a number from 0 to 65535",
            ),
            "frame_max" => set_number(
                &mut self.frame_max,
                "frame_max",
                value,
                "bytes from 0 to 4294967295",
            ),
            "auth_mechanism" => {
                self.auth_mechanisms.push(mechanism(value)?);
                Ok(())
            }
            "vhost" => set_once(&mut self.virtual_host, "vhost", virtual_host(value)?),
            _ if self.tls.set(&name, value)? => Ok(()),
            // It may be the end of a passphrase with a raw `&`.
            _ if self.tls.password.is_some() => Err(UriError::UnknownBehindPassword { at }),
            _ => Err(UriError::UnknownParameter { name }),
        }
    }

    /// Returns the query with its `?`, or an empty string. The passphrase is included only if
    /// requested.
    pub(super) fn print(&self, with_password: bool) -> String {
        let numbers = [
            ("heartbeat", self.heartbeat.map(u32::from)),
            (
                "connection_timeout",
                self.connection_timeout.map(NonZeroU32::get),
            ),
            ("channel_max", self.channel_max.map(u32::from)),
            ("frame_max", self.frame_max),
        ];
        let numbers = numbers
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?.to_string())));
        let mechanisms = self
            .auth_mechanisms
            .iter()
            .map(|mechanism| ("auth_mechanism", mechanism.name().to_ascii_lowercase()));
        let virtual_host = self.virtual_host.iter().map(|name| ("vhost", name.clone()));
        let mut printed = String::new();
        for (name, value) in numbers
            .chain(mechanisms)
            .chain(virtual_host)
            .chain(self.tls.pairs())
        {
            if name == "password" && !with_password {
                continue;
            }
            let mark = if printed.is_empty() { '?' } else { '&' };
            printed.push_str(&format!("{mark}{name}={}", Encoded(&value)));
        }
        printed
    }
}

fn mechanism(value: Span<'_>) -> Result<AuthMechanism, UriError> {
    let name = value.decode()?;
    AuthMechanism::ALL
        .into_iter()
        .find(|mechanism| mechanism.name().eq_ignore_ascii_case(&name))
        .ok_or(UriError::BadParameter {
            name: "auth_mechanism",
            at: value.at,
            expected: "plain, amqplain, external, rabbit-cr-demo or anonymous",
        })
}

/// Parses the name of a virtual host, which must not be empty.
fn virtual_host(value: Span<'_>) -> Result<String, UriError> {
    let part = UriPart::VirtualHost;
    let name = Span { part, ..value }.decode_name()?;
    if name.is_empty() {
        return Err(UriError::BadParameter {
            name: "vhost",
            at: value.at,
            expected: "a name",
        });
    }
    Ok(name)
}
