//! Requests over pooled channels, one at a time on each.

use super::Connection;
use crate::error::Error;
use crate::machine::channel::{Awaited, Role};
use crate::machine::channels::RoomToHold;
use crate::machine::requested::WaitingRequest;
use crate::machine::{PromiseId, Queue, Reply};
use crate::protocol::frame::OVERHEAD;
use crate::protocol::method::{Encode, MethodInfo, basic, channel as methods, exchange, queue};
use crate::protocol::{EncodeError, Method, MethodId, ReplyCode, ShortStr};

/// Whether a method wants no reply, so that nobody would know when its channel is free again.
fn is_nowait(method: &Method<'_>) -> bool {
    use exchange::Method as Exchange;
    use queue::Method as Queue;
    match method {
        Method::Exchange(Exchange::Declare(exchange::Declare { nowait, .. }))
        | Method::Exchange(Exchange::Delete(exchange::Delete { nowait, .. }))
        | Method::Exchange(Exchange::Bind(exchange::Bind { nowait, .. }))
        | Method::Exchange(Exchange::Unbind(exchange::Unbind { nowait, .. }))
        | Method::Queue(Queue::Declare(queue::Declare { nowait, .. }))
        | Method::Queue(Queue::Bind(queue::Bind { nowait, .. }))
        | Method::Queue(Queue::Purge(queue::Purge { nowait, .. }))
        | Method::Queue(Queue::Delete(queue::Delete { nowait, .. })) => *nowait,
        _ => false,
    }
}

/// Refuses an empty queue name. "In methods where the queue name may be blank, and that has no
/// specific significance, this refers to the 'current' queue for the channel, meaning the last
/// queue that the client declared on the channel" (domain `queue-name`). Channels are pooled, so
/// that could be a queue which another task of the program declared.
///
/// # Errors
/// [`Error::InvalidArgument`] if the name is empty.
pub(super) fn check_queue_name(queue: ShortStr<'_>) -> Result<(), Error> {
    if queue.is_empty() {
        return Err(Error::invalid("queue", "an empty name is allowed only where a queue is declared"));
    }
    Ok(())
}

/// Returns the queue of a method. `None` for `queue.declare`, whose empty name asks the broker for
/// one.
fn queue_of<'a>(method: &Method<'a>) -> Option<ShortStr<'a>> {
    match method {
        Method::Queue(queue::Method::Bind(it)) => Some(it.queue),
        Method::Queue(queue::Method::Unbind(it)) => Some(it.queue),
        Method::Queue(queue::Method::Purge(it)) => Some(it.queue),
        Method::Queue(queue::Method::Delete(it)) => Some(it.queue),
        Method::Basic(basic::Method::Get(it)) => Some(it.queue),
        _ => None,
    }
}

/// What the table says of a method that we send.
pub(super) fn info(id: MethodId) -> Result<&'static MethodInfo, Error> {
    id.info().map(|(_, method)| method).ok_or_else(|| Error::invalid("method", id))
}

impl Connection {
    /// Whether another request would be accepted.
    #[must_use]
    pub fn has_room_to_request(&self) -> bool {
        let limits = &self.options.limits;
        let pending = self.requests.len() + self.consumes.len() + self.transactions.waiting.len();
        pending + self.promises.requests() < limits.requests
            && self.request_octets + self.out.len() + self.in_hand < limits.outgoing_octets
    }

