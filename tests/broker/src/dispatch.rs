//! Decodes arriving frames, checks that they are allowed in the current state, and passes them to
//! the module of their class (spec 4.2.3).

use crate::channel::Content;
use crate::connection::Phase;
use crate::fault::{Fault, Outcome};
use crate::ids::{ConnectionId, Place};
use crate::state::State;
use crate::{methods, publish, quiesce, release, stuck};
use bytes::Bytes;
use puka::protocol::method::{access, basic, channel, connection};
use puka::protocol::wire::Reader;
use puka::protocol::{FrameKind, Method, MethodId, ReplyCode, ShortStr};
use std::time::Instant;

/// A larger body is refused when its header arrives (RabbitMQ 4.2.6): 512 MiB.
const LARGEST_BODY: u64 = 512 << 20;

/// Receives bytes, in pieces of any size.
pub(crate) fn receive(state: &mut State, id: ConnectionId, bytes: &[u8], now: Instant) {
    let Some(connection) = state.connections.get_mut(&id) else {
        return;
    };
    // Every received byte counts as a sign of life.
    connection.last_received = now;
    let mut bytes = bytes;
    if matches!(connection.phase, Phase::ProtocolHeader { .. }) {
        let missing = 8_usize
            .saturating_sub(connection.protocol_header.len())
            .min(bytes.len());
        let (head, rest) = bytes.split_at(missing);
        connection.protocol_header.extend_from_slice(head);
        bytes = rest;
        if connection.protocol_header.len() == 8 {
            let header = std::mem::take(&mut connection.protocol_header);
            let place = Place {
                now,
                connection: id,
                channel: 0,
            };
            methods::connection::protocol_header(state, place, &header);
        }
    }
    if let Some(connection) = state.connections.get_mut(&id)
        && !matches!(
            connection.phase,
            Phase::Closed | Phase::Parting { .. } | Phase::Doomed { .. }
        )
    {
        connection.decoder.extend(bytes);
    }
    process(state, id, now);
}

/// Processes the frames that have arrived, unless the connection is blocked.
pub(crate) fn process(state: &mut State, id: ConnectionId, now: Instant) {
    while let Some(connection) = state.connections.get_mut(&id) {
        if !connection.reads() || matches!(connection.phase, Phase::ProtocolHeader { .. }) {
            break;
        }
        let frame = connection.decoder.next_frame();
        let frame = frame
            .map(|frame| frame.map(|frame| (frame.kind(), frame.channel(), frame.into_payload())));
        match frame {
            Ok(None) => break,
            Ok(Some((kind, channel, payload))) => {
                arrived(
                    state,
                    Place {
                        now,
                        connection: id,
                        channel,
                    },
                    kind,
                    payload,
                );
            }
            Err(error) => {
                let place = Place {
                    now,
                    connection: id,
                    channel: 0,
                };
                fail(state, place, Fault::undecodable(error), MethodId::NONE);
                // The decoder cannot find the next frame.
                break;
            }
        }
    }
}

/// Processes a frame.
pub(crate) fn arrived(state: &mut State, place: Place, kind: FrameKind, payload: Bytes) {
    if let Err((fault, method)) = frame_arrived(state, place, kind, payload) {
        fail(state, place, fault, method);
    }
    quiesce::quiesce(state, place.now);
}

/// A fault, and the method that has caused it.
type Failed = (Fault, MethodId);

fn frame_arrived(
    state: &mut State,
    place: Place,
    kind: FrameKind,
    payload: Bytes,
) -> Result<(), Failed> {
    let failed = |fault| (fault, MethodId::NONE);
    let Some(connection) = state.connections.get(&place.connection) else {
        return Ok(());
    };
    let largest = if connection.frame_max == 0 {
        state.config.frame_limit
    } else {
        connection.frame_max
    };
    // "The server tolerates payloads up to frame_max, one byte more is 501, whatever the frame
    // type."
    if u32::try_from(payload.len()).map_or(true, |size| size > largest) {
        let why = format!(
            "frame of {} bytes, negotiated maximum {largest}",
            payload.len()
        );
        return Err(failed(Fault::new(ReplyCode::FRAME_ERROR, why)));
    }
    let running = connection.phase == Phase::Running;
    match kind {
        FrameKind::Heartbeat => Ok(()),
        FrameKind::ProtocolHeader => Err(failed(Fault::new(
            ReplyCode::FRAME_ERROR,
            "a second protocol header",
        ))),
        FrameKind::Method if place.channel == 0 => {
            let method = Method::decode(&payload)
                .map_err(Fault::undecodable)
                .map_err(failed)?;
            methods::connection::handle(state, place, method)
                .map_err(|fault| (fault, id_of(&payload)))
        }
        // Before `open` there is only channel 0, and after `close` other frames are ignored.
        _ if matches!(connection.phase, Phase::Closing { .. }) => Ok(()),
        FrameKind::Header | FrameKind::Body if place.channel == 0 || !running => {
            Err(failed(Fault::new(
                ReplyCode::UNEXPECTED_FRAME,
                "expected method frame on channel 0",
            )))
        }
        FrameKind::Method if !running => {
            let why = format!("channel {} before the connection is open", place.channel);
            Err(failed(Fault::new(ReplyCode::CHANNEL_ERROR, why)))
        }
        _ if stuck::keep(state, place, kind, &payload) => Ok(()),
        FrameKind::Method => method_arrived(state, place, payload),
        FrameKind::Header | FrameKind::Body => content_arrived(state, place, kind, payload),
    }
}

