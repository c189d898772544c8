//! The end of a connection: closed by the program, by the server or by both at once, or lost (spec
//! 1.4.2.7, 2.2.4).

use crate::error::{Broken, Error, Fault, Peer};
use crate::machine::connection::lifecycle::Lifecycle;
use crate::machine::connection::state::State;
use crate::machine::context::Context;
use crate::machine::deadline::Deadline;
use crate::machine::session::Session;
use crate::machine::{Ended, PromiseId};
use crate::protocol::method::{Encode, connection as methods};
use crate::protocol::{DecodeError, MethodId, ReplyCode, ShortStr};
use std::time::Instant;

/// The beginning of a TLS alert: its content type, and the high byte of its version (RFC 8446,
/// 5.1). A TLS server replies with one to bytes that are not TLS.
const TLS_ALERT: [u8; 2] = [21, 3];

/// Queues a method of channel 0 behind all other output, because no frame may follow it.
fn write_last(cx: &mut Context, method: &impl Encode) {
    let written = cx.transmit.append_last_method(method);
    // `close` is cut to fit into the smallest frame.
    debug_assert!(written.is_ok(), "{written:?}");
    cx.attention = true;
}

/// Queues `connection.close` behind all other output. Its text is cut to the length of a short
/// string.
fn write_close(cx: &mut Context, code: ReplyCode, text: &str, method: MethodId) {
    let close = methods::Close {
        reply_code: code.value(),
        reply_text: ShortStr::cut(text),
        class_id: method.class,
        method_id: method.method,
    };
    write_last(cx, &close);
}

impl Lifecycle {
    /// Returns a promise that completes when the connection is closed, and `true` if the caller has
    /// to begin closing.
    pub(crate) fn close(&mut self, cx: &mut Context) -> (PromiseId, bool) {
        let promise = cx.promises.open();
        cx.attention = true;
        if matches!(self.state, State::Closed(_)) {
            let error = self.close_reason.clone().unwrap_or(Error::Closed);
            cx.complete(promise, self.closing.outcome(error));
            return (promise, false);
        }
        let is_first = !self.closing.has_begun();
        self.closing.add(promise);
        (
            promise,
            is_first && !matches!(self.state, State::Closing(_)),
        )
    }

    /// Begins to close the connection: starts the drain deadline, ends the consumers, and fails
    /// what has not begun.
    pub(crate) fn begin_closing(&mut self, session: &mut Session) {
        let cx = &mut session.cx;
        self.closing.begin(cx.options.timeouts.close);
        if matches!(self.state, State::Open) {
            self.begin_draining(cx);
        }
        self.connecting.fail(cx, &Error::Closed);
        session.consuming.fail_waiting(cx, &Error::Closed);
        if self.closing.has_pending(cx) {
            session.consuming.stop_consumers(cx);
        }
        let ended = Ended::ConnectionBroken(Error::Closed);
        session.consuming.end_consumers(cx, &ended);
        if matches!(self.state, State::Down(_)) {
            self.lose(session, Error::Closed);
        }
    }

    /// Continues a close once nothing is pending.
    #[inline]
    pub(crate) fn proceed_closing(&mut self, session: &mut Session) {
        if self.closing.has_begun() && !self.closing.has_pending(&session.cx) {
            match self.state {
                State::Draining(deadline) => self.send_close(session, deadline),
                State::Handshake(_) | State::Restoring => self.lose(session, Error::Closed),
                State::Down(_) | State::Open | State::Closing(_) | State::Closed(_) => {}
            }
        }
    }

    /// Handles the deadlines of the state and of the close.
    pub(crate) fn handle_timeout(&mut self, session: &mut Session, now: Instant) {
        let deadlines = &session.cx.options.timeouts;
        let (what, after) = match &self.state {
            State::Draining(deadline) if self.closing.is_drain_overdue(now) => {
                return self.send_close(session, *deadline);
            }
            _ if self.closing.is_drain_overdue(now) => return self.lose(session, Error::Closed),
            State::Handshake(it) if it.deadline <= now => ("the handshake", deadlines.handshake),
            State::Restoring if session.has_restore_timed_out(now) => {
                ("recovering", deadlines.request)
            }
            State::Closing(deadline) | State::Closed(deadline) if deadline.has_passed(now) => {
                let after = deadlines.close;
                let what = "closing";
                return self.end_closing(session, Err(Error::Timeout { what, after }));
            }
            _ => return,
        };
        self.lose(session, Error::Timeout { what, after });
    }

