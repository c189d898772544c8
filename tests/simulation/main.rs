//! The simulation: clients against the in-memory broker, over a virtual network, in virtual time,
//! with all kinds of faults. One number, the seed, determines everything.
//!
//! # What a passing seed proves
//! The invariants `I1` to `I11` and `I13` to `I15` of `tests/numbers.txt` held in this world: no
//! confirmed message was lost, each promise completed once and with its own result, everything was
//! bounded and paced, and after the faults each client was connected, restored, able to work and
//! able to close. `I12` is a test of its own. `planted.rs` proves that the checks notice bugs, and
//! so does `tests/mutants`.
//!
//! # How a seed runs
//! `run.rs` creates a [`World`](world::World) from the [`Plan`](plan::Plan) of the seed, performs
//! some hundred random operations, stops the faults, and makes the final checks. Between two
//! operations the world moves bytes and time. It has no model that predicts all results. Instead
//! the session of a client records what its application knows, the observers decode what the
//! network has carried, the checker follows each message, and each result must agree with all of
//! them.
//!
//! | files | content |
//! | --- | --- |
//! | `seeds.rs`, `planted.rs`, `regressions.rs` | the tests: random seeds, planted bugs, scenarios |
//! | `run.rs`, `probes.rs` | a seed from start to end, and its final checks |
//! | `plan.rs`, `random.rs` | the features and limits of a seed; random numbers |
//! | `world.rs` | the broker, the clients, the network and the time together |
//! | `operations.rs` | the choice of the next operation |
//! | `requests.rs`, `topology.rs`, `publishing.rs`, `transactions.rs` | what applications request |
//! | `application.rs`, `endings.rs` | what applications do with deliveries; ends of consumers |
//! | `faults.rs`, `dialling.rs` | actions of operators, faults, dials |
//! | `session/`, `transport.rs`, `wire.rs` | a client with its driver; a transport; one direction |
//! | `injector.rs` | the rewriting of frames between client and broker |
//! | `frames.rs`, `observer.rs` | what the network has carried |
//! | `publish_observer.rs`, `start_observer.rs` | .. of publishes; of consumers and declarations |
//! | `pending.rs`, `declared.rs`, `incomplete.rs`, `restarts.rs` | what an application knows |
//! | `results.rs` | the check of each result |
//! | `checker.rs` | the record and the checks of each message |
//! | `paces.rs` | how often a client repeats something |
//! | `violation.rs` | what a check returns |
//!
//! # How to run it
//! - `cargo test -p puka --test simulation` runs 600 seeds; `SEEDS=n` sets how many, `FROM=n` the
//!   first. `MOST=n` stops after n failures, and prints them without reducing them.
//! - `SEED=n cargo test -p puka --test simulation seeds` replays one seed and prints its events.
//!   `OPS=k` runs only the first operations, `OFF=Cut,Block` disables features of the seed. A seed
//!   that fails prints the smallest such command that still fails.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod application;
mod checker;
mod declared;
mod dialling;
mod endings;
mod faults;
mod frames;
mod incomplete;
mod injector;
mod observer;
mod operations;
mod paces;
mod pending;
mod plan;
mod planted;
mod probes;
mod publish_observer;
mod publishing;
mod random;
mod regressions;
mod requests;
mod restarts;
mod results;
mod run;
mod seeds;
mod session;
mod start_observer;
mod topology;
mod transactions;
mod transport;
mod violation;
mod wire;
mod world;
