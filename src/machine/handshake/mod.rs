//! The handshake: one type for each state (spec 2.2.4, 4.2.2).
//!
//! `start` → `start-ok`, any `secure` → `secure-ok`, `tune` → `tune-ok`, `open`, `open-ok`. Any
//! other method is an error of the server.

pub(crate) mod sasl;
pub(crate) mod server_properties;
pub(crate) mod tuning;

use crate::error::{Broken, Error, Fault};
use crate::machine::ServerProperties;
use crate::machine::handshake::sasl::{LoginOutcome, LoginStep, SaslSession};
use crate::machine::transmit::outbox::Outbox;
use crate::options::Options;
use crate::protocol::frame::FRAME_MIN_SIZE;
use crate::protocol::method::{Encode, connection as methods};
use crate::protocol::{EncodeError, Method, ProtocolHeader, ReplyCode, ShortStr, Table};

/// The state of the handshake, named after the method or outcome that is expected next.
#[derive(Debug)]
pub(crate) enum Handshake {
    Start(AwaitStart),
    Response(AwaitResponse),
    Tune(AwaitTune),
    OpenOk(AwaitOpenOk),
}

/// The result of a method of the server.
#[derive(Debug)]
pub(crate) enum HandshakeStep {
    /// The handshake continues in this state.
    Next(Handshake),
    /// The limits are negotiated and apply from now on, as do heartbeats.
    Tuned(AwaitOpenOk),
    /// The connection is open.
    Open(ServerProperties),
}

/// The state that waits for `connection.start`.
#[derive(Debug)]
pub(crate) struct AwaitStart;

/// The state that waits for the response of the user's code.
#[derive(Debug)]
pub(crate) struct AwaitResponse {
    /// The step to run, until the driver takes it.
    step: Option<LoginStep>,
    login: Login,
}

/// The state that waits for `connection.tune` or a challenge.
#[derive(Debug)]
pub(crate) struct AwaitTune {
    session: SaslSession,
    login: Login,
}

/// A pending login.
#[derive(Debug)]
struct Login {
    mechanism: String,
    /// The number of challenges so far.
    challenges: u8,
    /// The size of the largest frame that was sent, in bytes.
    largest_frame: usize,
    /// The user name of the login, if it is known.
    username: Option<String>,
    properties: ServerProperties,
}

/// The largest number of challenges in a login. No mechanism needs as many. Without a limit, a
/// server could keep a client busy.
const MAX_CHALLENGES: u8 = 8;

/// The state that waits for `connection.open-ok`.
#[derive(Debug)]
pub(crate) struct AwaitOpenOk {
    pub(crate) limits: methods::TuneOk,
    pub(crate) username: Option<String>,
    properties: ServerProperties,
}

/// The smallest `frame_max` that RabbitMQ accepts since 4.1, because `start-ok` may contain long
/// tokens. It closes the transport over a lower one without a reason.
const RABBITMQ_MIN_FRAME_MAX: u32 = 8192;

const LOCALE: ShortStr<'static> = ShortStr::literal("en_US");

impl Handshake {
    /// Begins the handshake by writing the protocol header.
    pub(crate) fn begin(out: &mut Outbox) -> Self {
        out.append_bytes(&ProtocolHeader::AMQP_0_9_1.to_bytes());
        Self::Start(AwaitStart)
    }

    /// Handles a method of the server, and writes the reply. Returns what follows.
    pub(crate) fn handle(
        self,
        method: Method<'_>,
        options: &Options,
        out: &mut Outbox,
    ) -> Result<HandshakeStep, Error> {
        match (self, method) {
            (Self::Start(state), Method::Connection(methods::Method::Start(start))) => {
                state.handle(start, options, out).map(HandshakeStep::Next)
            }
            (Self::Tune(state), Method::Connection(methods::Method::Secure(secure))) => state
                .handle_challenge(secure, options, out)
                .map(HandshakeStep::Next),
            (Self::Tune(state), Method::Connection(methods::Method::Tune(tune))) => {
                state.handle(tune, options, out).map(HandshakeStep::Tuned)
            }
            (Self::OpenOk(state), Method::Connection(methods::Method::OpenOk(_))) => {
                Ok(HandshakeStep::Open(state.properties))
            }
            (state, method) => {
                let text = format!("expected {}, got {}", state.expected(), method.id());
                Err(Fault::found_in_broker(ReplyCode::COMMAND_INVALID, text, method.id()).into())
            }
        }
    }

    /// Returns the name of the expected method, for the error text.
    fn expected(&self) -> &'static str {
        match self {
            Self::Start(_) => "connection.start",
            Self::Response(_) => "nothing",
            Self::Tune(_) => "connection.tune or secure",
            Self::OpenOk(_) => "connection.open-ok",
        }
    }

    /// Returns the error that the end of the transport means in this state, if it means more than a
    /// lost connection: RabbitMQ closes the transport without a reason in these cases.
    pub(crate) fn error_at_end(&self, cause: &Broken) -> Option<Error> {
        match self {
            Self::Tune(state) => Some(state.login.ended_with(Error::LoginRefused)),
            Self::OpenOk(state) if state.limits.frame_max < RABBITMQ_MIN_FRAME_MAX => {
                let (frame_max, cause) = (state.limits.frame_max, cause.clone().into());
                Some(Error::ConnectionBroken(Broken::SmallFrameMax {
                    frame_max,
                    cause,
                }))
            }
            _ => None,
        }
    }

    /// Returns the error that a close by the server means in this state.
    pub(crate) fn error_at_close(&self, error: Error) -> Error {
        match (self, error) {
            (Self::Tune(state), error @ Error::FrameError(_)) => state.login.ended_with(error),
            (_, error) => error,
        }
    }

    /// Takes the login step to run outside of the state machine, if there is one.
    pub(crate) fn poll_login(&mut self) -> Option<LoginStep> {
        if let Self::Response(state) = self {
            state.step.take()
        } else {
            None
        }
    }

    /// Handles the outcome of a login step. It is ignored if no step is pending.
    pub(crate) fn handle_login(
        self,
        outcome: LoginOutcome,
        options: &Options,
        out: &mut Outbox,
    ) -> Result<Self, Error> {
        match self {
            Self::Response(state) => state.login.respond(outcome, options, out).map(Self::Tune),
            other => Ok(other),
        }
    }

    /// Returns `true` if the limits are negotiated.
    pub(crate) fn is_tuned(&self) -> bool {
        matches!(self, Self::OpenOk(_))
    }

    /// Returns `true` if the server has not sent anything yet.
    pub(crate) fn is_at_start(&self) -> bool {
        matches!(self, Self::Start(_))
    }
}

