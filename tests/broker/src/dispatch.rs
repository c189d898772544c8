//! Decodes the frames of clients, checks that they are allowed in the current state, and passes
//! them to the file of their class in `methods/` (spec 4.2.3).

use crate::channel::Content;
use crate::connection::Phase;
use crate::fault::{Fault, Outcome};
use crate::ids::{ConnectionId, FrameContext};
use crate::state::State;
use crate::{crashes, methods, pending_work, publish, removal, stuck_queues};
use bytes::Bytes;
use puka::protocol::method::{access, basic, channel, connection};
use puka::protocol::wire::Reader;
use puka::protocol::{FrameKind, Method, MethodId, ReplyCode, ShortStr};
use std::time::Instant;

/// The maximum size of a body, 512 MiB. Like RabbitMQ 4.2.6, the broker refuses a larger one when
/// its header arrives.
const MAX_BODY_SIZE: u64 = 512 << 20;

/// Handles bytes of a client, in pieces of any size.
pub(crate) fn handle_input(state: &mut State, id: ConnectionId, bytes: &[u8], now: Instant) {
    let Some(connection) = state.connections.get_mut(&id) else {
        return;
    };
    // Any received byte proves that the client is alive (spec 4.2.7), so it counts as a heartbeat.
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
            let context = FrameContext {
                now,
                connection: id,
                channel: 0,
            };
            methods::connection::handle_protocol_header(state, context, &header);
        }
    }
    if let Some(connection) = state.connections.get_mut(&id)
        && connection.is_usable()
    {
        connection.decoder.extend(bytes);
    }
    process_input(state, id, now);
}

/// Handles the complete frames of a connection, unless it is blocked.
pub(crate) fn process_input(state: &mut State, id: ConnectionId, now: Instant) {
    let context_of = |channel| FrameContext {
        now,
        connection: id,
        channel,
    };
    while let Some(connection) = state.connections.get_mut(&id) {
        if !connection.accepts_input() || matches!(connection.phase, Phase::ProtocolHeader { .. }) {
            break;
        }
        let frame = connection.decoder.next_frame();
        let frame = frame
            .map(|frame| frame.map(|frame| (frame.kind(), frame.channel(), frame.into_payload())));
        match frame {
            Ok(None) => break,
            Ok(Some((kind, channel, payload))) => {
                handle_frame(state, context_of(channel), kind, payload);
            }
            Err(error) => {
                let fault = Fault::undecodable(error);
                close_for_fault(state, context_of(0), fault, MethodId::NONE);
                // The decoder cannot find the next frame.
                break;
            }
        }
    }
}

/// Handles a frame, and everything that it causes.
pub(crate) fn handle_frame(
    state: &mut State,
    context: FrameContext,
    kind: FrameKind,
    payload: Bytes,
) {
    if let Err((fault, method)) = check_frame(state, context, kind, payload) {
        close_for_fault(state, context, fault, method);
    }
    pending_work::run(state, context.now);
}

/// A fault, and the method that has caused it.
type MethodFault = (Fault, MethodId);

/// Returns a fault that no method has caused.
fn frame_fault(code: ReplyCode, why: impl std::fmt::Display) -> MethodFault {
    (Fault::new(code, why), MethodId::NONE)
}

/// Checks that a frame is allowed in the current phase, and handles it.
fn check_frame(
    state: &mut State,
    context: FrameContext,
    kind: FrameKind,
    payload: Bytes,
) -> Result<(), MethodFault> {
    let Some(connection) = state.connections.get(&context.connection) else {
        return Ok(());
    };
    let max_size = if connection.frame_max == 0 {
        state.config.frame_limit
    } else {
        connection.frame_max
    };
    // The limit of RabbitMQ is about the payload alone, so its frames may have 8 bytes more than
    // `frame_max`. It applies to frames of every kind.
    if u32::try_from(payload.len()).map_or(true, |size| size > max_size) {
        let why = format!(
            "frame of {} bytes, negotiated maximum {max_size}",
            payload.len()
        );
        return Err(frame_fault(ReplyCode::FRAME_ERROR, why));
    }
    let is_running = connection.phase == Phase::Running;
    match kind {
        FrameKind::Heartbeat => Ok(()),
        FrameKind::ProtocolHeader => Err(frame_fault(
            ReplyCode::FRAME_ERROR,
            "a second protocol header",
        )),
        FrameKind::Method if context.channel == 0 => {
            let method = Method::decode(&payload)
                .map_err(|error| (Fault::undecodable(error), MethodId::NONE))?;
            methods::connection::handle(state, context, method)
                .map_err(|fault| (fault, method_id(&payload)))
        }
        // After the broker's `connection.close`, frames on other channels are ignored.
        _ if matches!(connection.phase, Phase::Closing { .. }) => Ok(()),
        FrameKind::Header | FrameKind::Body if context.channel == 0 || !is_running => {
            Err(frame_fault(
                ReplyCode::UNEXPECTED_FRAME,
                "expected method frame on channel 0",
            ))
        }
        FrameKind::Method if !is_running => {
            let why = format!("channel {} before the connection is open", context.channel);
            Err(frame_fault(ReplyCode::CHANNEL_ERROR, why))
        }
        _ if stuck_queues::store_if_waiting(state, context, kind, &payload) => Ok(()),
        FrameKind::Method => {
            crashes::check(state, &payload)?;
            handle_channel_method(state, context, payload)
        }
        FrameKind::Header | FrameKind::Body => handle_content(state, context, kind, payload),
    }
}

