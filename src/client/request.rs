//! The parts that all requests share: how they are sent and awaited.

use super::handle::Handle;
use super::promise::{Outcome, Promise};
use crate::error::Error;
use crate::link::Capacity;
use crate::machine::{Connection, PromiseId};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A request that can be attempted until there is capacity for it.
pub(crate) trait Request {
    type Outcome: Outcome;

    fn handle(&self) -> &Handle;
    /// Returns the kind of capacity that the request needs.
    fn capacity(&self) -> Capacity;
    /// Passes the request to the state machine. Fails with [`Error::Full`] without capacity.
    fn start(&self, machine: &mut Connection) -> Result<PromiseId, Error>;
}

/// Sends the request if there is capacity. Returns [`Error::Full`] otherwise.
pub(super) fn try_send<R: Request>(request: &R) -> Result<Promise<R::Outcome>, Error> {
    let handle = request.handle();
    let id = handle.link().with(|machine| request.start(machine))?;
    Ok(Promise::new(handle.clone(), id))
}

/// A future that waits for capacity and resolves to the promise.
pub(super) struct Submit<R: Request> {
    pub(super) request: R,
    pub(super) ticket: Option<u64>,
}

impl<R: Request> Submit<R> {
    fn poll_submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<Promise<R::Outcome>, Error>> {
        let Self { request, ticket } = self;
        let handle = request.handle();
        let sent = handle
            .link()
            .poll_send(request.capacity(), ticket, cx, |machine| {
                request.start(machine)
            });
        sent.map_ok(|id| Promise::new(handle.clone(), id))
    }
}

impl<R: Request + Unpin> Future for Submit<R> {
    type Output = Result<Promise<R::Outcome>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_submit(cx)
    }
}

impl<R: Request> Drop for Submit<R> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.request
                .handle()
                .link()
                .end_wait(self.request.capacity(), ticket);
        }
    }
}

/// A request that is awaited: it waits for capacity, then for the reply.
///
/// # Cancel safety
/// Nothing was sent if it is dropped while it waits for capacity. Dropping it later is like
/// dropping a [`Promise`].
#[expect(private_bounds, reason = "the requests are the library's own")]
#[must_use = "futures do nothing unless awaited"]
pub struct RequestFuture<R: Request<Outcome = T>, T>(State<R>);

enum State<R: Request> {
    Unsent(Submit<R>),
    Sent(Promise<R::Outcome>),
}

#[expect(private_bounds, reason = "the requests are the library's own")]
impl<R: Request<Outcome = T>, T> RequestFuture<R, T> {
    pub(super) fn new(request: R) -> Self {
        Self(State::Unsent(Submit {
            request,
            ticket: None,
        }))
    }
}

impl<R: Request<Outcome = T>, T> fmt::Debug for RequestFuture<R, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if matches!(self.0, State::Unsent(_)) {
            "unsent"
        } else {
            "sent"
        };
        f.debug_tuple("RequestFuture").field(&state).finish()
    }
}

impl<R: Request<Outcome = T> + Unpin, T: Outcome> Future for RequestFuture<R, T> {
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
            // Unreachable: the code above has sent the request or returned.
            State::Unsent(_) => Poll::Pending,
        }
    }
}

/// Implements the ways to send a builder, and names the type of its reply.
macro_rules! request {
    (
        $Request:ident, $capacity:ident, $Outcome:ty,
        |$request:ident, $machine:ident| $start:expr
    ) => {
        request!(
            $Request,
            |_request| $crate::link::Capacity::$capacity,
            $Outcome,
            |$request, $machine| $start
        );
    };
    (
        $Request:ident, |$this:ident| $capacity:expr, $Outcome:ty,
        |$request:ident, $machine:ident| $start:expr
    ) => {
        impl $crate::client::request::Request for $Request<'_> {
            type Outcome = $Outcome;

            fn handle(&self) -> &$crate::client::handle::Handle {
                self.client.handle()
            }

            fn capacity(&self) -> $crate::link::Capacity {
                let $this = self;
                $capacity
            }

            fn start(
                &self,
                $machine: &mut $crate::machine::Connection,
            ) -> Result<$crate::machine::PromiseId, $crate::Error> {
                let $request = self;
                $start
            }
        }

        impl<'a> $Request<'a> {
            /// Sends the request at once. The promise resolves to the error if the request cannot
            /// be sent, for example because the outgoing capacity is used up.
            pub fn send(self) -> $crate::Promise<$Outcome> {
                self.try_send().unwrap_or_else($crate::Promise::from_error)
            }

            /// Sends the request at once, or returns the reason why it cannot be sent.
            ///
            /// # Errors
            /// [`Error::Full`](crate::Error::Full) if the outgoing capacity is used up; the errors
            /// that the promise would resolve to without a reply from the broker.
            pub fn try_send(self) -> Result<$crate::Promise<$Outcome>, $crate::Error> {
                $crate::client::request::try_send(&self)
            }

            /// Sends the request as soon as there is capacity, and does not wait for the reply. Use
            /// it to send many requests with back-pressure.
            ///
            /// # Errors
            /// The errors that the promise would resolve to without a reply from the broker;
            /// [`Error::Timeout`](crate::Error::Timeout) if there is no capacity within
            /// [`Options::request_timeout`](crate::Options::request_timeout). In both cases nothing
            /// was sent.
            ///
            /// # Cancel safety
            /// Nothing was sent if the future is dropped before it resolves.
            pub fn submit(
                self,
            ) -> impl Future<Output = Result<$crate::Promise<$Outcome>, $crate::Error>> + use<'a>
            {
                $crate::client::request::Submit {
                    request: self,
                    ticket: None,
                }
            }
        }

        impl<'a> IntoFuture for $Request<'a> {
            type Output = Result<$Outcome, $crate::Error>;
            type IntoFuture = $crate::client::request::RequestFuture<Self, $Outcome>;

            fn into_future(self) -> Self::IntoFuture {
                $crate::client::request::RequestFuture::new(self)
            }
        }
    };
}
