//! Load on a real RabbitMQ node to which bad things happen, and the account of what became of every
//! message.
//!
//! A [`Stage`] is a node behind a [`Proxy`](puka_test_rabbitmq::Proxy); a [`Fault`] happens to it.
//! A [`Load`] publishes numbered messages and consumes them meanwhile, over several connections
//! that recover; its [`Ledger`] knows what was confirmed, delivered and acknowledged, and says what
//! was lost or came twice. A [`Fragile`] is what does not outlive its connection: it has to be put
//! back each time.
//!
//! The tests of `tests/rabbitmq` have each fault once; the binary `soak` has many, in random order:
//!
//! ```text
//! cargo run --release -p puka-test-soak --bin soak -- --rounds 200 --seed 1
//! ```
#![expect(
    clippy::missing_errors_doc,
    reason = "everything here fails when what it says of the client does not hold"
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

/// Why something did not work.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Nothing, or why it did not work.
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

/// Asks again and again, until it is so.
pub async fn until(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) -> Outcome {
    let asking = async {
        while !is_so() {
            smol::Timer::after(Duration::from_millis(20)).await;
        }
    };
    within(limit, what, asking).await
}
