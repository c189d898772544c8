//! The connection as plain data.
//!
//! [`Connection`] takes octets, the time and what a user asks for, and gives out octets, outcomes
//! and the next deadline. It does no I/O and knows no clock, lock, waker or thread, so a test can
//! run hours of it in a moment, the same way each time. Whoever drives it does, again and again:
//!
//! 1. reads into a [`Decoder`](crate::protocol::Decoder) and calls [`Connection::handle_input`],
//!    unless [`Connection::wants_input`] says no; tells of the transport's end with
//!    [`Connection::handle_loss`];
//! 2. calls [`Connection::handle_timeout`] when [`Connection::poll_timeout`] has passed, but reads
//!    first: the server's silence is judged then, and after a pause of the process its data is
//!    still in the socket;
//! 3. writes what [`Connection::poll_transmit`] gives, and says how far it came with
//!    [`Connection::handle_transmitted`];
//! 4. passes on the events of [`Connection::poll_event`], and runs the steps that
//!    [`Connection::poll_login`] and [`Connection::poll_filter`] return.
//!
//! The parts, each in its file, know nothing of the connection that they are parts of.

mod channel;
mod connection;
mod consume;
mod context;
mod deadline;
mod dispatch;
mod handshake;
mod ids;
mod notices;
mod promises;
mod publish;
mod recovery;
mod request;
mod session;
mod transaction;
mod transmit;

pub use channel::content::{Delivered, Got};
pub use connection::{Connection, Event};
pub(crate) use consume::buffer::BATCH;
pub use consume::consumers::Ended;
#[cfg(feature = "evented")]
pub(crate) use deadline::earlier;
pub(crate) use deadline::later;
pub use handshake::sasl::{LoginOutcome, LoginStep};
pub use handshake::server_properties::ServerProperties;
pub use ids::{ConsumerId, ListenerId, PromiseId, TransactionId};
pub use notices::Notice;
pub(crate) use promises::Completion;
pub use promises::{Queue, Reply};
pub use recovery::filter::{FilterOutcome, FilterStep};
pub use recovery::report::{ConnectionState, Counters, Dialling, Recovered};
pub use request::arguments::{Body, Consume, Publish, Settle};
pub(crate) use request::capacity::Ticket;
pub use transmit::outgoing::Outgoing;
