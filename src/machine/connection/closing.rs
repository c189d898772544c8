//! Closing, in every way that there is (spec 1.4.2.7, 2.2.4): by us, by the server, by both at
//! once, by accident.

use crate::error::{Broken, Error, Fault, Peer};
use crate::machine::connection::{Connection, LAST_OCTETS, State};
use crate::machine::deadline::Deadline;
use crate::machine::{Ended, Notice, PromiseId, Reply};
use crate::protocol::method::{Encode, connection as methods};
use crate::protocol::{DecodeError, MethodId, ReplyCode, ShortStr};

impl Connection {
    /// Closes the connection. Accepted publishes and requests are sent, and their replies awaited,
    /// within half of the close timeout. That includes the handshake and the recovery of a
    /// transport that there is, but no other transport is dialled.
    pub fn close(&mut self) -> PromiseId {
        let promise = self.session.cx.promises.open();
        self.session.cx.attention = true;
        if matches!(self.state, State::Closed) {
            let outcome = self.close_outcome(self.close_reason.clone().unwrap_or(Error::Closed));
            self.session.cx.complete(promise, outcome);
            return promise;
        }
        let is_first = !self.is_closing();
        self.closing.push(promise);
        if is_first && !matches!(self.state, State::Closing) {
            self.begin_closing();
        }
        promise
    }

    fn begin_closing(&mut self) {
        self.drain_deadline = Deadline::In(self.session.cx.options.deadlines.close / 2);
        if matches!(self.state, State::Open) {
            self.begin_draining();
        }
        for promise in std::mem::take(&mut self.connecting) {
            self.session.cx.complete(promise, Err(Error::Closed));
        }
        for consume in std::mem::take(&mut self.session.consuming.waiting) {
            self.session.cx.request_octets -= consume.octets();
            self.session
                .cx
                .complete(consume.promise, Err(Error::Closed));
        }
        if self.has_pending() {
            for id in self.session.consuming.consumers.ids() {
                self.session
                    .consuming
                    .stop_consumer(&mut self.session.cx, id);
            }
        }
        self.session.consuming.end_consumers(
            &mut self.session.cx,
            &Ended::ConnectionBroken(Error::Closed),
        );
        if matches!(self.state, State::Down(_)) {
            self.lose(Error::Closed);
        }
        self.proceed();
    }

    /// Continues a close on an open connection.
    pub(crate) fn begin_draining(&mut self) {
        self.enter(State::Draining);
        // The whole close takes its timeout at most, of which the first half may be over.
        self.close_deadline = match self.drain_deadline {
            Deadline::At(_) => Deadline::In(self.session.cx.options.deadlines.close / 2),
            _ => Deadline::In(self.session.cx.options.deadlines.close),
        };
    }

    /// Returns `true` if the program has asked to close the connection.
    pub(crate) fn is_closing(&self) -> bool {
        !self.closing.is_empty()
    }

    /// Returns `true` if something is pending that closing waits for.
    fn has_pending(&self) -> bool {
        self.session.cx.promises.pending() > self.closing.len()
    }

    /// Goes on with closing, when nothing is pending any more.
    pub(crate) fn proceed_closing(&mut self) {
        if !self.is_closing() || self.has_pending() {
            return;
        }
        match self.state {
            State::Draining => self.send_close(),
            State::Handshake(_) | State::Restoring => self.lose(Error::Closed),
            State::Down(_) | State::Open | State::Closing | State::Closed => {}
        }
    }

    /// Counts promises that completed without a reply because the program closes the connection, or
    /// whose timeout passed meanwhile.
    pub(crate) fn count_incomplete(&mut self, promises: usize) {
        if self.is_closing() {
            self.incomplete += promises;
        }
    }

    /// Ends the time in which what is pending may complete.
    pub(crate) fn expire_draining(&mut self) {
        match self.state {
            State::Draining => self.send_close(),
            _ => self.lose(Error::Closed),
        }
    }

