//! The interface of a runtime for the cases.

use puka::{Client, Clock, Error, Options};
use std::future::Future;

/// A runtime and puka's adapter for it.
pub trait Runtime: 'static {
    /// The adapter's clock.
    type Clock: Clock<Sleep: Send> + Send + Unpin + 'static;

    /// Returns a clock.
    fn clock() -> Self::Clock;

    /// Runs a future to completion, together with the futures that it spawns.
    fn block_on<F: Future>(future: F) -> F::Output;

    /// Spawns a future that runs to completion in the background.
    fn spawn(future: impl Future<Output = ()> + Send + 'static);

    /// Connects with the adapter's `connect_with`.
    fn connect(options: Options) -> impl Future<Output = Result<Client, Error>>;
}
