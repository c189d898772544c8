//! Class `connection`: from the protocol header to the last `close-ok` (spec 2.2.4, 4.2.2).

use crate::config::User;
use crate::connection::Phase;
use crate::fault::{Fault, Outcome, text};
use crate::ids::FrameContext;
use crate::state::State;
use crate::{pending_work, removal};
use puka::protocol::frame::FRAME_MIN_SIZE;
use puka::protocol::method::connection::{self, Method};
use puka::protocol::method::{Encode, Method as AnyMethod};
use puka::protocol::{MethodId, ProtocolHeader, ReplyCode, ShortStr, TableRef, Value};
use std::time::Duration;

/// Handles the protocol header of eight bytes. A server that does not accept it sends its own and
/// closes the transport.
pub(crate) fn handle_protocol_header(state: &mut State, context: FrameContext, bytes: &[u8]) {
    // `AMQP,1,1,0,9` is 0-9, which RabbitMQ accepts.
    let accepted =
        bytes == ProtocolHeader::AMQP_0_9_1.to_bytes() || bytes == b"AMQP\x01\x01\x00\x09";
    if !accepted {
        if let Some(connection) = state.connections.get_mut(&context.connection) {
            connection.send_bytes(&ProtocolHeader::AMQP_0_9_1.to_bytes());
            connection.drop_transport();
        }
        return;
    }
    let mechanisms = state.config.mechanisms.join(" ");
    let properties = state.config.server_properties.clone();
    let start = connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties: properties.as_ref(),
        mechanisms: mechanisms.as_bytes(),
        locales: b"en_US",
    };
    state.send(context, &start);
    let deadline = deadline(state, context);
    set_phase(state, context, Phase::StartOk { deadline });
}

/// Handles a method on channel 0.
pub(crate) fn handle(state: &mut State, context: FrameContext, method: AnyMethod<'_>) -> Outcome {
    let phase = state.connection(context)?.phase;
    let AnyMethod::Connection(method) = method else {
        return Err(unexpected(&method));
    };
    match (phase, method) {
        (Phase::StartOk { .. }, Method::StartOk(method)) => start_ok(state, context, &method),
        (Phase::SecureOk { .. }, Method::SecureOk(method)) => secure_ok(state, context, &method),
        (Phase::TuneOk { .. }, Method::TuneOk(method)) => tune_ok(state, context, method),
        (Phase::Open { .. }, Method::Open(method)) => open(state, context, &method),
        (Phase::Running, Method::UpdateSecret(method)) => {
            let secret = String::from_utf8_lossy(method.new_secret).into_owned();
            if let Some(connection) = state.connections.get_mut(&context.connection) {
                connection.user.password = secret;
            }
            state.send(context, &connection::UpdateSecretOk {});
            Ok(())
        }
        // The two closes have crossed. The client's close gets its reply, and the broker continues
        // to wait for its own.
        (Phase::Closing { .. }, Method::Close(_)) => {
            state.send(context, &connection::CloseOk {});
            Ok(())
        }
        (Phase::Closing { .. }, Method::CloseOk(_)) => {
            set_phase(state, context, Phase::Closed);
            Ok(())
        }
        // After `close` was sent, everything else is discarded.
        (Phase::Closing { .. }, _) => Ok(()),
        (_, Method::Close(_)) => {
            pending_work::send_all_due_confirms(state, context.now);
            removal::clear_connection(state, context.connection, context.now);
            if let Some(connection) = state.connections.get_mut(&context.connection) {
                connection.send_close_ok(context.now);
            }
            Ok(())
        }
        (_, method) => Err(unexpected(&method)),
    }
}

/// Returns the fault of a method that is not allowed in this phase.
fn unexpected(method: &impl Encode) -> Fault {
    Fault::new(
        ReplyCode::CHANNEL_ERROR,
        format_args!("unexpected method {} on channel 0", method.id()),
    )
}

/// Sets the phase of a connection.
fn set_phase(state: &mut State, context: FrameContext, phase: Phase) {
    if let Some(connection) = state.connections.get_mut(&context.connection) {
        connection.phase = phase;
    }
}

/// Returns the deadline of the whole handshake.
fn deadline(state: &State, context: FrameContext) -> std::time::Instant {
    match state
        .connections
        .get(&context.connection)
        .map(|connection| connection.phase)
    {
        Some(
            Phase::ProtocolHeader { deadline }
            | Phase::StartOk { deadline }
            | Phase::SecureOk { deadline }
            | Phase::TuneOk { deadline }
            | Phase::Open { deadline },
        ) => deadline,
        _ => context.now + state.config.handshake_timeout,
    }
}

