//! Futures that run beside each other: spawned ones with a result, and a look at one without waiting.

use crate::Runtime;
use futures_lite::future::poll_once;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// The result of a spawned future. It runs on when this is dropped.
#[derive(Debug)]
#[must_use = "the result is lost when nobody waits for it"]
pub struct Task<T>(Arc<Mutex<Slot<T>>>);

#[derive(Debug)]
struct Slot<T> {
    result: Option<T>,
    waker: Option<Waker>,
}

impl<T: Send + 'static> Task<T> {
    /// Spawns a future.
    pub fn spawn<R: Runtime>(future: impl Future<Output = T> + Send + 'static) -> Self {
        let slot = Arc::new(Mutex::new(Slot { result: None, waker: None }));
        let filled = slot.clone();
        R::spawn(async move {
            let result = future.await;
            let mut slot = filled.lock().unwrap_or_else(PoisonError::into_inner);
            slot.result = Some(result);
            let waker = slot.waker.take();
            drop(slot);
            if let Some(waker) = waker {
                waker.wake();
            }
        });
        Self(slot)
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// What a future resolves to, if it does at its next poll.
pub async fn ready_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    poll_once(future).await
}
