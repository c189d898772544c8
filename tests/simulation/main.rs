//! The connection against the in-memory broker, in virtual time, with all kinds of faults,
//! determined by a seed.
//!
//! - `cargo test -p puka --test simulation` runs as many seeds as fit into half a minute; `SEEDS=n`
//!   sets how many. `MOST=n` stops after this many failures and does not reduce them.
//! - `SEED=n cargo test -p puka --test simulation seeds` replays one and prints its events.
//!   `OPS=k` runs only the first operations, `OFF=Cut,Block` disables features of the seed. A seed
//!   that fails prints the smallest such command that still fails.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod answers;
mod application;
mod checker;
mod dialling;
mod faults;
mod frames;
mod injector;
mod left;
mod observer;
mod operations;
mod pending;
mod plan;
mod planted;
mod publishes;
mod random;
mod record;
mod regressions;
mod requests;
mod run;
mod seeds;
mod session;
mod topology;
mod transactions;
mod transport;
mod wire;
mod world;