    /// Returns the outcome of a close on a connection that has ended with this error.
    fn close_outcome(&self, error: Error) -> Result<Reply, Error> {
        match (error, self.incomplete) {
            (Error::Closed, 0) => Ok(Reply::Done),
            (Error::Closed, pending) => Err(Error::CloseIncomplete { pending }),
            (error, _) => Err(error),
        }
    }

    /// Closes the connection, when nothing is pending any more or the time for that is over.
    pub(crate) fn send_close(&mut self) {
        self.session.consuming.flush_acks(&mut self.session.cx);
        self.write_close(ReplyCode::REPLY_SUCCESS, "Goodbye", MethodId::NONE);
        self.enter(State::Closing);
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
        let written = self
            .session
            .cx
            .out
            .last_method(self.session.cx.frame_max, method);
        debug_assert!(written.is_ok(), "{written:?}");
        self.session.cx.attention = true;
    }

    /// The server closes: answers, and lets everybody know why.
    pub(crate) fn server_closes(&mut self, close: methods::Close<'_>) {
        self.write_last(&methods::CloseOk {});
        if matches!(self.state, State::Closing) {
            // Both at once. The server's `close-ok` may never come.
            self.end_closing(Ok(()));
            return;
        }
        let method = MethodId {
            class: close.class_id,
            method: close.method_id,
        };
        let fault = Fault::by_server(close.reply_code, &close.reply_text.to_str_lossy(), method);
        let in_handshake = matches!(self.state, State::Handshake(_));
        self.end(fault.into(), in_handshake);
    }

