//! The connection as a state machine without I/O.
//!
//! [`Connection`] takes bytes, the time and requests, and returns bytes, results and the next
//! deadline. It does no I/O and uses no clock, lock, waker or thread, so a test can simulate hours
//! in milliseconds and gets the same result each time. A driver repeats these steps:
//!
//! 1. It reads into a [`Decoder`](crate::protocol::Decoder) and calls [`Connection::handle_input`],
//!    unless [`Connection::wants_input`] returns `false`. At the end of the transport it calls
//!    [`Connection::handle_loss`].
//! 2. It calls [`Connection::handle_timeout`] when [`Connection::poll_timeout`] has passed, but
//!    reads first: that call checks for the server's silence, and after a pause of the process the
//!    server's data is still in the socket.
//! 3. It writes the output of [`Connection::poll_transmit`], and reports the written bytes to
//!    [`Connection::handle_transmitted`].
//! 4. It passes on the events of [`Connection::poll_event`], and runs the steps that
//!    [`Connection::poll_login`] and [`Connection::poll_filter`] return.
//!
//! Each part has its own folder and does not use `Connection`, which combines the parts.

mod channel;
mod connection;
mod consume;
mod context;
mod deadline;
mod dispatch;
mod faults;
mod handshake;
mod ids;
mod learned;
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
pub use consume::consumer::Consumer;
pub use consume::ended::Ended;
pub(crate) use deadline::{earlier, later};
pub use handshake::sasl::{LoginOutcome, LoginStep};
pub use handshake::server_properties::ServerProperties;
pub use ids::{ConsumerId, ListenerId, PromiseId, TransactionId};
pub use notices::Notice;
pub(crate) use promises::Completion;
pub use promises::{Queue, Reply};
pub use recovery::filter::{FilterOutcome, FilterStep};
pub use recovery::report::{ConnectionState, Counters, Dialled, Dialling, Recovered};
pub use request::arguments::{Body, Consume, ConsumerSettings, Publish, Settle};
pub(crate) use request::capacity::Ticket;
pub use session::Stats;
pub use transmit::outgoing::Outgoing;
