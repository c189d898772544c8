//! A small, honest AMQP 0-9-1 broker in memory: something to test a client against.
//!
//! It answers as RabbitMQ does, with RabbitMQ's reply codes and much like its texts, so that a client that gets along with
//! it gets along with RabbitMQ. What it does not do it refuses with `540 NOT_IMPLEMENTED`; it never makes up a success.
//!
//! - [`Broker`] is the broker itself, as plain data: no I/O, no clock, no threads. Octets and the time go in, octets come
//!   out, and the same input with the same seed gives the same output. Simulations drive it by hand, and may block it,
//!   restart it, cut its connections.
//! - [`Server`] shares a broker and gives in-memory [`Stream`]s to connect to it, for any executor.
//! - [`Listener`] puts it on a TCP port; the binary `puka-test-broker` does just that.
//!
//! # What it has
//! The whole handshake with PLAIN and AMQPLAIN; heartbeats; channels; direct, fanout, topic and headers exchanges, alternate
//! exchanges, bindings between exchanges; classic queues with lengths, times to live, dead-lettering, priorities, a single
//! active consumer; consumers with both kinds of prefetch and priorities; `get`, settling, `recover`; confirms, returns,
//! transactions; direct reply-to; `connection.blocked`; users with permissions.
//!
//! # What it refuses with 540
//! Besides what RabbitMQ refuses itself (`immediate`, a prefetch size, `recover` without requeue, `flow` off): quorum queues
//! and streams, exchange types of plugins.
//!
//! # What it does not know
//! Clusters, policies, limits of virtual hosts, acknowledgement timeouts, TLS. Messages are lost when it ends.

#![forbid(unsafe_code)]

mod arguments;
mod broker;
mod channel;
mod config;
mod confirms;
mod connection;
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
mod operate;
mod overdue;
mod publish;
mod queue;
mod quiesce;
mod random;
mod release;
mod reply_to;
mod server;
mod settle;
mod state;
mod stream;
mod stuck;
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
