//! The query parameters of an AMQP URI. Every one is either understood or refused.
//!
//! Knows no connection: what a parameter means is for whoever opens one. A new parameter is a field, an arm
//! in `set` and a line in `Display`.
//!
//! Spec: RabbitMQ URI specification, appendix B, and "URI Query Parameters".

use std::fmt;
use std::iter;
use std::num::NonZeroU32;
use std::str::FromStr;

use super::error::{UriError, UriPart};
use super::piece::Piece;

/// A SASL mechanism that a URI can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthMechanism {
    /// User name and password as RFC 4616 says.
    Plain,
    /// User name and password as a field table, RabbitMQ's extension.
    Amqplain,
}

impl AuthMechanism {
    /// The mechanism's name in the protocol: `PLAIN` or `AMQPLAIN`. In a URI it is written in small letters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Amqplain => "AMQPLAIN",
        }
    }
}

/// What the query says. What it leaves out is `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    /// Seconds.
    pub(super) heartbeat: Option<u16>,
    /// Milliseconds.
    pub(super) connection_timeout: Option<NonZeroU32>,
    pub(super) channel_max: Option<u16>,
    /// Octets.
    pub(super) frame_max: Option<u32>,
    pub(super) auth_mechanisms: Vec<AuthMechanism>,
}

impl Parameters {
    pub(super) fn parse(query: Piece<'_>) -> Result<Self, UriError> {
        let mut parameters = Self::default();
        let mut rest = Some(query);
        while let Some(piece) = rest {
            let (parameter, following) = piece.split('&', UriPart::Query);
            if !parameter.text.is_empty() {
                parameters.set(parameter)?;
            }
            rest = following;
        }
        Ok(parameters)
    }

    fn set(&mut self, parameter: Piece<'_>) -> Result<(), UriError> {
        let (name, value) = parameter.split('=', UriPart::Query);
        // A parameter without `=` has an empty value, which none takes.
        let value = value.unwrap_or(Piece { text: "", at: name.at + name.text.len(), ..name });
        match name.decode()?.as_str() {
            "heartbeat" => once(&mut self.heartbeat, "heartbeat", value, "seconds from 0 to 65535"),
            "connection_timeout" => {
                let expected = "milliseconds from 1 to 4294967295";
                once(&mut self.connection_timeout, "connection_timeout", value, expected)
            }
            "channel_max" => once(&mut self.channel_max, "channel_max", value, "a number from 0 to 65535"),
            "frame_max" => once(&mut self.frame_max, "frame_max", value, "octets from 0 to 4294967295"),
            "auth_mechanism" => {
                self.auth_mechanisms.push(mechanism(value)?);
                Ok(())
            }
            unknown => Err(UriError::UnknownParameter { name: unknown.to_owned() }),
        }
    }
}

/// Takes a number for a parameter that has none yet.
fn once<T: FromStr>(
    slot: &mut Option<T>,
    name: &'static str,
    value: Piece<'_>,
    expected: &'static str,
) -> Result<(), UriError> {
    // `parse` alone would take a sign.
    let digits = value.decode()?;
    let number = if digits.bytes().all(|octet| octet.is_ascii_digit()) { digits.parse().ok() } else { None };
    let number = number.ok_or(UriError::BadParameter { name, at: value.at, expected })?;
    match slot.replace(number) {
        None => Ok(()),
        Some(_) => Err(UriError::RepeatedParameter { name }),
    }
}

fn mechanism(value: Piece<'_>) -> Result<AuthMechanism, UriError> {
    let name = value.decode()?;
    [AuthMechanism::Plain, AuthMechanism::Amqplain]
        .into_iter()
        .find(|mechanism| mechanism.name().eq_ignore_ascii_case(&name))
        .ok_or(UriError::BadParameter { name: "auth_mechanism", at: value.at, expected: "plain or amqplain" })
}

impl fmt::Display for Parameters {
    /// The query with its `?`, or nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = [
            ("heartbeat", self.heartbeat.map(u32::from)),
            ("connection_timeout", self.connection_timeout.map(NonZeroU32::get)),
            ("channel_max", self.channel_max.map(u32::from)),
            ("frame_max", self.frame_max),
        ];
        let numbers = numbers.into_iter().filter_map(|(name, value)| Some((name, value?.to_string())));
        let mechanisms = self
            .auth_mechanisms
            .iter()
            .map(|mechanism| ("auth_mechanism", mechanism.name().to_ascii_lowercase()));
        let marks = iter::once('?').chain(iter::repeat('&'));
        marks
            .zip(numbers.chain(mechanisms))
            .try_for_each(|(mark, (name, value))| write!(f, "{mark}{name}={value}"))
    }
}