/// Handles `start-ok`: logs the client in, or asks for its password.
fn start_ok(state: &mut State, context: FrameContext, method: &connection::StartOk<'_>) -> Outcome {
    let mechanism = text(method.mechanism)?;
    // RabbitMQ closes the transport without a frame if the mechanism was not offered.
    if !state
        .config
        .mechanisms
        .iter()
        .any(|offered| offered == mechanism)
    {
        return Err(Fault::Silent);
    }
    let Some(connection) = state.connections.get_mut(&context.connection) else {
        return Ok(());
    };
    connection.client_properties = method.client_properties.to_table();
    let user = match mechanism {
        "PLAIN" => user_with_password(state, plain(method.response)?),
        "AMQPLAIN" => user_with_password(state, amqplain(method.response)?),
        "ANONYMOUS" => user(state, &state.config.anonymous_user),
        "EXTERNAL" => state
            .config
            .external_user
            .as_ref()
            .and_then(|name| user(state, name)),
        "RABBIT-CR-DEMO" => return ask_for_password(state, context, method.response),
        _ => return Err(Fault::Silent),
    };
    log_in(state, context, mechanism, user)
}

/// Continues RABBIT-CR-DEMO: the response is the user name, and the challenge asks for the
/// password.
fn ask_for_password(state: &mut State, context: FrameContext, username: &[u8]) -> Outcome {
    let name = String::from_utf8(username.to_vec()).map_err(|_| Fault::Silent)?;
    let Some(connection) = state.connections.get_mut(&context.connection) else {
        return Ok(());
    };
    connection.user.name = name;
    state.send(
        context,
        &connection::Secure {
            challenge: b"Please tell me your password",
        },
    );
    let deadline = deadline(state, context);
    set_phase(state, context, Phase::SecureOk { deadline });
    Ok(())
}

/// Handles `secure-ok`, which contains the password.
fn secure_ok(
    state: &mut State,
    context: FrameContext,
    method: &connection::SecureOk<'_>,
) -> Outcome {
    let password = method
        .response
        .strip_prefix(b"My password is ")
        .ok_or(Fault::Silent)?;
    let password = String::from_utf8(password.to_vec()).map_err(|_| Fault::Silent)?;
    let name = state.connection(context)?.user.name.clone();
    let user = user_with_password(state, (name, password));
    log_in(state, context, "RABBIT-CR-DEMO", user)
}

/// Returns the user with a name.
fn user(state: &State, name: &str) -> Option<User> {
    state
        .config
        .users
        .iter()
        .find(|user| user.name == name)
        .cloned()
}

/// Returns the user with a name, if the password is right.
fn user_with_password(state: &State, (name, password): (String, String)) -> Option<User> {
    user(state, &name).filter(|user| user.password == password)
}

/// Sends `tune`, or refuses the login.
fn log_in(
    state: &mut State,
    context: FrameContext,
    mechanism: &str,
    user: Option<User>,
) -> Outcome {
    let Some(user) = user else {
        return refuse_login(state, context, mechanism);
    };
    let Some(connection) = state.connections.get_mut(&context.connection) else {
        return Ok(());
    };
    connection.user = user;
    let tune = connection::Tune {
        channel_max: connection.channel_max,
        frame_max: state.config.frame_max,
        heartbeat: seconds(state.config.heartbeat),
    };
    state.send(context, &tune);
    let deadline = deadline(state, context);
    set_phase(state, context, Phase::TuneOk { deadline });
    Ok(())
}

/// Refuses a login: with a close if the client has that capability, otherwise by closing the
/// transport without a frame. The text must not say whether the user or the password is wrong.
fn refuse_login(state: &mut State, context: FrameContext, mechanism: &str) -> Outcome {
    let Some(connection) = state.connections.get_mut(&context.connection) else {
        return Ok(());
    };
    if !connection.has_capability("authentication_failure_close") {
        return Err(Fault::Silent);
    }
    let text = format!(
        "ACCESS_REFUSED - Login was refused using authentication mechanism {mechanism}. For \
         details see the broker logfile."
    );
    let MethodId {
        class: class_id,
        method: method_id,
    } = MethodId::NONE;
    let reply_code = ReplyCode::ACCESS_REFUSED.value();
    connection.send_close(
        context.now,
        &connection::Close {
            reply_code,
            reply_text: ShortStr::cut(&text),
            class_id,
            method_id,
        },
    );
    Ok(())
}