/// Returns the class and method at the start of a payload.
fn method_id(payload: &[u8]) -> MethodId {
    let mut reader = Reader::new(payload);
    match (reader.short(), reader.short()) {
        (Ok(class), Ok(method)) => MethodId { class, method },
        _ => MethodId::NONE,
    }
}

/// Handles a method on a channel other than 0.
fn handle_channel_method(
    state: &mut State,
    context: FrameContext,
    payload: Bytes,
) -> Result<(), MethodFault> {
    let id = method_id(&payload);
    let method = Method::decode(&payload).map_err(|error| (Fault::undecodable(error), id))?;
    let connection = state.connection(context).map_err(|fault| (fault, id))?;
    let Some(found) = connection.channels.get(&context.channel) else {
        return match method {
            Method::Channel(channel::Method::Open(_)) => methods::channel::open(state, context),
            _ => Err(Fault::new(
                ReplyCode::CHANNEL_ERROR,
                "expected 'channel.open'",
            )),
        }
        .map_err(|fault| (fault, id));
    };
    if found.closing {
        if let Method::Channel(method) = method {
            methods::channel::handle_closing(state, context, method);
        }
        return Ok(());
    }
    // No method is allowed inside a content, not even `channel.close-ok`. RabbitMQ's close names
    // the method of the content.
    if let Some(content) = &found.content {
        let what = if content.header.is_none() {
            "content header"
        } else {
            "content body"
        };
        let why = format!("expected {what} for class 60, got method frame instead");
        return Err((
            Fault::new(ReplyCode::UNEXPECTED_FRAME, why),
            method_id(&content.method),
        ));
    }
    if let Method::Basic(basic::Method::Publish(_)) = method {
        begin_publish(state, context, payload).map_err(|fault| (fault, id))
    } else {
        // The reply to this method must not overtake confirms that are due.
        pending_work::send_due_confirms(state, context.connection, context.channel, context.now);
        handle_method(state, context, method).map_err(|fault| (fault, id))
    }
}

/// Begins the content of a publish. During an alarm, the broker stops reading from a connection
/// that publishes, and sends `connection.blocked` if the client has that capability.
fn begin_publish(state: &mut State, context: FrameContext, payload: Bytes) -> Outcome {
    state.channel(context)?.content = Some(Content::new(payload));
    let Some(reason) = state.alarm().map(String::from) else {
        return Ok(());
    };
    if let Some(connection) = state.connections.get_mut(&context.connection) {
        connection.blocked = true;
        if connection.has_capability("connection.blocked") {
            let blocked = connection::Blocked {
                reason: ShortStr::cut(&reason),
            };
            connection.send(context.now, 0, &blocked);
        }
    }
    Ok(())
}

/// Handles a method on an open channel.
fn handle_method(state: &mut State, context: FrameContext, method: Method<'_>) -> Outcome {
    match method {
        Method::Channel(method) => methods::channel::handle(state, context, method),
        Method::Exchange(method) => methods::exchange::handle(state, context, &method),
        Method::Queue(method) => methods::queue::handle(state, context, &method),
        Method::Basic(method) => methods::basic::handle(state, context, &method),
        Method::Confirm(method) => methods::confirm::handle(state, context, method),
        Method::Tx(method) => methods::tx::handle(state, context, method),
        // The class is deprecated. RabbitMQ grants every request, with the ticket 1.
        Method::Access(access::Method::Request(_)) => {
            state.send(context, &access::RequestOk { ticket: 1 });
            Ok(())
        }
        // Methods of the class `connection` are allowed on channel 0 only.
        Method::Access(_) | Method::Connection(_) => Err(Fault::command_invalid()),
    }
}