    /// The server broke the protocol, or does not do what we need. Tells it, if it makes sense to.
    pub(crate) fn fail(&mut self, error: Error) {
        if matches!(self.state, State::Closing) && self.undecodable {
            // `close-ok` can't be understood any more.
            self.end_closing(Ok(()));
        }
        if matches!(self.state, State::Closing | State::Closed) {
            return;
        }
        let in_handshake = matches!(self.state, State::Handshake(_));
        match error.fault() {
            // During the handshake there is no common ground on which to tell the server (spec
            // 2.2.4).
            Some(fault) if fault.found_by == Peer::Client && !in_handshake => {
                let fault = fault.clone();
                self.write_close(fault.code, &fault.text, fault.method);
                if self.go_down(&error, false) {
                    return;
                }
                if self.undecodable {
                    // No `close-ok` could be understood.
                    self.become_closed();
                } else {
                    self.enter(State::Closing);
                    let timeout = self.session.cx.options.deadlines.close;
                    let left = if self.is_closing() {
                        timeout / 2
                    } else {
                        timeout
                    };
                    self.close_deadline = Deadline::In(left);
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
    pub(crate) fn abort(&mut self, error: Error) {
        self.end(error, true);
    }

    /// What came makes no sense, and nothing behind it can.
    pub(crate) fn fail_undecodable(&mut self, error: DecodeError, octets: &[u8]) {
        let at_start =
            matches!(&self.state, State::Handshake(handshake) if handshake.is_at_start());
        if at_start {
            self.lose(Error::NotAmqp(
                octets.escape_ascii().take(64).map(char::from).collect(),
            ));
            return;
        }
        // "A peer that receives an incomplete or badly-formatted frame MUST close without sending"
        // (4.2.3) when not even the frame end is where it should be. What was written before it
        // came may still go.
        if matches!(error, DecodeError::FrameEnd { .. }) && !matches!(self.state, State::Closing) {
            self.lose(Fault::from(error).into());
            return;
        }
        self.fail(Fault::from(error).into());
    }

    /// Nothing more comes in; what there is to write has a short time to get out.
    fn become_closed(&mut self) {
        self.enter(State::Closed);
        self.close_deadline =
            Deadline::In(LAST_OCTETS.min(self.session.cx.options.deadlines.close));
        self.session.cx.attention = true;
    }

    /// Closing has come to its end.
    pub(crate) fn end_closing(&mut self, outcome: Result<(), Error>) {
        let timed_out = outcome.is_err();
        let error = outcome.err().unwrap_or(Error::Closed);
        for promise in std::mem::take(&mut self.closing) {
            let outcome = self.close_outcome(error.clone());
            self.session.cx.complete(promise, outcome);
        }
        if matches!(self.state, State::Closed) || timed_out {
            self.enter(State::Closed);
            self.close_deadline = Deadline::None;
            self.session.cx.attention = true;
        } else {
            self.become_closed();
        }
        self.tell_closed();
    }

    /// Tells that the transport is gone, or that no octet will come from it: closed by the server,
    /// an error, or the driver being dropped.
    pub fn handle_loss(&mut self, cause: Broken) {
        if matches!(self.state, State::Down(_)) && !matches!(cause, Broken::DriverDropped) {
            self.session.cx.out = Default::default();
            return;
        }
        let error = match (&self.state, &cause) {
            (State::Handshake(handshake), Broken::Eof | Broken::Io(_)) => handshake.at_end(&cause),
            _ => None,
        };
        self.lose(error.unwrap_or(Error::ConnectionBroken(cause)));
    }

    /// Ends everything without another octet.
    pub(crate) fn lose(&mut self, error: Error) {
        let in_handshake = matches!(self.state, State::Handshake(_));
        self.session.cx.out = Default::default();
        self.session.cx.in_flight_bytes = 0;
        if !self.go_down(&error, in_handshake) {
            self.finish(error);
        }
    }

    /// Ends everything for good.
    pub(crate) fn finish(&mut self, error: Error) {
        self.enter(State::Closed);
        self.close_deadline = Deadline::None;
        self.session.cx.attention = true;
        self.give_up(error);
    }

    /// Answers everything that waits, but for those who wait for the end itself.
    fn give_up(&mut self, error: Error) {
        let error = self.close_reason.get_or_insert(error).clone();
        self.session.cx.attention = true;
        self.drain_deadline = Deadline::None;
        self.count_incomplete(
            self.session
                .cx
                .promises
                .pending()
                .saturating_sub(self.closing.len()),
        );
        self.session.requests.queue.clear();
        self.session.cx.request_octets = 0;
        self.session.consuming.waiting.clear();
        self.session.cx.acking.clear();
        self.connecting.clear();
        self.updating_secret.clear();
        self.session
            .publishing
            .fail_queued(&mut self.session.cx, &error);
        self.session.consuming.end_consumers(
            &mut self.session.cx,
            &Ended::ConnectionBroken(error.clone()),
        );
        let numbers: Vec<u16> = self.session.cx.channels.numbers().collect();
        for number in numbers {
            self.session.cx.channels.remove(number);
            let Some(publisher) = self.session.publishing.publishers.remove(number) else {
                continue;
            };
            let calls = publisher.calls.into_values();
            for promise in publisher
                .confirms
                .drain()
                .map(|(_, promise)| promise)
                .chain(calls)
            {
                self.session
                    .cx
                    .complete(promise, Err(Error::Unconfirmed(error.clone().into())));
            }
        }
        for promise in self.session.transactions.drain() {
            self.session
                .cx
                .complete(promise, Err(Error::Unconfirmed(error.clone().into())));
        }
        let mut rest = self.session.cx.promises.all_pending();
        rest.retain(|promise| !self.closing.contains(promise));
        for promise in rest {
            self.session.cx.complete(promise, Err(error.clone()));
        }
        if matches!(self.state, State::Closed) && !self.closing.is_empty() {
            for promise in std::mem::take(&mut self.closing) {
                let outcome = self.close_outcome(error.clone());
                self.session.cx.complete(promise, outcome);
            }
        }
        self.tell_closed();
    }

    /// Sends the last notice, once. It is sent after the broker has confirmed the close, because
    /// errors about publishes without confirms come before that.
    fn tell_closed(&mut self) {
        if matches!(self.state, State::Closed)
            && !std::mem::replace(&mut self.is_closed_told, true)
            && let Some(error) = &self.close_reason
        {
            self.session
                .cx
                .notices
                .notify(&Notice::Closed(error.clone()));
        }
    }
}
