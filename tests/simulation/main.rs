//! The connection against the in-memory broker, in virtual time, with everything that can go wrong,
//! from a seed.
//!
//! - `cargo test -p puka --test simulation` runs as many seeds as fit into half a minute; `SEEDS=n`
//!   sets how many. `MOST=n` stops after so many failures, and makes none of them smaller.
//! - `SEED=n cargo test -p puka --test simulation seeds` replays one and prints what happens in it.
//!   `OPS=k` leaves out all but the first operations, `OFF=Cut,Block` features of the seed. A seed
//!   that fails prints the smallest such line that still fails.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod answers;
mod application;
mod dialling;
mod faults;
mod frames;
mod heard;
mod ledger;
mod left;
mod line;
mod meddler;
mod observer;
mod operations;
mod plan;
mod planted;
mod random;
mod record;
mod regressions;
mod requests;
mod run;
mod seeds;
mod session;
mod transactions;
mod wire;
mod world;
