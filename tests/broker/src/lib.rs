//! A small AMQP 0-9-1 broker in memory, for testing clients.
//!
//! It answers as RabbitMQ does, with RabbitMQ's reply codes and similar texts, so that a client
//! that works with it works with RabbitMQ. It refuses unsupported requests with
//! `540 NOT_IMPLEMENTED`, and never fakes success.
//!
//! - [`Broker`] is the broker itself, as plain data: no I/O, no clock, no threads. Bytes and the
//!   time are its input, bytes its output, and the same input with the same seed produces the same
//!   output. Simulations drive it directly, and can block it, restart it, and cut its connections.
//! - [`Server`] shares a broker, and returns in-memory [`Stream`]s to connect to it, for any
//!   executor.
//! - [`Listener`] serves it on a TCP port, as the binary `puka-test-broker` does.
//!
//! # Features
//! The whole handshake with PLAIN and AMQPLAIN; heartbeats; channels; direct, fanout, topic and
//! headers exchanges, alternate exchanges, bindings between exchanges; classic queues with length
//! limits, times to live, dead-lettering, priorities, a single active consumer; consumers with both
//! kinds of prefetch and priorities; `get`, settling, `recover`; confirms, returns, transactions;
//! direct reply-to; `connection.blocked`; users with permissions.
//!
//! # Refused with 540
//! Besides what RabbitMQ itself refuses (`immediate`, a prefetch size, `recover` without requeue,
//! `flow` off): quorum queues and streams, exchange types of plugins.
//!
//! # Not supported
//! Clusters, policies, limits of virtual hosts, TLS. Acknowledgement timeouts expire only when a
//! test says so: see [`Broker::time_out_deliveries`] and [`Broker::time_out_consumers`]. Messages
//! are lost when the broker ends.

#![forbid(unsafe_code)]

mod ack_timeout;
mod arguments;
mod broker;
mod channel;
mod config;
mod confirms;
mod connection;
mod crashes;
mod dead_letter;
mod delivery;
mod dispatch;
mod exchange;
mod fault;
mod ids;
mod inspect;
mod listen;
mod message;
mod methods;
mod operator_actions;
mod pending_work;
mod publish;
mod queue;
mod random;
mod removal;
mod reply_to;
mod server;
mod settlement;
mod state;
mod stream;
mod stuck_queues;
mod timers;
mod topic;
mod vhost;
mod view;

pub use broker::Broker;
pub use config::{Config, Pattern, User};
pub use ids::ConnectionId;
pub use listen::Listener;
pub use server::Server;
pub use stream::Stream;
pub use view::{ExchangeView, Published, QueueView, QueuedMessage};
