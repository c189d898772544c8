//! An opinionated AMQP 0-9-1 client for RabbitMQ, modelled on Puka for Python: every request is a
//! promise, channels are managed for you, an error reaches exactly the request that caused it, and
//! a publish can be awaited.
//!
//! ```
//! # puka_test_suite::example(async |client| {
//! client.queue_declare("orders").durable(true).await?;
//! // Resolves when the broker has confirmed the message.
//! client.basic_publish("", "orders", "Hello world!").persistent(true).await?;
//!
//! let mut orders = client.basic_consume("orders").prefetch_count(100).await?;
//! if let Some(delivery) = orders.next().await {
//!     let delivery = delivery?;
//!     assert_eq!(delivery.body(), b"Hello world!");
//!     delivery.ack()?; // queued at once, there is no reply to wait for
//! }
//! client.close().await
//! # });
//! ```
//!
//! # Getting a client
//! The adapters `puka-smol`, `puka-async-std` and `puka-tokio` resolve host names, dial and run the
//! driver, over TCP, TLS and Unix sockets: `puka_smol::connect("amqp://localhost/").await?`. For
//! another runtime, implement [`Dial`] and [`Clock`] and call [`connect`]. Over any other byte
//! stream, [`open`] returns a [`Client`] and a [`Driver`], a future that any executor can poll.
//! Without an executor, [`evented`] provides a client that blocks, runs callbacks, or integrates
//! with a foreign event loop.
//!
//! # Logging in
//! A URI or [`Options`] define the brokers and the credentials: fixed ones
//! ([`Options::credentials`]), a source that is called at each login
//! ([`Options::credentials_from`]), the allowed SASL mechanisms ([`Options::auth_mechanisms`]), or
//! a custom mechanism ([`SaslMechanism`]). No `Debug` output and no error text contains a password.
//!
//! # Requests
//! A request is a builder whose methods have the argument names of Puka for Python and the spec. It
//! can be
//!
//! - awaited: waits for capacity, sends the request, and resolves to the reply;
//! - sent with `.send()`, which returns a [`Promise`] at once, so that many requests can be
//!   pending; `.try_send()` returns an error if there is no capacity;
//! - submitted with `.submit().await`, which waits for capacity but not for the reply.
//!
//! Dropping a future at any await point is harmless: the reply is discarded, and the next request
//! gets its own.
//!
//! # Channels
//! Channels are managed by the library. A request borrows a channel from a pool. Publishes use one
//! confirm channel per exchange, so messages to one exchange keep their order, and a missing
//! exchange fails only the publishes to it. Publishes [without confirms](BasicPublish::confirm) use
//! another channel per exchange. A consumer has its own channel. When the broker closes a channel,
//! the request that caused it gets the error, and a new channel replaces the closed one. Other
//! publishes in flight to the same exchange fail, too, because their outcome is unknown.
//!
//! # Limits
//! [`Options`] bound everything: outgoing bytes, requests, unconfirmed publishes, buffered
//! deliveries, sizes of frames and messages, and channels. Every request has a deadline.

// `Instant + Duration` panics on overflow. `clippy.toml` exempts integers; `machine::later` adds to
// instants.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]
#![forbid(unsafe_code)]

mod client;
mod driver;
mod error;
#[cfg(feature = "evented")]
pub mod evented;
mod fairness;
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
    BasicCancel, BasicConsume, BasicConsumeMulti, BasicGet, BasicPublish, BasicQos,
    BeginTransaction, Client, ConsumeQueue, Consumer, DeadLetterKey, DeadLetterStrategy,
    DelayedRetry, Delivery, ExchangeBind, ExchangeDeclare, ExchangeDelete, ExchangeUnbind,
    HeadersMatch, LeaderLocator, Notices, Overflow, Promise, QueueBind, QueueDeclare, QueueDelete,
    QueuePurge, QueueType, QueueUnbind, RequestFuture, Rpc, StreamOffset, Transaction,
};
pub use driver::{Clock, Dial, DialDriver, Driver, Transport, dial};
pub use error::{
    Broken, Error, FailedAttempt, FailedAttempts, Fault, Peer, ReadingPaused, TlsCause, TlsFault,
};
pub use machine::{
    Body, ConnectionState, Counters, Ended, Notice, Queue, Recovered, ServerProperties,
};
pub use message::{Message, Returned};
pub use options::{
    Credentials, Entity, OnDrop, Options, RecoverTopology, Recovery, Resubscribe, SaslMechanism,
    TlsOptions, TlsSource,
};
pub use uri::{AuthMechanism, Endpoint, Uri, UriError, UriPart};

use futures_io::{AsyncRead, AsyncWrite};

/// Opens a connection over any byte stream. Returns the client and the driver, a future that any
/// executor can poll.
///
/// The handshake begins with the driver's first poll; [`Client::connect`] waits for it. The
/// endpoints, the TLS options and the timeouts for resolving, dialling and TLS are not used: they
/// apply only when dialling. Set [`Options::encrypted_transport`] if the stream is encrypted.
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

/// Opens a connection that the driver dials, and dials again after a [loss](recovery). The
/// adapters' `connect` functions call it.
///
/// Dialling begins with the driver's first poll; [`Client::connect`] waits for it and for the
/// handshake.
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
///     client.queue_declare("orders").durable(true).await?;
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
    (
        Client::new(link.clone()),
        DialDriver::new(dialer, clock, options, link),
    )
}

/// Compiles the README's examples as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