/// Parses a PLAIN response: `NUL user NUL password`. RabbitMQ accepts no authorization identity
/// before the first NUL, and closes the transport without a frame if the response is malformed.
fn plain(response: &[u8]) -> Result<(String, String), Fault> {
    plain_parts(response).ok_or(Fault::Silent)
}

/// Returns the user and the password, or `None` if the response is malformed.
fn plain_parts(response: &[u8]) -> Option<(String, String)> {
    let mut parts = response.split(|&byte| byte == 0);
    let (authzid, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    if !authzid.is_empty() || parts.next().is_some() {
        return None;
    }
    Some((
        String::from_utf8(user.to_vec()).ok()?,
        String::from_utf8(password.to_vec()).ok()?,
    ))
}

/// Parses an AMQPLAIN response: the table entries LOGIN (S) and PASSWORD (S), without the 4 bytes
/// of the table's length.
fn amqplain(response: &[u8]) -> Result<(String, String), Fault> {
    amqplain_entries(response).ok_or(Fault::Silent)
}

/// Returns the user and the password, or `None` if the response is malformed.
fn amqplain_entries(response: &[u8]) -> Option<(String, String)> {
    let table = TableRef::new(response).ok()?;
    let entry = |name| match table.get(name) {
        Some(Value::String(_)) => table.get(name).and_then(Value::as_str).map(String::from),
        _ => None,
    };
    Some((entry("LOGIN")?, entry("PASSWORD")?))
}

/// Adopts the negotiated limits. Closes the transport without a frame if they exceed the proposed
/// ones.
fn tune_ok(state: &mut State, context: FrameContext, method: connection::TuneOk) -> Outcome {
    let connection::TuneOk {
        channel_max,
        frame_max,
        heartbeat,
    } = method;
    // The value 0 means no limit, so it exceeds any limit.
    let exceeds = |value: u32, limit: u32| limit != 0 && (value == 0 || value > limit);
    // The limit proposed for this connection. The configuration may have changed since.
    let proposed = state.connection(context)?.channel_max;
    if exceeds(channel_max.into(), proposed.into())
        || exceeds(frame_max, state.config.frame_max)
        || (frame_max != 0 && frame_max < FRAME_MIN_SIZE)
    {
        return Err(Fault::Silent);
    }
    let deadline = deadline(state, context);
    let limit = state.config.frame_limit;
    let Some(connection) = state.connections.get_mut(&context.connection) else {
        return Ok(());
    };
    connection.channel_max = channel_max;
    connection.frame_max = frame_max;
    // The limit of RabbitMQ is about the payload alone, so its frames may have 8 bytes more than
    // `frame_max`.
    let largest = if frame_max == 0 { limit } else { frame_max };
    connection
        .decoder
        .set_frame_max(largest.saturating_add(puka::protocol::frame::OVERHEAD));
    // RabbitMQ adopts the client's value for both directions.
    connection.heartbeat = Duration::from_secs(heartbeat.into());
    connection.phase = Phase::Open { deadline };
    Ok(())
}

/// Handles `open`.
fn open(state: &mut State, context: FrameContext, method: &connection::Open<'_>) -> Outcome {
    let name = text(method.virtual_host)?;
    let Some((name, _)) = state.vhosts.get_key_value(name) else {
        return Err(Fault::new(
            ReplyCode::NOT_ALLOWED,
            format_args!("vhost {name} not found"),
        ));
    };
    let name = name.clone();
    let Some(connection) = state.connections.get_mut(&context.connection) else {
        return Ok(());
    };
    let user = &connection.user;
    if user
        .vhosts
        .as_ref()
        .is_some_and(|vhosts| !vhosts.iter().any(|vhost| **vhost == *name))
    {
        return Err(Fault::new(
            ReplyCode::NOT_ALLOWED,
            format_args!("access to vhost '{name}' refused for user '{}'", user.name),
        ));
    }
    connection.vhost = name;
    connection.phase = Phase::Running;
    connection.last_received = context.now;
    state.send(context, &connection::OpenOk {});
    Ok(())
}

/// Returns a duration in seconds.
fn seconds(duration: Duration) -> u16 {
    u16::try_from(duration.as_secs()).unwrap_or(u16::MAX)
}
