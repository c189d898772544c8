//! Opening a connection: one type for each thing that is waited for (spec 2.2.4, 4.2.2).
//!
//! `start` → `start-ok`, `tune` → `tune-ok` and `open`, `open-ok`. Anything else is the server's fault.

use super::outgoing::Outgoing;
use super::{ServerProperties, sasl, tuning};
use crate::error::{Error, Fault};
use crate::options::Options;
use crate::protocol::frame::INITIAL_FRAME_MAX;
use crate::protocol::method::{Encode, connection as methods};
use crate::protocol::{EncodeError, Method, ProtocolHeader, ReplyCode, ShortStr, Table};

/// What the handshake waits for.
#[derive(Debug)]
pub(super) enum Handshake {
    Start(AwaitStart),
    Tune(AwaitTune),
    OpenOk(AwaitOpenOk),
}

/// How far a method of the server has brought the handshake.
#[derive(Debug)]
pub(super) enum Step {
    Next(Handshake),
    /// The limits hold from here on, and heartbeats with them.
    Tuned(AwaitOpenOk),
    Open(ServerProperties),
}

/// Waits for `connection.start`.
#[derive(Debug)]
pub(super) struct AwaitStart;

/// Waits for `connection.tune`.
#[derive(Debug)]
pub(super) struct AwaitTune(ServerProperties);

/// Waits for `connection.open-ok`.
#[derive(Debug)]
pub(super) struct AwaitOpenOk {
    pub(super) limits: methods::TuneOk,
    properties: ServerProperties,
}

const LOCALE: ShortStr<'static> = ShortStr::literal("en_US");

impl Handshake {
    /// Begins with the protocol header.
    pub(super) fn begin(out: &mut Outgoing) -> Self {
        out.octets(&ProtocolHeader::AMQP_0_9_1.to_octets());
        Self::Start(AwaitStart)
    }

    pub(super) fn handle(
        self,
        method: Method<'_>,
        options: &Options,
        out: &mut Outgoing,
    ) -> Result<Step, Error> {
        match (self, method) {
            (Self::Start(state), Method::Connection(methods::Method::Start(start))) => {
                state.handle(start, options, out).map(|state| Step::Next(Self::Tune(state)))
            }
            (Self::Tune(state), Method::Connection(methods::Method::Tune(tune))) => {
                state.handle(tune, options, out).map(Step::Tuned)
            }
            (Self::OpenOk(state), Method::Connection(methods::Method::OpenOk(_))) => {
                Ok(Step::Open(state.properties))
            }
            (state, method) => {
                let text = format!("{} where {} was to come", method.id(), state.awaited());
                Err(Fault::by_client(ReplyCode::COMMAND_INVALID, text, method.id()).into())
            }
        }
    }

    fn awaited(&self) -> &'static str {
        match self {
            Self::Start(_) => "connection.start",
            Self::Tune(_) => "connection.tune",
            Self::OpenOk(_) => "connection.open-ok",
        }
    }

    /// What the end of the transport means here.
    pub(super) fn at_eof(&self) -> Option<Error> {
        matches!(self, Self::Tune(_)).then_some(Error::LoginRefused)
    }

    /// Whether nothing came from the server yet.
    pub(super) fn is_at_start(&self) -> bool {
        matches!(self, Self::Start(_))
    }
}

impl AwaitStart {
    fn handle(
        self,
        start: methods::Start<'_>,
        options: &Options,
        out: &mut Outgoing,
    ) -> Result<AwaitTune, Error> {
        let (major, minor) = (start.version_major, start.version_minor);
        if (major, minor) != (0, 9) {
            return Err(Error::UnsupportedProtocol(ProtocolHeader { id: 0, major, minor, revision: 0 }));
        }
        let mechanism = sasl::choose(start.mechanisms, options)?;
        let client_properties = client_properties(options)?;
        let start_ok = methods::StartOk {
            client_properties: client_properties.as_ref(),
            mechanism: ShortStr::new(mechanism.name())?,
            response: &sasl::response(mechanism, &options.credentials)?,
            locale: LOCALE,
        };
        out.method(0, INITIAL_FRAME_MAX, &start_ok).map_err(too_large)?;
        Ok(AwaitTune(ServerProperties::new(start.server_properties)))
    }
}

fn too_large(error: EncodeError) -> Error {
    Error::invalid("credentials and client properties", format!("{error} before tuning (initial_frame_max)"))
}

impl AwaitTune {
    fn handle(
        self,
        tune: methods::Tune,
        options: &Options,
        out: &mut Outgoing,
    ) -> Result<AwaitOpenOk, Error> {
        let limits = tuning::agree(tune, &options.limits)?;
        let virtual_host =
            ShortStr::new(&options.virtual_host).map_err(|error| Error::invalid("virtual_host", error))?;
        out.method(0, limits.frame_max, &limits)?;
        out.method(0, limits.frame_max, &methods::Open { virtual_host })?;
        Ok(AwaitOpenOk { limits, properties: self.0 })
    }
}

/// What we say of ourselves. The user's own properties stand in front, as the first of a name is the one that counts.
fn client_properties(options: &Options) -> Result<Table, EncodeError> {
    let mut properties = options.client_properties.clone();
    if let Some(name) = &options.connection_name {
        properties.insert("connection_name", name)?;
    }
    properties.insert("product", "puka")?;
    properties.insert("version", env!("CARGO_PKG_VERSION"))?;
    properties.insert("platform", "Rust")?;
    let mut capabilities = Table::new();
    for name in [
        "authentication_failure_close",
        "basic.nack",
        "connection.blocked",
        "consumer_cancel_notify",
        "exchange_exchange_bindings",
        "publisher_confirms",
    ] {
        capabilities.insert(name, true)?;
    }
    properties.insert("capabilities", &capabilities)?;
    Ok(properties)
}
