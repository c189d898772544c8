//! Closing, in every way that there is (spec 1.4.2.7, 2.2.4): by us, by the server, by both at once, by accident.

use super::{Connection, LAST_OCTETS, State};
use crate::error::{Broken, Error, Fault, Peer};
use crate::machine::deadline::Deadline;
use crate::machine::{Ended, Notice, PromiseId, Reply};
use crate::protocol::method::{Encode, connection as methods};
use crate::protocol::{DecodeError, MethodId, ReplyCode, ShortStr};

impl Connection {
    /// Closes. What was accepted is sent, and what is under way waited for, within a part of the deadline.
    pub fn close(&mut self) -> PromiseId {
        let promise = self.promises.open();
        self.attention = true;
        match self.state {
            State::Closed => {
                let outcome = match &self.why {
                    None | Some(Error::Closed) => Ok(Reply::Done),
                    Some(error) => Err(error.clone()),
                };
                self.answer(promise, outcome);
            }
            State::Draining | State::Closing => self.closing.push(promise),
            State::Down(_) | State::Handshake(_) | State::Restoring => {
                self.closing.push(promise);
                self.lose(Error::Closed);
            }
            State::Open => {
                self.closing.push(promise);
                self.state = State::Draining;
                self.drain_deadline = Deadline::In(self.options.deadlines.close / 2);
                self.close_deadline = Deadline::In(self.options.deadlines.close);
                if self.promises.waiting() > self.closing.len() {
                    for id in self.consumers.ids() {
                        self.stop_consumer(id);
                    }
                }
                self.end_consumers(&Ended::ConnectionBroken(Error::Closed));
                self.proceed();
            }
        }
        promise
    }

    /// Says goodbye, when nothing is under way any more or it has had its time.
    pub(super) fn send_close(&mut self) {
        self.flush_acks();
        self.write_close(ReplyCode::REPLY_SUCCESS, "Goodbye", MethodId::NONE);
        self.state = State::Closing;
        self.give_up(Error::Closed);
    }

    fn write_close(&mut self, code: ReplyCode, text: &str, method: MethodId) {
        self.write_last(&methods::Close {
            reply_code: code.value(),
            reply_text: ShortStr::cut(text),
            class_id: method.class,
            method_id: method.method,
        });
    }

    /// Writes a method that nothing may follow.
    fn write_last(&mut self, method: &impl Encode) {
        let written = self.out.last_method(self.frame_max, method);
        debug_assert!(written.is_ok(), "{written:?}");
        self.attention = true;
    }

    /// The server closes: answers, and lets everybody know why.
    pub(super) fn server_closes(&mut self, close: methods::Close<'_>) {
        self.write_last(&methods::CloseOk {});
        if matches!(self.state, State::Closing) {
            // Both at once. The server's `close-ok` may never come.
            self.end_closing(Ok(()));
            return;
        }
        let method = MethodId { class: close.class_id, method: close.method_id };
        let fault = Fault::by_server(close.reply_code, &close.reply_text.to_str_lossy(), method);
        let in_handshake = matches!(self.state, State::Handshake(_));
        self.end(fault.into(), in_handshake);
    }

    /// The server broke the protocol, or does not do what we need. Tells it, if it makes sense to.
    pub(super) fn fail(&mut self, error: Error) {
        if matches!(self.state, State::Closing) && self.deaf {
            // `close-ok` can't be understood any more.
            self.end_closing(Ok(()));
        }
        if matches!(self.state, State::Closing | State::Closed) {
            return;
        }
        let in_handshake = matches!(self.state, State::Handshake(_));
        match error.fault() {
            // During the handshake there is no common ground on which to tell the server (spec 2.2.4).
            Some(fault) if fault.found_by == Peer::Client && !in_handshake => {
                let fault = fault.clone();
                self.write_close(fault.code, &fault.text, fault.method);
                if self.go_down(&error, false) {
                    return;
                }
                if self.deaf {
                    // No `close-ok` could be understood.
                    self.become_closed();
                } else {
                    self.state = State::Closing;
                    self.close_deadline = Deadline::In(self.options.deadlines.close);
                }
                self.give_up(error);
            }
            _ => self.end(error, in_handshake),
        }
    }

    /// Nothing more comes in: another transport is dialled, or everything ends.
    fn end(&mut self, error: Error, in_handshake: bool) {
        if !self.go_down(&error, in_handshake) {
            self.become_closed();
            self.give_up(error);
        }
    }

    /// Ends the handshake, and closes the transport as soon as what was written is out.
    pub(super) fn abort(&mut self, error: Error) {
        self.end(error, true);
    }