    /// Sends `connection.close`, because nothing is pending or the drain deadline has passed.
    fn send_close(&mut self, session: &mut Session, deadline: Deadline) {
        let cx = &mut session.cx;
        session.consuming.flush_acks(cx);
        write_close(cx, ReplyCode::REPLY_SUCCESS, "Goodbye", MethodId::NONE);
        self.enter(cx, State::Closing(deadline));
        self.give_up(session, Error::Closed);
    }

    /// Handles `connection.close` of the server: replies, and dials again if the connection
    /// recovers, else completes everything with the reason.
    pub(crate) fn handle_server_close(&mut self, session: &mut Session, close: methods::Close<'_>) {
        write_last(&mut session.cx, &methods::CloseOk {});
        if matches!(self.state, State::Closing(_)) {
            // Both sides close at once. The server's `close-ok` may never arrive.
            self.end_closing(session, Ok(()));
            return;
        }
        let method = MethodId {
            class: close.class_id,
            method: close.method_id,
        };
        let fault =
            Fault::reported_by_broker(close.reply_code, &close.reply_text.to_str_lossy(), method);
        match &self.state {
            State::Handshake(it) => {
                let error = it.handshake.error_at_close(fault.into());
                self.end(session, error, true);
            }
            _ => self.end(session, fault.into(), false),
        }
    }

    /// Ends the connection because of an error in the server's input: a protocol violation, or a
    /// server that the client cannot use. Reports a violation to the server by `connection.close`,
    /// except during the handshake.
    pub(crate) fn fail(&mut self, session: &mut Session, error: Error) {
        if matches!(self.state, State::Closing(_)) && self.is_undecodable {
            // `close-ok` can no longer be parsed.
            self.end_closing(session, Ok(()));
        }
        if matches!(self.state, State::Closing(_) | State::Closed(_)) {
            return;
        }
        let in_handshake = matches!(self.state, State::Handshake(_));
        match error.fault() {
            // During the handshake no `connection.close` is sent, because the peers have not agreed
            // on anything yet (spec 2.2.4).
            Some(fault) if fault.found_by == Peer::Client && !in_handshake => {
                write_close(&mut session.cx, fault.code, &fault.text, fault.method);
                let Err(error) = self.go_down(session, error, false) else {
                    return;
                };
                let timeout = session.cx.options.timeouts.close;
                let state = if self.is_undecodable {
                    // No `close-ok` could be parsed.
                    State::closed(timeout)
                } else if self.closing.has_begun() {
                    State::Closing(Deadline::In(timeout / 2))
                } else {
                    State::Closing(Deadline::In(timeout))
                };
                self.enter(&mut session.cx, state);
                self.give_up(session, error);
            }
            _ => self.end(session, error, in_handshake),
        }
    }

    /// Ends the input, and lets the remaining output be written. Dials again if the connection
    /// recovers, else completes everything.
    fn end(&mut self, session: &mut Session, error: Error, in_handshake: bool) {
        if let Err(error) = self.go_down(session, error, in_handshake) {
            self.become_closed(session);
            self.give_up(session, error);
        }
    }

    /// Ends the handshake with an error, and lets the remaining output be written.
    pub(crate) fn abort_handshake(&mut self, session: &mut Session, error: Error) {
        self.end(session, error, true);
    }

    /// Handles bytes that cannot be decoded.
    pub(crate) fn fail_undecodable(
        &mut self,
        session: &mut Session,
        error: DecodeError,
        bytes: &[u8],
    ) {
        self.is_undecodable = true;
        if self.state.is_at_start() {
            let start = bytes.escape_ascii().take(64).map(char::from).collect();
            let is_tls_alert = bytes.starts_with(&TLS_ALERT);
            let error = session.recovery.round.explain_tls(
                &session.cx,
                Error::NotAmqp(start),
                is_tls_alert,
            );
            self.lose(session, error);
            return;
        }
        let fault = Fault::from(error).into();
        // "A peer that receives an incomplete or badly-formatted frame MUST close without sending"
        // (4.2.3). This applies if not even the frame end is at its place. In `Closing`, nothing
        // is sent in any case, and the output queued before may still be written.
        if matches!(error, DecodeError::FrameEnd { .. }) && !matches!(self.state, State::Closing(_))
        {
            self.lose(session, fault);
        } else {
            self.fail(session, fault);
        }
    }

