//! Frames on channel 0, and the handshake.

use crate::error::{Error, Fault};
use crate::machine::connection::lifecycle::Lifecycle;
use crate::machine::connection::state::{Handshaking, State};
use crate::machine::deadline::Deadline;
use crate::machine::faults::{fault_of, violation};
use crate::machine::handshake::{Handshake, HandshakeStep};
use crate::machine::session::Session;
use crate::machine::{LoginOutcome, LoginStep, Notice};
use crate::protocol::method::{Encode as _, channel as channels, connection as methods};
use crate::protocol::{Frame, FrameKind, Method, MethodId, ProtocolHeader, ReplyCode};
use std::time::Instant;

impl Lifecycle {
    /// Handles a frame. Passes frames of other channels than 0 to the session.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        session: &mut Session,
        now: Instant,
        frame: Frame<'_>,
    ) -> Result<(), Error> {
        match (frame.kind(), frame.channel()) {
            (FrameKind::Heartbeat, _) => Ok(()),
            (FrameKind::ProtocolHeader, _) => {
                let header = ProtocolHeader::from_bytes(frame.payload())
                    .unwrap_or(ProtocolHeader::AMQP_0_9_1);
                Err(Error::UnsupportedProtocol(header))
            }
            (FrameKind::Method, 0) => {
                let method = Method::decode(frame.payload()).map_err(Fault::from)?;
                self.receive_on_connection(session, now, method)
            }
            (FrameKind::Header | FrameKind::Body, 0) => Err(violation(
                ReplyCode::UNEXPECTED_FRAME,
                "content frame on channel 0",
                MethodId::NONE,
            )),
            (kind, _) if matches!(self.state, State::Closing(_)) => {
                if kind == FrameKind::Method {
                    report_channel_close(session, frame.payload());
                }
                Ok(())
            }
            (_, number) if matches!(self.state, State::Handshake(_)) => {
                let text = format!("a frame on channel {number} before the connection was open");
                Err(violation(ReplyCode::CHANNEL_ERROR, text, MethodId::NONE))
            }
            (_, number) => session.receive_on_channel(number, frame),
        }
    }

    /// Handles a method on channel 0.
    #[cold]
    fn receive_on_connection(
        &mut self,
        session: &mut Session,
        now: Instant,
        method: Method<'_>,
    ) -> Result<(), Error> {
        let id = method.id();
        match method {
            Method::Connection(methods::Method::Close(close)) => {
                self.handle_server_close(session, close)
            }
            Method::Connection(methods::Method::CloseOk(_))
                if matches!(self.state, State::Closing(_)) =>
            {
                self.end_closing(session, Ok(()));
            }
            // "After sending this method, any received methods except Close and Close-OK MUST be
            // discarded" (connection.close).
            _ if matches!(self.state, State::Closing(_)) => {}
            method if matches!(self.state, State::Handshake(_)) => {
                self.continue_handshake(session, now, method)
            }
            Method::Connection(methods::Method::Blocked(blocked)) => {
                let reason = blocked.reason.to_str_lossy();
                session.publishing.blocked = Some(reason.as_ref().into());
                session.cx.notices.notify(&Notice::Blocked(reason.into()));
            }
            Method::Connection(methods::Method::Unblocked(_)) => {
                session.publishing.blocked = None;
                session.cx.transmit.restart_progress(now);
                session.cx.notices.notify(&Notice::Unblocked);
            }
            Method::Connection(methods::Method::UpdateSecretOk(_))
                if !self.secret_updates.is_empty() =>
            {
                self.secret_updates.handle_ok(&mut session.cx);
            }
            Method::Connection(_) => {
                return Err(violation(
                    ReplyCode::COMMAND_INVALID,
                    "unexpected method on channel 0",
                    id,
                ));
            }
            _ => {
                return Err(violation(
                    ReplyCode::CHANNEL_ERROR,
                    "channel method on channel 0",
                    id,
                ));
            }
        }
        Ok(())
    }

    /// Takes the handshake out of the state. The state is `Closed` until the caller enters the next
    /// one.
    fn take_handshake(&mut self) -> Option<Handshaking> {
        if !matches!(self.state, State::Handshake(_)) {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Closed(Deadline::None)) {
            State::Handshake(handshaking) => Some(handshaking),
            _ => None,
        }
    }

    /// Handles a method of the handshake, and enters the next state.
    fn continue_handshake(&mut self, session: &mut Session, now: Instant, method: Method<'_>) {
        let Some(Handshaking {
            handshake,
            deadline,
        }) = self.take_handshake()
        else {
            // Unreachable: the caller has checked the state.
            return;
        };
        let cx = &mut session.cx;
        cx.attention = true;
        let next = match handshake.handle(method, &cx.options, cx.transmit.outbox()) {
            // No `connection.close` is sent, because the peers have not agreed on anything yet
            // (spec 2.2.4).
            Err(error) => return self.abort_handshake(session, error),
            Ok(HandshakeStep::Next(handshake)) => handshake,
            Ok(HandshakeStep::Tuned(tuned)) => {
                cx.transmit.set_frame_max(tuned.limits.frame_max);
                cx.channels.set_max(tuned.limits.channel_max);
                cx.transmit
                    .heartbeat
                    .set_timeout(tuned.limits.heartbeat, now);
                cx.username = tuned.username.clone();
                Handshake::OpenOk(tuned)
            }
            Ok(HandshakeStep::Open(server)) => {
                cx.server = server;
                cx.transmit.heartbeat.watch(now);
                return self.restore(session);
            }
        };
        self.state = State::Handshake(Handshaking {
            handshake: next,
            deadline,
        });
    }

    /// Returns the next step of the login that runs the user's code.
    pub(crate) fn poll_login(&mut self) -> Option<LoginStep> {
        match &mut self.state {
            State::Handshake(it) => it.handshake.poll_login(),
            _ => None,
        }
    }

    /// Handles the outcome of a [`LoginStep`].
    pub(crate) fn handle_login(&mut self, session: &mut Session, outcome: LoginOutcome) {
        // The handshake may have timed out meanwhile, or the program has closed the connection.
        let Some(Handshaking {
            handshake,
            deadline,
        }) = self.take_handshake()
        else {
            return;
        };
        let cx = &mut session.cx;
        cx.attention = true;
        match handshake.handle_login(outcome, &cx.options, cx.transmit.outbox()) {
            Err(error) => self.abort_handshake(session, error),
            Ok(handshake) => {
                self.state = State::Handshake(Handshaking {
                    handshake,
                    deadline,
                });
            }
        }
    }
}

/// Reports a channel that the server closes while the connection is closing. No `close-ok` is sent,
/// but the close may be the only report about publishes without confirms.
fn report_channel_close(session: &mut Session, payload: &[u8]) {
    if let Ok(Method::Channel(channels::Method::Close(close))) = Method::decode(payload) {
        let error = fault_of(&close).into();
        session.cx.notices.notify(&Notice::ChannelClosed(error));
    }
}