    /// What came makes no sense, and nothing behind it can.
    pub(super) fn fail_undecodable(&mut self, error: DecodeError, octets: &[u8]) {
        let at_start = matches!(&self.state, State::Handshake(handshake) if handshake.is_at_start());
        if at_start {
            self.lose(Error::NotAmqp(octets.escape_ascii().take(64).map(char::from).collect()));
            return;
        }
        // "A peer that receives an incomplete or badly-formatted frame MUST close without sending" (4.2.3) when not
        // even the frame end is where it should be. What was written before it came may still go.
        if matches!(error, DecodeError::FrameEnd { .. }) && !matches!(self.state, State::Closing) {
            self.lose(Fault::from(error).into());
            return;
        }
        self.fail(Fault::from(error).into());
    }

    /// Nothing more comes in; what there is to write has a short time to get out.
    fn become_closed(&mut self) {
        self.state = State::Closed;
        self.close_deadline = Deadline::In(LAST_OCTETS.min(self.options.deadlines.close));
        self.attention = true;
    }

    /// Closing has come to its end.
    pub(super) fn end_closing(&mut self, outcome: Result<(), Error>) {
        let timed_out = outcome.is_err();
        for promise in std::mem::take(&mut self.closing) {
            self.answer(promise, outcome.clone().map(|()| Reply::Done));
        }
        if matches!(self.state, State::Closed) || timed_out {
            self.state = State::Closed;
            self.close_deadline = Deadline::None;
            self.attention = true;
        } else {
            self.become_closed();
        }
        self.tell_closed();
    }

    /// Tells that the transport is gone, or that no octet will come from it: closed by the server, an error, or the driver
    /// being dropped.
    pub fn handle_loss(&mut self, cause: Broken) {
        if matches!(self.state, State::Down(_)) && !matches!(cause, Broken::DriverDropped) {
            self.out = Default::default();
            return;
        }
        let error = match (&self.state, &cause) {
            (State::Handshake(handshake), Broken::Eof | Broken::Io(_)) => handshake.at_end(&cause),
            _ => None,
        };
        self.lose(error.unwrap_or(Error::ConnectionBroken(cause)));
    }

    /// Ends everything without another octet.
    pub(super) fn lose(&mut self, error: Error) {
        let in_handshake = matches!(self.state, State::Handshake(_));
        self.out = Default::default();
        self.in_hand = 0;
        if !self.go_down(&error, in_handshake) {
            self.finish(error);
        }
    }

    /// Ends everything for good.
    pub(super) fn finish(&mut self, error: Error) {
        self.state = State::Closed;
        self.close_deadline = Deadline::None;
        self.attention = true;
        self.give_up(error);
    }

    /// Answers everything that waits, but for those who wait for the end itself.
    fn give_up(&mut self, error: Error) {
        let error = self.why.get_or_insert(error).clone();
        self.attention = true;
        self.requests.clear();
        self.request_octets = 0;
        self.consumes.clear();
        self.acking.clear();
        self.connecting.clear();
        self.updating_secret.clear();
        self.fail_held(&error);
        self.end_consumers(&Ended::ConnectionBroken(error.clone()));
        let numbers: Vec<u16> = self.channels.numbers().collect();
        for number in numbers {
            self.channels.remove(number);
            let Some(publisher) = self.publishers.remove(number) else { continue };
            let calls = publisher.calls.into_values();
            for promise in publisher.confirms.drain().map(|(_, promise)| promise).chain(calls) {
                self.answer(promise, Err(Error::Unconfirmed(error.clone().into())));
            }
        }
        for promise in self.transactions.drain() {
            self.answer(promise, Err(Error::Unconfirmed(error.clone().into())));
        }
        let mut rest = self.promises.all_waiting();
        rest.retain(|promise| !self.closing.contains(promise));
        for promise in rest {
            self.answer(promise, Err(error.clone()));
        }
        if matches!(self.state, State::Closed) && !self.closing.is_empty() {
            let outcome = if matches!(error, Error::Closed) { Ok(()) } else { Err(error) };
            for promise in std::mem::take(&mut self.closing) {
                self.answer(promise, outcome.clone().map(|()| Reply::Done));
            }
        }
        self.tell_closed();
    }

    /// Sends the last notice, once. It is sent after the broker has confirmed the close, because
    /// errors about publishes without confirms come before that.
    fn tell_closed(&mut self) {
        if matches!(self.state, State::Closed)
            && !std::mem::replace(&mut self.is_closed_told, true)
            && let Some(error) = &self.why
        {
            self.notices.tell(&Notice::Closed(error.clone()));
        }
    }
}
