//! An opinionated AMQP 0-9-1 client, tuned to RabbitMQ, after Python's Puka: every request is a promise, there are no
//! channels in your way, an error reaches exactly the request that caused it, and a publish is something you can wait for.
//!
//! ```
//! # puka_test_suite::example(async |client| {
//! client.queue_declare("orders").durable(true).await?;
//! client.basic_publish("", "orders", "Hello world!").persistent(true).await?; // the broker has confirmed it
//!
//! let mut orders = client.basic_consume("orders").prefetch_count(100).await?;
//! if let Some(delivery) = orders.next().await {
//!     let delivery = delivery?;
//!     assert_eq!(delivery.body(), b"Hello world!");
//!     delivery.ack()?; // queued at once, nothing to wait for
//! }
//! client.close().await
//! # });
//! ```
//!
//! # Getting a client
//! `puka-smol`, `puka-async-std` and `puka-tokio` resolve, dial and drive, over TCP, TLS and Unix sockets:
//! `puka_smol::connect("amqp://localhost/").await?`. For another runtime, [`connect`] wants a [`Dial`] and a [`Clock`].
//! Over any other byte stream, and on any other executor, [`open`] gives a [`Client`] and a [`Driver`], a future to poll
//! wherever futures are polled. Without any executor, [`evented`] has a client to wait for, with callbacks, or for your own
//! event loop.
//!
//! # Logging in
//! A URI or [`Options`] say where brokers are and who logs in: with [`Options::credentials`], with
//! [`Options::credentials_from`], which is asked at each login, and with the SASL mechanisms of
//! [`Options::auth_mechanisms`] or one's own ([`SaslMechanism`]). No `Debug` and no error shows a password.
//!
//! # Requests
//! A request is a builder with the argument names of Puka and of the spec. It can be
//!
//! - awaited: it is sent, after waiting for room if need be, and resolves to its answer;
//! - sent at once with `.send()`, which gives a [`Promise`], so that many are under way; `.try_send()` says at once when it
//!   can't be;
//! - submitted with `.submit().await`, which waits for room but not for the answer.
//!
//! Dropping a future at any await is harmless: the answer is absorbed, and the next request gets its own.
//!
//! # Channels, which nobody sees
//! A request borrows a pooled channel. Publishes go over one confirm channel for each exchange, so the order of messages to
//! one exchange is kept, and a missing exchange fails only what was published to it; those that
//! [ask for no confirm](BasicPublish::confirm) have another. A consumer has a channel of its own. When
//! the broker closes a channel, what caused that has its answer, and a new channel takes its place.
//!
//! # What is bounded
//! Everything, by [`Options`]: octets that wait to be written, requests, publishes that wait for their confirm, deliveries that wait to
//! be taken, sizes of frames and messages, channels. Every request has a deadline.

// `Instant + Duration` panics on overflow. `clippy.toml` exempts integers; `machine::later` adds to
// instants.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]
#![forbid(unsafe_code)]

mod client;
mod driver;
mod error;
#[cfg(feature = "evented")]
pub mod evented;
mod link;
pub mod machine;
mod message;
mod options;
pub mod protocol;
pub mod recovery;
#[cfg(feature = "tls")]
pub mod tls;
mod uri;

pub use client::{
    BasicCancel, BasicConsume, BasicConsumeMulti, BasicGet, BasicPublish, BasicQos, BeginTransaction, Client,
    ConsumeQueue, Consumer, DeadLetterKey, DeadLetterStrategy, DelayedRetry, Delivery, ExchangeBind,
    ExchangeDeclare, ExchangeDelete, ExchangeUnbind, HeadersMatch, LeaderLocator, Notices, Overflow, Promise,
    QueueBind, QueueDeclare, QueueDelete, QueuePurge, QueueType, QueueUnbind, Rpc, Sending, StreamOffset,
    Transaction,
};
pub use driver::{Clock, Dial, DialDriver, Driver, Transport, dial};
pub use error::{Broken, Error, Fault, Peer, ReadingPaused, TlsCause, TlsFault};
pub use machine::{Body, ConnectionState, Counters, Ended, Notice, Queue, Recovered, ServerProperties};
pub use message::{Message, Returned};
pub use options::{
    Credentials, Entity, Options, RecoverTopology, Recovery, SaslMechanism, TlsOptions, TlsSource,
};
pub use uri::{AuthMechanism, Endpoint, Uri, UriError, UriPart};

use futures_io::{AsyncRead, AsyncWrite};

/// Opens a connection over any byte stream: gives the client, and the driver to poll wherever futures are polled.
///
/// The handshake begins with the driver's first poll; [`Client::connect`] waits for it. The options' endpoints, what they say
/// of TLS, and the deadlines for resolving, dialling and TLS matter only to whoever dials. That the stream is encrypted is
/// for [`Options::encrypted_transport`] to say.
///
/// ```
/// use puka::Options;
///
/// let broker = puka_test_broker::Server::new(Default::default());
/// let (client, driver) = puka::open(broker.connect(), puka_smol::Clock, Options::default());
/// smol::spawn(driver).detach();
/// smol::block_on(async {
///     let server = client.connect().await?;
///     assert_eq!(server.product(), "puka-test-broker");
///     client.close().await
/// })?;
/// # Ok::<(), puka::Error>(())
/// ```
pub fn open<Io, C>(io: Io, clock: C, options: Options) -> (Client, Driver<Io, C>)
where
    Io: AsyncRead + AsyncWrite + Unpin,
    C: Clock,
{
    let link = link::Link::new(machine::Connection::new(clock.now(), options));
    (Client::new(link.clone()), Driver::new(io, clock, link))
}

/// Opens a connection that is dialled, and dialled again when it is [lost](recovery): what the adapters' `connect` does.
///
/// Dialling begins with the driver's first poll; [`Client::connect`] waits for it and for the handshake.
///
/// ```
/// use futures_lite::future;
/// use puka::Options;
///
/// # let url = puka_test_suite::Listening::start()?.url();
/// let options = Options::from_uri(&url)?; // such as "amqp://localhost/"
/// let (client, driver) = puka::connect(puka_smol::Dialer, puka_smol::Clock, options);
/// let work = async {
///     client.connect().await?;
///     client.queue_declare("orders").await?;
///     client.close().await
/// };
/// // No executor: the driver is polled beside the work.
/// smol::block_on(future::try_zip(work, driver))?;
/// # Ok::<(), puka::Error>(())
/// ```
pub fn connect<D, C>(dialer: D, clock: C, options: Options) -> (Client, DialDriver<D, C>)
where
    D: Dial + Send + Sync + 'static,
    C: Clock + Send + Sync + 'static,
    C::Sleep: Send,
{
    let link = link::Link::new(machine::Connection::dialled(clock.now(), options.clone()));
    (Client::new(link.clone()), DialDriver::new(dialer, clock, options, link))
}

/// Has the README's examples compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