/// Returns the class and method at the start of a payload.
fn id_of(payload: &[u8]) -> MethodId {
    let mut reader = Reader::new(payload);
    match (reader.short(), reader.short()) {
        (Ok(class), Ok(method)) => MethodId { class, method },
        _ => MethodId::NONE,
    }
}

fn method_arrived(state: &mut State, place: Place, payload: Bytes) -> Result<(), Failed> {
    let id = id_of(&payload);
    let method = Method::decode(&payload).map_err(|error| (Fault::undecodable(error), id))?;
    let connection = state.connection(place).map_err(|fault| (fault, id))?;
    let Some(found) = connection.channels.get(&place.channel) else {
        return match method {
            Method::Channel(channel::Method::Open(_)) => methods::channel::open(state, place),
            _ => Err(Fault::new(
                ReplyCode::CHANNEL_ERROR,
                "expected 'channel.open'",
            )),
        }
        .map_err(|fault| (fault, id));
    };
    if found.closing {
        if let Method::Channel(method) = method {
            methods::channel::handle_closing(state, place, method);
        }
        return Ok(());
    }
    // "Until the content is complete, any other method on that channel is 505, channel.close-ok
    // included."
    if let Some(content) = &found.content {
        let what = if content.header.is_none() {
            "content header"
        } else {
            "content body"
        };
        let why = format!("expected {what} for class 60, got method frame instead");
        return Err((
            Fault::new(ReplyCode::UNEXPECTED_FRAME, why),
            id_of(&content.method),
        ));
    }
    if let Method::Basic(basic::Method::Publish(_)) = method {
        begin_publish(state, place, payload).map_err(|fault| (fault, id))
    } else {
        // Confirms are sent before the reply to a later method.
        quiesce::confirm(state, place.connection, place.channel, place.now);
        handle(state, place, method).map_err(|fault| (fault, id))
    }
}

/// "After the next publish of the connection the server stops reading its socket and sends
/// connection.blocked."
fn begin_publish(state: &mut State, place: Place, payload: Bytes) -> Outcome {
    state.channel(place)?.content = Some(Content::new(payload));
    let Some(reason) = state.alarm().map(String::from) else {
        return Ok(());
    };
    if let Some(connection) = state.connections.get_mut(&place.connection) {
        connection.blocked = true;
        if connection.has_capability("connection.blocked") {
            connection.send(
                place.now,
                0,
                &connection::Blocked {
                    reason: ShortStr::cut(&reason),
                },
            );
        }
    }
    Ok(())
}

fn handle(state: &mut State, place: Place, method: Method<'_>) -> Outcome {
    match method {
        Method::Channel(method) => methods::channel::handle(state, place, method),
        Method::Exchange(method) => methods::exchange::handle(state, place, &method),
        Method::Queue(method) => methods::queue::handle(state, place, &method),
        Method::Basic(method) => methods::basic::handle(state, place, &method),
        Method::Confirm(method) => methods::tx::handle_confirm(state, place, method),
        Method::Tx(method) => methods::tx::handle(state, place, method),
        // Deprecated, and answered without an effect; the ticket is always 1.
        Method::Access(access::Method::Request(_)) => {
            state.send(place, &access::RequestOk { ticket: 1 });
            Ok(())
        }
        Method::Access(_) => Err(Fault::unimplemented()),
        // "Connection method on another channel: 503."
        Method::Connection(_) => Err(Fault::unimplemented()),
    }
}

