//! Blocking waits for one result, for the first of several, or for all of them.

use super::connection::Evented;
use super::run::{Source, sleep};
use crate::client::{Consumer, Delivery};
use crate::error::Error;
use crate::machine::Ended;
use futures_lite::Stream;
use std::future::Future;
use std::io::{Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A value that [`Evented::wait`] can wait for: a [`Promise`](crate::Promise) or another fallible
/// future, or a [`Consumer`], which can be waited for repeatedly.
pub trait Awaited {
    /// The type of the result.
    type Answer;

    /// Polls for the result.
    #[doc(hidden)]
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Self::Answer, Error>>;
}

impl<T, F: Future<Output = Result<T, Error>> + Unpin> Awaited for F {
    type Answer = T;

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Error>> {
        Pin::new(self).poll(cx)
    }
}

/// Waits for the next delivery. Returns the reason as the error if the consumer has ended:
/// [`Error::InvalidArgument`] if the client cancelled it, because no delivery can follow.
impl Awaited for Consumer {
    type Answer = Delivery;

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Delivery, Error>> {
        Pin::new(&mut *self)
            .poll_next(cx)
            .map(|next| match (next, self.ended()) {
                (Some(next), _) => next,
                (None, None | Some(Ended::Cancelled)) => Err(Error::invalid(
                    "consumer",
                    "the consumer was cancelled by the client",
                )),
                (None, Some(Ended::CancelledByServer)) => {
                    Err(Error::ConsumerCancelled(self.tag().to_owned()))
                }
                (
                    None,
                    Some(
                        Ended::ChannelClosed(error)
                        | Ended::AckTimeout(error)
                        | Ended::ConnectionBroken(error),
                    ),
                ) => Err(error.clone()),
            })
    }
}

impl<S: Read + Write + Source> Evented<S> {
    /// Waits for a result, and moves bytes meanwhile. Queued output, such as acknowledgements, is
    /// written even if the result is available at once. Runs no callbacks; [`run`](Self::run) does.
    ///
    /// ```
    /// # puka_test_suite::evented_example(|conn| {
    /// let client = conn.client();
    /// conn.wait(&mut client.queue_declare("orders").send(), None)?;
    /// conn.wait(&mut client.basic_publish("", "orders", "one").send(), None)?;
    ///
    /// let mut orders = conn.wait(&mut client.basic_consume("orders").send(), None)?;
    /// let order = conn.wait(&mut orders, None)?;
    /// assert_eq!(order.body(), b"one");
    /// order.ack()?;
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`Error::Timeout`] if there is no result in time, or [`Error::ReadingPaused`] if reading is
    /// paused at that time. In both cases the result can be waited for again.
    /// [`Error::ConnectionBroken`] if the system has no resources left for waiting. Otherwise the
    /// error of the promise.
    pub fn wait<A: Awaited>(
        &mut self,
        awaited: &mut A,
        timeout: Option<Duration>,
    ) -> Result<A::Answer, Error> {
        self.wait_until(timeout, |cx| awaited.poll_answer(cx))?
    }

    /// Waits for the first of several results. Returns its index and the result; the others can be
    /// waited for again.
    ///
    /// # Errors
    /// [`Error::Timeout`] if there was no result in time, [`Error::InvalidArgument`] if the slice
    /// is empty, and [`Error::ConnectionBroken`] if the system has no resources left for waiting.
    pub fn wait_for_any<A: Awaited>(
        &mut self,
        awaited: &mut [A],
        timeout: Option<Duration>,
    ) -> Result<(usize, Result<A::Answer, Error>), Error> {
        if awaited.is_empty() {
            return Err(Error::invalid(
                "awaited",
                "at least one promise is required",
            ));
        }
        self.wait_until(timeout, |cx| {
            let mut answers = awaited.iter_mut().enumerate();
            let first = answers.find_map(|(index, awaited)| match awaited.poll_answer(cx) {
                Poll::Ready(answer) => Some((index, answer)),
                Poll::Pending => None,
            });
            first.map_or(Poll::Pending, Poll::Ready)
        })
    }

    /// Waits for all of these results, and returns them in the same order. An [`Error::Timeout`] is
    /// the result of a promise that was not ready in time and can be waited for again.
    ///
    /// ```
    /// # puka_test_suite::evented_example(|conn| {
    /// let client = conn.client();
    /// let mut promises: Vec<_> =
    ///     (0..100).map(|i| client.queue_declare(format!("a{i:02}")).send()).collect();
    /// for queue in conn.wait_for_all(&mut promises, None) {
    ///     assert_eq!(queue?.message_count, 0);
    /// }
    /// # Ok(())
    /// # });
    /// ```
    pub fn wait_for_all<A: Awaited>(
        &mut self,
        awaited: &mut [A],
        timeout: Option<Duration>,
    ) -> Vec<Result<A::Answer, Error>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let each = awaited.iter_mut().map(|awaited| {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            self.wait(awaited, left)
        });
        each.collect()
    }

    /// Moves bytes and polls until there is a result or the timeout has passed.
    fn wait_until<T>(
        &mut self,
        timeout: Option<Duration>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Error> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            // If the connection ends with an error, the polled promise returns it.
            drop(self.drive());
            let waker = Waker::from(self.thread_waker.clone());
            if let Poll::Ready(output) = poll(&mut Context::from_waker(&waker)) {
                return Ok(output);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                let after = timeout.unwrap_or_default();
                return Err(self.timed_out("waiting", after));
            }
            if !self.may_have_work() {
                sleep(&mut [self], deadline)?;
            }
        }
    }
}