    /// Sends a request: any method of the classes `exchange` and `queue` that has a reply and wants it, or `basic.get`.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::InvalidArgument`] if the request
    /// does not fit into a frame, or the queue name is empty.
    pub fn request<'a>(&mut self, method: impl Into<Method<'a>>) -> Result<PromiseId, Error> {
        let method = method.into();
        self.check_open()?;
        if !self.has_room_to_request() {
            return Err(Error::Full);
        }
        let info = info(method.id())?;
        queue_of(&method).map_or(Ok(()), check_queue_name)?;
        match method {
            Method::Basic(basic::Method::Get(_)) => {}
            Method::Exchange(_) | Method::Queue(_) if !info.replies.is_empty() && !is_nowait(&method) => {}
            _ => return Err(Error::invalid("request", format!("{} is none", method.id()))),
        }
        let request = WaitingRequest::new(self.promises.nobody(), info, &method);
        let octets = request.payload.len() + OVERHEAD as usize;
        if octets > self.frame_max as usize {
            return Err(EncodeError::FrameTooLarge { octets, limit: self.frame_max }.into());
        }
        let promise = self.timed_promise();
        self.request_octets += request.payload.len();
        self.requests.push_back(WaitingRequest { promise, ..request });
        self.attention = true;
        self.proceed();
        Ok(promise)
    }

    /// Starts the requests for which there are channels.
    pub(super) fn start_requests(&mut self) {
        while let Some(request) = self.requests.front() {
            if request.is_suspected && self.is_trying() {
                return;
            }
            let is_held = request.is_get_to_settle();
            // A request whose deadline has passed is not sent.
            let is_waiting = self.promises.is_waiting(request.promise);
            let room = if is_held { self.channels.room_to_hold() } else { RoomToHold::Yes };
            let number = match room {
                _ if !is_waiting => None,
                RoomToHold::No => None,
                RoomToHold::Later => return,
                RoomToHold::Yes => {
                    let Some(number) = self.pooled_channel() else { return };
                    Some(number)
                }
            };
            let Some(request) = self.requests.pop_front() else { return };
            self.request_octets -= request.payload.len();
            let Some(number) = number else {
                self.answer(request.promise, Err(Error::ChannelLimit));
                continue;
            };
            if is_held {
                self.channels.set_role(number, Role::Get);
            }
            if request.is_suspected {
                self.trial = Some(request.promise);
            }
            let request = self.with_current_names(request);
            match self.out.method(number, self.frame_max, &request) {
                Ok(()) => self.await_reply(number, Awaited::of(request)),
                Err(error) => {
                    self.channels.put_idle(number);
                    self.answer(request.promise, Err(error.into()));
                }
            }
        }
    }

    /// A channel for one request.
    fn pooled_channel(&mut self) -> Option<u16> {
        if let Some(number) = self.channels.take_idle(Role::Request) {
            return Some(number);
        }
        if self.channels.may_pool(usize::from(self.options.limits.request_channels.max(1)))
            && let Some(number) = self.open_channel(Role::Request)
        {
            return Some(number);
        }
        if !self.channels.has_room(Role::Request) {
            self.make_room();
        }
        None
    }

    /// Opens a channel. What is to be done on it can be written at once: a broker takes one thing after the other.
    pub(super) fn open_channel(&mut self, role: Role) -> Option<u16> {
        let number = self.channels.add(role)?;
        self.write(number, &methods::Open {});
        if let Ok(method) = info(methods::Open::ID) {
            self.await_reply(number, Awaited::Nothing(method));
        }
        Some(number)
    }

    pub(super) fn await_reply(&mut self, number: u16, awaited: Awaited) {
        if let Some(channel) = self.channels.get_mut(number) {
            channel.awaited.push_back(awaited);
        }
    }

    /// Writes a method that fits into the smallest frame there is.
    pub(super) fn write(&mut self, channel: u16, method: &impl Encode) {
        let written = self.out.method(channel, self.frame_max, method);
        debug_assert!(written.is_ok(), "{written:?}");
        self.attention = true;
    }

    /// Puts a channel on which nothing is under way any more into the pool, if the pool has use for it.
    pub(super) fn release(&mut self, number: u16) {
        let Some(channel) = self.channels.get_mut(number) else { return };
        if !matches!(channel.role, Role::Request | Role::Get | Role::Settling | Role::Consume | Role::Ending)
        {
            return;
        }
        if channel.unsettled.unwanted() > 0 && channel.strays == 0 && !channel.is_consumer_changing() {
            self.return_unwanted(number);
        }
        let Some(channel) = self.channels.get_mut(number) else { return };
        if !channel.is_at_rest() {
            if channel.awaited.is_empty() && channel.consumer.is_none() {
                self.channels.set_role(number, Role::Settling);
                self.may_start = true;
            }
        } else {
            self.may_start = true;
            let keeps = !channel.shares_prefetch_count
                && channel.strays == 0
                && !channel.is_suspect
                && self.channels.idle() < usize::from(self.options.limits.request_channels);
            // Before anything else on the channel, which may fail and take the channel with it.
            self.flush_channel_acks(number);
            if keeps {
                self.channels.put_idle(number);
            } else {
                self.close_channel(number);
            }
        }
    }

    /// Closes the channels of requests that timed out, so that the pool can replace them. A
    /// transaction whose get timed out fails.
    pub(super) fn close_overdue(&mut self) {
        let promises = &self.promises;
        let (mut busy, mut overdue) = (self.channels.busy(), Vec::new());
        for number in self.channels.numbers() {
            if busy == 0 {
                break;
            }
            let Some(channel) = self.channels.get(number) else { continue };
            if matches!(channel.role, Role::Request | Role::Get) {
                busy -= 1;
                if channel.requests().any(|request| !promises.is_waiting(request.promise)) {
                    overdue.push(number);
                }
            }
        }
        for number in overdue {
            self.channels.take_assembly(number);
            self.close_channel(number);
            self.channels.set_role(number, Role::Overdue);
        }
        self.fail_overdue_transactions();
    }

    /// Handles a late reply, on a closed channel, to a request that timed out.
    pub(super) fn absorb_late_reply(&mut self, number: u16, reply: &Method<'_>) {
        let Some(channel) = self.channels.get_mut(number) else { return };
        if channel.awaited.front().is_none_or(|awaited| !awaited.is_answered_by(reply.id(), None)) {
            return;
        }
        if let Some(Awaited::Request(request)) = channel.awaited.pop_front() {
            self.note(&request, reply);
        }
    }

    /// Closes a channel that is not needed any more. Its number is free when the server has answered.
    pub(super) fn close_channel(&mut self, number: u16) {
        self.write(
            number,
            &methods::Close {
                reply_code: ReplyCode::REPLY_SUCCESS.value(),
                reply_text: ShortStr::EMPTY,
                class_id: MethodId::NONE.class,
                method_id: MethodId::NONE.method,
            },
        );
        self.channels.set_role(number, Role::Closing);
    }

    /// What a promise is answered with when its reply carries nothing else.
    pub(super) fn reply_of(method: Method<'_>) -> Reply {
        match method {
            Method::Queue(queue::Method::DeclareOk(ok)) => Reply::Queue(Box::new(Queue {
                name: ok.queue.to_str_lossy().into_owned(),
                message_count: ok.message_count,
                consumer_count: ok.consumer_count,
            })),
            Method::Queue(queue::Method::PurgeOk(ok)) => Reply::Count(ok.message_count),
            Method::Queue(queue::Method::DeleteOk(ok)) => Reply::Count(ok.message_count),
            _ => Reply::Done,
        }
    }
}
