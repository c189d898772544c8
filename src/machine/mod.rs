//! The connection as plain data.
//!
//! [`Connection`] takes octets, the time and what a user asks for, and gives out octets, outcomes and the next deadline.
//! It does no I/O and knows no clock, lock, waker or thread, so a test can run hours of it in a moment, the same way each
//! time. Whoever drives it does, again and again:
//!
//! 1. reads into a [`Decoder`](crate::protocol::Decoder) and calls [`Connection::handle_input`], unless
//!    [`Connection::wants_input`] says no; tells of the transport's end with [`Connection::handle_loss`];
//! 2. calls [`Connection::handle_timeout`] when [`Connection::poll_timeout`] has passed, but reads
//!    first: the server's silence is judged then, and after a pause of the process its data is
//!    still in the socket;
//! 3. writes what [`Connection::poll_transmit`] gives, and says how far it came with [`Connection::handle_transmitted`];
//! 4. passes on the events of [`Connection::poll_event`], and runs the steps that
//!    [`Connection::poll_login`] and [`Connection::poll_filter`] return.
//!
//! The parts, each in its file, know nothing of the connection that they are parts of.

mod backoff;
mod batches;
mod bindings;
mod call_ids;
mod capacity;
mod channel;
mod channels;
mod chunk;
mod confirms;
mod connection;
mod consumers;
mod content;
mod deadline;
mod down;
mod filtering;
mod handshake;
mod heartbeat;
mod held;
mod ids;
mod lanes;
mod name_hasher;
mod names;
mod notices;
mod outbox;
mod outgoing;
mod overdue;
mod promises;
mod publishers;
mod quarantine;
mod reading;
mod recovery;
mod request;
mod requested;
mod restoration;
mod resubscription;
mod sasl;
mod server_properties;
mod tags;
mod topology;
mod transactions;
mod tuning;
mod unsettled;
mod waiting;

pub(crate) use batches::BATCH;
pub(crate) use capacity::Ticket;
pub use connection::{Connection, Event};
pub use consumers::Ended;
pub use content::{Delivered, Got};
#[cfg(feature = "evented")]
pub(crate) use deadline::earlier;
pub(crate) use deadline::later;
pub use filtering::{FilterOutcome, FilterStep};
pub use ids::{ConsumerId, ListenerId, PromiseId, TransactionId};
pub use notices::Notice;
pub use outgoing::Outgoing;
pub(crate) use promises::Answer;
pub use promises::{Queue, Reply};
pub use recovery::{ConnectionState, Counters, Dialling, Recovered};
pub use request::{Body, Consume, Publish, Settle};
pub use sasl::{LoginOutcome, LoginStep};
pub use server_properties::ServerProperties;
