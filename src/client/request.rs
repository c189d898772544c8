//! What all requests have in common: three ways to send them, and to be awaited.

use super::handle::Handle;
use super::promise::{Outcome, Promise};
use crate::error::Error;
use crate::link::Room;
use crate::machine::{Connection, PromiseId};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A request that can be tried until there is room for it.
pub(crate) trait Request {
    type Answer: Outcome;

    fn handle(&self) -> &Handle;
    /// What there has to be room for.
    fn room(&self) -> Room;
    fn start(&self, machine: &mut Connection) -> Result<PromiseId, Error>;
}

/// Tries once.
pub(super) fn try_send<R: Request>(request: &R) -> Result<Promise<R::Answer>, Error> {
    let handle = request.handle();
    let id = handle.link().with(|machine| request.start(machine))?;
    Ok(Promise::new(handle.clone(), id))
}

/// Waits for room, then resolves to the promise.
pub(super) struct Submit<R: Request> {
    pub(super) request: R,
    pub(super) ticket: Option<u64>,
}

impl<R: Request> Submit<R> {
    fn poll_submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<Promise<R::Answer>, Error>> {
        let Self { request, ticket } = self;
        let handle = request.handle();
        let sent = handle.link().poll_send(request.room(), ticket, cx, |machine| request.start(machine));
        sent.map_ok(|id| Promise::new(handle.clone(), id))
    }
}

impl<R: Request + Unpin> Future for Submit<R> {
    type Output = Result<Promise<R::Answer>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_submit(cx)
    }
}

impl<R: Request> Drop for Submit<R> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.request.handle().link().leave(self.request.room(), ticket);
        }
    }
}

/// A request that is being awaited: it waits for room, then for the answer.
///
/// # Cancel safety
/// Dropped while it waits for room, nothing was sent. Dropped later, it is like dropping a [`Promise`].
#[expect(private_bounds, reason = "the requests are the library's own")]
#[must_use = "futures do nothing unless awaited"]
pub struct Sending<R: Request<Answer = T>, T>(State<R>);

enum State<R: Request> {
    Unsent(Submit<R>),
    Sent(Promise<R::Answer>),
}

#[expect(private_bounds, reason = "the requests are the library's own")]
impl<R: Request<Answer = T>, T> Sending<R, T> {
    pub(super) fn new(request: R) -> Self {
        Self(State::Unsent(Submit { request, ticket: None }))
    }
}

impl<R: Request<Answer = T>, T> fmt::Debug for Sending<R, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if matches!(self.0, State::Unsent(_)) { "unsent" } else { "sent" };
        f.debug_tuple("Sending").field(&state).finish()
    }
}

impl<R: Request<Answer = T> + Unpin, T: Outcome> Future for Sending<R, T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::Unsent(submit) = &mut self.0 {
            match submit.poll_submit(cx) {
                Poll::Ready(Ok(promise)) => self.0 = State::Sent(promise),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        match &mut self.0 {
            State::Sent(promise) => Pin::new(promise).poll(cx),
            State::Unsent(_) => Poll::Pending,
        }
    }
}

/// Gives a builder the ways to be sent, and names its answer.
macro_rules! request {
    ($Request:ident, $room:ident, $Answer:ty, |$it:ident, $machine:ident| $start:expr) => {
        request!($Request, |_it| $crate::link::Room::$room, $Answer, |$it, $machine| $start);
    };
    ($Request:ident, |$for:ident| $room:expr, $Answer:ty, |$it:ident, $machine:ident| $start:expr) => {
        impl $crate::client::request::Request for $Request<'_> {
            type Answer = $Answer;

            fn handle(&self) -> &$crate::client::handle::Handle {
                self.client.handle()
            }

            fn room(&self) -> $crate::link::Room {
                let $for = self;
                $room
            }

            fn start(
                &self,
                $machine: &mut $crate::machine::Connection,
            ) -> Result<$crate::machine::PromiseId, $crate::Error> {
                let $it = self;
                $start
            }
        }

        impl<'a> $Request<'a> {
            /// Sends it at once. When it can't be sent, which is the case when the outgoing side is full, the promise
            /// resolves to why.
            pub fn send(self) -> $crate::Promise<$Answer> {
                self.try_send().unwrap_or_else($crate::Promise::failed)
            }

            /// Sends it at once, or says why not.
            ///
            /// # Errors
            /// [`Error::Full`](crate::Error::Full) when the outgoing side is full; what the promise would resolve to without the broker's doing.
            pub fn try_send(self) -> Result<$crate::Promise<$Answer>, $crate::Error> {
                $crate::client::request::try_send(&self)
            }

            /// Sends it as soon as there is room, and does not wait for the answer: the way to send many with
            /// back-pressure.
            ///
            /// # Errors
            /// The errors that the promise would resolve to without a reply from the broker;
            /// [`Error::Timeout`](crate::Error::Timeout) if there is no capacity within
            /// [`Options::request_timeout`](crate::Options::request_timeout). Nothing was sent
            /// then.
            ///
            /// # Cancel safety
            /// Dropped before it resolves, nothing was sent.
            pub fn submit(
                self,
            ) -> impl Future<Output = Result<$crate::Promise<$Answer>, $crate::Error>> + use<'a> {
                $crate::client::request::Submit { request: self, ticket: None }
            }
        }

        impl<'a> IntoFuture for $Request<'a> {
            type Output = Result<$Answer, $crate::Error>;
            type IntoFuture = $crate::client::request::Sending<Self, $Answer>;

            fn into_future(self) -> Self::IntoFuture {
                $crate::client::request::Sending::new(self)
            }
        }
    };
}
