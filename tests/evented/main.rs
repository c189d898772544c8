//! The client without a runtime: with blocking calls, with callbacks, and in event loops of the
//! application, over a stream in memory, over loopback TCP, and with RabbitMQ.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed helper is a failed test"
)]

mod by_hand;
mod callbacks;
mod closing;
mod dialling;
mod end_to_end;
mod foreign_loop;
mod memory;
mod panics;
mod recovering;
mod several;
mod tcp;
mod threads;
mod time;
mod waiting;
