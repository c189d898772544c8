//! Concurrent futures: spawned ones with a result, and a single poll.

use crate::Runtime;
use futures_lite::FutureExt;
use futures_lite::future::poll_once;
use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;

/// The result of a spawned future, which continues when this is dropped. If the future panics, so
/// does the task that waits for it.
#[derive(Debug)]
#[must_use = "the result is lost unless it is awaited"]
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

    /// Runs a future on its own thread, without a runtime.
    pub fn on_a_thread(future: impl Future<Output = T> + Send + 'static) -> Self {
        let (task, filling) = Self::filled_by(future);
        thread::spawn(|| futures_lite::future::block_on(filling));
        task
    }

    fn filled_by(
        future: impl Future<Output = T> + Send + 'static,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let slot = Arc::new(Mutex::new(Slot {
            result: None,
            waker: None,
        }));
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

/// Polls a future once. Returns its output, if it is ready.
pub async fn ready_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    poll_once(future).await
}
