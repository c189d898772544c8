//! The connection under a scripted server, in virtual time, and the driver over a scripted stream.
//!
//! The state machine does no I/O and reads no clock, so every test is exact: it defines what the
//! server sends and when, and checks each frame that the state machine would write. On the server's
//! side only `puka::protocol` knows the bytes. A test's name begins with the numbers of the cases
//! that it shows: `tests/numbers.txt` lists them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

mod abandoned;
mod arguments;
mod attempts;
mod blocked;
mod bookkeeping;
mod bounds;
mod capabilities;
mod capacity;
mod channel_limits;
mod channels;
mod close_causes;
mod closing;
mod closing_at_once;
mod closing_early;
mod confirms;
mod consuming;
mod contents;
mod dialling;
mod driver;
mod driver_ends;
mod driver_pauses;
mod drops;
mod exceptions;
mod filters;
mod flights;
mod framing;
mod handshake;
mod handshake_faults;
mod headers;
mod immediate;
mod interruptions;
mod large_logins;
mod late_methods;
mod late_replay;
mod lavinmq;
mod limits;
mod login;
mod losing;
mod losses;
mod memory;
mod names;
mod other_brokers;
mod overdue;
mod owners;
mod panics;
mod partial;
mod pausing;
mod peer;
mod pending;
mod pipe;
mod pipeline;
mod proxies;
mod publishing;
mod random;
mod rebinding;
#[cfg(feature = "tls")]
mod records;
mod recovering;
mod redialling;
mod refused;
mod renaming;
mod reports;
mod requests;
mod requeuing;
mod reservations;
mod resizing;
mod restoring;
mod restoring_consumers;
mod restoring_faults;
mod retuning;
mod sequences;
mod settling;
mod shared_prefetch;
mod sources;
mod streams;
mod strict_consumers;
mod timers;
mod too_large;
mod transacting;
mod turns;
mod unconfirmed;
