//! Frames of the connection itself, and those of channels on their way.

use crate::error::{Error, Fault};
use crate::machine::connection::{Connection, State};
use crate::machine::dispatch::{broken, fault_of};
use crate::machine::handshake::Handshake;
use crate::machine::handshake::HandshakeStep;
use crate::machine::{LoginOutcome, LoginStep, Notice, Reply};
use crate::protocol::method::{Encode as _, channel as channels, connection as methods};
use crate::protocol::{Frame, FrameKind, Method, MethodId, ProtocolHeader, ReplyCode};
use std::time::Instant;

impl Connection {
    pub(crate) fn receive(&mut self, now: Instant, frame: Frame<'_>) -> Result<(), Error> {
        match (frame.kind(), frame.channel()) {
            (FrameKind::Heartbeat, _) => Ok(()),
            (FrameKind::ProtocolHeader, _) => {
                let header = ProtocolHeader::from_octets(frame.payload())
                    .unwrap_or(ProtocolHeader::AMQP_0_9_1);
                Err(Error::UnsupportedProtocol(header))
            }
            (FrameKind::Method, 0) => {
                let method = Method::decode(frame.payload()).map_err(Fault::from)?;
                self.receive_on_connection(now, method)
            }
            (FrameKind::Header | FrameKind::Body, 0) => Err(broken(
                ReplyCode::UNEXPECTED_FRAME,
                "a content on channel 0",
                MethodId::NONE,
            )),
            (kind, _) if matches!(self.state, State::Closing) => {
                if kind == FrameKind::Method {
                    self.tell_refusal(frame.payload());
                }
                Ok(())
            }
            (_, number) if matches!(self.state, State::Handshake(_)) => {
                let text = format!("a frame on channel {number} before the connection was open");
                Err(broken(ReplyCode::CHANNEL_ERROR, text, MethodId::NONE))
            }
            (_, number) => self.session.receive_on_channel(number, frame),
        }
    }

    /// Reports a channel that the server closes while the connection is being closed. The close is
    /// not answered, but it may be the only report about publishes without confirms.
    fn tell_refusal(&mut self, payload: &[u8]) {
        if let Ok(Method::Channel(channels::Method::Close(close))) = Method::decode(payload) {
            self.session
                .cx
                .notices
                .notify(&Notice::ChannelClosed(fault_of(&close).into()));
        }
    }

    fn receive_on_connection(&mut self, now: Instant, method: Method<'_>) -> Result<(), Error> {
        let id = method.id();
        match method {
            Method::Connection(methods::Method::Close(close)) => self.server_closes(close),
            Method::Connection(methods::Method::CloseOk(_))
                if matches!(self.state, State::Closing) =>
            {
                self.end_closing(Ok(()));
            }
            _ if matches!(self.state, State::Closing) => {}
            method if matches!(self.state, State::Handshake(_)) => self.shake_hands(now, method),
            Method::Connection(methods::Method::Blocked(blocked)) => {
                let reason = blocked.reason.to_str_lossy();
                self.session.publishing.blocked = Some(reason.as_ref().into());
                self.session
                    .cx
                    .notices
                    .notify(&Notice::Blocked(reason.into()));
            }
            Method::Connection(methods::Method::Unblocked(_)) => {
                self.session.publishing.blocked = None;
                self.session.cx.last_progress = now;
                self.session.cx.notices.notify(&Notice::Unblocked);
            }
            Method::Connection(methods::Method::UpdateSecretOk(_))
                if !self.updating_secret.is_empty() =>
            {
                if let Some(promise) = self.updating_secret.pop_front() {
                    self.session.cx.complete(promise, Ok(Reply::Done));
                }
            }
            Method::Connection(_) => {
                return Err(broken(
                    ReplyCode::COMMAND_INVALID,
                    "a method that was not to come",
                    id,
                ));
            }
            _ => {
                return Err(broken(
                    ReplyCode::CHANNEL_ERROR,
                    "a channel's method on channel 0",
                    id,
                ));
            }
        }
        Ok(())
    }

    fn shake_hands(&mut self, now: Instant, method: Method<'_>) {
        let State::Handshake(handshake) = std::mem::replace(&mut self.state, State::Closed) else {
            return;
        };
        self.session.cx.attention = true;
        match handshake.handle(method, &self.session.cx.options, &mut self.session.cx.out) {
            // There is no common ground yet on which to tell the server (spec 2.2.4).
            Err(error) => self.abort(error),
            Ok(step) => self.step(now, step),
        }
    }

    /// Something that is to be run for the login, where no lock is held: the user's own code. What
    /// comes of it is for [`handle_login`](Self::handle_login). There is something only with
    /// [`Options::credentials_from`](crate::Options::credentials_from) or
    /// [`Options::custom_mechanism`](crate::Options::custom_mechanism), after
    /// [`handle_input`](Self::handle_input).
    pub fn poll_login(&mut self) -> Option<LoginStep> {
        if let State::Handshake(handshake) = &mut self.state {
            handshake.poll_login()
        } else {
            None
        }
    }

    /// Takes in what came of a [`LoginStep`].
    pub fn handle_login(&mut self, outcome: LoginOutcome) {
        // Its time may be over, or somebody has closed.
        if !matches!(self.state, State::Handshake(_)) {
            return;
        }
        let State::Handshake(handshake) = std::mem::replace(&mut self.state, State::Closed) else {
            return;
        };
        self.session.cx.attention = true;
        match handshake.handle_login(outcome, &self.session.cx.options, &mut self.session.cx.out) {
            Err(error) => self.abort(error),
            Ok(handshake) => self.state = State::Handshake(handshake),
        }
    }

    fn step(&mut self, now: Instant, step: HandshakeStep) {
        match step {
            HandshakeStep::Next(handshake) => self.state = State::Handshake(handshake),
            HandshakeStep::Tuned(handshake) => {
                self.session.cx.frame_max = handshake.limits.frame_max;
                self.session
                    .cx
                    .channels
                    .set_max(handshake.limits.channel_max);
                self.heartbeat.set_timeout(handshake.limits.heartbeat, now);
                self.session.cx.username = handshake.username.clone();
                self.state = State::Handshake(Handshake::OpenOk(handshake));
            }
            HandshakeStep::Open(server) => {
                self.session.cx.server = server;
                self.heartbeat.watch(now);
                self.restore();
            }
        }
    }
}