fn content_arrived(
    state: &mut State,
    place: Place,
    kind: FrameKind,
    payload: Bytes,
) -> Result<(), Failed> {
    let failed = |fault| (fault, MethodId::NONE);
    let limit = state.config.max_message_size;
    let connection = state.connections.get_mut(&place.connection);
    let Some(channel) =
        connection.and_then(|connection| connection.channels.get_mut(&place.channel))
    else {
        return Err(failed(Fault::new(
            ReplyCode::CHANNEL_ERROR,
            "expected 'channel.open'",
        )));
    };
    if channel.closing {
        return Ok(());
    }
    let Some(content) = &mut channel.content else {
        let why = "expected method frame, got non method frame instead";
        return Err(failed(Fault::new(ReplyCode::UNEXPECTED_FRAME, why)));
    };
    let id = basic::Publish::ID;
    match (kind, content.header.is_some()) {
        (FrameKind::Header, false) => header_arrived(content, payload),
        (FrameKind::Body, true) => body_arrived(content, &payload, limit),
        (FrameKind::Header, true) => {
            Err("expected content body, got non content body frame instead")
        }
        _ => Err("expected content header for class 60, got non content header frame instead"),
    }
    .map_err(|why| (Fault::new(ReplyCode::UNEXPECTED_FRAME, why), id))?;
    if content.body_size > LARGEST_BODY {
        return Err((
            Fault::new(ReplyCode::FRAME_ERROR, "body size over 512 MiB"),
            id,
        ));
    }
    if content.received > content.body_size {
        return Err((
            Fault::new(ReplyCode::FRAME_ERROR, "more body bytes than announced"),
            id,
        ));
    }
    if content.received < content.body_size {
        return Ok(());
    }
    let Some(content) = channel.content.take() else {
        return Ok(());
    };
    let method = content.method.clone();
    match Method::decode(&method) {
        Ok(Method::Basic(basic::Method::Publish(method))) => {
            publish::publish(state, place, &method, content).map_err(|fault| (fault, id))
        }
        _ => Ok(()),
    }
}

fn header_arrived(content: &mut Content, payload: Bytes) -> Result<(), &'static str> {
    let mut reader = Reader::new(&payload);
    let (Ok(class), Ok(weight), Ok(body_size)) =
        (reader.short(), reader.short(), reader.longlong())
    else {
        return Err("content header too short");
    };
    if class != basic::CLASS.id {
        return Err("expected content header for class 60, got one for another class instead");
    }
    if weight != 0 {
        return Err("content header of weight other than 0");
    }
    content.body_size = body_size;
    content.header = Some(payload);
    Ok(())
}

/// Adds a body frame to a content. "While bytes are missing an empty body frame is legal and adds
/// nothing." Bytes beyond the limit are counted, but not stored.
fn body_arrived(content: &mut Content, payload: &[u8], limit: u64) -> Result<(), &'static str> {
    content.received += u64::try_from(payload.len()).unwrap_or(u64::MAX);
    if content.body_size <= limit {
        content.body.extend_from_slice(payload);
    }
    Ok(())
}

/// Closes a channel or a connection because of a fault of its client.
pub(crate) fn fail(state: &mut State, place: Place, fault: Fault, method: MethodId) {
    let Some(connection) = state.connections.get_mut(&place.connection) else {
        return;
    };
    let MethodId {
        class: class_id,
        method: method_id,
    } = method;
    let Fault::Reply(code, text) = fault else {
        silent(state, place);
        return;
    };
    let (reply_code, reply_text) = (code.value(), ShortStr::cut(&text));
    match connection.phase {
        Phase::Running if !code.is_hard_error() => {
            quiesce::confirm(state, place.connection, place.channel, place.now);
            let Some(connection) = state.connections.get_mut(&place.connection) else {
                return;
            };
            let close = channel::Close {
                reply_code,
                reply_text,
                class_id,
                method_id,
            };
            connection.send(place.now, place.channel, &close);
            release::release_channel(state, place.connection, place.channel, place.now);
            if let Ok(channel) = state.channel(place) {
                channel.closing = true;
            }
        }
        Phase::Running | Phase::Open { .. } => {
            let close = connection::Close {
                reply_code,
                reply_text,
                class_id,
                method_id,
            };
            connection.send_close(place.now, &close);
            release::release_connection(state, place.connection, place.now);
        }
        // A second fault ends the connection without another `close`.
        Phase::Closing { .. } => connection.drop_transport(),
        _ => silent(state, place),
    }
}

/// Ends a connection without a frame, after a delay if the client has not logged in.
fn silent(state: &mut State, place: Place) {
    let delay = state.config.refusal_delay;
    let Some(connection) = state.connections.get_mut(&place.connection) else {
        return;
    };
    match connection.phase {
        Phase::StartOk { .. } | Phase::SecureOk { .. } | Phase::TuneOk { .. } => {
            connection.phase = Phase::Doomed {
                deadline: place.now + delay,
            };
        }
        _ => {
            connection.drop_transport();
            release::release_connection(state, place.connection, place.now);
        }
    }
}
