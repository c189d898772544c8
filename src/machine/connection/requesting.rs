//! Requests over pooled channels, one at a time on each.

use super::blaming::Blame;
use super::context::Context;
use super::publishing::Publishing;
use crate::error::Broken;
use crate::error::Error;
use crate::machine::PromiseId;
use crate::machine::channel::{Awaited, Role};
use crate::machine::channels::RoomToHold;
use crate::machine::requested::WaitingRequest;
use crate::protocol::frame::OVERHEAD;
use crate::protocol::method::{Encode, MethodInfo, basic, exchange, queue};
use crate::protocol::{EncodeError, Method, MethodId, ShortStr};
use std::collections::VecDeque;

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

/// The requests that wait for a channel of the pool.
#[derive(Debug, Default)]
pub(in crate::machine) struct Requests {
    pub(in crate::machine) queue: VecDeque<WaitingRequest>,
}

impl Requests {
    /// A request that was sent and not answered is asked again when that can't do anything twice.
    pub(in crate::machine) fn ask_again(
        &mut self,
        cx: &mut Context,
        mut request: WaitingRequest,
        error: &Error,
        blame: &Blame,
        again: &mut Vec<WaitingRequest>,
    ) {
        if !blame.is_on(request.promise) {
            cx.forget_what_may_be_gone(&request);
        }
        if request.in_transaction || blame.is_on(request.promise) {
            cx.answer(request.promise, Err(error.clone()));
        } else if !cx.promises.is_waiting(request.promise) {
        } else if request.is_repeatable() {
            request.is_suspected |= blame.suspects(request.promise);
            // The names that they have now are not those that they will have.
            again.push(cx.with_original_names(request));
        } else {
            cx.answer(
                request.promise,
                Err(Error::ConnectionBroken(Broken::OutcomeUnknown(error.clone().into()))),
            );
        }
    }

    /// Sends a request: any method of the classes `exchange` and `queue` that has a reply and wants it, or `basic.get`.
    pub(in crate::machine) fn request<'a>(
        &mut self,
        cx: &mut Context,
        method: impl Into<Method<'a>>,
    ) -> Result<PromiseId, Error> {
        let method = method.into();
        let info = info(method.id())?;
        queue_of(&method).map_or(Ok(()), check_queue_name)?;
        match method {
            Method::Basic(basic::Method::Get(_)) => {}
            Method::Exchange(_) | Method::Queue(_) if !info.replies.is_empty() && !is_nowait(&method) => {}
            _ => return Err(Error::invalid("request", format!("{} is none", method.id()))),
        }
        let request = WaitingRequest::new(cx.promises.nobody(), info, &method);
        let octets = request.payload.len() + OVERHEAD as usize;
        if octets > cx.frame_max as usize {
            return Err(EncodeError::FrameTooLarge { octets, limit: cx.frame_max }.into());
        }
        let promise = cx.timed_promise();
        cx.request_octets += request.payload.len();
        self.queue.push_back(WaitingRequest { promise, ..request });
        cx.attention = true;
        Ok(promise)
    }

    /// Starts the requests for which there are channels.
    pub(in crate::machine) fn start_requests(&mut self, cx: &mut Context, publishing: &mut Publishing) {
        while let Some(request) = self.queue.front() {
            if request.is_suspected && cx.is_trying() {
                return;
            }
            let is_held = request.is_get_to_settle();
            // A request whose deadline has passed is not sent.
            let is_waiting = cx.promises.is_waiting(request.promise);
            let room = if is_held { cx.channels.room_to_hold() } else { RoomToHold::Yes };
            let number = match room {
                _ if !is_waiting => None,
                RoomToHold::No => None,
                RoomToHold::Later => return,
                RoomToHold::Yes => {
                    let Some(number) = self.pooled_channel(cx, publishing) else { return };
                    Some(number)
                }
            };
            let Some(request) = self.queue.pop_front() else { return };
            cx.request_octets -= request.payload.len();
            let Some(number) = number else {
                cx.answer(request.promise, Err(Error::ChannelLimit));
                continue;
            };
            if is_held {
                cx.channels.set_role(number, Role::Get);
            }
            if request.is_suspected {
                cx.trial = Some(request.promise);
            }
            let request = cx.with_current_names(request);
            match cx.out.method(number, cx.frame_max, &request) {
                Ok(()) => cx.await_reply(number, Awaited::of(request)),
                Err(error) => {
                    cx.channels.put_idle(number);
                    cx.answer(request.promise, Err(error.into()));
                }
            }
        }
    }

    /// A channel for one request.
    pub(in crate::machine) fn pooled_channel(
        &mut self,
        cx: &mut Context,
        publishing: &mut Publishing,
    ) -> Option<u16> {
        if let Some(number) = cx.channels.take_idle(Role::Request) {
            return Some(number);
        }
        if cx.channels.may_pool(usize::from(cx.options.limits.request_channels.max(1)))
            && let Some(number) = cx.open_channel(Role::Request)
        {
            return Some(number);
        }
        if !cx.channels.has_room(Role::Request) {
            publishing.make_room(cx);
        }
        None
    }

    /// Closes the channels of requests that timed out, so that the pool can replace them. A
    /// transaction whose get timed out fails.
    pub(in crate::machine) fn close_overdue(&mut self, cx: &mut Context) {
        let promises = &cx.promises;
        let (mut busy, mut overdue) = (cx.channels.busy(), Vec::new());
        for number in cx.channels.numbers() {
            if busy == 0 {
                break;
            }
            let Some(channel) = cx.channels.get(number) else { continue };
            if matches!(channel.role, Role::Request | Role::Get) {
                busy -= 1;
                if channel.requests().any(|request| !promises.is_waiting(request.promise)) {
                    overdue.push(number);
                }
            }
        }
        for number in overdue {
            cx.channels.take_assembly(number);
            cx.close_channel(number);
            cx.channels.set_role(number, Role::Overdue);
        }
    }
}

impl WaitingRequest {
    /// Whether it may be carried out twice: the second time changes nothing, and the answer is the same.
    fn is_repeatable(&self) -> bool {
        match self.method() {
            Some(Method::Exchange(exchange::Method::Delete(_)) | Method::Queue(queue::Method::Delete(_))) => {
                false
            }
            Some(Method::Queue(queue::Method::Purge(_))) => false,
            // Another queue would be made, and the first be nobody's.
            Some(Method::Queue(queue::Method::Declare(it))) => !it.queue.is_empty() || it.exclusive,
            Some(Method::Basic(basic::Method::Get(it))) => !it.no_ack,
            Some(_) => true,
            None => false,
        }
    }
}