impl AwaitStart {
    fn handle(
        self,
        start: methods::Start<'_>,
        options: &Options,
        out: &mut Outbox,
    ) -> Result<Handshake, Error> {
        let (major, minor) = (start.version_major, start.version_minor);
        // "If the client cannot handle the protocol version suggested by the server it MUST close
        // the socket connection without sending any further data" (1.4.2.1).
        if (major, minor) != (0, 9) {
            return Err(Error::UnsupportedProtocol(ProtocolHeader {
                id: 0,
                major,
                minor,
                revision: 0,
            }));
        }
        let mechanism = sasl::choose(start.mechanisms, &options.login)?;
        let login = Login {
            mechanism: mechanism.name().to_owned(),
            challenges: 0,
            largest_frame: 0,
            username: None,
            properties: ServerProperties::new(start.server_properties),
        };
        let step = LoginStep::begin(mechanism, options.login.credentials.clone());
        login.begin_step(step, options, out)
    }
}

impl Login {
    /// Runs a login step and writes its response. If it runs the user's code, returns the state
    /// that waits for its outcome instead.
    fn begin_step(
        self,
        step: LoginStep,
        options: &Options,
        out: &mut Outbox,
    ) -> Result<Handshake, Error> {
        if step.runs_user_code() {
            return Ok(Handshake::Response(AwaitResponse {
                step: Some(step),
                login: self,
            }));
        }
        self.respond(step.run(), options, out).map(Handshake::Tune)
    }

    /// Writes the response of a login step: `start-ok` with the first one, `secure-ok` afterwards.
    fn respond(
        mut self,
        outcome: LoginOutcome,
        options: &Options,
        out: &mut Outbox,
    ) -> Result<AwaitTune, Error> {
        let response = outcome.0?;
        let (frame_max, before) = (options.limits.initial_frame_max, out.len());
        if self.challenges > 0 {
            let secure_ok = methods::SecureOk {
                response: &response.bytes.0,
            };
            out.append_method(0, frame_max, &secure_ok)
                .map_err(too_large_to_log_in)?;
        } else {
            let client_properties = client_properties(options)?;
            let start_ok = methods::StartOk {
                client_properties: client_properties.as_ref(),
                mechanism: ShortStr::new(&self.mechanism)?,
                response: &response.bytes.0,
                locale: LOCALE,
            };
            out.append_method(0, frame_max, &start_ok)
                .map_err(too_large_to_log_in)?;
            self.username = response.username;
        }
        self.largest_frame = self.largest_frame.max(out.len() - before);
        Ok(AwaitTune {
            session: response.session,
            login: self,
        })
    }

    /// Returns the error of a login that the server has ended with `error`. Every broker accepts
    /// frames of the smallest size.
    fn ended_with(&self, error: Error) -> Error {
        if self.largest_frame <= FRAME_MIN_SIZE as usize {
            return error;
        }
        Error::LargeLogin {
            bytes: self.largest_frame,
            cause: error.into(),
        }
    }
}

fn too_large_to_log_in(error: EncodeError) -> Error {
    Error::invalid(
        "credentials and client properties",
        format!(
            "{error}; increase `Options::initial_frame_max`, and initial_frame_max in \
             rabbitmq.conf"
        ),
    )
}

impl AwaitTune {
    fn handle_challenge(
        self,
        secure: methods::Secure<'_>,
        options: &Options,
        out: &mut Outbox,
    ) -> Result<Handshake, Error> {
        let Self { session, mut login } = self;
        login.challenges += 1;
        if login.challenges > MAX_CHALLENGES {
            let text = format!("more than {MAX_CHALLENGES} challenges in one login");
            return Err(Fault::found_in_broker(
                ReplyCode::COMMAND_INVALID,
                text,
                methods::Secure::ID,
            )
            .into());
        }
        login.begin_step(LoginStep::respond(session, secure.challenge), options, out)
    }

    fn handle(
        self,
        tune: methods::Tune,
        options: &Options,
        out: &mut Outbox,
    ) -> Result<AwaitOpenOk, Error> {
        // "The maximum size of the frame payload is agreed upon by both peers during connection
        // negotiation" (4.2.6.2). `open` follows without a reply to `tune-ok`.
        let limits = tuning::negotiate(tune, &options.limits)?;
        let virtual_host = ShortStr::new(&options.virtual_host)
            .map_err(|error| Error::invalid("virtual_host", error))?;
        out.append_method(0, limits.frame_max, &limits)?;
        out.append_method(0, limits.frame_max, &methods::Open { virtual_host })?;
        let Login {
            username,
            properties,
            ..
        } = self.login;
        Ok(AwaitOpenOk {
            limits,
            username,
            properties,
        })
    }
}

/// Returns the client properties. The user's own properties come first, because RabbitMQ uses the
/// first value of a name.
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
