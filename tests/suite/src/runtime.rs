//! What a case needs of a runtime.

use puka::{Client, Clock, Error, Options};
use std::future::Future;

/// A runtime and puka's adapter for it.
pub trait Runtime: 'static {
    /// The adapter's clock.
    type Clock: Clock<Sleep: Send> + Send + Unpin + 'static;

    /// A clock.
    fn clock() -> Self::Clock;

    /// Runs a future to its end, and whatever it has spawned meanwhile.
    fn block_on<F: Future>(future: F) -> F::Output;

    /// Has a future run beside the others, to its end, with nobody holding on to it.
    fn spawn(future: impl Future<Output = ()> + Send + 'static);

    /// The adapter's `connect_with`.
    fn connect(options: Options) -> impl Future<Output = Result<Client, Error>>;
}
