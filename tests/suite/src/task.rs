//! Futures that run beside each other: spawned ones with a result, and a look at one without waiting.

use crate::Runtime;
use futures_lite::FutureExt;
use futures_lite::future::poll_once;
use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;

/// The result of a spawned future. It runs on when this is dropped; when it panics, so does who waits for it.
#[derive(Debug)]
#[must_use = "the result is lost when nobody waits for it"]
pub struct Task<T>(Arc<Mutex<Slot<T>>>);

#[derive(Debug)]
struct Slot<T> {
    result: Option<thread::Result<T>>,
    waker: Option<Waker>,
}

impl<T: Send + 'static> Task<T> {
    /// Spawns a future.
    pub fn spawn<R: Runtime>(future: impl Future<Output = T> + Send + 'static) -> Self {
        let (task, filling) = Self::filled_by(future);
        R::spawn(filling);
        task
    }

    /// Runs a future on a thread of its own, without a runtime.
    pub fn on_a_thread(future: impl Future<Output = T> + Send + 'static) -> Self {
        let (task, filling) = Self::filled_by(future);
        thread::spawn(|| futures_lite::future::block_on(filling));
        task
    }

    fn filled_by(
        future: impl Future<Output = T> + Send + 'static,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let slot = Arc::new(Mutex::new(Slot { result: None, waker: None }));
        let filled = slot.clone();
        let filling = async move {
            let result = AssertUnwindSafe(future).catch_unwind().await;
            let mut slot = filled.lock().unwrap_or_else(PoisonError::into_inner);
            slot.result = Some(result);
            let waker = slot.waker.take();
            drop(slot);
            if let Some(waker) = waker {
                waker.wake();
            }
        };
        (Self(slot), filling)
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.result.take() {
            Some(result) => Poll::Ready(result.unwrap_or_else(|panic| resume_unwind(panic))),
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
