//! Facts about octets: what `puka::protocol` reads and writes, seen from outside and without a connection.
//!
//! `octets/` holds vectors that independent encoders agree upon, `amqp-0-9-1.json` the table of methods and constants
//! (what their keys mean is told at the top of `octets/generate.py`). The other modules throw arbitrary, mutated and
//! hostile octets at the same code. Tests whose names begin with `a` or `e` and two digits show an attack or an edge
//! case of the project's acceptance lists.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

mod attacks;
#[expect(unreachable_pub, reason = "shared with the fuzz targets, where it is a library")]
#[path = "../../fuzz/src/lib.rs"]
mod bodies;
mod corpus;
mod declared;
mod edge_cases;
mod every_method;
mod golden;
mod hostile_frames;
mod json;
mod properties;
mod sample;
mod splits;
mod strategies;
mod tools;
