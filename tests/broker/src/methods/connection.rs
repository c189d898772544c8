//! Class `connection`: from the protocol header to the last `close-ok` (spec 2.2.4, 4.2.2).

use crate::config::User;
use crate::connection::Phase;
use crate::fault::{Fault, Outcome, text};
use crate::ids::Place;
use crate::state::State;
use crate::{quiesce, release};
use puka::protocol::frame::FRAME_MIN_SIZE;
use puka::protocol::method::connection::{self, Method};
use puka::protocol::method::{Encode, Method as AnyMethod};
use puka::protocol::{MethodId, ProtocolHeader, ReplyCode, ShortStr, TableRef, Value};
use std::time::Duration;

/// Handles the protocol header of eight bytes. A server that does not accept it sends its own and
/// closes the transport.
pub(crate) fn protocol_header(state: &mut State, place: Place, bytes: &[u8]) {
    // `AMQP,1,1,0,9` is 0-9, which RabbitMQ accepts.
    let accepted =
        bytes == ProtocolHeader::AMQP_0_9_1.to_bytes() || bytes == b"AMQP\x01\x01\x00\x09";
    if !accepted {
        if let Some(connection) = state.connections.get_mut(&place.connection) {
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
    state.send(place, &start);
    let deadline = deadline(state, place);
    set_phase(state, place, Phase::StartOk { deadline });
}

/// Handles a method on channel 0.
pub(crate) fn handle(state: &mut State, place: Place, method: AnyMethod<'_>) -> Outcome {
    let phase = state.connection(place)?.phase;
    let AnyMethod::Connection(method) = method else {
        return Err(unexpected(&method));
    };
    match (phase, method) {
        (Phase::StartOk { .. }, Method::StartOk(method)) => start_ok(state, place, &method),
        (Phase::SecureOk { .. }, Method::SecureOk(method)) => secure_ok(state, place, &method),
        (Phase::TuneOk { .. }, Method::TuneOk(method)) => tune_ok(state, place, method),
        (Phase::Open { .. }, Method::Open(method)) => open(state, place, &method),
        (Phase::Running, Method::UpdateSecret(method)) => {
            let secret = String::from_utf8_lossy(method.new_secret).into_owned();
            if let Some(connection) = state.connections.get_mut(&place.connection) {
                connection.user.password = secret;
            }
            state.send(place, &connection::UpdateSecretOk {});
            Ok(())
        }
        // "Both may cross: answer close with close-ok even then", and continue to wait.
        (Phase::Closing { .. }, Method::Close(_)) => {
            state.send(place, &connection::CloseOk {});
            Ok(())
        }
        (Phase::Closing { .. }, Method::CloseOk(_)) => {
            set_phase(state, place, Phase::Closed);
            Ok(())
        }
        // After `close` was sent, everything else is discarded.
        (Phase::Closing { .. }, _) => Ok(()),
        (_, Method::Close(_)) => {
            quiesce::confirm_all(state, place.now);
            release::release_connection(state, place.connection, place.now);
            if let Some(connection) = state.connections.get_mut(&place.connection) {
                connection.send_close_ok(place.now);
            }
            Ok(())
        }
        (_, method) => Err(unexpected(&method)),
    }
}

fn unexpected(method: &impl Encode) -> Fault {
    Fault::new(
        ReplyCode::CHANNEL_ERROR,
        format_args!("unexpected method {} on channel 0", method.id()),
    )
}

fn set_phase(state: &mut State, place: Place, phase: Phase) {
    if let Some(connection) = state.connections.get_mut(&place.connection) {
        connection.phase = phase;
    }
}

/// "The server gives the whole handshake 10 s."
fn deadline(state: &State, place: Place) -> std::time::Instant {
    match state
        .connections
        .get(&place.connection)
        .map(|connection| connection.phase)
    {
        Some(
            Phase::ProtocolHeader { deadline }
            | Phase::StartOk { deadline }
            | Phase::SecureOk { deadline }
            | Phase::TuneOk { deadline }
            | Phase::Open { deadline },
        ) => deadline,
        _ => place.now + state.config.handshake_timeout,
    }
}

fn start_ok(state: &mut State, place: Place, method: &connection::StartOk<'_>) -> Outcome {
    let mechanism = text(method.mechanism)?;
    // "A mechanism that was not offered: silent close."
    if !state
        .config
        .mechanisms
        .iter()
        .any(|offered| offered == mechanism)
    {
        return Err(Fault::Silent);
    }
    let Some(connection) = state.connections.get_mut(&place.connection) else {
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
        "RABBIT-CR-DEMO" => return ask_for_password(state, place, method.response),
        _ => return Err(Fault::Silent),
    };
    log_in(state, place, mechanism, user)
}

/// Continues RABBIT-CR-DEMO: the response is the user name, and the challenge asks for the
/// password.
fn ask_for_password(state: &mut State, place: Place, username: &[u8]) -> Outcome {
    let name = String::from_utf8(username.to_vec()).map_err(|_| Fault::Silent)?;
    let Some(connection) = state.connections.get_mut(&place.connection) else {
        return Ok(());
    };
    connection.user.name = name;
    state.send(
        place,
        &connection::Secure {
            challenge: b"Please tell me your password",
        },
    );
    let deadline = deadline(state, place);
    set_phase(state, place, Phase::SecureOk { deadline });
    Ok(())
}

fn secure_ok(state: &mut State, place: Place, method: &connection::SecureOk<'_>) -> Outcome {
    let password = method
        .response
        .strip_prefix(b"My password is ")
        .ok_or(Fault::Silent)?;
    let password = String::from_utf8(password.to_vec()).map_err(|_| Fault::Silent)?;
    let name = state.connection(place)?.user.name.clone();
    let user = user_with_password(state, (name, password));
    log_in(state, place, "RABBIT-CR-DEMO", user)
}

fn user(state: &State, name: &str) -> Option<User> {
    state
        .config
        .users
        .iter()
        .find(|user| user.name == name)
        .cloned()
}

fn user_with_password(state: &State, (name, password): (String, String)) -> Option<User> {
    user(state, &name).filter(|user| user.password == password)
}

/// Sends `tune`, or refuses the login.
fn log_in(state: &mut State, place: Place, mechanism: &str, user: Option<User>) -> Outcome {
    let Some(user) = user else {
        return refuse_login(state, place, mechanism);
    };
    let Some(connection) = state.connections.get_mut(&place.connection) else {
        return Ok(());
    };
    connection.user = user;
    let tune = connection::Tune {
        channel_max: connection.channel_max,
        frame_max: state.config.frame_max,
        heartbeat: seconds(state.config.heartbeat),
    };
    state.send(place, &tune);
    let deadline = deadline(state, place);
    set_phase(state, place, Phase::TuneOk { deadline });
    Ok(())
}

/// "Close 403 when the client has authentication_failure_close, else TCP closed after 3 s without a
/// frame. The text never says why."
fn refuse_login(state: &mut State, place: Place, mechanism: &str) -> Outcome {
    let Some(connection) = state.connections.get_mut(&place.connection) else {
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
        place.now,
        &connection::Close {
            reply_code,
            reply_text: ShortStr::cut(&text),
            class_id,
            method_id,
        },
    );
    Ok(())
}

/// PLAIN: `NUL user NUL password`. "The authzid before the first NUL must be empty." A malformed
/// response is "seen as silent close".
fn plain(response: &[u8]) -> Result<(String, String), Fault> {
    plain_parts(response).ok_or(Fault::Silent)
}

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

fn amqplain_entries(response: &[u8]) -> Option<(String, String)> {
    let table = TableRef::new(response).ok()?;
    let entry = |name| match table.get(name) {
        Some(Value::String(_)) => table.get(name).and_then(Value::as_str).map(String::from),
        _ => None,
    };
    Some((entry("LOGIN")?, entry("PASSWORD")?))
}

/// Checks the negotiated limits. "Refusal of tune-ok comes as a silent TCP close."
fn tune_ok(state: &mut State, place: Place, method: connection::TuneOk) -> Outcome {
    let connection::TuneOk {
        channel_max,
        frame_max,
        heartbeat,
    } = method;
    // "Never answer 0 for channel-max or frame-max when the server named a limit: refused, as is a
    // larger value."
    let exceeds = |value: u32, limit: u32| limit != 0 && (value == 0 || value > limit);
    // The limit proposed for this connection. The configuration may have changed since.
    let proposed = state.connection(place)?.channel_max;
    if exceeds(channel_max.into(), proposed.into())
        || exceeds(frame_max, state.config.frame_max)
        || (frame_max != 0 && frame_max < FRAME_MIN_SIZE)
    {
        return Err(Fault::Silent);
    }
    let deadline = deadline(state, place);
    let limit = state.config.frame_limit;
    let Some(connection) = state.connections.get_mut(&place.connection) else {
        return Ok(());
    };
    connection.channel_max = channel_max;
    connection.frame_max = frame_max;
    // "The server tolerates payloads up to frame_max": frames may be 8 bytes longer than
    // negotiated.
    let largest = if frame_max == 0 { limit } else { frame_max };
    connection
        .decoder
        .set_frame_max(largest.saturating_add(puka::protocol::frame::OVERHEAD));
    // "The server adopts the client's value for both directions."
    connection.heartbeat = Duration::from_secs(heartbeat.into());
    connection.phase = Phase::Open { deadline };
    Ok(())
}

fn open(state: &mut State, place: Place, method: &connection::Open<'_>) -> Outcome {
    let name = text(method.virtual_host)?;
    let Some((name, _)) = state.vhosts.get_key_value(name) else {
        return Err(Fault::new(
            ReplyCode::NOT_ALLOWED,
            format_args!("vhost {name} not found"),
        ));
    };
    let name = name.clone();
    let Some(connection) = state.connections.get_mut(&place.connection) else {
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
    connection.last_received = place.now;
    state.send(place, &connection::OpenOk {});
    Ok(())
}

fn seconds(duration: Duration) -> u16 {
    u16::try_from(duration.as_secs()).unwrap_or(u16::MAX)
}
