//! A promise: what a request that was sent will resolve to.

use super::handle::Handle;
use crate::error::Error;
use crate::machine::{PromiseId, Reply};
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The answer to a request that was sent.
///
/// It resolves exactly once: to the broker's answer, the deadline, or the end of the connection.
///
/// # Cancel safety
/// Dropping it takes nothing back: the request is carried out. Its answer is absorbed; a message that it got goes back to
/// the queue, a consumer that it started is cancelled.
#[must_use = "the answer, and the error with it, is lost when nobody waits for it"]
pub struct Promise<T> {
    state: State,
    answer: PhantomData<fn() -> T>,
}

/// Small, because of promises there are many.
enum State {
    Waiting(Handle, PromiseId),
    /// Nothing was sent, and this is why; or it has resolved.
    Over(Option<Box<Error>>),
}

impl<T> Promise<T> {
    pub(super) fn new(handle: Handle, id: PromiseId) -> Self {
        Self { state: State::Waiting(handle, id), answer: PhantomData }
    }

    pub(super) fn failed(error: Error) -> Self {
        Self { state: State::Over(Some(error.into())), answer: PhantomData }
    }

    /// A small number, which no other promise of this connection has until this one is answered and the answer is taken.
    /// `None` when that is so, or when nothing was sent.
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
                Poll::Ready(answer) => match answer.into_more() {
                    // It is done, as most are.
                    None => T::from_reply(Reply::Done, handle),
                    Some(outcome) => outcome.and_then(|reply| T::from_reply(reply, handle)),
                },
                Poll::Pending => return Poll::Pending,
            },
            State::Over(error) => Err(match error.take() {
                Some(error) => *error,
                None => Error::invalid("promise", "it has resolved already"),
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

/// What a request resolves to.
pub(crate) trait Outcome: Sized {
    fn from_reply(reply: Reply, handle: &Handle) -> Result<Self, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Delivery;

    #[test]
    fn what_there_are_many_of_is_small() {
        assert_eq!(size_of::<Promise<()>>(), size_of::<Handle>() + size_of::<PromiseId>());
        assert!(size_of::<Delivery>() <= 72, "{}", size_of::<Delivery>());
        assert_eq!(size_of::<Poll<Option<Result<Delivery, Error>>>>(), size_of::<Delivery>());
    }
}