/// Handles a header or body frame on a channel. Publishes the message if the frame completes it.
fn handle_content(
    state: &mut State,
    context: FrameContext,
    kind: FrameKind,
    payload: Bytes,
) -> Result<(), MethodFault> {
    let max_stored_size = state.config.max_message_size;
    let connection = state.connections.get_mut(&context.connection);
    let Some(channel) =
        connection.and_then(|connection| connection.channels.get_mut(&context.channel))
    else {
        return Err(frame_fault(
            ReplyCode::CHANNEL_ERROR,
            "expected 'channel.open'",
        ));
    };
    if channel.closing {
        return Ok(());
    }
    let Some(mut content) = channel.content.take() else {
        let why = "expected method frame, got non method frame instead";
        return Err(frame_fault(ReplyCode::UNEXPECTED_FRAME, why));
    };
    let id = basic::Publish::ID;
    add_to_content(&mut content, kind, payload, max_stored_size)
        .map_err(|(code, why)| (Fault::new(code, why), id))?;
    if content.received < content.body_size {
        channel.content = Some(content);
        return Ok(());
    }
    let method = content.method.clone();
    match Method::decode(&method) {
        Ok(Method::Basic(basic::Method::Publish(method))) => {
            publish::publish(state, context, &method, content).map_err(|fault| (fault, id))
        }
        // Unreachable: `handle_channel_method` has decoded this payload as a publish.
        _ => Ok(()),
    }
}

/// Adds a header or body frame to a content. Returns the code and the text of the fault if the
/// frame does not belong there.
fn add_to_content(
    content: &mut Content,
    kind: FrameKind,
    payload: Bytes,
    max_stored_size: u64,
) -> Result<(), (ReplyCode, &'static str)> {
    match (kind, content.header.is_some()) {
        (FrameKind::Header, false) => {
            add_header(content, payload).map_err(|why| (ReplyCode::UNEXPECTED_FRAME, why))?;
        }
        (FrameKind::Body, true) => add_body(content, &payload, max_stored_size),
        (FrameKind::Header, true) => {
            let why = "expected content body, got non content body frame instead";
            return Err((ReplyCode::UNEXPECTED_FRAME, why));
        }
        _ => {
            let why = "expected content header for class 60, got non content header frame instead";
            return Err((ReplyCode::UNEXPECTED_FRAME, why));
        }
    }
    if content.body_size > MAX_BODY_SIZE {
        return Err((ReplyCode::FRAME_ERROR, "body size over 512 MiB"));
    }
    if content.received > content.body_size {
        return Err((ReplyCode::FRAME_ERROR, "more body bytes than announced"));
    }
    Ok(())
}

/// Adds the header to a content.
fn add_header(content: &mut Content, payload: Bytes) -> Result<(), &'static str> {
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

/// Adds a body frame to a content. The frame may be empty while bytes are missing. A body above the
/// maximum is counted, but not stored: the publish is refused when the body is complete.
fn add_body(content: &mut Content, payload: &[u8], max_stored_size: u64) {
    content.received += u64::try_from(payload.len()).unwrap_or(u64::MAX);
    if content.body_size <= max_stored_size {
        content.body.extend_from_slice(payload);
    }
}

/// Closes a channel or a connection because of a fault of its client. A soft reply code closes the
/// channel, a hard one the connection.
pub(crate) fn close_for_fault(
    state: &mut State,
    context: FrameContext,
    fault: Fault,
    method: MethodId,
) {
    let Some(connection) = state.connections.get_mut(&context.connection) else {
        return;
    };
    let MethodId {
        class: class_id,
        method: method_id,
    } = method;
    let Fault::Reply(code, text) = fault else {
        end_without_frame(state, context);
        return;
    };
    let (reply_code, reply_text) = (code.value(), ShortStr::cut(&text));
    match connection.phase {
        Phase::Running if !code.is_hard_error() => {
            let FrameContext {
                now,
                connection,
                channel,
            } = context;
            pending_work::send_due_confirms(state, connection, channel, now);
            let close = channel::Close {
                reply_code,
                reply_text,
                class_id,
                method_id,
            };
            state.send(context, &close);
            removal::clear_channel(state, connection, channel, now);
            if let Ok(channel) = state.channel(context) {
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
            connection.send_close(context.now, &close);
            removal::clear_connection(state, context.connection, context.now);
        }
        // A second fault ends the connection without another `close`.
        Phase::Closing { .. } => connection.drop_transport(),
        _ => end_without_frame(state, context),
    }
}

/// Ends a connection without a frame. As in RabbitMQ, a client that has not logged in must wait
/// before its transport is closed, so that failed logins cannot be repeated quickly.
fn end_without_frame(state: &mut State, context: FrameContext) {
    let delay = state.config.refusal_delay;
    let Some(connection) = state.connections.get_mut(&context.connection) else {
        return;
    };
    match connection.phase {
        Phase::StartOk { .. } | Phase::SecureOk { .. } | Phase::TuneOk { .. } => {
            connection.phase = Phase::LoginRefused {
                deadline: context.now + delay,
            };
        }
        _ => {
            connection.drop_transport();
            removal::clear_connection(state, context.connection, context.now);
        }
    }
}
