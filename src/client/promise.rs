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
    answer: PhantomData<fn() -> T>,
}

/// Kept small, because there may be many promises.
enum State {
    Waiting(Handle, PromiseId),
    /// Resolved, or nothing was sent because of this error.
    Over(Option<Box<Error>>),
}

impl<T> Promise<T> {
    pub(super) fn new(handle: Handle, id: PromiseId) -> Self {
        Self {
            state: State::Waiting(handle, id),
            answer: PhantomData,
        }
    }

    pub(super) fn failed(error: Error) -> Self {
        Self {
            state: State::Over(Some(error.into())),
            answer: PhantomData,
        }
    }

    /// Returns a small number that is unique among the connection's promises until this one has
    /// resolved and its result is taken. Returns `None` afterwards, or if nothing was sent.
    #[must_use]
    pub fn number(&self) -> Option<usize> {
        match &self.state {
            State::Waiting(_, id) => Some(id.index()),
            State::Over(_) => None,
        }
    }
}

impl<T> fmt::Debug for Promise<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Waiting(..) => "waiting",
            State::Over(Some(_)) => "failed",
            State::Over(None) => "done",
        };
        f.debug_tuple("Promise").field(&state).finish()
    }
}

impl<T: Outcome> Future for Promise<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match &mut self.state {
            State::Waiting(handle, id) => match handle.link().poll_promise(*id, cx) {
                Poll::Ready(answer) => match answer.into_unless_done() {
                    // Most promises complete with `Done`, which needs no boxed reply.
                    None => T::from_reply(Reply::Done, handle),
                    Some(outcome) => outcome.and_then(|reply| T::from_reply(reply, handle)),
                },
                Poll::Pending => return Poll::Pending,
            },
            State::Over(error) => Err(match error.take() {
                Some(error) => *error,
                None => Error::invalid("promise", "already resolved"),
            }),
        };
        self.state = State::Over(None);
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