    /// Enters the closed state. The remaining output is written within a short timeout.
    fn become_closed(&mut self, session: &mut Session) {
        let timeout = session.cx.options.timeouts.close;
        self.enter(&mut session.cx, State::closed(timeout));
        session.cx.attention = true;
    }

    /// Enters the closed state without a time for the remaining output, so the transport is
    /// dropped.
    fn become_over(&mut self, session: &mut Session) {
        self.enter(&mut session.cx, State::Closed(Deadline::None));
        session.cx.attention = true;
    }

    /// Completes the promises of `close`, and enters the closed state: with a time for the
    /// remaining output the first time, unless closing has timed out.
    pub(crate) fn end_closing(&mut self, session: &mut Session, outcome: Result<(), Error>) {
        let has_timed_out = outcome.is_err();
        let error = outcome.err().unwrap_or(Error::Closed);
        self.closing.complete(&mut session.cx, &error);
        if matches!(self.state, State::Closed(_)) || has_timed_out {
            self.become_over(session);
        } else {
            self.become_closed(session);
        }
        self.notify_closed(session);
    }

    /// Handles the end of the transport, or of its input.
    pub(crate) fn handle_loss(&mut self, session: &mut Session, cause: Broken) {
        if matches!(self.state, State::Down(_)) && !matches!(cause, Broken::DriverDropped) {
            session.cx.transmit.discard_queued();
            return;
        }
        let error = match (&self.state, &cause) {
            (State::Handshake(it), Broken::Eof | Broken::Io(_)) => {
                it.handshake.error_at_end(&cause)
            }
            _ => None,
        };
        let mut error = error.unwrap_or(Error::ConnectionBroken(cause));
        if self.state.is_at_start() && !error.is_from_this_side() {
            error = session
                .recovery
                .round
                .explain_tls(&session.cx, error, false);
        }
        self.lose(session, error);
    }

    /// Handles a failed attempt to dial.
    pub(crate) fn handle_dial_failure(&mut self, session: &mut Session, error: Error) {
        if let Err(error) = self.go_down(session, error, false) {
            self.close_at_once(session, error);
        }
    }

    /// Handles the loss of the transport. Discards the output, and dials again if the connection
    /// recovers, else completes everything.
    pub(crate) fn lose(&mut self, session: &mut Session, error: Error) {
        let in_handshake = matches!(self.state, State::Handshake(_));
        session.cx.transmit.discard_all();
        if let Err(error) = self.go_down(session, error, in_handshake) {
            self.close_at_once(session, error);
        }
    }

    /// Closes the connection at once and completes every promise.
    fn close_at_once(&mut self, session: &mut Session, error: Error) {
        self.become_over(session);
        self.give_up(session, error);
    }

    /// Completes every promise with the error. Those of `close` complete when the state is
    /// `Closed`.
    fn give_up(&mut self, session: &mut Session, error: Error) {
        let error = self.close_reason.get_or_insert(error).clone();
        session.cx.attention = true;
        self.closing.end_draining();
        let pending = self.closing.pending(&session.cx);
        self.closing.count_incomplete(pending);
        self.connecting.clear();
        self.secret_updates.clear();
        session.give_up(&error, self.closing.promises());
        if matches!(self.state, State::Closed(_)) {
            self.closing.complete(&mut session.cx, &error);
        }
        self.notify_closed(session);
    }

    /// Sends the last notice, once. It follows `close-ok`, because errors of publishes without
    /// confirms may arrive until then.
    fn notify_closed(&mut self, session: &mut Session) {
        if matches!(self.state, State::Closed(_)) {
            self.closing
                .notify(&mut session.cx, self.close_reason.as_ref());
        }
    }
}
