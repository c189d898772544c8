//! Requests over pooled channels: each channel has at most one pending request.

pub(crate) mod arguments;
pub(crate) mod capacity;
pub(crate) mod check;
pub(crate) mod pending;

use crate::error::{Broken, Error};
use crate::machine::PromiseId;
use crate::machine::channel::channels::GetCapacity;
use crate::machine::channel::{Awaited, Role};
use crate::machine::context::Context;
use crate::machine::ids::ChannelNumber;
use crate::machine::publish::Publishing;
use crate::machine::recovery::close_cause::CloseCause;
use crate::machine::request::check::{check_queue_name, check_supported, is_nowait, queue_of};
use crate::machine::request::pending::PendingRequest;
use crate::protocol::frame::OVERHEAD;
use crate::protocol::method::{Encode, basic};
use crate::protocol::{EncodeError, Method};
use std::collections::VecDeque;

/// The requests that are queued for a channel of the pool.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    pub(crate) queue: VecDeque<PendingRequest>,
}

impl Requests {
    /// Handles a request of the lost connection that has no reply. Adds it to `to_repeat` if
    /// sending it twice has the effect of sending it once. Otherwise completes it: with the error
    /// if it is the cause of the loss, else with an unknown outcome.
    pub(crate) fn repeat_or_fail(
        cx: &mut Context,
        mut request: PendingRequest,
        error: &Error,
        close_cause: &CloseCause,
        to_repeat: &mut Vec<PendingRequest>,
    ) {
        if !close_cause.is(request.promise) {
            cx.forget_possibly_deleted(&request);
        }
        if close_cause.is(request.promise) {
            cx.complete(request.promise, Err(close_cause.error(error)));
        } else if request.in_transaction {
            cx.complete(request.promise, Err(error.clone()));
        } else if !cx.promises.is_pending(request.promise) {
            // Its deadline has passed.
        } else if request.is_repeatable() {
            request.is_possible_cause |= close_cause.may_be(request.promise);
            to_repeat.push(request);
        } else {
            cx.complete(
                request.promise,
                Err(Error::ConnectionBroken(Broken::OutcomeUnknown(
                    error.clone().into(),
                ))),
            );
        }
    }

    /// Queues a request: any method of the classes `exchange` and `queue` that has a reply and asks
    /// for it, or `basic.get`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it is another method, its queue name is empty and must not be,
    /// or it exceeds `frame_max`; [`Error::MissingCapability`] if the broker does not support it.
    pub(crate) fn request<'a>(
        &mut self,
        cx: &mut Context,
        method: impl Into<Method<'a>>,
    ) -> Result<PromiseId, Error> {
        let method = method.into();
        let info = method.info();
        queue_of(&method).map_or(Ok(()), check_queue_name)?;
        match method {
            Method::Basic(basic::Method::Get(_)) => {}
            Method::Exchange(_) | Method::Queue(_)
                if !info.replies.is_empty() && !is_nowait(&method) => {}
            _ => {
                return Err(Error::invalid(
                    "request",
                    format!("must be a method with a reply, got {}", method.id()),
                ));
            }
        }
        check_supported(&cx.server, info.id)?;
        let request = PendingRequest::new(cx.promises.none(), info, &method);
        // "A peer MUST NOT send frames larger than the agreed-upon size" (4.2.3). A method cannot
        // be split.
        let bytes = request.payload.len() + OVERHEAD as usize;
        if bytes > cx.transmit.frame_max() as usize {
            return Err(EncodeError::FrameTooLarge {
                bytes,
                limit: cx.transmit.frame_max(),
            }
            .into());
        }
        let promise = cx.timed_promise();
        cx.queued_request_bytes += request.payload.len();
        self.queue.push_back(PendingRequest { promise, ..request });
        cx.may_start = true;
        Ok(promise)
    }

    /// Starts the queued requests for which there are channels. Drops those whose deadline has
    /// passed, and fails a `basic.get` for whose message there can be no channel.
    pub(crate) fn start_requests(&mut self, cx: &mut Context, publishing: &mut Publishing) {
        while let Some(request) = self.queue.front() {
            if request.is_possible_cause && cx.has_pending_possible_cause() {
                return;
            }
            let is_get_to_settle = request.is_get_to_settle();
            let has_timed_out = !cx.promises.is_pending(request.promise);
            let capacity = if is_get_to_settle {
                cx.channels.get_capacity()
            } else {
                GetCapacity::Yes
            };
            let number = match capacity {
                _ if has_timed_out => None,
                GetCapacity::No => None,
                GetCapacity::Later => return,
                GetCapacity::Yes => {
                    let number = Self::pooled_channel(cx, publishing);
                    if number.is_none() && !cx.channels.has_none_for_requests() {
                        return;
                    }
                    number
                }
            };
            // Unreachable: the front request was read above.
            let Some(request) = self.queue.pop_front() else {
                return;
            };
            cx.queued_request_bytes -= request.payload.len();
            let Some(number) = number else {
                // This has no effect on a request whose deadline has passed.
                cx.complete(request.promise, Err(Error::ChannelLimit));
                continue;
            };
            if is_get_to_settle {
                cx.channels.set_role(number, Role::Get);
            }
            if request.is_possible_cause {
                cx.possible_cause = Some(request.promise);
            }
            let request = cx.with_current_names(request);
            // The broker may be another one than when the request was queued.
            let written = check_supported(&cx.server, request.info.id)
                .and_then(|()| Ok(cx.transmit.append_method(number, &request)?));
            match written {
                Ok(()) => cx.await_reply(number, request.info, Awaited::of(request)),
                Err(error) => {
                    cx.channels.put_idle(number);
                    cx.complete(request.promise, Err(error));
                }
            }
        }
    }

    /// Returns a channel for one request: from the pool, or a new one. If all channel numbers are
    /// in use, closes an idle publish channel, whose number will be free, and returns `None`.
    fn pooled_channel(cx: &mut Context, publishing: &mut Publishing) -> Option<ChannelNumber> {
        if let Some(number) = cx.channels.take_idle(Role::Request) {
            return Some(number);
        }
        if cx
            .channels
            .may_pool(usize::from(cx.options.limits.request_channels.max(1)))
            && let Some(number) = cx.open_channel(Role::Request)
        {
            return Some(number);
        }
        if !cx.channels.has_room(Role::Request) {
            publishing.free_channel_number(cx);
        }
        None
    }

    /// Closes the channels of requests that timed out, so that the pool can replace them.
    pub(crate) fn close_overdue(cx: &mut Context) {
        let promises = &cx.promises;
        // Most channels may belong to consumers, so the search ends when all busy ones are found.
        let (mut busy, mut overdue) = (cx.channels.busy(), Vec::new());
        for number in cx.channels.numbers() {
            if busy == 0 {
                break;
            }
            // Unreachable: `numbers` returns those of channels.
            let Some(channel) = cx.channels.get(number) else {
                continue;
            };
            if matches!(channel.role, Role::Request | Role::Get) {
                busy -= 1;
                if channel
                    .requests()
                    .any(|request| !promises.is_pending(request.promise))
                {
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
