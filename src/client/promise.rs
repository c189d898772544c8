//! The promise of a request that was sent.

use super::handle::Handle;
use crate::error::Error;
use crate::machine::{PromiseId, Reply};
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The future reply to a request that was sent.
///
/// It resolves exactly once: to the broker's reply, the error of the deadline, or the error that
/// ended the connection.
///
/// # Cancel safety
/// Dropping it does not cancel the request. The reply is discarded: a message of a `basic_get` goes
/// back to the queue, and a started consumer is cancelled.
#[must_use = "dropping a promise discards the reply and its error"]
pub struct Promise<T> {
    state: State,
    outcome: PhantomData<fn() -> T>,
}

/// The state of a promise. It is small, because there may be many promises.
enum State {
    Waiting(Handle, PromiseId),
    /// The result was returned (`None`), or nothing was sent because of this error.
    Resolved(Option<Box<Error>>),
}

impl<T> Promise<T> {
    pub(super) fn new(handle: Handle, id: PromiseId) -> Self {
        Self {
            state: State::Waiting(handle, id),
            outcome: PhantomData,
        }
    }

    /// Returns the promise of a request that was started, or one that resolves to the error.
    pub(super) fn from_started(handle: &Handle, started: Result<PromiseId, Error>) -> Self {
        started.map_or_else(Self::from_error, |id| Self::new(handle.clone(), id))
    }

    /// Returns a promise that resolves to the error.
    pub(super) fn from_error(error: Error) -> Self {
        Self {
            state: State::Resolved(Some(error.into())),
            outcome: PhantomData,
        }
    }

    /// Returns the number of the promise. No other promise of the connection has this number until
    /// the result of this one is taken. Numbers are small, because they are used again. Returns
    /// `None` if the result was taken, or if nothing was sent.
    #[must_use]
    pub fn number(&self) -> Option<usize> {
        match &self.state {
            State::Waiting(_, id) => Some(id.index()),
            State::Resolved(_) => None,
        }
    }
}

impl<T> fmt::Debug for Promise<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Waiting(..) => "waiting",
            State::Resolved(Some(_)) => "failed",
            State::Resolved(None) => "done",
        };
        f.debug_tuple("Promise").field(&state).finish()
    }
}

impl<T: Outcome> Future for Promise<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match &mut self.state {
            State::Waiting(handle, id) => match handle.link().poll_promise(*id, cx) {
                Poll::Ready(completion) => match completion.into_unless_done() {
                    // Most promises complete with `Done`, which needs no boxed reply.
                    None => T::from_reply(Reply::Done, handle),
                    Some(outcome) => outcome.and_then(|reply| T::from_reply(reply, handle)),
                },
                Poll::Pending => return Poll::Pending,
            },
            State::Resolved(error) => Err(match error.take() {
                Some(error) => *error,
                None => Error::invalid("promise", "already resolved"),
            }),
        };
        self.state = State::Resolved(None);
        Poll::Ready(outcome)
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if let State::Waiting(handle, id) = &self.state {
            handle.link().abandon(*id);
        }
    }
}

/// A type that a request resolves to.
pub(crate) trait Outcome: Sized {
    /// Converts the state machine's reply.
    fn from_reply(reply: Reply, handle: &Handle) -> Result<Self, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Delivery;

    #[test]
    fn promises_and_deliveries_are_small() {
        assert_eq!(
            size_of::<Promise<()>>(),
            size_of::<Handle>() + size_of::<PromiseId>()
        );
        assert!(size_of::<Delivery>() <= 72, "{}", size_of::<Delivery>());
        assert_eq!(
            size_of::<Poll<Option<Result<Delivery, Error>>>>(),
            size_of::<Delivery>()
        );
    }
}
