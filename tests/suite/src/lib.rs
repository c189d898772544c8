//! End-to-end cases for puka: what its users can rely on, tested with the broker in memory and a
//! real RabbitMQ.
//!
//! The cases are generic over the [`Runtime`]. Each adapter implements it in a test, and runs them
//! all with one line:
//!
//! ```ignore
//! puka_test_suite::tests!(Smol);
//! ```
//!
//! This defines a `#[test]` for every case, in seven modules: `in_memory`, `rabbitmq`, `faults` of
//! the broker in memory, and `dialling`, `recovering`, `stopping` and `unix` for what concerns the
//! adapter most. The module `rabbitmq` uses the node at `PUKA_TEST_RABBITMQ_URL`, or starts one for
//! the process; without RabbitMQ it fails with a message that says what to install. A case that
//! takes longer than [`DEADLINE`] fails with its name.
//!
//! [`example`] and [`evented_example`] run the examples of the documentation.

#![forbid(unsafe_code)]
#![expect(
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    reason = "the cases are tests: they fail or panic if a fact is wrong"
)]

mod bare;
mod cases;
mod example;
mod listening;
mod runtime;
mod stalling;
mod taking;
mod task;
mod world;

pub mod arguments;
pub mod calling;
pub mod closing;
pub mod concurrency;
pub mod connecting;
pub mod consuming;
pub mod consuming_multi;
pub mod dialling;
pub mod exchanges;
pub mod faults;
pub mod getting;
pub mod limits;
pub mod messages;
pub mod notices;
pub mod prefetch;
pub mod publishing;
pub mod queues;
pub mod recovering;
pub mod scenarios;
pub mod settling;
pub mod sharing;
pub mod stopping;
pub mod transactions;
pub mod unix;

pub use bare::Bare;
pub use example::{evented_example, example};
pub use listening::{Listening, UnixRelay};
pub use runtime::Runtime;
pub use task::{Task, ready_now};
pub use world::{DEADLINE, Outcome, Target, World, run};
