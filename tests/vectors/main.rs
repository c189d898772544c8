//! Tests of the codec: what `puka::protocol` decodes and encodes, from outside and without a
//! connection.
//!
//! `bytes/` contains vectors on which independent encoders agree, `amqp-0-9-1.json` the table of
//! methods and constants (their keys are explained at the top of `bytes/generate.py`). The other
//! modules run arbitrary, mutated and hostile bytes through the same code. A test whose name begins
//! with `a` or `e` and two digits covers an attack or an edge case of `tests/numbers.txt`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

mod attacks;
#[expect(
    unreachable_pub,
    reason = "shared with the fuzz targets, where it is a library"
)]
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
