//! A load on a real RabbitMQ node with faults, and an account of every message.
//!
//! A [`Stage`] is a node behind a [`Proxy`](puka_test_rabbitmq::Proxy), and a [`Fault`] affects it.
//! A [`Load`] publishes and consumes numbered messages over several connections that recover. Its
//! [`Ledger`] records what was confirmed, delivered and acknowledged, and finds lost and repeated
//! messages. A [`Fragile`] contains entities that do not outlive their connection, so each recovery
//! must restore them.
//!
//! The tests of `tests/rabbitmq` run each fault once. The binary `soak` runs many, in random order:
//!
//! ```text
//! cargo run --release -p puka-test-soak --bin soak -- --rounds 200 --seed 1
//! ```
#![expect(
    clippy::missing_errors_doc,
    reason = "every function fails if the client breaks a promise"
)]

mod fault;
mod fragile;
mod ledger;
mod load;
mod stage;
mod work;

pub use fault::Fault;
pub use fragile::Fragile;
pub use ledger::{Account, Fate, Ledger};
pub use load::Load;
pub use stage::Stage;

use futures_lite::FutureExt;
use std::future::Future;
use std::time::Duration;

/// The reason of a failure.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The outcome of a step.
pub type Outcome = Result<(), Failure>;

/// Limits the time for a step.
pub async fn within<T>(
    limit: Duration,
    what: &str,
    step: impl Future<Output = T>,
) -> Result<T, Failure> {
    let timeout = async {
        smol::Timer::after(limit).await;
        Err(format!("{what} takes longer than {limit:?}").into())
    };
    async { Ok(step.await) }.or(timeout).await
}

/// Polls until a condition is true.
pub async fn until(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) -> Outcome {
    let asking = async {
        while !is_so() {
            smol::Timer::after(Duration::from_millis(20)).await;
        }
    };
    within(limit, what, asking).await
}
